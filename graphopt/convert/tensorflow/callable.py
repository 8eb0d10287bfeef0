"""What `module:callable` is or returns: a tf.function, a Keras model, with or without examples."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.callables import import_callable
from graphopt.convert.built import build
from graphopt.convert.tensorflow.network import Input, Network, reason
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Array

_RETURNS = "return a tf.function, a Keras model, or (one of them, example_inputs)"


def open_callable(spec: str) -> Network:
    """Take a tf.function as it is; call any other function for what it makes.

    Raises:
        GraphoptError: It fails, or makes something else.
    """
    found: object = _as_function(import_callable(spec))
    if not _is_function(found) and not _is_keras(found):
        try:
            found = build(spec)
        except Exception as error:
            # The user's function may raise anything.
            raise GraphoptError(f"fails: {reason(error)}", file=spec) from error
    made, examples = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    made = _as_function(made)
    if _is_keras(made):
        from graphopt.convert.keras.network import network_of

        return network_of(made, spec, examples)
    if not _is_function(made):
        raise GraphoptError(f"returns {type(made).__name__}", file=spec, fix=_RETURNS)
    return _of_function(made, spec, examples)


def flat_examples(examples: object) -> tuple[Any, tuple[Array, ...]]:
    """Make the arguments of a call of example inputs, and a flat list of their arrays.

    A mapping is keyword arguments, a tuple is positional ones, anything else is the only one.
    """
    import tensorflow as tf

    if isinstance(examples, Mapping):
        structure: Any = ((), dict(examples))
    else:
        structure = (examples if isinstance(examples, tuple) else (examples,), {})
    arrays = tuple(np.asarray(item) for item in tf.nest.flatten(structure))
    return structure, arrays


def dtype_of(array: Array) -> Any:
    """Return the `tf.DType` of an array; text is a string."""
    import tensorflow as tf

    return tf.string if array.dtype.kind in "OSUT" else tf.as_dtype(array.dtype)


def leaf_names(structure: tuple[Any, Any], parameters: Sequence[str]) -> list[str]:
    """Name the leaves of (args, kwargs) by parameter, and by key or position inside."""
    args, kwargs = structure
    named = [
        (parameters[position] if position < len(parameters) else f"input_{position}", arg)
        for position, arg in enumerate(args)
    ]
    named += sorted(kwargs.items())
    return [name for parameter, arg in named for name in tree_names(arg, parameter)]


def tree_names(tree: object, name: str = "") -> list[str]:
    """Name the leaves of a structure, in the order in which `tf.nest` flattens it."""
    if isinstance(tree, Mapping):
        parts = [(str(key), tree[key]) for key in sorted(tree)]
    elif isinstance(tree, (list, tuple)):
        fields = getattr(tree, "_fields", range(len(tree)))
        parts = [(str(key), item) for key, item in zip(fields, tree, strict=True)]
    else:
        return [name]
    return [
        leaf for key, item in parts for leaf in tree_names(item, f"{name}_{key}" if name else key)
    ]


def _as_function(found: object) -> object:
    """Take a tf.Module for what calling it does, where that is a tf.function."""
    call = getattr(found, "__call__", None)  # noqa: B004  # A bound tf.function is asked for.
    is_plain = _is_function(found) or _is_keras(found) or not _is_function(call)
    return found if is_plain else call


def _is_function(found: object) -> bool:
    return hasattr(found, "get_concrete_function") or hasattr(found, "structured_input_signature")


def _is_keras(found: object) -> bool:
    return any(
        base.__name__ in {"Model", "Layer"}
        and base.__module__.split(".")[0] in {"keras", "tf_keras"}
        for base in type(found).__mro__
    )


def _of_function(function: Any, spec: str, examples: object) -> Network:
    import tensorflow as tf

    parameters = _parameters(function)
    arrays: tuple[Array, ...] | None = None
    if examples is not None:
        structure, arrays = flat_examples(examples)
        leaves = [dtype_of(array) for array in arrays]
        shapes: list[Any] = [array.shape for array in arrays]
    else:
        structure = _declared(function, spec)
        specs = tf.nest.flatten(structure)
        leaves = [item.dtype for item in specs]
        shapes = [
            None if item.shape.rank is None else tuple(item.shape.as_list()) for item in specs
        ]
    names = leaf_names(structure, parameters)

    def call(*tensors: Any) -> list[Any]:
        args, kwargs = tf.nest.pack_sequence_as(structure, list(tensors))
        return list(tf.nest.flatten(function(*args, **kwargs)))

    inputs = tuple(
        Input(name, dtype, shape, free=examples is not None)
        for name, dtype, shape in zip(names, leaves, shapes, strict=True)
    )
    return Network(spec, call, inputs, _outputs(function, structure), function, arrays)


def _declared(function: Any, spec: str) -> Any:
    """Return (args, kwargs) of specs, from the input signature of a tf.function."""
    signature = getattr(function, "structured_input_signature", None)
    if signature is None and getattr(function, "input_signature", None) is not None:
        signature = function.get_concrete_function().structured_input_signature
    if signature is None:
        raise GraphoptError(
            "is a tf.function without an input_signature",
            file=spec,
            fix="give it one, or return (function, example_inputs)",
        )
    return signature


def _parameters(function: Any) -> list[str]:
    python = getattr(function, "python_function", None)
    if python is None:
        return []
    return [
        name
        for name, parameter in inspect.signature(python).parameters.items()
        if name != "self"
        and parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
    ]


def _outputs(function: Any, structure: Any) -> tuple[str, ...] | None:
    """Name outputs by the keys of the dict that is returned; None: it returns none."""
    concrete = function
    if hasattr(function, "get_concrete_function"):
        args, kwargs = structure
        try:
            concrete = function.get_concrete_function(*args, **kwargs)
        except Exception:
            # Tracing it again for export raises the same, and is where it is told.
            return None
    outputs = concrete.structured_outputs
    if not isinstance(outputs, Mapping):
        return None
    return tuple(tree_names(outputs))
