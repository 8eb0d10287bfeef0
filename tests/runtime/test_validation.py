from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from graphopt.errors import CheckFailed, GraphoptError
from graphopt.runtime.benchmark import Settings, measure
from graphopt.runtime.budget import Budget
from graphopt.runtime.by_node import compare_nodes, first_parting, ranked
from graphopt.runtime.difference import Tolerance
from graphopt.runtime.feeds import Feeds
from graphopt.runtime.metrics import open_metric
from graphopt.runtime.providers import parse_providers
from graphopt.runtime.validation import Options, Subject, Validation, validate


def subject(body: str, name: str = "m.onnx") -> Subject:
    text = (
        f'<ir_version: 10, opset_import: ["": 20]>\ng (float[N,3] x) => (float[N,3] y) {{{body}}}'
    )
    return Subject(name, ir.from_onnx_text(text), 100)


def offset(amount: float) -> Subject:
    body = f"a = Abs(x) c = Constant<value_float = {float(amount)}>() b = Add(a, c) y = Relu(b)"
    return subject(body, f"offset{amount}.onnx")


def feeds(labels: bool = True) -> Feeds:
    x = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    return Feeds({"x": x}, labels=np.abs(x).argmax(1) if labels else None, source="d.npz")


def run(
    *candidates: Subject, providers: tuple[str, ...] = ("cpu",), **options: object
) -> Validation:
    chosen = Options(parse_providers(providers), rounds=0, **options)  # type: ignore[arg-type] # the tests' own
    return validate(offset(0), candidates, feeds(), chosen)


def test_without_a_budget_outputs_must_be_equal() -> None:
    found = run(offset(0), offset(0.5))
    assert [trial.status for trial in found.trials] == ["passed", "failed"]
    (failure,) = found.failures
    assert failure.startswith("offset0.5.onnx on cpu: output 'y' differs by up to 0.5")
    assert "--max-drop" in failure


def test_budgets_decide_where_they_are_given() -> None:
    assert run(offset(0.5), budget=Budget(tolerances={"*": Tolerance(atol=0.6)})).failures == ()
    (failure,) = run(offset(0.5), budget=Budget(tolerances={"y": Tolerance(atol=0.4)})).failures
    assert "60 of 60 elements are outside" in failure
    assert run(offset(0.5), budget=Budget(min_sqnr=3)).failures == ()
    (failure,) = run(offset(0.5), budget=Budget(min_sqnr=60)).failures
    assert "under 60 dB" in failure
    other = Budget(tolerances={"another": Tolerance(atol=9)})
    assert "differs by up to" in run(offset(0.5), budget=other).failures[0]


def test_the_metric_may_drop_by_so_much() -> None:
    accuracy = open_metric("accuracy")
    worse = subject("c = Constant<value_floats = [9.0, 0.0, 0.0]>() y = Mul(x, c)", "w.onnx")
    found = run(offset(0.5), worse, metric=accuracy, budget=Budget(max_drop=0.1))
    assert found.metric == 1
    assert [trial.status for trial in found.trials] == ["passed", "failed"]
    assert found.trials[0].metric == 1
    assert "over --max-drop 0.1" in found.failures[0]
    assert "accuracy goes from 1.0000 to" in found.failures[0]


def test_a_metric_alone_is_reported_and_allows_nothing() -> None:
    found = run(offset(0.5), metric=open_metric("accuracy"))
    assert found.trials[0].metric == 1
    assert found.trials[0].status == "failed"


def test_new_nan_fails_whatever_the_budget() -> None:
    broken = subject("y = Sqrt(x)", "nan.onnx")
    budget = Budget(max_drop=1, min_sqnr=-1000, tolerances={"*": Tolerance(atol=1e9)})
    found = run(broken, metric=open_metric("accuracy"), budget=budget)
    assert "NaN or infinity" in found.failures[0]


def test_what_does_not_run_fails_by_name() -> None:
    found = run(subject("y = Nonsense(x)", "bad.onnx"), offset(0))
    assert [trial.status for trial in found.trials] == ["failed", "passed"]
    assert "bad.onnx does not load" in found.failures[0]
    with pytest.raises(CheckFailed, match=r"reference ref\.onnx does not load"):
        validate(
            subject("y = Nonsense(x)", "ref.onnx"),
            [offset(0)],
            feeds(),
            Options(parse_providers(["cpu"])),
        )


def test_absent_providers_are_never_passed() -> None:
    providers = ("cpu", "NoSuchExecutionProvider")
    found = run(offset(0), providers=providers)
    assert [trial.status for trial in found.trials] == ["passed", "absent"]
    assert found.failures == ()
    (failure,) = run(offset(0), providers=providers, require_provider=True).failures
    assert "NoSuchExecutionProvider is absent" in failure
    (failure,) = run(offset(0), providers=providers[1:]).failures
    assert failure.startswith("nothing was validated")


def test_a_provider_that_runs_nothing_validates_nothing() -> None:
    azure = "AzureExecutionProvider"
    if azure not in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime has no {azure}")
    found = run(offset(0), providers=(azure,))
    assert [trial.status for trial in found.trials] == ["fallback"]
    (failure,) = found.failures
    assert failure.startswith("nothing was validated: none of")
    assert run(offset(0), providers=("cpu", azure)).failures == ()


def test_what_is_asked_must_be_there() -> None:
    with pytest.raises(GraphoptError, match="give --metric"):
        run(offset(0), budget=Budget(max_drop=0.1))
    options = Options(parse_providers(["cpu"]), metric=open_metric("accuracy"))
    with pytest.raises(GraphoptError, match=r"d\.npz: the metric 'accuracy' needs labels"):
        validate(offset(0), [offset(0)], feeds(labels=False), options)


def test_latencies_are_paired_and_nodes_are_placed() -> None:
    options = Options(parse_providers(["cpu"]), rounds=3)
    (trial,) = validate(offset(0), [offset(0)], feeds(), options).trials
    assert trial.latency is not None
    assert trial.reference_latency is not None
    assert len(trial.latency.rounds) == len(trial.reference_latency.rounds) == 3
    assert trial.ratio is not None
    assert trial.ratio.low <= trial.ratio.median <= trial.ratio.high
    assert trial.placement is not None
    assert trial.placement.nodes.keys() == {"CPUExecutionProvider"}


def test_the_first_node_that_parts_is_named() -> None:
    body = "a = Abs(x) b = Exp(a) c = {}(b) d = Neg(c) y = Relu(c)"
    reference, candidate = (subject(body.format(op)).model for op in ("Sqrt", "Log"))
    for model in (reference, candidate):
        model.graph[2].name = "here"
    errors = compare_nodes(reference, candidate, feeds(), batch=7)
    assert [error.value for error in errors] == ["a", "b", "c", "d", "y"]
    first = first_parting(errors)
    assert first is not None
    assert (first.node, first.op_type, first.value) == ("here", "Log", "c")
    assert [error.value for error in ranked(errors)][-1] not in {"a", "b"}
    assert len(ranked(errors)) == 3
    assert first_parting(compare_nodes(reference, reference, feeds())) is None


def test_values_of_other_shapes_cannot_be_told() -> None:
    reference = subject("a = Abs(x) y = Add(a, x)").model
    candidate = subject("a = ReduceSum(x) y = Add(a, x)").model
    errors = compare_nodes(reference, candidate, feeds())
    assert [error.equal for error in errors] == [None, False]


def test_bench_compares_with_the_first_model() -> None:
    (provider,) = parse_providers(["cpu"])
    settings = Settings(rounds=3, warmup=1)
    bad = subject("y = Nonsense(x)", "bad.onnx")
    found = measure([offset(0), offset(0.5), bad], feeds(), provider, 4, settings)
    assert [timing.batch for timing in found] == [4, 4, 4]
    assert found[0].ratio is not None
    assert found[0].ratio.median == 1
    assert found[1].ratio is not None
    assert found[2].latency is None
    assert "bad.onnx does not load" in str(found[2].reason)
    with pytest.raises(GraphoptError, match="20 samples do not fill a batch of 21"):
        measure([offset(0)], feeds(), provider, 21, settings)


def test_outputs_without_a_finite_number_compare_nothing() -> None:
    empty = subject("z = Sub(x, x)\n y = Div(z, z)", "nan.onnx")
    (trial,) = validate(empty, [empty], feeds(), Options(parse_providers(["cpu"]), rounds=0)).trials
    assert trial.status == "failed"
    assert "no output holds a finite number" in str(trial.reason)
