"""TFLite's interpreter: what a file takes and gives, and the reference that it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.convert.tensorflow.network import Input, Sizes, reason, unique_names
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Array, Batch

_PREFIX = "serving_default_"


class Interpreter:
    """A TFLite file, ready to run.

    Args:
        path: The file.
        signature: Whose names inputs and outputs get; None: the only one, or those of tensors.
        plain: Run TFLite's reference kernels, which sum in another order than its optimized ones.

    Attributes:
        inputs: What goes in.
        held: What the file calls the tensors that go in.
        output_names: Names of what comes out.
        output_shapes: Sizes of what comes out, None where they vary.

    Raises:
        GraphoptError: It cannot be read, or has no such signature.
    """

    def __init__(self, path: Path, signature: str | None, *, plain: bool = False) -> None:
        import tensorflow as tf

        kernels = tf.lite.experimental.OpResolverType

        self._source = str(path)
        try:
            self._interpreter = tf.lite.Interpreter(
                # Content is verified as a flatbuffer, a path is not.
                model_content=path.read_bytes(),
                experimental_op_resolver_type=(
                    kernels.BUILTIN_REF if plain else kernels.BUILTIN_WITHOUT_DEFAULT_DELEGATES
                ),
            )
            self._interpreter.allocate_tensors()
            before = self._interpreter.get_input_details()
            after = self._interpreter.get_output_details()
        except Exception as error:
            # TFLite raises ValueError or RuntimeError with what its runtime says.
            raise GraphoptError(f"TFLite cannot read it: {reason(error)}", file=path) from error
        self._inputs, self._outputs = before, after
        names_in, names_out = self._names(signature)
        self.held = [str(detail["name"]) for detail in before]
        self.output_names = unique_names(names_out, "output", self._source)
        self.inputs = tuple(
            Input(name, tf.as_dtype(detail["dtype"]), _sizes(detail))
            for name, detail in zip(
                unique_names(names_in, "input", self._source), before, strict=True
            )
        )
        self.output_shapes: list[Sizes | None] = [
            None if not len(detail["shape_signature"]) else _sizes(detail) for detail in after
        ]

    def run(self, batch: Batch) -> Sequence[Array]:
        """Run it at the sizes of the inputs.

        Raises:
            GraphoptError: It does not take them.
        """
        interpreter = self._interpreter
        try:
            for detail, array in zip(self._inputs, batch.values(), strict=True):
                interpreter.resize_tensor_input(detail["index"], array.shape, strict=True)
            interpreter.allocate_tensors()
            for detail, array in zip(self._inputs, batch.values(), strict=True):
                interpreter.set_tensor(detail["index"], array)
            interpreter.invoke()
            return [np.array(interpreter.get_tensor(detail["index"])) for detail in self._outputs]
        except Exception as error:
            # TFLite raises ValueError or RuntimeError with what its runtime says.
            raise GraphoptError(reason(error), file=self._source) from error

    def _names(self, signature: str | None) -> tuple[list[str], list[str]]:
        signatures: dict[str, Any] = self._interpreter.get_signature_list()
        if signature is not None and signature not in signatures:
            raise GraphoptError(
                f"has no signature {signature!r}"
                + (f", but {', '.join(sorted(signatures))}" if signatures else ", and none at all"),
                file=self._source,
            )
        for key in sorted(signatures) if signature is None else [signature]:
            runner = self._interpreter.get_signature_runner(key)
            names = (
                _matched(runner.get_input_details(), self._inputs),
                _matched(runner.get_output_details(), self._outputs),
            )
            if names[0] is not None and names[1] is not None:
                return names[0], names[1]
        if signature is not None:
            raise GraphoptError(
                f"its signature {signature} is not the main graph, which alone is converted",
                file=self._source,
            )
        return (
            [_shown(detail["name"]) for detail in self._inputs],
            [_shown(detail["name"]) for detail in self._outputs],
        )


def _matched(named: dict[str, Any], details: Sequence[Any]) -> list[str] | None:
    """Order a signature's names as the main graph's tensors; None: it is of another graph."""
    by_index = {(detail["index"], detail["name"]): name for name, detail in named.items()}
    found = [by_index.get((detail["index"], detail["name"])) for detail in details]
    names = [name for name in found if name is not None]
    return names if len(names) == len(details) else None


def _shown(name: str) -> str:
    return name.removeprefix(_PREFIX).removesuffix(":0")


def _sizes(detail: Any) -> Sizes:
    return tuple(None if size < 0 else int(size) for size in detail["shape_signature"])
