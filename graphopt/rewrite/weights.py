"""Which values are weights: what layers read, followed from each constant to all its readers.

A constant is an initializer of any scope or the output of a Constant node. It is followed through
nodes that only pass its numbers on (Identity, Cast, Transpose, a Reshape that moves ones,
QuantizeLinear, DequantizeLinear), into bodies, and into functions that are called with it. What
makes it a weight is a layer at the end of one way; what makes it unusable is any other reader at
the end of another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import pairwise

import onnx_ir as ir

from graphopt.model.scopes import Scope, scopes
from graphopt.rewrite.constants import constant, held, hold, is_op
from graphopt.rewrite.layers import PRODUCERS, Axes, Role, Slot, slot
from graphopt.rewrite.passing import Passed, Quantization, passed_on

__all__ = ["Globs", "Quantization", "Unusable", "Use", "Weight", "weights"]

Globs = str | tuple[str, ...]


@dataclass(frozen=True)
class Use:
    """One layer that reads a weight.

    Args:
        node: The layer.
        scope: Where the layer stands.
        slot: What the layer does with the input, its axes those of the stored tensor.
    """

    node: ir.Node
    scope: Scope
    slot: Slot

    @property
    def role(self) -> Role:
        """What the weight is to this layer."""
        return self.slot.role

    @property
    def axes(self) -> Axes:
        """How this layer reads the axes of the stored tensor."""
        return self.slot.axes

    @property
    def activation(self) -> ir.Value | None:
        """The value that the weight is multiplied with, where the layer's inputs hold it."""
        if self.slot.activation is None:
            return None
        return self.node.inputs[self.slot.activation.input]


@dataclass(frozen=True)
class Weight:
    """A constant that layers read, once, however many read it.

    Args:
        name: The initializer's, or that of the output of a Constant node.
        scope: Where it is defined.
        value: Holds the tensor.
        uses: The layers that read it, in the order of the graph.
        quantization: How its integers stand for real numbers; None: it holds real numbers.
    """

    name: str
    scope: Scope
    value: ir.Value
    uses: tuple[Use, ...]
    quantization: Quantization | None = None

    @property
    def at(self) -> str:
        """Its address, as `Rewrite.at` wants it."""
        return self.scope.at(self.name)

    @property
    def role(self) -> Role:
        """What it is to the first layer that reads it."""
        return self.uses[0].role

    @property
    def tensor(self) -> ir.TensorProtocol:
        """The stored tensor, as it is now."""
        tensor = held(self.value)
        if tensor is None:
            raise ValueError(f"{self.at} is no constant any more")
        return tensor

    @property
    def dtype(self) -> ir.DataType:
        """The stored element type."""
        return self.tensor.dtype

    def replace(self, tensor: ir.TensorProtocol) -> None:
        """Let every reader read another tensor of the same shape and type.

        Raises:
            ValueError: Shape or type differ.
        """
        before = self.tensor
        if tensor.dtype != before.dtype or tuple(tensor.shape) != tuple(before.shape):
            raise ValueError(f"{self.at} is {before.dtype}{before.shape}")
        hold(self.value, tensor)


@dataclass(frozen=True)
class Unusable:
    """A constant that a layer reads, and that cannot be edited for that layer.

    Args:
        at: Its address, as in `Weight`.
        why: The reason, in one clause.
    """

    at: str
    why: str


def weights(
    model: ir.Model,
    include: Globs = "*",
    exclude: Globs = "",
    op_types: str | Collection[str] | None = None,
    *,
    roles: Collection[Role] = (Role.WEIGHT,),
) -> Iterator[Weight | Unusable]:
    """Find the weights of a model in all its scopes, each once, in the order of definition.

    Args:
        model: Read as the iterator advances; replacing tensors meanwhile is fine.
        include: Globs on names or addresses (`scope/name`); one that matches lets a weight in.
        exclude: Globs that keep a weight out, whatever `include` says.
        op_types: Operators of the layers that must read it (`Conv`); None: any.
        roles: What is looked for. A constant without such a role is passed over in silence; one
            with such a role and another is unusable.

    Yields:
        Weights, and what would be one but for a reason.
    """
    wanted = None if op_types is None else {op_types} if isinstance(op_types, str) else op_types
    owners = {id(scope.graph): scope for scope in scopes(model)}
    for scope in list(owners.values()):
        for value in _constants(scope):
            at = scope.at(value.name)
            if not _selected(value.name or "", at, include, exclude):
                continue
            readers = _Readers(model, owners)
            readers.follow(value)
            found = readers.judge(scope, value, roles, wanted)
            if found is not None:
                yield found


def _constants(scope: Scope) -> list[ir.Value]:
    values = [v for v in scope.graph.initializers.values() if v.const_value is not None]
    for node in scope.graph:
        if is_op(node, "Constant") and constant(node.outputs[0]) is not None:
            values.append(node.outputs[0])
    return values


def _selected(name: str, at: str, include: Globs, exclude: Globs) -> bool:
    return _matches(name, at, include) and not _matches(name, at, exclude)


def _matches(name: str, at: str, globs: Globs) -> bool:
    patterns = (globs,) if isinstance(globs, str) else globs
    return any(fnmatchcase(name, glob) or fnmatchcase(at, glob) for glob in patterns)


@dataclass
class _Readers:
    """Everything at the end of the ways from one constant."""

    model: ir.Model
    owners: dict[int, Scope]
    uses: list[Use] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    quantizations: list[Quantization | None] = field(default_factory=list)

    def follow(self, root: ir.Value) -> None:
        """Walk from a constant to all its readers."""
        tensor = held(root)
        if tensor is None:
            return
        pending = [(root, Passed.root(tensor))]
        seen: set[tuple[ir.Value, Passed]] = set()
        while pending:
            value, passed = pending.pop()
            way = (value, passed)
            if way in seen:  # two calls of one function
                continue
            seen.add(way)
            if value.is_graph_output():
                self.others.append("an output of the graph")
            for node, index in list(value.uses()):
                pending.extend(self._read(node, index, passed))

    def _read(self, node: ir.Node, index: int, passed: Passed) -> Iterable[tuple[ir.Value, Passed]]:
        function = self.model.functions.get(node.op_identifier())
        if function is not None:
            return [(function.inputs[index], passed)] if index < len(function.inputs) else []
        if is_op(node, "Shape", "Size") or (is_op(node, "CastLike") and index == 1):
            return []  # these read no numbers
        further = passed_on(node, index, passed)
        if isinstance(further, Passed):
            return [(node.outputs[0], further)]
        found = further or self._slot(node, index, passed)
        if isinstance(found, Slot):
            self._use(node, found, passed)
        else:
            self.others.append(found)
        return []

    def _slot(self, node: ir.Node, index: int, passed: Passed) -> Slot | str:
        found = slot(node, index, len(passed.axes))
        if found is not None:
            return found
        if is_op(node, "Add") and _adds_bias(node, index):
            return Slot(Role.BIAS)
        return _article(node.op_type)

    def _use(self, node: ir.Node, found: Slot, passed: Passed) -> None:
        if passed.opaque is not None:
            found = replace(found, opaque=passed.opaque)
        axes = passed.stored(found.axes)
        if axes is None:
            self.others.append("a layer that reads it in another shape")
            return
        quantization = passed.quantization
        if found.scale is not None and not passed.integers:
            quantization = passed.dequantized(
                node.inputs[found.scale],
                None if found.zero_point is None else node.inputs[found.zero_point],
                axes.output,
            )
            if quantization is None:
                found = replace(found, opaque="quantized with a scale that is computed")
        scope = self.owners.get(id(node.graph))
        if scope is None:
            self.others.append("a node outside the model")
            return
        self.uses.append(Use(node, scope, replace(found, axes=axes)))
        self.quantizations.append(quantization)

    def judge(
        self,
        scope: Scope,
        value: ir.Value,
        roles: Collection[Role],
        op_types: Collection[str] | None,
    ) -> Weight | Unusable | None:
        """Say whether the constant is a weight, given all its readers."""
        if not any(use.role in roles for use in self.uses):
            return None
        if op_types is not None and not any(use.node.op_type in op_types for use in self.uses):
            return None
        at = scope.at(value.name)
        why = next(self._objections(value, roles, op_types), None)
        if why is not None:
            return Unusable(at, why)
        return Weight(value.name or "", scope, value, tuple(self.uses), self.quantizations[0])

    def _objections(
        self, value: ir.Value, roles: Collection[Role], op_types: Collection[str] | None
    ) -> Iterator[str]:
        # Up to IR version 3 all weights are listed as inputs, and fixed all the same.
        if value.is_graph_input() and (self.model.ir_version or 0) > 3:
            yield "the caller may override it: it is also an input of the graph"
        if self.others:
            yield f"shared by {self.others[0]}"
        for use in self.uses:
            yield from _objections_to(use, roles, op_types)
        if any(one != other for one, other in pairwise(self.quantizations)):
            yield "its readers dequantize it differently"
        tensor = held(value)
        if tensor is None:
            return
        if self.quantizations[0] is None and not tensor.dtype.is_floating_point():
            yield f"{tensor.dtype.name} without a scale has no magnitude"
        if self._is_outer_product(tensor):
            yield "an outer product sums over nothing"

    def _is_outer_product(self, tensor: ir.TensorProtocol) -> bool:
        """Whether it is only spread out, as the frequencies of rotary embeddings are."""
        return all(
            use.node.op_type in ("MatMul", "FusedMatMul")
            and all(tensor.shape[axis] == 1 for axis in use.axes.reduction)
            for use in self.uses
        )


def _objections_to(
    use: Use, roles: Collection[Role], op_types: Collection[str] | None
) -> Iterator[str]:
    if use.slot.opaque is not None:
        yield use.slot.opaque
    if use.role not in roles:
        yield f"shared by {_article(use.node.op_type)} as {use.role.value}"
    if op_types is not None and use.node.op_type not in op_types:
        yield f"shared by {_article(use.node.op_type)}"


def _adds_bias(node: ir.Node, index: int) -> bool:
    other = node.inputs[1 - index]
    producer = None if other is None else other.producer()
    return producer is not None and producer.op_type in PRODUCERS


def _article(op_type: str) -> str:
    return f"{'an' if op_type[:1] in 'AEIO' else 'a'} {op_type}"
