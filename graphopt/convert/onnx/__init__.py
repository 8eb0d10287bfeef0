"""From ONNX itself: to another opset, to and from external data and text, out of an archive."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from graphopt.convert.contract import Conversion, Options
from graphopt.convert.finishing import cleaned
from graphopt.convert.interface import avoid_clashes, rename_values
from graphopt.convert.onnx.files import is_onnx, open_model
from graphopt.convert.onnx.operators import remarks
from graphopt.convert.onnx.opset import to_opset
from graphopt.convert.onnx.parity import compare_models
from graphopt.errors import GraphoptError

_MEANT = frozenset(
    {"opset", "input_names", "output_names", "data", "cleanup", "limits", "tolerance"}
)
_MEANT_FOR_ALL = frozenset({"keep_source_paths"})


def recognises(path: Path) -> bool:
    """Whether a file is an ONNX model, binary or text, or an archive with one in it."""
    return is_onnx(path)


def convert(source: str, options: Options) -> Conversion:
    """Carry a model over, into another opset where one is asked for.

    The graph stays as it is otherwise: cleanup runs only where it is asked for. Both models are
    compared on ONNX Runtime, on `options.data` or on made-up inputs.

    Args:
        source: A binary or text model, `-`, an archive with one model, or `archive.zip:model.onnx`.
        options: What to ask for.

    Raises:
        GraphoptError: It cannot be read, or an operator has no equal in the opset asked for, or
            ONNX Runtime or `onnx.checker` takes it neither before nor after.
        CheckFailed: ONNX Runtime computes something else than before, or takes it no more.
    """
    _check_options(source, options)
    before = open_model(source, options.limits)
    notes = remarks(before)
    after = before.clone()
    # First: an axis that is computed from constants cannot become an attribute.
    if options.cleanup:
        after = cleaned(after, keep_notes=options.keep_source_paths)
    if options.opset is not None:
        to_opset(after, options.opset, source)
    parity, more = compare_models(before, after, source, options)
    rename_values(after.graph.inputs, options.input_names, "input")
    rename_values(after.graph.outputs, options.output_names, "output")
    avoid_clashes(after)
    names = {
        old.name: new.name
        for old, new in zip(before.graph.outputs, after.graph.outputs, strict=True)
    }
    renamed = tuple(replace(item, output=names[item.output] or "") for item in parity)
    return Conversion(after, renamed, (*notes, *more))


def _check_options(source: str, options: Options) -> None:
    plain = Options()
    for field in fields(options):
        if field.name in _MEANT | _MEANT_FOR_ALL:
            continue
        if getattr(options, field.name) != getattr(plain, field.name):
            option = field.name.replace("_", "-")
            raise GraphoptError(
                f"--{option} says nothing of a source that is ONNX already",
                file=source,
                fix="leave it out",
            )
