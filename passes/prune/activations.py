"""What is known of the channels that layers read, on the samples of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from graphopt.calibration import ChannelMean, ChannelSquares, Statistic, statistics
from graphopt.model.scopes import addresses
from graphopt.pipeline.contract import Context
from graphopt.rewrite.weights import Use, Weight
from passes.prune.places import Ids, Place, Places, Wide
from passes.threshold.source import Source


@dataclass(frozen=True)
class Activation:
    """The channels that a layer multiplies its weight with.

    Args:
        use: The layer.
        source: Its weight, as it was when this was measured.
        at: The axis of input channels of the weight.
        groups: How many runs of rows of the weight have slices of their own along it.
        ids: The slices of the weight along it.
        means: The mean of each channel.
        squares: The mean square of each.
    """

    use: Use
    source: Source
    at: tuple[Place, int]
    groups: int
    ids: Ids
    means: Wide
    squares: Wide


def activations(
    model: ir.Model, places: Places, weights: Mapping[tuple[Place, int], Weight], context: Context
) -> tuple[Activation, ...]:
    """Run the model on the samples; return what it has shown of the layers that read channels.

    Args:
        model: As it is before anything is removed.
        places: Its slices.
        weights: What reads channels, by the axis along which it does.
        context: The run; without samples, nothing is returned.

    Raises:
        GraphoptError: An activation is NaN.
    """
    if context.feeds is None:
        return ()
    names = addresses(model)
    sites: list[tuple[Weight, Use, tuple[Place, int], Ids, str]] = []
    wanted: dict[str, list[Callable[[], Statistic]]] = {}
    for (place, axis), weight in weights.items():
        for use in weight.uses:
            ids, activation = places.known(place, axis), use.slot.activation
            if ids is None or activation is None or use.activation not in names:
                continue
            name = names[use.activation]
            sites.append((weight, use, (place, axis), ids, name))
            for kind in (ChannelMean, ChannelSquares):
                wanted.setdefault(name, []).append(partial(kind, activation.axis))
    seen = statistics(model, wanted, context).found if wanted else {}
    found = []
    for weight, use, at, ids, name in sites:
        measured = _of(seen.get(name, ()), use)
        if measured is not None and measured[0].size == ids.size:
            groups = ids.size // int(weight.tensor.shape.numpy()[at[1]])
            found.append(Activation(use, Source(weight), at, groups, ids, *measured))
    return tuple(found)


def _of(seen: tuple[Statistic, ...], use: Use) -> tuple[Wide, Wide] | None:
    """Return means and mean squares along the channels of what a layer reads."""
    means = squares = None
    for one in seen:
        if use.slot.activation is None or not isinstance(one, ChannelMean | ChannelSquares):
            continue
        if one.axis == use.slot.activation.axis and one.count:
            if isinstance(one, ChannelMean):
                means = one.means
            else:
                squares = one.sums / one.count
    return None if means is None or squares is None else (means, squares)
