"""Whether ONNX Runtime computes what the source framework computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.errors import CheckFailed, GraphoptError
from graphopt.runtime.difference import Difference, Tolerance
from graphopt.runtime.feeds import Array, Batch
from graphopt.runtime.session import Session

Reference = Callable[[Batch], Sequence[Array]]
"""The source framework: inputs by name to outputs in order. Raises GraphoptError where it fails."""


REFUSED = "not compared at "
"""How the note on sizes starts that the source itself refuses."""


@dataclass(frozen=True)
class Parity:
    """The error of one output at one set of input sizes.

    Args:
        sizes: Sizes of the dynamic dimensions, by name.
        output: The output.
        max_abs: Largest absolute difference.
        bound: What it is held against: `Difference.allowed`.
    """

    sizes: Mapping[str, int]
    output: str
    max_abs: float
    bound: float


def check_parity(
    model: ir.Model,
    examples: Batch,
    reference: Reference,
    *,
    ranges: Mapping[str, tuple[int, int]],
    tolerances: Mapping[str, Tolerance] | None = None,
) -> tuple[tuple[Parity, ...], tuple[str, ...]]:
    """Run both on the example inputs, at the example's sizes and at others.

    Each dynamic dimension is also tried at 1 and at one more than the example's, all of them
    together, within its range; two that are equal in the example are tried apart. Samples are
    repeated or cut to reach a size.

    Args:
        model: The converted model.
        examples: One array per input.
        reference: The source framework.
        ranges: The sizes that each dynamic dimension may take, both included.
        tolerances: What outputs may differ by, by name, `*` for all others; where there is none,
            what float reassociation explains.

    Returns:
        What was compared, and a note for each set of sizes that the source itself refuses, and
        for each output without a finite number.

    Raises:
        CheckFailed: An output differs in values, dtype, shape, or their number.
        GraphoptError: The source does not run on its own example inputs.
    """
    session = Session(model, title="the converted model")
    tolerances = tolerances or {}
    found: list[Parity] = []
    notes: list[str] = []
    measured: Counter[str] = Counter()
    for sizes in _sizes(model, examples, ranges):
        feeds = _resized(model, examples, sizes)
        try:
            expected = reference(feeds)
        except GraphoptError as error:
            if not found:
                raise
            notes.append(f"{REFUSED}{listed(sizes)}, which the source refuses: {error}")
            continue
        actual = session.run(feeds)
        if len(actual) != len(expected):
            raise CheckFailed(
                f"the converted model has {len(actual)} outputs, the source has {len(expected)}"
            )
        for (name, array), wanted in zip(actual.items(), expected, strict=True):
            difference = Difference(tolerances.get(name, tolerances.get("*")))
            found.append(_compared(name, wanted, array, sizes, difference))
            measured[name] += difference.measured
    notes += [
        f"output {name} is not proven: it holds no finite number on the inputs that were compared"
        for name, count in measured.items()
        if not count
    ]
    return tuple(found), tuple(notes)


def _sizes(
    model: ir.Model, examples: Batch, ranges: Mapping[str, tuple[int, int]]
) -> Iterator[dict[str, int]]:
    example = {
        dim.value: examples[name].shape[axis] for name, axis, dim in _dynamic(model) if dim.value
    }
    yield example
    # A dimension like `2*batch` cannot be resized by itself.
    if not all(name.isidentifier() for name in example):
        return
    seen = [example]
    for change in (lambda size: size + 1, lambda _: 1):
        sizes: dict[str, int] = {}
        for name, size in example.items():
            lowest, highest = ranges.get(name, (1, size + len(example)))
            wanted = change(size)
            while 1 < wanted < highest and wanted in sizes.values():
                wanted += 1
            sizes[name] = min(max(wanted, lowest, 1), highest)
        if sizes not in seen:
            seen.append(sizes)
            yield sizes


def _dynamic(model: ir.Model) -> Iterator[tuple[str, int, ir.SymbolicDim]]:
    for value in model.graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            if isinstance(dim, ir.SymbolicDim) and value.name is not None:
                yield value.name, axis, dim


def _resized(model: ir.Model, examples: Batch, sizes: Mapping[str, int]) -> Batch:
    arrays = dict(examples)
    for name, axis, dim in _dynamic(model):
        array = arrays[name]
        wanted = sizes.get(dim.value or "", array.shape[axis])
        if wanted != array.shape[axis]:
            arrays[name] = np.take(array, np.arange(wanted) % array.shape[axis], axis=axis)
    return arrays


def _compared(
    name: str,
    wanted: Array,
    actual: Array,
    sizes: Mapping[str, int],
    difference: Difference,
) -> Parity:
    where = f"output {name} at {listed(sizes)}" if sizes else f"output {name}"
    if wanted.dtype != actual.dtype or wanted.shape != actual.shape:
        raise CheckFailed(
            f"{where} is {actual.dtype}{list(actual.shape)} on ONNX Runtime"
            f" and {wanted.dtype}{list(wanted.shape)} in the source framework",
            fix="nothing was written; convert with fixed sizes if the source cannot vary",
        )
    difference.add(wanted, actual)
    parity = Parity(dict(sizes), name, difference.max_abs, difference.allowed)
    return checked(f"{where} differs from the source framework", parity, difference)


def checked(differs: str, parity: Parity, difference: Difference) -> Parity:
    """Return what was compared.

    Args:
        differs: What to say where it differs.
        parity: What was compared.
        difference: Decides.

    Raises:
        CheckFailed: It differs by more than is allowed.
    """
    if not difference.accepted:
        far = parity.max_abs > parity.bound
        # What is relative to each element can miss without a difference that is large as such.
        much = f"more than {parity.bound:.3g}" if far else f"{difference.outside} elements too much"
        raise CheckFailed(
            f"{differs} by {parity.max_abs:.3g}, {much}",
            fix="nothing was written; allow it with --rtol and --atol if it is expected",
        )
    return parity


def listed(sizes: Mapping[str, int]) -> str:
    """Spell out sizes of dimensions."""
    return ", ".join(f"{name}={size}" for name, size in sizes.items())
