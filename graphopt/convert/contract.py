"""What a conversion is asked for, and what it gives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import onnx_ir as ir

from graphopt.convert.parity import Parity
from graphopt.errors import GraphoptError
from graphopt.model import Limits
from graphopt.runtime.difference import Tolerance

Dim = str | int
"""A dynamic dimension's name, or a fixed size."""

_SHAPE = re.compile(r"\s*([^\[\]\s]+)\s*\[([^\[\]]*)\]\s*")
_NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Options:
    """What the user may ask of a conversion, whatever the framework.

    Args:
        opset: Version of the default operator set; None: the exporter's choice.
        input_names: New names of the first inputs, in order.
        output_names: New names of the first outputs, in order.
        static: Keep every dimension at its size in the example inputs.
        dynamic_shapes: By input, in the source's names: one entry per dimension, a name where it
            may vary. Inputs that are not mentioned vary along axis 0, the batch.
        data: Example inputs by name, where the source has none: what `open_feeds` reads.
        model: For weights without a network: `module:callable` that makes the network.
        state_dict_key: For a checkpoint of several dicts: which of them holds the weights.
        signature: Of a source with several: which one is converted.
        layout: "keep", or "nchw": images go in and come out with channels first.
        allow_pickle: Read sources that can run any code when they are read.
        trust: Types, by full name, that a source may hold beside those known to be harmless.
        cleanup: Whether the pipeline `cleanup` runs over what was exported; None: it does, but
            over what is ONNX already.
        limits: What a source that is ONNX already may ask for.
        keep_source_paths: Keep the stack traces and folders that an exporter writes into nodes.
        tolerance: What the outputs may differ by; None: what float reassociation explains.
    """

    opset: int | None = None
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    static: bool = False
    dynamic_shapes: Mapping[str, tuple[Dim, ...]] = field(default_factory=dict)
    data: str | None = None
    model: str | None = None
    state_dict_key: str | None = None
    signature: str | None = None
    layout: Literal["keep", "nchw"] = "keep"
    allow_pickle: bool = False
    trust: tuple[str, ...] = ()
    cleanup: bool | None = None
    limits: Limits = field(default_factory=Limits)
    keep_source_paths: bool = False
    tolerance: Tolerance | None = None

    def __post_init__(self) -> None:
        if self.static and self.dynamic_shapes:
            raise GraphoptError("static and dynamic shapes exclude each other", fix="give one")


@dataclass(frozen=True)
class Conversion:
    """A converted model and its proof.

    Args:
        model: The model, in memory.
        parity: What was compared with the source framework.
        notes: What the user should know, one line each: a dimension that could not be made
            dynamic, a size that was not checked.
    """

    model: ir.Model
    parity: tuple[Parity, ...]
    notes: tuple[str, ...] = ()


def parse_shape(text: str) -> tuple[str, tuple[Dim, ...]]:
    """Read `tokens[batch, sequence, 8]`: an input, and a name or a size per dimension.

    Raises:
        GraphoptError: The text has another form.
    """
    match = _SHAPE.fullmatch(text)
    parts = [part.strip() for part in match[2].split(",")] if match and match[2].strip() else []
    if match is None or not all(_NAME.fullmatch(part) or part.isdecimal() for part in parts):
        raise GraphoptError(
            f"{text!r} is not the shape of an input",
            fix="write its dimensions in ONNX's notation, as in 'tokens[batch, sequence, 8]'",
        )
    return match[1], tuple(int(part) if part.isdecimal() else part for part in parts)
