"""LSTM and GRU layers in an exported program: of any length, and LSTMs with projections.

`torch.export` keeps such a layer as one operator, and finds the sizes of its outputs by unrolling
it, which fixes its length. `torch.onnx` unrolls it once more. The operators of ONNX run over any
length, so that here both are told the sizes.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_NAMESPACE = "graphopt_of_any_length"


@contextlib.contextmanager
def free_lengths() -> Iterator[None]:
    """Let `torch.export` keep the length of a sequence free that an LSTM or a GRU reads."""
    import torch

    aten = torch.ops.aten
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    unrolled = torch._decomp.decompositions.lstm_impl

    def lstm_sizes(steps: Any, hidden: Any, *rest: Any) -> Any:
        # ONNX has no such LSTM: it is unrolled indeed.
        return (unrolled if _projects(hidden) else _lstm_sizes)(steps, hidden, *rest)

    rules: dict[Any, Callable[..., Any]] = {aten.lstm.input: lstm_sizes, aten.gru.input: _gru_sizes}
    before = {operator: dict(operator.py_kernels) for operator in rules}
    try:
        for operator, rule in rules.items():
            operator.py_kernels[key] = rule
            operator._dispatch_cache.clear()
        yield
    finally:
        for operator, kernels in before.items():
            operator.py_kernels.clear()
            operator.py_kernels.update(kernels)
            operator._dispatch_cache.clear()


def without_projections(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Unroll LSTMs with a projection of their hidden state, which the LSTM of ONNX has not."""
    import torch

    operator = torch.ops.aten.lstm.input
    if not any(
        node.target is operator and _projects([item.meta["val"] for item in node.args[1]])
        for node in _nodes(program)
    ):
        return program
    unrolled = torch._decomp.decompositions.lstm_impl

    def rule(steps: Any, hidden: Any, *rest: Any) -> Any:
        return unrolled(steps, hidden, *rest) if _projects(hidden) else NotImplemented

    # What it returns is not typed.
    settled: torch.export.ExportedProgram = program.run_decompositions({operator: rule})
    return settled


def settle_lengths(program: torch.export.ExportedProgram) -> dict[Any, Callable[..., Any]]:
    """Put operators of known sizes in the place of LSTMs and GRUs whose length varies.

    Args:
        program: It is edited.

    Returns:
        What `torch.onnx` translates these operators by: as it does those that they stand for.
    """
    import torch

    aten = torch.ops.aten
    free = [
        node
        for node in _nodes(program)
        if node.target in {aten.lstm.input, aten.gru.input}
        and any(isinstance(size, torch.SymInt) for size in node.args[0].meta["val"].shape)
    ]
    if not free:
        return {}
    from onnxscript.function_libs.torch_lib.ops import core

    lstm, gru = _operators()
    for node in free:
        node.target = lstm if node.target is aten.lstm.input else gru
    program.graph_module.recompile()
    return {lstm: core.aten_lstm, gru: core.aten_gru}


def _nodes(program: torch.export.ExportedProgram) -> Iterator[Any]:
    from torch.fx import GraphModule

    for module in program.graph_module.modules():
        if isinstance(module, GraphModule):
            yield from module.graph.nodes


@functools.cache
def _operators() -> tuple[Any, Any]:
    """Register the operators, which only a trace ever calls."""
    import torch

    make_library: Any = torch.library.Library
    library = make_library(_NAMESPACE, "DEF")
    layer = "bool biases, int layers, float dropout, bool train, bool bidirectional, bool first"
    library.define(
        f"lstm(Tensor steps, Tensor[] hidden, Tensor[] weights, {layer})"
        " -> (Tensor, Tensor, Tensor)"
    )
    library.define(
        f"gru(Tensor steps, Tensor hidden, Tensor[] weights, {layer}) -> (Tensor, Tensor)"
    )
    torch.library.register_fake(f"{_NAMESPACE}::lstm", _lstm_sizes, lib=library)
    torch.library.register_fake(f"{_NAMESPACE}::gru", _gru_sizes, lib=library)
    _KEPT.append(library)
    operators = getattr(torch.ops, _NAMESPACE)
    return operators.lstm.default, operators.gru.default


_KEPT: list[Any] = []
"""A library of operators ends with its object."""


def _projects(hidden: Any) -> bool:
    state, cell = hidden
    return bool(state.shape[2] != cell.shape[2])


def _lstm_sizes(steps: Any, hidden: Any, *layer: Any) -> Any:
    import torch

    state, cell = hidden
    return _outputs(steps, state, layer), torch.empty_like(state), torch.empty_like(cell)


def _gru_sizes(steps: Any, state: Any, *layer: Any) -> Any:
    import torch

    return _outputs(steps, state, layer), torch.empty_like(state)


def _outputs(steps: Any, state: Any, layer: tuple[Any, ...]) -> Any:
    """Return the hidden states of all steps, in either order of batch and time."""
    bidirectional = layer[-2]
    return steps.new_empty((*steps.shape[:2], state.shape[2] * (1 + bidirectional)))
