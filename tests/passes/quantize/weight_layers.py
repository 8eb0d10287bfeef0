"""Layers of one weight each, whatever way they read it."""

from __future__ import annotations

import onnx_ir as ir
from integer_models import (
    Array,
    declared,
    normal,
    with_weights,
)

LAYERS = {
    "MatMul": ((48, 20), "float[N, 48] x", "y = MatMul(x, w)", 0, 1),
    "Gemm": ((48, 20), "float[N, 48] x", "y = Gemm(x, w)", 0, 1),
    "Gemm transB": ((20, 48), "float[N, 48] x", "y = Gemm<transB = 1>(x, w)", 1, 0),
    "Transpose": ((20, 48), "float[N, 48] x", "t = Transpose(w) y = MatMul(x, t)", 1, 0),
    "Conv": ((20, 40, 3, 3), "float[N, 40, 5, 5] x", "y = Conv(x, w)", 1, 0),
    "Conv1d": ((20, 40, 3), "float[N, 40, 5] x", "y = Conv(x, w)", 1, 0),
    "depthwise": ((40, 1, 3, 3), "float[N, 40, 5, 5] x", "y = Conv<group = 40>(x, w)", 1, 0),
    "ConvTranspose": ((40, 20, 3, 3), "float[N, 40, 5, 5] x", "y = ConvTranspose(x, w)", 0, 1),
}
"""Shape of the weight, input, nodes, axis of input channels, axis of output channels."""


def layer(name: str) -> tuple[ir.Model, Array, Array]:
    shape, data, nodes, _, _ = LAYERS[name]
    weight = normal(*shape)
    text = f"g ({data}) => (y) <{declared('w', weight)}> {{ {nodes} }}"
    model = with_weights(text, w=weight)
    sizes = [
        2 if isinstance(size, ir.SymbolicDim) else size for size in model.graph.inputs[0].shape
    ]
    return model, weight, normal(*sizes, seed=1)


def with_nearest(model: ir.Model, near: Array) -> ir.Model:
    twin = model.clone()
    twin.graph.initializers["w"].const_value = ir.Tensor(near, name="w")
    return twin


def optimized_operators(model: ir.Model) -> list[str]:
    import tempfile

    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/optimized.onnx"
        content = ir.to_proto(model).SerializeToString()
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
