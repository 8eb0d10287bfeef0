"""One node that is to read and write integers."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt.model.scopes import Scope
from graphopt.rewrite.constants import constant, is_op, scalar
from graphopt.rewrite.selection import address
from graphopt.rewrite.shapes import Shapes
from graphopt.rewrite.uses import only_user
from passes.quantize.targets.rules import Kind, Rule


@dataclass(frozen=True, eq=False)
class Layer:
    """A node of an integer region.

    Args:
        node: The node.
        scope: Where it stands.
        rule: What the target says about its operator.
        activations: The inputs that are computed.
        constants: The inputs that are constants and no weight: the other summand of an Add.
        weight: The input that holds the weight.
        sum: An Add behind a MatMul that adds a bias, which the runtime makes part of the layer.
        clamp: A Relu or Clip behind it that the range of its output stands for.
    """

    node: ir.Node
    scope: Scope
    rule: Rule
    activations: tuple[int, ...]
    constants: tuple[int, ...] = ()
    weight: int | None = None
    sum: ir.Node | None = None
    clamp: ir.Node | None = None

    @property
    def product(self) -> ir.Value:
        """What it gives in front of its clamp."""
        return (self.node if self.sum is None else self.sum).outputs[0]

    @property
    def bias(self) -> tuple[ir.Node, int] | None:
        """Where its bias is read: a node, and which of its inputs."""
        if self.sum is not None:
            return self.sum, 1 if self.sum.inputs[0] is self.node.outputs[0] else 0
        index = self.rule.bias
        given = index is not None and len(self.node.inputs) > index
        return (self.node, index) if given and index is not None else None

    @property
    def at(self) -> str:
        """Its address."""
        return address(self.node, self.scope)

    @property
    def outputs(self) -> tuple[ir.Value, ...]:
        """What it gives to others, behind its clamp."""
        if self.clamp is None and self.sum is None:
            return tuple(output for output in self.node.outputs if output.name)
        return (self.product if self.clamp is None else self.clamp.outputs[0],)

    @property
    def reads(self) -> tuple[ir.Value, ...]:
        """The activations."""
        return tuple(value for i in self.activations if (value := self.node.inputs[i]) is not None)

    @property
    def keeps_scale(self) -> bool:
        """Whether its output has the scale of its input."""
        return self.rule.kind in (Kind.SAME, Kind.CLAMP)

    @property
    def relabels(self) -> bool:
        """Whether its output is its input with another scale."""
        return self.rule.kind == Kind.RELABEL


def bounds(clamp: ir.Node) -> tuple[float, float] | None:
    """Return the limits of a Relu or Clip; None where they are computed, or leave out 0."""
    if is_op(clamp, "Relu"):
        return 0.0, float("inf")
    low, high = (_bound(clamp, name, i) for i, name in ((1, "min"), (2, "max")))
    if low is None or high is None:
        return None
    return (low, high) if low <= 0.0 <= high and low < high else None


def _bound(clamp: ir.Node, attribute: str, index: int) -> float | None:
    nothing = float("-inf" if attribute == "min" else "inf")
    if attribute in clamp.attributes:
        return clamp.attributes.get_float(attribute, nothing)
    value = clamp.inputs[index] if len(clamp.inputs) > index else None
    if value is None:
        return nothing
    found = scalar(value)
    return None if found is None else float(found)


def clamp_behind(node: ir.Node) -> ir.Node | None:
    """Return the Relu or Clip that alone reads a node, in the same graph."""
    user = only_user(node.outputs[0])
    if user is None or user.graph is not node.graph or not is_op(user, "Relu", "Clip"):
        return None
    return user if user.inputs[0] is node.outputs[0] and bounds(user) is not None else None


def bias_behind(node: ir.Node, shapes: Shapes) -> ir.Node | None:
    """Return the Add that adds a bias to a MatMul, where a runtime makes one Gemm of both.

    ONNX Runtime does so where the sizes of both matrices are known; then no fusion is left for
    a MatMul of integers beside a sum of floats.
    """
    user = only_user(node.outputs[0])
    if not is_op(node, "MatMul") or user is None or not is_op(user, "Add"):
        return None
    known = shapes.static_shape(node.inputs[0])
    weight, added = constant(node.inputs[1]), (constant(value) for value in user.inputs)
    bias = next((tensor for tensor in added if tensor is not None), None)
    if known is None or len(known) < 2 or weight is None or bias is None:
        return None
    fits = len(weight.shape) == 2 and tuple(bias.shape) == (weight.shape[1],)
    return user if fits and user.graph is node.graph else None


def dequantizes(value: ir.Value | None) -> bool:
    """Whether a value comes from a DequantizeLinear."""
    return value is not None and is_op(value.producer(), "DequantizeLinear")


def stored_integers(value: ir.Value | None) -> bool:
    """Whether a value is a constant behind a DequantizeLinear: a weight quantized before."""
    producer = None if value is None else value.producer()
    return producer is not None and dequantizes(value) and constant(producer.inputs[0]) is not None


def quantized_only(value: ir.Value) -> bool:
    """Whether nothing but a QuantizeLinear reads a value."""
    uses = value.uses()
    return (
        bool(uses)
        and not value.is_graph_output()
        and all(is_op(use.node, "QuantizeLinear") and use.idx == 0 for use in uses)
    )
