"""CPU seconds until --help answers, beside the command lines of peers.

Usage: python benchmarks/startup.py [--rounds 9]
"""

from __future__ import annotations

import json
import resource
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "graphopt --help": [sys.executable, "-m", "graphopt", "--help"],
    "onnxslim --help": ["onnxslim", "--help"],
    "onnxsim --help": ["onnxsim", "--help"],
}


def cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@click.command()
@click.option("--rounds", default=9, show_default=True)
def main(rounds: int) -> None:
    present = {name: line for name, line in COMMANDS.items() if shutil.which(line[0])}
    seconds: dict[str, list[float]] = {name: [] for name in present}
    for _ in range(rounds + 1):
        for name, line in present.items():
            seconds[name].append(cpu_seconds(line))
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    table = Table("command", "CPU s, median", "min", "max", "ratio to graphopt")
    for name, values in seconds.items():
        numbers = (medians[name], min(values[1:]), max(values[1:]))
        ratio = medians[name] / medians["graphopt --help"]
        table.add_row(name, *(f"{number:.3f}" for number in numbers), f"{ratio:.2f}")
    Console().print(table)
    results = Path(__file__).parent / "results" / "startup.json"
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps({"rounds": rounds, "cpu_seconds": medians}, indent=2) + "\n")


if __name__ == "__main__":
    main()
