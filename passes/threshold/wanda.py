"""Input norms for Wanda: |w| times the L2 norm of what it is multiplied with.

Source: Sun et al., A Simple and Effective Pruning Approach for Large Language Models, ICLR 2024
(arXiv:2306.11695), equation 1. For a convolution, the norm of an input channel runs over samples
and places, as if each place were a token; what falls off the border is not subtracted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx_ir as ir

from graphopt.calibration import ChannelSquares, statistics
from graphopt.errors import GraphoptError
from graphopt.model.scopes import addresses
from graphopt.pipeline.contract import Context
from graphopt.rewrite.weights import Use, Weight
from passes.threshold.scores import Scored
from passes.threshold.source import Array, Source

_Key = tuple[str, int]


@dataclass(frozen=True)
class InputNorms:
    """Norms of the channels of activations.

    Args:
        found: By the address of the activation and its channel axis.
        addresses: By the activation.
        missing: Why others have none, by address.
    """

    found: Mapping[_Key, Array]
    addresses: Mapping[ir.Value, str]
    missing: Mapping[str, str]

    def objection(self, weight: Weight) -> str | None:
        """Say why the inputs of a weight's layers were not watched, if so."""
        for use in weight.uses:
            why = _objection(use)
            if why is None:
                reason = self.missing.get(self.key(use)[0])
                why = None if reason is None else f"its input cannot be watched: {reason}"
            if why is not None:
                return why
        return None

    def key(self, use: Use) -> _Key:
        """Return where the norms of a layer's input are found."""
        value, activation = use.activation, use.slot.activation
        if value is None or activation is None:
            raise ValueError(f"{use.node.name!r} has no activation to watch")
        return self.addresses[value], activation.axis


def _objection(use: Use) -> str | None:
    value = use.activation
    if value is None:
        return f"the input norms of {use.node.op_type} cannot be watched: it keeps a state"
    if value.is_initializer() or not value.name:
        return "what it is multiplied with is no activation"
    return None


def input_norms(model: ir.Model, weights: Iterable[Weight], context: Context) -> InputNorms:
    """Run the model on the feeds and return norms of what the weights are multiplied with.

    Raises:
        GraphoptError: There are no feeds, or an activation is NaN.
    """
    if context.feeds is None:
        raise GraphoptError("score 'wanda' needs data", fix="give calibration samples with --data")
    norms = InputNorms({}, addresses(model), {})
    keys = {
        norms.key(use): None for weight in weights for use in weight.uses if _objection(use) is None
    }
    wanted: dict[str, list[Callable[[], ChannelSquares]]] = {}
    for name, axis in keys:
        wanted.setdefault(name, []).append(partial(ChannelSquares, axis))
    seen = statistics(model, wanted, context)
    found: dict[_Key, Array] = {}
    missing = dict(seen.missing)
    for name, watching in seen.found.items():
        for statistic in watching:
            if not isinstance(statistic, ChannelSquares) or not statistic.count:
                missing[name] = "no sample reaches it"
            else:
                found[name, statistic.axis] = statistic.norms
    return replace(norms, found=found, missing=missing)


def scored(weight: Weight, norms: InputNorms) -> Scored:
    """Multiply a weight by the norms of its inputs; of several layers, their root sum of squares.

    Raises:
        GraphoptError: The layers of a shared weight read it along different axes.
    """
    source = Source(weight)
    squares = sum(
        np.square(_along(source, use, norms.found[norms.key(use)])) for use in weight.uses
    )
    return Scored(source, np.sqrt(np.asarray(squares)))


def _along(source: Source, use: Use, norms: Array) -> Array:
    axes, activation = use.axes, use.slot.activation
    if axes.input is None or activation is None:
        raise GraphoptError(f"{source.at!r} has no input channels for score 'wanda'")
    shape = [1] * len(source.shape)
    shape[axes.input] = source.shape[axes.input]
    if activation.groups == 1 or axes.output is None:
        return norms.reshape(shape)
    # Conv with groups: a run of output channels reads a run of input channels of its own.
    outputs = source.shape[axes.output]
    rows = norms.reshape(activation.groups, -1)[np.arange(outputs) * activation.groups // outputs]
    shape[axes.output] = outputs
    return (rows if axes.output < axes.input else rows.T).reshape(shape)
