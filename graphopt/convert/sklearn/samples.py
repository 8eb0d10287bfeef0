"""Made-up samples in the range of what an estimator was fitted on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from graphopt.convert.sklearn.boosting import booster_splits, is_boosted
from graphopt.convert.sklearn.functions import domain_of
from graphopt.runtime.feeds import Array

_SPREADS = (("mean_", "scale_"), ("center_", "scale_"))
_ROWS = ("_fit_X", "support_vectors_", "cluster_centers_", "theta_", "centroids_")
_WORDS_PER_TEXT = 8


def made_up(
    leaf: Any,
    column: int,
    kind: str,
    count: int,
    random: np.random.Generator,
    missing: bool = False,
    edges: Sequence[float] = (),
) -> Array:
    """Return `count` values of a column.

    Args:
        leaf: The estimator that takes the column; None: nothing is known.
        column: Where it sees the column.
        kind: The type of the values.
        count: How many.
        random: Where chance comes from.
        missing: Whether some of them are missing, where the estimator takes that.
        edges: Values on which estimators behind this one decide.
    """
    categories = getattr(leaf, "categories_", None)
    if isinstance(categories, list) and column < len(categories):
        known = np.asarray(categories[column], object)
        return known[random.integers(0, len(known), count)]
    if kind == "string":
        return _texts(leaf, column, count, random)
    low, high = _range(leaf, column)
    values = random.uniform(low, high, count)
    whole = np.round(values[2::3])
    # Columns often hold whole numbers.
    values[2::3] = np.where((whole >= low) & (whole <= high), whole, values[2::3])
    splits = np.array([*_splits(leaf, column), *edges])
    if splits.size:
        # Every third sample sits on a threshold, where a rounding error would show.
        values[::3] = splits[random.integers(0, len(splits), len(values[::3]))]
    if kind == "bool":
        return values > (low + high) / 2
    if missing and kind.startswith("float") and _takes_missing(leaf):
        values[1::5] = np.nan
    return np.round(values) if kind.startswith("int") else values.astype(np.float32)


def thresholds(leaf: Any) -> Iterator[tuple[int, float]]:
    """Yield feature and threshold of every split of a tree or of trees."""
    if is_boosted(leaf):
        yield from booster_splits(leaf)
        return
    for at, edges in enumerate(getattr(leaf, "bin_edges_", ())):
        yield from ((at, float(edge)) for edge in edges)
    tree = getattr(leaf, "tree_", None)
    if tree is not None:
        inner = tree.children_left >= 0
        yield from zip(tree.feature[inner].tolist(), tree.threshold[inner].tolist(), strict=True)
    for predictor in np.ravel(np.array(getattr(leaf, "_predictors", ()), object)):
        nodes = predictor.nodes
        for node in nodes[(nodes["is_leaf"] == 0) & (nodes["is_categorical"] == 0)]:
            yield int(node["feature_idx"]), float(node["num_threshold"])
    columns = getattr(leaf, "estimators_features_", None)
    for number, inner in enumerate(members(leaf)):
        for at, split in thresholds(inner):
            yield (int(columns[number][at]) if columns is not None else at), split


def members(estimator: Any) -> list[Any]:
    """The estimators that an ensemble consists of, in order."""
    held = getattr(estimator, "estimators_", ())
    # A pipeline would be taken for a sequence of its steps.
    return list(np.ravel(held)) if isinstance(held, np.ndarray) else list(held)


def _splits(leaf: Any, column: int) -> list[float]:
    """Thresholds of a column; one that is infinite parts what is missing from what is not."""
    return [split for at, split in thresholds(leaf) if at == column and np.isfinite(split)]


def _takes_missing(leaf: Any) -> bool:
    """Whether an estimator takes NaN."""
    from sklearn.utils import get_tags

    if leaf is None or is_boosted(leaf):
        return False
    try:
        return bool(get_tags(leaf).input_tags.allow_nan)
    except (AttributeError, ValueError, TypeError):
        return False


def _range(leaf: Any, column: int) -> tuple[float, float]:
    for middle_name, spread_name in _SPREADS:
        middle, spread = getattr(leaf, middle_name, None), getattr(leaf, spread_name, None)
        if middle is not None and spread is not None:
            return middle[column] - 2 * spread[column], middle[column] + 2 * spread[column]
    if hasattr(leaf, "data_min_"):
        return float(leaf.data_min_[column]), float(leaf.data_max_[column])
    for name in _ROWS:
        rows = getattr(leaf, name, None)
        if isinstance(rows, np.ndarray) and rows.ndim == 2 and len(rows):
            known = rows[:, column][np.isfinite(rows[:, column])]
            if known.size:
                return float(known.min()), float(known.max())
    splits = _splits(leaf, column)
    if splits:
        margin = 0.1 * (max(splits) - min(splits)) + 0.5
        return min(splits) - margin, max(splits) + margin
    return domain_of(leaf) or (-2.0, 2.0)


def _texts(leaf: Any, column: int, count: int, random: np.random.Generator) -> Array:
    vocabulary = getattr(leaf, "vocabulary_", None)
    if vocabulary:
        words = sorted(vocabulary)
        texts = [
            " ".join(words[at] for at in random.integers(0, len(words), _WORDS_PER_TEXT))
            for _ in range(count)
        ]
        # Capitals, marks and single letters are not of the vocabulary.
        texts[1::3] = [f"A {text.title()}, 2 b!" for text in texts[1::3]]
        return np.array(texts, object)
    statistics = getattr(leaf, "statistics_", None)
    value = "" if statistics is None else str(statistics[column])
    values = np.array([value] * count, object)
    values[::3] = ""
    return values
