"""What PyTorch computes of a model, compared with what ONNX Runtime does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import torch

from graphopt.training import OnnxModule

Array = npt.NDArray[Any]


def model_of(graph: str, opset: int = 21, extra: str = "") -> ir.Model:
    """Read a graph of ONNX's text; `extra` imports more domains: `, "ai.onnx.ml": 3`."""
    return ir.from_onnx_text(f'<ir_version: 10, opset_import: ["": {opset}{extra}]>\n{graph}')


def expected(model: ir.Model, *arrays: Array) -> list[Any]:
    """Return the outputs that ONNX Runtime computes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_inputs()]
    outputs: list[Any] = session.run(None, dict(zip(names, arrays, strict=True)))
    return outputs


def computed(model: ir.Model, *arrays: Array) -> list[Any]:
    """Return the outputs that PyTorch computes."""
    with torch.no_grad():
        outputs = OnnxModule(model).eval()(*[torch.from_numpy(each.copy()) for each in arrays])
    listed = outputs if isinstance(outputs, tuple) else (outputs,)
    return [_array(each) for each in listed]


def _array(value: Any) -> Any:
    return [_array(each) for each in value] if isinstance(value, list) else value.detach().numpy()


def compare(model: ir.Model, *arrays: Array, rtol: float = 0, atol: float = 0) -> None:
    """Compare all outputs, with the inputs fed and with all but the first one as constants."""
    wanted = expected(model, *arrays)
    same(computed(model, *arrays), wanted, rtol, atol)
    if len(arrays) > 1:
        same(computed(held(model, arrays), arrays[0]), wanted, rtol, atol)


def held(model: ir.Model, arrays: Sequence[Array]) -> ir.Model:
    """Turn all inputs but the first one into initializers."""
    proto = ir.to_proto(model)
    names = [each.name for each in proto.graph.input]
    del proto.graph.input[1:]
    for name, array in zip(names[1:], arrays[1:], strict=True):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


def same(found: Sequence[Any], wanted: Sequence[Any], rtol: float, atol: float) -> None:
    """Compare outputs, of which some may be lists."""
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        if isinstance(other, list):
            same(one, other, rtol, atol)
            continue
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)
