"""Weights from a state dict or a safetensors file, put into the network that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from graphopt.convert.finishing import require
from graphopt.convert.reasons import first_line
from graphopt.convert.torch.files import Kind
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    import torch

Weights = dict[str, "torch.Tensor"]


def put_weights(module: torch.nn.Module, path: Path, kind: Kind, key: str | None) -> None:
    """Load the weights of a file into a network, all of them.

    Args:
        module: Takes them.
        path: A state dict, a checkpoint that holds some, or safetensors.
        kind: Which of them.
        key: Which state dict of a checkpoint; None: its only one.

    Raises:
        GraphoptError: The file cannot be read, has none or several, or they do not fit.
    """
    weights = _safetensors(path, key) if kind is Kind.SAFETENSORS else _state_dict(path, key)
    expected = module.state_dict()
    if _is_wrapped(weights) and not _is_wrapped(expected):
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    try:
        module.load_state_dict(_with_tied(weights, expected), strict=True)
    except RuntimeError as error:
        raise GraphoptError(
            f"its weights do not fit the network of --model: {error}", file=path
        ) from error


def _is_wrapped(weights: Mapping[str, object]) -> bool:
    """Whether these are weights of a DataParallel, which calls the network inside it `module`."""
    return all(name.startswith("module.") for name in weights)


def _with_tied(weights: Weights, expected: Mapping[str, torch.Tensor]) -> Weights:
    """Add what a file leaves out since the network has it under another name as well."""

    def place(tensor: torch.Tensor) -> object:
        return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype

    there = {place(tensor): weights[name] for name, tensor in expected.items() if name in weights}
    tied = {
        name: there[place(tensor)]
        for name, tensor in expected.items()
        if name not in weights and tensor.numel() and place(tensor) in there
    }
    return weights | tied


def _safetensors(path: Path, key: str | None) -> Weights:
    require(["safetensors"], "torch", "safetensors")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if key is not None:
        raise GraphoptError(
            "has no state dict of a name: safetensors hold the weights themselves",
            file=path,
            fix="leave --state-dict-key out",
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise GraphoptError(
            f"cannot be read as safetensors: {first_line(error)}",
            file=path,
            fix="copy it, or save it, again",
        ) from error


def _state_dict(path: Path, key: str | None) -> Weights:
    import torch

    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises unpickling, runtime and key errors alike for a bad file.
        raise GraphoptError(f"cannot be read: {first_line(error)}", file=path) from error
    candidates = _state_dicts(content)
    if key is None and "" in candidates:
        return candidates[""]
    named = sorted(candidates.keys() - {""})
    if key is None and len(named) == 1:
        key = named[0]
    if key is None or key not in candidates:
        raise GraphoptError(
            "holds no state dict" if not named else f"has weights under {', '.join(named)}",
            file=path,
            fix="choose one with --state-dict-key" if named else "save network.state_dict()",
        )
    return candidates[key]


def _state_dicts(content: object) -> dict[str, Weights]:
    """Find the dicts of tensors: the content itself, under the empty name, or its entries."""
    import torch

    def is_state_dict(item: object) -> bool:
        return (
            isinstance(item, Mapping)
            and len(item) > 0
            and all(isinstance(value, torch.Tensor) for value in item.values())
        )

    if is_state_dict(content):
        return {"": dict(cast("Mapping[str, torch.Tensor]", content))}
    if not isinstance(content, Mapping):
        return {}
    return {str(name): dict(item) for name, item in content.items() if is_state_dict(item)}
