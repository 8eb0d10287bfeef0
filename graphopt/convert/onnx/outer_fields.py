"""Whether a file is a binary ONNX model, from the fields of its outermost message alone."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import onnx

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_LONGEST_VARINT = 10
_IR_VERSION = onnx.ModelProto.IR_VERSION_FIELD_NUMBER
_GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER
_KINDS = {
    field.number: _VARINT if field.type == field.TYPE_INT64 else _BYTES
    for field in onnx.ModelProto.DESCRIPTOR.fields
}
"""How each field of a ModelProto is written: https://protobuf.dev/programming-guides/encoding."""


def has_graph(path: Path) -> bool:
    """Whether a file has the fields of a ModelProto, among them its version and a graph.

    What they hold is passed over, so that weights are not read: whoever loads it learns whether it
    is right. Fields that ONNX may come to have are taken, too.
    """
    size = path.stat().st_size
    found: set[int] = set()
    with path.open("rb") as file:
        while file.tell() < size:
            key = _varint(file)
            if key is None or not _passed_over(file, key, size):
                return False
            found.add(key >> 3)
    return {_IR_VERSION, _GRAPH} <= found


def _passed_over(file: IO[bytes], key: int, size: int) -> bool:
    """Move behind a field; whether it is one of a ModelProto and ends within the file."""
    number, kind = key >> 3, key & 7
    if not number or _KINDS.get(number, kind) != kind:
        return False
    if kind == _VARINT:
        return _varint(file) is not None
    length = {_FIXED_64: 8, _FIXED_32: 4}.get(kind)
    if kind == _BYTES:
        length = _varint(file)
    if length is None or file.tell() + length > size:
        return False
    file.seek(length, 1)
    return True


def _varint(file: IO[bytes]) -> int | None:
    number = 0
    for place in range(_LONGEST_VARINT):
        byte = file.read(1)
        if not byte:
            return None
        number |= (byte[0] & 0x7F) << 7 * place
        if byte[0] < 0x80:
            return number
    return None
