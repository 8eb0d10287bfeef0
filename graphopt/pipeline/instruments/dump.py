"""Instrument: keep the model after each pass, as a file."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model import save
from graphopt.pipeline.contract import Context
from graphopt.pipeline.instrument import Instrument, Step


class Dump(Instrument):
    """Saves `00-source.onnx`, `01-<pass>.onnx`, ... into a folder, counting on from run to run.

    Args:
        folder: Made where it is not there; files of the same names are replaced.
    """

    name: ClassVar[str] = "dump"

    def __init__(self, folder: str | PathLike[str]) -> None:
        self._folder = Path(folder)
        self._count = 0

    def start(self, model: ir.Model, context: Context) -> None:
        """Save the model that came in.

        Raises:
            GraphoptError: The folder cannot be written to.
        """
        del context
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GraphoptError(f"cannot be made: {error.strerror}", file=self._folder) from error
        if self._count == 0:
            save(model, self._folder / "00-source.onnx")

    def after(self, step: Step) -> None:
        """Save the model that the pass left.

        Raises:
            GraphoptError: It cannot be written.
        """
        self._count += 1
        name = re.sub(r"[^\w.-]", "_", step.work.name)
        save(step.after, self._folder / f"{self._count:02}-{name}.onnx")
