"""Weights of every type, to text and to external data, and back."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from command_line import Ran

FIXTURE = Path(__file__).parents[2] / "fixtures" / "digits_mlp.onnx"

CONTENTS = {
    "float": np.array([1 / 3, 1e-40, 3.4e38, -0.0, np.nan, np.inf, -np.inf], np.float32),
    "double": np.array([1 / 3, 1e-300, np.inf, -0.0]),
    "float16": np.array([1.5, np.inf, -np.inf, 65504, 6e-8], np.float16),
    "bfloat16": np.array([1.5, 3e38], ml_dtypes.bfloat16),
    "float8": np.array([1.5, 448], ml_dtypes.float8_e4m3fn),
    "int8": np.array([-128, 127], np.int8),
    "uint16": np.array([65535], np.uint16),
    "int64": np.array([-(2**63), 2**63 - 1]),
    "uint64": np.array([2**64 - 1, 0], np.uint64),
    "bool": np.array([[True], [False]]),
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.array(2.5, np.float32),
    "strings": np.array(['a"b', "é\n\\", "", "\t# {}"], object),
}


def tensor_of(content: np.ndarray) -> onnx.TensorProto:
    if content.dtype == object:
        texts = [text.encode() for text in content]
        return onnx.helper.make_tensor("w", onnx.TensorProto.STRING, content.shape, texts)
    return ir.to_proto(ir.Tensor(content, name="w"))


def saved(content: np.ndarray, path: Path) -> onnx.TensorProto:
    tensor = tensor_of(content)
    output = onnx.helper.make_tensor_value_info("y", tensor.data_type, content.shape)
    node = onnx.helper.make_node("Identity", ["w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [], [output], [tensor])
    opsets = [onnx.helper.make_opsetid("", 21)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return tensor


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("between", ["model.onnxtxt", "model.onnx"])
def test_weights_come_back(
    graphopt: Callable[..., Ran], tmp_path: Path, name: str, between: str
) -> None:
    first, middle, last = tmp_path / "first.onnx", tmp_path / between, tmp_path / "last.onnx"
    tensor = saved(CONTENTS[name], first)
    there = ["--external-data"] if between == "model.onnx" else []
    assert graphopt("convert", str(first), "-o", str(middle), *there).code == 0
    back = ["--no-external-data"]
    assert graphopt("convert", str(middle), "-o", str(last), *back).code == 0
    (found,) = onnx.load(last).graph.initializer
    before, after = ir.from_proto(tensor), ir.from_proto(found)
    assert (after.dtype, after.shape) == (before.dtype, before.shape)
    if name == "strings":
        assert list(after.numpy()) == list(before.numpy())
    else:
        assert after.tobytes() == before.tobytes()


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that nothing can be made in: as root, whom no mode keeps out, sees it elsewhere."""
    folder = tmp_path / "locked"
    folder.mkdir()
    (folder / "out.onnx").write_bytes(b"before")
    really = os.open

    def refused(path: Any, flags: int, *rest: Any, **settings: Any) -> int:
        # A file without a name is opened by its folder's.
        made = Path(path).parent if flags & os.O_CREAT else Path(path)
        if flags & (os.O_CREAT | os.O_RDWR) and made == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return really(path, flags, *rest, **settings)

    monkeypatch.setattr(os, "open", refused)
    return folder


@pytest.mark.parametrize("name", ["out.onnx", "new.onnx", "new.onnxtxt"])
@pytest.mark.parametrize("external", [False, True])
def test_folder_that_cannot_be_written(
    graphopt: Callable[..., Ran], locked: Path, name: str, external: bool
) -> None:
    if external and name.endswith("txt"):
        pytest.skip("a text has no external data")
    there = ["--external-data"] if external else []
    done = graphopt("convert", str(FIXTURE), "-o", str(locked / name), *there)
    assert done.code == 2
    assert f"{name}: cannot be written: Permission denied; choose a folder" in done.err
    assert len(done.err.splitlines()) == 1
    assert [path.name for path in locked.iterdir()] == ["out.onnx"]
    assert (locked / "out.onnx").read_bytes() == b"before"
