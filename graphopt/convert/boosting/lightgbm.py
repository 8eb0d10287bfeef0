"""From LightGBM: its own text file, tree by tree."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.convert.boosting.graph import (
    Link,
    Outcome,
    Sums,
    as_category,
    converted,
)
from graphopt.convert.boosting.samples import samples
from graphopt.convert.boosting.trees import Trees, add_choice
from graphopt.convert.boosting.trial import try_reading
from graphopt.convert.contract import Conversion, Options
from graphopt.convert.finishing import require
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Array

_MAGIC = (b"tree\nversion=", b"tree\r\nversion=")
_ZERO = float(np.float32(1e-35))
"""LightGBM takes for zero what is no larger."""

_LARGE = 1e300
"""What `dump_model` says of an infinite threshold, as JSON has none."""

_READING = (
    "import lightgbm; "
    "lightgbm.Booster(model_str=open(sys.argv[1], encoding='utf-8').read()).dump_model()"
)

_LINKS: dict[str, Link] = {
    "binary": "sigmoid",
    "multiclass": "softmax",
    "multiclassova": "sigmoid",
    "cross_entropy": "sigmoid",
    "cross_entropy_lambda": "softplus",
    "poisson": "exp",
    "gamma": "exp",
    "tweedie": "exp",
    "regression": "identity",
    "regression_l1": "identity",
    "huber": "identity",
    "fair": "identity",
    "quantile": "identity",
    "mape": "identity",
    "lambdarank": "identity",
    "rank_xendcg": "identity",
    "custom": "identity",
}
_CLASSIFIERS = ("binary", "multiclass", "multiclassova")


@dataclass(frozen=True)
class Boosted(Sums):
    """A booster as it says of itself.

    Args:
        average: Whether iterations are averaged, as in a random forest.
        trees: As `dump_model` has them.
    """

    average: bool
    trees: list[dict[str, Any]]


def recognises(path: Path) -> bool:
    """Whether a file is a booster of LightGBM, as text."""
    try:
        with path.open("rb") as file:
            return file.read(32).startswith(_MAGIC)
    except OSError:
        return False


def convert(source: str, options: Options) -> Conversion:
    """Convert a file that `save_model` of LightGBM wrote.

    Raises:
        GraphoptError: It cannot be read, or has an objective or trees that are unknown.
        CheckFailed: ONNX Runtime computes something else than LightGBM.
    """
    require(["lightgbm"], "lightgbm", "LightGBM")
    booster = _loaded(source)
    boosted = read(booster, source)
    splits, categories = splits_of(boosted)
    compared = samples(boosted.width, splits, categories, options)
    return converted(
        "lightgbm",
        boosted,
        compared,
        lambda nodes, name: write_sums(nodes, name, boosted, compared.features.dtype),
        _predictor(booster, boosted),
        options,
        rounds=False,
    )


def _loaded(source: str) -> Any:
    import lightgbm

    try:
        # Bytes that are no text are refused here, not by the reader in C++.
        content = Path(source).read_text(encoding="utf-8")
    except OSError as error:
        raise GraphoptError(f"cannot be read: {error.strerror or error}", file=source) from error
    except UnicodeDecodeError as error:
        raise GraphoptError("is no text, as LightGBM's models are", file=source) from error
    ends = ["end of trees", *(["end of parameters"] if "\nparameters:" in content else [])]
    if missing := [end for end in ends if f"\n{end}" not in content]:
        raise GraphoptError(
            f"is cut off: {missing[0]!r} is missing",
            file=source,
            fix="save it again with save_model",
        )
    try_reading(source, "LightGBM", _READING)
    try:
        return lightgbm.Booster(model_str=content)
    except (lightgbm.basic.LightGBMError, ValueError, TypeError) as error:
        raise GraphoptError(
            f"cannot be read by LightGBM {lightgbm.__version__}: {error}",
            file=source,
            fix="save it again with save_model",
        ) from error


def read(booster: Any, source: str) -> Boosted:
    """Read what a booster says of itself.

    Raises:
        GraphoptError: Its objective or its trees are unknown.
    """
    dump = booster.dump_model()
    _restore_infinities(dump["tree_info"], booster)
    name, *settings = str(dump.get("objective", "custom")).split() or ["custom"]
    if name not in _LINKS:
        raise GraphoptError(
            f"has the objective {name}, whose predictions are not known",
            file=source,
            fix=f"these are: {', '.join(_LINKS)}",
        )
    for tree in dump["tree_info"]:
        for node in _nodes(tree):
            if "leaf_coeff" in node:
                raise GraphoptError(
                    f"tree {tree['tree_index']} has linear models in its leaves, which ONNX's"
                    " trees cannot have",
                    file=source,
                    fix="train it without linear_tree",
                )
    link = "sign_square" if "sqrt" in settings else _LINKS[name]
    scale = next((float(text[8:]) for text in settings if text.startswith("sigmoid:")), 1.0)
    return Boosted(
        width=int(dump["max_feature_idx"]) + 1,
        targets=int(dump["num_tree_per_iteration"]),
        average=bool(dump["average_output"]),
        outcome=Outcome(link, name in _CLASSIFIERS, scale),
        trees=dump["tree_info"],
    )


def _restore_infinities(trees: list[dict[str, Any]], booster: Any) -> None:
    """Put infinite thresholds back where the dump has large numbers; the text has them."""
    cut = [
        (tree["tree_index"], node)
        for tree in trees
        for node in _nodes(tree)
        if node.get("decision_type") == "<=" and abs(node["threshold"]) >= _LARGE
    ]
    if not cut:
        return
    # A tree of one leaf has no such line.
    written = [
        [
            float(text)
            for line in re.findall(r"^threshold=(.*)$", section, re.M)
            for text in line.split()
        ]
        for section in booster.model_to_string().split("\nTree=")[1:]
    ]
    for tree, node in cut:
        node["threshold"] = written[tree][node["split_index"]]


def write_sums(nodes: Any, features: str, boosted: Boosted, dtype: Any) -> str:
    """Write the sums over the trees, shape (batch, targets)."""
    splits = [node for tree in boosted.trees for node in _nodes(tree) if "split_feature" in node]
    categorical = sorted({n["split_feature"] for n in splits if n["decision_type"] == "=="})
    sparse = sorted(
        {n["split_feature"] for n in splits if n["missing_type"] == "Zero"} - set(categorical)
    )
    features = as_category(nodes, features, categorical, boosted.width, dtype)
    features = _zeros_as_missing(nodes, features, sparse, boosted.width, dtype)
    trees = Trees(boosted.targets, double=np.dtype(dtype) == np.float64)
    iterations = max(len(boosted.trees) // boosted.targets, 1) if boosted.average else 1
    for number, tree in enumerate(boosted.trees):
        _add_tree(trees, tree, number % boosted.targets, 1 / iterations, dtype)
        trees.end()
    return trees.write(nodes, features, np.zeros(1))


def _zeros_as_missing(nodes: Any, features: str, columns: list[int], width: int, dtype: Any) -> str:
    if not columns:
        return features
    mask = np.zeros((1, width), bool)
    mask[0, columns] = True
    size = nodes.node("Abs", [features])
    zero = nodes.node("LessOrEqual", [size, nodes.constant(np.array([_ZERO], dtype))])
    chosen = nodes.node("And", [zero, nodes.constant(mask)])
    return str(nodes.node("Where", [chosen, nodes.constant(np.array([np.nan], dtype)), features]))


def _add_tree(trees: Trees, tree: dict[str, Any], target: int, scale: float, dtype: Any) -> None:
    nodes = list(_nodes(tree))
    numbers = {id(node): number for number, node in enumerate(nodes)}
    free = len(nodes)
    for number, node in enumerate(nodes):
        if "split_feature" not in node:
            trees.leaf(number, [(target, float(node["leaf_value"]) * scale)])
            continue
        branches = (numbers[id(node["left_child"])], numbers[id(node["right_child"])])
        feature = int(node["split_feature"])
        if node["decision_type"] == "==":
            # Missing values are in no set: they go right.
            values = [float(text) for text in str(node["threshold"]).split("||") if text]
            free = add_choice(trees, number, feature, values, branches, free)
        else:
            threshold = _beside_zero(float(node["threshold"]), dtype)
            # Where training saw none, a missing value counts as zero.
            missing_left = (
                threshold >= 0 if node["missing_type"] == "None" else bool(node["default_left"])
            )
            trees.split(number, feature, "BRANCH_LEQ", threshold, branches, missing_left)


def _beside_zero(threshold: float, dtype: Any) -> float:
    """Move a threshold out of the range that LightGBM takes for zero."""
    if 0 <= threshold < _ZERO:
        return _ZERO
    if -_ZERO <= threshold < 0:
        kind = np.dtype(dtype).type
        return float(np.nextafter(kind(-_ZERO), kind(-np.inf)))
    return threshold


def _nodes(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    pending = [tree["tree_structure"]]
    while pending:
        node = pending.pop()
        yield node
        if "split_feature" in node:
            pending += [node["right_child"], node["left_child"]]


def splits_of(boosted: Boosted) -> tuple[list[tuple[int, float]], dict[int, int]]:
    """Feature and threshold of every split, and by feature the largest category."""
    splits: list[tuple[int, float]] = []
    largest: dict[int, int] = {}
    for tree in boosted.trees:
        for node in _nodes(tree):
            if "split_feature" not in node:
                continue
            feature = int(node["split_feature"])
            if node["decision_type"] == "==":
                values = [int(text) for text in re.findall(r"\d+", str(node["threshold"]))]
                largest[feature] = max(largest.get(feature, 0), *values)
            elif math.isfinite(node["threshold"]):
                splits.append((feature, float(node["threshold"])))
    return splits, largest


def _predictor(booster: Any, boosted: Boosted) -> Any:
    two = boosted.outcome.classes and boosted.targets == 1

    def predict(features: Array) -> Array:
        found = np.asarray(booster.predict(features, num_threads=1, validate_features=False))
        found = found.reshape(len(features), -1)
        return np.concatenate([1 - found, found], axis=1) if two else found

    return predict
