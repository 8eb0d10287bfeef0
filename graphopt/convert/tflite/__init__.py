"""From TFLite: float and quantized flatbuffers, through tf2onnx."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from graphopt.convert.contract import Conversion, Dim, Options
from graphopt.convert.finishing import finish, require
from graphopt.convert.inner_precision import inner_tolerances
from graphopt.convert.layout import to_channels_first
from graphopt.convert.parity import Reference
from graphopt.convert.tensorflow.quiet import quiet
from graphopt.errors import GraphoptError
from graphopt.runtime.difference import Tolerance
from graphopt.runtime.feeds import Array

_IDENTIFIER = b"TFL3"


def recognises(path: Path) -> bool:
    """Whether a file is a TFLite flatbuffer; nothing is imported for it.

    Raises:
        GraphoptError: It cannot be read.
    """
    if path.is_dir():
        return False
    try:
        with path.open("rb") as file:
            return file.read(8)[4:] == _IDENTIFIER
    except OSError as error:
        raise GraphoptError(f"cannot be read: {error.strerror or error}", file=path) from error


def convert(source: str, options: Options) -> Conversion:
    """Convert a `.tflite` file; what it quantizes stays so, as QDQ.

    Args:
        source: The file.
        options: What to ask for. `signature` is one of the file's signatures.

    Raises:
        GraphoptError: It cannot be read or exported.
        CheckFailed: ONNX Runtime computes something else than TFLite's interpreter on the example
            inputs; quantized outputs may be one step apart.
    """
    require(["tensorflow", "tf2onnx"], "tensorflow", "TensorFlow with tf2onnx")
    path = Path(source)
    if not path.exists() or not recognises(path):
        raise GraphoptError("is no TFLite file" if path.exists() else "no such file", file=source)
    with quiet():
        return _converted(path, options)


def _converted(path: Path, options: Options) -> Conversion:
    from graphopt.convert.tensorflow.examples import (
        made_up_examples,
        read_examples,
        with_negatives,
    )
    from graphopt.convert.tensorflow.export import dims_of_inputs, fixed_notes, numpy_dtype
    from graphopt.convert.tensorflow.interface import Interface, name_interface, name_output_dims
    from graphopt.convert.tflite.export import exported
    from graphopt.convert.tflite.hybrid import explicit_floats, round_as_hybrid_kernels
    from graphopt.convert.tflite.interpreter import Interpreter
    from graphopt.convert.tflite.screen import screen

    screen(path)
    interpreter = Interpreter(path, options.signature)
    inputs = interpreter.inputs
    given = None if options.data is None else read_examples(options.data, inputs)
    dims: list[tuple[Dim, ...]] = dims_of_inputs(inputs, options, given, str(path))
    model = exported(path, options.opset)
    hybrid = round_as_hybrid_kernels(model, explicit_floats(path))
    dtypes = [ir.DataType.from_numpy(numpy_dtype(item)) for item in inputs]
    names = [item.name for item in inputs]
    name_interface(
        model, Interface(interpreter.held, names, dtypes, dims, interpreter.output_names)
    )
    examples = made_up_examples(model, str(path)) if given is None else given
    if options.static:
        dims = [tuple(array.shape) for array in examples]
        for value, shape in zip(model.graph.inputs, dims, strict=True):
            value.shape = ir.Shape(shape)
    reference: Reference = interpreter.run
    if given is None:
        examples = with_negatives(model, examples, reference)
    name_output_dims(model, interpreter.output_shapes, examples, reference)
    reordered: Reference = Interpreter(path, options.signature, plain=True).run
    inner = inner_tolerances(model, examples, reference, options, reordered=reordered)
    allowed, notes = _allowed(model, options, reference, examples, hybrid=hybrid)
    if not options.static:
        notes += fixed_notes(inputs, dims, options)
    if options.layout == "nchw":
        examples, reference = to_channels_first(model, examples, reference)
    return finish(model, examples, reference, options, allowed=inner | allowed, notes=notes)


def _allowed(
    model: ir.Model,
    options: Options,
    reference: Reference,
    examples: Sequence[Array],
    *,
    hybrid: bool,
) -> tuple[dict[str, Tolerance], list[str]]:
    """Allow each quantized output one step of its own, unless the user said what to allow.

    Where activations are rounded as the model runs, what roundings move other outputs by is
    measured; elsewhere, they may differ by what float reassociation explains.
    """
    from graphopt.convert.tflite.steps import roundings, step

    if options.tolerance is not None:
        return {}, []
    steps = {value.name or "": step(value) for value in model.graph.outputs}
    allowed = {name: Tolerance(atol=size) for name, size in steps.items() if size is not None}
    notes = [
        f"output {name} is quantized: compared within one step, {tolerance.atol:.3g}"
        for name, tolerance in allowed.items()
    ]
    if hybrid:
        names = [value.name or "" for value in model.graph.inputs]
        sizes = roundings(model, dict(zip(names, examples, strict=True)), reference)
        measured = {
            name: Tolerance(atol=size)
            for name, size in zip(steps, sizes, strict=True)
            if name not in allowed
        }
        notes += [
            "weights are int8, and activations are rounded to 8 bits as the model runs: output"
            f" {name} is compared within {tolerance.atol:.3g}, which roundings were seen to move it"
            for name, tolerance in measured.items()
        ]
        allowed |= measured
    return allowed, notes
