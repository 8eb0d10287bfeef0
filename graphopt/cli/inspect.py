"""`graphopt inspect`: what a model holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli.limit_options import limit_options
from graphopt.cli.written_files import check_written_files
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    import onnx_ir as ir
    from rich.console import Console

    from graphopt.model.facts import Facts, Port


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
@limit_options
def command(
    model: Path,
    dims: tuple[str, ...],
    json_target: str | None,
    **limits: Any,
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

    check_written_files({"--json": json_target}, [model])
    loaded = load(model, Limits(**limits))
    # A model from stdin is on no disk.
    files = [] if str(model) == "-" else [model, *data_files(loaded, model)]
    sizes = {str(file): file.stat().st_size for file in files}
    facts = measure(loaded, dims=_dims(dims, loaded, model))
    if json_target is not None:
        write_json(
            {"files": sizes, "size_on_disk": sum(sizes.values()), **facts.as_json()}, json_target
        )
    if json_target != "-":
        _print(console(), str(model), sizes, facts)


def _dims(texts: tuple[str, ...], model: ir.Model, path: Path) -> dict[str, int]:
    known = _dynamic_sizes(model)
    dims: dict[str, int] = {}
    for text in texts:
        name, equals, size = text.rpartition("=")
        if not (name and equals and size.isascii() and size.isdigit()):
            raise GraphoptError(
                f"--dim {text!r} is no size", fix="write --dim NAME=SIZE, as in T=128"
            )
        if name not in known:
            raise GraphoptError(
                f"there is no dynamic size {name!r}",
                file=path,
                fix=f"there is {', '.join(known)}" if known else "leave --dim out",
            )
        dims[name] = int(size)
    return dims


def _dynamic_sizes(model: ir.Model) -> list[str]:
    """Return the names of the sizes that a model leaves open: symbols, and `input[axis]`."""
    names: dict[str, None] = {}
    for value in model.graph.inputs:
        for axis, size in enumerate(value.shape or ()):
            if not isinstance(size, int):
                symbols = [size.value] if size.value else []
                names.update(dict.fromkeys([*symbols, f"{value.name}[{axis}]"]))
    for node in model.graph.all_nodes():
        for value in node.outputs:
            open_sizes = [size for size in value.shape or () if not isinstance(size, int)]
            names.update(dict.fromkeys(size.value for size in open_sizes if size.value))
    return list(names)


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
    from graphopt.model.declared_shapes import shape_text

    if port.shape is None:
        return "any"
    return shape_text(port.shape)
