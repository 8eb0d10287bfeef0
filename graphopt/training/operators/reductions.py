"""What is computed along axes: sums, extremes, their places, running sums and order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from graphopt.training.call import Call
from graphopt.training.numbers import Value, integer_of, integers_of
from graphopt.training.operators.registry import operator
from graphopt.training.operators.shapes import axis_of
from graphopt.training.unsigned import divided, modular, ordered, sortable, unsorted

Reduction = Callable[[torch.Tensor, list[int], bool], torch.Tensor]
"""Takes a tensor, the axes (at least one, unless the tensor has none), and whether to keep them."""


def _register(name: str, function: Reduction) -> None:
    @operator(name, numbers=(1,))
    def compute(call: Call, x: torch.Tensor, axes: Value = None) -> torch.Tensor:
        chosen = [] if axes is None else integers_of(axes)
        if not chosen:
            if call.integer("noop_with_empty_axes", 0):
                return _of_single(function, x)
            chosen = list(range(x.ndim))
        # PyTorch counts a single number as a list of one.
        places = [axis_of(axis, max(x.ndim, 1)) for axis in chosen]
        return function(x, places, bool(call.integer("keepdims", 1)))


def _of_single(function: Reduction, x: torch.Tensor) -> torch.Tensor:
    """Reduce each element alone, which may still take its square or its logarithm."""
    return function(x.unsqueeze(-1), [x.ndim], False)


def _in_reals(function: Reduction) -> Reduction:
    """Let integers be reduced as real numbers, and the result be cut off."""

    def reduce(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
        if x.is_floating_point():
            return function(x, axes, keep)
        return function(x.to(torch.float64), axes, keep).to(x.dtype)

    return reduce


def _sum(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    return modular(lambda each: each.sum(axes, keepdim=keep, dtype=each.dtype), x)


def _mean(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=keep)
    count = 1
    for axis in axes:
        count = count * x.shape[axis]
    return divided(_sum(x, axes, keep), torch.full((), count, dtype=x.dtype, device=x.device))


def _product(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    return modular(lambda each: _products(each, axes, keep), x)


def _products(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    dtype = x.dtype
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=dtype)
    return x


def _largest(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    return _extreme(torch.amax, x, axes, keep, largest=True)


def _smallest(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    return _extreme(torch.amin, x, axes, keep, largest=False)


def _extreme(
    function: Callable[..., torch.Tensor],
    x: torch.Tensor,
    axes: list[int],
    keep: bool,
    *,
    largest: bool,
) -> torch.Tensor:
    if any(x.shape[axis] == 0 for axis in axes):
        # The largest of no numbers is the lowest one of the type.
        return torch.full(_reduced_shape(x, axes, keep), _end_of_range(x.dtype, low=largest)).to(x)
    return ordered(lambda each: function(each, axes, keep), x)


def _end_of_range(dtype: torch.dtype, *, low: bool) -> float:
    if dtype.is_floating_point:
        return float("-inf") if low else float("inf")
    if dtype == torch.bool:
        return not low
    info = torch.iinfo(dtype)
    return info.min if low else info.max


def _reduced_shape(x: torch.Tensor, axes: Sequence[int], keep: bool) -> list[int]:
    sizes = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    return sizes if keep else [size for axis, size in enumerate(sizes) if axis not in axes]


def _length(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(x, 2, axes, keepdim=keep)
    return norm


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceL1": lambda x, axes, keep: _sum(modular(torch.abs, x), axes, keep),
    "ReduceL2": _in_reals(_length),
    "ReduceLogSum": _in_reals(lambda x, axes, keep: torch.log(_sum(x, axes, keep))),
    "ReduceLogSumExp": _in_reals(torch.logsumexp),
    "ReduceMax": _largest,
    "ReduceMean": _mean,
    "ReduceMin": _smallest,
    "ReduceProd": _product,
    "ReduceSum": _sum,
    "ReduceSumSquare": lambda x, axes, keep: _sum(modular(torch.square, x), axes, keep),
}

for _name, _function in _REDUCTIONS.items():
    _register(_name, _function)


@operator("ArgMax", "ArgMin")
def argument(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Return where the largest or smallest elements along an axis are."""
    axis, keep = axis_of(call.integer("axis", 0), max(x.ndim, 1)), bool(call.integer("keepdims", 1))
    function = torch.argmax if call.node.op_type == "ArgMax" else torch.argmin
    x = sortable(x)
    if not call.integer("select_last_index", 0):
        return function(x, axis, keepdim=keep)
    return x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim=keep)


@operator("CumSum", "CumProd", numbers=(1,))
def cumulative(call: Call, x: torch.Tensor, axis: Value) -> torch.Tensor:
    """Add up or multiply what is before each element, and the element unless `exclusive`."""
    is_sum = call.node.op_type == "CumSum"
    along = axis_of(integer_of(axis), x.ndim)

    def compute(each: torch.Tensor) -> torch.Tensor:
        function = torch.cumsum if is_sum else torch.cumprod
        if call.integer("reverse", 0):
            each = each.flip(along)
        found = function(each, along, dtype=each.dtype)
        if call.integer("exclusive", 0):
            sizes = list(each.shape)
            sizes[along] = 1
            first = each.new_full(sizes, 0 if is_sum else 1)
            found = torch.cat([first, found], along).narrow(along, 0, each.shape[along])
        return found.flip(along) if call.integer("reverse", 0) else found

    return modular(compute, x)


@operator("TopK", numbers=(1,))
def top(call: Call, x: torch.Tensor, count: Value) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest or smallest elements along an axis and their places, the best first.

    Of equal ones those with the lower index come first, which PyTorch's own topk does not promise.
    """
    axis, largest = axis_of(call.integer("axis", -1), x.ndim), bool(call.integer("largest", 1))
    values, places = torch.sort(sortable(x), stable=True, dim=axis, descending=largest)
    wanted = integer_of(count)
    kept, at = (_first(each, axis, wanted) for each in (values, places))
    return unsorted(kept, x.dtype), at


def _first(x: torch.Tensor, axis: int, count: Any) -> torch.Tensor:
    if not isinstance(count, int):
        # narrow would compare the count with the size, which torch.export cannot always.
        return x.index_select(axis, torch.arange(count, device=x.device))
    return x.narrow(axis, 0, count)


@operator("LpNormalization")
def normalize(call: Call, x: torch.Tensor) -> torch.Tensor:
    """Divide by the norm along an axis; zeros stay."""
    axis = axis_of(call.integer("axis", -1), x.ndim)
    norm = torch.linalg.vector_norm(x, call.integer("p", 2), axis, keepdim=True)
    return x / torch.where(norm == 0, 1, norm)
