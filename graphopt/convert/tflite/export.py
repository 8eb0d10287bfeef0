"""The export of a TFLite file through tf2onnx."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx_ir as ir

from graphopt.convert.tensorflow.export import (
    NEWEST_OPSET,
    failures,
    finished_export,
    numbered_afresh,
)
from graphopt.convert.tensorflow.handlers import handlers
from graphopt.convert.tensorflow.network import reason
from graphopt.errors import GraphoptError

_OPSET_OF_WIDE_STEPS = 21
"""From here on QuantizeLinear takes 16 bits."""


def exported(path: Path, opset: int | None) -> ir.Model:
    """Export a file as it is, quantized tensors as QuantizeLinear and DequantizeLinear.

    Raises:
        GraphoptError: An operator cannot be exported.
    """
    import tensorflow as tf
    from tf2onnx.optimizer import optimize_graph
    from tf2onnx.tfonnx import process_tf_graph

    version = min(opset or NEWEST_OPSET, NEWEST_OPSET)
    with failures() as failed, numbered_afresh():
        try:
            with tf.Graph().as_default() as graph:
                converted = process_tf_graph(
                    graph,
                    opset=version,
                    tflite_path=str(path),
                    custom_op_handlers=handlers(version),
                )
                proto = optimize_graph(converted).make_model("graphopt")
        except Exception as error:
            # tf2onnx and TensorFlow raise whatever their steps raise.
            where = f" at {failed[0]}" if failed else ""
            raise GraphoptError(f"tf2onnx fails{where}: {reason(error)}", file=path) from error
    _fold_wide_constants(proto)
    if opset is None and _has_wide_steps(proto):
        opset = _OPSET_OF_WIDE_STEPS
    return finished_export(proto, opset, str(path))


def _has_wide_steps(proto: onnx.ModelProto) -> bool:
    """Whether activations are quantized to 16 bits."""
    wide = {
        tensor.name
        for tensor in proto.graph.initializer
        if tensor.data_type in {onnx.TensorProto.INT16, onnx.TensorProto.UINT16}
    }
    return any(
        node.op_type == "QuantizeLinear" and len(node.input) > 2 and node.input[2] in wide
        for node in proto.graph.node
    )


def _fold_wide_constants(proto: onnx.ModelProto) -> None:
    """Dequantize constants of 64 bits, as biases of 16-bit models are; ONNX cannot."""
    graph = proto.graph
    constants = {item.name: item for item in graph.initializer}
    for node in list(graph.node):
        source = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if source is None or source.data_type != onnx.TensorProto.INT64:
            continue
        numbers = onnx.numpy_helper.to_array(source).astype(np.float64)
        scale, *zero = (
            onnx.numpy_helper.to_array(constants[name]).astype(np.float64)
            for name in node.input[1:]
        )
        axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
        if scale.ndim == 1 and numbers.ndim > 1:
            aligned = [-1 if at == axis % numbers.ndim else 1 for at in range(numbers.ndim)]
            scale, zero = scale.reshape(aligned), [item.reshape(aligned) for item in zero]
        floats = ((numbers - (zero[0] if zero else 0)) * scale).astype(np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(floats, node.output[0]))
        graph.node.remove(node)
