"""Cascades: rows go on where the stages before are unsure of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from lowered import (
    BATCHES,
    Ensemble,
    all_digits,
    between,
    digits,
    images,
    logits,
    rows,
    run,
    scaled,
    softmax,
    table,
    text_model,
)

from graphopt.errors import GraphoptError
from graphopt.model.scopes import bodies


def _max_probability(p: np.ndarray) -> np.ndarray:
    return p.max(-1)


def _margin(p: np.ndarray) -> np.ndarray:
    top = np.sort(p, -1)
    return top[..., -1] - top[..., -2]


def _entropy(p: np.ndarray) -> np.ndarray:
    return 1 + np.where(p > 0, p * np.log(np.maximum(p, 1e-300)), 0).sum(-1) / np.log(p.shape[-1])


RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "max_probability": _max_probability,
    "margin": _margin,
    "entropy": _entropy,
}


def _in_bodies(ensemble: Ensemble, op_type: str) -> int:
    return sum(
        ensemble.count(op_type, body)
        for node in ensemble.model.graph.all_nodes()
        for body in bodies(node)
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_rows_of_digits(rule: str, share: float) -> None:
    for batch in BATCHES:
        first, second = softmax(logits(batch)["a"]), softmax(logits(batch)["d"])
        sure = RULES[rule](first.astype(np.float64))
        threshold = between(sure, share)
        text = f"cascade(softmax(a), softmax(d), confidence={threshold!r}, rule={rule!r})"
        ensemble = Ensemble(text, a=digits("mlp", 11), d=digits("resnet"))
        assert ensemble.count("Conv") == 0
        found = ensemble.only(image=images()[:batch])
        expected = np.where((sure >= threshold)[:, None], first, second)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_three_stages() -> None:
    p = {name: softmax(values) for name, values in logits(32).items()}
    one = between(_max_probability(p["a"]), 0.7)
    two = between(_max_probability(p["c"]), 0.6)
    text = f"cascade(softmax(a), softmax(c), softmax(d), confidence=[{one!r}, {two!r}])"
    ensemble = Ensemble(text, **{name: all_digits()[name] for name in "acd"})
    unsure = _max_probability(p["a"]) < one
    still = unsure & (_max_probability(p["c"]) < two)
    assert 0 < still.sum() < unsure.sum() < 32
    expected = np.where(still[:, None], p["d"], np.where(unsure[:, None], p["c"], p["a"]))
    found = ensemble.only(image=images()[:32])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    for place in range(32):
        alone = ensemble.only(image=images()[place : place + 1])
        np.testing.assert_allclose(alone[0], expected[place], rtol=1e-5, atol=1e-7)


def test_stages_reuse_what_was_computed_for_all_rows() -> None:
    text = "cascade(softmax(a), softmax(mean(a, c)), softmax(mean(a, c, d)), confidence=0.97)"
    ensemble = Ensemble(text, **{name: all_digits()[name] for name in "acd"})
    total = sum(node.op_type == "Gemm" for node in ensemble.model.graph.all_nodes())
    gemms = {n: sum(x.op_type == "Gemm" for x in all_digits()[n].graph) for n in "acd"}
    assert total == sum(gemms.values())
    assert ensemble.count("Gemm") == gemms["a"]
    alone = logits(32)
    stages = [
        softmax(alone["a"]),
        softmax((alone["a"] + alone["c"]) / 2),
        softmax((alone["a"] + alone["c"] + alone["d"]) / 3),
    ]
    unsure = stages[0].max(-1) < 0.97
    still = unsure & (stages[1].max(-1) < 0.97)
    expected = np.where(still[:, None], stages[2], np.where(unsure[:, None], stages[1], stages[0]))
    found = ensemble.only(image=images()[:32])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_a_cascade_within_sums_and_chains() -> None:
    alone = logits(32)
    p = {name: softmax(values) for name, values in alone.items()}
    expected = np.where((p["a"].max(-1) < 0.97)[:, None], p["d"], p["a"])
    members = {name: all_digits()[name] for name in "ad"}
    scale = text_model(
        """<ir_version: 8, opset_import: ["": 13]>
        g (float[M, 10] scores) => (float[M, 10] y) { y = Neg(scores) }"""
    )
    text = "0.5*cascade(softmax(a), softmax(d), confidence=0.97) + 0.5*softmax(d)"
    found = Ensemble(text, **members).only(image=images()[:32])
    np.testing.assert_allclose(found, 0.5 * expected + 0.5 * p["d"], rtol=1e-5, atol=1e-7)
    text = "cascade(softmax(a), softmax(d), confidence=0.97) >> n"
    found = Ensemble(text, n=scale, **members).only(image=images()[:32])
    np.testing.assert_allclose(found, -expected, rtol=1e-5, atol=1e-7)
    text = "cascade(softmax(a), softmax((d >> n) >> n), confidence=0.97)"
    found = Ensemble(text, n=scale, **members).only(image=images()[:32])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    text = "x = cascade(softmax(a), softmax(d), confidence=0.97); label = argmax(x)"
    ensemble = Ensemble(text, **members)
    assert ensemble.count("If") == 1
    np.testing.assert_array_equal(ensemble(image=images()[:32])["label"], expected.argmax(-1))


def _stage(p: list[list[float]], seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    count = len(p)
    words = np.asarray([f"{seed}/{index}/é" for index in range(3 * count)], object)
    return {
        "p": np.asarray(p, np.float32),
        "label": generator.integers(0, 99, count),
        "word": words[:count],
        "words": words.reshape(count, 3),
        "flag": generator.integers(0, 2, (count, 2)).astype(bool),
        "half": generator.standard_normal((count, 2, 3)).astype(np.float16),
        "wide": generator.standard_normal((count, 2, 2, 2)),
        "small": generator.integers(0, 9, (count,)).astype(np.int8),
        "byte": generator.integers(0, 9, (count, 1)).astype(np.uint8),
    }


@pytest.mark.parametrize(
    ("probabilities", "unsure"),
    [
        ([[0.9, 0.1], [0.6, 0.4], [0.1, 0.9], [0.5, 0.5]], [1, 3]),
        ([[0.9, 0.1], [0.8, 0.2]], []),
        ([[0.7, 0.3], [0.6, 0.4], [0.5, 0.5]], [0, 1, 2]),
    ],
)
def test_outputs_of_all_types_and_ranks(
    probabilities: list[list[float]], unsure: list[int]
) -> None:
    first = _stage(probabilities, 1)
    second = _stage([[0.5, 0.5]] * len(probabilities), 2)
    ensemble = Ensemble('cascade(a, b, confidence=0.8, on="p")', a=table(first), b=table(second))
    found = ensemble(row=rows(len(probabilities)))
    assert list(found) == list(first)
    for name, values in first.items():
        expected = values.copy()
        expected[unsure] = second[name][unsure]
        np.testing.assert_array_equal(found[name], expected, err_msg=name)
        assert found[name].dtype == expected.dtype


def test_no_rows() -> None:
    first = _stage([[0.9, 0.1], [0.6, 0.4]], 1)
    ensemble = Ensemble("cascade(a, b, confidence=0.8)", a=table(first), b=table(first))
    for name, values in ensemble(row=rows(0)).items():
        assert values.shape == (0, *first[name].shape[1:])


@pytest.mark.parametrize("rule", RULES)
def test_nan_is_unsure(rule: str) -> None:
    nan = np.nan
    first = np.asarray([[nan, 1, 0], [1, nan, 0], [0, 1, nan], [1, 0, 0], [nan] * 3], np.float32)
    second = np.full((5, 3), 7, np.float32)
    text = f"cascade(a, b, confidence=0, rule={rule!r})"
    found = Ensemble(text, a=table({"p": first}), b=table({"p": second})).only(row=rows(5))
    np.testing.assert_array_equal((found == 7).all(-1), [True, True, True, False, True])


def test_a_row_is_as_sure_as_its_least_sure_position() -> None:
    first = np.zeros((3, 4, 2), np.float32)
    first[...] = [0.95, 0.05]
    first[1, 2] = [0.5, 0.5]
    second = np.ones((3, 4, 2), np.float32)
    found = Ensemble("cascade(a, b, confidence=0.9)", a=table({"p": first}), b=table({"p": second}))
    expected = np.where(np.asarray([False, True, False])[:, None, None], second, first)
    np.testing.assert_array_equal(found.only(row=rows(3)), expected)


def test_a_row_that_is_exactly_as_sure_as_asked_stays() -> None:
    first = np.asarray(
        [[0.9, 0.1], [np.nextafter(np.float32(0.9), np.float32(0)), 0.1]], np.float32
    )
    second = np.zeros((2, 2), np.float32)
    ensemble = Ensemble(
        "cascade(a, b, confidence=0.9)", a=table({"p": first}), b=table({"p": second})
    )
    np.testing.assert_array_equal(ensemble.only(row=rows(2)).any(-1), [True, False])


def _fixed(batch: int, factor: float) -> ir.Model:
    return text_model(
        f"""<ir_version: 8, opset_import: ["": 13]>
        g (float[{batch}, 2] x) => (float[{batch}, 2] y) {{
            f = Constant<value_float = {factor}>()
            s = Mul(x, f)
            y = Softmax(s)
        }}"""
    )


def test_members_of_batch_one_need_no_gather() -> None:
    ensemble = Ensemble("cascade(a, a + b, confidence=0.9)", a=_fixed(1, 1.0), b=_fixed(1, 9.0))
    assert _in_bodies(ensemble, "Gather") == _in_bodies(ensemble, "ScatterND") == 0
    for x in ([[0.0, 5.0]], [[0.0, 1.0]]):
        given = np.asarray(x, np.float32)
        first, second = softmax(given), softmax(given) + softmax(9 * given)
        expected = first if first.max() >= 0.9 else second
        np.testing.assert_allclose(ensemble.only(x=given), expected, rtol=1e-6)


@pytest.mark.parametrize("last", ["c", "2*c + a"])
def test_members_of_a_fixed_batch_see_all_rows(last: str) -> None:
    members = {"a": _fixed(4, 1.0), "b": _fixed(4, 2.0), "c": _fixed(4, 3.0)}
    ensemble = Ensemble(f"cascade(a, b, {last}, confidence=[0.9, 0.95])", **members)
    x = np.asarray([[0, 5], [0, 0.1], [0, 2], [1, 0]], np.float32)
    a, b, c = softmax(x), softmax(2 * x), softmax(3 * x)
    c = c if last == "c" else 2 * c + a
    unsure = a.max(-1) < 0.9
    still = unsure & (b.max(-1) < 0.95)
    expected = np.where(still[:, None], c, np.where(unsure[:, None], b, a))
    np.testing.assert_allclose(ensemble.only(x=x), expected, rtol=1e-6)
    sure = np.asarray([[0, 5]] * 4, np.float32)
    np.testing.assert_allclose(ensemble.only(x=sure), softmax(sure), rtol=1e-6)


def test_a_stage_does_not_run_where_all_rows_are_sure() -> None:
    # Its Reshape fails whatever it is fed.
    broken = text_model(
        """<ir_version: 8, opset_import: ["": 13]>
        g (int64[N] row) => (float[N, 2] p) {
            s = Constant<value_ints = [7, 2]>()
            f = Cast<to = 1>(row)
            p = Reshape(f, s)
        }"""
    )
    sure, unsure = ([[0.9, 0.1]] * 3, [[0.9, 0.1], [0.5, 0.5], [1, 0]])
    for probabilities, fails in ((sure, False), (unsure, True)):
        first = table({"p": np.asarray(probabilities, np.float32)})
        ensemble = Ensemble("cascade(a, b, confidence=0.8)", a=first, b=broken)
        if fails:
            with pytest.raises(GraphoptError, match="Reshape"):
                ensemble(row=rows(3))
        else:
            np.testing.assert_array_equal(ensemble.only(row=rows(3)), np.float32(probabilities))


RECURRENT = """<ir_version: 8, opset_import: ["": 13]>
g (float[batch, time, 2] x, float[2, batch, 3] state, int64 rate, float[time] weight)
  => (float[batch, 2] p, float[2, batch, 3] next) {{
    w1 = Constant<value_ints = [-1, 1]>()
    w = Reshape(weight, w1)
    xw = Mul(x, w)
    axis = Constant<value_ints = [1]>()
    sum = ReduceSum<keepdims = 0>(xw, axis)
    f = Constant<value_float = {factor}>()
    zero = Constant<value_ints = [0]>()
    two = Constant<value_ints = [2]>()
    both = ReduceSum<keepdims = 0>(state, zero)
    seen = Slice(both, zero, two, axis)
    added = Add(sum, seen)
    scaled = Mul(added, f)
    p = Softmax(scaled)
    r = Cast<to = 1>(rate)
    next = Add(state, r)
}}"""


@pytest.mark.parametrize("named", [True, False])
def test_states_sequences_and_scalars(named: bool) -> None:
    members = {
        "a": text_model(RECURRENT.format(factor=1.0)),
        "b": text_model(RECURRENT.format(factor=-3.0)),
    }
    members["b"].graph.outputs[1].producer().op_type = "Sub"
    if not named:
        for model in members.values():
            for value in model.graph.inputs[:2]:
                value.shape = ir.Shape([d if isinstance(d, int) else None for d in value.shape])
    text = "cascade(a, b, confidence=0.8)" if named else "cascade(a.p, b.p, confidence=0.8)"
    ensemble = Ensemble(text, **members)
    generator = np.random.default_rng(5)
    for batch, time in ((1, 4), (7, 3), (32, 7)):
        feeds = {
            "x": generator.standard_normal((batch, time, 2)).astype(np.float32),
            "state": generator.standard_normal((2, batch, 3)).astype(np.float32),
            "rate": np.asarray(8),
            "weight": generator.standard_normal(time).astype(np.float32),
        }
        first, second = (run(members[name], **feeds) for name in "ab")
        unsure = first["p"].max(-1) < 0.8
        found = ensemble(**{name: feeds[name] for name in ensemble.session.input_names})
        expected = np.where(unsure[:, None], second["p"], first["p"])
        np.testing.assert_allclose(found["p"], expected, rtol=1e-6)
        if not named:
            continue
        expected = np.where(unsure[None, :, None], second["next"], first["next"])
        np.testing.assert_array_equal(found["next"], expected)


def test_doubles_and_halves_are_compared_as_they_are() -> None:
    for dtype in (np.float16, np.float64):
        first = np.asarray([[0.9, 0.1], [0.7, 0.3]], dtype)
        members = {"a": table({"p": first}), "b": table({"p": np.zeros((2, 2), dtype)})}
        for rule, formula in RULES.items():
            text = f"cascade(a, b, confidence=0.3, rule={rule!r})"
            found = Ensemble(text, **members).only(row=rows(2))
            sure = formula(first.astype(np.float64)) >= 0.3
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, np.where(sure[:, None], first, 0))


def test_what_is_computed_for_all_rows_anyway_is_computed_once() -> None:
    members = {name: all_digits()[name] for name in "ac"}
    text = "0.5*cascade(softmax(a), softmax(c), confidence=0.97) + 0.5*softmax(c)"
    ensemble = Ensemble(text, **members)
    assert _in_bodies(ensemble, "Conv") == 0
    assert ensemble.count("Conv") == sum(node.op_type == "Conv" for node in members["c"].graph)
    p = {name: softmax(values) for name, values in logits(32).items()}
    chosen = np.where((p["a"].max(-1) < 0.97)[:, None], p["c"], p["a"])
    found = ensemble.only(image=images()[:32])
    np.testing.assert_allclose(found, 0.5 * chosen + 0.5 * p["c"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("order", ["abc", "acb", "bac", "bca", "cab", "cba"])
def test_fixed_and_dynamic_members_side_by_side(order: str) -> None:
    members = {"a": _fixed(4, 1.0), "b": scaled(2.0), "c": scaled(3.0)}
    factors = {"a": 1.0, "b": 2.0, "c": 3.0}
    ensemble = Ensemble(f"cascade({', '.join(order)}, confidence=[0.8, 0.9])", **members)
    x = np.asarray([[0, 5], [0, 0.1], [0, 0.6], [1, 0]], np.float32)
    first, second, third = (softmax(factors[name] * x) for name in order)
    unsure = first.max(-1) < 0.8
    still = unsure & (second.max(-1) < 0.9)
    expected = np.where(still[:, None], third, np.where(unsure[:, None], second, first))
    np.testing.assert_allclose(ensemble.only(x=x), expected, rtol=1e-6)
