"""The wire format of an ONNX file: weights are cut out of it and spliced into it.

protobuf wants a whole message in memory, twice while it parses or writes. Here the big `raw_data`
fields stay in the file: `cut` leaves out of the bytes what protobuf need not see, and `splice` puts
weights between the bytes that protobuf wrote. Source of the format:
https://protobuf.dev/programming-guides/encoding/ and the field numbers of onnx.proto.
"""

from __future__ import annotations

import bisect
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

MODEL, FUNCTION, GRAPH, NODE, ATTRIBUTE, SPARSE, TENSOR, TYPE = range(8)

_CHILDREN: dict[int, dict[int, int]] = {
    MODEL: {7: GRAPH, 25: FUNCTION},
    FUNCTION: {7: NODE, 11: ATTRIBUTE},
    GRAPH: {1: NODE, 5: TENSOR, 15: SPARSE},
    NODE: {5: ATTRIBUTE},
    ATTRIBUTE: {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH, 22: SPARSE, 23: SPARSE},
    SPARSE: {1: TENSOR, 2: TENSOR},
    TENSOR: {},
}
_RAW_DATA = 9
_EXTERNAL_DATA = 13
_DATA_LOCATION = 14
_EXTERNAL = 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PROTOBUF_LIMIT = (1 << 31) - 1


class WireError(Exception):
    """The bytes are no message of this format; the text says why."""


def varint(value: int) -> bytes:
    """Encode a non-negative integer."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(buffer: mmap.mmap | bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise WireError("it ends in the middle of a field" if at >= end else "a number has no end")


def _fields(
    buffer: mmap.mmap | bytes, start: int, end: int
) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield number, wire type, start of the tag, start and end of the payload of each field."""
    at = start
    while at < end:
        tag = at
        key = buffer[at]
        at += 1
        if key > 0x7F:
            key, at = _read_varint(buffer, tag, end)
        number, kind = key >> 3, key & 7
        if kind == _BYTES:
            size, at = _read_varint(buffer, at, end)
            stop = at + size
        elif kind == _VARINT:
            stop = _read_varint(buffer, at, end)[1]
        elif kind == _FIXED32:
            stop = at + 4
        elif kind == _FIXED64:
            stop = at + 8
        else:
            raise WireError(f"byte {tag} starts no protobuf field")
        if number == 0:
            raise WireError(f"byte {tag} starts no protobuf field")
        if stop > end:
            raise WireError(f"the field at byte {tag} runs beyond the end")
        yield number, kind, tag, at, stop
        at = stop


@dataclass
class _Cutter:
    buffer: mmap.mmap | bytes
    marker: bytes
    threshold: int
    max_bytes: int
    max_depth: int
    kept: int = field(default=0, init=False)

    def message(self, kind: int, start: int, end: int, depth: int) -> bytes:
        """Return the message in a range of the buffer, without its big weights."""
        if depth > self.max_depth:
            raise WireError(f"messages nest deeper than {self.max_depth} levels")
        pieces: list[bytes] = []
        unchanged = start
        for number, wire, tag, at, stop in _fields(self.buffer, start, end):
            if stop - at < self.threshold or wire != _BYTES:
                continue
            replaced = self._replaced(kind, number, at, stop, depth)
            if replaced is not None:
                pieces += (self._keep(unchanged, tag), replaced)
                unchanged = stop
        pieces.append(self._keep(unchanged, end))
        return b"".join(pieces)

    def _replaced(self, kind: int, number: int, at: int, stop: int, depth: int) -> bytes | None:
        child = _CHILDREN[kind].get(number)
        if child is not None:
            enter = self._tensor if child == TENSOR else self.message
            inner = enter(child, at, stop, depth + 1)
            return varint(number << 3 | _BYTES) + varint(len(inner)) + inner
        if stop - at > self.max_bytes:
            raise WireError(f"one field takes {stop - at} bytes, more than {self.max_bytes}")
        if kind == TENSOR and number == _RAW_DATA:
            return self._reference(at, stop - at)
        return None

    def _tensor(self, kind: int, start: int, end: int, depth: int) -> bytes:
        """As `message`; of data that are cut out, only the reference says where they are."""
        fields = list(_fields(self.buffer, start, end))
        external = any(field[0] == _DATA_LOCATION and self.buffer[field[3]] for field in fields)
        is_cut = any(f[0] == _RAW_DATA and f[4] - f[3] >= self.threshold for f in fields)
        if external or not is_cut:
            return self.message(kind, start, end, depth)
        return b"".join(
            self.message(kind, tag, stop, depth)
            for number, _, tag, _, stop in fields
            if number not in {_EXTERNAL_DATA, _DATA_LOCATION}
        )

    def _reference(self, offset: int, length: int) -> bytes:
        entries = (
            (b"location", self.marker),
            (b"offset", b"%d" % offset),
            (b"length", b"%d" % length),
        )
        out = varint(_DATA_LOCATION << 3 | _VARINT) + varint(_EXTERNAL)
        for key, value in entries:
            entry = b"\x0a" + varint(len(key)) + key + b"\x12" + varint(len(value)) + value
            out += varint(_EXTERNAL_DATA << 3 | _BYTES) + varint(len(entry)) + entry
        return out

    def _keep(self, start: int, end: int) -> bytes:
        self.kept += end - start
        if self.kept > _PROTOBUF_LIMIT:
            raise WireError("it holds more than 2 GB beside its weights")
        return self.buffer[start:end]


def cut(
    buffer: mmap.mmap | bytes, marker: str, *, threshold: int, max_bytes: int, max_depth: int
) -> bytes:
    """Return a serialized model without the `raw_data` of `threshold` bytes and more.

    Only messages that are big enough to hold such a field are entered.

    Args:
        buffer: The file.
        marker: The location that says "in this file"; it must not occur in the file.
        threshold: In bytes.
        max_bytes: The most that one field may take.
        max_depth: How deep messages may nest.

    Returns:
        A serialized ModelProto. A tensor whose data were cut out is external: its location is the
        marker, its offset and length are those of the data in the file.

    Raises:
        WireError: The bytes are truncated, no protobuf message, or too large.
    """
    cutter = _Cutter(buffer, marker.encode(), threshold, max_bytes, max_depth)
    return cutter.message(MODEL, 0, len(buffer), 0)


_NESTING: dict[int, dict[int, int]] = {
    **_CHILDREN,
    MODEL: {7: GRAPH, 20: MODEL, 25: FUNCTION},
    GRAPH: {1: NODE, 11: TYPE, 12: TYPE, 13: TYPE},
    FUNCTION: {7: NODE, 11: ATTRIBUTE, 12: TYPE},
    ATTRIBUTE: {6: GRAPH, 11: GRAPH, 14: TYPE, 15: TYPE},
    # ValueInfoProto.type, and the sequence, map and optional types inside a TypeProto, whose
    # element types are their fields 1 and 2: all of them are read as one kind of message.
    TYPE: {1: TYPE, 2: TYPE, 4: TYPE, 5: TYPE, 9: TYPE},
    SPARSE: {},
}


def nests_deeper(buffer: bytes, max_depth: int) -> bool:
    """Say whether messages nest deeper than a limit: why protobuf may have refused to parse."""
    level = [(MODEL, 0, len(buffer))]
    for _ in range(max_depth):
        level = [child for parent in level for child in _nested(buffer, *parent)]
    return bool(level)


def _nested(buffer: bytes, kind: int, start: int, end: int) -> list[tuple[int, int, int]]:
    children = _NESTING[kind]
    found = []
    try:
        for number, wire, _, at, stop in _fields(buffer, start, end):
            if wire == _BYTES and number in children:
                found.append((children[number], at, stop))
    except WireError:
        return found
    return found


@dataclass(frozen=True)
class Piece:
    """A tensor between the bytes of a model: entry `index` of the caller's list, `length` bytes."""

    index: int
    length: int


def splice(skeleton: bytes, marker: str, lengths: Sequence[int]) -> list[bytes | Piece]:
    """Turn external tensors whose location is the marker into inline ones.

    Args:
        skeleton: A serialized ModelProto; the offset of such a tensor is its index.
        marker: Must occur nowhere else.
        lengths: Bytes of the data, by index.

    Returns:
        The bytes of the model file, in order, with the places of the data between them.
    """
    pattern = marker.encode()
    places = list(_occurrences(skeleton, pattern))
    out: list[bytes | Piece] = []
    _splice(skeleton, (MODEL, 0, len(skeleton)), places, lengths, out)
    return out


def _occurrences(skeleton: bytes, pattern: bytes) -> Iterator[int]:
    at = skeleton.find(pattern)
    while at >= 0:
        yield at
        at = skeleton.find(pattern, at + len(pattern))


def _splice(
    skeleton: bytes,
    message: tuple[int, int, int],
    places: list[int],
    lengths: Sequence[int],
    out: list[bytes | Piece],
) -> int:
    """Append the pieces of one message; return its size with the data in it."""
    kind, start, end = message
    if kind == TENSOR:
        return _splice_tensor(skeleton, start, end, lengths, out)
    size = 0
    unchanged = start
    for number, wire, tag, at, stop in _fields(skeleton, start, end):
        child = _CHILDREN[kind].get(number)
        if wire != _BYTES or child is None or not _holds(places, at, stop):
            continue
        inner: list[bytes | Piece] = []
        length = _splice(skeleton, (child, at, stop), places, lengths, inner)
        header = skeleton[unchanged:tag] + varint(number << 3 | _BYTES) + varint(length)
        out.append(header)
        out += inner
        size += len(header) + length
        unchanged = stop
    out.append(skeleton[unchanged:end])
    return size + end - unchanged


def _holds(places: list[int], start: int, stop: int) -> bool:
    index = bisect.bisect_left(places, start)
    return index < len(places) and places[index] < stop


def _splice_tensor(
    skeleton: bytes, start: int, end: int, lengths: Sequence[int], out: list[bytes | Piece]
) -> int:
    before: list[bytes] = []
    after: list[bytes] = []
    index = -1
    for number, _, tag, at, stop in _fields(skeleton, start, end):
        if number == _EXTERNAL_DATA:
            entry = {key: skeleton[a:b] for key, _, _, a, b in _fields(skeleton, at, stop)}
            if entry.get(1) == b"offset":
                index = int(entry[2])
        elif number != _DATA_LOCATION:
            (before if number < _RAW_DATA else after).append(skeleton[tag:stop])
    header = b"".join(before) + varint(_RAW_DATA << 3 | _BYTES) + varint(lengths[index])
    tail = b"".join(after)
    out += (header, Piece(index, lengths[index]), tail)
    return len(header) + lengths[index] + len(tail)
