from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from graphopt.errors import GraphoptError
from graphopt.runtime.npz import read_npz


def test_stored_members_are_mapped_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    first = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    second = np.asfortranarray(first[0])
    np.savez(path, **{"input.1": first, "b": second, "scalar": np.int64(7)})
    arrays = read_npz(path)
    assert isinstance(arrays["input.1"], np.memmap)
    np.testing.assert_array_equal(arrays["input.1"], first)
    np.testing.assert_array_equal(arrays["b"], second)
    assert arrays["scalar"].shape == ()
    assert arrays["scalar"] == 7


def test_compressed_members_are_unpacked_within_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    array = np.arange(1000, dtype=np.int64)
    np.savez_compressed(path, a=array, b=array)
    np.testing.assert_array_equal(read_npz(path)["b"], array)
    assert read_npz(path, max_unpacked=16_000).keys() == {"a", "b"}
    with pytest.raises(GraphoptError, match="over the limit"):
        read_npz(path, max_unpacked=15_999)


def test_empty_arrays_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.empty((0, 3), np.float32))
    assert read_npz(path)["a"].shape == (0, 3)


def with_member(path: Path, name: str, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
    return path


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


SHAPE = "{{'descr': {0}, 'fortran_order': False, 'shape': {1}, }}\n"


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"no array", "broken header"),
        (header(SHAPE.format("'<f4'", "(10,)")) + b"1234", "cut off"),
        (header(SHAPE.format("'<f4'", "(-1,)")) + b"1234", "negative size"),
        (header(SHAPE.format("'|O'", "(1,)")) + b"12345678", "Python objects"),
        (header(SHAPE.format("'<f4'", f"({1 << 60},)")), "cut off"),
        (header("__import__('os').getcwd()\n"), "broken header"),
    ],
)
def test_hostile_members_are_refused(tmp_path: Path, content: bytes, cause: str) -> None:
    path = with_member(tmp_path / "a.npz", "a.npy", content)
    with pytest.raises(GraphoptError, match=cause) as refused:
        read_npz(path)
    assert "\n" not in str(refused.value)
    assert refused.value.file == str(path)


def test_what_is_no_archive_of_arrays_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.npz"
    text.write_text("hello")
    with pytest.raises(GraphoptError, match="no npz archive"):
        read_npz(text)
    with pytest.raises(GraphoptError, match=r"no \.npy array"):
        read_npz(with_member(tmp_path / "b.npz", "readme.txt", b"x"))
    with zipfile.ZipFile(tmp_path / "empty.npz", "w"):
        pass
    with pytest.raises(GraphoptError, match="no arrays"):
        read_npz(tmp_path / "empty.npz")


def test_a_broken_compressed_stream_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.random.default_rng(0).random(1000))
    content = bytearray(path.read_bytes())
    content[200:260] = b"\xff" * 60
    path.write_bytes(content)
    with pytest.raises(GraphoptError) as refused:
        read_npz(path)
    assert refused.value.file == str(path)


@pytest.mark.parametrize("keep", [0, 10, 100, 3000])
def test_truncated_files_are_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.zeros(1000))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(GraphoptError, match="no npz archive"):
        read_npz(path)
