"""Folders from which `graphopt run` replays a failure: model, pass, data and seed."""

from __future__ import annotations

import json
import shlex
import tempfile
import traceback
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model import save
from graphopt.pipeline.contract import Pass
from graphopt.pipeline.instrument import Step
from graphopt.pipeline.syntax import unparse
from graphopt.runtime.feeds import Feeds

_MODEL = "model.onnx"
_SETTINGS = "reproducer.json"
_FEEDS = "feeds"


@dataclass(frozen=True)
class Reproducer:
    """What a reproducer folder holds.

    Args:
        model: The model before the pass that failed.
        pipeline: That pass alone.
        feeds: A folder of npz files; None where the run had no data.
        seed: The seed of the run.
        providers: The execution providers of the run.
    """

    model: Path
    pipeline: str
    feeds: Path | None
    seed: int
    providers: tuple[str, ...]


def write_reproducer(root: Path, step: Step, error: BaseException) -> Path:
    """Write a folder that replays one pass on the model as it was before that pass.

    Args:
        root: Where the folder is made; made itself where it is not there.
        step: The pass that failed.
        error: How it failed.

    Raises:
        OSError, GraphoptError: It cannot be written.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"graphopt-{step.work.name}-", dir=root))
    save(step.before, folder / _MODEL)
    settings = {
        "pipeline": unparse([step.work]),
        "seed": step.context.seed,
        "providers": list(step.context.providers),
    }
    (folder / _SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    if step.context.feeds is not None:
        _write_feeds(step.context.feeds, step.before, folder / _FEEDS)
    trace = "".join(traceback.format_exception(error))
    (folder / "traceback.txt").write_text(trace, encoding="utf-8")
    (folder / "README").write_text(_readme(folder, step), encoding="utf-8")
    return folder


def read_reproducer(folder: str | PathLike[str]) -> Reproducer:
    """Read what `write_reproducer` wrote.

    Raises:
        GraphoptError: The folder is no reproducer.
    """
    folder = Path(folder)
    try:
        settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        feeds = folder / _FEEDS
        return Reproducer(
            model=folder / _MODEL,
            pipeline=_text(settings["pipeline"]),
            feeds=feeds if feeds.is_dir() else None,
            seed=int(settings["seed"]),
            providers=tuple(map(_text, settings["providers"])),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise GraphoptError(
            f"is a folder and no reproducer ({type(error).__name__}: {error})",
            file=folder,
            fix="give a model file, or a folder that a failed run wrote",
        ) from None


def replay_command(folder: Path, work: Pass) -> str:
    """Return the command that replays a folder."""
    command = ["graphopt", "run", str(folder)]
    for code in code_of(work):
        command += ["--pass", code]
    return shlex.join(command)


def code_of(work: Pass) -> tuple[str, ...]:
    """Return the code that a pass imports, as `module:function`."""
    values = (getattr(work, parameter) for parameter in work.imports)
    return tuple(value for value in values if isinstance(value, str))


def _readme(folder: Path, step: Step) -> str:
    return (
        f"The pass {step.text} failed on {_MODEL}; traceback.txt says how.\n"
        f"See it again: {replay_command(folder, step.work)}\n"
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _write_feeds(feeds: Feeds, model: ir.Model, folder: Path) -> None:
    folder.mkdir()
    done = 0
    for number, part in enumerate([feeds.arrays] if feeds.parts is None else feeds.parts()):
        count = feeds.layout.samples(part, feeds.source)
        if feeds.limit is not None:
            count = min(count, feeds.limit - done)
        arrays: dict[str, Any] = feeds.converted(feeds.layout.cut(part, 0, count), model)
        if feeds.labels is not None:
            arrays["labels"] = feeds.labels[done : done + count]
        np.savez(folder / f"{number:06}.npz", **{k: _plain(v) for k, v in arrays.items()})
        done += count
        if done == feeds.limit:
            return


def _plain(array: Any) -> Any:
    # Strings held as objects would be pickled.
    return np.asarray(array, dtype=np.str_) if np.asarray(array).dtype.hasobject else array
