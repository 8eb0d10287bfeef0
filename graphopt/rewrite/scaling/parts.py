"""The constants that take part when channels are scaled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.rewrite.constants import constant
from graphopt.rewrite.layers import Role
from graphopt.rewrite.scaling.lanes import Lane
from graphopt.rewrite.weights import Unusable, Use, Weight, weights

Wide = npt.NDArray[np.float64]


class Refused(Exception):
    """Why channels cannot be scaled.

    Args:
        why: The reason, in one clause.
    """


class ForkError(Refused):
    """Scales could come from either of two activations that are multiplied.

    Args:
        node: The product.
        why: As in `Refused`.
    """

    def __init__(self, node: ir.Node, why: str) -> None:
        super().__init__(why)
        self.node = node


@dataclass(frozen=True)
class Part:
    """A constant that is scaled with the channels.

    Args:
        node: The node that reads it.
        index: As which input.
        lane: The channel of each element of the stored tensor, as `lanes` has it; -1: of none.
        power: 1 where it is multiplied by the scales; -1 where it is divided by them.
        weight: What it is, where it is the weight of a layer; None: a bias or the like.
    """

    node: ir.Node
    index: int
    lane: Lane
    power: int
    weight: Weight | None = None

    @property
    def tensor(self) -> ir.TensorProtocol:
        """The stored tensor, as it is now."""
        if self.weight is not None:
            return self.weight.tensor
        found = constant(self.node.inputs[self.index])
        if found is None:
            raise ValueError(f"input {self.index} of {self.node.name!r} is no constant any more")
        return found

    def factor(self, scales: Wide) -> Wide:
        """Return what the tensor is multiplied with, given the scale of each channel."""
        if scales.size == 0:
            return np.ones(())
        picked = np.where(self.lane < 0, 1.0, scales[self.lane])
        return np.asarray(picked if self.power > 0 else 1 / picked, np.float64)

    def largest(self, count: int, magnitudes: npt.NDArray[Any]) -> Wide:
        """Return the largest magnitude of each channel.

        Args:
            count: How many channels there are.
            magnitudes: Absolute values, of the shape of the tensor or 1 along axes that were
                reduced.
        """
        found = np.zeros(count)
        spread = np.broadcast_shapes(self.lane.shape, magnitudes.shape)
        numbers = self.lane.reshape((1,) * (len(spread) - self.lane.ndim) + self.lane.shape)
        others = tuple(axis for axis, size in enumerate(numbers.shape) if size == 1)
        reduced = np.max(magnitudes, axis=others, keepdims=True, initial=0.0)
        numbers = np.broadcast_to(numbers, reduced.shape)
        inside = numbers >= 0
        np.maximum.at(found, numbers[inside], reduced[inside].astype(np.float64))
        return found


class Weights:
    """The weights of a model by the node and the input that reads them.

    Args:
        model: Read once, now.
    """

    def __init__(self, model: ir.Model) -> None:
        self._found: dict[tuple[ir.Node, int], tuple[Weight, Use]] = {}
        self._unusable: dict[str, str] = {}
        self._finite: dict[ir.Value, bool] = {}
        for one in weights(model, roles=(Role.WEIGHT,)):
            if isinstance(one, Unusable):
                self._unusable[one.at] = one.why
                continue
            for use in one.uses:
                for index in _indices(use):
                    self._found[use.node, index] = (one, use)

    def at(self, node: ir.Node, index: int) -> tuple[Weight, Use] | None:
        """Return the weight that a node reads as an input; None where that is none."""
        return self._found.get((node, index))

    def uses(self, weight: Weight) -> set[tuple[ir.Node, int]]:
        """Return all inputs of nodes that read a weight."""
        return {(use.node, index) for use in weight.uses for index in _indices(use)}

    def is_finite(self, weight: Weight) -> bool:
        """Whether a weight held neither NaN nor infinity when this was first asked."""
        if weight.value not in self._finite:
            self._finite[weight.value] = bool(np.isfinite(weight.tensor.numpy()).all())
        return self._finite[weight.value]

    def all(self) -> Mapping[tuple[ir.Node, int], tuple[Weight, Use]]:
        """Return all weights by node and input."""
        return self._found


def _indices(use: Use) -> list[int]:
    """The inputs of a layer that may hold this weight: those that are not its activation."""
    activation = use.slot.activation
    if activation is None:
        return []
    if use.node.op_type in ("MatMul", "Gemm", "FusedMatMul"):
        return [1 - activation.input]
    return [1]
