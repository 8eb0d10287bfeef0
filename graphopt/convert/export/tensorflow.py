"""To a SavedModel of TensorFlow: the folder itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.convert.export.contract import SIGNATURE, Order, Run, Written
from graphopt.convert.export.failures import run_by
from graphopt.convert.export.program import (
    Program,
    identifiers,
    program_of,
    quiet_torch,
    renamed,
)
from graphopt.convert.finishing import require
from graphopt.convert.model_parity import BATCHES
from graphopt.convert.reasons import first_line
from graphopt.convert.tensorflow.quiet import quiet as quiet_tensorflow
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Array, Batch

if TYPE_CHECKING:
    import torch

NOTES = ("the SavedModel's function is compiled by XLA, and is for inference",)

__all__ = ["BATCHES", "NOTES", "write"]

_PLATFORMS = ("cpu", "cuda")


def write(order: Order) -> Written:
    """Compute the model by PyTorch, that by JAX with torchax, and hold this in a SavedModel.

    Weights are variables; sizes that are free in the model are free in the signature, whose inputs
    and outputs have the model's names.

    Args:
        order: What to write, and where.

    Raises:
        GraphoptError: A library is not installed, or one does not take the model.
    """
    require(["tensorflow", "jax", "torchax"], "tensorflow-export", "TensorFlow, JAX or torchax")
    program = program_of(order)
    names = [value.name or "" for value in order.model.graph.outputs]
    outputs = identifiers(names, "output")
    try:
        with quiet_tensorflow(), quiet_torch():
            import tensorflow as tf

            _save(program, outputs, str(order.folder))
            loaded = tf.saved_model.load(str(order.folder))
    except Exception as error:
        # What torchax, JAX and TensorFlow raise.
        raise GraphoptError(
            f"TensorFlow does not take it by way of torchax: {first_line(error)}",
            file=order.source,
        ) from error
    notes = (*program.notes, *renamed(names, outputs))
    return Written(_runner(loaded, program, outputs), notes)


def _save(program: Program, outputs: Sequence[str], folder: str) -> None:
    import jax
    import tensorflow as tf
    from jax.experimental import jax2tf
    from torchax.export import exported_program_to_jax

    _hold_constants(program.program)
    with jax.enable_x64(True):
        state, function = exported_program_to_jax(program.program)
        shapes = tuple(_polymorphic(tensor) for tensor in _inputs(program.program))
        convert = jax2tf.convert(
            function,
            polymorphic_shapes=[None, shapes],
            with_gradient=False,
            native_serialization_platforms=_PLATFORMS,
        )
        held = tf.Module()
        held.weights = [tf.Variable(np.asarray(array), trainable=False) for array in state]

        def serve(*inputs: Any) -> dict[str, Any]:
            found = convert(list(held.weights), inputs)
            return dict(zip(outputs, found, strict=True))

        signature = [
            tf.TensorSpec(_free(tensor), _tf_dtype(tensor), name=name)
            for tensor, name in zip(_inputs(program.program), program.parameters, strict=True)
        ]
        held.serve = tf.function(serve, input_signature=signature, autograph=False)
        concrete = held.serve.get_concrete_function()
        tf.saved_model.save(held, folder, signatures={SIGNATURE: concrete})


def _hold_constants(program: torch.export.ExportedProgram) -> None:
    """Turn constants into buffers: torchax takes the ones for the others where both are there."""
    from torch.export.graph_signature import InputKind

    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.CONSTANT_TENSOR and spec.target is not None:
            spec.kind, spec.persistent = InputKind.BUFFER, True
            program.state_dict[spec.target] = program.constants.pop(spec.target)


def _inputs(program: torch.export.ExportedProgram) -> list[torch.Tensor]:
    names = set(program.graph_signature.user_inputs)
    return [node.meta["val"] for node in program.graph.nodes if node.name in names]


def _polymorphic(tensor: torch.Tensor) -> str:
    return "(" + ", ".join(str(size) for size in tensor.shape) + ("," if tensor.ndim else "") + ")"


def _free(tensor: torch.Tensor) -> list[int | None]:
    return [size if isinstance(size, int) else None for size in tensor.shape]


def _tf_dtype(tensor: torch.Tensor) -> Any:
    import tensorflow as tf

    return tf.as_dtype(str(tensor.dtype).removeprefix("torch."))


def _runner(loaded: Any, program: Program, outputs: Sequence[str]) -> Run:
    import tensorflow as tf

    def run(batch: Batch) -> Sequence[Array]:
        fed = {
            parameter: tf.constant(batch[name])
            for name, parameter in zip(program.inputs, program.parameters, strict=True)
        }
        with run_by("TensorFlow"), quiet_tensorflow():
            # Through what was loaded, which owns the function's variables.
            found = loaded.signatures[SIGNATURE](**fed)
        return [np.asarray(found[name]) for name in outputs]

    return run
