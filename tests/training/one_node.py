"""Models of one node, compared with ONNX Runtime; their gradients and exports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from against_onnx_runtime import Array, compare
from onnx import helper

from graphopt.training import OnnxModule

Inputs = Sequence[Array | None]


def one_node(
    operator: str,
    arrays: Inputs,
    outputs: int = 1,
    opset: int = 22,
    dynamic: Sequence[int] = (),
    **attributes: Any,
) -> ir.Model:
    """Make a model of one node; None: an input that is left out.

    The axes in `dynamic` of the first input are symbolic.
    """
    names = [f"input{index}" if each is not None else "" for index, each in enumerate(arrays)]
    made = [f"output{index}" for index in range(outputs)]
    values = []
    for name, array in zip(names, arrays, strict=True):
        if array is not None:
            shape: list[int | str] = list(array.shape)
            for axis in dynamic if name == names[0] else ():
                shape[axis] = f"size{axis}"
            dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
            values.append(helper.make_tensor_value_info(name, dtype, shape))
    graph = helper.make_graph(
        [helper.make_node(operator, names, made, **attributes)],
        "graph",
        values,
        [onnx.ValueInfoProto(name=name) for name in made],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def check(
    operator: str,
    arrays: Inputs,
    outputs: int = 1,
    opset: int = 22,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    **attributes: Any,
) -> None:
    """Compare with ONNX Runtime."""
    model = one_node(operator, arrays, outputs, opset, **attributes)
    given = [each for each in arrays if each is not None]
    compare(model, *given, rtol=rtol, atol=atol)


def check_gradients(
    operator: str, arrays: Inputs, outputs: int = 1, opset: int = 22, **attributes: Any
) -> None:
    """Compare gradients by the inputs of floats with finite differences."""
    given = [
        each.astype(np.float64) if _real(each) else each for each in arrays if each is not None
    ]
    wide = iter(given)
    model = one_node(
        operator,
        [None if each is None else next(wide) for each in arrays],
        outputs,
        opset,
        **attributes,
    )
    module = OnnxModule(model).eval()
    tensors = [torch.from_numpy(each).requires_grad_(_real(each)) for each in given]
    assert torch.autograd.gradcheck(module, tensors)


def check_export(
    operator: str,
    arrays: Inputs,
    dynamic: Sequence[int],
    outputs: int = 1,
    opset: int = 22,
    **attributes: Any,
) -> None:
    """Export with symbolic sizes of the first input, and run with larger ones."""
    model = one_node(operator, arrays, outputs, opset, dynamic, **attributes)
    first, *rest = [each for each in arrays if each is not None]
    proto = ir.to_proto(model)
    names = [each.name for each in proto.graph.input][1:]
    del proto.graph.input[1:]
    for name, array in zip(names, rest, strict=True):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    module = OnnxModule(ir.from_proto(proto)).eval()
    sizes = {axis: torch.export.Dim(f"size{axis}", min=4) for axis in dynamic}
    program = torch.export.export(
        module, (torch.from_numpy(first),), dynamic_shapes={"inputs": (sizes,)}
    )
    shape = [size + 3 if axis in dynamic else size for axis, size in enumerate(first.shape)]
    larger = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(program.module()(larger), module(larger), rtol=1e-5, atol=1e-5)


def _real(array: Array | None) -> bool:
    return array is not None and array.dtype.kind == "f"
