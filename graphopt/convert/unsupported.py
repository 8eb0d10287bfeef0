"""What is right in ONNX, and ONNX Runtime has no kernel for: said as such."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model import scopes

_NO_KERNEL = re.compile(
    r"Could not find an implementation for (?P<operator>\w+)\(\d+\) node with name '(?P<node>.*?)'"
)
_NO_TYPE = re.compile(
    r"Type 'tensor\((?P<dtype>\w+)\)' of input parameter \(.*?\) of operator \((?P<operator>\w+)\)"
    r" in node \((?P<node>.*?)\) is invalid"
)


@contextlib.contextmanager
def missing_kernels(model: ir.Model, source: str, fix: str) -> Iterator[None]:
    """Say of a model that ONNX Runtime has no kernel for: which operator, of which type.

    Args:
        model: What is run in the block.
        source: What messages call the source.
        fix: How the source computes in another type.

    Raises:
        GraphoptError: That is why the block failed.
    """
    try:
        yield
    except GraphoptError as error:
        missing = _NO_KERNEL.search(error.cause) or _NO_TYPE.search(error.cause)
        if missing is None:
            raise
        found = missing.groupdict()
        dtype = found.get("dtype") or _dtype(model, found["node"], found["operator"])
        if dtype is None or dtype == "float32":
            # No type is at fault.
            raise
        raise GraphoptError(
            f"ONNX Runtime's CPU provider has no {found['operator']} of {dtype}"
            + (f" (node {found['node']})" if found["node"] else ""),
            file=source,
            fix=fix,
        ) from error


def _dtype(model: ir.Model, name: str, operator: str) -> str | None:
    """Return the type that a node computes in, where it is known: that of its first input."""
    nodes = [node for scope in scopes(model) for node in scope.graph if node.op_type == operator]
    for node in sorted(nodes, key=lambda node: node.name != name):
        for value in (*node.inputs[:1], *node.outputs[:1]):
            if value is not None and value.dtype is not None:
                return str(value.dtype.numpy()) if value.dtype.name != "BFLOAT16" else "bfloat16"
    return None
