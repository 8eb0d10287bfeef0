"""An ONNX model as a module of PyTorch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from graphopt.errors import GraphoptError
from graphopt.model.load import load
from graphopt.training import parameters
from graphopt.training.dtypes import torch_dtype
from graphopt.training.execution import Execution
from graphopt.training.numbers import MAX_NUMBERS, Numbers, Value, tensor_of
from graphopt.training.operators import find
from graphopt.training.prepare import prepared
from graphopt.training.weightless import Weightless

_COUNTED = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)
_REAL = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


class OnnxModule(nn.Module):
    """A model whose nodes are computed by PyTorch, so that it can be trained and exported.

    Its weights are parameters, its other constants of floating-point numbers and larger ones of
    integers are buffers, under their names in the model (see `graphopt.training.parameters`).
    It takes the model's inputs in order or by name, and returns the output, or a tuple of them.

    Cast to another floating-point type, it computes in that wherever the graph names no type; a
    graph that does is for a pass to change, such as `to_float16`.

    Args:
        model: The model; it stays as it is, and its weights are copied.
        train: Names of initializers to train that would not be: single numbers which no layer
            reads, such as a learned temperature.

    Raises:
        GraphoptError: Nothing computes an operator of the model, PyTorch lacks a type, or there is
            no initializer of such a name.
    """

    def __init__(self, model: ir.Model, *, train: Collection[str] = ()) -> None:
        super().__init__()
        own = prepared(model)
        initializers = own.graph.initializers
        absent = sorted(set(train) - set(initializers))
        if absent:
            raise GraphoptError(f"the model has no initializer {absent[0]!r} to train")
        trained = parameters.trainable(own) | set(train)
        self._keys: dict[str, str] = {}
        self._numbers: dict[str, Numbers] = {}
        for name, value in initializers.items():
            numbers = None if name in trained else _numbers(value)
            if numbers is None:
                self._keys[name] = parameters.hold(self, value, train=name in trained)
            else:
                self._numbers[name] = numbers
        self._graph = Weightless(own)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        names = (value.name or "" for value in self._graph.graph.inputs)
        return tuple(name for name in names if name not in self._keys | self._numbers)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return tuple(value.name or "" for value in self._graph.graph.outputs)

    @property
    def initializer_names(self) -> Mapping[str, str]:
        """Names of the model's initializers, by key of the module's `state_dict`."""
        return {key: name for name, key in self._keys.items()}

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Compute the outputs.

        Args:
            *inputs: Inputs in the order of `input_names`.
            **named: The other ones by name.

        Returns:
            The output; a tuple where the model has several.

        Raises:
            GraphoptError: An input is missing, unknown or of another type, or an operator cannot
                be computed. What PyTorch raises has a note that names the node.
        """
        contents = self._fed(inputs, named)
        device = self._device(contents.values())
        contents |= self._numbers
        contents |= {name: parameters.found(self, key) for name, key in self._keys.items()}
        graph = self._graph.graph
        self._check_types(contents)
        execution = Execution(self._graph.plan, {}, device)
        found = execution.run(graph, [contents[value.name or ""] for value in graph.inputs])
        outputs = [_out(each, device) for each in found]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _fed(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
        names = self.input_names
        usage = f"give {', '.join(names)}"
        unknown = sorted(set(named) - set(names[len(inputs) :]))
        if unknown:
            raise GraphoptError(f"the model has no further input {unknown[0]!r}", fix=usage)
        if len(inputs) + len(named) != len(names):
            raise GraphoptError(f"{len(inputs) + len(named)} inputs are given", fix=usage)
        return dict(zip(names, inputs, strict=False)) | dict(named)

    def _check_types(self, contents: Mapping[str, Any]) -> None:
        for value in self._graph.graph.inputs:
            held = contents[value.name or ""]
            if isinstance(held, Numbers) or not isinstance(value.type, ir.TensorType):
                continue
            if not isinstance(held, torch.Tensor):
                raise GraphoptError(
                    f"input {value.name!r} is a {type(held).__name__}",
                    fix="give a tensor, such as torch.from_numpy(array)",
                )
            dtype = torch_dtype(value.type.dtype)
            # Floats may be of another type where the module was cast to it.
            if held.dtype != dtype and not (held.is_floating_point() and dtype.is_floating_point):
                raise GraphoptError(
                    f"input {value.name!r} is of {held.dtype}, and the model takes {dtype}",
                    fix=f"give tensor.to({dtype})",
                )

    def _device(self, values: Iterable[Any]) -> torch.device | None:
        tensors = (each for each in (*values, *self.parameters(), *self.buffers()))
        return next((each.device for each in tensors if isinstance(each, torch.Tensor)), None)


def to_torch(model: ir.Model | str | Path, *, train: Collection[str] = ()) -> OnnxModule:
    """Make a module of PyTorch from a model or its file.

    Args:
        model: The model or its file.
        train: Names of initializers to train that would not be; see `OnnxModule`.

    Raises:
        GraphoptError: The file cannot be read, or nothing computes an operator of the model.
    """
    return OnnxModule(model if isinstance(model, ir.Model) else load(model), train=train)


def _numbers(value: ir.Value) -> Numbers | None:
    """Return a constant that is a shape, an axis or a factor of one as numbers."""
    tensor = value.const_value
    if tensor is None or len(tensor.shape) > 1 or tensor.size > MAX_NUMBERS:
        return None
    if not (tensor.dtype in _COUNTED or (tensor.dtype in _REAL and _is_read_as_numbers(value))):
        return None
    return Numbers(np.asarray(tensor.numpy().astype(object)), torch_dtype(tensor.dtype))


def _is_read_as_numbers(value: ir.Value) -> bool:
    """Whether a float is alone, or read where an operator takes numbers."""
    operators = ((find(node), index) for node, index in value.uses())
    return len(value.shape or ()) == 0 or any(
        operator is not None and index in operator.numbers for operator, index in operators
    )


def _out(value: Value, device: torch.device | None) -> Any:
    return tensor_of(value, device) if isinstance(value, Numbers) else value
