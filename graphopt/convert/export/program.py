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
        """What the user should know of names and sizes."""
        notes = renamed(self.inputs, self.parameters)
        if not self.fixed:
            return notes
        return (*notes, f"sizes that the file fixes, as the example has them: {listed(self.fixed)}")


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

    _check_tensors(order)
    try:
        module = OnnxModule(order.model).eval()
    except GraphoptError as error:
        raise GraphoptError(error.cause, file=order.source, fix=error.fix) from error
    names = module.input_names
    parameters = identifiers(names, "input")
    _let_take(module, parameters)
    example = tuple(to_torch(order.example[name]) for name in names)
    values = {value.name: value for value in order.model.graph.inputs}
    free = [_free_axes(values[name]) if dynamic else {} for name in names]
    try:
        with quiet_torch(), free_lengths(), _sizes_apart():
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
            f"torch.export cannot follow it: {first_line(error)}",
            file=order.source,
            fix="where the sizes of the example are to blame, give inputs of others with --data",
        ) from error
    return Program(module, program, names, parameters, _fixed(program, values, names))


def _sizes_apart() -> contextlib.AbstractContextManager[None]:
    """Let `torch.export` take sizes for different ones that are equal in the example alone."""
    from torch.fx.experimental import _config

    settings: Any = _config
    patch: contextlib.AbstractContextManager[None] = settings.patch(use_duck_shape=False)
    return patch


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


def _check_tensors(order: Order) -> None:
    graph = order.model.graph
    for value in (*graph.inputs, *graph.outputs):
        if value.type is not None and not isinstance(value.type, ir.TensorType):
            raise GraphoptError(
                f"{value.name!r} is a list or an optional value, which this target has no type for",
                file=order.source,
                fix="let the model take and give tensors",
            )


def _let_take(module: OnnxModule, names: Sequence[str]) -> None:
    """Let a module take inputs under these names: exporters read its signature."""
    take = type(module).forward
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])

    def forward(*inputs: Any, **named: Any) -> Any:
        return take(module, *signature.bind(*inputs, **named).args)

    forward.__signature__ = signature  # type: ignore[attr-defined]  # where PEP 362 puts it
    module.forward = forward  # type: ignore[method-assign]  # this one instance's


def identifiers(names: Sequence[str], prefix: str) -> tuple[str, ...]:
    """Make each name one that all takers of parameters take, all of them different.

    Names of letters, digits and underscores that begin with a letter stay, unless they differ from
    another one in case alone.

    Args:
        names: The names.
        prefix: What comes in front of what begins with anything but a letter.
    """
    made = {name: name for name in names if _is_plain(name)}
    taken: set[str] = set()
    for name in sorted(names, key=lambda name: name not in made):
        plain = re.sub(r"\W", "_", name, flags=re.ASCII)
        plain = plain if plain[:1].isalpha() and _is_plain(plain) else f"{prefix}_{plain}"
        while plain.lower() in taken:
            plain += "_"
        taken.add(plain.lower())
        made[name] = plain
    return tuple(made[name] for name in names)


def _is_plain(name: str) -> bool:
    fits = re.fullmatch(r"[a-z]\w*", name, flags=re.ASCII | re.IGNORECASE) is not None
    return fits and not keyword.iskeyword(name) and name != "self"


def renamed(names: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    """Say which names could not stay."""
    changed = [f"{one!r} is {two}" for one, two in zip(names, given, strict=True) if one != two]
    return (f"names that the file cannot hold: {', '.join(changed)}",) if changed else ()


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
