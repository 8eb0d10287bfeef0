"""The pass `prune`: structured pruning, by which tensors get smaller."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model.scopes import scopes
from graphopt.pipeline.contract import Context, Declined, Effect, Finding, Pass, Rewrite
from graphopt.rewrite.layers import PRODUCERS
from graphopt.rewrite.names import Names
from graphopt.rewrite.selection import Globs
from graphopt.rewrite.shapes import Shapes
from passes.prune.activations import Activation, activations
from passes.prune.analysis import coupling
from passes.prune.channels import Channels, channels, settled
from passes.prune.compensation import Reader, bias_of, readers
from passes.prune.coupling import Components
from passes.prune.layers import Layers
from passes.prune.places import Ids, Place, Wide
from passes.prune.removal import Removal
from passes.prune.scores import Score, by_activations, by_gammas, by_weights
from passes.prune.selection import Bounds, below, lowest

__all__ = ["Prune"]

Scope = Literal["global", "layer"]


@dataclass(frozen=True)
class Prune(Pass):
    """Remove channels, with all the weights that write and read them; tensors get smaller.

    What is removed is as if it were zero wherever a layer sums over it. A channel takes along
    whatever it is computed with on the way from the layers that write it to those that read it:
    biases, normalizations, slopes, scales; through Concat, Split, Transpose, Reshape and the like;
    of all layers whose outputs are added, residual connections included; heads of attention, with
    their queries, keys and values; of depthwise convolutions the whole group, of grouped ones the
    same number in each group. (Fang et al., CVPR 2023, arXiv:2301.12900, call such a set a
    dependency group.) Interfaces stay: channels that reach an output of the model do not go.

    Exactly one of two parameters says what goes:

    - `ratio`: the share of channels with the lowest scores, of all together (scope "global") or of
      each group of coupled layers (scope "layer"). Of equal scores the first ones go.
    - `value`: channels with a score below it.

    The score of a channel c says what share it has in the layers that write and read it. Mean over
    these, s a sum over all weights that write c (rows W_c) or read it (columns W_c):

    - "magnitude": sqrt(mean of s_c / sum of s over all channels), s_c = ||W_c||_2^2
    - "l1": the same of s_c = ||W_c||_1, without the root (Li et al., ICLR 2017, arXiv:1608.08710)
    - "activation": as "magnitude" over the layers that read c, s_c = Var[x_c] ||W_c||_2^2 on the
      feeds of the run, and E[x_c^2] ||W_c||_2^2 for layers whose bias does not take the mean. What
      no weight reads, as the width of the heads of attention, stays.
    - "batchnorm": |gamma_c| of BatchNormalization as it is (Liu et al., ICCV 2017,
      arXiv:1708.06519); what has none stays.

    A channel that only zeros write, or only zeros read, scores 0. Scores see the model as it was
    before the first channel went, and quantized weights by what they dequantize to.

    With data, a lost channel c goes on to add its mean: the layers that read it get

        b_o += E[x_c] * sum_k W_ock

    where they have a bias of floats (Conv, Gemm, one matrix with an Add; x_c as in the model before
    pruning). A channel that is constant goes without a trace then, but at the padding of a Conv:
    there each tap k counts by the share of places where it meets none, if sizes are known, so that
    the mean is right. For the rest of what is gone, fine-tune.

    The main graph and the bodies of If, Loop and Scan are covered; channels that enter or leave a
    body stay. Declined, with the node in the way: channels that reach an output or an input, an
    operator without a rule or one that mixes channels (a softmax or a LayerNormalization over
    them), sizes that are computed when the model runs; and functions, whose tensors have no shapes
    (`inline` them). Weights that several layers share lose the same channels in all of them.

    Args:
        ratio: Share of channels to remove, 0 to 1.
        value: Threshold on the score, >= 0.
        scope: What `ratio` runs over.
        score: One of the scores above.
        multiple_of: Keep a multiple of so many channels, where a layer has as many: kernels work
            on blocks of 8 or 16.
        min_channels: Keep at least so many channels of each group.
        include: Globs on layers that may lose output channels: names of nodes, of outputs, of
            weights. Layers that write the same channels follow.
        exclude: Globs on layers that keep theirs.
        op_types: Only output channels of these operators, such as "Conv"; None: of all layers.
        compensate: Whether, with data, biases take what lost channels have added on average.

    Raises:
        GraphoptError: A parameter is out of range or does not go with another; a weight or an
            activation holds NaN or infinity; score "activation" without feeds.
    """

    name: ClassVar[str] = "prune"
    effect: ClassVar[Effect] = Effect.LOSSY

    ratio: float | None = None
    value: float | None = None
    scope: Scope = "global"
    score: Score = "magnitude"
    multiple_of: int = 1
    min_channels: int = 1
    include: Globs = "*"
    exclude: Globs = ""
    op_types: str | tuple[str, ...] | None = None
    compensate: bool = True

    def __post_init__(self) -> None:
        """Check the parameters."""
        given = [name for name in ("ratio", "value") if getattr(self, name) is not None]
        if len(given) != 1:
            raise GraphoptError(
                f"prune: give exactly one of ratio, value, not {' and '.join(given) or 'none'}",
                fix="for example prune(ratio=0.3)",
            )
        for name, most in (("ratio", 1.0), ("value", math.inf)):
            number = getattr(self, name)
            if number is not None and not (0 <= number <= most and math.isfinite(number)):
                bounds = "from 0 to 1" if most == 1 else "a finite number from 0"
                raise GraphoptError(f"prune: {name} must be {bounds}, not {number}")
        for name in ("multiple_of", "min_channels"):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise GraphoptError(f"prune: {name} must be an integer from 1, not {count!r}")
        for name, choices in (("scope", get_args(Scope)), ("score", get_args(Score))):
            chosen = getattr(self, name)
            if chosen not in choices:
                raise GraphoptError(
                    f"prune: {name} must be one of {', '.join(choices)}, not {chosen!r}"
                )
        if self.value is not None and self.scope != "global":
            raise GraphoptError("prune: scope does not go with value")

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined | Finding]:
        """Yield one rewrite per set of layers that lose channels together."""
        Shapes.forget(model)
        try:
            yield from _functions(model)
            components, grouped = settled(coupling(model))
            layers = Layers.of(model, components, self.include, self.exclude, self.op_types)
            whose = model.graph.name or "model"
            yield from layers.unmatched(whose)
            yield from layers.declined()
            seen = self._seen(model, components, layers, context)
            scores = self._scores(model, components, layers, seen)
            if self.score == "batchnorm" and np.isnan(scores).all():
                why = (
                    "no BatchNormalization scores a channel: cleanup folds them, so prune before it"
                )
                yield Finding(whose, why)
            groups = [g for g in channels(components, grouped, scores) if layers.chosen(g)]
            removal = Removal(model, components.coupling)
            told = readers(components.coupling.places, seen) if self.compensate else {}
            for done, (group, gone) in enumerate(
                zip(groups, self._selected(groups, layers), strict=True)
            ):
                context.progress("prune", done, len(groups))
                if gone.size:
                    yield self._rewrite(group, gone, layers, removal, told)
        finally:
            Shapes.forget(model)
            Names.forget(model)

    def _seen(
        self, model: ir.Model, components: Components, layers: Layers, context: Context
    ) -> tuple[Activation, ...]:
        if self.score == "activation" and context.feeds is None:
            raise GraphoptError(
                "score 'activation' needs data", fix="give calibration samples with --data"
            )
        if self.score != "activation" and not self.compensate:
            return ()
        return activations(model, components.coupling.places, layers.readers, context)

    def _scores(
        self,
        model: ir.Model,
        components: Components,
        layers: Layers,
        seen: Sequence[Activation],
    ) -> Wide:
        if self.score == "batchnorm":
            return by_gammas(components, [node for s in scopes(model) for node in s.graph])
        if self.score == "activation":
            places = components.coupling.places
            return by_activations(
                components,
                [(one, self.compensate and bias_of(places, one) is not None) for one in seen],
            )
        return by_weights(components, layers.scored(), self.score)

    def _selected(self, groups: Sequence[Channels], layers: Layers) -> list[Ids]:
        bounds = Bounds(self.min_channels, self.multiple_of)
        slices = [layers.slices(group) for group in groups]
        if self.value is not None:
            return below(groups, slices, self.value, bounds)
        together = self.scope == "global"
        return lowest(groups, slices, self.ratio or 0.0, bounds, together=together)

    def _rewrite(
        self,
        group: Channels,
        gone: Ids,
        layers: Layers,
        removal: Removal,
        told: Mapping[tuple[Place, int], Sequence[Reader]],
    ) -> Rewrite:
        kept = group.count - gone.size
        ids = np.concatenate([group.slices[one] for one in gone.tolist()])
        touched = layers.touched(group)
        run = self.score if self.value is not None else f"{self.score}, {self.scope}"
        readers_of = (one for at in group.axes for one in told.get(at, ()))
        compensated = [one for one in readers_of if np.isin(one.ids, ids).any()]

        def apply() -> None:
            for reader in compensated:
                removal.shift(reader.bias, reader.shift(ids))
            removal.remove(ids)

        return Rewrite(
            at=layers.first_writer(group),
            why=f"kept {kept} of {group.count} channels of {touched} layers ({run})",
            apply=apply,
            details={
                "channels": group.count,
                "kept": kept,
                "layers": touched,
                "compensated": len(compensated),
            },
        )


def _functions(model: ir.Model) -> Iterator[Declined]:
    for scope in scopes(model):
        if scope.function is not None and any(node.op_type in PRODUCERS for node in scope.graph):
            yield Declined(scope.name, "tensors of a function have no shapes: inline it first")
