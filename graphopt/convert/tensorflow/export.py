"""From a flat TensorFlow function to ONNX through tf2onnx, and the comparison with it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.convert.contract import Conversion, Dim, Options
from graphopt.convert.finishing import finish
from graphopt.convert.inner_precision import inner_tolerances
from graphopt.convert.layout import to_channels_first
from graphopt.convert.onnx.opset import to_opset
from graphopt.convert.tensorflow.examples import given_examples, made_up_examples, with_negatives
from graphopt.convert.tensorflow.handlers import handlers
from graphopt.convert.tensorflow.interface import Interface, name_interface, name_output_dims
from graphopt.convert.tensorflow.network import (
    Input,
    Network,
    Sizes,
    reason,
    sizes_of,
    unique_names,
)
from graphopt.convert.unsupported import missing_kernels
from graphopt.errors import GraphoptError
from graphopt.model import scopes
from graphopt.runtime.feeds import Array, Batch

BATCH = "batch"
NEWEST_OPSET = 18
"""The newest that tf2onnx writes, and what is asked of it by default."""

IN_FLOAT = "let the model compute in float32"
_PREFIX = "graphopt_input_"
_Dims = tuple[Dim, ...]


def convert_network(network: Network, options: Options, notes: Sequence[str] = ()) -> Conversion:
    """Trace, freeze, export, and compare.

    Args:
        network: What to convert.
        options: What was asked for.
        notes: What the user should know already.

    Raises:
        GraphoptError: It cannot be traced or exported.
        CheckFailed: ONNX Runtime computes something else than TensorFlow.
    """
    unique_names([item.name for item in network.inputs], "input", network.source)
    source, inputs = network.source, network.inputs
    given = given_examples(network, options)
    if options.static and given is not None:
        dims: list[_Dims] = [tuple(array.shape) for array in given]
    else:
        dims = dims_of_inputs(inputs, options, given, source)
    model, outputs = _model(network, dims, options)
    examples = made_up_examples(model, source) if given is None else given
    if options.static and any(isinstance(dim, str) for shape in dims for dim in shape):
        dims = [tuple(array.shape) for array in examples]
        model, outputs = _model(network, dims, options)
    reference = _reference(network)
    if given is None:
        examples = with_negatives(model, examples, reference)
    name_output_dims(model, outputs, examples, reference)
    if options.layout == "nchw":
        examples, reference = to_channels_first(model, examples, reference)
    said = [*notes, *([] if options.static else fixed_notes(inputs, dims, options))]
    allowed = inner_tolerances(model, examples, reference, options)
    with missing_kernels(model, source, IN_FLOAT):
        return finish(model, examples, reference, options, allowed=allowed, notes=said)


def dims_of_inputs(
    inputs: Sequence[Input], options: Options, given: Sequence[Array] | None, source: str
) -> list[_Dims]:
    """Name the dimensions of inputs that may vary: as asked, `batch`, or by input and axis.

    Args:
        inputs: What goes in.
        options: `dynamic_shapes` is asked for.
        given: Example inputs, where there are any.
        source: What messages call it.

    Raises:
        GraphoptError: What is asked for cannot be.
    """
    names = [item.name for item in inputs]
    if unknown := options.dynamic_shapes.keys() - set(names):
        raise GraphoptError(
            f"has no input {', '.join(sorted(unknown))}; its inputs are {', '.join(names)}",
            file=source,
        )
    known: list[tuple[int, ...] | None] = [None] * len(names)
    if given is not None:
        known = [tuple(array.shape) for array in given]
    return [
        _dims_of(item, options.dynamic_shapes.get(item.name), shape, source)
        for item, shape in zip(inputs, known, strict=True)
    ]


def _dims_of(
    item: Input,
    asked: Sequence[Dim] | None,
    example: tuple[int, ...] | None,
    source: str,
) -> _Dims:
    shape = item.shape if item.shape is not None else example
    free = item.free or item.shape is None
    if shape is None and asked is not None:
        return tuple(asked)
    if shape is None:
        raise GraphoptError(
            f"does not say how many dimensions the input {item.name} has",
            file=source,
            fix=f"give them with --dynamic-shapes '{item.name}[batch, ...]', or --data NPZ",
        )
    if asked is not None and len(asked) != len(shape):
        raise GraphoptError(
            f"{item.name} has {len(shape)} dimensions, not {len(asked)}", file=source
        )
    dims: list[Dim] = []
    for axis, size in enumerate(shape):
        wanted = None if asked is None else asked[axis]
        may_vary = size is None or free
        if wanted is not None and not may_vary and wanted != size:
            raise GraphoptError(
                f"axis {axis} of {item.name} is {size} in the source and cannot be {wanted}",
                file=source,
            )
        if wanted is not None:
            dims.append(wanted)
        elif size is None or (free and axis == 0):
            dims.append(BATCH if axis == 0 else f"{item.name}_dim_{axis}")
        else:
            dims.append(size)
    return tuple(dims)


def fixed_notes(inputs: Sequence[Input], dims: Sequence[_Dims], options: Options) -> list[str]:
    """Say where no input has a dynamic batch, although none was asked to be fixed."""
    if any(shape and shape[0] == BATCH for shape in dims):
        return []
    return [
        f"axis 0 of {item.name} stays {shape[0]}: the source fixes it"
        for item, shape in zip(inputs, dims, strict=True)
        if shape and isinstance(shape[0], int) and item.name not in options.dynamic_shapes
    ]


def _model(
    network: Network, dims: Sequence[_Dims], options: Options
) -> tuple[ir.Model, list[Sizes | None]]:
    """Export, and name inputs, outputs and dimensions; also return TensorFlow's output shapes."""
    traced = _traced(network, dims)
    found = network.outputs or tuple(f"output_{i}" for i in range(len(traced.outputs)))
    if len(found) != len(traced.outputs):
        raise GraphoptError(
            f"returns {len(traced.outputs)} tensors, and has {len(found)} names for them",
            file=network.source,
        )
    model = _exported(network, traced, options.opset)
    names = [item.name for item in network.inputs]
    dtypes = [ir.DataType.from_numpy(numpy_dtype(item)) for item in network.inputs]
    held = [f"{_PREFIX}{position}:0" for position in range(len(names))]
    outputs = unique_names(found, "output", network.source)
    name_interface(model, Interface(held, names, dtypes, dims, outputs))
    return model, [sizes_of(tensor.shape) for tensor in traced.outputs]


def numpy_dtype(item: Input) -> Any:
    """Return the dtype of an input's arrays; text is objects."""
    return np.dtype(object if item.dtype.name == "string" else item.dtype.as_numpy_dtype)


def _traced(network: Network, dims: Sequence[_Dims]) -> Any:
    """Trace the function for shapes; what it returns must be tensors."""
    import tensorflow as tf

    specs = [
        tf.TensorSpec(
            [size if isinstance(size, int) else None for size in shape],
            item.dtype,
            name=f"{_PREFIX}{position}",
        )
        for position, (item, shape) in enumerate(zip(network.inputs, dims, strict=True))
    ]

    def flat(*tensors: Any) -> Any:
        return [tf.identity(tensor) for tensor in network.call(*tensors)]

    try:
        return tf.function(flat).get_concrete_function(*specs)
    except GraphoptError:
        raise
    except Exception as error:
        # TensorFlow raises what its tracer or the network raises.
        raise GraphoptError(
            f"cannot be traced: {reason(error)}",
            file=network.source,
            fix="keep every size as in example inputs with --static and --data, or change it",
        ) from error


def _exported(network: Network, traced: Any, opset: int | None) -> ir.Model:
    import tensorflow as tf
    from tf2onnx import tf_loader
    from tf2onnx.optimizer import optimize_graph
    from tf2onnx.tfonnx import process_tf_graph

    inputs = [f"{_PREFIX}{position}:0" for position in range(len(network.inputs))]
    outputs = [tensor.name for tensor in traced.outputs]
    version = min(opset or NEWEST_OPSET, NEWEST_OPSET)
    with failures() as failed, numbered_afresh():
        try:
            with tf.device("/cpu:0"):
                frozen, tables = tf_loader.from_trackable(
                    network.owner, traced, inputs, outputs, False
                )
                with tf.Graph().as_default() as graph:
                    tf.import_graph_def(frozen, name="")
                    converted = process_tf_graph(
                        graph,
                        opset=version,
                        input_names=inputs,
                        output_names=outputs,
                        initialized_tables=tables,
                        custom_op_handlers=handlers(version, tables),
                    )
                    proto = optimize_graph(converted).make_model("graphopt")
        except GraphoptError as error:
            # What is written here of an operator names it and says what to do.
            raise GraphoptError(error.cause, file=network.source, fix=error.fix) from error
        except Exception as error:
            # tf2onnx and TensorFlow raise whatever their steps raise.
            where = f" at {failed[0]}" if failed else ""
            raise GraphoptError(
                f"tf2onnx fails{where}: {reason(error)}", file=network.source, fix=network.advice
            ) from error
    return finished_export(proto, opset, network.source)


def finished_export(proto: onnx.ModelProto, opset: int | None, source: str) -> ir.Model:
    """Take what tf2onnx wrote: every operator is ONNX's, in the opset that was asked for.

    Raises:
        GraphoptError: An operator has no counterpart, or the opset is not to be had.
    """
    model = ir.from_proto(proto)
    model.graph.name = "graph"
    model.graph.doc_string = None
    _refuse_unknown_operators(model, source)
    if opset is not None and opset > NEWEST_OPSET:
        to_opset(model, opset, source)
    return model


def _refuse_unknown_operators(model: ir.Model, source: str) -> None:
    missing: dict[str, str] = {}
    for scope in scopes(model):
        for node in scope.graph:
            if node.domain in {"", "ai.onnx"} and not onnx.defs.has(node.op_type):
                missing.setdefault(node.op_type, node.name or "?")
            elif node.domain not in {"", "ai.onnx", "ai.onnx.ml"}:
                missing.setdefault(f"{node.domain}.{node.op_type}", node.name or "?")
    if missing:
        listed = ", ".join(f"{kind} (at {name})" for kind, name in sorted(missing.items()))
        raise GraphoptError(
            f"tf2onnx has no ONNX operators for {listed}",
            file=source,
            fix="take that part out of the model, or write it with other operators",
        )


@contextlib.contextmanager
def failures() -> Iterator[list[str]]:
    """Collect the nodes that tf2onnx logs as failing, which its exceptions do not name."""
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if isinstance(record.args, tuple) and record.args and "node" in str(record.msg):
                found.append(str(record.args[0]))

    collector = Collector(logging.ERROR)
    logger, tensorflow = logging.getLogger("tf2onnx"), logging.getLogger("tensorflow")
    before = logging.root.manager.disable, logger.propagate, tensorflow.disabled
    logger.addHandler(collector)
    logger.propagate, tensorflow.disabled = False, True
    logging.disable(logging.WARNING)
    try:
        yield found
    finally:
        logger.removeHandler(collector)
        disabled, logger.propagate, tensorflow.disabled = before
        logging.disable(disabled)


@contextlib.contextmanager
def numbered_afresh() -> Iterator[None]:
    """Let tf2onnx number the names that it makes up from 1, as in a new process."""
    from tf2onnx import utils

    before = utils.INTERNAL_NAME
    utils.INTERNAL_NAME = 1
    try:
        yield
    finally:
        utils.INTERNAL_NAME = before


def _reference(network: Network) -> Any:
    import tensorflow as tf

    def run(batch: Batch) -> list[Any]:
        try:
            tensors = [
                tf.constant(array, dtype=item.dtype)
                for item, array in zip(network.inputs, batch.values(), strict=True)
            ]
            outputs = [tensor.numpy() for tensor in network.call(*tensors)]
        except Exception as error:
            # What the network raises is its own.
            raise GraphoptError(reason(error), file=network.source) from error
        return [_as_onnx(np.asarray(output)) for output in outputs]

    return run


def _as_onnx(array: Any) -> Any:
    """Decode TensorFlow's strings, which are bytes."""
    if array.dtype.kind not in "OS":
        return array
    decoded = [item.decode("utf-8") if isinstance(item, bytes) else item for item in array.flat]
    return np.array(decoded, dtype=object).reshape(array.shape)
