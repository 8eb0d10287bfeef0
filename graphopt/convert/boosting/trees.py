"""Decision trees as one TreeEnsembleRegressor of ai.onnx.ml, with splits that decide as before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from graphopt.runtime.feeds import Array

Mode = Literal["BRANCH_LEQ", "BRANCH_LT", "BRANCH_EQ"]
ML_DOMAIN = "ai.onnx.ml"
ML_OPSET = 3
_TREES = "TreeEnsembleRegressor"


class Nodes(Protocol):
    """Where nodes are written to: a graph of its own, or one that another exporter makes."""

    def constant(self, array: Array) -> str:
        """Add a constant; return its name."""
        ...

    def node(self, op_type: str, inputs: list[str], *, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; return the name of the output."""
        ...


@dataclass
class Trees:
    """Trees whose leaves are added up, target by target.

    Args:
        targets: Number of sums.
        double: Whether splits compare float64; else float32.
    """

    targets: int
    double: bool = False
    count: int = 0
    nodes: list[tuple[int, int, int, str, float, int, int, bool]] = field(default_factory=list)
    leaves: list[tuple[int, int, int, float]] = field(default_factory=list)

    def split(
        self,
        node: int,
        feature: int,
        mode: Mode,
        threshold: float,
        branches: tuple[int, int],
        missing_is_true: bool,
    ) -> None:
        """Add a split to the tree that is being written.

        A threshold of float64 becomes the float32 between the same two float32 neighbours: every
        float32 feature goes where it went.
        """
        value = threshold if self.double else _as_float32(threshold, mode)
        self.nodes.append((self.count, node, feature, mode, value, *branches, missing_is_true))

    def leaf(self, node: int, weights: Iterable[tuple[int, float]]) -> None:
        """Add a leaf with what it adds to which targets."""
        self.nodes.append((self.count, node, 0, "LEAF", 0.0, 0, 0, False))
        self.leaves.extend((self.count, node, target, weight) for target, weight in weights)

    def end(self) -> None:
        """End the tree; the next node belongs to the next one."""
        self.count += 1

    def write(self, nodes: Nodes, features: str, base: Array) -> str:
        """Write the sums of all trees, shape (batch, targets), float32.

        Args:
            nodes: Where to write.
            features: Name of the features, shape (batch, features).
            base: What is added to each target.
        """
        base = np.broadcast_to(np.asarray(base, np.float64), (self.targets,))
        if not self.leaves:
            return self._constant(nodes, features, base)
        trees, ids, features_at, modes, values, true, false, missing = zip(*self.nodes, strict=True)
        leaf_trees, leaf_nodes, targets, weights = zip(*self.leaves, strict=True)
        attributes: dict[str, Any] = {
            "nodes_treeids": list(map(int, trees)),
            "nodes_nodeids": list(map(int, ids)),
            "nodes_featureids": list(map(int, features_at)),
            "nodes_modes": list(modes),
            "nodes_truenodeids": list(map(int, true)),
            "nodes_falsenodeids": list(map(int, false)),
            "nodes_missing_value_tracks_true": list(map(int, missing)),
            "target_treeids": list(map(int, leaf_trees)),
            "target_nodeids": list(map(int, leaf_nodes)),
            "target_ids": list(map(int, targets)),
            "n_targets": self.targets,
            "aggregate_function": "SUM",
            "post_transform": "NONE",
        }
        floats = {"nodes_values": values, "target_weights": weights, "base_values": base}
        for name, numbers in floats.items():
            if self.double:
                attributes[f"{name}_as_tensor"] = np.asarray(numbers, np.float64)
            else:
                attributes[name] = [float(number) for number in np.asarray(numbers, np.float32)]
        return nodes.node(_TREES, [features], domain=ML_DOMAIN, **attributes)

    def _constant(self, nodes: Nodes, features: str, base: Array) -> str:
        """Write what no tree changes: the base for each sample."""
        batch = nodes.node("Shape", [features], start=0, end=1)
        targets = nodes.constant(np.array([self.targets], np.int64))
        shape = nodes.node("Concat", [batch, targets], axis=0)
        return nodes.node("Expand", [nodes.constant(base.astype(np.float32)[None]), shape])


def add_choice(
    trees: Trees,
    node: int,
    column: int,
    values: list[float],
    branches: tuple[int, int],
    free: int,
    missing_is_chosen: bool = False,
) -> int:
    """Add a chain of splits: one branch for a set of values, the other for all else.

    Args:
        trees: Where to.
        node: Number of the chain's first node.
        column: The feature.
        values: The set.
        branches: Where its members go, and where all else goes.
        free: The first number that no node has.
        missing_is_chosen: Whether a missing value goes where the members of the set go.

    Returns:
        The first number that no node has then.
    """
    chain = [node, *range(free, free + max(len(values) - 1, 0))]
    if not values:
        # Always false: no float equals NaN.
        values = [float("nan")]
    for position, value in enumerate(values):
        last = position == len(values) - 1
        following = branches[1] if last else chain[position + 1]
        trees.split(
            chain[position], column, "BRANCH_EQ", value, (branches[0], following), missing_is_chosen
        )
    return free + len(chain) - 1


def write_label(nodes: Nodes, probabilities: str, classes: Array) -> str:
    """Write the most probable class: int64, or strings where the classes are, shape (batch,)."""
    index = nodes.node("ArgMax", [probabilities], axis=1, keepdims=0)
    if classes.dtype.kind in "OUS":
        return nodes.node(
            "LabelEncoder",
            [index],
            domain=ML_DOMAIN,
            keys_int64s=list(range(len(classes))),
            values_strings=[str(name) for name in classes],
        )
    numbers = np.array([int(name) for name in classes], np.int64)
    if np.array_equal(numbers, np.arange(len(numbers))):
        return index
    return nodes.node("Gather", [nodes.constant(numbers), index])


def write_two_classes(nodes: Nodes, positive: str) -> str:
    """Write the probabilities of both classes from those of the second, shape (batch, 1)."""
    one = nodes.constant(np.ones(1, np.float32))
    return nodes.node("Concat", [nodes.node("Sub", [one, positive]), positive], axis=1)


def _as_float32(threshold: float, mode: Mode) -> float:
    """Round a threshold so that no float32 changes sides: x <= t down, x < t up."""
    with np.errstate(over="ignore"):
        nearest = np.float32(threshold)
    if mode == "BRANCH_LEQ" and float(nearest) > threshold:
        nearest = np.nextafter(nearest, np.float32(-np.inf))
    if mode == "BRANCH_LT" and float(nearest) < threshold:
        nearest = np.nextafter(nearest, np.float32(np.inf))
    return float(nearest)
