"""`python -m graphopt` is `graphopt`."""

from graphopt.cli.main import main

main()
