"""The planner on small real models; nothing is timed here, so that all of it repeats."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.model import load
from graphopt.pipeline.contract import Context
from graphopt.pipeline.manager import PassFailed, run
from graphopt.runtime.compare import compare
from graphopt.runtime.feeds import Feeds, open_feeds
from passes.cleanup import Cleanup
from passes.quantize.quantize import Quantize
from passes.quantize.sensitivity import Sensitivity

FIXTURES = Path(__file__).parents[3] / "fixtures"
CALIBRATION = str(FIXTURES / "digits_calibration.npz")


@pytest.fixture(scope="module")
def model():
    return run(load(FIXTURES / "digits_resnet.onnx"), [Cleanup()]).model


def context():
    return Context(feeds=open_feeds(CALIBRATION))


def quantized(model, data=None, **parameters):
    return run(model, [Quantize(keep="all", **parameters)], data or context())


def content(model):
    return ir.to_proto(model).SerializeToString(deterministic=True)


def findings(result):
    return {note.at: note for note in result.steps[-1].findings}


def operators(model):
    return {node.op_type for node in model.graph}


def test_decides_and_keeps_the_outputs(model):
    result = quantized(model)
    assert "QuantizeLinear" in operators(result.model)
    (error,) = compare(model, result.model, context().feeds)
    assert error.sqnr_db > 25
    assert "static" in findings(result)["decision"].why


def test_every_layer_has_its_form(model):
    result = quantized(model)
    for note in result.steps[-1].rewrites:
        if note.at != (model.graph.name or "model"):
            assert note.details["form"] in ("static", "dynamic", "blocks", "folded", "fine")
            assert note.why.startswith(str(note.details["form"]))


def test_a_saved_plan_gives_the_same_bytes(model, tmp_path):
    plan = tmp_path / "plan.toml"
    decided = quantized(model, save_plan=str(plan))
    again = quantized(model, plan=str(plan))
    assert content(decided.model) == content(again.model)
    assert not findings(again)
    assert set(tomllib.loads(plan.read_text())["layers"].values()) <= {
        "static",
        "dynamic",
        "blocks",
        "folded",
        "fine",
        "float",
    }


def test_a_plan_may_be_edited(model, tmp_path):
    plan = tmp_path / "plan.toml"
    quantized(model, save_plan=str(plan))
    plan.write_text(plan.read_text().replace('"static"', '"float"'))
    result = quantized(model, plan=str(plan))
    assert "QuantizeLinear" not in operators(result.model)


def test_a_plan_of_another_model_is_refused(model, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text('version = 1\n[layers]\nnowhere = "static"\n')
    with pytest.raises(PassFailed, match="no layer 'nowhere'"):
        quantized(model, plan=str(plan))


def test_strict_bounds_leave_layers_float(model):
    loose = findings(quantized(model))["decision"].details["SQNR"]
    assert isinstance(loose, float)
    result = quantized(model, min_sqnr=loose + 2)
    found = findings(result)["decision"].details["SQNR"]
    assert isinstance(found, float)
    assert found >= loose + 2
    assert "QuantizeLinear" in operators(result.model)
    (error,) = compare(model, result.model, context().feeds)
    assert error.sqnr_db >= loose + 2


def test_a_bound_that_nothing_meets_leaves_the_model_alone(model):
    result = quantized(model, min_sqnr=200)
    assert not result.steps[-1].rewrites
    assert content(result.model) == content(model)


def test_without_data_nothing_is_static(model):
    result = quantized(model, Context())
    assert "QuantizeLinear" not in operators(result.model)
    assert "Cast" in operators(result.model)
    assert "made-up" in findings(result)["data"].why
    (error,) = compare(model, result.model, context().feeds)
    assert error.sqnr_db > 30


def test_a_metric_needs_labels(model):
    feeds = Feeds({"image": np.zeros((4, 1, 8, 8), np.float32)})
    with pytest.raises(PassFailed, match="needs labels"):
        quantized(model, Context(feeds=feeds), metric="accuracy")
    with pytest.raises(PassFailed, match="max_drop is a drop of a metric"):
        quantized(model, Context(feeds=feeds), max_drop=0.01)


def test_nothing_to_quantize_is_said():
    relu = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17]> main (float[N] x) => (float[N] y) {y = Relu (x)}'
    )
    result = quantized(relu, Context())
    assert not result.steps[-1].rewrites
    assert findings(result)["decision"].why == "nothing can be quantized"


def test_include_and_exclude_hold(model):
    result = quantized(model, exclude="*", include="nothing")
    assert not result.steps[-1].rewrites
    layer = next(node.name for node in model.graph if node.op_type == "Gemm")
    result = quantized(model, include=layer)
    at = {note.at for note in result.steps[-1].rewrites}
    assert layer in at or any("weight" in one for one in at)
    assert operators(result.model) & {"QuantizeLinear", "MatMulInteger", "Cast"}


def test_later_passes_find_the_float_model(model):
    run_context = context()
    quantized(model, run_context)
    reference = run_context.cache["quantize.reference"]
    assert isinstance(reference, ir.Model)
    assert content(reference) == content(model)


def test_sensitivity_ranks_layers_and_edits_nothing(model):
    result = run(model, [Sensitivity()], context())
    step = result.steps[-1]
    assert not step.rewrites
    assert content(result.model) == content(model)
    decibels = [note.details["sqnr_db"] for note in step.findings]
    assert decibels == sorted(decibels)
    assert len(decibels) > 8
    assert {note.details["form"] for note in step.findings} == {"static"}
    assert all(note.details["metric_drop"] is not None for note in step.findings)


def test_sensitivity_of_weights_alone(model):
    result = run(model, [Sensitivity(mode="weights")], context())
    found = result.steps[-1].findings
    assert {note.details["form"] for note in found} == {"folded"}
    assert min(note.details["sqnr_db"] for note in found) > 30


def test_what_cannot_be_run_is_stored_in_integers():
    weight = ", ".join(str((n % 7) / 7) for n in range(1024))
    custom = ir.from_onnx_text(
        f"""
        <ir_version: 8, opset_import: ["" : 17, "elsewhere" : 1]>
        main (float[N, 32] x) => (float[N, 32] y)
        <float[32, 32] w = {{{weight}}}>
        {{ h = MatMul (x, w) y = elsewhere.Unknown (h) }}
        """
    )
    result = quantized(custom, Context(feeds=Feeds({"x": np.ones((4, 32), np.float32)})))
    assert operators(result.model) == {"Cast", "Mul", "MatMul", "Unknown"}
    assert "nothing can be measured" in findings(result)["data"].why
