"""How far two models' outputs are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Protocol

import numpy as np
import onnx_ir as ir

from graphopt.errors import CheckFailed
from graphopt.runtime.difference import Difference, Tolerance, as_tensors, float_eps
from graphopt.runtime.feeds import Batch, Feeds
from graphopt.runtime.session import Session

_NOISE_BATCHES = 3


@dataclass(frozen=True)
class OutputError:
    """The error of one output over all samples, streamed.

    Integers, bools and strings (differing: 1, equal: 0) are measured like numbers. Elements where
    both models have a NaN, or the same infinity, count as equal.

    Args:
        name: The output.
        max_abs: Largest absolute difference; inf where a NaN or an infinity does not match.
        max_rel: Largest difference relative to the reference's magnitude, over the elements where
            the reference is not 0.
        rms: Root of the mean squared difference.
        cosine: 1 minus the cosine similarity of the flattened outputs.
        sqnr_db: Signal to quantization noise ratio, in dB; inf when equal.
        argmax_agreement: Share of rows with the same argmax along the last axis, where a tie of the
            reference agrees with each of its winners; None if no rows.
        finite: Whether the candidate has no NaN and no infinity that the reference lacks.
        equal: Whether they are equal up to float reassociation (integers, strings: identical).
        elements: How many elements were compared.
        dtype: The reference's element type, in ONNX's words.
        bound: The largest difference that reassociation explains, and what `equal` holds
            `max_abs` against: see `difference.Difference` and `Comparison`.
        outside: How many elements are outside of the tolerance asked for; None if none was.
        measured: How many elements are finite numbers in both.
    """

    name: str
    max_abs: float
    max_rel: float
    rms: float
    cosine: float
    sqnr_db: float
    argmax_agreement: float | None
    finite: bool
    equal: bool
    elements: int = 0
    dtype: str = ""
    bound: float = 0.0
    outside: int | None = None
    measured: int = 0


def compare(
    reference: ir.Model | str | PathLike[str],
    candidate: ir.Model | str | PathLike[str],
    feeds: Feeds,
    *,
    providers: Sequence[str] = ("cpu",),
    batch: int = 32,
    tolerances: Mapping[str, Tolerance] | None = None,
) -> tuple[OutputError, ...]:
    """Run both models on the same feeds and return one error per output of the reference.

    Args:
        reference: The model that is right.
        candidate: The model that should be.
        feeds: Inputs of both; never held all at once, nor are outputs.
        providers: Where both run, the preferred provider first.
        batch: Samples per run.
        tolerances: By output name, `*` for all others.

    Raises:
        CheckFailed: Either model does not run, or an output is missing, or has another dtype or
            rank. The text names which of the two.
        GraphoptError: The feeds do not fit the reference.
    """
    first = Session(reference, providers, title="reference")
    second = Session(candidate, providers, title="candidate")
    feeds = feeds.for_model(reference if isinstance(reference, ir.Model) else first.inputs)
    return compare_sessions(first, second, feeds, batch=batch, tolerances=tolerances)


def compare_sessions(
    reference: Session,
    candidate: Session,
    feeds: Feeds,
    *,
    batch: int = 32,
    tolerances: Mapping[str, Tolerance] | None = None,
) -> tuple[OutputError, ...]:
    """As `compare`, for sessions that exist and feeds that are laid out for them."""
    comparison = Comparison(reference, candidate, tolerances=tolerances)
    for samples in feeds.batches(batch):
        comparison.run(samples)
    return comparison.errors()


class Candidate(Protocol):
    """What a session can be compared with: another one, or another runtime."""

    @property
    def title(self) -> str:
        """What messages call it."""
        ...

    @property
    def output_names(self) -> Sequence[str]:
        """Names of what `run` gives."""
        ...

    def run(self, batch: Batch, /) -> Batch:
        """Run one batch; return the outputs by name."""
        ...


class Comparison:
    """Two sessions side by side, and the errors of the outputs so far.

    Where an output differs by more than its dtype and magnitude explain, the reference is asked how
    much it moves by itself: without ONNX Runtime's graph optimizations, which reassociate, and with
    its float inputs changed in their last bit (a backward error of one rounding). A network that
    amplifies rounding, such as a sigmoid near 0 or a quantizer near a step, moves then, too; twice
    that movement counts as explained. This is measured on the first few batches that need it.

    Args:
        reference: Its outputs are what is compared.
        candidate: Must have the reference's inputs and outputs.
        names: The values to compare; None: the reference's outputs.
        tolerances: By output name, `*` for all others.
        measure_noise: Ask the reference so; without, a difference is explained by dtype and
            magnitude alone, and the reference runs once per batch.
    """

    def __init__(
        self,
        reference: Session,
        candidate: Candidate,
        *,
        names: Sequence[str] | None = None,
        tolerances: Mapping[str, Tolerance] | None = None,
        measure_noise: bool = True,
    ) -> None:
        names = reference.output_names if names is None else names
        tolerances = tolerances or {}
        missing = [name for name in names if name not in candidate.output_names]
        if missing:
            raise CheckFailed(f"{candidate.title} has no output {missing[0]!r}")
        self._reference = reference
        self._candidate = candidate
        self._differences = {
            name: Difference(tolerances.get(name, tolerances.get("*"))) for name in names
        }
        self._unoptimized: Session | None = None
        self._noise_batches = _NOISE_BATCHES if measure_noise else 0

    def run(self, samples: Batch) -> tuple[Batch, Batch]:
        """Run one batch through both models; return the reference's and the candidate's outputs."""
        expected = self._reference.run(samples)
        actual = self._candidate.run(samples)
        for name, difference in self._differences.items():
            self._add(name, difference, expected[name], actual[name])
        if self._noise_batches and any(item.unexplained for item in self._differences.values()):
            self._noise_batches -= 1
            self._measure_noise(samples, expected)
        return expected, actual

    def _measure_noise(self, samples: Batch, expected: Batch) -> None:
        if self._unoptimized is None:
            self._unoptimized = self._reference.unoptimized()
        for moved in (
            self._unoptimized.run(samples),
            self._reference.run(_last_bit_changed(samples)),
        ):
            for name, difference in self._differences.items():
                for a, b in zip(as_tensors(expected[name]), as_tensors(moved[name]), strict=False):
                    if a.shape == b.shape and a.dtype == b.dtype:
                        difference.add_noise(a, b)

    def _add(self, name: str, difference: Difference, expected: object, actual: object) -> None:
        want, have = as_tensors(expected), as_tensors(actual)
        who = f"{self._candidate.title}: output {name!r}"
        if len(want) != len(have):
            raise CheckFailed(f"{who} has {len(have)} elements, the reference has {len(want)}")
        for a, b in zip(want, have, strict=True):
            if a.dtype.kind != b.dtype.kind or a.dtype.itemsize != b.dtype.itemsize:
                raise CheckFailed(f"{who} has dtype {b.dtype}, the reference has {a.dtype}")
            if a.shape != b.shape:
                shapes = f"{list(b.shape)}, the reference has {list(a.shape)}"
                raise CheckFailed(f"{who} has shape {shapes}")
            difference.add(a, b)

    @property
    def differences(self) -> Mapping[str, Difference]:
        """What `errors` is made of, by output, and what was allowed."""
        return self._differences

    def errors(self) -> tuple[OutputError, ...]:
        """The error of each output over the batches that ran."""
        return tuple(
            OutputError(
                name=name,
                max_abs=difference.max_abs,
                max_rel=difference.max_rel,
                rms=difference.rms,
                cosine=difference.cosine,
                sqnr_db=difference.sqnr_db,
                argmax_agreement=difference.argmax_agreement,
                finite=difference.finite,
                equal=difference.equal,
                elements=difference.elements,
                dtype=difference.dtype,
                bound=difference.bound,
                outside=difference.outside,
                measured=difference.measured,
            )
            for name, difference in self._differences.items()
        )


def _last_bit_changed(samples: Batch) -> Batch:
    generator = np.random.default_rng(0)
    changed: Batch = {}
    for name, array in samples.items():
        eps = float_eps(array.dtype)
        if eps is None:
            changed[name] = array
        else:
            signs = generator.integers(0, 2, array.shape) * 2 - 1
            changed[name] = (array.astype(np.float64) * (1 + eps * signs)).astype(array.dtype)
    return changed
