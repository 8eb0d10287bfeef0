"""A program that was exported for one batch size, made to take any where that is proved right."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.convert.torch.arrays import to_numpy
from graphopt.runtime.difference import Difference
from graphopt.runtime.feeds import Array

if TYPE_CHECKING:
    import torch

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword inputs."""


def with_free_batch(
    program: torch.export.ExportedProgram, inputs: Inputs
) -> torch.export.ExportedProgram | None:
    """Trace a program again with a dynamic axis 0; keep the result if it treats samples alone.

    A program that was exported for B samples says what it computes for B, and nothing on any other
    number. So the new one is run on 2*B samples: the example inputs, and the first sample B times.
    It is kept where that gives, sample by sample, what the old one gives for either half. Whatever
    mixes samples or has B written into it does not pass.

    Returns:
        The new program, or None: it cannot be traced, its batch stays fixed, or it differs.
    """
    import torch
    from torch.utils import _pytree as pytree

    size = _batch_of(inputs)
    if size is None:
        return None
    repeated = _of_tensors(inputs, lambda tensor: tensor[:1].expand_as(tensor).clone())
    both = pytree.tree_map(_joined, inputs, repeated)
    module = program.module(check_guards=False)
    bound = inspect.signature(module.forward).bind(*both[0], **both[1]).arguments
    shapes = pytree.tree_map(_axes, dict(bound))
    try:
        freed = torch.export.export(module, both[0], both[1], dynamic_shapes=shapes)
        whole = _outputs(freed.module(check_guards=False), both)
    except Exception:
        # Traced for one batch, a program may do anything with another; then it stays as it is.
        return None
    halves = zip(_outputs(module, inputs), _outputs(module, repeated), strict=True)
    right = all(
        _is_joined(array, first, second, size)
        for array, (first, second) in zip(whole, halves, strict=True)
    )
    return freed if right and freed.range_constraints else None


def _batch_of(inputs: Inputs) -> int | None:
    """Return the size of axis 0, if every tensor has one and all are equal."""
    import torch
    from torch.utils import _pytree as pytree

    tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
    sizes = {tensor.shape[0] if tensor.ndim else None for tensor in tensors}
    return sizes.pop() if len(sizes) == 1 else None


def _of_tensors(inputs: Inputs, function: Any) -> Any:
    import torch
    from torch.utils import _pytree as pytree

    return pytree.tree_map(
        lambda leaf: function(leaf) if isinstance(leaf, torch.Tensor) else leaf, inputs
    )


def _joined(first: Any, second: Any) -> Any:
    import torch

    return torch.cat([first, second]) if isinstance(first, torch.Tensor) else first


def _axes(leaf: object) -> object:
    import torch

    return {0: torch.export.Dim.AUTO} if isinstance(leaf, torch.Tensor) else None


def _outputs(module: torch.nn.Module, inputs: Inputs) -> list[Array]:
    import torch
    from torch.utils import _pytree as pytree

    with torch.no_grad():
        leaves = pytree.tree_leaves(module(*inputs[0], **inputs[1]))
    return [to_numpy(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _is_joined(whole: Array, first: Array, second: Array, size: int) -> bool:
    """Whether an output is both halves, one behind the other along some axis of their batch."""
    for axis, length in enumerate(first.shape):
        if length == size and whole.shape == _twice(first.shape, axis):
            difference = Difference()
            difference.add(np.concatenate([first, second], axis=axis), whole)
            if difference.equal:
                return True
    return False


def _twice(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])
