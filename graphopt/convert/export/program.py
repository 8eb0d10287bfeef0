"""A model as a program of `torch.export`, with the names and the free sizes of its inputs."""

from __future__ import annotations

import contextlib
import inspect
import io
import keyword
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from graphopt.convert.export.contract import Order
from graphopt.convert.finishing import require
from graphopt.convert.parity import listed
from graphopt.convert.quiet import quiet
from graphopt.convert.reasons import first_line
from graphopt.convert.torch.arrays import to_numpy, to_torch
from graphopt.convert.torch.recurrence import free_lengths
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Array, Batch

if TYPE_CHECKING:
    import torch

    from graphopt.training import OnnxModule


@dataclass(frozen=True)
class Program:
    """A model that `torch.export` has followed.

    Args:
        module: What it has followed.
        program: The program; its inputs are positional, in the order of the model's.
        inputs: Names of the model's inputs, in that order.
        parameters: What the program calls them.
        fixed: The model's free sizes that are fixed in the program.
    """

    module: OnnxModule
    program: torch.export.ExportedProgram
    inputs: tuple[str, ...]
    parameters: tuple[str, ...]
    fixed: dict[str, int]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the sizes."""
        if not self.fixed:
            return ()
        return (f"sizes that the file fixes, as the example has them: {listed(self.fixed)}",)


def program_of(order: Order, *, dynamic: bool = True) -> Program:
    """Follow a run of a model, computed by PyTorch, on the example.

    Args:
        order: The model and the example.
        dynamic: Whether sizes that are free in the model shall be free in the program.

    Raises:
        GraphoptError: PyTorch is not installed, an operator has no equal in it, or what the graph
            does depends on more than sizes.
    """
    require(["torch"], "torch", "PyTorch")
    import torch

    from graphopt.training import OnnxModule

    try:
        module = OnnxModule(order.model).eval()
    except GraphoptError as error:
        raise GraphoptError(error.cause, file=order.source, fix=error.fix) from error
    names = module.input_names
    parameters = identifiers(names)
    _let_take(module, parameters)
    example = tuple(to_torch(order.example[name]) for name in names)
    values = {value.name: value for value in order.model.graph.inputs}
    free = [_free_axes(values[name]) if dynamic else {} for name in names]
    try:
        with quiet_torch(), free_lengths():
            program = torch.export.export(
                module,
                example,
                dynamic_shapes=tuple(dict.fromkeys(axes, torch.export.Dim.AUTO) for axes in free),
            )
    except GraphoptError as error:
        raise GraphoptError(error.cause, file=order.source, fix=error.fix) from error
    except Exception as error:
        # torch.export raises errors of Dynamo, of its shape solver and of PyTorch's operators.
        raise GraphoptError(
            f"torch.export cannot follow it: {first_line(error)}", file=order.source
        ) from error
    return Program(module, program, names, parameters, _fixed(program, values, names))


@contextlib.contextmanager
def quiet_torch() -> Iterator[None]:
    """Drop the progress and the graphs that exporters print."""
    with contextlib.redirect_stderr(io.StringIO()), quiet(logging.CRITICAL):
        yield


def outputs_of(found: Any) -> Sequence[Array]:
    """Return a module's outputs as arrays."""
    return [to_numpy(each) for each in (found if isinstance(found, tuple | list) else (found,))]


def arguments(program: Program, batch: Batch) -> tuple[torch.Tensor, ...]:
    """Return the inputs of a program, in its order."""
    return tuple(to_torch(batch[name]) for name in program.inputs)


def _let_take(module: OnnxModule, names: Sequence[str]) -> None:
    """Let a module take inputs under these names: exporters read its signature."""
    take = type(module).forward
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])

    def forward(*inputs: Any, **named: Any) -> Any:
        return take(module, *signature.bind(*inputs, **named).args)

    forward.__signature__ = signature  # type: ignore[attr-defined]  # where PEP 362 puts it
    module.forward = forward  # type: ignore[method-assign]  # this one instance's


def identifiers(names: Sequence[str]) -> tuple[str, ...]:
    """Make each name one that Python takes for a parameter, all of them different."""
    made: list[str] = []
    for name in names:
        plain = re.sub(r"\W", "_", name, flags=re.ASCII)
        if not plain or plain[0].isdigit() or keyword.iskeyword(plain) or plain == "self":
            plain = f"input_{plain}"
        while plain in made:
            plain += "_"
        made.append(plain)
    return tuple(made)


def _free_axes(value: ir.Value) -> dict[int, str]:
    return {
        axis: dim.value or f"{value.name}_dim_{axis}"
        for axis, dim in enumerate(value.shape or ())
        if isinstance(dim, ir.SymbolicDim)
    }


def _fixed(
    program: torch.export.ExportedProgram, values: dict[str | None, ir.Value], names: Sequence[str]
) -> dict[str, int]:
    user_inputs = set(program.graph_signature.user_inputs)
    nodes = [node for node in program.graph.nodes if node.name in user_inputs]
    return {
        symbol: size
        for name, node in zip(names, nodes, strict=True)
        for axis, symbol in _free_axes(values[name]).items()
        if isinstance(size := node.meta["val"].shape[axis], int)
    }
