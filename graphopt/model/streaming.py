"""Read the elements of a tensor in pieces, in fixed memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

_PIECE = 1 << 20


def pieces(tensor: ir.TensorProtocol, elements: int = _PIECE) -> Iterator[npt.NDArray[np.generic]]:
    """Yield the elements of a tensor in row-major order, at most `elements` at a time.

    A memory-mapped tensor is read through its mapping, which is given back if this opened it:
    reading all weights of a model, one after the other, leaves no memory behind. Element types
    that share bytes (int4 and the like) are unpacked, one tensor at a time.

    Args:
        tensor: Any tensor.
        elements: The size of a piece.
    """
    mapped = tensor if isinstance(tensor, ir.ExternalTensor) and tensor.raw is None else None
    flat = tensor.numpy().reshape(-1)
    try:
        for start in range(0, flat.size, elements):
            yield flat[start : start + elements]
    finally:
        del flat
        if mapped is not None:
            _give_back(mapped)


def zeros(tensor: ir.TensorProtocol, zero_point: int = 0) -> int:
    """Count the elements that stand for zero; -0.0 does, NaN does not.

    Tensors are immutable, so the count is kept with the tensor: measuring a model again after a
    pass reads only the weights that the pass replaced.

    Args:
        tensor: A tensor of numbers or booleans.
        zero_point: The element that stands for zero in a quantized tensor.
    """
    key = f"graphopt.zeros.{zero_point}"
    known = tensor.meta.get(key)
    if isinstance(known, int):
        return known
    count = sum(piece.size - _nonzero(piece, zero_point) for piece in pieces(tensor))
    tensor.meta[key] = count
    return count


def _nonzero(piece: npt.NDArray[np.generic], zero_point: int) -> int:
    if zero_point == 0:
        return int(np.count_nonzero(piece))
    return int(np.count_nonzero(piece.astype(np.int32) != zero_point))


def _give_back(tensor: ir.ExternalTensor) -> None:
    try:
        tensor.release()
    except BufferError:
        # Somebody still holds a piece: the mapping goes when they let go of it.
        tensor.raw = None
