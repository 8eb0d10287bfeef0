"""Zip archives with wrong bytes in them, of every framework that writes them: one line, exit 2."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import Ran
from onnx_texts import FIXTURE

from graphopt.convert import convert
from graphopt.errors import GraphoptError

NAMES = {
    "keras": ("config.json", "metadata.json", "model.weights.h5"),
    "torch program": ("a/archive_format", "a/models/model.json"),
    "torchscript": ("a/data.pkl", "a/constants.pkl", "a/code/net.py"),
    "state dict": ("a/data.pkl", "a/data/0"),
    "skops": ("schema.json", "1.npy"),
    "onnx": ("folder/model.onnx", "README"),
}
"""What tells the archives of frameworks apart; their content is never reached."""

FROM = {"torch program": "torch", "torchscript": "torch", "state dict": "torch", "skops": "sklearn"}

_DIRECTORY_ENTRY = b"PK\x01\x02"
_FLAGS, _METHOD, _OFFSET, _NAME = 8, 10, 42, 46
_DIRECTORY_OFFSET = 16


def archive(path: Path, kind: str) -> Path:
    # A program that is compressed is refused before it is read.
    method = zipfile.ZIP_STORED if kind == "torch program" else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", method) as file:
        for name in NAMES[kind]:
            file.writestr(name, b'{"a": 1}' * 500)
    return path


def entries(content: bytearray) -> list[int]:
    """Positions of the entries of the central directory (APPNOTE.TXT 4.3.12)."""
    found = [content.find(_DIRECTORY_ENTRY)]
    while (position := content.find(_DIRECTORY_ENTRY, found[-1] + 1)) >= 0:
        found.append(position)
    return found


def name_that_is_no_utf8(content: bytearray) -> None:
    last = entries(content)[-1]
    content[last + _FLAGS + 1] |= 8
    content[last + _NAME] = 0xFF


def packed_bytes_changed(content: bytearray) -> None:
    for position in range(entries(content)[0]):
        if content[position : position + 4] == b"PK\x03\x04":
            sizes = content[position + 26 : position + 28], content[position + 28 : position + 30]
            start = position + 30 + sum(int.from_bytes(size, "little") for size in sizes)
            content[start : start + 8] = b"\xff" * 8


def members_before_the_file(content: bytearray) -> None:
    end = content.rfind(b"PK\x05\x06")
    size = int.from_bytes(content[end + 12 : end + 16], "little")
    # zipfile takes what is missing in front of the directory off every offset.
    content[end + _DIRECTORY_OFFSET : end + _DIRECTORY_OFFSET + 4] = (end - size + 999).to_bytes(
        4, "little"
    )


def unknown_method(content: bytearray) -> None:
    for entry in entries(content):
        content[entry + _METHOD] = 97


def cut_off(content: bytearray) -> None:
    del content[-20:]


DAMAGES = (
    name_that_is_no_utf8,
    packed_bytes_changed,
    members_before_the_file,
    unknown_method,
    cut_off,
)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("kind", NAMES)
def test_damaged_archive_is_one_line(
    graphopt: Callable[..., Ran],
    tmp_path: Path,
    kind: str,
    named: bool,
    damage: Callable[[bytearray], None],
) -> None:
    path, out = archive(tmp_path / "source.zip", kind), tmp_path / "out.onnx"
    content = bytearray(path.read_bytes())
    damage(content)
    path.write_bytes(content)
    out.write_bytes(b"old")
    framework = ("--from", FROM.get(kind, kind)) if named else ()
    done = graphopt("convert", str(path), "-o", str(out), *framework)
    assert (done.code, out.read_bytes()) == (2, b"old")
    assert len(done.err.strip().splitlines()) == 1
    assert "source.zip" in done.err


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        *((kind, name_that_is_no_utf8) for kind in NAMES),
        *((kind, members_before_the_file) for kind in sorted(NAMES.keys() - {"skops"})),
        *((kind, packed_bytes_changed) for kind in ("keras", "torchscript", "onnx")),
    ],
)
def test_archive_is_said_to_be_broken(
    tmp_path: Path, kind: str, damage: Callable[[bytearray], None]
) -> None:
    path = archive(tmp_path / "source.zip", kind)
    content = bytearray(path.read_bytes())
    damage(content)
    path.write_bytes(content)
    with pytest.raises(GraphoptError, match=r"source\.zip: is a broken or truncated zip archive"):
        convert(str(path))


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_example_inputs_are_one_line(
    graphopt: Callable[..., Ran], tmp_path: Path, damage: Callable[[bytearray], None]
) -> None:
    data = tmp_path / "data.npz"
    np.savez_compressed(data, image=np.zeros((200, 1, 8, 8), np.float32))
    content = bytearray(data.read_bytes())
    damage(content)
    data.write_bytes(content)
    done = graphopt("convert", str(FIXTURE), "-o", str(tmp_path / "out.onnx"), "--data", str(data))
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1
    assert "data.npz" in done.err
