"""The pass `threshold`: pruning without structure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, get_args

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Context, Declined, Effect, Pass, Rewrite
from graphopt.rewrite.layers import Role
from graphopt.rewrite.weights import Globs, Unusable, Weight, weights
from passes.threshold import wanda
from passes.threshold.decisions import Decision, counted, cut_elements
from passes.threshold.layout import Layout
from passes.threshold.moments import standard_deviation
from passes.threshold.rows import Rows, keep_largest, keep_pattern
from passes.threshold.scores import Score, Scored, scored
from passes.threshold.selection import Cut, plain, select, tail_shares
from passes.threshold.source import Array, Source
from passes.threshold.units import Blocks, Elements, Units

__all__ = ["Threshold"]

Scope = Literal["global", "layer", "channel"]

_PATTERN = re.compile(r"(\d{1,4}):(\d{1,4})")


@dataclass(frozen=True)
class Threshold(Pass):
    """Zero the weights whose score is below a threshold; keep those at or above it.

    Exactly one of four parameters says where the threshold lies:

    - `sparsity`: the k-th smallest score, k = round(sparsity * n), so that exactly k of the n
      weights are zero then. Weights that are zero already count; of equal scores the first ones
      go, in the order of the model. n runs over all weights together (scope "global"), each layer
      ("layer"), or each output channel ("channel"). Selected by streaming, never by sorting or
      copying all weights.
    - `value`: a number that scores are compared with.
    - `std`: so many standard deviations of the layer's weights, or with scope "global" of all.
    - `pattern`: "N:M", N largest of every M neighbours along the input channels are kept (Mishra
      et al. 2021, arXiv:2104.08378; "2:4" is what sparse tensor cores take). A shorter group at
      the end counts as filled up with zeros: it keeps N too.

    The score of a weight w of output channel W_c (all that is summed into it) of layer W:

    - "magnitude": |w|. The default of `value`, `std` and `pattern`.
    - "layer_normalized": |w| / ||W||_2
    - "channel_normalized": |w| / ||W_c||_2
    - "lamp": w^2 / (sum of v^2 over the v of W with |v| >= |w|) (Lee et al., ICLR 2021,
      arXiv:2010.07611). The largest weight of a layer scores 1, so no layer is emptied early.
    - "balanced_lamp": the same on w / sqrt(rms(W_c)). The default of `sparsity`: with BatchNorm
      folded, the scale of a channel is in part arbitrary (the next layer undoes it), in part
      importance; dividing by its square root stands halfway. benchmarks/threshold.py compares.
    - "wanda": |w| * ||X_j||_2, X_j the input channel it is multiplied with, on the feeds of the
      run (Sun et al., ICLR 2024, arXiv:2306.11695); compared within each output channel.

    Biases and normalizations are left alone unless asked for. Weights are found behind Constant
    nodes, Cast, Transpose and DequantizeLinear, in bodies and functions; a shared weight is
    decided once. Quantized weights are judged by what they dequantize to, and their zero is the
    zero point. Declined: weights that the caller may override or that a Gather or another
    operator reads too, those packed for a contrib operator, types without a zero.

    Args:
        value: Threshold on the score, >= 0.
        sparsity: Share of zeros, 0 to 1.
        std: Threshold in standard deviations, >= 0.
        pattern: "N:M" with 1 <= N < M.
        scope: What `sparsity` or `std` runs over. None: "global" for `sparsity` ("channel" with
            score "wanda"), "layer" for `std`.
        score: One of the scores above; None: the default.
        block: (r, c): blocks of r output channels by c elements of what is summed over (the input
            channel outermost) stay or go as one, by the root mean square of their scores;
            `sparsity` then counts blocks. (1, 9) prunes whole 3x3 kernels.
        include: Globs on names or `scope/name` of weights; one that matches lets a weight in.
        exclude: Globs that keep weights out.
        op_types: Only weights of these operators, such as "Conv"; None: of all layers.
        biases: Whether biases are pruned too.
        normalization: Whether scales and shifts of normalizations are pruned too.
        embeddings: Whether tables that a Gather reads are pruned too.

    Raises:
        GraphoptError: A parameter is out of range or does not go with another; a weight holds NaN
            or infinity; score "wanda" without feeds.
    """

    name: ClassVar[str] = "threshold"
    effect: ClassVar[Effect] = Effect.LOSSY

    value: float | None = None
    sparsity: float | None = None
    std: float | None = None
    pattern: str | None = None
    scope: Scope | None = None
    score: Score | None = None
    block: tuple[int, int] | None = None
    include: Globs = "*"
    exclude: Globs = ""
    op_types: str | tuple[str, ...] | None = None
    biases: bool = False
    normalization: bool = False
    embeddings: bool = False

    def __post_init__(self) -> None:
        """Check the parameters."""
        given = [name for name in _CRITERIA if getattr(self, name) is not None]
        if len(given) != 1:
            said = " and ".join(given) or "none"
            raise GraphoptError(
                f"threshold: give exactly one of {', '.join(_CRITERIA)}, not {said}",
                fix="for example threshold(sparsity=0.5)",
            )
        self._check_ranges()
        self._check_choices()
        self._check_combinations(given[0])

    def _check_ranges(self) -> None:
        for name, most in (("value", math.inf), ("sparsity", 1.0), ("std", math.inf)):
            number = getattr(self, name)
            if number is not None and not (0 <= number <= most and math.isfinite(number)):
                bounds = "from 0 to 1" if most == 1 else "a finite number from 0"
                raise GraphoptError(f"threshold: {name} must be {bounds}, not {number}")
        if self.pattern is not None:
            found = _PATTERN.fullmatch(self.pattern)
            if found is None or not 1 <= int(found[1]) < int(found[2]):
                raise GraphoptError(
                    f"threshold: pattern must be N:M with 1 <= N < M, not {self.pattern!r}",
                    fix='for example pattern="2:4"',
                )
        if self.block is not None and (len(self.block) != 2 or min(self.block) < 1):
            raise GraphoptError(
                f"threshold: block must be two sizes from 1 (r, c), not {self.block}"
            )

    def _check_choices(self) -> None:
        for name, choices in (("scope", get_args(Scope)), ("score", get_args(Score))):
            chosen = getattr(self, name)
            if chosen is not None and chosen not in choices:
                raise GraphoptError(
                    f"threshold: {name} must be one of {', '.join(choices)}, not {chosen!r}"
                )

    def _check_combinations(self, criterion: str) -> None:
        refusals = {
            f"scope does not go with {criterion}": self.scope is not None
            and criterion in ("value", "pattern"),
            "scope must be global or layer with std": self.scope == "channel"
            and criterion == "std",
            f"score {self.score!r} only goes with sparsity": criterion != "sparsity"
            and self.score in _LAMP,
            "score must be magnitude with std": criterion == "std"
            and self.score not in (None, "magnitude"),
            "block does not go with pattern": self.block is not None and criterion == "pattern",
            "block does not go with scope 'channel'": self.block is not None
            and self._scope == "channel",
        }
        for refusal, holds in refusals.items():
            if holds:
                raise GraphoptError(f"threshold: {refusal}")

    @property
    def _scope(self) -> Scope:
        if self.scope is not None:
            return self.scope
        if self.std is not None:
            return "layer"
        return "channel" if self.score == "wanda" and self.sparsity is not None else "global"

    @property
    def _score(self) -> Score:
        if self.score is not None:
            return self.score
        return "magnitude" if self.sparsity is None else "balanced_lamp"

    @property
    def _roles(self) -> tuple[Role, ...]:
        asked = {
            Role.WEIGHT: True,
            Role.BIAS: self.biases,
            Role.NORMALIZATION: self.normalization,
            Role.EMBEDDING: self.embeddings,
        }
        return tuple(role for role, wanted in asked.items() if wanted)

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        """Yield one rewrite for each weight that loses something."""
        usable: list[Weight] = []
        op_types = (self.op_types,) if isinstance(self.op_types, str) else self.op_types
        candidates = list(weights(model, self.include, self.exclude, op_types, roles=self._roles))
        if not candidates:
            wanted = self.include if isinstance(self.include, str) else ", ".join(self.include)
            yield Declined(wanted, "include, exclude and op_types leave no weight")
        norms = None
        if self._score == "wanda":
            found_weights = [found for found in candidates if isinstance(found, Weight)]
            norms = wanda.input_norms(model, found_weights, context)
        for found in candidates:
            why = found.why if isinstance(found, Unusable) else self._objection(found, norms)
            if why is not None:
                yield Declined(found.at, why)
            elif isinstance(found, Weight) and found.tensor.size > 0:
                usable.append(found)
        decisions = self._decisions(self._scored(usable, norms))
        for done, (weight, decision) in enumerate(zip(usable, decisions, strict=True)):
            context.progress("threshold", done, len(usable))
            if decision.changes:
                yield self._rewrite(weight, decision)

    def _objection(self, weight: Weight, norms: wanda.InputNorms | None) -> str | None:
        if weight.dtype == ir.DataType.FLOAT8E8M0:
            return f"{weight.dtype.name} has no zero"
        if self.pattern is not None and weight.uses[0].axes.input is None:
            return f"a {weight.role.value} has no input channels to find {self.pattern} along"
        return None if norms is None else norms.objection(weight)

    def _scored(
        self, usable: Sequence[Weight], norms: wanda.InputNorms | None
    ) -> list[Callable[[], Scored]]:
        """Prepare scores; what costs a pass over a weight is done when its turn comes."""
        score = self._score
        if norms is None:
            return [partial(_scored, weight, score) for weight in usable]
        return [partial(wanda.scored, weight, norms) for weight in usable]

    def _decisions(self, prepare: Sequence[Callable[[], Scored]]) -> Iterator[Decision]:
        if self.sparsity is not None and self._scope == "global":
            yield from self._select((one() for one in prepare), self.sparsity)
            return
        if self.std is not None and self._scope == "global":
            scores = [one() for one in prepare]
            threshold = self.std * standard_deviation(score.source for score in scores)
            yield from (self._below(score, threshold) for score in scores)
            return
        for one in prepare:
            yield self._alone(one())

    def _alone(self, score: Scored) -> Decision:
        """Decide a weight that does not depend on others."""
        if self.value is not None:
            return self._below(score, self.value)
        if self.std is not None:
            return self._below(score, self.std * standard_deviation([score.source]))
        if self.sparsity is not None and self._scope == "layer":
            return next(self._select([score], self.sparsity))
        return self._by_rows(score)

    def _units(self, score: Scored) -> Units:
        return Elements(score) if self.block is None else Blocks(score, *self.block)

    def _select(self, scores: Iterable[Scored], sparsity: float) -> Iterator[Decision]:
        finish = tail_shares if self._score in _LAMP else plain
        for units, cut in select((self._units(score) for score in scores), sparsity, finish):
            if isinstance(units, Elements):
                yield cut_elements(units, cut)
            else:
                yield _counted_cut(units, cut, None)

    def _below(self, score: Scored, threshold: float) -> Decision:
        # Compared in the type of the scores: 0.1 is to keep what was stored as 0.1.
        typed = float(score.source.real_dtype.type(threshold))
        cut = Cut(typed, 0, 0)
        shown = None if self.block is not None else score.magnitude_of(typed)
        return _counted_cut(self._units(score), cut, shown)

    def _by_rows(self, score: Scored) -> Decision:
        source, sparsity = score.source, self.sparsity
        layout = Layout.channels(source)
        if self.pattern is not None:
            kept, of = (int(number) for number in self.pattern.split(":"))
            layout = Layout.inputs(source)

        def keep(rows: Array) -> Array:
            if sparsity is None:
                return keep_pattern(rows, kept, of)
            return keep_largest(rows, round(sparsity * rows.shape[1]))

        return counted(source, Rows(score, layout, source.axes.groups, keep).masks)

    def _rewrite(self, weight: Weight, decision: Decision) -> Rewrite:
        size = decision.source.size
        rule = f"threshold {decision.threshold:.4g}"
        if self.pattern is not None:
            rule = f"pattern {self.pattern}"
        run = f"{self._score}, {self._scope}" if self.sparsity is not None else self._score
        return Rewrite(
            at=weight.at,
            why=f"{rule}, sparsity {decision.sparsity:.2f} -> "
            f"{decision.zeroed} of {size} zeroed ({run})",
            apply=lambda: weight.replace(decision.tensor()),
            details={
                "weight": weight.at,
                "threshold": decision.threshold,
                "sparsity": decision.sparsity,
                "elements": size,
            },
        )


_CRITERIA = ("value", "sparsity", "std", "pattern")
_LAMP = ("lamp", "balanced_lamp")


def _scored(weight: Weight, score: Score) -> Scored:
    return scored(Source(weight), score)


def _counted_cut(units: Units, cut: Cut, threshold: float | None) -> Decision:
    return counted(units.scored.source, lambda: units.masks(cut), threshold)
