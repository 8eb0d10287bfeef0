"""`graphopt export`: write a model in the format of another runtime, and prove it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphopt.cli.tolerance_options import tolerance_of, tolerance_options
from graphopt.cli.written_files import check_written_files

if TYPE_CHECKING:
    from graphopt.convert.export import Export


@click.command("export")
@click.argument("model")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The folder to write to.",
)
@click.option(
    "--to",
    "target",
    required=True,
    metavar="TARGET",
    help="torch, tensorflow, tflite or openvino.",
)
@click.option("--data", metavar="NPZ", help="Inputs to compare on [made up].")
@tolerance_options
@click.option("--json", "json_file", metavar="FILE", help="Write the results as JSON; - is stdout.")
def command(
    model: str,
    output: Path,
    target: str,
    data: str | None,
    rtol: float | None,
    atol: float | None,
    json_file: str | None,
) -> None:
    """Export an ONNX MODEL to another runtime, and compare both on the same inputs.

    Nothing is written when the other runtime computes something else than ONNX Runtime.
    """
    from graphopt.convert.export import export
    from graphopt.report.json_file import write_json

    check_written_files({"--json": json_file}, [model, data])
    done = export(model, output, target, data=data, tolerance=tolerance_of(rtol, atol))
    for note in done.notes:
        click.echo(f"graphopt: {note}", err=True)
    if json_file is not None:
        files = [str(path) for path in done.files]
        write_json({"target": target, "files": files, "parity": done.parity}, json_file)
    if json_file != "-":
        _print(done)


def _print(done: Export) -> None:
    from graphopt.cli.parity_table import parity_table
    from graphopt.report.numbers import size
    from graphopt.report.tables import console, plain

    out = console()
    for path in done.files:
        out.print(plain(f"{path}: {size(path.stat().st_size)}", 1000), soft_wrap=True)
    out.print(parity_table("Against ONNX Runtime, on the same inputs", done.parity))
