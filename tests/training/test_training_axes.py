"""Axes that a tensor does not have are refused, in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from against_onnx_runtime import Array, model_of
from one_node import one_node

from graphopt.errors import GraphoptError
from graphopt.training import OnnxModule

DATA = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
SCALE = np.ones(4, np.float32)
ZERO = np.zeros(4, np.uint8)
AXES = np.array([7], np.int64)


@pytest.mark.parametrize(
    ("operator", "arrays", "attributes"),
    [
        ("ArgMax", [DATA], {"axis": 7}),
        ("Compress", [DATA, np.array([True])], {"axis": 7}),
        ("Concat", [DATA, DATA], {"axis": 7}),
        ("CumSum", [DATA, AXES.reshape(())], {}),
        ("DFT", [DATA, None, AXES.reshape(())], {}),
        ("DequantizeLinear", [DATA.astype(np.uint8), SCALE, ZERO], {"axis": 7}),
        ("Flatten", [DATA], {"axis": 7}),
        ("Gather", [DATA, AXES], {"axis": 7}),
        ("Hardmax", [DATA], {"axis": 7}),
        ("LayerNormalization", [DATA, SCALE], {"axis": 7}),
        ("LogSoftmax", [DATA], {"axis": 7}),
        ("LpNormalization", [DATA], {"axis": 7}),
        ("MeanVarianceNormalization", [DATA], {"axes": [7]}),
        ("Pad", [DATA, np.zeros(2, np.int64), None, AXES], {}),
        ("QuantizeLinear", [DATA, SCALE, ZERO], {"axis": 7}),
        ("ReduceMax", [DATA, AXES], {}),
        ("ReduceMean", [DATA, AXES], {}),
        ("ReduceProd", [DATA, AXES], {}),
        ("Resize", [DATA, None, np.array([2.0], np.float32)], {"axes": [7]}),
        ("Softmax", [DATA], {"axis": 7}),
        ("Split", [DATA], {"axis": 7, "num_outputs": 1}),
        ("TopK", [DATA, np.array([1])], {"axis": 7, "outputs": 2}),
        ("Unique", [DATA], {"axis": 7}),
    ],
)
def test_an_axis_that_is_not_there_is_refused(
    operator: str, arrays: list[Array | None], attributes: dict[str, Any]
) -> None:
    module = OnnxModule(one_node(operator, arrays, **attributes))
    tensors = [torch.from_numpy(each) for each in arrays if each is not None]
    with pytest.raises(GraphoptError, match=f"^{operator} 'node': there is no axis 7 among 4$"):
        module(*tensors)


@pytest.mark.parametrize(
    "node",
    [
        "Concat<axis=7>(s, s)",
        "Gather<axis=7>(s, one)",
        "ReduceProd(s, seven)",
        "Slice(s, one, one, seven)",
        "Squeeze(s, seven)",
        "Split<axis=7, num_outputs=1>(s)",
    ],
)
def test_an_axis_that_numbers_do_not_have_is_refused(node: str) -> None:
    model = model_of(
        "g (float[2,3,4,5] x) => (int64 y) <int64[1] one = {1}, int64[1] seven = {7}>"
        f" {{ s = Shape(x) y = {node} }}"
    )
    operator = node.partition("(")[0].partition("<")[0]
    with pytest.raises(GraphoptError, match=f"^{operator} 'node_1': there is no axis 7 among 1$"):
        OnnxModule(model)(torch.from_numpy(DATA))
