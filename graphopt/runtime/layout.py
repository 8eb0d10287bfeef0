"""How arrays become a model's inputs: which axis holds the samples, which casts are harmless."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model.declared_shapes import Dims, dims_of, shape_text

Array = npt.NDArray[Any]

FLOATS = frozenset(
    (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE)
)
"""The types of inputs that a pass may make of each other: samples are converted then."""


@dataclass(frozen=True)
class Input:
    """What a model says of one input.

    Args:
        name: Its name.
        dtype: Its element type; None: it is no tensor.
        shape: Sizes, symbols, or None where unknown; None: the rank is unknown.
        required: Whether it must be fed: not where it has a default or is of optional type.
    """

    name: str
    dtype: ir.DataType | None
    shape: Dims | None
    required: bool = True


def inputs_of(model: ir.Model) -> tuple[Input, ...]:
    """The inputs of a model's main graph."""
    found = []
    for value in model.graph.inputs:
        tensor = value.type is None or isinstance(value.type, ir.TensorType | ir.SparseTensorType)
        optional = isinstance(value.type, ir.OptionalType) or value.is_initializer()
        found.append(
            Input(value.name or "", value.dtype if tensor else None, dims_of(value), not optional)
        )
    return tuple(found)


@dataclass(frozen=True)
class Layout:
    """Where the samples of each input are.

    An input's samples lie along axis 0, except that:

    - an array of rank 0 has no samples: every run gets it whole (a sampling rate, say);
    - where axis 0 of the model's input is fixed and another axis has the symbol of the batch, or no
      symbol and the right size (`state` of [2, batch, 128] beside `input` of [batch, 512]), they
      lie along that axis;
    - an array of the very shape of an input without dynamic dimensions, among arrays with another
      number of samples, is given to every run whole;
    - an array with one more axis than the input is a stack of whole inputs: one per run.

    Args:
        axes: The sample axis by input name; None: given whole to every run. Others: axis 0.
        stacked: Inputs with an axis in front that the model does not know.
        batch: The only batch size that the model takes; None: any.
        dtypes: What to cast or view arrays to, where they have another type.
    """

    axes: Mapping[str, int | None] = field(default_factory=dict)
    stacked: frozenset[str] = frozenset()
    batch: int | None = None
    dtypes: Mapping[str, np.dtype[Any]] = field(default_factory=dict)

    def axis(self, name: str, array: Array) -> int | None:
        """The sample axis of one array; None where it goes to every run whole."""
        return self.axes.get(name, 0 if array.ndim else None)

    def samples(self, arrays: Mapping[str, Array], source: str) -> int:
        """The number of samples in arrays that belong together.

        Raises:
            GraphoptError: They have different numbers.
        """
        sizes: dict[str, int] = {}
        for name, array in arrays.items():
            axis = self.axis(name, array)
            if axis is not None:
                sizes[name] = array.shape[axis]
        if len(set(sizes.values())) > 1:
            (first, size), *others = sizes.items()
            other, other_size = next(item for item in others if item[1] != size)
            raise GraphoptError(
                f"{first!r} has {size:,} samples, but {other!r} has {other_size:,}", file=source
            )
        return next(iter(sizes.values()), 1)

    def cut(self, arrays: Mapping[str, Array], start: int, stop: int) -> dict[str, Array]:
        """The samples from `start` to `stop`, as views."""
        pieces = {}
        for name, array in arrays.items():
            axis = self.axis(name, array)
            if axis is None:
                pieces[name] = array
            else:
                pieces[name] = array[(slice(None),) * axis + (slice(start, stop),)]
        return pieces

    def join(self, pieces: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """Put batches one behind the other."""
        if len(pieces) == 1:
            return dict(pieces[0])
        joined = {}
        for name, array in pieces[0].items():
            axis = self.axis(name, array)
            joined[name] = (
                array
                if axis is None
                else np.concatenate([piece[name] for piece in pieces], axis=axis)
            )
        return joined

    def joinable(self, one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
        """Whether two batches differ in their number of samples only."""
        return all(self._same_but_samples(name, one[name], other[name]) for name in one)

    def _same_but_samples(self, name: str, one: Array, other: Array) -> bool:
        axis = self.axis(name, one)
        if one.dtype != other.dtype or one.ndim != other.ndim:
            return False
        if axis is None:
            return bool(np.array_equal(one, other))
        return one.shape[:axis] == other.shape[:axis] and (
            one.shape[axis + 1 :] == other.shape[axis + 1 :]
        )

    def finish(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Make a batch what the model takes: casts done, stacks of one unstacked."""
        return {name: self._finished(name, array) for name, array in batch.items()}

    def _finished(self, name: str, array: Array) -> Array:
        whole = np.asarray(array[0]) if name in self.stacked else array
        dtype = self.dtypes.get(name)
        if dtype is None:
            return whole
        if array.dtype.type is np.void:
            return np.ascontiguousarray(whole).view(dtype)
        return whole.astype(dtype)


def fit(
    inputs: Sequence[Input],
    arrays: Mapping[str, Array],
    source: str,
    *,
    converted: Container[str] = (),
) -> Layout:
    """Lay arrays out for a model.

    Wider types of the same kind are cast (float16 to float32, int32 to int64); nothing is narrowed
    but what is to be converted.

    Args:
        inputs: Of the model.
        arrays: One per input.
        source: What a message calls them.
        converted: Names of inputs for which any of `FLOATS` is cast.

    Raises:
        GraphoptError: An input is missing, superfluous, of another dtype, rank or size, or the
            numbers of samples do not fit each other or the model's fixed batch.
    """
    _check_names(inputs, arrays, source)
    fed = [item for item in inputs if item.name in arrays]
    dtypes = {}
    for item in fed:
        target = _target_dtype(item, arrays[item.name], source, converted)
        if target is not None:
            dtypes[item.name] = target
    symbol = _batch_symbol(fed)
    count = _leading_count(fed, arrays)
    axes: dict[str, int | None] = {}
    stacked = set()
    for item in fed:
        array = arrays[item.name]
        if item.shape is not None and array.ndim == len(item.shape) + 1:
            stacked.add(item.name)
            axes[item.name] = 0
        else:
            axes[item.name] = _sample_axis(item, array, symbol, count)
    _share_constants(fed, arrays, axes, stacked)
    layout = Layout(axes, frozenset(stacked), None, dtypes)
    if not layout.samples(arrays, source):
        raise GraphoptError("holds no samples", file=source)
    for item in fed:
        _check_shape(item, arrays[item.name], axes[item.name], item.name in stacked, source)
    return Layout(axes, frozenset(stacked), _fixed_batch(fed, layout, source), dtypes)


def _check_names(inputs: Sequence[Input], arrays: Mapping[str, Array], source: str) -> None:
    names = [item.name for item in inputs]
    for item in inputs:
        if item.required and item.name not in arrays:
            raise GraphoptError(
                f"input {item.name!r} is missing",
                file=source,
                fix=f"the model wants {', '.join(names)}; the data has {', '.join(arrays)}",
            )
        if item.dtype is None and item.required:
            raise GraphoptError(
                f"input {item.name!r} is a sequence, map or optional, which arrays cannot feed",
                file=source,
            )
    for name in arrays:
        if name not in names:
            raise GraphoptError(
                f"array {name!r} is no input of the model",
                file=source,
                fix=f"the model wants {', '.join(names) or 'no inputs'}",
            )


def _target_dtype(
    item: Input, array: Array, source: str, converted: Container[str]
) -> np.dtype[Any] | None:
    if item.dtype is None:
        return None
    if item.dtype == ir.DataType.STRING:
        if array.dtype.kind in "OUST":
            return None if array.dtype.kind == "O" else np.dtype(object)
        raise _wrong_dtype(item, array, source)
    wanted = np.dtype(item.dtype.numpy())
    if array.dtype == wanted:
        return None
    if item.name in converted and item.dtype in FLOATS and _is_float(array):
        return wanted
    if array.dtype.kind == "V" and array.dtype.itemsize == wanted.itemsize:
        # numpy writes bfloat16 and the other types of ml_dtypes as bytes without a name.
        return wanted
    same_kind = array.dtype.kind == wanted.kind or array.dtype.kind + wanted.kind == "ui"
    if same_kind and array.dtype.kind in "fiu" and np.can_cast(array.dtype, wanted, "safe"):
        return wanted
    raise _wrong_dtype(item, array, source)


def _is_float(array: Array) -> bool:
    return any(array.dtype == dtype.numpy() for dtype in FLOATS)


def _wrong_dtype(item: Input, array: Array, source: str) -> GraphoptError:
    assert item.dtype is not None
    wanted = item.dtype.name.lower()
    numpy_name = "str" if wanted == "string" else np.dtype(item.dtype.numpy()).name
    return GraphoptError(
        f"input {item.name!r} has dtype {array.dtype}, the model wants {wanted}",
        file=source,
        fix=f"store it as {numpy_name}",
    )


def _batch_symbol(inputs: Sequence[Input]) -> str | None:
    for item in inputs:
        if item.shape and isinstance(item.shape[0], str):
            return item.shape[0]
    return None


def _leading_count(inputs: Sequence[Input], arrays: Mapping[str, Array]) -> int | None:
    """The number of samples by the inputs whose axis 0 is dynamic."""
    for item in inputs:
        array = arrays[item.name]
        if item.shape and array.ndim == len(item.shape) and not isinstance(item.shape[0], int):
            return int(array.shape[0])
    return None


def _sample_axis(item: Input, array: Array, symbol: str | None, count: int | None) -> int | None:
    if array.ndim == 0:
        return None
    if item.shape is None or len(item.shape) != array.ndim or not isinstance(item.shape[0], int):
        return 0
    if symbol in item.shape:
        return item.shape.index(symbol)
    unnamed = (
        axis for axis, size in enumerate(item.shape) if size is None and array.shape[axis] == count
    )
    return next(unnamed, 0) if array.shape[0] == item.shape[0] else 0


def _share_constants(
    inputs: Sequence[Input],
    arrays: Mapping[str, Array],
    axes: dict[str, int | None],
    stacked: set[str],
) -> None:
    """Arrays of a fixed shape that cannot be samples go to every run whole."""
    whole = [item.name for item in inputs if item.shape and arrays[item.name].shape == item.shape]
    counts = {
        array.shape[axis]
        for name, array in arrays.items()
        if name not in whole and (axis := axes[name]) is not None
    }
    if not counts and whole:
        # Then the first input says what the samples are.
        counts = {arrays[whole[0]].shape[0]}
    for name in whole:
        if name not in stacked and axes[name] is not None and arrays[name].shape[0] not in counts:
            axes[name] = None


def _check_shape(item: Input, array: Array, axis: int | None, stacked: bool, source: str) -> None:
    if item.shape is None:
        return
    have = array.shape[1:] if stacked else array.shape
    if len(have) != len(item.shape):
        raise GraphoptError(
            f"input {item.name!r} has rank {array.ndim} (shape {shape_text(array.shape)}),"
            f" the model wants rank {len(item.shape)} ({shape_text(item.shape)})",
            file=source,
        )
    for position, (size, wanted) in enumerate(zip(have, item.shape, strict=True)):
        samples = position == axis and not stacked
        if isinstance(wanted, int) and size != wanted and not samples:
            raise GraphoptError(
                f"input {item.name!r} has size {size} at axis {position + stacked}"
                f" (shape {shape_text(array.shape)}), the model wants {wanted}"
                f" ({shape_text(item.shape)})",
                file=source,
            )


def _fixed_batch(inputs: Sequence[Input], layout: Layout, source: str) -> int | None:
    batch = 1 if layout.stacked else None
    for item in inputs:
        axis = layout.axes[item.name]
        if axis is None or item.shape is None or item.name in layout.stacked:
            continue
        size = item.shape[axis]
        if not isinstance(size, int):
            continue
        if batch is not None and size != batch:
            raise GraphoptError(
                f"input {item.name!r} takes {size} samples a run, another input takes {batch}",
                file=source,
                fix="give an array of the input's shape, or one more axis in front of it",
            )
        batch = size
    return batch or None
