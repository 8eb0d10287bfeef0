"""From XGBoost: its own JSON or UBJSON file, tree by tree."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
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
from graphopt.convert.reasons import behind
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Array

_START = 4096
_READING = "import xgboost; xgboost.Booster().load_model(bytearray(open(sys.argv[1], 'rb').read()))"

_LINKS: dict[str, Link] = {
    "binary:logistic": "sigmoid",
    "reg:logistic": "sigmoid",
    "multi:softprob": "softmax",
    "multi:softmax": "softmax",
    "binary:hinge": "step",
    "count:poisson": "exp",
    "reg:gamma": "exp",
    "reg:tweedie": "exp",
    "survival:cox": "exp",
    "survival:aft": "exp",
    "binary:logitraw": "identity",
    "reg:squarederror": "identity",
    "reg:linear": "identity",
    "reg:squaredlogerror": "identity",
    "reg:absoluteerror": "identity",
    "reg:pseudohubererror": "identity",
    "reg:quantileerror": "identity",
    "reg:expectileerror": "identity",
    "rank:pairwise": "identity",
    "rank:ndcg": "identity",
    "rank:map": "identity",
}
_CLASSIFIERS = ("binary:logistic", "binary:hinge", "multi:softprob", "multi:softmax")


@dataclass(frozen=True)
class Boosted(Sums):
    """A booster as it says of itself in JSON.

    Args:
        base: What is added to each sum.
        model: The part with the trees, or the weights of a linear one.
        drops: Weight of each tree, where they were dropped out in training.
        stop: The number of iterations that count; None: all of them.
        categorical: Features that are categories.
    """

    base: Array
    model: dict[str, Any]
    drops: Sequence[float] | None
    stop: int | None
    categorical: tuple[int, ...]


def recognises(path: Path) -> bool:
    """Whether a file is a booster of XGBoost, in JSON or UBJSON."""
    try:
        with path.open("rb") as file:
            start = file.read(_START)
    except OSError:
        return False
    return start.lstrip()[:1] == b"{" and b"learner" in start[:64] + start.partition(b'"')[2][:64]


def convert(source: str, options: Options) -> Conversion:
    """Convert a file that `save_model` of XGBoost wrote.

    Raises:
        GraphoptError: It cannot be read, or has an objective or a booster that is unknown.
        CheckFailed: ONNX Runtime computes something else than XGBoost.
    """
    require(["xgboost"], "xgboost", "XGBoost")
    booster = _loaded(source)
    boosted = read(booster, source)
    splits, categories = splits_of(boosted)
    compared = samples(boosted.width, splits, categories, options, infinite=False)
    notes = []
    if boosted.stop is not None:
        notes.append(
            f"{source} stopped early: its first {boosted.stop} iterations count, as in the"
            " predictions of XGBClassifier and XGBRegressor"
        )
    return converted(
        "xgboost",
        boosted,
        compared,
        lambda nodes, name: write_sums(nodes, name, boosted),
        _predictor(booster, boosted),
        options,
        notes=notes,
    )


def _loaded(source: str) -> Any:
    import xgboost

    try:
        content = bytearray(Path(source).read_bytes())
    except OSError as error:
        raise GraphoptError(f"cannot be read: {error.strerror or error}", file=source) from error
    try_reading(source, "XGBoost", _READING)
    booster = xgboost.Booster()
    try:
        booster.load_model(content)
    except (xgboost.core.XGBoostError, ValueError, TypeError) as error:
        # The first line begins with the time and the place in its sources.
        raise GraphoptError(
            f"cannot be read by XGBoost {xgboost.__version__}: {behind(': ', error)}",
            file=source,
            fix="save it again with save_model",
        ) from error
    return booster


def read(booster: Any, source: str) -> Boosted:
    """Read what a booster says of itself.

    Raises:
        GraphoptError: Its objective or kind is unknown.
    """
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    objective = learner["objective"]["name"]
    if objective not in _LINKS:
        raise GraphoptError(
            f"has the objective {objective}, whose predictions are not known",
            file=source,
            fix=f"these are: {', '.join(_LINKS)}",
        )
    kind = learner["gradient_booster"]["name"]
    if kind not in {"gbtree", "dart", "gblinear"}:
        raise GraphoptError(f"is a booster of kind {kind}, which is not known", file=source)
    part = learner["gradient_booster"]
    model = (part["gbtree"] if kind == "dart" else part)["model"]
    sizes = learner["learner_model_param"]
    targets = max(int(sizes["num_class"]), int(sizes.get("num_target", 1)), 1)
    link = _LINKS[objective]
    classes = objective in _CLASSIFIERS and (targets == 1 or link == "softmax")
    best = learner.get("attributes", {}).get("best_iteration")
    return Boosted(
        width=int(sizes["num_feature"]),
        targets=targets,
        base=_base(sizes["base_score"], link),
        outcome=Outcome(link, classes),
        model=model,
        drops=part.get("weight_drop"),
        stop=None if best is None or kind == "gblinear" else int(best) + 1,
        categorical=tuple(
            at for at, name in enumerate(learner.get("feature_types", ())) if name == "c"
        ),
    )


def _base(text: str, link: Link) -> Array:
    """The base score is written down as a prediction, not as a sum."""
    found = json.loads(text)
    scores = np.array(found if isinstance(found, list) else [found], np.float64)
    if link == "sigmoid":
        # As in XGBoost, a probability of 0 or 1 stays finite.
        scores = np.clip(scores, 1e-7, 1 - 1e-7)
        return -np.log(1 / scores - 1)
    return np.log(scores) if link == "exp" else scores


def write_sums(nodes: Any, features: str, boosted: Boosted) -> str:
    """Write the sums over the trees, shape (batch, targets)."""
    if "weights" in boosted.model:
        return _write_linear(nodes, features, boosted)
    features = as_category(nodes, features, boosted.categorical, boosted.width, np.float32)
    trees = Trees(boosted.targets)
    for number, tree in enumerate(_trees(boosted)):
        scale = 1.0 if boosted.drops is None else float(boosted.drops[number])
        _add_tree(trees, tree, int(boosted.model["tree_info"][number]), scale, boosted.targets)
        trees.end()
    return trees.write(nodes, features, boosted.base)


def _trees(boosted: Boosted) -> list[dict[str, Any]]:
    trees: list[dict[str, Any]] = boosted.model["trees"]
    if boosted.stop is None:
        return trees
    return trees[: boosted.model["iteration_indptr"][boosted.stop]]


def _write_linear(nodes: Any, features: str, boosted: Boosted) -> str:
    weights = np.array(boosted.model["weights"], np.float32).reshape(-1, boosted.targets)
    missing = nodes.node("IsNaN", [features])
    zero = nodes.constant(np.zeros(1, np.float32))
    present = nodes.node("Where", [missing, zero, features])
    slope = nodes.constant(weights[:-1])
    # The linear booster of XGBoost adds the first base score to every sum.
    bias = nodes.constant((weights[-1] + boosted.base[0]).astype(np.float32))
    return str(nodes.node("Gemm", [present, slope, bias]))


def _add_tree(trees: Trees, tree: dict[str, Any], target: int, scale: float, targets: int) -> None:
    left, right = tree["left_children"], tree["right_children"]
    categories = _categories(tree)
    vector = int(tree["tree_param"]["size_leaf_vector"]) > 1
    free = len(left)
    for node, feature in enumerate(tree["split_indices"]):
        missing_left = bool(tree["default_left"][node])
        if left[node] == -1:
            if vector:
                start = right[node] * targets
                weights = tree["leaf_weights"][start : start + targets]
                trees.leaf(node, enumerate(float(weight) * scale for weight in weights))
            else:
                trees.leaf(node, [(target, float(tree["split_conditions"][node]) * scale)])
        elif node in categories:
            # Members of the set go right.
            branches = (right[node], left[node])
            values = [float(value) for value in categories[node]]
            free = add_choice(trees, node, feature, values, branches, free, not missing_left)
        else:
            # Few digits stand for a float32 here.
            threshold = float(np.float32(tree["split_conditions"][node]))
            branches = (left[node], right[node])
            trees.split(node, feature, "BRANCH_LT", threshold, branches, missing_left)


def _categories(tree: dict[str, Any]) -> dict[int, list[int]]:
    return {
        node: tree["categories"][start : start + size]
        for node, start, size in zip(
            tree["categories_nodes"],
            tree["categories_segments"],
            tree["categories_sizes"],
            strict=True,
        )
    }


def splits_of(boosted: Boosted) -> tuple[list[tuple[int, float]], dict[int, int]]:
    """Feature and threshold of every split, and by feature the largest category."""
    splits: list[tuple[int, float]] = []
    largest: dict[int, int] = {}
    for tree in boosted.model.get("trees", ()):
        categories = _categories(tree)
        for node, feature in enumerate(tree["split_indices"]):
            if tree["left_children"][node] == -1:
                continue
            if node in categories:
                largest[feature] = max(largest.get(feature, 0), *categories[node])
            elif math.isfinite(tree["split_conditions"][node]):
                splits.append((feature, float(np.float32(tree["split_conditions"][node]))))
    return splits, largest


def _predictor(booster: Any, boosted: Boosted) -> Any:
    import xgboost

    stop = (0, boosted.stop or 0)
    # It says nothing on probabilities of classes itself: XGBClassifier computes them so.
    softmax = boosted.outcome.link == "softmax"

    def predict(features: Array) -> Array:
        try:
            matrix = xgboost.DMatrix(
                features,
                feature_names=booster.feature_names,
                feature_types=booster.feature_types,
                enable_categorical=True,
                nthread=1,
            )
        except (xgboost.core.XGBoostError, ValueError) as error:
            raise GraphoptError(
                f"XGBoost does not take the samples: {behind(': ', error)}",
                fix="give others with --data",
            ) from error
        found = booster.predict(
            matrix, iteration_range=stop, output_margin=softmax, strict_shape=True
        )
        found = found.reshape(len(features), -1)
        if softmax:
            powers = np.exp(found - found.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True))
        if boosted.outcome.classes:
            return np.concatenate([1 - found, found], axis=1)
        return np.asarray(found)

    return predict
