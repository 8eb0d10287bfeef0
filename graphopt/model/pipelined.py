"""Write tensors to a file while the next ones are being computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model.atomic import StagedFile
from graphopt.model.tensors import MappedTensor

_AHEAD = 32 << 20
"""Bytes that may have been computed and not been written yet; one tensor may always be."""


@dataclass(frozen=True)
class Part:
    """A part of a file.

    Args:
        content: Bytes, or a tensor for its data.
        offset: Where it starts; None: behind the part before it.
    """

    content: bytes | ir.TensorProtocol
    offset: int | None = None


def write_parts(file: StagedFile, parts: Iterable[Part]) -> None:
    """Write parts one after the other, each while the next one is computed.

    Tensors are computed here, one at a time and in order; a thread writes them, and is gone when
    this returns or raises. A tensor of more than 32 MiB is computed only once all that came before
    it are written, so that at most one of that size is in memory.

    Raises:
        GraphoptError: A lazy tensor is not of the size that it says.
        OSError: The file cannot be written.
    """
    written: deque[tuple[int, Future[None]]] = deque()
    ahead = 0
    writer = ThreadPoolExecutor(1, thread_name_prefix="graphopt-writer")
    try:
        for part in parts:
            size = _computed_bytes(part.content)
            while written and (ahead + size > _AHEAD or written[0][1].done()):
                done, future = written.popleft()
                future.result()
                ahead -= done
            # In a list, which the writer empties: the executor holds on to what it was given.
            held = [_data(part.content)]
            written.append((size, writer.submit(_write, file, part.offset, held)))
            ahead += size
        for _, future in written:
            future.result()
    finally:
        writer.shutdown(cancel_futures=True)


def _computed_bytes(content: bytes | ir.TensorProtocol) -> int:
    """Return the bytes that must be computed, and are not in a file or in memory anyway."""
    if isinstance(content, bytes | MappedTensor | ir.Tensor):
        return 0
    return content.nbytes


Data = bytes | memoryview | MappedTensor


def _write(file: StagedFile, offset: int | None, held: list[Data]) -> None:
    data = held.pop()
    if offset is not None:
        file.seek(offset)
    if isinstance(data, MappedTensor):
        data.tofile(file)
    else:
        file.write(data)
    file.start_writeback()


def _data(content: bytes | ir.TensorProtocol) -> Data:
    """Return bytes, or what the kernel copies; without a copy where a tensor is an array."""
    if isinstance(content, bytes | MappedTensor):
        return content
    data: bytes | memoryview
    if content.dtype.bitwidth < 8:
        data = content.tobytes()
    else:
        array: npt.NDArray[np.generic] = np.asarray(content.numpy())
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        data = np.ascontiguousarray(little).reshape(-1).view(np.uint8).data
    written = memoryview(data).nbytes
    if written != content.nbytes:
        raise GraphoptError(
            f"the tensor {content.name!r} of shape {list(content.shape.numpy())} has {written} "
            f"bytes of data and not {content.nbytes}",
            fix="give it data of its shape and type",
        )
    return data
