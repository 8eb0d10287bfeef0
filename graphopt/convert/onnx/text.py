"""ONNX's own text syntax, in and out, bounded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx.numpy_helper
import onnx.parser
import onnx.printer
import onnx_ir as ir

from graphopt.convert.reasons import one_line
from graphopt.errors import GraphoptError
from graphopt.model import Saved, scopes, to_proto
from graphopt.model.atomic import mode_of, one_line_errors, staged
from graphopt.model.load import load_bytes
from graphopt.model.lossless import differences
from graphopt.model.tensor_protos import visit_tensors

SUFFIX = ".onnxtxt"

MAX_TEXT_BYTES = 256 << 20
"""What a text may have; the parser holds it and its tensors in memory."""

_MAX_WEIGHT_BYTES = 16 << 20
"""Weights that are written as text: some 5 to 10 characters for each byte."""

_MAX_DEPTH = 256
_BINARY = "write a binary model: name it .onnx"
_REMARK = re.compile(r"(doc_string|metadata_props|denotation|value_info|producer_\w+)\b.*")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"|#[^\n]*')


def read_text(path: Path) -> ir.Model:
    """Read a model that is written in ONNX's text syntax.

    Raises:
        GraphoptError: It is too large, nests too deep, or is no such text; the text says where.
    """
    size = path.stat().st_size
    if size > MAX_TEXT_BYTES:
        raise GraphoptError(
            f"has {size} bytes of text, more than the {MAX_TEXT_BYTES} that are read",
            file=path,
            fix="save the model in the binary format",
        )
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise GraphoptError(f"is no UTF-8 text: {error}", file=path) from error
    _check_nesting(text, path)
    try:
        proto = onnx.parser.parse_model(text)
    except onnx.parser.ParseError as error:
        raise GraphoptError(
            f"is no model in ONNX's text syntax: {one_line(error)}",
            file=path,
            fix="correct it",
        ) from error
    return load_bytes(proto.SerializeToString(), path)


def _check_nesting(text: str, path: Path) -> None:
    """Keep the parser, which calls itself for each body and type, from running out of stack."""
    depth = 0
    for bracket in re.findall(r"[(){}<>\[\]]", _QUOTED.sub("", text)):
        depth += 1 if bracket in "({<[" else -1
        if depth > _MAX_DEPTH:
            raise GraphoptError("its graphs or types nest too deep", file=path)


def write_text(model: ir.Model, path: Path) -> tuple[Saved, list[str]]:
    """Write a model in ONNX's text syntax, whole or not at all.

    Returns:
        What was written, and the fields that the syntax has no place for: doc strings, say.

    Raises:
        GraphoptError: Its weights are too large for text, the syntax cannot say what it computes,
            or the file cannot be written.
    """
    weights = sum(tensor.nbytes for tensor in _weights(model))
    if weights > _MAX_WEIGHT_BYTES:
        raise GraphoptError(
            f"has {weights} bytes of weights, more than the {_MAX_WEIGHT_BYTES} that fit in a text",
            file=path,
            fix=_BINARY,
        )
    proto = to_proto(model)
    text = onnx.printer.to_text(proto)
    lost = _lost(proto, text, path)
    content = f"{text.rstrip()}\n".encode()
    with one_line_errors(path), staged(path, mode_of(path)) as file:
        file.write(content)
        file.publish(path)
    return Saved(path, (), len(content)), lost


def _weights(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for scope in scopes(model):
        for value in scope.graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value


def _lost(proto: onnx.ModelProto, text: str, path: Path) -> list[str]:
    """Name what a text leaves out; raise where it is more than remarks."""
    try:
        read = onnx.parser.parse_model(text)
    except onnx.parser.ParseError as error:
        raise GraphoptError(
            f"ONNX's text syntax has no way to write this model: {one_line(error)}",
            file=path,
            fix=_BINARY,
        ) from error
    for model in (proto, read):
        visit_tensors(model, _in_one_form)
    fields = {where: where.rpartition(".")[2] for where in differences(proto, read)}
    missing = next((where for where, name in fields.items() if not _REMARK.match(name)), None)
    if missing is not None:
        raise GraphoptError(
            f"ONNX's text syntax has no way to write {missing} of this model",
            file=path,
            fix=_BINARY,
        )
    return sorted({name.partition("[")[0] for name in fields.values()})


def _in_one_form(tensor: onnx.TensorProto) -> None:
    """Let equal tensors have equal fields: numbers may stand in raw bytes or in lists."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return
    form = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name)
    form.data_type, form.doc_string = tensor.data_type, tensor.doc_string
    form.metadata_props.extend(tensor.metadata_props)
    tensor.CopyFrom(form)
