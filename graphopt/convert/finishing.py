"""What every conversion ends with: names, the cleanup pipeline, and the proof."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from graphopt.convert.contract import Conversion, Options
from graphopt.convert.interface import avoid_clashes, rename_values
from graphopt.convert.parity import Reference, check_parity
from graphopt.convert.provenance import remove_source_paths
from graphopt.errors import CheckFailed, GraphoptError
from graphopt.runtime.difference import Tolerance
from graphopt.runtime.feeds import Array
from graphopt.runtime.session import Session


def require(modules: Sequence[str], extra: str, title: str) -> None:
    """See that a framework is installed, without importing it.

    Args:
        modules: What is imported of it.
        extra: The extra of graphopt that brings it.
        title: What a message calls it.

    Raises:
        GraphoptError: It is not; the text names the pip command.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise GraphoptError(
                f"{title} is not installed", fix=f'install it with pip install "graphopt[{extra}]"'
            )


def finish(
    model: ir.Model,
    examples: Sequence[Array],
    reference: Reference,
    options: Options,
    *,
    ranges: Mapping[str, tuple[int, int]] | None = None,
    allowed: Mapping[str, Tolerance] | None = None,
    notes: Sequence[str] = (),
) -> Conversion:
    """Name inputs and outputs, clean the graph up, and compare it with the source.

    Args:
        model: As it was exported. It is edited.
        examples: One array per input, in the order of the model's inputs.
        reference: The source framework; its inputs go by the names that the model ends with.
        options: What was asked for.
        ranges: The sizes that dynamic dimensions may take, by name.
        allowed: What single outputs may differ by, in the names that they come with, where the
            user does not say what all of them may.
        notes: What the user should know.

    Raises:
        CheckFailed: ONNX Runtime computes something else than the source.
        GraphoptError: The names clash, the source does not run, or ONNX Runtime takes not even
            what was exported.
    """
    came_with = [value.name or "" for value in model.graph.outputs]
    rename_values(model.graph.inputs, options.input_names, "input")
    rename_values(model.graph.outputs, options.output_names, "output")
    avoid_clashes(model)
    if not options.keep_source_paths:
        remove_source_paths(model)
    exported = model
    names = [value.name or "" for value in model.graph.inputs]
    try:
        if options.cleanup is not False:
            model = cleaned(model, keep_notes=options.keep_source_paths)
        parity, refused = check_parity(
            model,
            dict(zip(names, examples, strict=True)),
            reference,
            ranges=ranges or {},
            tolerances=_tolerances(model, came_with, options, allowed or {}),
        )
    except GraphoptError:
        _check_loads(exported)
        raise
    return Conversion(model, parity, (*notes, *refused))


def _check_loads(exported: ir.Model) -> None:
    """See that what failed is not the exporter's fault, which wrote what is no model."""
    try:
        Session(exported, title="the model as its exporter wrote it")
    except CheckFailed as error:
        raise GraphoptError(
            error.cause,
            fix="write that part of the source in another way, or tell the exporter's maintainers",
        ) from error


def _tolerances(
    model: ir.Model, came_with: Sequence[str], options: Options, allowed: Mapping[str, Tolerance]
) -> dict[str, Tolerance]:
    """Say what outputs may differ by, in the names that they ended with."""
    if options.tolerance is not None:
        return {"*": options.tolerance}
    return {
        value.name or "": allowed[before]
        for before, value in zip(came_with, model.graph.outputs, strict=True)
        if before in allowed
    }


def cleaned(model: ir.Model, *, keep_notes: bool) -> ir.Model:
    """Run the pipeline `cleanup`; what exporters note in metadata may be kept."""
    from graphopt.pipeline.manager import run
    from graphopt.pipeline.syntax import parse

    pipeline = "cleanup(exporter_notes=False)" if keep_notes else "cleanup"
    return run(model, parse(pipeline)).model
