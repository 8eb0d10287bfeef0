"""What TensorFlow file a path is, by its content, without TensorFlow."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from pathlib import Path

from graphopt.errors import GraphoptError

_SAVED_MODEL, _SAVED_MODEL_TEXT = "saved_model.pb", "saved_model.pbtxt"
_HEAD = 1 << 16
_LENGTH_DELIMITED = 2
_NODE, _NAME, _OPERATOR = 1, 1, 2
_OPERATOR_NAME = re.compile(rb"_?[A-Za-z][\w>]*")
_NODE_NAME = re.compile(rb"[A-Za-z0-9.][\w.\\/>-]*")
_NODE_IN_TEXT = re.compile(rb"(\s|#[^\n]*\n)*+node\s*+:?\s*+[{<]\s*+(name|op)\s*+:")
"""How a GraphDef begins in protobuf's text format."""


class Kind(enum.Enum):
    """What TensorFlow writes."""

    SAVED_MODEL = "SavedModel"
    GRAPH = "frozen graph"
    GRAPH_TEXT = "frozen graph as text"


def kind_of(path: Path) -> Kind | None:
    """Tell what a file or folder is; None: nothing of TensorFlow's.

    Raises:
        GraphoptError: It cannot be read.
    """
    if path.is_dir():
        return Kind.SAVED_MODEL if saved_model_file(path).is_file() else None
    if path.name in {_SAVED_MODEL, _SAVED_MODEL_TEXT}:
        return Kind.SAVED_MODEL
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise GraphoptError(f"cannot be read: {error.strerror or error}", file=path) from error
    if _NODE_IN_TEXT.match(head):
        return Kind.GRAPH_TEXT
    return Kind.GRAPH if _starts_with_a_node(head) else None


def saved_model_folder(path: Path) -> Path:
    """Return the folder of a SavedModel, of which the path may be the file inside."""
    return path if path.is_dir() else path.parent


def saved_model_file(folder: Path) -> Path:
    """Return the file that TensorFlow reads of a SavedModel: text, where there is no binary one."""
    binary, text = folder / _SAVED_MODEL, folder / _SAVED_MODEL_TEXT
    return text if text.is_file() and not binary.is_file() else binary


def _starts_with_a_node(head: bytes) -> bool:
    """Whether a file begins as a GraphDef: its first field is a node with a name and an operator.

    Source: tensorflow/core/framework/graph.proto and node_def.proto. A file of ONNX begins with
    another field.
    """
    for number, content in _fields(head):
        if number != _NODE:
            return False
        parts = dict(_fields(content))
        name, operator = parts.get(_NAME), parts.get(_OPERATOR)
        return (
            name is not None
            and operator is not None
            and _NODE_NAME.fullmatch(name) is not None
            and _OPERATOR_NAME.fullmatch(operator) is not None
        )
    return False


def _fields(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the length-delimited fields at the start of a protobuf message, the last one cut off.

    Stops at a field of another kind.
    """
    position = 0
    while position < len(content):
        tag, position = _varint(content, position)
        if tag & 7 != _LENGTH_DELIMITED:
            return
        length, position = _varint(content, position)
        yield tag >> 3, content[position : position + length]
        position += length


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(content) and shift < 64:
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position += 1
        shift += 7
        if byte < 0x80:
            break
    return value, position
