"""`correct_bias`: what quantization moves in the mean is taken off again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.calibration import ChannelMean, collect
from graphopt.errors import GraphoptError
from graphopt.model import load
from graphopt.pipeline.contract import Context, Declined, Effect, Pass, Rewrite
from graphopt.pipeline.snapshot import snapshot
from graphopt.rewrite.names import Names
from graphopt.rewrite.selection import Globs, selects
from graphopt.runtime.compare import compare
from graphopt.runtime.feeds import Feeds
from passes.quantize.bias_sites import Bias, Layer, Matches, Wide, bias_of, layers

__all__ = ["CorrectBias"]

REFERENCE = "quantize.reference"


@dataclass(frozen=True)
class CorrectBias(Pass):
    """Give the outputs of each quantized layer the mean that they have in the float model.

    The error of rounded weights and inputs has a mean of its own in each output channel c, which
    the layers behind take for signal. It is taken off the bias:

        b_c += E[y_c] - E[q_c]

    with y and q what the layer computes, its bias added, in the float and in the quantized model on
    the feeds (Nagel et al., ICCV 2019, arXiv:1906.04721, section 4.2; with data as in its
    appendix D). Layers are corrected in the order of the graph in a few stages, each measured with
    those before it corrected, as an early error moves all later ones. Where all together bring the
    outputs no nearer to the float model's on the feeds, stages that do not are taken back: there,
    the pass does no harm.

    Biases are corrected where they are: float, int32 with its scale, the Add behind a MatMul,
    dynamic and weight-only layers alike. Layers are matched by the name of what they compute, or of
    what reads it. No node is added: a layer without a bias that runs on integers is declined.

    Args:
        reference: The float model's file; None: the model as it was before the `quantize` (or
            `quantize_weights`, `quantize_dynamic`) of the same run.
        stages: In how many stages layers are corrected, at most: each takes a run over the
            samples up to its layers. Of layers in one stage that follow each other, the later ones
            are corrected for errors that the earlier ones have lost.
        samples: The most samples that are run.
        include: Globs on layers of the float model.
        exclude: Globs that keep layers out.
        op_types: Operators of the layers; None: all.

    Raises:
        GraphoptError: A parameter is out of range; there are no feeds, or no float model.
    """

    name: ClassVar[str] = "correct_bias"
    effect: ClassVar[Effect] = Effect.LOSSY

    reference: str | None = None
    stages: int = 32
    samples: int = 256
    include: Globs = "*"
    exclude: Globs = ""
    op_types: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check the parameters."""
        for name in ("stages", "samples"):
            if getattr(self, name) < 1:
                raise GraphoptError(
                    f"correct_bias: {name} must be positive, not {getattr(self, name)}"
                )

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        """Yield one rewrite per bias."""
        if context.feeds is None:
            raise GraphoptError(
                "correct_bias needs data", fix="give calibration samples with --data"
            )
        reference = self._reference(context)
        try:
            run = _Run(reference, model, context, context.feeds.take(self.samples))
            found: list[_Site] = []
            for one in self._sites(reference, model):
                if isinstance(one, Declined):
                    yield one
                else:
                    found.append(one)
            yield from run.settle(found, self.stages, partial(self._again, reference))
            for site in found:
                tensor = run.corrected.get(site.layer.at)
                if tensor is not None:
                    yield self._rewrite(site, tensor, run, model)
        finally:
            Names.forget(model)

    def _reference(self, context: Context) -> ir.Model:
        if self.reference is not None:
            return load(Path(self.reference))
        held = context.cache.get(REFERENCE)
        if not isinstance(held, ir.Model):
            raise GraphoptError(
                "correct_bias needs the float model",
                fix='run it behind quantize, or name it: correct_bias(reference="float.onnx")',
            )
        return held

    def _sites(self, reference: ir.Model, model: ir.Model) -> Iterator[_Site | Declined]:
        matches = Matches(model)
        op_types = (self.op_types,) if isinstance(self.op_types, str) else self.op_types
        taken: set[tuple[int, int]] = set()
        for layer in layers(reference):
            if not selects(layer.node, layer.scope, self.include, self.exclude, op_types):
                continue
            matched = matches.of(layer)
            if matched is None:
                yield Declined(layer.at, f"the quantized model has no {layer.value.name!r}")
                continue
            scope, value = matched
            bias = bias_of(scope, value, layer.channels)
            if isinstance(bias, str):
                yield Declined(layer.at, bias)
                continue
            if (id(bias.node), bias.index) not in taken:
                taken.add((id(bias.node), bias.index))
                yield _Site(layer, scope.at(value.name), bias)

    def _again(self, reference: ir.Model, copy: ir.Model) -> dict[str, _Site]:
        """Find the sites of a copy by the address of their layer."""
        return {one.layer.at: one for one in self._sites(reference, copy) if isinstance(one, _Site)}

    def _rewrite(
        self, site: _Site, tensor: ir.TensorProtocol, run: _Run, model: ir.Model
    ) -> Rewrite:
        shift = run.shifts[site.layer.at]
        largest = float(np.abs(shift).max())
        return Rewrite(
            site.layer.at,
            f"mean of {site.layer.channels} channels moved by up to {largest:.3g}"
            f" ({run.before:.1f} -> {run.after:.1f} dB at the outputs)",
            partial(site.bias.put, tensor, model),
            details={"layer": site.layer.at, "largest": largest, "rms": float(_rms(shift))},
        )


@dataclass(frozen=True)
class _Site:
    """A layer of the float model and the bias that stands for its own in the quantized one.

    Args:
        layer: The layer.
        at: The address of what it computes in the quantized model.
        bias: Its bias there.
    """

    layer: Layer
    at: str
    bias: Bias


class _Run:
    """The search for biases, on copies of the quantized model.

    Attributes:
        corrected: The final constant of each bias, by the layer.
        shifts: What was added, by the layer.
        before: The SQNR of the outputs in dB before, over all outputs.
        after: The same behind.
    """

    def __init__(
        self, reference: ir.Model, model: ir.Model, context: Context, feeds: Feeds
    ) -> None:
        self.corrected: dict[str, ir.TensorProtocol] = {}
        self.shifts: dict[str, Wide] = {}
        self._reference, self._model = reference, model
        self._context, self._feeds = context, feeds
        self.before = self.after = 0.0
        self._why: dict[str, str] = {}

    def settle(
        self, sites: Sequence[_Site], stages: int, again: Callable[[ir.Model], dict[str, _Site]]
    ) -> Iterator[Declined]:
        """Correct stage by stage; what a stage makes worse is taken back.

        Args:
            sites: The layers, in order.
            stages: At most so many.
            again: Finds the same sites in a copy of the model.
        """
        if not sites:
            return
        wanted = self._means(
            self._reference,
            {one.layer.scope.at(one.layer.value.name): one.layer.axis for one in sites},
        )
        before = self._noise(self._model)
        stage_list = list(_parts(sites, stages))
        best = self._staged(stage_list, wanted, again, None)
        after = self._noise(best) if self.shifts else before
        if after >= before:
            # Errors that cancel each other are rare, and then stages are judged one by one.
            self.shifts.clear()
            best = self._staged(stage_list, wanted, again, before)
            after = self._noise(best) if self.shifts else before
        self.before, self.after = _decibels(before), _decibels(after)
        final = again(best)
        for one in sites:
            tensor = final[one.layer.at].bias.tensor
            if one.layer.at in self.shifts and tensor is not None:
                self.corrected[one.layer.at] = tensor
            else:
                yield Declined(one.layer.at, self._why[one.layer.at])

    def _staged(
        self,
        stages: Sequence[Sequence[_Site]],
        wanted: Mapping[str, Wide],
        again: Callable[[ir.Model], dict[str, _Site]],
        noise: float | None,
    ) -> ir.Model:
        """Correct a copy stage by stage.

        Args:
            stages: The layers.
            wanted: The means of the float model.
            again: Finds the layers in a copy.
            noise: That of the outputs before; stages that do not lower it are taken back. None:
                none is.
        """
        best = self._model
        for done, stage in enumerate(stages):
            self._context.progress("correct_bias", done, len(stages))
            copy = snapshot(best)
            found = self._means(best, {one.at: one.layer.axis for one in stage})
            moved = self._move(stage, again(copy), wanted, found, copy)
            for one in stage:
                self._why[one.layer.at] = (
                    "its mean brings the outputs no nearer to the float model's"
                    if one.layer.at in moved
                    else "its mean is that of the float model, as near as its bias can be stored"
                )
            less = self._noise(copy) if noise is not None and moved else None
            if not moved or (less is not None and noise is not None and less >= noise):
                continue
            best, noise = copy, less
            self.shifts |= moved
        return best

    def _move(
        self,
        stage: Sequence[_Site],
        sites: Mapping[str, _Site],
        wanted: Mapping[str, Wide],
        found: Mapping[str, Wide],
        copy: ir.Model,
    ) -> dict[str, Wide]:
        """Correct the biases of one stage in a copy; return the shifts that moved something."""
        shifts: dict[str, Wide] = {}
        for one in stage:
            mean = wanted.get(one.layer.scope.at(one.layer.value.name))
            now = found.get(one.at)
            if mean is None or now is None or mean.shape != now.shape:
                continue
            shift = mean - now
            bias = sites[one.layer.at].bias
            tensor = bias.moved(shift) if np.isfinite(shift).all() else None
            if tensor is not None:
                bias.put(tensor, copy)
                shifts[one.layer.at] = shift
        return shifts

    def _means(self, model: ir.Model, axes: Mapping[str, int]) -> dict[str, Wide]:
        """Return the mean of each channel of values, by address."""
        watch = {at: [ChannelMean(axis)] for at, axis in axes.items()}
        missing = collect(
            model,
            watch,
            self._feeds,
            providers=self._context.providers,
            memory=self._context.calibration_memory,
            progress=self._context.progress,
        )
        means = {at: one.means for at, (one,) in watch.items() if at not in missing}
        return {at: mean for at, mean in means.items() if mean is not None}

    def _noise(self, candidate: ir.Model) -> float:
        """Return the noise of the outputs relative to their power, summed over outputs."""
        errors = compare(self._reference, candidate, self._feeds, providers=self._context.providers)
        return sum(10 ** (-error.sqnr_db / 10) for error in errors)


def _parts(sites: Sequence[_Site], stages: int) -> Iterator[Sequence[_Site]]:
    """Cut layers into runs of about the same length."""
    count = min(stages, len(sites))
    ends = [round(len(sites) * stage / count) for stage in range(count + 1)]
    return (sites[start:stop] for start, stop in pairwise(ends))


def _decibels(noise: float) -> float:
    return -10 * math.log10(noise) if noise > 0 else math.inf


def _rms(shift: Wide) -> float:
    return float(np.sqrt(np.mean(np.square(shift))))
