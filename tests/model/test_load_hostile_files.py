from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from loaded_files import WEIGHT, model_with, refusal, write
from onnx import numpy_helper

from graphopt.errors import GraphoptError
from graphopt.model import Limits, load, to_proto
from graphopt.model.wire import varint

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
