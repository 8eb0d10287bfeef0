"""The targets there are, those there are not and why, and what an export is held against."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import onnx_ir as ir

from graphopt.convert.export.contract import Run
from graphopt.convert.export.proof import check_exported
from graphopt.convert.parity import Parity
from graphopt.errors import GraphoptError
from graphopt.model import load
from graphopt.model.atomic import one_line_errors
from graphopt.runtime.difference import Tolerance

TARGETS = {"openvino": "graphopt.convert.export.openvino"}
"""Modules by the name that `--to` takes. Each one is a `_Target`."""

ABSENT = {
    "torch": "it comes with training, which holds a graph as a torch module",
    "tensorflow": "onnx2tf, the one converter still kept, pins TensorFlow 2.19, numpy 1 and onnx"
    " 1.19, and does not install beside what graphopt needs",
    "tflite": "onnx2tf, the one converter still kept, pins TensorFlow 2.19, numpy 1 and onnx 1.19,"
    " and does not install beside what graphopt needs",
}
"""Targets that people ask for, and why they are not there."""


class _Target(Protocol):
    NOTES: tuple[str, ...]
    """What the user should know of all that is exported so."""

    def write(self, model: ir.Model, source: Path, folder: Path, name: str) -> Run:
        """Write files into an empty folder, read them again, and return what runs them."""
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
    if target in ABSENT:
        raise GraphoptError(
            f"there is no export to {target}: {ABSENT[target]}",
            fix=f"choose from {', '.join(TARGETS)}",
        )
    if target not in TARGETS:
        raise GraphoptError(
            f"no target is called {target!r}", fix=f"choose from {', '.join(TARGETS)}"
        )
    _check_folder(folder)
    model = load(source)
    writer = cast("_Target", importlib.import_module(TARGETS[target]))
    parent = folder.absolute().parent
    with (
        one_line_errors(folder),
        tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=parent) as staged,
    ):
        run = writer.write(model, Path(source), Path(staged), Path(source).stem)
        parity, notes = check_exported(model, run, data=data, tolerance=tolerance)
        return Export(_published(Path(staged), folder), parity, (*writer.NOTES, *notes))


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise GraphoptError("is no directory", file=folder, fix="name one with -o")
    if not folder.absolute().parent.is_dir():
        raise GraphoptError(
            "the folder that it is to be in does not exist", file=folder, fix="create it first"
        )


def _published(staged: Path, folder: Path) -> tuple[Path, ...]:
    """Move files to where they belong; the one to load comes last, when its data are there."""
    folder.mkdir(exist_ok=True)
    order: Mapping[str, int] = {".bin": 0, ".xml": 1}
    files = sorted(staged.iterdir(), key=lambda path: (order.get(path.suffix, 0), path.name))
    for path in files:
        shutil.move(path, folder / path.name)
    return tuple(folder / path.name for path in reversed(files))
