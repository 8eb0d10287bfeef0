"""Model files that the tests of loading write, and how they are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt.errors import GraphoptError
from graphopt.model import Limits, load

WEIGHT = np.arange(4096, dtype=np.float32)


def model_with(tensor: onnx.TensorProto, **changes: object) -> bytes:
    """A model that returns its one initializer."""
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node("Identity", ["w"], ["y"])
    graph = helper.make_graph([node], "graph", [], [output], [tensor])
    opset = helper.make_opsetid("", 18)
    return helper.make_model(
        graph, ir_version=8, opset_imports=[opset], **changes
    ).SerializeToString()


def external(
    entries: dict[str, str], dims: tuple[int, ...] = (1000,), data_type: int = TensorProto.FLOAT
) -> onnx.TensorProto:
    tensor = TensorProto(
        name="w", dims=dims, data_type=data_type, data_location=TensorProto.EXTERNAL
    )
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def at(location: str, offset: str = "0", length: str = "4000") -> dict[str, str]:
    return {"location": location, "offset": offset, "length": length}


def write(folder: Path, content: bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(content)
    return path


def refusal(path: Path, limits: Limits | None = None) -> str:
    """Load a model that must be refused; return the one line that says why."""
    with pytest.raises(GraphoptError) as caught:
        load(path, limits)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "; " in line, "an error says what to do"
    assert "\n" not in line
    assert len(line) < 400 + len(str(path))
    return line
