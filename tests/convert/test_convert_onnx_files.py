from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Ran
from onnx_texts import FIXTURE, run

from graphopt.convert import convert
from graphopt.convert.onnx import files as onnx_files
from graphopt.errors import GraphoptError


def test_external_data_and_back(graphopt: Callable[..., Ran], tmp_path: Path) -> None:
    out, back = tmp_path / "out.onnx", tmp_path / "back.onnx"
    assert graphopt("convert", str(FIXTURE), "-o", str(out), "--external-data").code == 0
    assert (tmp_path / "out.onnx.data").stat().st_size > 10_000 > out.stat().st_size
    assert graphopt("convert", str(out), "-o", str(back), "--no-external-data").code == 0
    x = np.random.default_rng(0).random((3, 1, 8, 8), dtype=np.float32)
    np.testing.assert_array_equal(run(back, image=x)[0], run(FIXTURE, image=x)[0])


def test_text_and_back(graphopt: Callable[..., Ran], tmp_path: Path) -> None:
    text, back = tmp_path / "model.onnxtxt", tmp_path / "back.onnx"
    done = graphopt("convert", str(FIXTURE), "-o", str(text))
    assert done.code == 0
    assert text.read_text().startswith("<")
    assert graphopt("convert", str(text), "-o", str(back)).code == 0
    x = np.random.default_rng(0).random((3, 1, 8, 8), dtype=np.float32)
    np.testing.assert_array_equal(run(back, image=x)[0], run(FIXTURE, image=x)[0])
    again = tmp_path / "again.onnxtxt"
    assert graphopt("convert", str(back), "-o", str(again)).code == 0
    assert again.read_bytes() == text.read_bytes()


def test_text_that_is_none_or_too_large(
    graphopt: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "model.onnxtxt"
    text.write_text('<ir_version: 8, opset_import: ["" : 17]>\ng (float[n] x) => (float[n] y) {')
    with pytest.raises(GraphoptError, match="is no model in ONNX's text syntax"):
        convert(str(text))
    text.write_text("<ir_version: 8>" + "(" * 100_000)
    with pytest.raises(GraphoptError, match="nest too deep"):
        convert(str(text))
    from graphopt.convert.onnx import text as onnx_text

    monkeypatch.setattr(onnx_text, "_MAX_WEIGHT_BYTES", 100)
    done = graphopt("convert", str(FIXTURE), "-o", str(text))
    assert done.code == 2
    assert "bytes of weights, more than the 100 that fit in a text" in done.err
    monkeypatch.setattr(onnx_text, "MAX_TEXT_BYTES", 100)
    with pytest.raises(GraphoptError, match="bytes of text, more than the 100"):
        convert(str(text))


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_model_in_an_archive(tmp_path: Path) -> None:
    content = FIXTURE.read_bytes()
    one = archive(tmp_path / "one.zip", **{"a/model.onnx": content, "README": b"hello"})
    assert convert(str(one)).parity
    two = archive(tmp_path / "two.zip", **{"a/x.onnx": content, "y.onnx": content})
    with pytest.raises(GraphoptError, match=r"holds 2 ONNX models \(a/x\.onnx, y\.onnx\)"):
        convert(str(two))
    assert convert(f"{two}:a/x.onnx").parity
    with pytest.raises(GraphoptError, match=r"has no 'z\.onnx'; it holds a/x\.onnx, y\.onnx"):
        convert(f"{two}:z.onnx")
    none = archive(tmp_path / "none.zip", README=b"hello")
    with pytest.raises(GraphoptError, match="holds 0 ONNX models"):
        convert(str(none), framework="onnx")


def test_archive_with_external_data(tmp_path: Path) -> None:
    model = onnx.load(FIXTURE)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data",
              size_threshold=0)  # fmt: skip
    members = {f"deep/{name}": (tmp_path / name).read_bytes() for name in ("m.onnx", "m.data")}
    whole = archive(tmp_path / "whole.zip", **members)
    assert convert(str(whole)).parity
    del members["deep/m.data"]
    with pytest.raises(GraphoptError, match=r"m\.data"):
        convert(str(archive(tmp_path / "part.zip", **members)))


@pytest.mark.parametrize("location", ["../outside.data", "/etc/hostname", "a/../../x"])
def test_archive_reaches_nothing_outside(tmp_path: Path, location: str) -> None:
    proto = onnx.load(FIXTURE)
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path = archive(
        tmp_path / "evil.zip",
        **{"a/b/m.onnx": proto.SerializeToString(), "a/outside.data": b"x" * 100_000},
    )
    with pytest.raises(GraphoptError, match=r"evil\.zip:a/b/m\.onnx"):
        convert(str(path))


def test_archive_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "bomb.zip", **{"m.onnx": b"\0" * (4 << 20)})
    monkeypatch.setattr(onnx_files, "MAX_UNPACKED_BYTES", 1 << 20)
    with pytest.raises(GraphoptError, match=r"m\.onnx unpacks to 4194304 bytes"):
        convert(str(path), framework="onnx")


def test_files_that_are_no_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(FIXTURE.read_bytes()[:1000])
    with pytest.raises(GraphoptError, match="is no whole ONNX model"):
        convert(str(path))
    zipped = archive(tmp_path / "m.zip", **{"m.onnx": FIXTURE.read_bytes()})
    zipped.write_bytes(zipped.read_bytes()[:-30])
    with pytest.raises(GraphoptError, match=r"m\.zip"):
        convert(str(zipped), framework="onnx")


def test_data_file_in_an_archive_may_have_any_name(tmp_path: Path) -> None:
    model = onnx.load(FIXTURE)
    onnx.save(
        model, tmp_path / "net.onnx", save_as_external_data=True, location="model.onnx",
        size_threshold=0,
    )  # fmt: skip
    members = {name: (tmp_path / name).read_bytes() for name in ("net.onnx", "model.onnx")}
    path = archive(tmp_path / "both.zip", **members)
    assert convert(f"{path}:net.onnx").parity


def test_place_of_an_error_in_a_text_is_readable(tmp_path: Path) -> None:
    text = tmp_path / "model.onnxtxt"
    text.write_text(
        '<ir_version: 8, opset_import: ["": 17]>\ng (float[n] x) => (float[n] y) {\n y = Relu(x\n}'
    )
    with pytest.raises(GraphoptError) as caught:
        convert(str(text))
    assert "text syntax: [ParseError at position (line: 4 column: 1)] Error" in str(caught.value)
    assert "\\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new"), [(b"hidden", b"hid\xffen"), (b"\x0a\x01x", b"\x0a\x01\xff")]
)
def test_name_that_is_no_utf8_is_told_with_the_file(tmp_path: Path, old: bytes, new: bytes) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[n] x) => (float[n] y) '
        "{ [hidden] y = Relu(x) }"
    )
    content = model.SerializeToString()
    assert old in content
    path = tmp_path / "named.onnx"
    path.write_bytes(content.replace(old, new))
    with pytest.raises(GraphoptError, match=r"named\.onnx: graphopt cannot carry it: .*utf-8"):
        convert(str(path))
