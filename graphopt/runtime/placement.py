"""Where ONNX Runtime ran each node, read from its profile of a run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphopt.runtime.providers import CPU, Provider

_SUFFIX = "_kernel_time"
_COPIES = ("MemcpyToHost", "MemcpyFromHost")
_SHAPE_TYPES = frozenset({"int64", "int32", "bool"})
_SHAPE_ELEMENTS = 64


@dataclass(frozen=True)
class Placement:
    """Where nodes ran, after ONNX Runtime's own fusions.

    Args:
        nodes: Nodes by provider, copies between devices not counted.
        shape_nodes: Those of the CPU's that only compute sizes: all outputs are int32, int64 or
            bool of at most 64 elements. ONNX Runtime puts them there on purpose, since kernels
            read sizes on the host.
        copies: Nodes that copy between devices, by operator (MemcpyToHost, MemcpyFromHost).
        strays: Operators of the CPU's other nodes, with their counts, where others ran elsewhere.
    """

    nodes: Mapping[str, int] = field(default_factory=dict)
    shape_nodes: int = 0
    copies: Mapping[str, int] = field(default_factory=dict)
    strays: Mapping[str, int] = field(default_factory=dict)

    def fallback(self, provider: Provider) -> str | None:
        """Why nodes that should have run on a provider did not; None: all did."""
        if provider.is_cpu:
            return None
        here = self.nodes.get(provider.name, 0)
        total = sum(self.nodes.values())
        if not here:
            return f"none of {total} nodes ran on {provider.name}"
        elsewhere = total - here - self.shape_nodes
        if elsewhere:
            names = ", ".join(f"{count} {name}" for name, count in self.strays.items())
            return f"{elsewhere} of {total} nodes did not run on {provider.name} ({names})"
        return None


def read_profile(file: str) -> Placement:
    """Read the JSON that `InferenceSession.end_profiling` names.

    A node that ran more than once (in a Loop, or for several batches) counts once.
    """
    events = json.loads(Path(file).read_text(encoding="utf-8"))
    nodes: dict[tuple[str, str, str], dict[str, Any]] = {}
    for event in events:
        name = event.get("name", "")
        arguments = event.get("args", {})
        if event.get("cat") == "Node" and name.endswith(_SUFFIX) and arguments.get("provider"):
            key = (name, str(arguments.get("node_index")), arguments.get("op_name", ""))
            nodes.setdefault(key, arguments)
    counts: Counter[str] = Counter()
    copies: Counter[str] = Counter()
    strays: Counter[str] = Counter()
    shape_nodes = 0
    for (_, _, operator), arguments in nodes.items():
        if operator in _COPIES:
            copies[operator] += 1
            continue
        counts[arguments["provider"]] += 1
        if arguments["provider"] != CPU:
            continue
        if _computes_sizes(arguments):
            shape_nodes += 1
        else:
            strays[operator] += 1
    return Placement(
        dict(counts),
        shape_nodes,
        dict(copies),
        dict(strays.most_common()) if len(counts) > 1 else {},
    )


def _computes_sizes(arguments: Mapping[str, Any]) -> bool:
    outputs = arguments.get("output_type_shape") or []
    return bool(outputs) and all(
        dtype in _SHAPE_TYPES and _elements(shape) <= _SHAPE_ELEMENTS
        for output in outputs
        for dtype, shape in output.items()
    )


def _elements(shape: list[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product
