from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.convert import convert, onnx
from graphopt.convert.onnx.outer_fields import has_graph
from graphopt.errors import GraphoptError

FIXTURE = Path(__file__).parents[2] / "fixtures" / "digits_mlp.onnx"


def test_model_of_any_name_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(FIXTURE.read_bytes())
    assert onnx.recognises(path)
    assert convert(str(path)).parity


def test_cut_off_model_is_not_recognised_but_by_its_name(tmp_path: Path) -> None:
    content = FIXTURE.read_bytes()[:-1]
    path, named = tmp_path / "weights.bin", tmp_path / "weights.onnx"
    for file in (path, named):
        file.write_bytes(content)
    assert not onnx.recognises(path)
    assert onnx.recognises(named)
    with pytest.raises(GraphoptError, match=r"weights\.onnx: "):
        convert(str(named))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08",
        b"\x08\x0a",
        b"\x3a\x00",
        b"\x08\x0a\x3a\x05abc",
        b"\x0a\x01a\x3a\x00",
        b"\x08\x0a\x3a\x00\x07",
        b"\x08" + b"\xff" * 20,
    ],
    ids=[
        "nothing", "half a field", "no graph", "no version", "longer than the file",
        "version as bytes", "no such kind", "endless number",
    ],
)  # fmt: skip
def test_other_content_is_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert not has_graph(path)
