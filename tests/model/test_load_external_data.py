from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from loaded_files import at, external, model_with, refusal, write
from onnx import TensorProto, helper, numpy_helper

from graphopt.model import Limits, load, to_proto


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


def test_directories_pipes_and_missing_files(folder: Path) -> None:
    assert "is a directory" in refusal(folder)
    assert "no regular file" in refusal(folder / "pipe")
    assert "No such file" in refusal(folder / "absent.onnx")
