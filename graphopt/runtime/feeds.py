"""Input arrays by name, streamed in batches."""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.callables import import_callable, is_callable_spec, prints_to_stderr
from graphopt.errors import GraphoptError
from graphopt.runtime.layout import FLOATS, Input, Layout, fit, inputs_of
from graphopt.runtime.npz import MAX_UNPACKED_BYTES, read_npz, readable

Array = npt.NDArray[np.generic]
Batch = dict[str, Array]
"""One array per model input, samples along axis 0."""

Parts = Callable[[], Iterator[Mapping[str, Array]]]

_LABELS = "labels"
_CHECKED_AT_ONCE = 1 << 24
_END = object()


@dataclass(frozen=True)
class Feeds:
    """Samples for a model, and optionally their labels. Can be iterated any number of times.

    Args:
        arrays: One array per model input, samples along axis 0 (exceptions: `layout.Layout`);
            memory-mapped where possible. Of data that comes in parts (a folder, a function), the
            first part only: use `batches` and `count`.
        labels: One entry per sample.
        source: What a message calls this data.
        parts: Called for each iteration over data that comes in parts: returns the parts, each
            like `arrays`.
        layout: Where the samples are; set by `for_model`.
        limit: Only so many samples, the first ones.
        fitted: The inputs that `for_model` has checked these feeds against.
        stored: The type that the samples have, by the name of an input that wants another one
            since a pass changed it; set by `following`.
    """

    arrays: Mapping[str, Array]
    labels: Array | None = None
    source: str = "data"
    parts: Parts | None = None
    layout: Layout = field(default_factory=Layout)
    limit: int | None = None
    fitted: tuple[Input, ...] | None = None
    stored: Mapping[str, np.dtype[Any]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """The number of samples."""
        total = sum(self.layout.samples(part, self.source) for part in self._parts())
        return total if self.limit is None else min(total, self.limit)

    def batches(self, size: int = 32) -> Iterator[Batch]:
        """Yield the samples in order, `size` at a time; a model's fixed batch overrides `size`.

        The last batch may be smaller; so may one before parts whose other sizes differ.
        """
        size = self.layout.batch or size
        if size < 1:
            raise GraphoptError(f"the batch size is {size}", fix="give at least 1")
        for batch in self._joined(size):
            yield self.layout.finish(batch)

    def take(self, samples: int) -> Feeds:
        """The first samples."""
        limit = samples if self.limit is None else min(samples, self.limit)
        labels = None if self.labels is None else self.labels[:limit]
        return dataclasses.replace(self, labels=labels, limit=limit)

    def for_model(self, model: ir.Model | Sequence[Input]) -> Feeds:
        """Check the samples against the inputs of a model, and lay them out for it.

        Raises:
            GraphoptError: What does not fit, in one line: a missing or superfluous input, another
                dtype or shape, values that are not finite, no samples, other numbers of samples
                or labels.
        """
        inputs = inputs_of(model) if isinstance(model, ir.Model) else tuple(model)
        if self.fitted == inputs:
            return self
        feeds = self._with_labels_as_input(inputs)
        layout = Layout()
        for position, part in enumerate(feeds._parts()):
            part_layout = fit(inputs, part, self.source, converted=self.stored.keys())
            if position and part_layout != layout:
                raise GraphoptError(
                    f"part {position + 1} is laid out differently from the ones before it",
                    file=self.source,
                    fix="store every part with the same names, dtypes and axes",
                )
            layout = part_layout
            for name, array in part.items():
                _check_finite(name, array, self.source)
                if name in self.stored and name in layout.dtypes:
                    _check_held(name, array, layout.dtypes[name], self.source)
        fitted = dataclasses.replace(feeds, layout=layout, fitted=inputs)
        fitted._check_counts()
        return fitted

    def without(self, names: Collection[str]) -> Feeds:
        """These samples without the arrays of some names."""
        if not any(name in names for name in self.arrays):
            return self

        def kept(arrays: Mapping[str, Array]) -> dict[str, Array]:
            return {name: array for name, array in arrays.items() if name not in names}

        parts = self.parts
        return dataclasses.replace(
            self,
            arrays=kept(self.arrays),
            parts=None if parts is None else lambda: map(kept, parts()),
            fitted=None,
        )

    def following(self, before: ir.Model, after: ir.Model) -> Feeds:
        """Feeds for a model and for what a pass made of it, inputs of another float type included.

        Where an input went from one floating-point type to another, samples of the former fit the
        latter, and are converted batch by batch. Feeds for both: `for_model` says which one.
        """
        wanted = {item.name: item.dtype for item in inputs_of(after)}
        changed = {
            item.name: np.dtype(item.dtype.numpy())
            for item in inputs_of(before)
            if item.dtype in FLOATS
            and wanted.get(item.name) in FLOATS
            and wanted[item.name] != item.dtype
        }
        if changed.keys() <= self.stored.keys():
            return self
        return dataclasses.replace(self, stored={**changed, **self.stored}, fitted=None)

    def converted(self, arrays: Mapping[str, Array], model: ir.Model) -> dict[str, Array]:
        """Arrays of these feeds as a model wants them stored, where a pass changed the type."""
        types = {item.name: item.dtype for item in inputs_of(model) if item.dtype in FLOATS}
        made = dict(self._named(arrays))
        for name in self.stored:
            if name in made and (wanted := types.get(name)) is not None:
                # What does not fit was refused, or the reader says so.
                with np.errstate(over="ignore"):
                    made[name] = made[name].astype(wanted.numpy())
        return made

    def _named(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """Give bytes without a name, which numpy reads where it wrote bfloat16, their type."""
        if not self.stored:
            return arrays
        return {
            name: array.view(self.stored[name])
            if name in self.stored and array.dtype.type is np.void
            else array
            for name, array in arrays.items()
        }

    def _with_labels_as_input(self, inputs: Sequence[Input]) -> Feeds:
        wanted = any(item.name == _LABELS for item in inputs)
        if not wanted or self.labels is None or _LABELS in self.arrays or self.parts:
            return self
        return dataclasses.replace(self, arrays={**self.arrays, _LABELS: self.labels})

    def _check_counts(self) -> None:
        count = self.count
        batch = self.layout.batch
        if batch and count % batch:
            raise GraphoptError(
                f"{count:,} samples do not fill runs of {batch}, the model's fixed batch size",
                file=self.source,
                fix=f"give a multiple of {batch}",
            )
        if self.labels is None:
            return
        if self.labels.ndim == 0 or len(self.labels) != count:
            labels = len(self.labels) if self.labels.ndim else 1
            raise GraphoptError(f"{count:,} samples have {labels:,} labels", file=self.source)
        _check_finite(_LABELS, self.labels, self.source)

    def _parts(self) -> Iterator[Mapping[str, Array]]:
        if self.parts is None:
            yield self._named(self.arrays)
        else:
            yield from map(self._named, self.parts())

    def _joined(self, size: int) -> Iterator[Batch]:
        pending: list[Batch] = []
        held = 0
        for part, count in self._limited():
            start = 0
            if pending and not self.layout.joinable(pending[0], part):
                yield self.layout.join(pending)
                pending, held = [], 0
            while start < count:
                stop = min(count, start + size - held)
                pending.append(self.layout.cut(part, start, stop))
                held += stop - start
                start = stop
                if held == size:
                    yield self.layout.join(pending)
                    pending, held = [], 0
        if pending:
            yield self.layout.join(pending)

    def _limited(self) -> Iterator[tuple[Mapping[str, Array], int]]:
        """The parts, each with the number of its samples that count."""
        left = self.limit
        for part in self._parts():
            count = self.layout.samples(part, self.source)
            if left is not None:
                count = min(count, left)
                left -= count
            yield part, count
            if left == 0:
                return


def open_feeds(
    spec: str, *, limit: int | None = None, max_unpacked: int = MAX_UNPACKED_BYTES
) -> Feeds:
    """Open `FILE.npz`, a folder of such files, or `module:function` yielding batches.

    A function takes no arguments, is looked for from the working directory too, and returns an
    iterable of dicts that ends: one array per input, and optionally `labels`. It is called once
    here, and again for every iteration, and must yield the same each time. Call `Feeds.for_model`
    before use: it knows which axis is which.

    Args:
        spec: What to open. An existing path wins over a function.
        limit: Only so many samples, the first ones; a function is asked for no more parts.
        max_unpacked: The most bytes that the compressed members of a file may take up in memory.

    Raises:
        GraphoptError: It cannot be read, is empty, or holds an object array.
    """
    feeds = _opened(spec, limit, max_unpacked)
    return feeds if limit is None else feeds.take(limit)


def _opened(spec: str, limit: int | None, max_unpacked: int) -> Feeds:
    path = Path(spec)
    if is_callable_spec(spec) and not path.exists():
        yielded = _Repeated(spec, import_callable(spec))
        return _in_parts(lambda: itertools.islice(yielded(), limit), spec)
    readable(path)
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise GraphoptError("this folder holds no .npz file", file=path)
        return _in_parts(
            lambda: (read_npz(file, max_unpacked=max_unpacked) for file in files), spec
        )
    if path.suffix == ".npy":
        raise GraphoptError(
            "is one array without a name",
            file=path,
            fix="write an .npz with one array per input: numpy.savez(file, input=array)",
        )
    arrays = dict(read_npz(path, max_unpacked=max_unpacked))
    labels = arrays.pop(_LABELS, None)
    if not arrays:
        raise GraphoptError("holds labels, but no inputs", file=path)
    return Feeds(arrays, labels=labels, source=spec)


def _in_parts(parts: Parts, source: str) -> Feeds:
    """Look through all parts once: they must be there, and their labels are kept."""
    first: Mapping[str, Array] | None = None
    labels: list[Array] = []
    number = 0
    for number, part in enumerate(parts(), 1):
        inputs = {name: array for name, array in part.items() if name != _LABELS}
        if first is None:
            first = inputs
        if not inputs or inputs.keys() != first.keys():
            raise GraphoptError(
                f"part {number} has the inputs {', '.join(inputs) or 'none'},"
                f" the first has {', '.join(first) or 'none'}",
                file=source,
            )
        if _LABELS in part:
            # A copy: a mapped view would keep every file open.
            labels.append(np.atleast_1d(np.array(part[_LABELS])))
    if first is None:
        raise GraphoptError("yields no data", file=source)
    if labels and len(labels) != number:
        raise GraphoptError(f"{number - len(labels)} of {number} parts have no labels", file=source)

    def without_labels() -> Iterator[Mapping[str, Array]]:
        for part in parts():
            yield {name: array for name, array in part.items() if name != _LABELS}

    joined = np.concatenate(labels) if labels else None
    return Feeds(first, labels=joined, source=source, parts=without_labels)


class _Repeated:
    """The parts that a function yields, called anew for each iteration.

    Labels come from the first one, so that other samples in a later one are refused.
    """

    def __init__(self, spec: str, load: Callable[[], Iterable[object]]) -> None:
        self._spec = spec
        self._load = load
        self._seen: list[int] = []

    def __call__(self) -> Iterator[Mapping[str, Array]]:
        for number, part in enumerate(_yielded(self._spec, self._load)):
            checksum = _checksum(part)
            if number == len(self._seen):
                self._seen.append(checksum)
            elif self._seen[number] != checksum:
                raise GraphoptError(
                    f"part {number + 1} holds other samples than when it was read before",
                    file=self._spec,
                    fix="let the function yield the same each time: seed what it draws",
                )
            yield part


def _checksum(part: Mapping[str, Array]) -> int:
    found = 0
    for name, array in part.items():
        found = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), found)
        if array.dtype.hasobject:
            found = zlib.crc32("\0".join(map(str, array.flat)).encode(), found)
        else:
            content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            found = zlib.crc32(content.data, found)
    return found


def _yielded(spec: str, load: Callable[[], Iterable[object]]) -> Iterator[Mapping[str, Array]]:
    try:
        with prints_to_stderr():
            items = iter(load())
        while True:
            with prints_to_stderr():
                item = next(items, _END)
            if item is _END:
                return
            if not isinstance(item, Mapping):
                raise GraphoptError(f"yields {type(item).__name__}, not dicts of arrays", file=spec)
            yield {str(name): _plain(str(name), value, spec) for name, value in item.items()}
    except GraphoptError:
        raise
    except Exception as error:
        raise GraphoptError(f"fails: {type(error).__name__}: {error}", file=spec) from error


def _plain(name: str, value: object, source: str) -> Array:
    array = np.asarray(value)
    if array.dtype.hasobject and not all(isinstance(item, str) for item in array.flat):
        raise GraphoptError(f"array {name!r} holds Python objects", file=source)
    return array


def _check_finite(name: str, array: Array, source: str) -> None:
    if array.dtype.kind not in "fc":
        return
    flat = array.reshape(-1) if array.flags.c_contiguous else array.ravel(order="K")
    for start in range(0, flat.size, _CHECKED_AT_ONCE):
        wrong = np.flatnonzero(~np.isfinite(flat[start : start + _CHECKED_AT_ONCE]))
        if wrong.size:
            value = flat[start + wrong[0]]
            raise GraphoptError(
                f"{name!r} holds values that are not finite (the first: {value})",
                file=source,
                fix="clean the data: errors against it would mean nothing",
            )


def _check_held(name: str, array: Array, dtype: np.dtype[Any], source: str) -> None:
    flat = array.reshape(-1) if array.flags.c_contiguous else array.ravel(order="K")
    for start in range(0, flat.size, _CHECKED_AT_ONCE):
        chunk = flat[start : start + _CHECKED_AT_ONCE]
        with np.errstate(over="ignore"):
            wrong = np.flatnonzero(~np.isfinite(chunk.astype(dtype)))
        if wrong.size:
            raise GraphoptError(
                f"{name!r} holds values that {dtype.name}, which the model's input has become,"
                f" cannot hold (the first: {chunk[wrong[0]]})",
                file=source,
                fix="keep the type of the input, or scale the data",
            )
