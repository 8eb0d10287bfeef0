"""One expression on variants of its input: test-time flips, and columns of features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from graphopt.ensembles.expression import Expression, Subset, Tta
from graphopt.ensembles.heads import head_inputs, only_input
from graphopt.ensembles.lower.arithmetic import averaged
from graphopt.ensembles.lower.writer import Writer, sizes
from graphopt.ensembles.ports import Port, port, shapes_fit
from graphopt.ensembles.wiring import Wired
from graphopt.errors import GraphoptError
from graphopt.model.declared_shapes import Dims

if TYPE_CHECKING:
    from graphopt.ensembles.lower.lowering import Bundle, Lowering, Site
    from graphopt.ensembles.lower.scope import Wire

_AXES = {"flip": (-1,), "vertical": (-2,), "both": (-2, -1)}
_CHANNELS_FIRST = ("batch", "channels", "height", "width")
_CHANNELS = (1, 3, 4)
_SCORES = 2
"""The rank of scores by class, which no flip moves."""
_LAST = np.iinfo(np.int64)


def lower_subset(lowering: Lowering, expression: Subset, site: Site) -> Bundle:
    """Feed some columns of an input by a Gather."""
    name, wired = _input(lowering, expression, site, rank=None)
    shape = wired.port.shape
    columns = expression.columns
    if shape is not None:
        _check_columns(shape, columns, lowering.title(expression))
        shape = (shape[0], len(columns), *shape[2:])
    writer = site.scope.writer
    value = writer.gather(site.read(wired), writer.integers(*columns), 1)
    fed = Wired(Port(name, wired.port.dtype, shape), site.scope.wire(value))
    return _with_input(lowering, expression.of, site, name, fed)


def lower_tta(lowering: Lowering, expression: Tta, site: Site) -> Bundle:
    """Average over an input as it is and flipped; what is as large as the input is flipped back."""
    name, wired = _input(lowering, expression, site, rank=4)
    shape, title = wired.port.shape, lowering.title(expression.of)
    if shape is not None and len(shape) < 2:
        raise GraphoptError(f"{lowering.title(expression)}: {port(wired.port)} is no image")
    if shape is not None and _has_channels_last(shape):
        raise GraphoptError(
            f"{lowering.title(expression)}: {port(wired.port)} looks like [batch, height, width, "
            "channels], and flips are those of [batch, channels, height, width]",
            fix="convert the network with --layout nchw, or begin the model with a Transpose",
        )
    writer = site.scope.writer
    image = site.read(wired)
    bundles = [lowering.evaluate(expression.of, site)]
    for flip in expression.flips:
        axes = _AXES[flip]
        for item in bundles[0]:
            if _is_left_turned(site.read(item), image, axes):
                lowering.note(
                    f"tta: {port(item.port)} of {title} is averaged as it is for {flip!r}: only "
                    "what is as large as the input is flipped back"
                )
        fed = Wired(wired.port, site.scope.wire(_reversed(writer, image, axes)))
        bundle = _with_input(lowering, expression.of, site, name, fed)
        bundles.append(tuple(Wired(item.port, _back(site, item, image, axes)) for item in bundle))
    return averaged(site, bundles, [title] * len(bundles), "tta")


def _input(
    lowering: Lowering, expression: Subset | Tta, site: Site, *, rank: int | None
) -> tuple[str, Wired[Wire]]:
    """Return the input that an expression varies, with what feeds it."""
    places = head_inputs(expression.of, lowering.inputs, expression.input, rank)
    found = [(name, lowering.input_wire(member, name, site)) for member, name in places]
    return only_input(found, lambda wire: wire.value, lowering.title(expression))


def _with_input(
    lowering: Lowering, of: Expression, site: Site, name: str, fed: Wired[Wire]
) -> Bundle:
    inner = lowering.binding(site, {name: fed})
    bundle = lowering.evaluate(of, inner)
    inner.environment.check(lowering.title(of))
    return bundle


def _check_columns(
    shape: tuple[int | str | None, ...], columns: tuple[int, ...], title: str
) -> None:
    if len(shape) < 2:
        raise GraphoptError(f"{title}: an input of rank {len(shape)} has no columns")
    size = shape[1]
    if isinstance(size, int) and any(not -size <= column < size for column in columns):
        wrong = next(column for column in columns if not -size <= column < size)
        raise GraphoptError(f"{title}: there is no column {wrong}, the input has {size}")


def _reversed(writer: Writer, value: ir.Value, axes: tuple[int, ...]) -> ir.Value:
    count = len(axes)
    backwards = writer.integers(*[-1] * count)
    end = writer.integers(*[int(_LAST.min)] * count)
    turned = writer.op("Slice", value, backwards, end, writer.integers(*axes), backwards)
    if value.shape is not None:
        turned.shape = value.shape.copy()
    return turned


def _back(site: Site, item: Wired[Wire], image: ir.Value, axes: tuple[int, ...]) -> Wire:
    """Flip an output back where it has the input's rank, and its size along the flipped axes."""
    value, writer = site.read(item), site.scope.writer
    pairs = _pairs(value, image, axes)
    if pairs is None or item.port.dtype == ir.DataType.STRING:
        return item.value
    if all(one == other and one is not None for one, other in pairs):
        return site.scope.wire(_reversed(writer, value, axes))
    return site.scope.wire(_reversed_if_alike(writer, value, image, axes))


def _pairs(
    value: ir.Value, image: ir.Value, axes: tuple[int, ...]
) -> list[tuple[int | str | None, int | str | None]] | None:
    """Return the sizes of both along axes; None where those of the value cannot be the image's."""
    own, given = sizes(value), sizes(image)
    if own is None or given is None or len(own) != len(given):
        return None
    pairs = [(own[axis], given[axis]) for axis in axes]
    return pairs if shapes_fit(*zip(*pairs, strict=True)) else None


def _is_left_turned(value: ir.Value, image: ir.Value, axes: tuple[int, ...]) -> bool:
    """Whether a value that may be a map of the image is not flipped back."""
    own = sizes(value)
    return own is not None and len(own) > _SCORES and _pairs(value, image, axes) is None


def _has_channels_last(shape: Dims) -> bool:
    if len(shape) != len(_CHANNELS_FIRST):
        return False
    _, first, inner, last = shape
    return last in _CHANNELS and first not in _CHANNELS and inner != last


def _reversed_if_alike(
    writer: Writer, value: ir.Value, image: ir.Value, axes: tuple[int, ...]
) -> ir.Value:
    """Reverse axes of a value where the sizes, which only a run tells, are those of an image."""
    count = len(axes)
    places = writer.integers(*axes)
    alike = writer.op(
        "Equal", *(writer.op("Gather", writer.op("Shape", of), places) for of in (value, image))
    )
    flag = writer.reduce("ReduceMin", writer.cast(alike, ir.DataType.INT64), [0], keepdims=True)
    starts = writer.op("Mul", flag, writer.integers(*[-1] * count))
    ends = writer.op(
        "Where",
        writer.cast(flag, ir.DataType.BOOL),
        writer.integers(*[int(_LAST.min)] * count),
        writer.integers(*[int(_LAST.max)] * count),
    )
    steps = writer.op("Add", starts, writer.op("Add", starts, writer.integers(*[1] * count)))
    turned = writer.op("Slice", value, starts, ends, places, steps)
    if value.shape is not None:
        turned.shape = value.shape.copy()
    return turned
