"""Reads the nodes of trees from the attributes that ai.onnx.ml lists them in."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.training.call import Call
from graphopt.training.operators.ml.forest import MEMBER, MODES, Flags, Forest, Integers, Reals


def by_ids(call: Call, kind: str, targets: int, dtype: np.dtype[Any]) -> Forest:
    """Read TreeEnsembleClassifier's or TreeEnsembleRegressor's trees, in which nodes have ids.

    Args:
        call: The node.
        kind: "class" or "target": what its attributes for leaves begin with.
        targets: How many there are.
        dtype: The type of thresholds and weights.

    Raises:
        GraphoptError: The attributes do not fit each other, or a node leads nowhere.
    """
    trees, ids = _integers(call, "nodes_treeids"), _integers(call, "nodes_nodeids")
    modes = call.texts("nodes_modes", [])
    values = reals(call, "nodes_values", dtype)
    feature = _integers(call, "nodes_featureids")
    true, false = _integers(call, "nodes_truenodeids"), _integers(call, "nodes_falsenodeids")
    nodes = len(trees)
    if not nodes or {len(each) for each in (ids, modes, values, feature, true, false)} != {nodes}:
        raise call.refused("its lists of nodes are empty, or not of one length")
    places = {
        pair: place for place, pair in enumerate(zip(trees.tolist(), ids.tolist(), strict=True))
    }
    leaf = np.array([mode == "LEAF" for mode in modes])

    def found(tree: int, node: int) -> int:
        place = places.get((tree, node))
        if place is None:
            raise call.refused(f"tree {tree} has no node {node}")
        return place

    branches = np.tile(np.arange(nodes), (2, 1))
    for way, ends in enumerate((false, true)):
        for place in np.flatnonzero(~leaf):
            branches[way, place] = found(int(trees[place]), int(ends[place]))
    owner_trees = _integers(call, f"{kind}_treeids").tolist()
    owner_nodes = _integers(call, f"{kind}_nodeids").tolist()
    if len(owner_trees) != len(owner_nodes):
        raise call.refused("its lists of weights are not of one length")
    listed = [found(*pair) for pair in zip(owner_trees, owner_nodes, strict=True)]
    owners = np.array(listed, np.int64)
    weights, given = _weights(
        call,
        owners,
        _integers(call, f"{kind}_ids"),
        reals(call, f"{kind}_weights", dtype),
        (nodes, targets),
    )
    if targets == 1 and kind == "target":
        # ONNX Runtime takes the first weight of a leaf, or what its threshold would be.
        weights[:, 0], given[:, 0] = values, leaf
        first = dict(
            zip(reversed(owners), reversed(reals(call, f"{kind}_weights", dtype)), strict=True)
        )
        weights[list(first), 0] = list(first.values())
    return Forest(
        roots=np.flatnonzero(np.diff(trees, prepend=trees[0] - 1)),
        feature=np.where(leaf, 0, feature),
        mode=np.array([MODES.index(mode) if mode in MODES else 0 for mode in modes]),
        value=values,
        missing=_missing(call, nodes),
        branches=branches,
        members=None,
        weights=weights,
        given=given,
    )


def by_places(call: Call) -> Forest:
    """Read TreeEnsemble's trees, whose nodes and leaves are two lists; leaves come behind nodes.

    Raises:
        GraphoptError: The attributes do not fit each other, or a node leads nowhere.
    """
    splits = _tensor(call, "nodes_splits")
    nodes = len(splits)
    owners = _integers(call, "leaf_targetids")
    leaves = len(owners)
    ways = []
    for way in ("false", "true"):
        ends, leaf = _integers(call, f"nodes_{way}nodeids"), _integers(call, f"nodes_{way}leafs")
        if len(ends) != nodes or len(leaf) != nodes:
            raise call.refused("its lists of nodes are not of one length")
        bound = np.where(leaf == 1, leaves, nodes)
        if ((ends < 0) | (ends >= bound)).any():
            raise call.refused(f"nodes_{way}nodeids leads to no node or leaf")
        own = np.arange(nodes, nodes + leaves)
        ways.append(np.concatenate([np.where(leaf == 1, ends + nodes, ends), own]))
    weights, given = _weights(
        call,
        np.arange(nodes, nodes + leaves),
        owners,
        _tensor(call, "leaf_weights"),
        (nodes + leaves, call.integer("n_targets", 1)),
    )
    mode = np.concatenate([_tensor(call, "nodes_modes").astype(np.int64), np.zeros(leaves, int)])
    return Forest(
        roots=_integers(call, "tree_roots"),
        feature=np.concatenate([_integers(call, "nodes_featureids"), np.zeros(leaves, np.int64)]),
        mode=mode,
        value=np.concatenate([splits, np.zeros(leaves, splits.dtype)]),
        missing=_missing(call, nodes + leaves),
        branches=np.stack(ways),
        members=_members(call, mode),
        weights=weights,
        given=given,
    )


def _members(call: Call, mode: Integers) -> Reals | None:
    if not call.has("membership_values"):
        return None
    listed = _tensor(call, "membership_values")
    ends = np.flatnonzero(np.isnan(listed))
    sets = [each[~np.isnan(each)] for each in np.split(listed, ends)]
    owners = np.flatnonzero(mode == MEMBER)
    if len(sets) < len(owners):
        raise call.refused(f"it lists {len(sets)} sets for {len(owners)} comparisons with sets")
    largest = max((len(each) for each in sets), default=0)
    table = np.full((len(mode), largest), np.nan, listed.dtype)
    for owner, each in zip(owners, sets, strict=False):
        table[owner, : len(each)] = each
    return table


def _weights(
    call: Call, owners: Integers, targets: Integers, given: Reals, shape: tuple[int, int]
) -> tuple[Reals, Flags]:
    if not len(owners) == len(targets) == len(given):
        raise call.refused("its lists of weights are not of one length")
    if len(targets) and not 0 <= targets.min() <= targets.max() < shape[1]:
        raise call.refused(f"a weight is for none of its {shape[1]} targets")
    weights, known = np.zeros(shape, given.dtype), np.zeros(shape, bool)
    np.add.at(weights, (owners, targets), given)
    known[owners, targets] = True
    return weights, known


def _missing(call: Call, nodes: int) -> Flags:
    flags = np.zeros(nodes, bool)
    listed = np.array(call.integers("nodes_missing_value_tracks_true", [])) == 1
    flags[: len(listed)] = listed[:nodes]
    return flags


def _integers(call: Call, name: str) -> Integers:
    return np.array(call.integers(name, []), np.int64)


def reals(call: Call, name: str, dtype: np.dtype[Any]) -> Reals:
    """Return a list of floats, or the tensor that may stand in its place."""
    if call.has(f"{name}_as_tensor"):
        tensor: Reals = _tensor(call, f"{name}_as_tensor").astype(dtype)
        return tensor
    return np.array(call.reals(name, []), np.float32).astype(dtype)


def _tensor(call: Call, name: str) -> Any:
    tensor: ir.TensorProtocol = call.node.attributes[name].value
    return tensor.numpy().reshape(-1)
