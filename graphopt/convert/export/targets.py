"""The targets there are, and what an export is held against."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from graphopt.convert.export.contract import Order, Written
from graphopt.convert.export.proof import check_exported
from graphopt.convert.model_parity import feeds_of
from graphopt.convert.parity import Parity
from graphopt.errors import GraphoptError
from graphopt.model import load
from graphopt.model.atomic import one_line_errors
from graphopt.runtime.difference import Tolerance

TARGETS = {
    "torch": "graphopt.convert.export.torch",
    "tensorflow": "graphopt.convert.export.tensorflow",
    "tflite": "graphopt.convert.export.tflite",
    "openvino": "graphopt.convert.export.openvino",
}
"""Modules by the name that `--to` takes. Each one is a `_Target`."""

_LOADED = (".xml", ".pt2", ".tflite", ".pb")
"""Ends of the names of files that say where the others are."""


class _Target(Protocol):
    NOTES: tuple[str, ...]
    """What the user should know of all that is exported so."""

    BATCHES: tuple[int, ...]
    """The batch sizes to compare at; the first is that of the example."""

    def write(self, order: Order) -> Written:
        """Write files into the folder, and read them again."""
        ...


@dataclass(frozen=True)
class Export:
    """What an export wrote, and its proof.

    Args:
        files: The files, the one to load first.
        parity: What was compared with ONNX Runtime.
        notes: What the user should know, one line each.
    """

    files: tuple[Path, ...]
    parity: tuple[Parity, ...]
    notes: tuple[str, ...] = ()


def export(
    source: str,
    folder: Path,
    target: str,
    *,
    data: str | None = None,
    tolerance: Tolerance | None = None,
) -> Export:
    """Write a model in the format of another runtime, and compare both.

    Files are written beside the folder and moved into it once they are proved. Other files of the
    folder stay.

    Args:
        source: The ONNX file.
        folder: Where to write; made where it is not there.
        target: A key of `TARGETS`.
        data: Inputs to compare on: what `open_feeds` reads; None: made-up ones.
        tolerance: What the outputs may differ by; None: what float reassociation explains.

    Raises:
        GraphoptError: There is no such target, its library is missing or does not take the model.
        CheckFailed: The exported model computes something else than ONNX Runtime.
    """
    if target not in TARGETS:
        raise GraphoptError(
            f"no target is called {target!r}", fix=f"choose from {', '.join(TARGETS)}"
        )
    _check_folder(folder)
    model = load(source)
    writer = cast("_Target", importlib.import_module(TARGETS[target]))
    parent = folder.absolute().parent
    with (
        _naming(source),
        one_line_errors(folder),
        tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=parent) as staged,
    ):
        feeds = feeds_of(model, data)
        example = next(feeds.batches(writer.BATCHES[0]))
        written = writer.write(Order(model, Path(source), Path(staged), Path(source).stem, example))
        parity, notes = check_exported(model, written.run, feeds, tolerance, writer.BATCHES)
        files = _published(Path(staged), folder)
        return Export(files, parity, (*writer.NOTES, *written.notes, *notes))


@contextlib.contextmanager
def _naming(source: str) -> Iterator[None]:
    """Let errors name the file that is exported."""
    try:
        yield
    except GraphoptError as error:
        if error.file is not None:
            raise
        raise type(error)(error.cause, file=source, fix=error.fix) from error


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise GraphoptError("is no directory", file=folder, fix="name one with -o")
    if not folder.absolute().parent.is_dir():
        raise GraphoptError(
            "the folder that it is to be in does not exist", file=folder, fix="create it first"
        )


def _published(staged: Path, folder: Path) -> tuple[Path, ...]:
    """Move files to where they belong; the one to load comes last, when its data are there."""
    inner = [path.relative_to(staged) for path in staged.rglob("*") if path.is_file()]
    for path in inner:
        if (folder / path).is_dir():
            raise GraphoptError("is a folder", file=folder / path, fix="name another one with -o")
    files = sorted(inner, key=lambda path: (path.suffix in _LOADED, path.as_posix()))
    for path in files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(staged / path, folder / path)
    return tuple(folder / path for path in reversed(files))
