"""What a runtime made of a quantized model: read from the graph as it has optimized it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from graphopt.model import load
from graphopt.model.scopes import scopes
from graphopt.pipeline.contract import Finding
from graphopt.pipeline.snapshot import snapshot
from graphopt.rewrite.constants import constant
from graphopt.rewrite.selection import address
from graphopt.runtime.session import Session
from passes.quantize.targets.rules import Target

_INTEGER_KERNELS = re.compile(
    r"QLinear\w+|QGemm|QAttention|QMoE|MatMulInteger\w*|ConvInteger\w*|DynamicQuantize\w+|MatMulNBits"
)
_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast"})
_WITHOUT_ARITHMETIC = frozenset(
    {"Shape", "Size", "Constant", "ConstantOfShape", "If", "Loop", "Scan", "Range", "NonZero"}
)
_RENAMED = re.compile(r"(_token_\d+|_nhwc|_\d+)$")
_REAL = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class Operator:
    """One node of the optimized graph that computes.

    Args:
        name: As the runtime calls it.
        op_type: Its operator.
        output: What it writes.
        integers: Whether it computes on integers.
    """

    name: str
    op_type: str
    output: str
    integers: bool


def operators(model: ir.Model, providers: Sequence[str] = ("cpu",)) -> tuple[Operator, ...]:
    """Start a model and return what the runtime runs, but conversions and shapes.

    Args:
        model: Stays as it is.
        providers: Where it is started.

    Raises:
        CheckFailed: The runtime does not take the model.
        ProviderAbsentError: A provider is not there.
    """
    named = snapshot(model)
    for scope in scopes(named):
        for node in scope.graph:
            # What the runtime makes of a node has its name; outputs get others.
            node.name = address(node, scope)
    with tempfile.TemporaryDirectory(prefix="graphopt-readback-") as folder:
        file = Path(folder) / "optimized.onnx"
        Session(named, providers, optimized=file)
        optimized = load(file)
        return tuple(
            Operator(
                node.name or "",
                node.op_type,
                node.outputs[0].name or "",
                _computes_on_integers(node),
            )
            for scope in scopes(optimized)
            for node in scope.graph
            if _computes(node)
        )


def _computes(node: ir.Node) -> bool:
    if node.op_type in _CONVERSIONS | _WITHOUT_ARITHMETIC or not node.outputs:
        return False
    if all(value is None or constant(value) is not None for value in node.inputs):
        return False
    return _computes_on_integers(node) or _touches_reals(node)


def _computes_on_integers(node: ir.Node) -> bool:
    return bool(_INTEGER_KERNELS.fullmatch(node.op_type)) or _is_integer(node.outputs[0])


def _is_integer(value: ir.Value | None) -> bool:
    """Whether a value is quantized; the runtime leaves values that it has made itself untyped."""
    while value is not None:
        if value.dtype is not None:
            return value.dtype in (ir.DataType.UINT8, ir.DataType.INT8)
        producer = value.producer()
        if producer is None:
            return False
        if _INTEGER_KERNELS.fullmatch(producer.op_type) or producer.op_type == "QuantizeLinear":
            return True
        if producer.op_type == "DequantizeLinear":
            return False
        value = producer.inputs[0]
    return False


def _touches_reals(node: ir.Node) -> bool:
    if node.outputs[0].dtype is not None:
        return node.outputs[0].dtype in _REAL
    return not any(_is_integer(value) for value in node.inputs if value is not None)


def findings(
    model: ir.Model,
    target: Target,
    declined: Mapping[str, str],
) -> list[Finding]:
    """Say what a quantized model still computes on floats, and why.

    Args:
        model: The quantized model.
        target: Its table says what could have been on integers.
        declined: Reasons, by the address of a layer.
    """
    known = {address(node, scope): node.op_type for scope in scopes(model) for node in scope.graph}
    found = operators(model, target.providers)
    left = [operator for operator in found if not operator.integers]
    integers = len(found) - len(left)
    summary = Finding(
        model.graph.name or "model",
        f"{integers} of {len(found)} operators run on integers",
        {"operator": "", "runs": f"{integers}/{len(found)} integers"},
    )
    return [summary, *(_left_float(operator, known, target, declined) for operator in left)]


def _left_float(
    operator: Operator,
    known: Mapping[str, str],
    target: Target,
    declined: Mapping[str, str],
) -> Finding:
    at = operator.name
    while at not in known and (shorter := _RENAMED.sub("", at)) != at:
        at = shorter
    op_type = known.get(at, operator.op_type)
    why = declined.get(at)
    if why is None:
        rule = target.rules.get(op_type)
        why = (
            f"{target.name} runs no {op_type} on integers"
            if rule is None
            else "what it reads or what reads it is float"
        )
    return Finding(at or operator.output, why, {"operator": operator.op_type, "runs": "float"})
