"""Models of one operator of com.microsoft, and what ONNX Runtime makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from graphopt.training import OnnxModule

FLOAT, UINT8, INT8 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8


def one_node(
    operator: str,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, int],
    *,
    held: tuple[str, ...] = (),
    domain: str = "com.microsoft",
    **attributes: Any,
) -> onnx.ModelProto:
    """Make a model; inputs that are None are left out, and `held` ones are initializers."""
    names = [name if array is not None else "" for name, array in inputs.items()]
    node = helper.make_node(operator, names, list(outputs), domain=domain, **attributes)
    inputs = {name: None if array is None else np.asarray(array) for name, array in inputs.items()}
    fed = {name: array for name, array in inputs.items() if array is not None and name not in held}
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim
            )
            for name, array in fed.items()
        ],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(inputs[name], name) for name in held],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def check(
    operator: str,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, int] | None = None,
    *,
    held: tuple[str, ...] = (),
    rtol: float = 1e-5,
    atol: float = 2e-6,
    **attributes: Any,
) -> None:
    """Compare an operator with ONNX Runtime."""
    proto = one_node(operator, inputs, outputs or {"y": FLOAT}, held=held, **attributes)
    feeds = {
        name: np.asarray(array)
        for name, array in inputs.items()
        if array is not None and name not in held
    }
    options = onnxruntime.SessionOptions()
    # Some operators compute other things with several threads.
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    expected = session.run(None, feeds)
    module = OnnxModule(ir.from_proto(proto))
    with torch.no_grad():
        found = module(*[torch.from_numpy(array) for array in feeds.values()])
    found = found if isinstance(found, tuple) else (found,)
    for one, other in zip(found, expected, strict=True):
        assert one.numpy().dtype == other.dtype
        assert one.shape == other.shape
        np.testing.assert_allclose(
            one.numpy().astype(np.float64), other.astype(np.float64), rtol=rtol, atol=atol
        )
