"""A Keras model as a flat function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphopt.convert.tensorflow.callable import dtype_of, flat_examples, leaf_names, tree_names
from graphopt.convert.tensorflow.network import Input, Network, Sizes, reason
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Array

_EXAMPLES = "return (model, example_inputs) from module:callable"


def built(function: Callable[[], object], spec: str) -> tuple[Any, object]:
    """Call a function that returns a model, or (model, example_inputs).

    Raises:
        GraphoptError: It fails, or returns something else.
    """
    import keras

    try:
        made = function()
    except Exception as error:
        # The user's function may raise anything.
        raise GraphoptError(f"fails: {reason(error)}", file=spec) from error
    model, examples = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, keras.Layer):
        raise GraphoptError(
            f"returns {type(model).__name__}", file=spec, fix="return a keras.Model"
        )
    return model, examples


def network_of(model: Any, source: str, examples: object) -> Network:
    """Flatten a model's inputs and outputs, named as the model names them.

    Args:
        model: A functional, sequential or subclassed model, or a layer.
        source: What messages call it.
        examples: What it is called with, where it does not say what it takes: an array, a list or
            dict as the model takes it, or a tuple of arguments.

    Raises:
        GraphoptError: It does not say what it takes, keeps a state, or cannot be called.
    """
    import tensorflow as tf

    _refuse_states(model, source)
    functional = _functional(model)
    if examples is not None:
        structure, inputs, arrays = _shown(model, functional, examples)
    else:
        structure, inputs = _declared(model, functional, source)
        arrays = None

    def run(*tensors: Any) -> Any:
        args, kwargs = tf.nest.pack_sequence_as(structure, list(tensors))
        return model(*args, **kwargs, **inference)

    inference = _inference(model)
    specs = [tf.TensorSpec(_with_free_batch(item), item.dtype) for item in inputs]
    try:
        # A subclassed model makes its variables when it is called for the first time.
        traced = tf.function(run).get_concrete_function(*specs)
    except Exception as error:
        # Keras and TensorFlow raise what the model raises.
        raise GraphoptError(f"cannot be called: {reason(error)}", file=source) from error

    def call(*tensors: Any) -> list[Any]:
        return list(tf.nest.flatten(run(*tensors)))

    outputs = _output_names(functional, traced.structured_outputs)
    return Network(source, call, tuple(inputs), outputs, model, arrays)


def _refuse_states(model: Any, source: str) -> None:
    for layer in model._flatten_layers():
        if getattr(layer, "stateful", False):
            raise GraphoptError(
                f"its layer {layer.name} ({type(layer).__name__}) is stateful: what comes out"
                " depends on the calls before",
                file=source,
                fix="build it with stateful=False, load the weights, and give module:callable; a"
                " state that goes on is an input (initial_state) and an output (return_state)",
            )


def _functional(model: Any) -> Any:
    """Return the graph of layers that a functional or built sequential model has, or None."""
    if hasattr(model, "_inputs_struct"):
        return model
    return getattr(model, "_functional", None)


def _inference(model: Any) -> dict[str, bool]:
    """Say that it is not training, to a model that can be told."""
    parameters = inspect.signature(model.call).parameters
    told = "training" in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )
    return {"training": False} if told else {}


def _declared(model: Any, functional: Any, source: str) -> tuple[Any, list[Input]]:
    """Read what a functional or sequential model takes, or a model of one input that was built."""
    import tensorflow as tf

    if functional is not None:
        tree = functional._inputs_struct
        leaves = tf.nest.flatten(tree)
        inputs = [
            Input(name, tf.as_dtype(leaf.dtype), tuple(leaf.shape))
            for name, leaf in zip(_functional_names(functional), leaves, strict=True)
        ]
        return ((tree,), {}), inputs
    parameters = _parameters(model)
    shapes = list((getattr(model, "_build_shapes_dict", None) or {}).values())
    if not model.built or len(parameters) != 1 or len(shapes) != 1 or not _is_shape(shapes[0]):
        raise GraphoptError("does not say what it takes", file=source, fix=_EXAMPLES)
    shape = (None, *shapes[0][1:])
    dtype = tf.as_dtype(getattr(model, "input_dtype", None) or "float32")
    return ((None,), {}), [Input(parameters[0], dtype, shape)]


def _shown(
    model: Any, functional: Any, examples: object
) -> tuple[Any, list[Input], tuple[Array, ...]]:
    """Read types and sizes of example inputs, whose sizes may vary."""
    if functional is not None and not isinstance(examples, tuple):
        # A functional model takes one argument, of any structure.
        structure, arrays = flat_examples((examples,))
        names = _functional_names(functional)
    else:
        structure, arrays = flat_examples(examples)
        names = leaf_names(structure, _parameters(model, required=False))
    inputs = [
        Input(name, dtype_of(array), tuple(array.shape), free=True)
        for name, array in zip(names, arrays, strict=True)
    ]
    return structure, inputs, arrays


def _functional_names(functional: Any) -> list[str]:
    """Name inputs by the keys of the dict that is taken, else by their layers."""
    import tensorflow as tf

    tree = functional._inputs_struct
    if isinstance(tree, Mapping):
        return tree_names(tree)
    return [leaf._keras_history.operation.name for leaf in tf.nest.flatten(tree)]


def _output_names(functional: Any, outputs: Any) -> tuple[str, ...] | None:
    """Name outputs by the keys of the dict that is returned, else by their layers."""
    if isinstance(outputs, Mapping):
        return tuple(tree_names(outputs))
    if functional is None:
        return None
    names: list[str] = []
    for name in functional.output_names:
        number = names.count(name)
        names.append(name)
        if number:
            names[-1] = f"{name}_{number}"
    return tuple(names)


def _parameters(model: Any, *, required: bool = True) -> list[str]:
    parameters = inspect.signature(model.call).parameters
    return [
        name
        for name, parameter in parameters.items()
        if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
        and name not in {"training", "self"}
        and (parameter.default is parameter.empty or not required)
    ]


def _is_shape(shape: object) -> bool:
    return isinstance(shape, Sequence) and all(
        size is None or isinstance(size, int) for size in shape
    )


def _with_free_batch(item: Input) -> Sizes | None:
    if item.shape is None or not item.free or not item.shape:
        return item.shape
    return (None, *item.shape[1:])
