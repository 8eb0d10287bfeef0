"""What a table of a target says about an operator: rules as data."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.rewrite.constants import ONNX_DOMAINS
from graphopt.rewrite.shapes import Shapes

Condition = Callable[[ir.Node, Shapes], str | None]
"""Says why a rule does not hold for a node; None: it does."""


class Kind(enum.Enum):
    """What an operator does with integers."""

    COMPUTE = "compute"
    """Sums products of activations and weights in integers: what quantization is for."""

    ELEMENTWISE = "elementwise"
    """Has an integer kernel that takes inputs of any scale and gives any scale."""

    SAME = "same-scale"
    """Passes numbers on: its inputs and outputs share one scale."""

    RELABEL = "relabel"
    """Is a positive multiple of its input, moved and limited: the same integers, limited, with
    another scale and zero point. It costs nothing, or one Clip of integers."""

    CLAMP = "clamp"
    """Limits numbers: the range of the layer in front of it says the same, or a Clip of integers
    of the same scale does."""


@dataclass(frozen=True)
class Rule:
    """How one operator is quantized.

    Args:
        kind: What it does with integers.
        inputs: The inputs that hold activations, or weights; None: all.
        bias: The input that holds a bias.
        float_output: Whether the integer kernel can give floats, so that its output is quantized
            only where integers are read behind it.
        integers: Whether the operator itself is written on integers (all runtimes run it so),
            because the target does not fuse it between DequantizeLinear and QuantizeLinear.
        backward: Whether it is drawn into a region by what reads it alone: quantizing in front of
            it costs no more than behind it.
        factor: Whether a product with (or quotient by) a positive constant is a relabelling, which
            any runtime can read: the scale is multiplied, and no operator stays.
        when: Nodes that the rule holds for.
    """

    kind: Kind
    inputs: tuple[int, ...] | None = (0,)
    bias: int | None = None
    float_output: bool = False
    integers: bool = False
    backward: bool = False
    factor: bool = False
    when: Condition | None = None


RELABELLED = Rule(Kind.RELABEL, None)
"""A product with a positive constant."""


@dataclass(frozen=True)
class Target:
    """A runtime: what it runs as integers, and how it must be written.

    Args:
        name: As `quantize(target=...)` spells it.
        rules: By operator of ONNX's own domain.
        activations: The types that activations may have for integer kernels.
        weights: The types that weights may have, likewise.
        symmetric: Whether activations must have the zero point 0.
        quantized_bias: Whether a bias is written as int32.
        clamps: Whether a Relu or Clip behind a layer is fused whatever the zero point; otherwise
            only where the range of the type says the same.
        source: Where the table comes from.
        half: Whether it computes in float16; otherwise such models are made float32 first.
        refused: Types of activations with which it does not load a model at all.
        providers: The execution providers that show, on any machine, what becomes of a model.
    """

    name: str
    rules: Mapping[str, Rule]
    activations: tuple[ir.DataType, ...]
    weights: tuple[ir.DataType, ...]
    source: str
    symmetric: bool = False
    quantized_bias: bool = True
    clamps: bool = False
    half: bool = True
    refused: tuple[ir.DataType, ...] = ()
    providers: tuple[str, ...] = ()

    def rule(self, node: ir.Node) -> Rule | None:
        """Return the rule for the operator of a node."""
        return self.rules.get(node.op_type) if node.domain in ONNX_DOMAINS else None


def only(attribute: str, *values: str, default: str = "") -> Condition:
    """Return the condition that an attribute has one of some values."""

    def holds(node: ir.Node, _: Shapes) -> str | None:
        value = node.attributes.get_string(attribute, default) or default
        return None if value in values else f"{node.op_type} with {attribute} {value}"

    return holds


def one_output(node: ir.Node, _: Shapes) -> str | None:
    """Hold for nodes whose further outputs (indices of MaxPool) nobody asks for."""
    further = [output for output in node.outputs[1:] if output.name]
    return f"{node.op_type} with {1 + len(further)} outputs" if further else None
