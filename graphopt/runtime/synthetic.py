"""Seeded inputs that a model accepts, for when there is no data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.errors import CheckFailed, GraphoptError
from graphopt.runtime.feeds import Feeds
from graphopt.runtime.input_roles import Role, role_of
from graphopt.runtime.layout import Input, Layout, inputs_of
from graphopt.runtime.session import Session

Array = npt.NDArray[Any]

_SIZES = (
    *(32, 64, 16, 8, 48, 96, 128, 224, 256, 512, 576, 320, 192),
    *(4, 2, 1, 3, 28, 299, 1024, 2048, 640, 16000),
)
"""What dynamic dimensions are tried as: multiples of 32 first, as strided networks want them, then
what networks for images, windows of audio and tokens are commonly made for."""

_MOST_TRIES = 400
_TOO_MANY_ELEMENTS = 1 << 25
"""128 MB of float32 for one input of one sample: no trial goes beyond."""

_MOST_ELEMENTS = 1 << 28
"""1 GB of float32 for one input of one run, whatever batch the model is fixed to."""

_WORDS = ("alpha", "beta", "gamma", "delta")

Key = str | tuple[str, int]
"""A dynamic dimension: its symbol, or the input and axis of one without a symbol."""


@dataclass(frozen=True)
class _Plan:
    """One way to make the inputs.

    Args:
        sizes: The size of each dynamic dimension.
        axes: The sample axis of each input; None: the same for all samples.
        batch: Samples per run.
        unit: Floats in [0, 1) instead of normally distributed ones.
    """

    sizes: Mapping[Key, int]
    axes: Mapping[str, int | None]
    batch: int
    unit: bool = False


def synthetic_feeds(
    model: ir.Model, *, seed: int = 0, samples: int = 4, sizes: Mapping[str, int] | None = None
) -> Feeds:
    """Make seeded inputs that respect names, dtypes, dynamic shapes and integer ranges.

    The same symbol gets the same size in all inputs. Sizes of dynamic dimensions are searched for:
    the first that ONNX Runtime runs on the CPU, with finite outputs if there are such. Integers
    that index a table stay below its rows, inputs called a mask hold 1, or 1 and then 0, inputs
    that operators read as sizes, axes or switches get values which make sense there, and inputs
    with a default keep it.

    Args:
        model: Whose inputs to make.
        seed: For the values.
        samples: How many. More, where the model's fixed batch is larger.
        sizes: Sizes of dynamic dimensions by symbol, where they are known.

    Raises:
        GraphoptError: No inputs were found that the model takes, or an input is no tensor.
    """
    inputs = tuple(item for item in inputs_of(model) if item.required)
    for item in inputs:
        if item.dtype is None or item.shape is None:
            raise GraphoptError(
                f"input {item.name!r} has no {'element type' if item.dtype is None else 'rank'}, so"
                " that nothing can be made up for it",
                fix="give --data",
            )
    roles = {
        value.name: role_of(model, value) for value in model.graph.inputs if value.name is not None
    }
    maker = _Maker(inputs, roles, seed)
    plan = _search(model, maker, samples, dict(sizes or {}))
    runs = -(-samples // plan.batch)
    return maker.feeds(plan, runs, fitted=inputs_of(model))


def _search(model: ir.Model, maker: _Maker, samples: int, sizes: dict[str, int]) -> _Plan:
    session = Session(model, optimization="none", title="the model")
    failure = ""
    usable: _Plan | None = None
    for plan in _plans(maker.inputs, samples, sizes):
        if maker.elements(plan) > min(_TOO_MANY_ELEMENTS * plan.batch, _MOST_ELEMENTS):
            continue
        for choice in (plan, replace(plan, unit=True)):
            try:
                outputs = session.run(next(maker.feeds(choice, 1).batches(choice.batch)))
            except CheckFailed as error:
                failure = failure or str(error)
                break
            if _finite(outputs.values()):
                return choice
            usable = usable or choice
        if usable is not None:
            return usable
    raise GraphoptError(
        "no made-up inputs were found that the model takes",
        fix=f"give --data (the first try: {failure or 'too large'})",
    )


def _finite(outputs: Any) -> bool:
    return all(
        bool(np.isfinite(output.astype(np.float64)).all())
        for output in outputs
        if isinstance(output, np.ndarray) and output.dtype.kind not in "OSUTiub"
    )


def _plans(inputs: Sequence[Input], samples: int, known: Mapping[str, int]) -> Iterator[_Plan]:
    """What to try, the likeliest first."""
    leading, others = _dimensions(inputs)
    fixed = _fixed_batch(inputs, leading)
    batches = [fixed] if fixed else list(dict.fromkeys((samples, 1)))
    # Dimensions without a symbol behind a fixed one may be the batch, as in a state of
    # [2, ?, 128] beside an input of [?, 512].
    ties = [key for key in others if _could_be_batch(key, inputs)] if leading else []
    variants = [(batch, tied) for batch in batches for tied in ((ties, []) if ties else ([],))]
    for combine in (_alike, _products):
        for batch, tied in variants:
            free = [key for key in others if key not in tied]
            for chosen in itertools.islice(combine(free, known), _MOST_TRIES):
                sizes: dict[Key, int] = dict.fromkeys([*leading, *tied], batch)
                sizes.update(chosen)
                yield _Plan(sizes, _axes(inputs, leading, tied), batch)


def _dimensions(inputs: Sequence[Input]) -> tuple[list[Key], list[Key]]:
    """The dynamic dimensions that stand at axis 0, and the others."""
    leading: dict[Key, None] = {}
    others: dict[Key, None] = {}
    for item in inputs:
        for axis, size in enumerate(item.shape or ()):
            if not isinstance(size, int):
                key = _key(item, axis)
                (leading if axis == 0 else others).setdefault(key)
    return list(leading), [key for key in others if key not in leading]


def _key(item: Input, axis: int) -> Key:
    size = item.shape[axis] if item.shape else None
    return size if isinstance(size, str) and size not in {"", "?"} else (item.name, axis)


def _could_be_batch(key: Key, inputs: Sequence[Input]) -> bool:
    return isinstance(key, tuple) and any(
        item.name == key[0] and item.shape is not None and isinstance(item.shape[0], int)
        for item in inputs
    )


def _fixed_batch(inputs: Sequence[Input], leading: Sequence[Key]) -> int | None:
    """The batch of a model without dynamic leading dimensions."""
    if leading:
        return None
    sizes = {item.shape[0] for item in inputs if item.shape}
    size = next(iter(sizes), 1)
    return size if len(sizes) == 1 and isinstance(size, int) and size > 0 else 1


def _alike(free: Sequence[Key], known: Mapping[str, int]) -> Iterator[dict[Key, int]]:
    """The same size for all dimensions that are not known, one size after the other."""
    fixed, unknown = _split(free, known)
    for size in _SIZES if unknown else _SIZES[:1]:
        yield {**fixed, **dict.fromkeys(unknown, size)}


def _products(free: Sequence[Key], known: Mapping[str, int]) -> Iterator[dict[Key, int]]:
    """Different sizes; the last one stands for all dimensions from the third on."""
    fixed, unknown = _split(free, known)
    for sizes in itertools.product(_SIZES, repeat=min(len(unknown), 3)):
        if len(set(sizes)) > 1:
            filled = [*sizes, *itertools.repeat(sizes[-1], len(unknown) - len(sizes))]
            yield {**fixed, **dict(zip(unknown, filled, strict=True))}


def _split(free: Sequence[Key], known: Mapping[str, int]) -> tuple[dict[Key, int], list[Key]]:
    fixed: dict[Key, int] = {
        key: known[key] for key in free if isinstance(key, str) and key in known
    }
    return fixed, [key for key in free if key not in fixed]


def _axes(
    inputs: Sequence[Input], leading: Sequence[Key], ties: Sequence[Key]
) -> dict[str, int | None]:
    batched = {*leading, *ties}
    axes: dict[str, int | None] = {}
    for item in inputs:
        keys = [_key(item, axis) for axis in range(len(item.shape or ()))]
        found = [axis for axis, key in enumerate(keys) if key in batched]
        if found:
            axes[item.name] = found[0]
        else:
            alike = not leading and bool(item.shape) and _all_lead_alike(inputs)
            axes[item.name] = 0 if alike else None
    return axes


def _all_lead_alike(inputs: Sequence[Input]) -> bool:
    return len({item.shape[0] for item in inputs if item.shape}) == 1


class _Maker:
    """Makes arrays for the inputs of one model.

    Args:
        inputs: The inputs to make.
        roles: What is known of them.
        seed: For the values: the same plan and seed make the same arrays.
    """

    def __init__(self, inputs: Sequence[Input], roles: Mapping[str, Role], seed: int) -> None:
        self.inputs = inputs
        self._roles = roles
        self._seed = seed

    def feeds(self, plan: _Plan, runs: int, fitted: tuple[Input, ...] | None = None) -> Feeds:
        """Make the samples of so many runs.

        Where no input has an axis for samples, there is a stack of whole inputs, one a run.
        """
        axes = dict(plan.axes)
        stacked: frozenset[str] = frozenset()
        if all(axis is None for axis in axes.values()):
            stacked = frozenset(axes)
            axes = dict.fromkeys(axes, 0)
        generator = np.random.default_rng(self._seed)
        arrays: dict[str, Array] = {}
        for item in self.inputs:
            shape = self._shape(item, plan)
            axis = axes[item.name]
            role = self._roles[item.name]
            if item.name in stacked:
                # Each is an input of its own: axes, say, start at 0 in all of them.
                whole = [
                    _values(generator, item, role, tuple(shape), plan.unit) for _ in range(runs)
                ]
                arrays[item.name] = np.stack(whole)
                continue
            if axis is not None:
                shape[axis] = plan.batch * runs
            arrays[item.name] = _values(generator, item, role, tuple(shape), plan.unit)
        batch = 1 if stacked else plan.batch
        dynamic = batch > 1 and not _is_fixed(self.inputs, plan)
        layout = Layout(axes, stacked, None if dynamic else batch)
        return Feeds(arrays, source="synthetic inputs", layout=layout, fitted=fitted)

    def elements(self, plan: _Plan) -> int:
        """The number of elements of the largest input of one run."""
        return max((math.prod(self._shape(item, plan)) for item in self.inputs), default=0)

    def _shape(self, item: Input, plan: _Plan) -> list[int]:
        return [
            size if isinstance(size, int) else plan.sizes[_key(item, axis)]
            for axis, size in enumerate(item.shape or ())
        ]


def _is_fixed(inputs: Sequence[Input], plan: _Plan) -> bool:
    return any(
        item.shape is not None and axis is not None and isinstance(item.shape[axis], int)
        for item in inputs
        if (axis := plan.axes[item.name]) is not None
    )


def _values(
    generator: np.random.Generator, item: Input, role: Role, shape: tuple[int, ...], unit: bool
) -> Array:
    values: Array
    assert item.dtype is not None
    if item.dtype == ir.DataType.STRING:
        return np.asarray(generator.choice(role.words or _WORDS, shape), dtype=object)
    dtype = np.dtype(item.dtype.numpy())
    if "mask" in item.name.lower():
        values = _mask(generator, shape)
    elif role.values is not None:
        values = _repeat_last(role.values, shape)
    elif item.dtype == ir.DataType.BOOL:
        values = np.asarray(generator.integers(0, 2, shape) if shape else True)
    elif dtype.kind in "iu" or item.dtype.is_integer():
        values = _integers(generator, item, role, shape)
    else:
        values = np.asarray(generator.random(shape) if unit else generator.standard_normal(shape))
    return values.astype(dtype)


def _integers(
    generator: np.random.Generator, item: Input, role: Role, shape: tuple[int, ...]
) -> Array:
    values: Array
    assert item.dtype is not None
    low, high = 0, 8
    if item.dtype.bitwidth <= 8:
        # Pixels and quantized values use their whole range.
        low, high = int(item.dtype.min), int(item.dtype.max) + 1
    if role.below is not None:
        low, high = 0, role.below
    if role.axes:
        values = np.arange(int(np.prod(shape))).reshape(shape)
    elif role.constants and not shape:
        values = np.asarray(max(role.constants))
    elif role.below is not None and "position" in item.name.lower() and shape:
        values = np.broadcast_to(np.arange(shape[-1]) % role.below, shape)
    elif role.lengths:
        values = np.ones(shape)
    else:
        values = np.asarray(generator.integers(low, high, shape))
    return values


def _mask(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Ones, and zeros behind at least half of each row: what padding leaves."""
    if not shape:
        return np.asarray(1)
    lengths = generator.integers(-(-shape[-1] // 2), shape[-1] + 1, (*shape[:-1], 1))
    return np.asarray(np.arange(shape[-1]) < lengths)


def _repeat_last(values: Sequence[int], shape: tuple[int, ...]) -> Array:
    size = int(np.prod(shape))
    filled = [*values, *itertools.repeat(values[-1], size)][:size]
    return np.asarray(filled).reshape(shape)
