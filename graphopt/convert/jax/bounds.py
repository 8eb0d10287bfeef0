"""Indices beyond an array: traced as JAX takes them, which jax2onnx leaves to ONNX."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


def bounded(call: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function trace what moves indices into the array, or fills in for what is beyond it.

    JAX moves the indices of `x[i]` and the starts of `jax.lax.dynamic_update_slice` to what is in
    the array, and `jax.numpy.take` fills with NaN. ONNX counts from the end, or stops.
    https://docs.jax.dev/en/latest/notebooks/Common_Gotchas_in_JAX.html#out-of-bounds-indexing

    Args:
        call: The function, of arrays.

    Returns:
        The function, to be traced.
    """
    import jax

    own_take = jax.numpy.take

    def traced(*arrays: Any) -> Any:
        with (
            _traced_afresh(),
            _bound(jax.lax.gather_p, _gather),
            _bound(jax.lax.dynamic_update_slice_p, _update),
            _replaced(jax.numpy, "take", own_take),
        ):
            return call(*arrays)

    return traced


@contextlib.contextmanager
def _traced_afresh() -> Iterator[None]:
    """Trace jitted functions anew, that were traced without bounds.

    JAX keeps what it traced by its settings; this one decides on a warning alone.
    """
    import jax

    other = "warn" if jax.config.jax_numpy_rank_promotion == "allow" else "allow"
    with jax.numpy_rank_promotion(other):
        yield


@contextlib.contextmanager
def _replaced(holder: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


@contextlib.contextmanager
def _bound(primitive: Any, write: Callable[..., Any]) -> Iterator[None]:
    """Trace a primitive by what `write` makes of the call, with the primitive itself at hand."""
    own = primitive.bind

    def bind(*args: Any, **params: Any) -> Any:
        return write(own, *args, **params)

    primitive.bind = bind
    try:
        yield
    finally:
        del primitive.bind


def _gather(own: Callable[..., Any], operand: Any, indices: Any, **params: Any) -> Any:
    from jax import lax

    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    mode = lax.GatherScatterMode
    if not _is_traced(indices) or not numbers.start_index_map:
        return own(operand, indices, **params)
    lasts = [operand.shape[axis] - sizes[axis] for axis in numbers.start_index_map]
    # One column for each axis.
    axis = indices.ndim - 1
    columns = [lax.slice_in_dim(indices, at, at + 1, axis=axis) for at in range(len(lasts))]
    moved = [_moved(column, last) for column, last in zip(columns, lasts, strict=True)]
    within = lax.concatenate(moved, axis) if len(moved) > 1 else moved[0]
    found = own(operand, within, **{**params, "mode": mode.PROMISE_IN_BOUNDS})
    if params["mode"] != mode.FILL_OR_DROP:
        return found
    kept = lax.reduce_and(lax.eq(indices, within), [axis])
    axes = [at for at in range(found.ndim) if at not in numbers.offset_dims]
    kept = lax.broadcast_in_dim(kept, found.shape, axes)
    return lax.select(kept, found, lax.full_like(found, _filling(found, params["fill_value"])))


def _filling(array: Any, asked: Any) -> Any:
    """What `jax.lax.gather` fills with where nothing is asked for."""
    if asked is not None:
        return asked
    kind = np.dtype(array.dtype)
    if kind.kind == "b":
        return True
    if kind.kind in "iu":
        return np.iinfo(kind).min if kind.kind == "i" else np.iinfo(kind).max
    return np.nan


def _update(own: Callable[..., Any], operand: Any, update: Any, *starts: Any) -> Any:
    moved = [
        _moved(start, size - width) if _is_traced(start) else start
        for start, size, width in zip(starts, operand.shape, update.shape, strict=True)
    ]
    return own(operand, update, *moved)


def _is_traced(value: Any) -> bool:
    import jax

    return isinstance(value, jax.core.Tracer)


def _moved(indices: Any, last: Any) -> Any:
    """Move indices to between zero and the last, which may be a size that varies."""
    from jax import lax, numpy

    if isinstance(last, int):
        last = min(last, np.iinfo(indices.dtype).max)
    last = lax.broadcast(numpy.asarray(last, indices.dtype), indices.shape)
    return lax.max(lax.min(indices, last), lax.full_like(indices, 0))
