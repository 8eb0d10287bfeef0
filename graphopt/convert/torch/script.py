"""A TorchScript archive as a network: its own graph, traced on example inputs.

Loading an archive runs no Python, but TorchScript is a language: it can write files and call
operators of libraries. Its code is therefore screened before it is loaded.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.convert.archives import open_archive
from graphopt.convert.reasons import first_line
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    import torch

_TOUCHES_FILES = re.compile(
    # `torch` and `ops.aten` are one namespace.
    r"\b(?:torch|aten)\s*\.\s*(?:save|load|from_file|load_library)\b"
)
_NAMESPACE = re.compile(
    r"\bops\s*\.\s*(?!(?:aten|prim|prims|quantized|torchvision)\s*\.)(?P<name>\w+\s*\.\s*\w+)"
)
_MOST_CODE = 64 << 20
_OTHERWISE = "give the network it was made from: torch.export.save a program, or module:callable"
_IF = "prim::If"
_FAILED_NODE = re.compile(r"failed for node (?P<name>\S+)")


@dataclass(frozen=True)
class Script:
    """What an archive holds.

    Args:
        module: As it was loaded, in evaluation mode.
        inputs: Names of the inputs of its forward method.
    """

    module: Any
    inputs: tuple[str, ...]


def load_script(path: Path) -> Script:
    """Screen an archive and load it.

    Raises:
        GraphoptError: It touches files, calls operators that PyTorch does not have, takes other
            inputs than tensors, or cannot be read.
    """
    _screen(path)
    import torch

    try:
        load: Any = torch.jit.load
        module = load(str(path), map_location="cpu")
        arguments = module.forward.schema.arguments[1:]
    except Exception as error:
        # Whatever torch's reader stumbles over is a fault of the file.
        raise GraphoptError(
            f"torch {torch.__version__} cannot read it: {first_line(error)}", file=path
        ) from error
    foreign = next((item for item in arguments if str(item.type) != "Tensor"), None)
    if foreign is not None:
        raise GraphoptError(
            f"its input {foreign.name} is {foreign.type}, no tensor", file=path, fix=_OTHERWISE
        )
    return Script(module.eval(), tuple(item.name for item in arguments))


def _screen(path: Path) -> None:
    left = _MOST_CODE
    with open_archive(path) as archive:
        for entry in archive.infolist():
            if "/code/" in entry.filename and entry.filename.endswith(".py"):
                left -= entry.file_size
                if left < 0:
                    raise GraphoptError("holds too much code", file=path, fix=_OTHERWISE)
                _screen_code(path, archive.read(entry).decode("utf-8", "replace"))


def _screen_code(path: Path, code: str) -> None:
    touches = _TOUCHES_FILES.search(code)
    if touches is not None:
        raise GraphoptError(f"its code calls {touches[0]}", file=path, fix=_OTHERWISE)
    foreign = _NAMESPACE.search(code)
    if foreign is not None:
        raise GraphoptError(
            f"its code calls {foreign['name']}, which is no operator of PyTorch",
            file=path,
            fix=_OTHERWISE,
        )


def as_network(script: Script, args: tuple[Any, ...], path: Path) -> torch.nn.Module:
    """Make of an archive's graph a network that torch.export takes, with the names of its inputs.

    Raises:
        GraphoptError: It does not run on the inputs, or its graph has no equal there; the text
            names the first part that has none.
    """
    import torch
    from torch._export.converter import TS2EPConverter

    try:
        with torch.no_grad():
            script.module(*args)
    except Exception as error:
        # What the network raises is its own.
        raise GraphoptError(
            f"fails on the example inputs: {first_line(error)}", file=path
        ) from error
    try:
        program = TS2EPConverter(script.module, args, {}).convert()
    except Exception as error:
        # The converter raises whatever its steps raise.
        node = _FAILED_NODE.search(str(error))
        reason = f"its {node['name']} has no equal" if node else first_line(error)
        raise GraphoptError(
            f"is TorchScript that torch.export cannot take over: {reason}",
            file=path,
            fix=f"save it by torch.jit.trace if that is of its checks alone, or {_OTHERWISE}",
        ) from error
    return _named(program.module(check_guards=False), script.inputs)


def _named(module: torch.nn.Module, names: tuple[str, ...]) -> torch.nn.Module:
    import torch

    def forward(*args: Any, **kwargs: Any) -> Any:
        return module(*signature.bind(*args, **kwargs).args)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    forward.__signature__ = signature  # type: ignore[attr-defined]  # what inspect looks for
    network = torch.nn.Module()
    network.add_module("script", module)
    network.forward = forward
    return network


def settled_choices(script: Script, network: torch.nn.Module) -> list[str]:
    """Name the control flow that the conversion settled: loops, and branches that both compute.

    Args:
        script: What was converted.
        network: What `as_network` made of it. Branches on values are still in it, as `cond`.
    """
    import torch

    graph: Any = torch.jit.freeze(script.module).inlined_graph
    found = list(_choices(graph))
    branches = found.count(_IF)
    if branches <= _conditions(network):
        found = [kind for kind in found if kind != _IF]
    return sorted(set(found))


def _conditions(network: torch.nn.Module) -> int:
    import torch

    graphs = [item.graph for item in network.modules() if isinstance(item, torch.fx.GraphModule)]
    cond = torch.ops.higher_order.cond
    return sum(node.target is cond for graph in graphs for node in graph.nodes)


def _choices(block: Any) -> Iterator[str]:
    for node in block.nodes():
        blocks = list(node.blocks())
        settles = node.kind() == _IF and not (_is_check(blocks) or _is_condition(node))
        if settles or node.kind() == "prim::Loop":
            yield node.kind()
        for inner in blocks:
            yield from _choices(inner)


def _is_check(blocks: list[Any]) -> bool:
    """Whether a branch only raises an error."""
    return any(
        any(node.kind() == "prim::RaiseException" for node in block.nodes()) for block in blocks
    )


def _is_condition(node: Any) -> bool:
    """Whether it is an `and` or an `or`, which only branches read: they are judged themselves."""
    outputs = list(node.outputs())
    return bool(outputs) and all(
        str(value.type()) == "bool"
        and all(use.user.kind() in {"prim::If", "prim::Return"} for use in value.uses())
        for value in outputs
    )


def in_order(given: Mapping[str, Any], script: Script) -> tuple[Any, ...]:
    """Return inputs by name as the arguments of the forward method."""
    return tuple(given[name] for name in script.inputs)
