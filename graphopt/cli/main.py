"""The command line. Each command stands in a file of its own and is imported when it is called."""

from __future__ import annotations

import importlib
import logging
import os
import sys

import click

from graphopt.errors import GraphoptError

COMMANDS = {
    "convert": "Export a model of another framework to ONNX, and prove it.",
    "export": "Write a model in the format of another runtime, and prove it.",
    "inspect": "Show what a model holds: size, operators, sparsity, largest weights.",
    "passes": "List the passes, or show one.",
    "run": "Rewrite a model by a pipeline of passes.",
    "ensemble": "Fuse many models into one graph, by an expression over them.",
    "validate": "Compare candidates with a reference: outputs, metrics, size, latency.",
    "bench": "Measure latencies in interleaved rounds.",
    "bisect": "Find the first rewrite that breaks a check.",
    "demo": "Run the main job on models that graphopt ships.",
}


class _LazyGroup(click.Group):
    """Commands are imported on use, so that --help answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"graphopt.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="graphopt")
def cli() -> None:
    """Make trained ONNX models smaller and faster, and prove them right.

    Exit codes: 0 done, 1 a check said no, 2 bad usage or bad input.
    """


def main() -> None:
    """Run the command line; bad input is one line on stderr, never a traceback."""
    # What onnx-ir warns of in a broken model, graphopt refuses in its own words.
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    try:
        code = cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        click.echo("interrupted", err=True)
        code = 130
    except GraphoptError as error:
        click.echo(f"graphopt: {error}", err=True)
        code = error.exit_code
    except SystemExit as error:
        click.echo(f"graphopt: {_of_the_user(error)}", err=True)
        code = GraphoptError.exit_code
    except (OSError, MemoryError) as error:
        # What no command foresaw of the machine: a name too long, no memory left.
        click.echo(f"graphopt: {_of_the_machine(error)}", err=True)
        code = GraphoptError.exit_code
    sys.exit(code if isinstance(code, int) else 0)


def _of_the_user(error: SystemExit) -> GraphoptError:
    """Say what ended the program: nothing here raises SystemExit but code named by the user."""
    return GraphoptError(
        f"a function named by module:function called sys.exit({error.code!r})",
        fix="let it return, or raise an error",
    )


def _of_the_machine(error: OSError | MemoryError) -> GraphoptError:
    if isinstance(error, MemoryError):
        fix = "give it more memory, or lower --max-bytes"
        return GraphoptError(f"there is not enough memory ({error or 'none left'})", fix=fix)
    name = error.filename
    file = os.fsdecode(name) if isinstance(name, str | bytes) else None
    return GraphoptError(error.strerror or str(error), file=file, fix="check the name and the disk")
