"""A PyTorch network with example inputs: built in Python, or weights put into one, or a program."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from graphopt.callables import is_callable_spec
from graphopt.convert.built import build
from graphopt.convert.contract import Options
from graphopt.convert.reasons import first_line
from graphopt.convert.torch.files import UNREADABLE, Kind, kind_of, pickled_class
from graphopt.convert.torch.program import load_program
from graphopt.convert.torch.script import as_network, in_order, load_script, settled_choices
from graphopt.convert.torch.weights import put_weights
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import open_feeds

if TYPE_CHECKING:
    import torch

_EXAMPLES = 2
"""Samples taken of `--data`: torch.export takes a batch of 1 for a constant."""

_REFUSED = {
    Kind.OLD_PROGRAM: (
        "is a program in the format of torch 2.7 or older, which is read by unpickling",
        "load it with that torch, and save it with torch.export.save of torch 2.9 or newer",
    ),
    Kind.COMPILED: (
        "holds compiled code, which would run",
        "give the program it was compiled from, saved with torch.export.save",
    ),
}


@dataclass(frozen=True)
class Network:
    """What is exported.

    Args:
        source: What messages call it.
        module: The network, in evaluation mode; None: only a program is there.
        program: The program; None: it is still to be exported.
        args: Positional example inputs.
        kwargs: Example inputs by name, in the order of the forward method.
        original: What outputs are compared with; None: the network or the program itself.
        settled: Why only the sizes of the example inputs are right; None: others may be, too.
        notes: What the user should know of it.
    """

    source: str
    module: torch.nn.Module | None
    program: torch.export.ExportedProgram | None
    args: tuple[object, ...]
    kwargs: dict[str, object]
    original: torch.nn.Module | None = None
    settled: str | None = None
    notes: tuple[str, ...] = ()


def open_network(source: str, options: Options) -> Network:
    """Open a `.pt2` program, TorchScript, weights with their network, or `module:callable`.

    Raises:
        GraphoptError: It is something else, cannot be read, or has no example inputs.
    """
    path = Path(source)
    if not path.exists() and is_callable_spec(source):
        return _built(source, options)
    kind = kind_of(path)
    if kind is Kind.PROGRAM:
        return _program(path, options)
    if kind is Kind.TORCHSCRIPT:
        return _script(path, options)
    if kind in {Kind.STATE_DICT, Kind.SAFETENSORS}:
        return _with_weights(path, kind, options)
    if kind is Kind.PICKLED:
        found = pickled_class(path)
        if found == UNREADABLE:
            raise GraphoptError(
                "starts as a pickle does and cannot be read as one to its end",
                file=path,
                fix="copy it, or save it, again; where it is something else, say what with --from",
            )
        raise GraphoptError(
            f"holds a pickled {found}, and unpickling runs the code it names",
            file=path,
            fix="where you trust it, torch.save(network.state_dict(), FILE) and convert that with"
            " --model module:callable, or torch.export.save a program",
        )
    if kind in _REFUSED:
        cause, fix = _REFUSED[kind]
        raise GraphoptError(cause, file=path, fix=fix)
    raise GraphoptError(
        "is no PyTorch program and no state dict",
        file=path,
        fix="give a .pt2 of torch.export.save, a state dict with --model, or module:callable",
    )


def _program(path: Path, options: Options) -> Network:
    program = load_program(path)
    names = program.graph_signature.user_inputs
    if options.data is None and (program.example_inputs is not None or not names):
        args, kwargs = program.example_inputs or ((), {})
    else:
        from torch.utils import _pytree as pytree

        structure = program.call_spec.in_spec
        assert structure is not None
        given = _from_data(options, [str(name) for name in names], (), str(path))
        args, kwargs = pytree.tree_unflatten(list(given.values()), structure)
    return Network(str(path), None, program, tuple(args), dict(kwargs))


def _script(path: Path, options: Options) -> Network:
    script = load_script(path)
    given = _from_data(options, script.inputs, (), str(path))
    args = in_order(given, script)
    network = as_network(script, args, path)
    found = settled_choices(script, network)
    settled = (
        f"its {' and '.join(found)} took one way for the example inputs, which the model keeps"
        if found
        else None
    )
    return Network(str(path), network, None, args, {}, original=script.module, settled=settled)


def _built(spec: str, options: Options) -> Network:
    import torch

    try:
        made = build(spec)
    except GraphoptError:
        raise
    except Exception as error:
        # The user's function may raise anything.
        raise GraphoptError(f"fails: {first_line(error)}", file=spec) from error
    parts: Sequence[object] = made if isinstance(made, tuple) else (made,)
    module = parts[0] if parts else None
    if not isinstance(module, torch.nn.Module) or len(parts) > 3:
        raise GraphoptError(
            f"returns {type(made).__name__}",
            file=spec,
            fix="return a torch.nn.Module, or (module, example_inputs), or (module, args, kwargs)",
        )
    notes = _training_notes(module)
    module = module.eval()
    parameters = inspect.signature(module.forward).parameters
    if options.data is not None or len(parts) == 1:
        optional = [name for name, p in parameters.items() if p.default is not p.empty]
        kwargs = _from_data(options, parameters, optional, spec)
        return Network(spec, module, None, (), kwargs, notes=notes)
    args = parts[1] if isinstance(parts[1], (tuple, list)) else (parts[1],)
    given = cast("Mapping[str, object]", parts[2] if len(parts) == 3 else {})
    order = {name: position for position, name in enumerate(parameters)}
    kwargs = {
        name: given[name] for name in sorted(given, key=lambda name: order.get(name, len(order)))
    }
    return Network(spec, module, None, tuple(args), kwargs, notes=notes)


def _training_notes(module: torch.nn.Module) -> tuple[str, ...]:
    """Say that a network was in training mode, where its layers compute something else in it."""
    from torch.nn.modules.batchnorm import _NormBase
    from torch.nn.modules.dropout import _DropoutNd

    differs = any(
        item.training and isinstance(item, (_DropoutNd, _NormBase)) for item in module.modules()
    )
    if not differs:
        return ()
    return (
        "the network was in training mode and is converted in evaluation mode: no dropout,"
        " batch normalization by its running statistics",
    )


def _from_data(
    options: Options, names: Iterable[str], optional: Sequence[str], source: str
) -> dict[str, object]:
    """Read example inputs by name, in the order of the names."""
    import torch

    if options.data is None:
        raise GraphoptError(
            "has no example inputs",
            file=source,
            fix="give them with --data NPZ, one array per input, or let the callable return"
            " (module, example_inputs)",
        )
    batch = next(open_feeds(options.data).batches(_EXAMPLES))
    wanted = list(names)
    if unknown := sorted(batch.keys() - set(wanted)):
        raise GraphoptError(
            f"has {', '.join(unknown)}; the network's inputs are {', '.join(wanted)}",
            file=options.data,
        )
    if missing := [name for name in wanted if name not in batch and name not in optional]:
        raise GraphoptError(f"lacks the input {missing[0]}", file=options.data)
    return {name: torch.from_numpy(batch[name].copy()) for name in wanted if name in batch}


def _with_weights(path: Path, kind: Kind, options: Options) -> Network:
    if options.model is None:
        raise GraphoptError(
            "holds weights and no network",
            file=path,
            fix="name a function that builds the network with --model module:callable",
        )
    network = _built(options.model, options)
    assert network.module is not None
    put_weights(network.module, path, kind, options.state_dict_key)
    return network
