"""The calls that passes make: statistics and ranges of values on the data of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import onnx_ir as ir

from graphopt.calibration.collect import Progress, collect
from graphopt.calibration.identity import model_digest
from graphopt.calibration.rules import Range, Rule
from graphopt.calibration.statistics import Statistic
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Feeds

_KEY = "calibration"


class Run(Protocol):
    """What of a pipeline's context is needed; see `graphopt.pipeline.contract.Context`."""

    @property
    def feeds(self) -> Feeds | None:
        """The samples."""

    @property
    def providers(self) -> tuple[str, ...]:
        """Execution providers."""

    @property
    def progress(self) -> Progress:
        """Told how far a phase is."""

    @property
    def cache(self) -> MutableMapping[str, object]:
        """What is kept within a run."""

    @property
    def calibration_memory(self) -> int:
        """Bytes of activations that one run may return."""

    @property
    def calibration_cache(self) -> Path | None:
        """The folder where statistics are kept between runs."""


@dataclass(frozen=True)
class Seen:
    """Statistics of values, and why others have none.

    Args:
        found: By address, in the order asked for.
        missing: The reasons, by address.
    """

    found: Mapping[str, tuple[Statistic, ...]]
    missing: Mapping[str, str] = field(default_factory=dict)


class Ranges(dict[str, Range]):
    """Ranges (low, high) by the address of a value, and why others have none.

    Attributes:
        missing: The reasons, by address.
    """

    def __init__(self, ranges: Mapping[str, Range], missing: Mapping[str, str]) -> None:
        super().__init__(ranges)
        self.missing = dict(missing)


@dataclass
class _Known:
    """What was collected on one model and one set of samples.

    The samples are held, so that no others can be taken for them.
    """

    feeds: Feeds
    statistics: dict[tuple[str, str], Statistic] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def statistics(
    model: ir.Model, wanted: Mapping[str, Sequence[Callable[[], Statistic]]], context: Run
) -> Seen:
    """Return statistics of values over all samples of a run.

    What was collected on the same model and samples is not collected again within a run.

    Args:
        model: Stays as it is.
        wanted: What makes the statistics, by the address of the value they watch (`Scope.at`).
        context: The run.

    Raises:
        GraphoptError: There are no samples, there is no such value, or an activation is NaN.
    """
    if context.feeds is None:
        raise GraphoptError("calibration needs data", fix="give samples with --data")
    known = _known(model, context.feeds, context)
    fresh = {name: [make() for make in makers] for name, makers in wanted.items()}
    watch: dict[str, list[Statistic]] = {}
    for name, watching in fresh.items():
        lacking = [one for one in watching if (name, repr(one)) not in known.statistics]
        if lacking and name not in known.missing:
            watch[name] = list({repr(one): one for one in lacking}.values())
    if watch:
        named = {(name, repr(one)): one for name, many in watch.items() for one in many}
        missing = collect(
            model,
            watch,
            context.feeds,
            providers=context.providers,
            memory=context.calibration_memory,
            progress=context.progress,
            cache=context.calibration_cache,
        )
        known.missing.update(missing)
        known.statistics.update({key: one for key, one in named.items() if key[0] not in missing})
    found = {
        name: tuple(known.statistics[name, repr(one)] for one in watching)
        for name, watching in fresh.items()
        if name not in known.missing
    }
    return Seen(found, {name: known.missing[name] for name in fresh if name in known.missing})


def ranges(
    model: ir.Model,
    names: Iterable[str],
    context: Run,
    rule: Rule | None = None,
    dtype: ir.DataType = ir.DataType.UINT8,
    symmetric: bool = False,
) -> Ranges:
    """Return the ranges to quantize values in, on the samples of a run.

    Args:
        model: Stays as it is.
        names: Addresses of values (`Scope.at`): inputs, and what nodes compute, in any scope.
        context: The run.
        rule: How a range is chosen; None: minmax.
        dtype: What values are to be stored in.
        symmetric: Whether 0 is to be stored as the middle of the type.

    Returns:
        Finite ranges that include 0, in the order of `names`. A value that has none stands in
        `missing`: it cannot be watched, never came, or holds nothing but sentinels.

    Raises:
        GraphoptError: As `statistics` does.
    """
    rule = rule or Rule()
    asked = list(dict.fromkeys(names))
    watched = [name for name in asked if name not in rule.given]
    seen = Seen({})
    if watched:
        seen = statistics(model, {name: [rule.statistic] for name in watched}, context)
    found: dict[str, Range] = {}
    missing = dict(seen.missing)
    for name in asked:
        if name in rule.given:
            low, high = rule.given[name]
            found[name] = (min(low, 0.0), max(high, 0.0))
        elif name in seen.found:
            (statistic,) = seen.found[name]
            ends = rule.range(statistic, dtype, symmetric=symmetric)
            if ends is None:
                missing[name] = "on the data it holds no numbers, or masks only"
            else:
                found[name] = ends
    return Ranges(found, missing)


def _known(model: ir.Model, feeds: Feeds, context: Run) -> _Known:
    key = f"{_KEY} {id(feeds)} {model_digest(model)}"
    known = context.cache.get(key)
    if not isinstance(known, _Known) or known.feeds is not feeds:
        known = context.cache[key] = _Known(feeds)
    return known
