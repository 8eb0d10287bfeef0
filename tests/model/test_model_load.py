from __future__ import annotations

import importlib
import io
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import GraphoptError
from graphopt.model import Limits, load, to_proto
from graphopt.model.tensors import MappedTensor
from graphopt.model.wire import varint

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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a data file, a link out of it, a hard link, a pipe; beside it a secret."""
    inside = tmp_path / "inside"
    inside.mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4000))
    (inside / "data").write_bytes(bytes(range(250)) * 16)
    (inside / "link").symlink_to("../secret")
    (inside / "near").symlink_to("data")
    (inside / "hard").hardlink_to(secret)
    (inside / "folder").mkdir()
    os.mkfifo(inside / "pipe")
    return inside


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


def test_external_data_are_views_of_their_file(folder: Path) -> None:
    path = write(folder, model_with(external(at("data", "16", "3200"), (800,))))
    tensor = load(path).graph.initializers["w"].const_value
    expected = np.frombuffer((folder / "data").read_bytes(), np.float32, 800, 16)
    np.testing.assert_array_equal(tensor.numpy(), expected)


def test_a_loaded_model_outlives_its_files(folder: Path) -> None:
    model = load(write(folder, model_with(external(at("data")))))
    before = (folder / "data").read_bytes()
    (folder / "data").unlink()
    (folder / "model.onnx").unlink()
    assert model.graph.initializers["w"].const_value.tobytes() == before[:4000]


def test_external_tensors_in_attributes_bodies_and_functions_are_resolved(folder: Path) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=external(at("data")))
    body = helper.make_graph(
        [constant],
        "body",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [1000])],
    )
    body.initializer.append(external(at("data")))
    branch = helper.make_node("If", ["flag"], ["y"], then_branch=body, else_branch=body)
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1000])
    graph = helper.make_graph([branch], "graph", [flag], [output])
    opsets = [helper.make_opsetid("", 18)]
    function = helper.make_function("local", "F", [], ["c"], [constant], opsets)
    proto = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)
    whole = to_proto(load(write(folder, proto.SerializeToString())))
    data = (folder / "data").read_bytes()
    branches = [attribute.g for attribute in whole.graph.node[0].attribute]
    constants = [branch.node[0].attribute[0].t for branch in branches]
    held = [branch.initializer[0] for branch in branches]
    in_function = whole.functions[0].node[0].attribute[0].t
    for tensor in (*constants, *held, in_function):
        assert tensor.raw_data == data
        assert tensor.data_location == TensorProto.DEFAULT


@pytest.mark.parametrize(
    ("location", "cause"),
    [
        ("../secret", "leaves the model's folder"),
        ("folder/../../secret", "leaves the model's folder"),
        ("/etc/passwd", "leaves the model's folder"),
        ("link", "a symbolic link that leaves"),
        ("hard", "a hard link to a file elsewhere"),
        ("pipe", "no regular file"),
        ("folder", "no regular file"),
        (".", "no regular file"),
        ("absent", "No such file"),
        ("", "has no location"),
        ("a\0b", "leaves the model's folder"),
        ("x" * 5000, "File name too long"),
    ],
)
def test_locations_that_are_no_file_of_the_folder(folder: Path, location: str, cause: str) -> None:
    assert cause in refusal(write(folder, model_with(external(at(location)))))


@pytest.mark.parametrize("location", ["link", "hard"])
def test_links_are_followed_on_request(folder: Path, location: str) -> None:
    path = write(folder, model_with(external(at(location))))
    model = load(path, Limits(follow_symlinks=True))
    assert model.graph.initializers["w"].const_value.tobytes() == bytes(4000)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd"])
def test_following_links_lets_no_path_leave_the_folder(folder: Path, location: str) -> None:
    path = write(folder, model_with(external(at(location))))
    assert "leaves the model's folder" in refusal(path, Limits(follow_symlinks=True))


def test_links_that_stay_in_the_folder_are_fine(folder: Path) -> None:
    load(write(folder, model_with(external(at("near")))))
    (folder / "again").hardlink_to(folder / "data")
    load(write(folder, model_with(external(at("data")))))


def test_a_hub_cache_of_symbolic_links_loads_on_request(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "a").write_bytes(model_with(external(at("model.onnx_data"))))
    (blobs / "b").write_bytes(bytes(4000))
    (snapshot / "model.onnx").symlink_to("../../blobs/a")
    (snapshot / "model.onnx_data").symlink_to("../../blobs/b")
    assert "--follow-symlinks" in refusal(snapshot / "model.onnx")
    load(snapshot / "model.onnx", Limits(follow_symlinks=True))


@pytest.mark.parametrize(
    ("entries", "cause"),
    [
        (at("data", "4"), "ends at byte 4004"),
        (at("data", "-4"), "no byte count"),
        (at("data", "1e3"), "no byte count"),
        (at("data", "9" * 4000), "no byte count"),
        (at("data", "9" * 19), "ends at byte"),
        (at("data", "0", "3999"), "its shape takes 4000"),
        ({**at("data"), "pickle": "yes"}, "unknown external_data key 'pickle'"),
    ],
)
def test_ranges_that_do_not_fit(folder: Path, entries: dict[str, str], cause: str) -> None:
    assert cause in refusal(write(folder, model_with(external(entries))))


def test_an_external_key_twice(folder: Path) -> None:
    tensor = external(at("data"))
    tensor.external_data.add(key="location", value="near")
    assert "'location' twice" in refusal(write(folder, model_with(tensor)))


def test_a_missing_length_is_that_of_the_shape(folder: Path) -> None:
    load(write(folder, model_with(external({"location": "data"}))))
    path = write(folder, model_with(external({"location": "data"}, (1001,))))
    assert "ends at byte 4004" in refusal(path)


@pytest.mark.parametrize(
    ("dims", "data_type", "cause"),
    [
        ((1 << 40, 1 << 40), TensorProto.FLOAT, "--max-bytes"),
        ((1 << 62, 4, 1 << 62), TensorProto.FLOAT, "--max-bytes"),
        ((-1, -1000), TensorProto.FLOAT, "negative dimension"),
        ((1 << 60,) * 100_000, TensorProto.FLOAT, "100000 dimensions"),
        ((8001,), TensorProto.INT4, "its shape takes 4001"),
        ((1000,), TensorProto.STRING, "strings as external data"),
        ((1000,), 0, "unknown data type 0"),
        ((1000,), 99, "unknown data type 99"),
    ],
)
def test_shapes_and_types_that_do_not_fit(
    folder: Path, dims: tuple[int, ...], data_type: int, cause: str
) -> None:
    tensor = external(at("data"), dims, data_type)
    assert cause in refusal(write(folder, model_with(tensor)))


@pytest.mark.parametrize("size", [3, 2000])
def test_data_both_inside_and_outside(folder: Path, size: int) -> None:
    tensor = numpy_helper.from_array(np.zeros(size, np.float32), "w")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="data")
    line = refusal(write(folder, model_with(tensor)))
    assert "has data inside" in line or "twice" in line


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


GOOD = model_with(numpy_helper.from_array(np.zeros(100_000, np.float32), "w"))


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "is empty"),
        (b'<ir_version: 8, opset_import: ["": 18]>\ng (float x) => (float y) {}', "text file"),
        (b'{"irVersion": "8"}', "text file"),
        ("é".encode() * 500, "text file"),
        (b"PK\x03\x04" + bytes(500), "no whole ONNX model"),
        (bytes(1 << 20), "no whole ONNX model"),
        (np.random.default_rng(1).bytes(1 << 20), "no whole ONNX model"),
        (GOOD[:-1], "no whole ONNX model"),
        (GOOD[:200_000], "no whole ONNX model"),
        (GOOD[:10], "no whole ONNX model"),
        (b"\x08\x08", "no IR version or no graph"),
        (b"\x08\x08\x3a\x00", "names no opset"),
        (GOOD + b"\x9a\x06\x01x", "does not know"),
    ],
)
def test_files_that_are_no_model(tmp_path: Path, content: bytes, cause: str) -> None:
    assert cause in refusal(write(tmp_path, content))


def test_every_truncation_and_random_changes_are_refused_or_load(tmp_path: Path) -> None:
    content = bytearray(model_with(numpy_helper.from_array(WEIGHT[:4], "w"), doc_string="text"))
    path = tmp_path / "model.onnx"
    random = np.random.default_rng(0)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        refusal(path)
    for _ in range(500):
        broken = bytearray(content)
        for _ in range(3):
            broken[random.integers(len(broken))] = random.integers(256)
        path.write_bytes(broken)
        try:
            to_proto(load(path))
        except GraphoptError as error:
            assert "\n" not in str(error)  # noqa: PT017 # either outcome is right


def test_directories_pipes_and_missing_files(folder: Path) -> None:
    assert "is a directory" in refusal(folder)
    assert "no regular file" in refusal(folder / "pipe")
    assert "No such file" in refusal(folder / "absent.onnx")


def field(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


OPSET = field(8, b"\x10\x12")


def nested(bodies: int, padding: int = 0) -> bytes:
    graph = field(2, b"x" * padding)
    for _ in range(bodies):
        branch = field(1, b"then_branch") + field(6, graph) + b"\xa0\x01\x05"
        graph = field(1, field(4, b"If") + field(5, branch))
    return b"\x08\x08" + field(7, graph) + OPSET


@pytest.mark.parametrize("padding", [0, 5000])
@pytest.mark.parametrize("bodies", [33, 60, 5000])
def test_bodies_nested_deeper_than_the_limit(tmp_path: Path, bodies: int, padding: int) -> None:
    assert "nest" in refusal(write(tmp_path, nested(bodies, padding)))


def test_nesting_within_the_limit(tmp_path: Path) -> None:
    path = write(tmp_path, nested(5))
    load(path)
    assert "nest 5 deep" in refusal(path, Limits(max_depth=4))


@pytest.mark.parametrize("depth", [40, 5000])
def test_types_nested_deeper_than_the_limit(tmp_path: Path, depth: int) -> None:
    kind = field(1, b"\x08\x01")
    for _ in range(depth):
        kind = field(4, field(1, kind))
    value = field(1, b"x") + field(2, kind)
    content = b"\x08\x08" + field(7, field(11, value)) + OPSET
    assert "nest" in refusal(write(tmp_path, content))


def test_huge_hostile_files_take_no_memory(tmp_path: Path) -> None:
    """A sparse file of 8 GB that starts like a model is refused in a process of 1.5 GB."""
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.write(GOOD[:200_000])
        file.truncate(8 << 30)
    script = (
        "import sys; from graphopt.model import load\n"
        "try: load(sys.argv[1])\n"
        "except Exception as error: print(error)"
    )

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (1536 << 20, 1536 << 20))

    done = subprocess.run(
        [sys.executable, "-c", script, path],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=bound,
    )
    assert "no whole ONNX model" in done.stdout


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
