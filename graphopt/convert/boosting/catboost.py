"""From CatBoost: its own JSON export, tree by tree.

Its export to ONNX knows neither trees that are not symmetric, nor classes with names, nor several
targets, nor where missing values go.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.convert.boosting.graph import (
    Link,
    Outcome,
    Sums,
    converted,
)
from graphopt.convert.boosting.samples import samples
from graphopt.convert.boosting.trees import Trees
from graphopt.convert.boosting.trial import try_reading
from graphopt.convert.contract import Conversion, Options
from graphopt.convert.finishing import require
from graphopt.convert.reasons import behind
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Array

_BINARY = b"CBM1"
_JSON_PARTS = (b'"features_info"', b'"oblivious_trees"')
_START = 1 << 16
_PLACE = ".cpp:"
"""Ends the place in its sources with which CatBoost's errors begin."""
_READING = "import catboost; catboost.CatBoost().load_model(sys.argv[1], format={kind!r})"

_LINKS: dict[str, Link] = {
    "Logloss": "sigmoid",
    "CrossEntropy": "sigmoid",
    "MultiClass": "softmax",
    "MultiClassOneVsAll": "sigmoid",
    "MultiLogloss": "sigmoid",
    "MultiCrossEntropy": "sigmoid",
    "Poisson": "exp",
    "Tweedie": "exp",
}
_CLASSIFIERS = ("Logloss", "CrossEntropy", "MultiClass", "MultiClassOneVsAll")
_BY_LABEL = ("MultiLogloss", "MultiCrossEntropy")


@dataclass(frozen=True)
class Boosted(Sums):
    """A model as its JSON has it.

    Args:
        scale: What the sums are multiplied with.
        bias: What is added to them then.
        trees: Symmetric ones and others.
        columns: Column of each numeric feature.
        missing_right: The numeric features whose missing values go right.
        borders: Feature and border of every split that may occur.
    """

    scale: float
    bias: Array
    trees: Sequence[dict[str, Any]]
    columns: dict[int, int]
    missing_right: frozenset[int]
    borders: list[tuple[int, float]]


def recognises(path: Path) -> bool:
    """Whether a file is a model of CatBoost: .cbm, or its JSON."""
    return _format(path) is not None


def _format(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            start = file.read(_START)
    except OSError:
        return None
    if start.startswith(_BINARY):
        return "cbm"
    is_json = start.lstrip()[:1] == b"{" and any(part in start for part in _JSON_PARTS)
    return "json" if is_json else None


def convert(source: str, options: Options) -> Conversion:
    """Convert a file that `save_model` of CatBoost wrote.

    Raises:
        GraphoptError: It cannot be read, or splits on categories, texts or embeddings.
        CheckFailed: ONNX Runtime computes something else than CatBoost.
    """
    require(["catboost"], "catboost", "CatBoost")
    booster = _loaded(source)
    boosted = read(booster, source)
    compared = samples(boosted.width, boosted.borders, {}, options)
    return converted(
        "catboost",
        boosted,
        compared,
        lambda nodes, name: write_sums(nodes, name, boosted),
        _predictor(booster, boosted),
        options,
    )


def _loaded(source: str) -> Any:
    import catboost

    kind = _format(Path(source))
    if kind is None:
        raise GraphoptError(
            "is no model of CatBoost", file=source, fix="give the .cbm that save_model writes"
        )
    try_reading(source, "CatBoost", _READING.format(kind=kind))
    try:
        return catboost.CatBoost().load_model(source, format=kind)
    except (catboost.CatBoostError, ValueError, TypeError) as error:
        raise GraphoptError(
            f"cannot be read by CatBoost {catboost.__version__}: {behind(_PLACE, error)}",
            file=source,
            fix="save it again with save_model",
        ) from error


def read(booster: Any, source: str) -> Boosted:
    """Read what a model says of itself.

    Raises:
        GraphoptError: It splits on something other than numbers.
    """
    import catboost

    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        path = Path(folder) / "model.json"
        try:
            booster.save_model(str(path), format="json")
        except catboost.CatBoostError as error:
            raise GraphoptError(
                f"CatBoost cannot export it: {behind(_PLACE, error)}", file=source
            ) from error
        content = json.loads(path.read_bytes())
    info = content["features_info"]
    kinds = ("categorical_features", "text_features", "embedding_features")
    if found := [f"{len(info[kind])} {kind.replace('_', ' ')}" for kind in kinds if info.get(kind)]:
        raise GraphoptError(
            f"has {', '.join(found)}, and ONNX has no form of CatBoost's statistics on them",
            file=source,
            fix="train it on numbers: encode them in front of it",
        )
    described = info.get("float_features", [])
    scale, bias = content.get("scale_and_bias", [1, [0]])
    bias = np.array(bias or [0], np.float64).reshape(-1)
    trees = content.get("oblivious_trees") or content.get("trees") or []
    return Boosted(
        width=1 + max((int(item["flat_feature_index"]) for item in described), default=0),
        targets=max(len(bias), _targets(trees)),
        scale=float(scale),
        bias=bias,
        outcome=_outcome(content["model_info"]),
        trees=trees,
        columns={int(item["feature_index"]): int(item["flat_feature_index"]) for item in described},
        missing_right=frozenset(
            int(item["feature_index"])
            for item in described
            if item.get("nan_value_treatment") == "AsTrue"
        ),
        borders=[
            (int(item["flat_feature_index"]), float(np.float32(border)))
            for item in described
            for border in item.get("borders") or ()
        ],
    )


def _outcome(info: dict[str, Any]) -> Outcome:
    params = info.get("params", {})
    params = json.loads(params) if isinstance(params, str) and params else params or {}
    loss = str(params.get("loss_function", {}).get("type", ""))
    classes = loss in _CLASSIFIERS
    names = info.get("class_params", {}).get("class_names") if classes else None
    if names is not None and any(isinstance(name, float) for name in names):
        whole = all(float(name).is_integer() for name in names)
        names = [int(name) if whole else str(name) for name in names]
    return Outcome(
        _LINKS.get(loss, "identity"),
        classes,
        names=tuple(names) if names else None,
        features="features",
        predictions="probabilities" if loss in _BY_LABEL else "predictions",
    )


def _targets(trees: Sequence[dict[str, Any]]) -> int:
    if not trees:
        return 1
    if "leaf_values" in trees[0]:
        return int(len(trees[0]["leaf_values"]) // 2 ** len(trees[0]["splits"] or ()))
    node = trees[0]
    while "split" in node:
        node = node["left"]
    return len(np.ravel(node["value"]))


def write_sums(nodes: Any, features: str, boosted: Boosted) -> str:
    """Write the sums over the trees, shape (batch, targets)."""
    trees = Trees(boosted.targets)
    for tree in boosted.trees:
        if "leaf_values" in tree:
            _add_symmetric(trees, tree, boosted)
        else:
            _add_tree(trees, tree, boosted)
        trees.end()
    return trees.write(nodes, features, boosted.bias)


def _add_symmetric(trees: Trees, tree: dict[str, Any], boosted: Boosted) -> None:
    """Add a tree with one split per level; bit i of a leaf's index is the answer to split i."""
    splits = tree["splits"] or []
    values = np.array(tree["leaf_values"], np.float64).reshape(-1, boosted.targets)
    inner = 2 ** len(splits) - 1
    for node in range(inner):
        level = (node + 1).bit_length() - 1
        _add_split(trees, node, splits[level], (2 * node + 1, 2 * node + 2), boosted)
    for leaf in range(inner + 1):
        # The first split, at the root, is the first bit on the way down, and the lowest one.
        index = int(f"{leaf:0{len(splits)}b}"[::-1], 2) if splits else 0
        _add_leaf(trees, inner + leaf, values[index], boosted)


def _add_tree(trees: Trees, tree: dict[str, Any], boosted: Boosted) -> None:
    pending = [(0, tree)]
    free = 1
    while pending:
        number, node = pending.pop()
        if "split" not in node:
            _add_leaf(trees, number, np.ravel(node["value"]), boosted)
            continue
        _add_split(trees, number, node["split"], (free, free + 1), boosted)
        pending += [(free, node["left"]), (free + 1, node["right"])]
        free += 2


def _add_split(
    trees: Trees, node: int, split: dict[str, Any], branches: tuple[int, int], boosted: Boosted
) -> None:
    feature = int(split["float_feature_index"])
    border = float(np.float32(split["border"]))
    missing_left = feature not in boosted.missing_right
    trees.split(node, boosted.columns[feature], "BRANCH_LEQ", border, branches, missing_left)


def _add_leaf(trees: Trees, node: int, values: Array, boosted: Boosted) -> None:
    trees.leaf(node, [(at, float(value) * boosted.scale) for at, value in enumerate(values)])


def _predictor(booster: Any, boosted: Boosted) -> Any:
    kinds = {"sigmoid": "Probability", "softmax": "Probability", "exp": "Exponent"}
    kind = kinds.get(boosted.outcome.link, "RawFormulaVal")

    def predict(features: Array) -> Array:
        found = booster.predict(features.astype(np.float32), prediction_type=kind, thread_count=1)
        return np.asarray(found, np.float64).reshape(len(features), -1)

    return predict
