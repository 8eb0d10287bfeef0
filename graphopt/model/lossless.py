"""Where two models differ, fields without a meaning aside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import onnx
from google.protobuf.message import Message

_UNORDERED = {
    "value_info": "name",
    "opset_import": "domain",
    "metadata_props": "key",
    "quantization_annotation": "tensor_name",
    "quant_parameter_tensor_names": "key",
    "sparse_initializer": "",
}
_ABSENT_WHEN_EMPTY = frozenset(
    {(onnx.AttributeProto, "g"), (onnx.AttributeProto, "tp"), (onnx.ValueInfoProto, "type")}
)
_DEFAULT_DOMAIN = "ai.onnx"


def differences(before: onnx.ModelProto, after: onnx.ModelProto) -> Iterator[str]:
    """Yield the paths of the fields in which two models differ.

    Orders that mean nothing are ignored (of types, opsets, metadata, annotations), and so is
    whether a field holds its default or nothing, whether the default domain is written out,
    whether the names of unused last outputs are written as empty, and where the data of a tensor
    once were that are inside now.

    Args:
        before: The model as it was.
        after: What became of it.
    """
    yield from _message(before, after, "")


def _message(before: Message, after: Message, path: str) -> Iterator[str]:
    if before == after:
        return
    left, right = _fields(before), _fields(after)
    for name in sorted({*left, *right}):
        where = f"{path}.{name}" if path else name
        one, other = left.get(name), right.get(name)
        if (type(before), name) in _ABSENT_WHEN_EMPTY:
            present: Any = other if one is None else one
            one, other = one or type(present)(), other or type(present)()
        if one is None or other is None:
            # The first IR versions say the type of an attribute by the field they fill.
            if name != "type" or not isinstance(before, onnx.AttributeProto):
                yield where
        else:
            yield from _field(name, one, other, where)


def _fields(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        name = descriptor.name
        if name == "domain" and value == _DEFAULT_DOMAIN:
            continue
        if name == "external_data" and message.data_location != onnx.TensorProto.EXTERNAL:
            continue
        if isinstance(message, onnx.NodeProto) and name == "output":
            value = _without_last_empty(value)  # noqa: PLW2901 # the field, as it is compared
        if descriptor.message_type is None and not isinstance(value, Sequence):
            keep = value != descriptor.default_value or name in {"dim_value", "elem_type"}
        elif isinstance(value, str | bytes):
            keep = bool(value) or name == "dim_param"
        else:
            keep = True if not isinstance(value, Sequence) else len(value) > 0
        if keep:
            fields[name] = value
    return fields


def _without_last_empty(names: Sequence[str]) -> list[str]:
    kept = list(names)
    while kept and not kept[-1]:
        kept.pop()
    return kept


def _field(name: str, left: Any, right: Any, where: str) -> Iterator[str]:
    if isinstance(left, Message):
        yield from _message(left, right, where)
    elif isinstance(left, str | bytes | int | float):
        # NaN is not equal to itself, and is no difference.
        if left != right and not (left != left and right != right):  # noqa: PLR0124 # NaN
            yield where
    elif name in _UNORDERED:
        yield from _unordered(_UNORDERED[name], left, right, where)
    elif len(left) != len(right):
        yield where
    else:
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            yield from _field("", one, other, f"{where}[{index}]")


def _unordered(key: str, left: Any, right: Any, where: str) -> Iterator[str]:
    one, other = _keyed(key, left), _keyed(key, right)
    for name in sorted({*one, *other}):
        place = f"{where}[{name[0]}]"
        if name not in one or name not in other:
            yield place
        else:
            yield from _message(one[name], other[name], place)


def _keyed(key: str, messages: Any) -> dict[tuple[str, int], Message]:
    """Index messages by name and, where a name is there several times, by its turn."""
    keyed: dict[tuple[str, int], Message] = {}
    turns: dict[str, int] = {}
    for message in messages:
        name = getattr(message, key) if key else message.values.name
        if key == "domain" and name == _DEFAULT_DOMAIN:
            name = ""
        turn = turns.get(name, 0)
        if turn and message == keyed[name, 0]:
            continue
        keyed[name, turn] = message
        turns[name] = turn + 1
    return keyed
