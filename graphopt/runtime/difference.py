"""The difference between two streams of tensors, and whether float reassociation explains it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.runtime.feeds import Array

Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_CHUNK = 1 << 20
"""Elements that are converted to float64 at a time: 8 MB for each operand."""

_ROUNDINGS: Mapping[str, tuple[float, float]] = {
    "float64": (2.0**-52, 128),
    "float32": (2.0**-23, 128),
    "float16": (2.0**-10, 16),
    "bfloat16": (2.0**-7, 4),
}
"""By dtype: the spacing of floats at 1 (eps), and how many eps of an output's largest magnitude two
evaluation orders may be apart.

A sum of n products that is evaluated in another order moves by about sqrt(n) eps of the summands'
magnitude (Higham and Mary, A New Approach to Probabilistic Rounding Error Analysis, SIAM J. Sci.
Comput. 41(5), 2019), and the layers of a network add their errors like a random walk: with n =
1,000 and 16 layers that is 128 eps (real models at hand stay below 10). Half-precision kernels sum
in float32 and round once per operator, so that there only the number of layers counts. A swapped
weight or a lost term is orders of magnitude above these bounds."""

_SMALL_FLOATS = (2.0**-2, 1.0)
"""float8 and float4: rounding differences flip the last bit of one or two bits of mantissa."""


@dataclass(frozen=True)
class Tolerance:
    """An element passes when |candidate - reference| <= atol + rtol * |reference|.

    Args:
        rtol: Relative tolerance.
        atol: Absolute tolerance, in the output's unit.
    """

    rtol: float = 0.0
    atol: float = 0.0


def as_tensors(value: object) -> tuple[Array, ...]:
    """Flatten what a session returns for one output: a tensor, sequence, map or None.

    Maps are read in the order of their keys, and the keys are compared as tensors too. A sequence
    of maps over the same keys (as a ZipMap returns) becomes its keys and one matrix of values.
    """
    if value is None:
        return ()
    if isinstance(value, np.ndarray):
        return (value,)
    if isinstance(value, Mapping):
        keys = sorted(value)
        return (np.asarray(keys), *(t for key in keys for t in as_tensors(np.asarray(value[key]))))
    if isinstance(value, list):
        if value and all(
            isinstance(item, Mapping) and item.keys() == value[0].keys() for item in value
        ):
            keys = sorted(value[0])
            return (np.asarray(keys), np.asarray([[item[key] for key in keys] for item in value]))
        return tuple(tensor for item in value for tensor in as_tensors(item))
    return (np.asarray(value),)


class Difference:
    """Accumulates how far a candidate's tensors are from a reference's.

    Args:
        tolerance: If given, the elements outside of it are counted.
    """

    def __init__(self, tolerance: Tolerance | None = None) -> None:
        self._tolerance = tolerance
        self._outside = 0
        self._identical = True
        self._nonfinite_match = True
        self._exact = True
        self._largest = 0.0
        self._bound_factor = 0.0
        self._squared_error = 0.0
        self._squared_reference = 0.0
        self._squared_candidate = 0.0
        self._product = 0.0
        self.measured = 0
        self._rows = 0
        self._agreeing_rows = 0
        self._max_abs = 0.0
        self._noise = 0.0
        self.max_rel = 0.0
        self.finite = True
        self.elements = 0
        self.dtype = ""

    def add(self, reference: Array, candidate: Array) -> None:
        """Add one tensor of each; they have the same dtype and shape."""
        self.dtype = self.dtype or _onnx_name(reference.dtype)
        self.elements += reference.size
        if _is_float(reference.dtype):
            self._exact = False
            eps, factor = _ROUNDINGS.get(reference.dtype.name, _SMALL_FLOATS)
            self._bound_factor = max(self._bound_factor, eps * factor)
        self._add_rows(reference, candidate)
        for a, b in _chunks(reference, candidate):
            if a.dtype.kind in "OSUT":
                differs = (a != b).astype(np.float64)
                self._add_numbers(np.zeros_like(differs), differs)
            else:
                if a.dtype.kind in "iu":
                    self._identical &= bool(np.array_equal(a, b))
                self._add_numbers(a.astype(np.float64), b.astype(np.float64))

    def add_noise(self, reference: Array, moved: Array) -> None:
        """Add what the reference's tensor becomes by another order of its sums alone."""
        if not _is_float(reference.dtype):
            return
        for a, b in _chunks(reference, moved):
            error = np.abs(a.astype(np.float64) - b.astype(np.float64))
            self._noise = max(self._noise, float(error[np.isfinite(error)].max(initial=0.0)))

    def _add_numbers(self, a: Doubles, b: Doubles) -> None:
        finite_a, finite_b = np.isfinite(a), np.isfinite(b)
        both = finite_a & finite_b
        if not both.all():
            self._add_nonfinite(a, b, finite_a, finite_b)
            a, b = a[both], b[both]
        if not a.size:
            return
        error = np.abs(a - b)
        magnitude = np.abs(a)
        self.measured += a.size
        self._max_abs = max(self._max_abs, float(error.max()))
        self._largest = max(self._largest, float(magnitude.max()))
        self._squared_error += float(np.dot(error, error))
        self._squared_reference += float(np.dot(a, a))
        self._squared_candidate += float(np.dot(b, b))
        self._product += float(np.dot(a, b))
        nonzero = magnitude > 0
        if nonzero.any():
            self.max_rel = max(self.max_rel, float((error[nonzero] / magnitude[nonzero]).max()))
        if self._tolerance is not None:
            allowed = self._tolerance.atol + self._tolerance.rtol * magnitude
            self._outside += int(np.count_nonzero(error > allowed))

    def _add_nonfinite(self, a: Doubles, b: Doubles, finite_a: Mask, finite_b: Mask) -> None:
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        wrong = ~same & ~(finite_a & finite_b)
        self._nonfinite_match &= not wrong.any()
        self._outside += int(np.count_nonzero(wrong))
        self.finite &= not (finite_a & ~finite_b).any()

    def _add_rows(self, reference: Array, candidate: Array) -> None:
        if reference.ndim < 2 or reference.shape[-1] < 2 or reference.dtype.kind in "OSUTb":
            return
        if not reference.size:
            return
        rows = np.asarray(reference).reshape(-1, reference.shape[-1])
        chosen = np.asarray(candidate).reshape(rows.shape).argmax(axis=-1)[:, None]
        best = rows.argmax(axis=-1)[:, None]
        there = np.take_along_axis(rows, chosen, axis=-1)
        top = np.take_along_axis(rows, best, axis=-1)
        # A NaN is the argmax of its row and differs from itself: the position decides there.
        self._agreeing_rows += int(np.count_nonzero((there == top) | (chosen == best)))
        self._rows += len(rows)

    @property
    def max_abs(self) -> float:
        """Largest absolute difference; inf where a NaN or an infinity does not match."""
        return self._max_abs if self._nonfinite_match else math.inf

    @property
    def rms(self) -> float:
        """Root of the mean squared difference."""
        return math.sqrt(self._squared_error / self.measured) if self.measured else 0.0

    @property
    def cosine(self) -> float:
        """1 minus the cosine similarity."""
        norms = math.sqrt(self._squared_reference) * math.sqrt(self._squared_candidate)
        if norms == 0:
            return 0.0 if self._squared_error == 0 else 1.0
        if self._squared_error == 0:
            return 0.0
        return max(0.0, 1.0 - self._product / norms)

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio in dB."""
        if not self._nonfinite_match:
            return -math.inf
        if self._squared_error == 0:
            return math.inf
        if self._squared_reference == 0:
            return -math.inf
        return 10 * (math.log10(self._squared_reference) - math.log10(self._squared_error))

    @property
    def argmax_agreement(self) -> float | None:
        """Share of the rows with the same argmax."""
        return self._agreeing_rows / self._rows if self._rows else None

    @property
    def bound(self) -> float:
        """The largest difference that reassociation explains."""
        return max(self._bound_factor * self._largest, 2 * self._noise)

    @property
    def unexplained(self) -> bool:
        """Whether finite floats differ by more than `bound`."""
        return not self._exact and self._identical and self._max_abs > self.bound

    @property
    def equal(self) -> bool:
        """Whether float reassociation explains the difference."""
        if not self._nonfinite_match or not self._identical:
            return False
        return self._max_abs == 0 if self._exact else self._max_abs <= self.bound

    @property
    def allowed(self) -> float:
        """The largest difference that is accepted: what the tolerance says, or else `bound`."""
        if self._tolerance is None:
            return self.bound
        return self._tolerance.atol + self._tolerance.rtol * self._largest

    @property
    def accepted(self) -> bool:
        """Whether the tolerance covers every element; without one, whether they are `equal`."""
        return self.equal if self._tolerance is None else self._outside == 0

    @property
    def outside(self) -> int | None:
        """How many elements the tolerance does not cover."""
        return None if self._tolerance is None else self._outside


def _chunks(reference: Array, candidate: Array) -> Iterator[tuple[Array, Array]]:
    a, b = np.ravel(reference), np.ravel(candidate)
    for start in range(0, a.size, _CHUNK):
        yield a[start : start + _CHUNK], b[start : start + _CHUNK]


def float_eps(dtype: np.dtype[np.generic]) -> float | None:
    """The spacing of floats at 1; None for what is no float."""
    return _ROUNDINGS.get(dtype.name, _SMALL_FLOATS)[0] if _is_float(dtype) else None


def _is_float(dtype: np.dtype[np.generic]) -> bool:
    # The floats of ml_dtypes are of kind V, as its integers are.
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))


def _onnx_name(dtype: np.dtype[np.generic]) -> str:
    return "string" if dtype.kind in "OSUT" else dtype.name
