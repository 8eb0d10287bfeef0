"""Samples to compare boosted trees on: the user's, and made-up ones where splits decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.convert.contract import Options
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Array, open_feeds

_SAMPLES = 29
_MISSING = 5
"""Every so many values of a made-up sample are missing."""

_MOST_SPLITS = 400
_MOST_NUMBERS = 1 << 23
_LARGE = 1e30
"""Thresholds beyond stand for infinities and missing values."""


@dataclass(frozen=True)
class Samples:
    """What a model of boosted trees is compared on.

    Args:
        features: Shape (batch, width).
        notes: What was left out.
    """

    features: Array
    notes: tuple[str, ...] = ()


def samples(
    width: int,
    splits: Sequence[tuple[int, float]],
    categories: dict[int, int],
    options: Options,
    *,
    infinite: bool = True,
) -> Samples:
    """Take samples of `--data`, and make some up in the range of the thresholds, and beyond.

    Those that are made up come in the type of the data, float32 without.

    Args:
        width: Number of features.
        splits: Feature and threshold of every split.
        categories: By feature: the largest category.
        options: With the data.
        infinite: Whether the library takes infinite features.

    Raises:
        GraphoptError: The data has another width, or several arrays.
    """
    random = np.random.default_rng(0)
    made = _spread(width, splits, categories, random)
    given, notes = (None, ()) if options.data is None else _from_data(options.data, width)
    kind = np.dtype(np.float32) if given is None else given.dtype
    made = made.astype(kind)
    beside = _beside(made, splits, random)
    parts = [made, beside if infinite else beside[~np.isinf(beside).any(axis=1)]]
    return Samples(np.concatenate(parts if given is None else [given, *parts]), notes)


def _spread(
    width: int,
    splits: Sequence[tuple[int, float]],
    categories: dict[int, int],
    random: np.random.Generator,
) -> Array:
    values = random.normal(size=(_SAMPLES, width))
    by_feature: dict[int, list[float]] = {}
    for feature, split in splits:
        by_feature.setdefault(feature, []).append(split)
    for feature, found in by_feature.items():
        limits = np.clip([min(found), max(found)], -_LARGE, _LARGE)
        margin = 0.1 * (limits[1] - limits[0]) + 0.5
        values[:, feature] = random.uniform(limits[0] - margin, limits[1] + margin, _SAMPLES)
        # Every third sample sits on a threshold, where a rounding error would show.
        values[::3, feature] = random.choice(np.clip(found, -_LARGE, _LARGE), len(values[::3]))
    for feature, largest in categories.items():
        values[:, feature] = random.integers(-1, largest + 2, _SAMPLES)
    values[_MISSING - 1 :: _MISSING][random.random((_SAMPLES // _MISSING, width)) < 0.5] = np.nan
    return values


def _beside(made: Array, splits: Sequence[tuple[int, float]], random: np.random.Generator) -> Array:
    """Move one feature onto a threshold, to both of its neighbours, and to the infinities."""
    distinct = sorted({split for split in splits if abs(split[1]) < _LARGE})
    most = min(_MOST_SPLITS, _MOST_NUMBERS // (5 * made.shape[1]))
    if len(distinct) > most:
        distinct = [distinct[at] for at in random.choice(len(distinct), most, replace=False)]
    rows = np.repeat(made[random.integers(0, len(made), len(distinct))], 5, axis=0)
    low, high = np.array([-np.inf, np.inf], made.dtype)
    for at, (feature, split) in enumerate(distinct):
        on = made.dtype.type(split)
        moved = [on, np.nextafter(on, high), np.nextafter(on, low), high, low]
        rows[5 * at : 5 * at + 5, feature] = moved
    return rows


def _from_data(data: str, width: int) -> tuple[Array, tuple[str, ...]]:
    most = max(_MOST_NUMBERS // width, _SAMPLES)
    taken: list[Array] = []
    for batch in open_feeds(data).batches(min(most, 4096)):
        if len(batch) != 1:
            raise GraphoptError(f"has {', '.join(batch)}; the model takes one array", file=data)
        array = next(iter(batch.values()))
        if array.ndim != 2 or array.shape[1] != width or array.dtype.kind not in "fiub":
            raise GraphoptError(
                f"holds {array.dtype}{list(array.shape)}; the model takes numbers of shape"
                f" [batch, {width}]",
                file=data,
            )
        taken.append(array if array.dtype == np.float64 else array.astype(np.float32))
        if sum(map(len, taken)) > most:
            note = f"compared on the first {most} samples of {data}"
            return np.concatenate(taken)[:most], (note,)
    return np.concatenate(taken), ()
