"""One node as the function that computes it sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import onnx_ir as ir
import torch

from graphopt.errors import GraphoptError
from graphopt.training.dtypes import torch_dtype, torch_tensor
from graphopt.training.numbers import Value


class Bodies(Protocol):
    """Runs the graphs that a node of control flow holds."""

    def run(self, body: ir.Graph, inputs: Sequence[Value]) -> list[Value]:
        """Run a body with what it sees around it, and return its outputs."""
        ...

    def captured(self, body: ir.Graph) -> list[ir.Value]:
        """Return the values around a body that it reads, in the order in which it does."""
        ...

    def inside(self, values: dict[ir.Value, Value]) -> Bodies:
        """Let bodies see other contents of some values around them."""
        ...

    def value(self, value: ir.Value) -> Value:
        """Return what a value around the bodies holds now."""
        ...


class Call:
    """A node's attributes, the types of its values, and what can run its bodies.

    Args:
        node: The node.
        bodies: What runs the graphs that the node holds.
        device: Where tensors are made that no input says a device for.
    """

    def __init__(self, node: ir.Node, bodies: Bodies, device: torch.device | None) -> None:
        self.node = node
        self.bodies = bodies
        self.device = device

    @property
    def inputs(self) -> int:
        """How many inputs the node lists."""
        return len(self.node.inputs)

    @property
    def outputs(self) -> int:
        """How many outputs the node lists, with those that it leaves out."""
        return len(self.node.outputs)

    def has(self, name: str) -> bool:
        """Whether the node sets an attribute."""
        return name in self.node.attributes

    def integer(self, name: str, default: int | None = None) -> int:
        """Return an integer attribute."""
        return int(self._attribute(name, default))

    def integers(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        """Return a list of integers."""
        return [int(each) for each in self._attribute(name, default)]

    def real(self, name: str, default: float | None = None) -> float:
        """Return a float attribute."""
        return float(self._attribute(name, default))

    def reals(self, name: str, default: Sequence[float] | None = None) -> list[float]:
        """Return a list of floats."""
        return [float(each) for each in self._attribute(name, default)]

    def text(self, name: str, default: str | None = None) -> str:
        """Return a string attribute."""
        return str(self._attribute(name, default))

    def texts(self, name: str, default: Sequence[str] | None = None) -> list[str]:
        """Return a list of strings."""
        return [str(each) for each in self._attribute(name, default)]

    def tensor(self, name: str) -> torch.Tensor:
        """Return a copy of a tensor attribute, on the device."""
        return torch_tensor(self._attribute(name, None)).to(self.device)

    def graph(self, name: str) -> ir.Graph:
        """Return a body."""
        graph: ir.Graph = self._attribute(name, None)
        return graph

    def input_type(self, index: int) -> ir.DataType | None:
        """Return the ONNX type of an input; None: left out, or not known."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        return None if value is None else value.dtype

    def output_type(self, index: int = 0) -> ir.DataType | None:
        """Return the ONNX type of an output; None: not known."""
        return self.node.outputs[index].dtype

    def output_dtype(self, index: int = 0) -> torch.dtype:
        """Return the PyTorch type of an output.

        Raises:
            GraphoptError: It is not known.
        """
        dtype = self.output_type(index)
        if dtype is None:
            raise self.refused("the type of its output is not known")
        return torch_dtype(dtype)

    def wants(self, index: int) -> bool:
        """Whether the node has an output there."""
        return index < len(self.node.outputs) and bool(self.node.outputs[index].name)

    def refused(self, why: str, fix: str | None = None) -> GraphoptError:
        """Make the error that says why this node cannot be computed."""
        return GraphoptError(f"{self}: {why}", fix=fix)

    def __str__(self) -> str:
        name = f" {self.node.name!r}" if self.node.name else ""
        return f"{label(self.node)}{name}"

    def _attribute(self, name: str, default: Any) -> Any:
        attribute = self.node.attributes.get(name)
        if attribute is not None:
            return attribute.value
        if default is None:
            raise self.refused(f"it has no attribute {name}")
        return default


def label(node: ir.Node) -> str:
    """Return an operator's name, with its domain where that is not ONNX's own."""
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type
