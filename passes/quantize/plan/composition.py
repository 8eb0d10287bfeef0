"""The passes that give each layer its form."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from graphopt.pipeline.contract import Pass
from graphopt.rewrite.selection import Globs, exactly
from passes.quantize.plan.forms import Form, Forms

if TYPE_CHECKING:
    from passes.quantize.quantize import Quantize


_MIN_SIZE = 512
"""Bytes of a weight below which the nodes that make it float again weigh more than is saved."""

_BLOCK = 32
"""Neighbours that share a scale in blocks: 8 bits of scale for 32 of weights, 0.28 of float."""

_ORDER = (Form.STATIC, Form.DYNAMIC, Form.BLOCKS, Form.FOLDED, Form.FINE)


def passes_for(quantize: Quantize, forms: Forms) -> Iterator[tuple[Form, Pass]]:
    """Return the passes that make a model of given forms, in order.

    Static quantization goes first: its statistics are those of the float model, for whatever
    forms, and are collected once.

    Args:
        quantize: What the user asked for; its parameters hold for the static form.
        forms: By address.
    """
    for form in _ORDER:
        include = tuple(exactly(at) for at, chosen in forms.items() if chosen is form)
        if include:
            yield form, _pass(quantize, form, include)


def survey_passes(quantize: Quantize, *, data: bool) -> Iterator[tuple[Form, Pass]]:
    """Return for each form the pass that gives it to every layer that can take it.

    Args:
        quantize: What the user asked for.
        data: Whether there are samples, without which nothing can be static.
    """
    for form in _ORDER:
        if form is not Form.STATIC or data:
            op_types = quantize.op_types
            yield form, _pass(quantize, form, quantize.include, quantize.exclude, op_types)


def _pass(
    quantize: Quantize,
    form: Form,
    include: Globs,
    exclude: Globs = "",
    op_types: str | tuple[str, ...] | None = None,
) -> Pass:
    # These stand on each other: quantize plans, and a plan is made of quantize.
    from passes.quantize.dynamic import QuantizeDynamic
    from passes.quantize.weights import QuantizeWeights

    if form is Form.STATIC:
        return dataclasses.replace(
            quantize,
            mode="static",
            read_back=False,
            include=include,
            exclude=exclude,
            op_types=op_types,
            plan=None,
            save_plan=None,
            max_drop=None,
            metric=None,
            min_sqnr=None,
        )
    if form is Form.DYNAMIC:
        return QuantizeDynamic(include=include, exclude=exclude, op_types=_products(op_types))
    told = QuantizeWeights(
        include=include, exclude=exclude, op_types=op_types, form="folded", min_size=_MIN_SIZE
    )
    if form is Form.FOLDED:
        return told
    told = dataclasses.replace(told, granularity="block", block_size=_BLOCK)
    return told if form is Form.FINE else dataclasses.replace(told, form="auto")


def _products(op_types: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """What is asked for of the operators that gain by dynamic quantization."""
    asked = (op_types,) if isinstance(op_types, str) else op_types
    return tuple(one for one in ("MatMul", "Gemm") if asked is None or one in asked)
