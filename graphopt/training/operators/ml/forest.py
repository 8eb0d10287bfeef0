"""Ensembles of trees as arrays, which all rows walk through at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

Integers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.floating]
Flags = npt.NDArray[np.bool_]

MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
"""Comparisons of a feature with a number, in the order of TreeEnsemble's enumeration."""

MEMBER = len(MODES)
"""The comparison of a feature with a set of numbers."""

_COMPARED = (torch.le, torch.lt, torch.ge, torch.gt, torch.eq, torch.ne)


@dataclass(frozen=True, eq=False)
class Forest:
    """The nodes of all trees; those of one tree need not be next to each other.

    Args:
        roots: The root of each tree, (trees,).
        feature: The column of the input that a node compares, (nodes,); 0 at leaves.
        mode: The comparison, an index into `MODES`, or `MEMBER`.
        value: What the feature is compared with.
        missing: Whether NaN takes the true branch.
        branches: Where the false and the true branch lead, (2, nodes); leaves lead to themselves.
        members: Sets of numbers of nodes whose mode is `MEMBER`, (nodes, largest), filled with
            NaN; None: there are none.
        weights: What leaves give to targets, (nodes, targets).
        given: Which targets a leaf gives something to, (nodes, targets).
    """

    roots: Integers
    feature: Integers
    mode: Integers
    value: Reals
    missing: Flags
    branches: Integers
    members: Reals | None
    weights: Reals
    given: Flags

    @cached_property
    def depth(self) -> int:
        """How many comparisons the longest way to a leaf takes.

        Raises:
            ValueError: A way never ends.
        """
        reached = np.unique(self.roots)
        for steps in range(len(self.feature) + 1):
            inner = reached[self.branches[0, reached] != reached]
            if not len(inner):
                return steps
            reached = np.unique(self.branches[:, inner])
        raise ValueError("its nodes form a cycle")

    @cached_property
    def certain(self) -> tuple[Flags, Flags]:
        """Which targets every row gets something for, and which none does."""
        never: Flags = np.logical_not(self.given.any(axis=0))
        always = np.zeros_like(never)
        owners, ends = self._ends()
        for target in np.flatnonzero(~never):
            without = np.unique(owners[~self.given[ends, target]])
            always[target] = len(without) < len(self.roots)
        return always, never

    def _ends(self) -> tuple[Integers, Integers]:
        """Return pairs of a tree and a leaf of it."""
        pairs = np.stack([np.arange(len(self.roots)), self.roots])
        for _ in range(self.depth):
            leaf = self.branches[0, pairs[1]] == pairs[1]
            branches = self.branches[:, pairs[1, ~leaf]].reshape(-1)
            inner = np.stack([np.tile(pairs[0, ~leaf], 2), branches])
            pairs = np.unique(np.concatenate([pairs[:, leaf], inner], axis=1), axis=1)
        return pairs[0], pairs[1]


def leaves(forest: Forest, rows: torch.Tensor, depth: int) -> torch.Tensor:
    """Return the leaf that each row reaches in each tree, (rows, trees)."""
    device = rows.device
    feature, false, true = (
        torch.from_numpy(array).to(device) for array in (forest.feature, *forest.branches)
    )
    at = torch.from_numpy(forest.roots).to(device).expand(rows.shape[0], -1)
    for _ in range(depth):
        values = rows.gather(1, feature[at])
        at = torch.where(_decided(forest, values, at), true[at], false[at])
    return at


def _decided(forest: Forest, values: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    bounds = torch.from_numpy(forest.value).to(at.device)[at]
    inner = forest.branches[0] != np.arange(len(forest.feature))
    modes = np.unique(forest.mode[inner]).tolist()
    decided = _compared(forest, modes[0], values, bounds, at)
    if len(modes) > 1:
        mode = torch.from_numpy(forest.mode).to(at.device)[at]
        for each in modes[1:]:
            other = _compared(forest, each, values, bounds, at)
            decided = torch.where(mode == each, other, decided)
    if forest.missing.any() and values.is_floating_point():
        decided = decided | (
            torch.from_numpy(forest.missing).to(at.device)[at] & torch.isnan(values)
        )
    return decided


def _compared(
    forest: Forest, mode: int, values: torch.Tensor, bounds: torch.Tensor, at: torch.Tensor
) -> torch.Tensor:
    if mode != MEMBER:
        return _COMPARED[mode](values, bounds)
    if forest.members is None:
        raise ValueError("it compares with sets, and lists none")
    sets = torch.from_numpy(forest.members).to(at.device)[at]
    return (values.unsqueeze(-1) == sets).any(-1)


def summed(forest: Forest, at: torch.Tensor) -> torch.Tensor:
    """Return the sum of what leaves give, (rows, targets)."""
    weights = torch.from_numpy(forest.weights).to(at.device)
    if weights.shape[1] == 1:
        return weights[:, 0][at].sum(1, keepdim=True)
    return functional.embedding_bag(at, weights, mode="sum")


def extreme(forest: Forest, at: torch.Tensor, *, largest: bool) -> torch.Tensor:
    """Return the largest or smallest thing that leaves give; 0 where they give none."""
    none = -np.inf if largest else np.inf
    held = np.where(forest.given, forest.weights, none).astype(forest.weights.dtype)
    each = torch.from_numpy(held).to(at.device)[at]
    found = each.amax(1) if largest else each.amin(1)
    return torch.where(given(forest, at), found, 0)


def given(forest: Forest, at: torch.Tensor) -> torch.Tensor:
    """Return which targets any leaf of a row gives something to, (rows, targets)."""
    always, never = forest.certain
    if (always | never).all():
        return torch.from_numpy(always).to(at.device).expand(at.shape[0], -1)
    flags = torch.from_numpy(forest.given.astype(np.float32)).to(at.device)
    return functional.embedding_bag(at, flags, mode="sum") > 0
