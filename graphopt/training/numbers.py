"""Numbers that are no tensors: sizes, and what a graph computes from them.

An ONNX graph computes shapes with the operators that it computes everything with: Shape, Gather,
Mul, Concat. As tensors they would hide a dynamic size from `torch.export` and cost a copy from the
device for each Reshape. So small integers stay numbers of Python, or symbols of `torch.export`, for
as long as only operators that know both read them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from graphopt.errors import GraphoptError

MAX_NUMBERS = 64
"""Constants of more elements are tensors from the start."""

Objects = npt.NDArray[np.object_]


@dataclass(frozen=True, eq=False)
class Numbers:
    """Numbers of Python, or symbolic ones, with the shape and the type that a tensor would have.

    Args:
        array: `int`, `float`, `bool` or their symbolic kinds, as objects.
        dtype: The element type.
    """

    array: Objects
    dtype: torch.dtype

    def tensor(self, device: torch.device | None = None) -> torch.Tensor:
        """Make a tensor of them."""
        flat = self.array.reshape(-1).tolist()
        known = all(isinstance(number, int | float) for number in flat)
        if known and not torch.compiler.is_exporting():
            made = torch.tensor(flat, dtype=self.dtype, device=device)
        elif known and len(set(map(repr, flat))) == 1:
            made = torch.full((len(flat),), flat[0], dtype=self.dtype, device=device)
        else:
            # torch.tensor would read a symbol's value, and fix it; of known numbers it would make
            # a constant, which the graph of a branch or a loop cannot hold.
            elements = [torch.full((), each, dtype=self.dtype, device=device) for each in flat]
            none = torch.empty(0, dtype=self.dtype, device=device)
            made = torch.stack(elements) if elements else none
        return made.reshape(self.array.shape)


def numbers(values: Iterable[Any], dtype: torch.dtype = torch.int64) -> Numbers:
    """Make a list of numbers, such as a shape."""
    listed = list(values)
    array = np.empty(len(listed), dtype=object)
    array[:] = listed
    return Numbers(array, dtype)


def number(value: Any, dtype: torch.dtype = torch.int64) -> Numbers:
    """Make one number of shape ()."""
    array = np.empty((), dtype=object)
    array[()] = value
    return Numbers(array, dtype)


Value = Any
"""A tensor, `Numbers`, a list of them (a sequence), or None (an input that is left out)."""


def tensor_of(value: Value, device: torch.device | None = None) -> torch.Tensor:
    """Return a value as a tensor."""
    if isinstance(value, Numbers):
        return value.tensor(device)
    if isinstance(value, torch.Tensor):
        return value
    raise GraphoptError(f"a tensor is wanted where there is {type(value).__name__}")


def integers_of(value: Value) -> list[Any]:
    """Return a value's elements as integers, symbolic ones as they are; reads a tensor's."""
    if isinstance(value, Numbers):
        return [_integer(element) for element in value.array.reshape(-1).tolist()]
    return [_integer(element) for element in value.detach().reshape(-1).tolist()]


def integer_of(value: Value) -> Any:
    """Return the only element of a value as an integer."""
    (element,) = integers_of(value)
    return element


def real_of(value: Value) -> Any:
    """Return the only element of a value as a float, or a symbolic one; reads a tensor's."""
    if isinstance(value, Numbers):
        (element,) = value.array.reshape(-1).tolist()
        return element if isinstance(element, torch.SymFloat) else float(element)
    return float(value.detach().reshape(()))


def _integer(element: Any) -> Any:
    return element if isinstance(element, torch.SymInt) else int(element)
