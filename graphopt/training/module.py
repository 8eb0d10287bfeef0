"""An ONNX model as a module of PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from graphopt.errors import GraphoptError
from graphopt.model.load import load
from graphopt.rewrite.value_types import ValueTypes
from graphopt.training import parameters
from graphopt.training.dtypes import torch_dtype
from graphopt.training.execution import Contents, Execution, Plan
from graphopt.training.numbers import MAX_NUMBERS, Numbers, Value, tensor_of
from graphopt.training.operators import find
from graphopt.training.prepare import prepared


class OnnxModule(nn.Module):
    """A model whose nodes are computed by PyTorch, so that it can be trained and exported.

    Its weights are parameters, its other constants of floating-point numbers and larger ones of
    integers are buffers, under their names in the model (see `graphopt.training.parameters`).
    It takes the model's inputs in order or by name, and returns the output, or a tuple of them.

    Args:
        model: The model; it stays as it is, and its weights are copied.

    Raises:
        GraphoptError: Nothing computes an operator of the model, or PyTorch lacks a type.
    """

    def __init__(self, model: ir.Model) -> None:
        super().__init__()
        own = prepared(model)
        self._own = own
        self._plan = Plan(own, ValueTypes(own))
        self._keys: dict[ir.Value, str] = {}
        self._numbers: dict[ir.Value, Numbers] = {}
        for value in own.graph.initializers.values():
            constant = _numbers(value)
            if constant is None:
                self._keys[value] = parameters.hold(self, value)
            else:
                self._numbers[value] = constant
        self._inputs = [value for value in own.graph.inputs if value not in self._held()]

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(value.name or "" for value in self._inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return tuple(value.name or "" for value in self._own.graph.outputs)

    @property
    def initializer_names(self) -> Mapping[str, str]:
        """Names of the model's initializers, by key of the module's `state_dict`."""
        return {key: value.name or "" for value, key in self._keys.items()}

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Compute the outputs.

        Args:
            *inputs: Inputs in the order of `input_names`.
            **named: The other ones by name.

        Returns:
            The output; a tuple where the model has several.

        Raises:
            GraphoptError: An input is missing or unknown, or an operator cannot be computed.
        """
        fed = dict(zip(self._inputs, inputs, strict=False))
        by_name = dict(zip(self.input_names, self._inputs, strict=True))
        for name, tensor in named.items():
            if name not in by_name:
                raise GraphoptError(f"the model has no input {name!r}", fix=self._usage())
            fed[by_name[name]] = tensor
        if len(inputs) > len(self._inputs) or len(fed) < len(self._inputs):
            raise GraphoptError(f"{len(inputs) + len(named)} inputs are given", fix=self._usage())
        contents: Contents = {
            value: parameters.found(self, key) for value, key in self._keys.items()
        }
        contents.update(self._numbers)
        contents.update(fed)
        device = self._device(fed.values())
        execution = Execution(self._plan, contents, device)
        graph_inputs = [contents[value] for value in self._own.graph.inputs]
        outputs = [_out(each, device) for each in execution.run(self._own.graph, graph_inputs)]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _held(self) -> set[ir.Value]:
        return {*self._keys, *self._numbers}

    def _usage(self) -> str:
        return f"give {', '.join(self.input_names)}"

    def _device(self, values: Any) -> torch.device | None:
        tensors = (each for each in (*values, *self.parameters(), *self.buffers()))
        return next((each.device for each in tensors if isinstance(each, torch.Tensor)), None)


def to_torch(model: ir.Model | str | Path) -> OnnxModule:
    """Make a module of PyTorch from a model or its file.

    Raises:
        GraphoptError: The file cannot be read, or nothing computes an operator of the model.
    """
    return OnnxModule(model if isinstance(model, ir.Model) else load(model))


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


_COUNTED = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)
_REAL = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


def _out(value: Value, device: torch.device | None) -> Any:
    return tensor_of(value, device) if isinstance(value, Numbers) else value
