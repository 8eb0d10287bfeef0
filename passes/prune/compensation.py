"""What removed channels add on average, given to the biases of the layers that read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import constant, is_op
from graphopt.rewrite.dims import static
from graphopt.rewrite.uses import only_user
from graphopt.rewrite.weights import Use
from passes.prune.activations import Activation
from passes.prune.places import Ids, Place, Places, Wide
from passes.threshold.source import Array

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)


@dataclass(frozen=True)
class Reader:
    """A layer that sums over channels, and has a bias that can take what some of them add.

    Args:
        ids: The slices of its weight along the axis of input channels.
        bias: Its bias.
        parts: What each input channel adds per unit to each output channel, (output, channels of
            a group), the weights of its taps added up.
        means: The mean of each input channel.
    """

    ids: Ids
    bias: Place
    parts: Callable[[], Wide]
    means: Wide

    def shift(self, gone: Ids) -> Wide:
        """Return what channels that go have added to each output channel on average."""
        parts = self.parts()
        lost = np.where(np.isin(self.ids, gone), self.means, 0.0).reshape(-1, parts.shape[1])
        runs = parts.reshape(len(lost), -1, parts.shape[1])
        return np.asarray((runs * lost[:, None, :]).sum(axis=2).reshape(-1))


def readers(
    places: Places, activations: Iterable[Activation]
) -> Mapping[tuple[Place, int], Sequence[Reader]]:
    """Return the layers that can be compensated, by the axes along which they read channels."""
    found: dict[tuple[Place, int], list[Reader]] = {}
    for one in activations:
        bias = bias_of(places, one)
        if bias is not None:
            parts = _parts(one, _covered(places, one.use))
            found.setdefault(one.at, []).append(Reader(one.ids, bias, parts, one.means))
    return found


def bias_of(places: Places, one: Activation) -> Place | None:
    """Return the float constant that a layer, or an Add behind it, adds to what it computes."""
    use, node, axes = one.use, one.use.node, one.use.axes
    if axes.output is None or use.slot.activation is None or use.slot.activation.input != 0:
        return None
    plain = all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
    if node.op_type in ("Conv", "Gemm") and plain:
        place = places.read(node, 2)
    elif node.op_type == "MatMul" and _is_matrix(one):
        add = only_user(node.outputs[0])
        if add is None or not is_op(add, "Add") or add.graph is not node.graph:
            return None
        place = places.read(add, 1 if add.inputs[0] is node.outputs[0] else 0)
    else:
        return None
    tensor = None if place is None else constant(place.value)
    if place is None or tensor is None or place.value.is_graph_output():
        return None
    fits = tuple(tensor.shape) == (one.source.shape[axes.output],)
    return place if fits and tensor.dtype in _FLOATS else None


def _is_matrix(one: Activation) -> bool:
    """Whether a weight is one matrix: a bias that a batch of them shares cannot take all shifts."""
    axes = one.use.axes
    others = set(range(len(one.source.shape))) - {axes.output, axes.input}
    return all(one.source.shape[axis] == 1 for axis in others)


def _parts(site: Activation, covered: Wide) -> Callable[[], Wide]:
    def parts() -> Wide:
        axes, stored = site.use.axes, site.source.stored()
        whole = tuple(slice(0, size) for size in site.source.shape)
        real = site.source.real(stored, whole).astype(np.float64)
        real = np.moveaxis(real, (axes.output or 0, axes.input or 0), (0, 1))
        if covered.shape == real.shape[2:]:
            real = real * covered
        return np.asarray(real.reshape(*real.shape[:2], -1).sum(axis=2))

    return parts


def _covered(places: Places, use: Use) -> Wide:
    """Return for each tap of a kernel the share of places where it does not lie on the padding.

    Where sizes are not known before the model runs, 1 for each.
    """
    node = use.node
    kernel, before, behind = (
        static((places.dims(Place(value)) or ())[2:]) if value is not None else None
        for value in (node.inputs[1], node.inputs[0], node.outputs[0])
    )
    if not kernel or before is None or behind is None:
        return np.ones(())
    rank = len(kernel)
    if len(before) != rank or len(behind) != rank:
        return np.ones(())
    strides = node.attributes.get_ints("strides", None) or [1] * rank
    dilations = node.attributes.get_ints("dilations", None) or [1] * rank
    covered: Array = np.ones(())
    for axis in range(rank):
        taps = np.arange(kernel[axis]) * dilations[axis]
        reach = (behind[axis] - 1) * strides[axis] + int(taps[-1]) + 1
        first = _padded(node, axis, rank, max(0, reach - before[axis]))
        at = np.arange(behind[axis])[None, :] * strides[axis] - first + taps[:, None]
        inside = ((at >= 0) & (at < before[axis])).mean(axis=1)
        covered = np.multiply.outer(covered, inside)
    return covered


def _padded(node: ir.Node, axis: int, rank: int, missing: int) -> int:
    """Return how much padding lies in front of an axis.

    Source: the ONNX operator specification, Conv, on `auto_pad` and `pads`.

    Args:
        node: A convolution.
        axis: Which axis of places.
        rank: How many there are.
        missing: How much padding the places of the output need in all.
    """
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    if auto == "SAME_UPPER":
        return missing // 2
    if auto == "SAME_LOWER":
        return missing - missing // 2
    return (node.attributes.get_ints("pads", None) or [0] * rank)[axis]
