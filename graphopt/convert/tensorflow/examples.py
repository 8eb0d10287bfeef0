"""Example inputs for TensorFlow: the user's, the source's, or made-up ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt.convert.contract import Options
from graphopt.convert.parity import Reference
from graphopt.convert.tensorflow.network import Input, Network
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Array, open_feeds
from graphopt.runtime.synthetic import synthetic_feeds

SAMPLES = 2


def given_examples(network: Network, options: Options) -> list[Array] | None:
    """Read `--data`, or take the examples of the source; None: there are none.

    Raises:
        GraphoptError: They do not fit the inputs.
    """
    if options.data is None:
        return None if network.examples is None else list(network.examples)
    return read_examples(options.data, network.inputs)


def read_examples(data: str, inputs: Sequence[Input]) -> list[Array]:
    """Read one array per input of `--data`, and check types and dimensions.

    Raises:
        GraphoptError: One is missing, superfluous, or of another type or rank.
    """
    batch = next(open_feeds(data).batches(SAMPLES))
    names = [item.name for item in inputs]
    if unknown := sorted(batch.keys() - set(names)):
        raise GraphoptError(
            f"has {', '.join(unknown)}; the model's inputs are {', '.join(names)}", file=data
        )
    if missing := [name for name in names if name not in batch]:
        raise GraphoptError(f"lacks the input {missing[0]}", file=data)
    for item in inputs:
        _check(item, batch[item.name], data)
    return [batch[name] for name in names]


def made_up_examples(model: ir.Model, source: str) -> list[Array]:
    """Make seeded inputs that the exported model accepts, in the order of its inputs.

    Raises:
        GraphoptError: None were found.
    """
    try:
        feeds = synthetic_feeds(model, samples=SAMPLES).for_model(model)
        batch = next(feeds.batches(SAMPLES))
    except GraphoptError as error:
        raise GraphoptError(
            f"no example inputs can be made up: {error.cause}",
            file=source,
            fix="give them with --data NPZ, one array per input",
        ) from error
    return [batch[value.name or ""] for value in model.graph.inputs]


def with_negatives(model: ir.Model, examples: Sequence[Array], reference: Reference) -> list[Array]:
    """Make every other integer of made-up inputs negative, where the source takes that.

    An index below 0 is no class, an error or counted from the end: frameworks differ there. It is
    -1 - x in the place of x, which stays within what is counted from the end.

    Args:
        model: Whose inputs they are.
        examples: One array per input.
        reference: The source.
    """
    names = [value.name or "" for value in model.graph.inputs]
    found = dict(zip(names, examples, strict=True))
    for name, array in list(found.items()):
        if array.dtype.kind != "i" or array.size < 2 or array.min() < 0 or "mask" in name.lower():
            continue
        changed = array.copy()
        changed.flat[1::2] = -1 - changed.flat[1::2]
        try:
            outputs = reference({**found, name: changed})
        except GraphoptError:
            continue
        if all(np.isfinite(output).all() for output in outputs if output.dtype.kind == "f"):
            found[name] = changed
    return list(found.values())


def _check(item: Input, array: Array, data: str) -> None:
    text = item.dtype.name == "string"
    fits = array.dtype.kind in "OSUT" if text else array.dtype == item.dtype.as_numpy_dtype
    if not fits:
        raise GraphoptError(
            f"{item.name} is {array.dtype}, the model takes {item.dtype.name}", file=data
        )
    if item.shape is None:
        return
    shape = tuple(item.shape)
    if len(shape) != array.ndim or any(
        size is not None and not item.free and axis > 0 and size != array.shape[axis]
        for axis, size in enumerate(shape)
    ):
        wanted = ", ".join("?" if size is None else str(size) for size in shape)
        raise GraphoptError(
            f"{item.name} has the shape {list(array.shape)}, the model takes [{wanted}]", file=data
        )
