"""Showing the values of a model to statistics, in few runs and bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from graphopt.calibration.observe import runs
from graphopt.calibration.statistics import NotANumberError, Statistic
from graphopt.errors import GraphoptError
from graphopt.model.scopes import scopes
from graphopt.rewrite.shapes import Shapes
from graphopt.runtime.feeds import Feeds
from graphopt.runtime.session import Session

_BATCH = 8

Progress = Callable[[str, int, int | None], None]


def collect(
    model: ir.Model,
    watch: Mapping[str, Sequence[Statistic]],
    feeds: Feeds,
    *,
    providers: Sequence[str] = ("cpu",),
    memory: int = 256 << 20,
    batch: int | None = None,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> dict[str, str]:
    """Show values of a model to statistics, over all samples.

    Args:
        model: Stays as it is.
        watch: Statistics by the address of the value they watch (`Scope.at`). They are updated in
            place.
        feeds: The samples.
        providers: Execution providers, the preferred one first.
        memory: Bytes of activations that one run may return.
        batch: Samples per run; None: as many as memory allows, at most 8.
        progress: Told how many samples were run, see `Context.progress`.
        cache: The folder where statistics are kept between processes; None: nowhere.

    Returns:
        Why a value could not be watched, by its address; empty where all were.

    Raises:
        GraphoptError: An activation is NaN; there is no such value.
    """
    del cache
    feeds = feeds.for_model(model)
    fed = {value.name for value in model.graph.inputs}
    values = {value.name: value for node in model.graph for value in node.outputs if value.name}
    missing: dict[str, str] = {}
    known = {
        scope.at(value.name)
        for scope in scopes(model)
        for value in [*scope.graph.inputs, *(v for node in scope.graph for v in node.outputs)]
    }
    for name in watch:
        if name in fed or name in values:
            continue
        if name not in known:
            raise GraphoptError(f"the model has no value {name!r}")
        missing[name] = "inside a body or function"
    sizes = {name: _size(model, values[name], _BATCH) for name in watch if name in values}
    groups = list(runs(sizes, memory)) or [()]
    inputs = tuple(name for name in watch if name in fed)
    total = feeds.count * len(groups)
    done = 0
    for position, names in enumerate(groups):
        if not names and not inputs:
            break
        outputs = {value.name for value in model.graph.outputs}
        session = Session(model, providers, expose=[name for name in names if name not in outputs])
        watching = (*names, *inputs) if position == 0 else names
        for samples in feeds.batches(batch or _BATCH):
            found = {**samples, **session.run(samples)}
            for name in watching:
                for statistic in watch[name]:
                    try:
                        statistic.update(found[name])
                    except NotANumberError:
                        raise GraphoptError(f"{name!r} is NaN", file=feeds.source) from None
            done += batch or _BATCH
            if progress is not None:
                progress("calibration", min(done, total), total)
    return missing


def _size(model: ir.Model, value: ir.Value, batch: int) -> int | None:
    shapes = Shapes.of(model)
    shape, dtype = shapes.shape(value), shapes.dtype(value)
    if shape is None or dtype is None:
        return None
    elements = math.prod(size if isinstance(size, int) else batch for size in shape)
    return math.ceil(elements * dtype.itemsize)
