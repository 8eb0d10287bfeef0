"""A function of JAX with example inputs: what `module:callable` is, or what it returns."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from graphopt.callables import import_callable
from graphopt.convert.built import build
from graphopt.convert.contract import Options
from graphopt.convert.reasons import first_line
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Array, open_feeds

_EXAMPLES = 3
"""Samples taken of `--data`."""

_RETURN = (
    "return a function or a flax module, (function, example_inputs) or (function, args, kwargs)"
)


@dataclass(frozen=True)
class Function:
    """A function of arrays alone.

    Args:
        source: What messages call it.
        call: Takes the arrays in order, whatever structure they had; returns what JAX returns.
        names: Of the arrays: parameters, with the keys below them where they are nested.
        examples: The arrays, in the types that JAX computes with.
        notes: What the user should know of them.
    """

    source: str
    call: Callable[..., Any]
    names: tuple[str, ...]
    examples: tuple[Array, ...]
    notes: tuple[str, ...]


def open_function(spec: str, options: Options) -> Function:
    """Import a function, or call what builds one.

    A callable with parameters that must be given is the function itself, and needs
    `options.data`; any other is called, and returns the function.

    Raises:
        GraphoptError: It returns something else, cannot be called, or has no example inputs.
    """
    made = _made(spec)
    parts: Sequence[Any] = made if isinstance(made, tuple) else (made,)
    if not parts or len(parts) > 3 or not callable(parts[0]):
        raise GraphoptError(f"returns {type(made).__name__}", file=spec, fix=_RETURN)
    call = _for_inference(parts[0], spec)
    parameters = _parameters(call, spec)
    if options.data is not None or len(parts) == 1:
        return _flat(call, (), _from_data(options, parameters, spec), parameters, spec)
    args = parts[1] if isinstance(parts[1], tuple | list) else (parts[1],)
    kwargs = cast("Mapping[str, Any]", parts[2] if len(parts) == 3 else {})
    return _flat(call, tuple(args), kwargs, parameters, spec)


def _made(spec: str) -> Any:
    function = import_callable(spec)
    if any(_must_be_given(item) for item in _parameters(function, spec).values()):
        return function
    try:
        return build(spec)
    except GraphoptError:
        raise
    except Exception as error:
        # The user's function may raise anything.
        raise GraphoptError(f"fails: {first_line(error)}", file=spec) from error


def _must_be_given(item: inspect.Parameter) -> bool:
    free = item.kind in {item.VAR_POSITIONAL, item.VAR_KEYWORD}
    return item.default is item.empty and not free


def _parameters(call: Callable[..., Any], spec: str) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(call).parameters
    except (TypeError, ValueError) as error:
        raise GraphoptError(f"has no signature: {error}", file=spec) from error


def _for_inference(call: Callable[..., Any], spec: str) -> Callable[..., Any]:
    """Switch a module of flax.nnx to inference; see that one of flax.linen has its variables."""
    family = {f"{base.__module__}.{base.__qualname__}" for base in type(call).__mro__}
    if "flax.linen.module.Module" in family and getattr(call, "scope", None) is None:
        raise GraphoptError(
            "is a flax.linen module without its variables",
            file=spec,
            fix="return module.bind(variables)",
        )
    if any(name.startswith("flax.nnx.") for name in family):
        cast("Any", call).eval()
    return call


def _from_data(
    options: Options, parameters: Mapping[str, inspect.Parameter], spec: str
) -> dict[str, Any]:
    if options.data is None:
        raise GraphoptError(
            "has no example inputs",
            file=spec,
            fix="give them with --data NPZ, one array per parameter, or return"
            " (function, example_inputs)",
        )
    batch = next(open_feeds(options.data).batches(_EXAMPLES))
    takes_any = any(item.kind is item.VAR_KEYWORD for item in parameters.values())
    if (unknown := sorted(batch.keys() - parameters.keys())) and not takes_any:
        raise GraphoptError(
            f"has {', '.join(unknown)}; the function's parameters are {', '.join(parameters)}",
            file=options.data,
        )
    needed = [name for name, item in parameters.items() if _must_be_given(item)]
    if missing := [name for name in needed if name not in batch]:
        raise GraphoptError(f"lacks the input {missing[0]}", file=options.data)
    ordered = [name for name in parameters if name in batch]
    return {name: batch[name] for name in (*ordered, *sorted(batch.keys() - parameters.keys()))}


def _flat(
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    parameters: Mapping[str, inspect.Parameter],
    spec: str,
) -> Function:
    """Let the arrays be the only arguments; numbers, flags and None stay what they are."""
    import jax

    named = _named(args, parameters, spec)
    paths, structure = jax.tree_util.tree_flatten_with_path((named, OrderedDict(kwargs)))
    leaves = [leaf for _, leaf in paths]
    positions = [index for index, leaf in enumerate(leaves) if _is_array(leaf)]
    if not positions:
        raise GraphoptError("its example inputs hold no array", file=spec)
    names = tuple(path_name(paths[index][0][1:]) for index in positions)
    examples = tuple(np.asarray(_data(leaves[index], spec)) for index in positions)
    kept = tuple(_as_jax_computes(example) for example in examples)
    notes = tuple(
        f"{name} is {was.dtype} in the example inputs and {now.dtype} in JAX, whose 64-bit types"
        " are off; jax.config.update('jax_enable_x64', True) in the module turns them on"
        for name, was, now in zip(names, examples, kept, strict=True)
        if was.dtype != now.dtype
    )

    def flat(*arrays: Any) -> Any:
        filled = list(leaves)
        for index, array in zip(positions, arrays, strict=True):
            filled[index] = array
        positional, by_name = jax.tree_util.tree_unflatten(structure, filled)
        return call(*positional.values(), **by_name)

    return Function(spec, flat, names, kept, notes)


def _named(
    args: tuple[Any, ...], parameters: Mapping[str, inspect.Parameter], spec: str
) -> dict[str, Any]:
    """Positional inputs by parameter, those of `*args` numbered."""
    names: list[str] = []
    for item in parameters.values():
        if item.kind is item.VAR_POSITIONAL:
            names += [f"{item.name}_{index}" for index in range(len(args) - len(names))]
        elif item.kind is not item.KEYWORD_ONLY and item.kind is not item.VAR_KEYWORD:
            names.append(item.name)
    if len(args) > len(names):
        raise GraphoptError(
            f"takes {len(names)} inputs, the example inputs are {len(args)}", file=spec
        )
    # A dict would be flattened in the order of its keys.
    return OrderedDict(zip(names, args, strict=False))


def _is_array(leaf: object) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _data(leaf: Any, spec: str) -> Any:
    import jax

    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended):
        raise GraphoptError(
            f"an example input is of {leaf.dtype}, which ONNX does not have",
            file=spec,
            fix="make keys of random numbers inside of the function",
        )
    if jax.dtypes.issubdtype(leaf.dtype, np.complexfloating):
        raise GraphoptError(
            f"an example input is {leaf.dtype}, which ONNX Runtime does not take",
            file=spec,
            fix="let the function take real and imaginary parts",
        )
    return leaf


def _as_jax_computes(array: Array) -> Array:
    import jax

    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype))


def path_name(path: Sequence[Any]) -> str:
    """Join the keys to a leaf of nested containers."""
    keys = (
        getattr(part, "key", getattr(part, "idx", getattr(part, "name", part))) for part in path
    )
    return "_".join(str(key) for key in keys)
