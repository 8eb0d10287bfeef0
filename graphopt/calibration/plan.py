"""How values are watched: in which form each is returned, and how many samples a run has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.calibration.statistics import ExtentStatistic, Statistic
from graphopt.calibration.tap_session import TapSession
from graphopt.calibration.taps import Form, Places
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Batch, Feeds

_MOST = 64
_ENOUGH = 16 << 20
"""Bytes of values per run: more cost memory, and gain no time."""

Watch = Mapping[str, Sequence[Statistic]]


@dataclass(frozen=True)
class Plan:
    """What a collection does.

    Args:
        places: The model.
        watch: Statistics by address.
        feeds: The samples, fitted to the model.
        providers: Execution providers.
        memory: Bytes that one run may return.
        at_once: Batches in flight, whose outputs share what may be held: 2 where one is run while
            statistics see the one before.
        count: The number of samples.
        batch: Samples per run.
        forms: How each value that is computed is returned, by address.
        sizes: What it then takes in a run, in bytes; 0 for inputs.
        whole_sizes: What it takes in full.
        missing: Why others are not watched.
        bytes_computed: The bytes of all values on all samples.
    """

    places: Places
    watch: Watch
    feeds: Feeds
    providers: tuple[str, ...]
    memory: int
    at_once: int
    count: int
    batch: int
    forms: Mapping[str, Form]
    sizes: Mapping[str, int]
    whole_sizes: Mapping[str, int]
    missing: Mapping[str, str]
    bytes_computed: int

    @classmethod
    def of(
        cls,
        model: ir.Model,
        watch: Watch,
        feeds: Feeds,
        providers: tuple[str, ...],
        memory: int,
        batch: int | None,
    ) -> Plan:
        """Make a plan; the first sample tells how large values are.

        Two batches are in flight where they fit: where not, as many values as fit are better
        returned by one run than by two, each of which computes the model from its inputs on.

        Args:
            model: Stays as it is.
            watch: Statistics by address.
            feeds: The samples, fitted to the model.
            providers: Execution providers.
            memory: Bytes of values that may be held at once.
            batch: Samples per run; None: as many as the memory allows.
        """
        places = Places(model)
        fed, inner, missing = _sorted(places, watch, feeds)
        measured, unmeasured = _measured(places, inner, feeds, providers)
        missing.update(unmeasured)
        inner = [name for name in inner if name not in missing]
        whole = sum(measured.values())
        half = memory // 2
        runs = feeds.layout.batch or batch or most_samples(whole, half)
        reduce = whole * runs > half
        forms = {name: _form(places, name, watch[name], reduce=reduce) for name in inner}
        whole_sizes = {name: measured[name] * runs for name in inner}
        sizes = dict.fromkeys(fed, 0)
        for name in inner:
            sizes[name] = 0 if forms[name] is Form.EXTENT else whole_sizes[name]
        at_once = 2 if sum(sizes.values()) <= half else 1
        return cls(
            places,
            watch,
            feeds,
            providers,
            memory // at_once,
            at_once,
            feeds.count,
            runs,
            forms,
            sizes,
            whole_sizes,
            missing,
            whole * feeds.count,
        )

    def samples(self, batch: Batch) -> int:
        """The number of samples in a batch."""
        return _samples(self.feeds, batch)


def most_samples(size: int, memory: int) -> int:
    """Return how many samples to run at once: a power of two up to 64.

    Args:
        size: The bytes of all values for one sample.
        memory: Bytes that one run may return.
    """
    room = max(1, min(_MOST, min(_ENOUGH, memory) // max(1, size)))
    return 1 << (room.bit_length() - 1)


def _sorted(
    places: Places, watch: Watch, feeds: Feeds
) -> tuple[list[str], list[str], dict[str, str]]:
    """Part inputs from what nodes compute, and from what cannot be watched."""
    inputs = {value.name for value in places.model.graph.inputs}
    fed: list[str] = []
    inner: list[str] = []
    missing: dict[str, str] = {}
    for name in watch:
        if name not in places.values:
            raise GraphoptError(
                f"the model computes no value {name!r}", fix="name it as graphopt inspect does"
            )
        why = places.objection(name)
        if why is not None:
            missing[name] = why
        elif name in feeds.arrays:
            fed.append(name)
        elif name in inputs:
            missing[name] = "it is not fed"
        else:
            inner.append(name)
    return fed, inner, missing


def _form(places: Places, name: str, watching: Sequence[Statistic], *, reduce: bool) -> Form:
    if any(one.needs_shape for one in watching):
        return Form.ARRAYS
    extents = all(isinstance(one, ExtentStatistic) for one in watching)
    return Form.EXTENT if reduce and extents and places.reduces(name) else Form.NUMBERS


def _measured(
    places: Places, names: Sequence[str], feeds: Feeds, providers: tuple[str, ...]
) -> tuple[dict[str, int], dict[str, str]]:
    """Return the bytes of each value for one sample; dynamic shapes are those of the first one.

    What the shapes of that sample do not tell, a run does.
    """
    samples = next(feeds.batches(1))
    count = _samples(feeds, samples)
    sizes = {name: size for name in names if (size := places.size(name, count)) is not None}
    unknown = [name for name in names if name not in sizes]
    if unknown:
        sizes.update(places.sizes_on(samples, unknown, count))
        unknown = [name for name in unknown if name not in sizes]
    if not unknown:
        return sizes, {}
    session = TapSession(places, dict.fromkeys(unknown, Form.SHAPE), providers, sum(sizes.values()))
    taps, outputs = session.run(samples)
    for name, tap in taps.items():
        dtype = places.dtype(name) or ir.DataType.FLOAT
        sizes[name] = -(-int(tap.size(outputs) * dtype.itemsize) // count)
    return sizes, session.missing


def _samples(feeds: Feeds, batch: Batch) -> int:
    return 1 if feeds.layout.stacked else feeds.layout.samples(batch, feeds.source)
