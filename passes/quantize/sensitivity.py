"""The pass `sensitivity`: what quantizing each layer alone does to the outputs of a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import ClassVar

import onnx_ir as ir

from graphopt.pipeline.contract import Context, Declined, Detail, Effect, Finding, Rewrite
from passes.quantize.plan import bench_for
from passes.quantize.plan.asked import asked
from passes.quantize.plan.composition import survey_passes
from passes.quantize.plan.damage import Damage
from passes.quantize.plan.forms import Form, Layer
from passes.quantize.plan.survey import survey
from passes.quantize.quantize import Quantize

__all__ = ["Sensitivity"]

_FORMS = {
    "static": (Form.STATIC,),
    "dynamic": (Form.DYNAMIC,),
    "weights": (Form.FOLDED, Form.BLOCKS),
    "auto": (Form.STATIC, Form.DYNAMIC, Form.FOLDED),
}
"""What a layer is tried as, by mode: the first of these that it can take."""


@dataclass(frozen=True)
class Sensitivity(Quantize):
    """Find out which layers bear quantization least; edit nothing.

    Each layer in turn is quantized while all others stay float, and the outputs on the feeds are
    compared with those of the float model:

        SQNR = 10 log10(sum of y^2 / sum of (y - y_q)^2)   [dB], of the worst output.

    Where the noise of layers is independent, its powers add up: SQNRs of 30 dB in ten layers make
    20 dB in all. One finding per layer, the most damaging first, gives its form, the SQNR, the
    agreement (share of rows of scores whose winner stays, of integers that stay equal) and, where
    the feeds have labels, the drop of the metric. Made-up inputs stand in for missing data; there
    is nothing static then.

    Args:
        mode: "static", "dynamic", "weights", or "auto": the first of these that a layer can take.
        metric: As `graphopt validate --metric`; None: accuracy where labels are classes.
        include: And all other parameters: see `quantize`. Those that decide what it keeps
            (keep, max_drop, min_sqnr, plan, save_plan) change nothing here.

    Raises:
        GraphoptError: See `quantize`; a metric without labels; no inputs could be made up.
    """

    name: ClassVar[str] = "sensitivity"
    effect: ClassVar[Effect] = Effect.EXACT

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined | Finding]:
        """Yield one finding per layer, and where none can be quantized and why."""
        wanted = _FORMS[self.mode]
        # Its forms are made by the pass that edits.
        asking = Quantize(**{one.name: getattr(self, one.name) for one in fields(Quantize)})
        passes = survey_passes(asking, data=context.feeds is not None)
        chosen = [(form, work) for form, work in passes if form in wanted]
        layers, declined = survey(model, chosen, context)
        yield from declined
        how = asked(asking, model, context)
        bench = bench_for(asking, model, context, how, context.providers, layers=layers)
        found: list[tuple[Damage, Layer, Form]] = []
        for done, layer in enumerate(layers):
            context.progress("sensitivity", done, len(layers))
            form = next(form for form in wanted if form in layer.forms)
            found.append((bench.damage({layer.at: form}), layer, form))
        for damage, layer, form in sorted(found, key=lambda item: item[0].sqnr_db):
            yield Finding(layer.at, str(damage), _details(damage, layer, form))


def _details(damage: Damage, layer: Layer, form: Form) -> dict[str, Detail]:
    return {
        "op_type": layer.op_type,
        "form": form.value,
        "sqnr_db": damage.sqnr_db,
        "agreement": damage.agreement,
        "metric_drop": damage.drop,
    }
