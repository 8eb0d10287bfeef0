"""The names of a model's data files, and which of them nobody reads any more."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
from pathlib import Path

from graphopt.model.wire import varint

_SUFFIX = ".onnx"


def preferred(model: Path) -> Path:
    """Return the data file of a model: `model.onnx.data`."""
    return model.with_name(f"{model.name}.data")


def fresh(model: Path) -> Path:
    """Return a name for a data file that no file has: the preferred one, else a numbered one."""
    path = preferred(model)
    number = 0
    while os.path.lexists(path):
        number += 1
        path = model.with_name(f"{model.name}.{number}.data")
    return path


def mentioned(model: Path) -> frozenset[Path]:
    """Return the data files with names of a model's own that the model on disk mentions."""
    if not model.is_file():
        return frozenset()
    own = [path for path in model.parent.iterdir() if is_own(model, path)]
    return frozenset(path for path in own if mentions(model, path.name))


def may_share(model: Path) -> bool:
    """Say whether saves of other models will see that this one reads a file: by its name."""
    return model.suffix == _SUFFIX


def unused(model: Path, candidates: frozenset[Path]) -> list[Path]:
    """Return those candidates that neither a model nor any other `.onnx` in its folder mentions."""
    readers = [path for path in model.parent.glob(f"*{_SUFFIX}") if path != model]
    return [
        path
        for path in sorted(candidates)
        if not any(mentions(reader, path.name) for reader in (model, *readers))
    ]


def is_own(model: Path, path: Path) -> bool:
    """Say whether a file of the model's folder has a name that a save of the model may give."""
    named = re.fullmatch(re.escape(model.name) + r"(\.\d+)?\.data", path.name)
    return named is not None and path.parent == model.parent


def mentions(model: Path, name: str) -> bool:
    """Say whether a model file has a location with this name: the bytes of one occur in it."""
    field = b"\x12" + varint(len(name.encode())) + name.encode()
    with contextlib.suppress(FileNotFoundError, IsADirectoryError), model.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(field) >= 0 or content.find(f"/{name}".encode()) >= 0
    return False
