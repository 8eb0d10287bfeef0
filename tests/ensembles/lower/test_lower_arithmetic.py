"""Sums and statistics beside plain numpy over the members' own outputs."""

from __future__ import annotations

import numpy as np
import pytest
from lowered import (
    BATCHES,
    Ensemble,
    all_digits,
    digits,
    images,
    logits,
    rows,
    run,
    softmax,
    table,
    text_model,
)

from graphopt.ensembles.reference import evaluate
from graphopt.errors import GraphoptError

ULP = float(np.finfo(np.float32).eps)


def _geometric(weights: np.ndarray, *values: np.ndarray) -> np.ndarray:
    logs = np.log(np.stack(values).astype(np.float64))
    return np.exp(np.tensordot(weights / weights.sum(), logs, 1))


FORMULAS = {
    "0.5*a + 0.3*b + 0.2*c": lambda a, b, c, d, e: 0.5 * a + 0.3 * b + 0.2 * c,
    "0.3*a + 0.3*c": lambda a, b, c, d, e: 0.3 * a + 0.3 * c,
    "a - 2*c + 1.5": lambda a, b, c, d, e: a - 2 * c + 1.5,
    "-(a + c) / 3": lambda a, b, c, d, e: -(a + c) / 3,
    "2*a": lambda a, b, c, d, e: 2 * a,
    "mean(a, c, d)": lambda a, b, c, d, e: (a + c + d) / 3,
    "mean(a, c, weights=[1, 3])": lambda a, b, c, d, e: (a + 3 * c) / 4,
    "mean(a, c, d, weights=[2, 2, 2])": lambda a, b, c, d, e: (a + c + d) / 3,
    "median(c)": lambda a, b, c, d, e: c,
    "median(a, c)": lambda a, b, c, d, e: (a + c) / 2,
    "median(a, c, d)": lambda a, b, c, d, e: np.median([a, c, d], 0),
    "median(a, c, d, e)": lambda a, b, c, d, e: np.median([a, c, d, e], 0),
    "median(a, 2*b, c, d, e)": lambda a, b, c, d, e: np.median([a, 2 * b, c, d, e], 0),
    "min(a, c, d)": lambda a, b, c, d, e: np.min([a, c, d], 0),
    "max(a, c, d)": lambda a, b, c, d, e: np.max([a, c, d], 0),
    "product(a, c, d)": lambda a, b, c, d, e: a * c * d,
    "geometric_mean(softmax(a), softmax(c), softmax(d))": lambda a, b, c, d, e: _geometric(
        np.ones(3), softmax(a), softmax(c), softmax(d)
    ),
    "geometric_mean(sigmoid(a), sigmoid(c), weights=[1, 4])": lambda a, b, c, d, e: _geometric(
        np.asarray([1.0, 4.0]), 1 / (1 + np.exp(-a)), 1 / (1 + np.exp(-c))
    ),
    "0.6*mean(a, c) + 0.4*max(d, e)": lambda a, b, c, d, e: (
        0.6 * (a + c) / 2 + 0.4 * np.maximum(d, e)
    ),
}


@pytest.mark.parametrize("text", FORMULAS)
def test_it_computes_what_numpy_does(text: str) -> None:
    ensemble = Ensemble(text, **all_digits())
    for batch in BATCHES:
        alone = {name: values.astype(np.float64) for name, values in logits(batch).items()}
        expected = FORMULAS[text](**alone)
        found = ensemble.only(image=images()[:batch])
        assert found.dtype == np.float32
        scale = max(np.abs(values).max() for values in alone.values())
        largest = max(scale, np.abs(expected).max())
        # Members run in another graph, where a kernel may add up in another order.
        np.testing.assert_allclose(found, expected, rtol=20 * ULP, atol=20 * ULP * largest)


def test_weights_are_never_normalized() -> None:
    member = digits("mlp")
    found = Ensemble("0.3*a + 0.3*b", a=member, b=digits("mlp", 13)).only(image=images()[:7])
    alone = run(member, image=images()[:7])["logits"]
    np.testing.assert_allclose(found, 0.6 * alone, rtol=4 * ULP)


def test_short_sums_of_tables_are_exact_to_a_few_ulp() -> None:
    generator = np.random.default_rng(0)
    tables = {name: generator.standard_normal((32, 5)).astype(np.float32) for name in "abc"}
    members = {name: table({"y": values}) for name, values in tables.items()}
    found = Ensemble("0.5*a + 0.25*b + 2*c", **members).only(row=rows(32))
    wide = {name: values.astype(np.float64) for name, values in tables.items()}
    expected = 0.5 * wide["a"] + 0.25 * wide["b"] + 2 * wide["c"]
    size = sum(np.abs(values) for values in (0.5 * wide["a"], 0.25 * wide["b"], 2 * wide["c"]))
    assert np.all(np.abs(found - expected) <= 2 * ULP * size)


def test_one_member_twice_is_computed_once() -> None:
    ensemble = Ensemble("a + a", a=digits("mlp"))
    alone = run(digits("mlp"), image=images()[:7])["logits"]
    assert ensemble.count("Gemm") == 3
    np.testing.assert_array_equal(ensemble.only(image=images()[:7]), 2 * alone)


@pytest.mark.parametrize("text", ["a", "mean(a)", "1*a", "min(a)", "median(a)", "product(a)"])
def test_one_member_alone_is_itself(text: str) -> None:
    ensemble = Ensemble(text, a=digits("mlp"))
    alone = run(digits("mlp"), image=images()[:7])["logits"]
    np.testing.assert_array_equal(ensemble.only(image=images()[:7]), alone)


def test_fifty_members() -> None:
    generator = np.random.default_rng(1)
    tables = [generator.standard_normal((9, 4, 3)).astype(np.float32) for _ in range(50)]
    members = {f"m{index}": table({"y": values}) for index, values in enumerate(tables)}
    names = ", ".join(members)
    for function, formula in (("mean", np.mean), ("median", np.median), ("max", np.max)):
        found = Ensemble(f"{function}({names})", **members).only(row=rows(9))
        expected = formula(np.stack(tables).astype(np.float64), axis=0)
        np.testing.assert_allclose(found, expected, rtol=0, atol=4 * ULP)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8])
def test_a_nan_of_one_operand_is_a_nan_of_the_result(count: int) -> None:
    tables = [np.full((3, 2), index, np.float32) for index in range(count)]
    tables[1][0, 0], tables[0][1, 1] = np.nan, np.nan
    members = {f"m{index}": table({"y": values}) for index, values in enumerate(tables)}
    names = ", ".join(members)
    for function, formula in (
        ("median", np.median),
        ("min", np.min),
        ("max", np.max),
        ("mean", np.mean),
    ):
        found = Ensemble(f"{function}({names})", **members).only(row=rows(3))
        np.testing.assert_array_equal(found, formula(np.stack(tables), axis=0), err_msg=function)


def test_infinities_keep_a_median() -> None:
    inf = np.inf
    columns = np.asarray([[-inf, 0, 1, inf], [inf, inf, 2, -inf], [3, inf, 0, 1]], np.float32)
    members = {f"m{index}": table({"y": columns[:, index : index + 1]}) for index in range(4)}
    found = Ensemble("median(m0, m1, m2, m3)", **members).only(row=rows(3))
    np.testing.assert_array_equal(found[:, 0], np.median(columns, 1))


def test_no_rows() -> None:
    members = {name: table({"y": np.ones((1, 3), np.float32)}) for name in "abcd"}
    for text in ("mean(a, b)", "median(a, b, c, d)", "0.5*a + b", "geometric_mean(a, b)"):
        assert Ensemble(text, **members).only(row=rows(0)).shape == (0, 3)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_keep_their_type(dtype: type) -> None:
    values = np.linspace(-3, 5, 12, dtype=dtype).reshape(4, 3)
    members = {"a": table({"y": values}), "b": table({"y": values[::-1].copy()})}
    wide, eps = values.astype(np.float64), float(np.finfo(dtype).eps)
    for text, expected in (
        ("0.1*a + 0.7*b", 0.1 * wide + 0.7 * wide[::-1]),
        ("mean(a, b)", (wide + wide[::-1]) / 2),
        ("median(a, b, 2*a)", np.median([wide, wide[::-1], 2 * wide], 0)),
        ("geometric_mean(softmax(a), softmax(b))", np.sqrt(softmax(wide) * softmax(wide[::-1]))),
    ):
        found = Ensemble(text, **members).only(row=rows(4))
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, rtol=0, atol=8 * eps, err_msg=text)


def test_sums_of_halves_do_not_overflow_on_the_way() -> None:
    members = {name: table({"y": np.full((1, 1), 60000, np.float16)}) for name in "abc"}
    assert Ensemble("mean(a, b, c)", **members).only(row=rows(1)) == np.float16(60000)


def test_floats_of_several_widths_are_computed_in_the_widest() -> None:
    values = np.asarray([[1.5, -2.0]])
    members = {
        "half": table({"y": values.astype(np.float16)}),
        "single": table({"y": values.astype(np.float32)}),
        "double": table({"y": values}),
    }
    assert Ensemble("mean(half, single)", **members).only(row=rows(1)).dtype == np.float32
    found = Ensemble("half + single + double", **members).only(row=rows(1))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, 3 * values)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.bool_])
def test_integers_and_bools_are_summed_as_float32(dtype: type) -> None:
    values = np.asarray([0, 1, 1, 0]).astype(dtype)
    members = {"a": table({"y": values}), "b": table({"y": np.ones(4, dtype)})}
    found = Ensemble("a + 0.5*b", **members).only(row=rows(4))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values + np.float32(0.5))


@pytest.mark.parametrize("other", [np.float16, np.float32])
def test_a_geometric_mean_of_softmaxes_does_not_underflow(other: type) -> None:
    scores = np.asarray([[0, -150, 30], [5, 5, 5]], np.float32)
    members = {"a": table({"y": scores}), "b": table({"y": scores.astype(other)})}
    found = Ensemble("geometric_mean(softmax(a), softmax(b))", **members).only(row=rows(2))
    expected = softmax(scores.astype(np.float64))
    np.testing.assert_allclose(found, expected, rtol=200 * ULP, atol=1e-38)


def test_a_geometric_mean_leaves_out_what_has_no_weight() -> None:
    members = {
        "a": table({"y": np.float32([[0, 1, 2]])}),
        "b": table({"y": np.float32([[3, 4, 5]])}),
        "c": table({"y": np.float32([[6, 7, 9]])}),
    }
    for weights, expected in (
        ([0, 1, 0], [[3, 4, 5]]),
        (
            [0, 1, 3],
            _geometric(np.asarray([1.0, 3.0]), np.asarray([[3, 4, 5]]), np.asarray([[6, 7, 9]])),
        ),
    ):
        text = f"geometric_mean(a, b, c, weights={weights})"
        found = Ensemble(text, **members).only(row=rows(1))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        (reference,) = evaluate(text, members, {"row": rows(1)}).values()
        np.testing.assert_allclose(reference, expected, rtol=1e-6)


def test_outputs_are_combined_by_name_else_in_order() -> None:
    first = {"p": np.asarray([[1.0]], np.float32), "q": np.asarray([[2.0]], np.float32)}
    swapped = {"q": np.asarray([[20.0]], np.float32), "p": np.asarray([[10.0]], np.float32)}
    others = {"u": np.asarray([[100.0]], np.float32), "v": np.asarray([[200.0]], np.float32)}
    members = {"a": table(first), "b": table(swapped), "c": table(others)}
    assert {k: v.item() for k, v in Ensemble("a + b", **members)(row=rows(1)).items()} == {
        "p": 11,
        "q": 22,
    }
    assert {k: v.item() for k, v in Ensemble("a + c", **members)(row=rows(1)).items()} == {
        "p": 101,
        "q": 202,
    }


def test_strings_and_labels_beside_scores_are_refused() -> None:
    words = table({"y": np.asarray(["u", "v"], object)})
    mixed = table({"label": np.asarray([1, 2]), "scores": np.ones((2, 2), np.float32)})
    with pytest.raises(GraphoptError, match="strings"):
        Ensemble("a + a", a=words)
    with pytest.raises(GraphoptError, match=r"a\.scores"):
        Ensemble("mean(a, b)", a=mixed, b=mixed)
    found = Ensemble("mean(a.scores, b.scores)", a=mixed, b=mixed)(row=rows(2))
    np.testing.assert_array_equal(found["scores"], 1)


def test_shapes_that_differ_are_refused() -> None:
    one, other = (table({"y": np.ones((2, size), np.float32)}) for size in (3, 4))
    with pytest.raises(GraphoptError, match=r"\[N, 3\].*\[N, 4\]"):
        Ensemble("a + b", a=one, b=other)


def test_shapes_that_only_a_run_knows() -> None:
    model = text_model(
        """<ir_version: 8, opset_import: ["": 13]>
        g (float[N, 3] x, int64[3] shape) => (float[A, B, C] y) { y = Reshape(x, shape) }"""
    )
    ensemble = Ensemble("r = median(a, 2*a, 3*a, 4*a); m = mean(a, 2*a); v = vote(a, -a)", a=model)
    x = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    found = ensemble(x=x, shape=np.asarray([3, 1, 2]))
    np.testing.assert_array_equal(found["r"], (2.5 * x).reshape(3, 1, 2))
    np.testing.assert_array_equal(found["m"], (1.5 * x).reshape(3, 1, 2))
    np.testing.assert_array_equal(found["v"], np.full((3, 1, 2), 0.5))


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("kind", ["float", "float16"])
def test_the_log_of_a_softmax_of_unknown_shape_is_typed(opset: int, kind: str) -> None:
    """Inside a member nothing need be declared, as exporters leave it."""
    member = text_model(
        f"""<ir_version: 6, opset_import: ["" : {opset}]>
        m ({kind}[N, 5] x) => ({kind}[N, 5] y) {{
            h = Mul(x, x)
            y = Softmax<axis = 1>(h)
        }}"""
    )
    built = Ensemble("geometric_mean(a, a, a)", a=member)
    assert built.count("LogSoftmax") == 1
    inner = [value for node in built.model.graph for value in node.outputs if value.dtype is None]
    assert [value.name for value in inner] == ["a/h"]
    dtype = np.float32 if kind == "float" else np.float16
    x = np.random.default_rng(0).normal(size=(7, 5)).astype(dtype)
    found = built.only(x=x)
    assert found.dtype == dtype
    wide = x.astype(np.float64)
    np.testing.assert_allclose(found, softmax(wide * wide), rtol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("text", ["mean(a, b)", "0.5*a + 0.25*b", "a + 1", "-a", "median(a, b)"])
def test_single_numbers_stay_of_rank_0(text: str) -> None:
    members = {
        name: text_model(
            f"""<ir_version: 8, opset_import: ["": 13]>
            g (float[N] x) => (float y) {{
                f = Constant<value_float = {factor}>()
                s = ReduceSum<keepdims = 0>(x)
                y = Mul(s, f)
            }}"""
        )
        for name, factor in (("a", 1.0), ("b", 2.0))
    }
    found = Ensemble(text, **members).only(x=np.float32([1, 2]))
    assert found.shape == ()
