"""Expressions on other inputs: a meta-model's rows, flipped images, columns of features."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from graphopt.ensembles import outcome
from graphopt.ensembles.expression import Expression, Stack, Subset, Tta
from graphopt.ensembles.heads import head_inputs, only_input
from graphopt.ensembles.ports import Port, is_float, port
from graphopt.ensembles.reference import numerics
from graphopt.ensembles.reference.cells import Absent, Array, Cell, Outputs, absent
from graphopt.ensembles.reference.site import Site, described
from graphopt.ensembles.unparse import title
from graphopt.ensembles.wiring import Wired
from graphopt.errors import GraphoptError

_AXES = {"flip": (-1,), "vertical": (-2,), "both": (-2, -1)}
_FEATURES = "features"


def stack(expression: Stack, site: Site) -> Outputs:
    """Feed a meta-model with the outputs of others, flattened to rows side by side."""
    if expression.meta is None:
        raise GraphoptError(f"{title(expression)} has no meta-model", fix="give one: meta=m")
    bundles = [site.evaluate(of) for of in expression.of]
    titles = [title(of) for of in expression.of]
    outcome.flattened([described(bundle) for bundle in bundles], titles)
    parts = [item for bundle in bundles for item in bundle]
    if expression.passthrough:
        parts = _float_inputs(expression, site) + parts
    rows = [_rows(site.view.read(item.value)) for item in parts]
    joined = np.concatenate(rows, axis=1)
    fed = Port(_FEATURES, ir.DataType.FLOAT, (None, joined.shape[1]))
    inner = site.after((Wired(fed, Cell(joined, site.view)),))
    bundle = inner.evaluate(expression.meta)
    inner.environment.check(title(expression.meta))
    return bundle


def tta(expression: Tta, site: Site) -> Outputs:
    """Average over an input as it is and flipped."""
    name, wired = _input(expression, site, 4)
    image = site.view.read(wired.value)
    plain = site.evaluate(expression.of)
    variants = [site.arrays(plain)]
    for flip in expression.flips:
        axes = _AXES[flip]
        flipped = Wired(wired.port, _like(wired, np.flip(image, axes), site))
        bundle = _bound(expression.of, site, name, flipped)
        variants.append([_back(array, image, axes) for array in site.arrays(bundle)])
    titles = [title(expression.of)] * 2
    ports = outcome.arithmetic([described(plain)] * 2, titles, "tta")
    return site.made(
        ports,
        [_mean(found, port.dtype) for *found, port in zip(*variants, ports, strict=True)],
        plain,
    )


def subset(expression: Subset, site: Site) -> Outputs:
    """Feed some columns of an input."""
    name, wired = _input(expression, site, None)
    array = site.view.read(wired.value)
    if array.ndim < 2 or max(expression.columns) >= array.shape[1]:
        raise GraphoptError(f"{title(expression)}: {name!r} has no such columns")
    columns = np.take(array, expression.columns, axis=1)
    shape = wired.port.shape
    if shape is not None:
        shape = (shape[0], len(expression.columns), *shape[2:])
    fed = replace(port(wired.port), name=name, shape=shape)
    return _bound(expression.of, site, name, Wired(fed, _like(wired, columns, site)))


def _bound(of: Expression, site: Site, name: str, fed: Wired[Cell]) -> Outputs:
    inner = site.binding({name: fed})
    bundle = inner.evaluate(of)
    inner.environment.check(title(of))
    return bundle


def _input(expression: Subset | Tta, site: Site, rank: int | None) -> tuple[str, Wired[Cell]]:
    """Return the input that an expression varies, with what feeds it."""
    inputs = site.reference.sessions.inputs
    places = head_inputs(expression.of, inputs, expression.input, rank)
    found = [(name, site.input(member, name)) for member, name in places]
    return only_input(found, lambda cell: cell, title(expression))


def _float_inputs(expression: Stack, site: Site) -> list[Wired[Cell]]:
    found: dict[Cell, Wired[Cell]] = {}
    for of in expression.of:
        for member, name in head_inputs(of, site.reference.sessions.inputs):
            wired = site.input(member, name)
            if is_float(wired.port):
                found.setdefault(wired.value, wired)
    return list(found.values())


def _like(wired: Wired[Cell], array: Array, site: Site) -> Cell:
    return Cell(np.ascontiguousarray(array), site.view, wired.value.axis)


def _rows(array: Array) -> Array:
    return array.astype(np.float32).reshape(array.shape[0], -1)


def _back(array: Array | Absent, image: Array, axes: tuple[int, ...]) -> Array | Absent:
    if isinstance(array, Absent):
        return array
    if array.ndim != image.ndim or any(array.shape[axis] != image.shape[axis] for axis in axes):
        return array
    return np.flip(array, axes)


def _mean(found: list[Array | Absent], dtype: ir.DataType | None) -> Array | Absent:
    assert dtype is not None
    if (missing := absent(found)) is not None:
        return missing
    arrays = [array for array in found if not isinstance(array, Absent)]
    wide = dtype.numpy() if dtype.itemsize >= 4 else np.dtype(np.float32)
    return numerics.averaged([array.astype(wide) for array in arrays], None).astype(dtype.numpy())
