"""What `quantize` does when it is told nothing: weigh the forms of each layer, and choose.

Layers can be static, dynamic, stored in blocks, stored in integers and folded, or float (`forms`).
The passes say which layer can be what (`survey`); models are made by them (`composition`), run and
timed (`workbench`), and what is measured decides (`search`, `repair`). A plan that was saved is
applied as it stands (`plan_file`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.errors import CheckFailed, GraphoptError
from graphopt.pipeline.contract import Context, Declined, Finding, Rewrite
from graphopt.pipeline.snapshot import snapshot
from passes.quantize.plan.applying import applied
from passes.quantize.plan.asked import Asked, asked, timed_on
from passes.quantize.plan.composition import passes_for, survey_passes
from passes.quantize.plan.forms import Forms, Layer, expanded, stored
from passes.quantize.plan.plan_file import read_plan, write_plan
from passes.quantize.plan.report import detailed, findings, notes
from passes.quantize.plan.search import decide
from passes.quantize.plan.survey import addresses, survey
from passes.quantize.plan.trials import Decision, Log
from passes.quantize.plan.workbench import Workbench

if TYPE_CHECKING:
    from passes.quantize.quantize import Quantize

_REFERENCE = "quantize.reference"

_MOST_OUTPUTS = 128 << 20
"""Bytes of the float model's outputs that are kept to measure others against."""


def rewrites(
    quantize: Quantize, model: ir.Model, context: Context
) -> Iterator[Rewrite | Declined | Finding]:
    """Yield the rewrites that give each layer its form, and what was weighed for that.

    Args:
        quantize: With mode "auto".
        model: Edited by the caller, who applies each rewrite before asking for the next.
        context: The run.

    Raises:
        GraphoptError: The plan does not fit the model; a metric was asked for without labels.
    """
    if quantize.plan is not None:
        forms = read_plan(Path(quantize.plan), addresses(model))
        given = Decision("plan", forms, None, None, Log())
        yield from _apply(quantize, given, model, context)
        return
    layers, declined = survey(
        model, survey_passes(quantize, data=context.feeds is not None), context
    )
    yield from declined
    decision = yield from _decision(quantize, model, layers, context)
    if quantize.save_plan is not None:
        write_plan(Path(quantize.save_plan), decision.forms, notes(layers, decision))
    yield from findings(layers, decision)
    yield from _apply(quantize, decision, model, context)


def _decision(
    quantize: Quantize, model: ir.Model, layers: tuple[Layer, ...], context: Context
) -> Generator[Finding, None, Decision]:
    if not layers:
        return Decision("nothing can be quantized", {}, None, None, Log())
    try:
        how = asked(quantize, model, context)
    except GraphoptError as error:
        if context.feeds is not None:
            raise
        yield Finding("data", f"nothing can be measured: {error}")
        return _unmeasured(layers)
    if how.made_up:
        yield Finding("data", "no data: weighed on made-up inputs, with stricter bounds")
    provider = timed_on(quantize.target, context.providers)
    timing = quantize.keep == "faster" and provider is not None
    if quantize.keep == "faster" and provider is None:
        yield Finding("data", f"nothing is timed: {quantize.target} is not among the providers")
    try:
        bench = bench_for(
            quantize,
            model,
            context,
            how,
            context.providers if provider is None else (provider,),
            layers=layers,
            budget=quantize.budget if timing else None,
        )
    except CheckFailed as error:
        yield Finding("data", f"nothing can be measured: {error}")
        return _unmeasured(layers)
    found = decide(layers, bench, Log(how.bounds), timing=timing)
    return dataclasses.replace(found, forms=expanded(found.forms, layers))


def _unmeasured(layers: Sequence[Layer]) -> Decision:
    """What costs no time and changes least, for models that cannot be run here."""
    return Decision("folded", expanded(stored(layers), layers), None, None, Log())


def bench_for(
    quantize: Quantize,
    model: ir.Model,
    context: Context,
    how: Asked,
    providers: Sequence[str],
    *,
    layers: Sequence[Layer],
    budget: float | None = None,
) -> Workbench:
    """Return what measures a model whose layers take other forms.

    Args:
        quantize: What the user asked for.
        model: The float model; stays as it is.
        context: The run.
        how: How damage is judged.
        providers: Where models run.
        layers: Of the model.
        budget: Seconds; None: as long as it takes.
    """

    def build(forms: Forms) -> ir.Model:
        passes = [work for _, work in passes_for(quantize, expanded(forms, layers))]
        made, _ = applied(model, passes, context)
        return made

    return Workbench(
        model,
        build,
        how.feeds,
        providers=providers,
        metric=how.metric,
        optional=quantize.metric is None and quantize.max_drop is None,
        budget=budget,
        memory=min(context.calibration_memory, _MOST_OUTPUTS),
        progress=lambda text: context.progress(f"quantize: {text}", 0, None),
    )


def _apply(
    quantize: Quantize, decision: Decision, model: ir.Model, context: Context
) -> Iterator[Rewrite | Declined | Finding]:
    reference = context.cache.get(_REFERENCE) or snapshot(model)
    for form, work in passes_for(quantize, decision.forms):
        for item in work.rewrites(model, context):
            if isinstance(item, Rewrite):
                yield detailed(item, form, decision)
            elif quantize.plan is not None or not isinstance(item, Declined):
                # Where nothing was given, the survey has said already who declines what.
                yield item
    # Each of the passes has left the model as it found it, which is not float but for the first.
    context.cache[_REFERENCE] = reference
