"""`graphopt inspect`: what a model holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    from rich.console import Console

    from graphopt.model.facts import Facts, Port

_GIB = 1 << 30


@click.command("inspect")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--dim",
    "dims",
    multiple=True,
    metavar="NAME=SIZE",
    help="Size of a dynamic dimension, for counting multiply-accumulates: by its symbol, or as "
    "INPUT[AXIS]=SIZE. A first dimension that is dynamic counts as 1.",
)
@click.option("--json", "json_target", metavar="FILE", help="Write the facts as JSON; - is stdout.")
@click.option(
    "--max-bytes",
    type=click.IntRange(min=1),
    default=16 * _GIB,
    show_default="16 GiB",
    help="The most bytes that one tensor may occupy.",
)
@click.option(
    "--max-depth",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="How deep subgraphs may nest.",
)
@click.option(
    "--follow-symlinks",
    is_flag=True,
    help="Allow external data behind links that leave the folder, as in model caches.",
)
def command(
    model: Path,
    dims: tuple[str, ...],
    json_target: str | None,
    max_bytes: int,
    max_depth: int,
    follow_symlinks: bool,
) -> None:
    """Show what MODEL holds.

    Size on disk, parameters, multiply-accumulates, sparsity, the share of quantized compute,
    opsets, operators, inputs and outputs, subgraphs and functions, and the largest weights.
    """
    from graphopt.model import Limits, load
    from graphopt.model.facts import measure
    from graphopt.pipeline.recipe import data_files
    from graphopt.report.json_file import write_json
    from graphopt.report.tables import console

    loaded = load(model, Limits(max_bytes, max_depth, follow_symlinks))
    # A model from stdin is on no disk.
    files = [] if str(model) == "-" else [model, *data_files(loaded, model)]
    sizes = {str(file): file.stat().st_size for file in files}
    facts = measure(loaded, dims=_dims(dims))
    if json_target is not None:
        write_json(
            {"files": sizes, "size_on_disk": sum(sizes.values()), **facts.as_json()}, json_target
        )
    if json_target != "-":
        _print(console(), str(model), sizes, facts)


def _dims(texts: tuple[str, ...]) -> dict[str, int]:
    dims: dict[str, int] = {}
    for text in texts:
        name, equals, size = text.rpartition("=")
        if not (name and equals and size.isascii() and size.isdigit()):
            raise GraphoptError(
                f"--dim {text!r} is no size", fix="write --dim NAME=SIZE, as in T=128"
            )
        dims[name] = int(size)
    return dims


def _print(out: Console, name: str, sizes: dict[str, int], facts: Facts) -> None:
    from graphopt.report.numbers import count, share, size
    from graphopt.report.tables import plain, table

    out.print(table(plain(name), ("fact", "value"), _summary(sizes, facts)))
    ports = [
        (kind, port.name, port.type, _shape(port))
        for kind, group in (("input", facts.inputs), ("output", facts.outputs))
        for port in group
    ]
    out.print(table("Interface", ("", "name", "type", "shape"), ports))
    ops = [(name, count(number)) for name, number in facts.ops.items()]
    out.print(table("Operators", ("operator", "nodes"), ops, right=(1,)))
    if facts.largest:
        weights = [
            (w.name, w.dtype, " x ".join(map(str, w.shape)), size(w.size), share(w.sparsity))
            for w in facts.largest
        ]
        headings = ("weight", "type", "shape", "size", "zeros")
        out.print(table("Largest weights", headings, weights, right=(3, 4)))
    for warning in facts.warnings:
        out.print(f"warning: {plain(warning, 400)}", style="yellow")


def _summary(sizes: dict[str, int], facts: Facts) -> list[tuple[str, str]]:
    from graphopt.report.numbers import count, share, size

    files = f" in {len(sizes)} files" if len(sizes) > 1 else ""
    rows = [
        ("size on disk", size(sum(sizes.values())) + files),
        ("parameters", f"{count(facts.parameters)} ({size(facts.size)})"),
        ("multiply-accumulates", _macs(facts)),
        ("sparsity of weights", share(facts.sparsity)),
        ("quantized compute", share(facts.quantized)),
        ("nodes", f"{count(facts.nodes)} and {count(facts.constants)} Constants"),
        ("subgraphs", count(facts.subgraphs)),
        ("functions", ", ".join(facts.functions) or "none"),
        ("opsets", ", ".join(f"{name} {version}" for name, version in facts.opsets.items())),
        ("IR version", str(facts.ir_version)),
        ("producer", facts.producer or "unknown"),
    ]
    return rows + [(name, text) for name, text in facts.recipe.items()]


def _macs(facts: Facts) -> str:
    from graphopt.report.numbers import short_count

    if facts.macs is not None:
        return short_count(facts.macs)
    reason = facts.macs_unknown[0] if facts.macs_unknown else "not counted"
    known = f"{short_count(facts.macs_known)} and an unknown part: " if facts.macs_known else ""
    return f"{known or 'unknown: '}{reason}"


def _shape(port: Port) -> str:
    if port.shape is None:
        return "any"
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in port.shape) + "]"
