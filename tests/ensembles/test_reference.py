"""Ensembles in numpy, against formulas written out here over the members' own outputs."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import onnx_ir as ir
import pytest
from reference_models import (
    BATCHES,
    MEMBERS,
    A,
    B,
    Counting,
    drawn,
    model_of,
    own_outputs,
    scorer,
    softmax,
)

from graphopt.ensembles.expression import Combine, Member, Sum
from graphopt.ensembles.reference import Reference, Sessions, evaluate
from graphopt.errors import GraphoptError
from graphopt.runtime.session import Session

LABELLED = model_of("""
    m (float[N, 4] x) => (int64[N] label, float[N, 4] p) {
        p = Softmax<axis = 1>(x)
        label = ArgMax<axis = 1, keepdims = 0>(p)
    }""")


TWICE = model_of("m (float[N, 4] x) => (float[N, 4] u, float[N, 4] v) { u = Neg(x) v = Abs(x) }")


def onehot(places: np.ndarray, classes: int = 3) -> np.ndarray:
    return np.eye(classes)[places]


Formula = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


FORMULAS: dict[str, Formula] = {
    "0.3*a + 0.3*b": lambda a, b, c: np.float32(0.3) * a + np.float32(0.3) * b,
    "a - 2*b + 0.5": lambda a, b, c: a - 2 * b + np.float32(0.5),
    "a + a": lambda a, b, c: 2 * a,
    "mean(a, b, c)": lambda a, b, c: (a + b + c) / 3,
    "mean(a, b, weights=[3, 1])": lambda a, b, c: (3 * a + b) / 4,
    "median(a, b)": lambda a, b, c: (a + b) / 2,
    "median(a, b, c)": lambda a, b, c: np.sort(np.stack([a, b, c]), 0)[1],
    "min(a, b, c)": lambda a, b, c: np.minimum(np.minimum(a, b), c),
    "max(a, b)": lambda a, b, c: np.maximum(a, b),
    "product(a, b, c)": lambda a, b, c: a * b * c,
    "a * b": lambda a, b, c: a * b,
    "softmax(a)": lambda a, b, c: softmax(a),
    "softmax(a, axis=0)": lambda a, b, c: softmax(a.T).T,
    "log_softmax(a)": lambda a, b, c: np.log(softmax(a)),
    "sigmoid(a)": lambda a, b, c: 1 / (1 + np.exp(-a)),
    "argmax(a + b)": lambda a, b, c: np.argmax(a + b, 1),
    "geometric_mean(softmax(a), softmax(b))": lambda a, b, c: np.sqrt(softmax(a) * softmax(b)),
    "geometric_mean(sigmoid(a), sigmoid(b), weights=[1, 3])": lambda a, b, c: (
        (1 / (1 + np.exp(-a))) ** 0.25 * (1 / (1 + np.exp(-b))) ** 0.75
    ),
    "vote(a, b, c)": lambda a, b, c: sum(onehot(y.argmax(1)) for y in (a, b, c)) / 3,
    "vote(a, b, c, weights=[3, 1, 1])": lambda a, b, c: (
        0.6 * onehot(a.argmax(1)) + 0.2 * onehot(b.argmax(1)) + 0.2 * onehot(c.argmax(1))
    ),
    "argmax(vote(a, b, ties='first'))": lambda a, b, c: a.argmax(1),
    "argmax(vote(a, b, ties='lowest'))": lambda a, b, c: np.minimum(a.argmax(1), b.argmax(1)),
    "argmax(vote(a, b, ties='mean'))": lambda a, b, c: np.where(
        (a + b)[np.arange(len(a)), a.argmax(1)] >= (a + b)[np.arange(len(a)), b.argmax(1)],
        a.argmax(1),
        b.argmax(1),
    ),
    "vote(argmax(a), argmax(b), ties='first')": lambda a, b, c: a.argmax(1),
    "vote(argmax(a), argmax(b))": lambda a, b, c: np.minimum(a.argmax(1), b.argmax(1)),
    "vote(argmax(a), argmax(b), argmax(c), weights=[3, 1, 1])": lambda a, b, c: a.argmax(1),
    "boost(a, b, rate=0.5, base=1)": lambda a, b, c: a / 2 + b / 2 + 1,
    "mean(max(a, b), softmax(c))": lambda a, b, c: (np.maximum(a, b) + softmax(c)) / 2,
}  # fmt: skip


@pytest.mark.parametrize("rows", BATCHES)
@pytest.mark.parametrize("text", FORMULAS)
def test_operators_are_their_formulas(text: str, rows: int):
    x = drawn(rows)
    (found,) = evaluate(text, MEMBERS, {"x": x}).values()
    expected = FORMULAS[text](*own_outputs(x))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_statements_are_outputs_by_name():
    x = drawn(5)
    a, b, _ = own_outputs(x)
    found = evaluate("_s = a + b; scores = softmax(_s); label = argmax(scores)", MEMBERS, {"x": x})
    assert list(found) == ["scores", "label"]
    np.testing.assert_allclose(found["scores"], softmax(a + b), rtol=1e-5)
    np.testing.assert_array_equal(found["label"], (a + b).argmax(1))


def test_floats_of_several_widths_meet_in_the_widest():
    x = drawn(4)
    members = {"half": scorer(1, "float16"), "single": B, "double": scorer(3, "double")}
    half, single, _ = own_outputs(x, **members)
    found = evaluate("half + single", members, {"x": x})["y"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, half.astype(np.float32) + single)
    assert evaluate("mean(half, single, double)", members, {"x": x})["y"].dtype == np.float64
    assert evaluate("half - half", members, {"x": x})["y"].dtype == np.float16


def test_labels_are_added_as_float32():
    x = drawn(4)
    found = evaluate("mean(m.label, m.label, m.label)", {"m": LABELLED}, {"x": x})["label"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, x.argmax(1))


def test_votes_of_strings_are_strings():
    def fixed(*labels: str) -> ir.Model:
        written = ", ".join(f'"{label}"' for label in labels)
        return model_of(f"""
            m (float[N, 4] x) => (string[3] y) {{ y = Constant<value_strings = [{written}]>() }}""")

    members = {"a": fixed("cat", "dog", "eel"), "b": fixed("bat", "dog", "ant"),
               "c": fixed("ant", "cow", "ant")}  # fmt: skip
    vote = evaluate("vote(a, b, c)", members, {"x": drawn(1)})["y"]
    assert vote.tolist() == ["ant", "dog", "ant"]
    first = evaluate("vote(a, b, c, ties='first')", members, {"x": drawn(1)})["y"]
    assert first.tolist() == ["cat", "dog", "ant"]


def test_votes_of_equal_fractions_are_tied():
    x = drawn(50)
    a, b, c = own_outputs(x)
    assert 0.1 + 0.2 != 0.3
    found = evaluate("vote(a, b, c, weights=[0.1, 0.2, 0.3])", MEMBERS, {"x": x})["y"]
    for row, shares in enumerate(found):
        votes = [Fraction(0)] * 3
        for y, weight in ((a, 1), (b, 2), (c, 3)):
            votes[y[row].argmax()] += Fraction(weight, 6)
        assert shares.argmax() == votes.index(max(votes))


def test_nan_is_handed_on():
    x = drawn(3)
    x[1, 0] = np.nan
    for text in ("a + b", "mean(a, b)", "median(a, b, c)", "min(a, b)", "max(a, b)"):
        found = evaluate(text, MEMBERS, {"x": x})["y"]
        assert np.isnan(found[1]).all()
        assert not np.isnan(found[[0, 2]]).any()


HEAD = model_of("""
    m (float[N, 3] h) => (float[N, 2] z) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> {
        z = MatMul(h, w)
    }""")


GATED = model_of(
    """
    m (float[N, 3] h, float[N, 4] x) => (float[N, 3] y) {
        s = ReduceSum<keepdims = 1>(x, one)
        y = Add(h, s)
    }""".replace("=> (float[N, 3] y)", "=> (float[N, 3] y) <int64[1] one = {1}>")
)


W = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


def test_chains_feed_by_name_and_shape():
    x = drawn(6)
    a, b, _ = own_outputs(x)
    members = {**MEMBERS, "head": HEAD, "gate": GATED}
    cases = {
        "a >> head": a @ W,
        "a + b >> head": (a + b) @ W,
        "a >> gate": a + x.sum(1, keepdims=True),
        "a >> gate >> head": (a + x.sum(1, keepdims=True)) @ W,
        "a >> gate >> gate": a + 2 * x.sum(1, keepdims=True),
        "head(h=a)": a @ W,
        "a >> gate(x=2 * c4)": a + 2 * x.sum(1, keepdims=True),
        "gate(h=b) >> head": (b + x.sum(1, keepdims=True)) @ W,
        "0.5 * (a >> head) + 0.5 * (b >> head)": (a + b) @ W / 2,
        "a >> mean(head, 3 * head)": 2 * a @ W,
    }
    members["c4"] = model_of("m (float[N, 4] x) => (float[N, 4] y) { y = Identity(x) }")
    for text, expected in cases.items():
        (found,) = evaluate(text, members, {"x": x}).values()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=text)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("a >> b", "nothing in front of >> feeds b"),
        ("b(x=a)", "does not fit input x float[N, 4] of b"),
        ("b(z=a)", "b has no input 'z'"),
        ("a + d", "there is no member 'd'"),
        ("a.logits", "a has no output 'logits'"),
        ("a + twice", "differ in number"),
        ("mean(m, m)", "floats beside labels"),
        ("label = m", "several outputs"),
        ("soup(a, b)", "a model of its own"),
        ("stack(a, b)", "no meta-model"),
        ("subset(a, [4])", "no such columns"),
        ("tta(a, 'flip')", "no model in it has such an input"),
        ("cascade(m, m, confidence=0.5)", "holds no probabilities"),
        ("argmax(m.label)", "holds floats"),
    ],
)
def test_what_cannot_be_computed_is_refused(text: str, cause: str):
    with pytest.raises(GraphoptError) as refused:
        evaluate(text, {**MEMBERS, "m": LABELLED, "twice": TWICE}, {"x": drawn(2)})
    assert cause in refused.value.cause


def test_a_missing_input_is_named():
    with pytest.raises(GraphoptError, match="input 'x' of member 'a' is missing; there is y"):
        evaluate("a", MEMBERS, {"y": drawn(2)})


PARTLY = model_of("""
    m (float[N, 4] x, float[N, 4] z, bool c) => (float[N, 4] y, float[N, 4] w, float[N, 4] v) {
        y = Softmax(x)
        n = Neg(z)
        w = If(c) <then_branch = t () => (float[N, 4] tw) { tw = Add(n, x) },
                   else_branch = e () => (float[N, 4] ew) { ew = Identity(x) }>
        v = Abs(y)
    }""")


"""w needs z, which only a body reads, and c."""


OTHERWISE = model_of("""
    m (float[N, 4] x, float[N, 4] z) => (float[N, 4] y, float[N, 4] w, float[N, 4] v) {
        h = Sigmoid(x)
        w = Mul(x, z)
        v = Exp(x)
        y = Mul(h, h)
    }""")


@pytest.mark.parametrize(
    "text",
    [
        "p.y",
        "mean(p, q).y",
        "(p - 0.5*q).v",
        "softmax(p).v",
        "vote(p, q).y",
        "cascade(p, q, confidence=0.6).y",
        "cascade(p, q, confidence=0.6).v",
        "geometric_mean(softmax(p), softmax(q)).y",
        "(p.y >> a) + a",
        "q(x=p.y).y",
        "stack(p.y, q.v, meta=s)",
        "o = mean(p.y, q.y); s = q.v",
    ],
)
def test_inputs_that_no_output_needs_may_be_missing(text: str):
    meta = model_of("s (float[N, 8] features) => (float[N, 8] y) { y = Tanh(features) }")
    members = {"p": PARTLY, "q": OTHERWISE, "a": A, "s": meta}
    x = drawn(7)
    full = {"x": x, "z": drawn(7, seed=5), "c": np.asarray(True)}
    expected = evaluate(text, members, full)
    found = evaluate(text, members, {"x": x})
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("p.w", "z' of member 'p"),
        ("p", "z' of member 'p"),
        ("mean(p, q)", "z' of members 'p' and 'q"),
        ("cascade(p, q, confidence=0.6, on='w').y", "z' of member 'p"),
        ("q.w >> a", "z' of member 'q"),
        ("stack(q.y, meta=s, passthrough=True)", "z' of member 'q"),
        ("r(x=q.w).u", "z' of member 'q"),
    ],
)
def test_inputs_that_an_output_needs_may_not(text: str, name: str):
    meta = model_of("s (float[N, K] features) => (float[N, K] y) { y = Tanh(features) }")
    members = {"p": PARTLY, "q": OTHERWISE, "a": A, "s": meta, "r": TWICE}
    with pytest.raises(GraphoptError, match=f"input '{name}' is missing; there is x"):
        evaluate(text, members, {"x": drawn(7)})


def test_the_types_of_outputs_that_declare_none_are_inferred():
    bare = scorer(1)
    bare.graph.outputs[0].type = bare.graph.outputs[0].shape = None
    found = evaluate("mean(a, bare)", {"a": A, "bare": bare}, {"x": drawn(5)})["y"]
    np.testing.assert_allclose(found, own_outputs(drawn(5), a=A)[0], rtol=1e-6)
    assert bare.graph.outputs[0].type is None


def test_the_mapping_names_inputs():
    x, y = drawn(3), drawn(3, seed=9)
    other = scorer(2, name="z")
    found = evaluate("a + b", {"a": A, "b": other}, {"x": x, "given": y}, mapping={"b.z": "given"})
    expected = own_outputs(x, a=A)[0] + Session(other).run({"z": y})["y"]
    np.testing.assert_allclose(found["y"], expected, rtol=1e-6)


def test_members_run_once_however_many_weights_are_tried():
    Counting.runs = 0
    reference = Reference(Counting(MEMBERS), {"x": drawn(8)})
    a, b = Member("a"), Member("b")
    for step in range(20):
        share = step / 19
        found = reference.outputs(Sum(((share, a), (1 - share, b))))["y"]
        own = own_outputs(drawn(8))
        np.testing.assert_allclose(found, share * own[0] + (1 - share) * own[1], rtol=1e-4,
                                   atol=1e-6)  # fmt: skip
        reference.outputs(Combine("mean", (a, b, a), (1.0, 2.0, 1.0 + step)))
    assert Counting.runs == 2


def test_what_is_kept_is_bounded_and_changes_nothing():
    text = "p = mean(softmax(a), softmax(b)); y = argmax(p); z = a >> head"
    members = {**MEMBERS, "head": HEAD}
    kept = Reference(Sessions(members), {"x": drawn(8)})
    tight = Reference(Sessions(members), {"x": drawn(8)}, memory=1)
    for _ in range(3):
        for name, array in kept.outputs(text).items():
            np.testing.assert_array_equal(array, tight.outputs(text)[name])


def test_no_rows_have_no_labels() -> None:
    members = {"a": LABELLED, "b": LABELLED}
    found = evaluate("vote(a.label, b.label)", members, {"x": drawn(0)})
    assert found["label"].shape == (0,)
    assert found["label"].dtype == np.int64
