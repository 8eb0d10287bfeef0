from __future__ import annotations

import importlib
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from loaded_files import WEIGHT, at, external, model_with, refusal, write
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import GraphoptError
from graphopt.model import Limits, load
from graphopt.model.tensors import MappedTensor


def test_inline_weights_stay_in_the_file_through_one_mapping(tmp_path: Path) -> None:
    tensors = [numpy_helper.from_array(WEIGHT + n, f"w{n}") for n in range(3)]
    graph = helper.make_graph([], "graph", [], [], tensors)
    path = write(tmp_path, helper.make_model(graph, ir_version=8).SerializeToString())
    loaded = [value.const_value for value in load(path).graph.initializers.values()]
    assert all(isinstance(tensor, MappedTensor) for tensor in loaded)
    assert len({id(tensor.file) for tensor in loaded}) == 1
    for number, tensor in enumerate(loaded):
        array = tensor.numpy()
        np.testing.assert_array_equal(array, WEIGHT + number)
        assert not array.flags.owndata
        assert not array.flags.writeable


@pytest.mark.parametrize("data_type", ["INT4", "UINT4", "INT2", "FLOAT4E2M1", "FLOAT6E2M3"])
def test_elements_below_a_byte_are_unpacked(tmp_path: Path, data_type: str) -> None:
    dtype = ir.DataType[data_type]
    size = 9000 * dtype.bitwidth // 8
    raw = np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes()
    proto = TensorProto(name="w", dims=[90, 100], data_type=dtype.value, raw_data=raw)
    tensor = load(write(tmp_path, model_with(proto))).graph.initializers["w"].const_value
    expected = ir.serde.TensorProtoTensor(proto)
    if size >= 4096:
        assert isinstance(tensor, MappedTensor)
    np.testing.assert_array_equal(tensor.numpy().view(np.uint8), expected.numpy().view(np.uint8))
    assert tensor.tobytes() == raw


@pytest.mark.parametrize("size", [3, 4096])
def test_traces_of_a_former_data_file_mean_nothing(tmp_path: Path, size: int) -> None:
    """ONNX Runtime's quantizer leaves them in tensors that it moved inside."""
    tensor = numpy_helper.from_array(np.zeros(size, np.float32), "w")
    for key, value in at("gone").items():
        tensor.external_data.add(key=key, value=value)
    tensor.data_location = TensorProto.DEFAULT
    loaded = load(write(tmp_path, model_with(tensor)))
    assert loaded.graph.initializers["w"].const_value.tobytes() == tensor.raw_data


@pytest.mark.parametrize("size", [3, 4096])
def test_inline_data_shorter_than_the_shape(tmp_path: Path, size: int) -> None:
    tensor = numpy_helper.from_array(np.zeros(size, np.float32), "w")
    tensor.dims[0] += 1
    line = refusal(write(tmp_path, model_with(tensor)))
    assert f"{4 * size} bytes of data, and its shape takes {4 * size + 4}" in line


@pytest.mark.parametrize(
    ("tensor", "cause"),
    [
        (TensorProto(name="w", dims=[5], data_type=1, float_data=[1, 2]), "holds 2 entries"),
        (TensorProto(name="w", dims=[5], data_type=1), "holds 0 entries"),
        (TensorProto(name="w", dims=[2], data_type=1, int32_data=[1, 2]), "data in int32_data"),
        (TensorProto(name="w", dims=[2], data_type=8, raw_data=b"ab"), "strings in raw_data"),
        (TensorProto(name="w", dims=[2], data_type=8, string_data=[b"a"]), "holds 1 entries"),
        (
            TensorProto(name="w", dims=[1], data_type=1, float_data=[1], raw_data=bytes(4)),
            "float_data and raw_data",
        ),
        (
            TensorProto(
                name="w", dims=[1], data_type=1, segment=TensorProto.Segment(begin=0, end=1)
            ),
            "segment",
        ),
    ],
)
def test_typed_data_that_do_not_fit(tmp_path: Path, tensor: onnx.TensorProto, cause: str) -> None:
    assert cause in refusal(write(tmp_path, model_with(tensor)))


def test_a_tensor_above_the_limit(tmp_path: Path) -> None:
    path = write(tmp_path, model_with(numpy_helper.from_array(WEIGHT, "w")))
    load(path, Limits(max_bytes=16384))
    assert "more than" in refusal(path, Limits(max_bytes=16383))


def test_a_model_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def feed(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    feed(model_with(numpy_helper.from_array(WEIGHT, "w")))
    np.testing.assert_array_equal(load("-").graph.initializers["w"].const_value.numpy(), WEIGHT)
    feed(model_with(external(at("data"))))
    with pytest.raises(GraphoptError, match=r"^<stdin>: .* a stream has no folder"):
        load("-")
    feed(b"")
    with pytest.raises(GraphoptError, match=r"^<stdin>: is empty"):
        load("-")


def test_standard_input_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = importlib.import_module("graphopt.model.load")  # the package has a function so called
    monkeypatch.setattr(loader, "_STREAM_BYTES", 3 << 20)
    endless = io.BufferedReader(_Zeros())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(endless))
    with pytest.raises(GraphoptError, match=r"^<stdin>: is over the 2 GiB"):
        load("-")


class _Zeros(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        buffer[:] = bytes(len(buffer))
        return len(buffer)
