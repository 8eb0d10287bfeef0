from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from graphopt.model.streaming import pieces, zeros

FLOATS = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn)


def external(
    tmp_path: Path, content: bytes, dtype: ir.DataType, shape: tuple[int, ...]
) -> ir.ExternalTensor:
    (tmp_path / "w.bin").write_bytes(b"head" + content)
    return ir.ExternalTensor(
        "w.bin", 4, len(content), dtype, shape=ir.Shape(shape), name="w", base_dir=tmp_path
    )


def test_pieces_are_the_elements_in_order() -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    parts = list(pieces(ir.tensor(array), elements=7))
    assert [len(part) for part in parts] == [7, 7, 7, 3]
    np.testing.assert_array_equal(np.concatenate(parts), array.reshape(-1))


def test_a_scalar_is_one_piece_and_an_empty_tensor_none() -> None:
    assert [part.tolist() for part in pieces(ir.tensor(np.float32(3)))] == [[3.0]]
    assert list(pieces(ir.tensor(np.zeros((0, 4), np.float32)))) == []


@pytest.mark.parametrize("dtype", FLOATS)
def test_zeros_of_floats(dtype: type) -> None:
    array: npt.NDArray[Any] = np.array([[0.0, -0.0, 1.0], [np.nan, -2.0, 0.0]]).astype(dtype)
    assert zeros(ir.tensor(array)) == 3


def test_zeros_of_integers_and_their_zero_point() -> None:
    tensor = ir.tensor(np.array([0, 128, 128, 255], np.uint8))
    assert zeros(tensor) == 1
    assert zeros(tensor, 128) == 2


def test_zeros_of_packed_elements() -> None:
    tensor = ir.tensor(np.array([0, 1, -8, 0, 0], ml_dtypes.int4))
    assert zeros(tensor) == 3


def test_zeros_of_a_mapped_tensor_give_the_mapping_back(tmp_path: Path) -> None:
    array = np.array([0, 1, 0, 2, 0, 0], np.float32)
    tensor = external(tmp_path, array.tobytes(), ir.DataType.FLOAT, (2, 3))
    assert zeros(tensor) == 4
    assert tensor.raw is None
    np.testing.assert_array_equal(tensor.numpy().reshape(-1), array)


def test_a_mapping_that_was_there_stays(tmp_path: Path) -> None:
    array = np.array([0, 1], np.float32)
    tensor = external(tmp_path, array.tobytes(), ir.DataType.FLOAT, (2,))
    held = tensor.numpy()
    assert zeros(tensor) == 1
    assert tensor.numpy() is held


def test_a_piece_outlives_the_mapping(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32)
    tensor = external(tmp_path, array.tobytes(), ir.DataType.FLOAT, (6,))
    kept = list(pieces(tensor, elements=4))
    assert tensor.raw is None
    np.testing.assert_array_equal(np.concatenate(kept), array)


def test_zeros_are_counted_once_per_tensor() -> None:
    reads = 0

    def read() -> ir.TensorProtocol:
        nonlocal reads
        reads += 1
        return ir.tensor(np.zeros(4, np.float32))

    tensor = ir.LazyTensor(read, ir.DataType.FLOAT, ir.Shape([4]))
    assert [zeros(tensor), zeros(tensor)] == [4, 4]
    assert reads == 1
