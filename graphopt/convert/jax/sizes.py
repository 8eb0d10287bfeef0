"""Sizes of a function's inputs: which of them vary, and which only together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from graphopt.convert.contract import Dim, Options
from graphopt.convert.jax.function import Function
from graphopt.errors import GraphoptError

_BATCH = "batch"

_FEW = 5
"""Inputs of one size, of which each set is traced by itself; of more it is all of them."""

Dims = tuple[Dim, ...]


def candidates(function: Function, options: Options) -> Iterator[tuple[Dims, ...]]:
    """Return dimensions of every input, the most dynamic first.

    Raises:
        GraphoptError: `options.dynamic_shapes` does not fit the inputs.
    """
    fixed = tuple(tuple(example.shape) for example in function.examples)
    if options.dynamic_shapes:
        yield _asked(function, options)
        return
    if not options.static:
        batch = next((shape[0] for shape in fixed if shape), None)
        alike = [index for index, shape in enumerate(fixed) if shape and shape[0] == batch]
        if apart := _apart(function, fixed, alike):
            yield apart
        for varying in (alike, alike[:1]) if len(alike) > 1 else (alike,):
            if varying:
                yield _named(fixed, dict.fromkeys(varying, _BATCH))
    yield fixed


def _named(fixed: Sequence[Dims], names: Mapping[int, str]) -> tuple[Dims, ...]:
    """Name axis 0 of some inputs."""
    return tuple(
        (names[index], *shape[1:]) if index in names else shape for index, shape in enumerate(fixed)
    )


def _apart(
    function: Function, fixed: Sequence[Dims], alike: Sequence[int]
) -> tuple[Dims, ...] | None:
    """Give inputs of one size names of their own, where the function takes them at other sizes.

    Those that all outputs have as their axis 0 stay the batch: they are of samples, too.

    Args:
        function: What takes them.
        fixed: Sizes of the examples.
        alike: Inputs with the same size along axis 0.

    Returns:
        Dimensions of every input; None where all inputs are of one batch, or too many.
    """
    groups = _groups(function, fixed, alike)
    if len(groups) < 2:
        return None
    names = {index: f"s{at}" for at, group in enumerate(groups) for index in group}
    outputs = _traced(function, _named(fixed, names))
    assert outputs is not None
    samples = [_is_batch(f"s{at}", outputs) for at in range(len(groups))]
    found: dict[int, str] = {}
    for at, group in enumerate(groups):
        own = at > 0 and not (samples[0] and samples[at])
        name = _own_name(function.names[group[0]], group[0]) if own else _BATCH
        found |= dict.fromkeys(group, name)
    dims = _named(fixed, found)
    return dims if vary_apart(dims) else None


def _groups(
    function: Function, fixed: Sequence[Dims], alike: Sequence[int]
) -> list[tuple[int, ...]]:
    """Split inputs into those that can only vary together."""

    def splits(groups: Sequence[Sequence[int]]) -> bool:
        names = {index: f"s{at}" for at, group in enumerate(groups) for index in group}
        return _traced(function, _named(fixed, names)) is not None

    alone: list[tuple[int, ...]] = [(index,) for index in alike]
    if len(alike) < 2 or splits(alone):
        return alone
    found: list[tuple[int, ...]] = []
    rest = list(alike)
    while 2 < len(rest) <= _FEW:
        sets = (
            (rest[0], *more)
            for count in range(len(rest) - 1)
            for more in combinations(rest[1:], count)
        )
        group = next(
            (own for own in sets if splits([*found, own, [at for at in rest if at not in own]])),
            None,
        )
        if group is None:
            break
        found.append(group)
        rest = [index for index in rest if index not in group]
    return [*found, tuple(rest)]


def _traced(function: Function, dims: Sequence[Dims]) -> list[tuple[str, ...]] | None:
    """Return the dimensions of the outputs as text; None where the function does not take these."""
    import jax

    try:
        outputs = jax.eval_shape(function.call, *specs_of(function, dims))
    except Exception:
        # The function and JAX raise their own where sizes do not fit.
        return None
    return [tuple(map(str, leaf.shape)) for leaf in jax.tree_util.tree_leaves(outputs)]


def _is_batch(name: str, outputs: Sequence[tuple[str, ...]]) -> bool:
    """Whether a size is that of axis 0 of an output, and of no other axis of any."""
    firsts = {dims[0] for dims in outputs if dims}
    others = {dim for dims in outputs for at, dim in enumerate(dims) if at or dim != name}
    return name in firsts and not any(re.search(rf"\b{name}\b", dim) for dim in others)


def _own_name(name: str, index: int) -> str:
    own = f"{name}_length"
    return own if own.isascii() and own.isidentifier() else f"length_{index}"


def vary_apart(dims: Sequence[Dims]) -> bool:
    """Tell whether axis 0 of inputs has several names."""
    return len({shape[0] for shape in dims if shape and isinstance(shape[0], str)}) > 1


def _asked(function: Function, options: Options) -> tuple[Dims, ...]:
    unknown = [name for name in options.dynamic_shapes if name not in function.names]
    if unknown:
        raise GraphoptError(
            f"has no input {unknown[0]}; its inputs are {', '.join(function.names)}",
            file=function.source,
        )
    found: list[Dims] = []
    for name, example in zip(function.names, function.examples, strict=True):
        default: Dims = (_BATCH, *example.shape[1:]) if example.ndim else ()
        dims = tuple(options.dynamic_shapes.get(name, default))
        if len(dims) != example.ndim:
            raise GraphoptError(
                f"{name} has {example.ndim} dimensions, not {len(dims)}", file=function.source
            )
        for axis, dim in enumerate(dims):
            if isinstance(dim, int) and dim != example.shape[axis]:
                raise GraphoptError(
                    f"axis {axis} of {name} is {example.shape[axis]} in the example inputs,"
                    f" not {dim}",
                    file=function.source,
                )
        found.append(dims)
    return tuple(found)


def is_fixed(dims: Sequence[Dims]) -> bool:
    """Tell whether no size varies."""
    return all(isinstance(dim, int) for shape in dims for dim in shape)


def specs_of(function: Function, dims: Sequence[Dims]) -> list[Any]:
    """Return shapes and types to trace the function with.

    Args:
        function: What takes them.
        dims: Of each input.
    """
    import jax
    from jax import export

    scope = export.SymbolicScope()
    specs = []
    for shape, example in zip(dims, function.examples, strict=True):
        text = ", ".join(map(str, shape))
        sizes = export.symbolic_shape(text, scope=scope) if shape else ()
        specs.append(jax.ShapeDtypeStruct(sizes, example.dtype))
    return specs
