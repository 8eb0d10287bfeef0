"""Tables of what runtimes run as integers, by the name that `quantize(target=...)` takes."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.errors import GraphoptError
from passes.quantize.targets import generic, ort_cpu, ort_cuda, tensorrt
from passes.quantize.targets.rules import Kind, Rule, Target

__all__ = ["TARGETS", "Kind", "Rule", "Target", "target"]

TARGETS: Mapping[str, Target] = {
    found.name: found
    for found in (ort_cpu.TARGET, ort_cuda.TARGET, tensorrt.TARGET, generic.TARGET)
}


def target(name: str) -> Target:
    """Return a table.

    Raises:
        GraphoptError: There is none of that name.
    """
    if name not in TARGETS:
        raise GraphoptError(
            f"quantize: there is no target {name!r}", fix=f"use {', '.join(TARGETS)}"
        )
    return TARGETS[name]
