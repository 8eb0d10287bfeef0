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

_ROOM = 4 << 20
"""Bytes that are handed over to the writer at a time."""

_ROOMS = 4

Bytes = npt.NDArray[np.uint8]


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

    Tensors are computed here, in order, and only one is in memory at a time; its data go through
    16 MiB to a thread that writes them, which is gone when this returns or raises.

    Raises:
        GraphoptError: A lazy tensor is not of the size that it says.
        OSError: The file cannot be written.
    """
    writer = _Writer(file)
    try:
        for part in parts:
            writer.write(_data(part.content), part.offset)
        writer.finish()
    finally:
        writer.stop()


class _Writer:
    """One thread that writes in the order in which it is told to, and stops at the first error."""

    def __init__(self, file: StagedFile) -> None:
        self._file = file
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="graphopt-writer")
        self._told: deque[Future[None]] = deque()
        # The same memory again and again: fresh memory costs the kernel as much as the write.
        self._rooms: deque[tuple[Bytes, Future[None]]] = deque()

    def write(self, data: Bytes | MappedTensor, offset: int | None) -> None:
        """Have data written, or a copy of them where they are in memory.

        This waits while there is no room for a copy, and raises what went wrong before.
        """
        if isinstance(data, MappedTensor):
            self._tell(data, offset)
            return
        for start in range(0, data.size, _ROOM):
            piece = data[start : start + _ROOM]
            room = self._room()
            np.copyto(room[: piece.size], piece)
            told = self._tell(room[: piece.size].data, offset if start == 0 else None)
            self._rooms.append((room, told))

    def _tell(self, data: memoryview | MappedTensor, offset: int | None) -> Future[None]:
        while self._told and self._told[0].done():
            self._told.popleft().result()
        self._told.append(self._thread.submit(_write, self._file, data, offset))
        return self._told[-1]

    def _room(self) -> Bytes:
        if len(self._rooms) < _ROOMS:
            return np.empty(_ROOM, np.uint8)
        room, written = self._rooms.popleft()
        written.result()
        return room

    def finish(self) -> None:
        """Wait until all is written."""
        for told in self._told:
            told.result()

    def stop(self) -> None:
        """End the thread, behind what it is doing now."""
        self._thread.shutdown(cancel_futures=True)


def _write(file: StagedFile, data: memoryview | MappedTensor, offset: int | None) -> None:
    if offset is not None:
        file.seek(offset)
    if isinstance(data, MappedTensor):
        data.tofile(file)
    else:
        file.write(data)
    file.start_writeback()


def _data(content: bytes | ir.TensorProtocol) -> Bytes | MappedTensor:
    """Return bytes, or what the kernel copies; without a copy where a tensor is an array."""
    if isinstance(content, MappedTensor):
        return content
    if isinstance(content, bytes):
        return np.frombuffer(content, np.uint8)
    if content.dtype.bitwidth < 8:
        data = np.frombuffer(content.tobytes(), np.uint8)
    else:
        array: npt.NDArray[np.generic] = np.asarray(content.numpy())
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        data = np.ascontiguousarray(little).reshape(-1).view(np.uint8)
    if data.size != content.nbytes:
        raise GraphoptError(
            f"the tensor {content.name!r} of shape {list(content.shape.numpy())} has {data.size} "
            f"bytes of data and not {content.nbytes}",
            fix="give it data of its shape and type",
        )
    return data
