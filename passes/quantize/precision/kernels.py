"""Which operators an ONNX Runtime execution provider computes in a float type."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Any

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.rewrite.constants import ONNX_DOMAINS
from graphopt.rewrite.value_types import operator_types

PROVIDERS = {"ort-cpu": "CPUExecutionProvider", "ort-cuda": "CUDAExecutionProvider"}


def has_kernel(
    target: str, node: ir.Node, version: int, variables: frozenset[str], dtype: ir.DataType
) -> bool:
    """Whether a provider runs a node whose type variables stand for a type.

    Args:
        target: One of `PROVIDERS`.
        node: The node.
        version: The opset that it is written in.
        variables: The type variables.
        dtype: The type.

    Raises:
        GraphoptError: The installed ONNX Runtime lacks the provider.
    """
    kernels = _kernels(PROVIDERS[target])
    if not kernels:
        raise GraphoptError(
            f"the installed ONNX Runtime has no kernels of {PROVIDERS[target]}",
            fix='install onnxruntime-gpu, or say target="generic"',
        )
    rule = operator_types(node, version)
    since = version if rule is None else rule.since
    domain = "" if node.domain in ONNX_DOMAINS else node.domain
    name = f"tensor({dtype.name.lower()})"
    return any(
        first <= since <= last
        and all(name in constraints.get(variable, (name,)) for variable in variables)
        for first, last, constraints in kernels.get((domain, node.op_type), ())
    )


@cache
def _kernels(provider: str) -> dict[tuple[str, str], list[tuple[int, int, Any]]]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found: dict[tuple[str, str], list[tuple[int, int, Any]]] = defaultdict(list)
    for kernel in state.get_all_opkernel_def():
        if kernel.provider == provider:
            entry = (*kernel.version_range, kernel.type_constraints)
            found[kernel.domain, kernel.op_name].append(entry)
    return found
