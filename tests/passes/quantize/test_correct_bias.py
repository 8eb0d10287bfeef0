from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from test_round_weights import correlated, plain
from uneven_models import Array, model_of

from graphopt.errors import GraphoptError
from graphopt.model import load, save
from graphopt.pipeline.contract import Context, Pass
from graphopt.pipeline.manager import run
from graphopt.pipeline.result import RunResult
from graphopt.runtime.compare import compare
from graphopt.runtime.feeds import Feeds
from graphopt.runtime.session import Session
from passes.cleanup import Cleanup
from passes.quantize.correct_bias import CorrectBias
from passes.quantize.dynamic import QuantizeDynamic
from passes.quantize.quantize import Quantize
from passes.quantize.weights import QuantizeWeights

ROOT = Path(__file__).resolve().parents[3]

DENSE = """
agraph (float[N,48] x, float[48,20] w, float[20] b, float[11,20] v, float[11] c)
      => (float[N,11] y) {
  a = MatMul(x, w)
  s = Add(a, b)
  r = Relu(s)
  y = Gemm <transB = 1> (r, v, c)
}
"""
CONV = """
agraph (float[N,4,9,9] x, float[8,4,3,3] w, float[8] b, float[8,1,3,3] d, float[8] e,
        float[6,8,1,1] v) => (float[N,6,P,Q] y) {
  a = Conv(x, w, b)
  r = Relu(a)
  f = Conv <group = 8> (r, d, e)
  s = Relu(f)
  y = Conv(s, v)
}
"""
FORMS: list[Pass] = [
    QuantizeWeights(dtype="int4", granularity="channel", min_size=0),
    QuantizeWeights(dtype="int4", form="dequantize", min_size=0),
    QuantizeWeights(dtype="int4", form="matmulnbits", min_size=0),
    QuantizeDynamic(),
    Quantize(mode="static"),
    Quantize(mode="static", weights="int4"),
    Quantize(mode="static", granularity="tensor"),
]


def positive(*shape: int) -> Array:
    """Numbers as they come behind a Relu: with a mean, which errors of weights multiply."""
    return np.abs(correlated(*shape, axis=1)) / 10


def corrected(model: ir.Model, form: Pass, feeds: Feeds, **said: Any) -> tuple[ir.Model, RunResult]:
    """Quantize a model, then correct it; return both."""
    context = Context(feeds=feeds)
    quantized = run(model, [form], context).model
    return quantized, run(quantized, [CorrectBias(**said)], context)


def decibels(reference: ir.Model, candidate: ir.Model, feeds: Feeds) -> float:
    (error,) = compare(reference, candidate, feeds)
    return error.sqnr_db


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_dense_layers_in_every_form(form: Pass) -> None:
    model, feeds = plain(DENSE), Feeds({"x": positive(256, 48)})
    quantized, result = corrected(model, form, feeds)
    assert len(result.steps[0].rewrites) == 2
    onnx.checker.check_model(ir.to_proto(result.model))
    assert [n.op_type for n in result.model.graph] == [n.op_type for n in quantized.graph]
    assert decibels(model, result.model, feeds) > decibels(model, quantized, feeds) + 0.2
    x = feeds.arrays["x"]
    means = [Session(m).run({"x": x})["y"].mean(axis=0) for m in (model, quantized, result.model)]
    assert np.abs(means[2] - means[0]).max() < 0.25 * np.abs(means[1] - means[0]).max()


def test_convolutions_keep_their_integers() -> None:
    model, feeds = plain(CONV), Feeds({"x": positive(64, 4, 9, 9)})
    quantized, result = corrected(model, Quantize(mode="static", granularity="tensor"), feeds)
    assert result.steps[0].rewrites
    declined = {note.at: note.why for note in result.steps[0].declined}
    assert declined["y"] == "it has no bias"
    before = {name: value.dtype for name, value in quantized.graph.initializers.items()}
    after = {name: value.dtype for name, value in result.model.graph.initializers.items()}
    assert before == after
    assert decibels(model, result.model, feeds) > decibels(model, quantized, feeds)


def test_a_bias_that_float_layers_lack_is_added() -> None:
    model, feeds = plain(CONV), Feeds({"x": positive(64, 4, 9, 9)})
    form = QuantizeWeights(dtype="int4", granularity="channel", min_size=0)
    quantized, result = corrected(model, form, feeds)
    assert len(result.steps[0].rewrites) == 3
    assert len(list(result.model.graph)[-1].inputs) == 3
    assert decibels(model, result.model, feeds) > decibels(model, quantized, feeds) + 1


def test_a_model_that_is_right_stays_as_it_is() -> None:
    model, feeds = plain(DENSE), Feeds({"x": positive(64, 48)})
    context = Context(feeds=feeds, cache={"quantize.reference": model})
    result = run(model, [CorrectBias()], context)
    assert not result.steps[0].rewrites
    assert all("is that of the float model" in note.why for note in result.steps[0].declined)


@pytest.mark.parametrize("seed", range(4))
def test_outputs_never_get_worse_on_the_data(seed: int) -> None:
    model = plain(DENSE, seed)
    feeds = Feeds({"x": np.random.default_rng(seed).standard_normal((9, 48)).astype(np.float32)})
    for form in FORMS:
        quantized, result = corrected(model, form, feeds, stages=1)
        assert decibels(model, result.model, feeds) >= decibels(model, quantized, feeds) - 1e-6


def test_the_reference_is_a_file(tmp_path: Path) -> None:
    model, feeds = plain(DENSE), Feeds({"x": positive(64, 48)})
    save(model, tmp_path / "float.onnx")
    quantized = run(model, [QuantizeWeights(dtype="int4", min_size=0)]).model
    work = CorrectBias(reference=str(tmp_path / "float.onnx"))
    result = run(quantized, [work], Context(feeds=feeds))
    assert decibels(model, result.model, feeds) > decibels(model, quantized, feeds)


def test_what_has_no_counterpart_is_declined() -> None:
    feeds = Feeds({"x": positive(32, 48)})
    other = plain(
        DENSE.replace("s = Add(a, b)", "other = Add(a, b)").replace("Relu(s)", "Tanh(other)")
    )
    context = Context(feeds=feeds, cache={"quantize.reference": plain(DENSE)})
    result = run(other, [CorrectBias()], context)
    assert "the quantized model has no 's'" in {note.why for note in result.steps[0].declined}


def test_bodies_are_corrected() -> None:
    model = plain(
        """
        agraph (float[N,20] x, float[20,20] w, float[20] b) => (float[N,20] y) {
          s = ReduceSum <keepdims = 0> (x)
          low = Constant <value_float = -1e9> ()
          c = Greater(s, low)
          y = If (c) <
            then_branch = then () => (float[N,20] t) { m = MatMul(x, w) t = Add(m, b) },
            else_branch = other () => (float[N,20] e) { e = Tanh(x) }
          >
        }
        """
    )
    feeds = Feeds({"x": positive(64, 20)})
    quantized, result = corrected(model, QuantizeWeights(dtype="int4", min_size=0), feeds)
    assert len(result.steps[0].rewrites) == 1
    assert decibels(model, result.model, feeds) > decibels(model, quantized, feeds)


def test_what_is_missing_is_said_in_one_line() -> None:
    model = plain(DENSE)
    with pytest.raises(GraphoptError, match="correct_bias needs data") as caught:
        list(CorrectBias().rewrites(model, Context()))
    assert "--data" in str(caught.value)
    feeds = Feeds({"x": positive(4, 48)})
    with pytest.raises(GraphoptError, match="needs the float model"):
        list(CorrectBias().rewrites(model, Context(feeds=feeds)))
    for wrong in ({"stages": 0}, {"samples": 0}):
        with pytest.raises(GraphoptError, match=next(iter(wrong))):
            CorrectBias(**wrong)


@pytest.mark.parametrize("name", ["digits_mlp", "digits_cnn"])
def test_fixtures_get_nearer_on_other_data(name: str) -> None:
    model = run(load(ROOT / "fixtures" / f"{name}.onnx"), [Cleanup()]).model
    data = {}
    for part in ("calibration", "test"):
        with np.load(ROOT / "fixtures" / f"digits_{part}.npz") as arrays:
            data[part] = Feeds({key: arrays[key] for key in arrays.files if key != "labels"})
    for form in (FORMS[0], Quantize(mode="static")):
        quantized, result = corrected(model, form, data["calibration"])
        test = data["test"]
        assert decibels(model, result.model, test) > decibels(model, quantized, test) + 1


def test_half_precision() -> None:
    model = model_of(DENSE.replace("float[", "float16["), {"w": np.ones((48, 20)) / 7})
    feeds = Feeds({"x": positive(64, 48).astype(np.float16)})
    quantized, result = corrected(model, QuantizeWeights(dtype="int4", min_size=0), feeds)
    assert decibels(model, result.model, feeds) >= decibels(model, quantized, feeds)
