"""Ensembles in numpy, against formulas written out here over the members' own outputs."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.ensembles.expression import Combine, Member, Sum
from graphopt.ensembles.reference import Reference, Sessions, evaluate
from graphopt.errors import GraphoptError
from graphopt.runtime.session import Session

BATCHES = (1, 7, 32)
Arrays = dict[str, np.ndarray]


def _model(text: str) -> ir.Model:
    return ir.from_onnx_text(f'<ir_version: 8, opset_import: ["" : 17]> {text}')


def _scores(seed: int, kind: str = "float", name: str = "x") -> ir.Model:
    """Four numbers to three scores."""
    weights = np.random.default_rng(seed).normal(size=12).round(3)
    body = ", ".join(map(str, weights))
    return _model(f"""
        m (float[N, 4] {name}) => ({kind}[N, 3] y) <float[4, 3] w = {{{body}}}> {{
            f = MatMul({name}, w)
            y = Cast<to = {ir.DataType[{"float": "FLOAT"}.get(kind, kind.upper())].value}>(f)
        }}""")


A, B, C = _scores(1), _scores(2), _scores(3)
MEMBERS = {"a": A, "b": B, "c": C}
LABELLED = _model("""
    m (float[N, 4] x) => (int64[N] label, float[N, 4] p) {
        p = Softmax<axis = 1>(x)
        label = ArgMax<axis = 1, keepdims = 0>(p)
    }""")

TWICE = _model("m (float[N, 4] x) => (float[N, 4] u, float[N, 4] v) { u = Neg(x) v = Abs(x) }")


def _x(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32)


def _own(x: np.ndarray, **members: ir.Model) -> list[np.ndarray]:
    return [Session(model).run({"x": x})["y"] for model in (members or MEMBERS).values()]


def _softmax(y: np.ndarray) -> np.ndarray:
    powers = np.exp(y - y.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _onehot(places: np.ndarray, classes: int = 3) -> np.ndarray:
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
    "softmax(a)": lambda a, b, c: _softmax(a),
    "softmax(a, axis=0)": lambda a, b, c: _softmax(a.T).T,
    "log_softmax(a)": lambda a, b, c: np.log(_softmax(a)),
    "sigmoid(a)": lambda a, b, c: 1 / (1 + np.exp(-a)),
    "argmax(a + b)": lambda a, b, c: np.argmax(a + b, 1),
    "geometric_mean(softmax(a), softmax(b))": lambda a, b, c: np.sqrt(_softmax(a) * _softmax(b)),
    "geometric_mean(sigmoid(a), sigmoid(b), weights=[1, 3])": lambda a, b, c: (
        (1 / (1 + np.exp(-a))) ** 0.25 * (1 / (1 + np.exp(-b))) ** 0.75
    ),
    "vote(a, b, c)": lambda a, b, c: sum(_onehot(y.argmax(1)) for y in (a, b, c)) / 3,
    "vote(a, b, c, weights=[3, 1, 1])": lambda a, b, c: (
        0.6 * _onehot(a.argmax(1)) + 0.2 * _onehot(b.argmax(1)) + 0.2 * _onehot(c.argmax(1))
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
    "mean(max(a, b), softmax(c))": lambda a, b, c: (np.maximum(a, b) + _softmax(c)) / 2,
}  # fmt: skip


@pytest.mark.parametrize("rows", BATCHES)
@pytest.mark.parametrize("text", FORMULAS)
def test_operators_are_their_formulas(text: str, rows: int):
    x = _x(rows)
    (found,) = evaluate(text, MEMBERS, {"x": x}).values()
    expected = FORMULAS[text](*_own(x))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_statements_are_outputs_by_name():
    x = _x(5)
    a, b, _ = _own(x)
    found = evaluate("_s = a + b; scores = softmax(_s); label = argmax(scores)", MEMBERS, {"x": x})
    assert list(found) == ["scores", "label"]
    np.testing.assert_allclose(found["scores"], _softmax(a + b), rtol=1e-5)
    np.testing.assert_array_equal(found["label"], (a + b).argmax(1))


def test_floats_of_several_widths_meet_in_the_widest():
    x = _x(4)
    members = {"half": _scores(1, "float16"), "single": B, "double": _scores(3, "double")}
    half, single, _ = _own(x, **members)
    found = evaluate("half + single", members, {"x": x})["y"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, half.astype(np.float32) + single)
    assert evaluate("mean(half, single, double)", members, {"x": x})["y"].dtype == np.float64
    assert evaluate("half - half", members, {"x": x})["y"].dtype == np.float16


def test_labels_are_added_as_float32():
    x = _x(4)
    found = evaluate("mean(m.label, m.label, m.label)", {"m": LABELLED}, {"x": x})["label"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, x.argmax(1))


def test_votes_of_strings_are_strings():
    def fixed(*labels: str) -> ir.Model:
        written = ", ".join(f'"{label}"' for label in labels)
        return _model(f"""
            m (float[N, 4] x) => (string[3] y) {{ y = Constant<value_strings = [{written}]>() }}""")

    members = {"a": fixed("cat", "dog", "eel"), "b": fixed("bat", "dog", "ant"),
               "c": fixed("ant", "cow", "ant")}  # fmt: skip
    vote = evaluate("vote(a, b, c)", members, {"x": _x(1)})["y"]
    assert vote.tolist() == ["ant", "dog", "ant"]
    first = evaluate("vote(a, b, c, ties='first')", members, {"x": _x(1)})["y"]
    assert first.tolist() == ["cat", "dog", "ant"]


def test_votes_of_equal_fractions_are_tied():
    x = _x(50)
    a, b, c = _own(x)
    assert 0.1 + 0.2 != 0.3
    found = evaluate("vote(a, b, c, weights=[0.1, 0.2, 0.3])", MEMBERS, {"x": x})["y"]
    for row, shares in enumerate(found):
        votes = [Fraction(0)] * 3
        for y, weight in ((a, 1), (b, 2), (c, 3)):
            votes[y[row].argmax()] += Fraction(weight, 6)
        assert shares.argmax() == votes.index(max(votes))


def test_nan_is_handed_on():
    x = _x(3)
    x[1, 0] = np.nan
    for text in ("a + b", "mean(a, b)", "median(a, b, c)", "min(a, b)", "max(a, b)"):
        found = evaluate(text, MEMBERS, {"x": x})["y"]
        assert np.isnan(found[1]).all()
        assert not np.isnan(found[[0, 2]]).any()


HEAD = _model("""
    m (float[N, 3] h) => (float[N, 2] z) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> {
        z = MatMul(h, w)
    }""")
GATED = _model(
    """
    m (float[N, 3] h, float[N, 4] x) => (float[N, 3] y) {
        s = ReduceSum<keepdims = 1>(x, one)
        y = Add(h, s)
    }""".replace("=> (float[N, 3] y)", "=> (float[N, 3] y) <int64[1] one = {1}>")
)
W = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


def test_chains_feed_by_name_and_shape():
    x = _x(6)
    a, b, _ = _own(x)
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
    members["c4"] = _model("m (float[N, 4] x) => (float[N, 4] y) { y = Identity(x) }")
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
        evaluate(text, {**MEMBERS, "m": LABELLED, "twice": TWICE}, {"x": _x(2)})
    assert cause in refused.value.cause


def test_a_missing_input_is_named():
    with pytest.raises(GraphoptError, match="input 'x' of member 'a' is missing; there is y"):
        evaluate("a", MEMBERS, {"y": _x(2)})


PARTLY = _model("""
    m (float[N, 4] x, float[N, 4] z, bool c) => (float[N, 4] y, float[N, 4] w, float[N, 4] v) {
        y = Softmax(x)
        n = Neg(z)
        w = If(c) <then_branch = t () => (float[N, 4] tw) { tw = Add(n, x) },
                   else_branch = e () => (float[N, 4] ew) { ew = Identity(x) }>
        v = Abs(y)
    }""")
"""w needs z, which only a body reads, and c."""

OTHERWISE = _model("""
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
    meta = _model("s (float[N, 8] features) => (float[N, 8] y) { y = Tanh(features) }")
    members = {"p": PARTLY, "q": OTHERWISE, "a": A, "s": meta}
    x = _x(7)
    full = {"x": x, "z": _x(7, seed=5), "c": np.asarray(True)}
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
    meta = _model("s (float[N, K] features) => (float[N, K] y) { y = Tanh(features) }")
    members = {"p": PARTLY, "q": OTHERWISE, "a": A, "s": meta, "r": TWICE}
    with pytest.raises(GraphoptError, match=f"input '{name}' is missing; there is x"):
        evaluate(text, members, {"x": _x(7)})


def test_the_types_of_outputs_that_declare_none_are_inferred():
    bare = _scores(1)
    bare.graph.outputs[0].type = bare.graph.outputs[0].shape = None
    found = evaluate("mean(a, bare)", {"a": A, "bare": bare}, {"x": _x(5)})["y"]
    np.testing.assert_allclose(found, _own(_x(5), a=A)[0], rtol=1e-6)
    assert bare.graph.outputs[0].type is None


def test_the_mapping_names_inputs():
    x, y = _x(3), _x(3, seed=9)
    other = _scores(2, name="z")
    found = evaluate("a + b", {"a": A, "b": other}, {"x": x, "given": y}, mapping={"b.z": "given"})
    expected = _own(x, a=A)[0] + Session(other).run({"z": y})["y"]
    np.testing.assert_allclose(found["y"], expected, rtol=1e-6)


def _confidences(p: np.ndarray, rule: str) -> np.ndarray:
    top = np.sort(p, -1)
    if rule == "margin":
        return top[:, -1] - top[:, -2]
    if rule == "entropy":
        return 1 + (p * np.log(p)).sum(-1) / np.log(p.shape[-1])
    return top[:, -1]


@pytest.mark.parametrize("rows", BATCHES)
@pytest.mark.parametrize("rule", ["max_probability", "margin", "entropy"])
def test_a_cascade_takes_each_row_from_the_first_sure_stage(rule: str, rows: int):
    x = _x(rows)
    a, b, c = map(_softmax, _own(x))
    text = f"cascade(softmax(a), softmax(b), softmax(c), confidence=[0.7, 0.5], rule={rule!r})"
    (found,) = evaluate(text, MEMBERS, {"x": x}).values()
    sure_a, sure_b = _confidences(a, rule) >= 0.7, _confidences(b, rule) >= 0.5
    expected = np.where(sure_a[:, None], a, np.where(sure_b[:, None], b, c))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


COUNTER = _model(
    """
    m (float[N, 4] x) => (float[N, 3] y) <int64[1] all = {-1}, float[1, 3] ones = {1, 1, 1}> {
        s = Shape<start = 0, end = 1>(x)
        n = Cast<to = 1>(s)
        z = Mul(n, ones)
        e = Slice(x, zero, three, one)
        q = IsNaN(e)
        f = Cast<to = 1>(q)
        m0 = Mul(f, nil)
        y = Add(m0, z)
    }""".replace(
        "<int64[1] all = {-1},",
        "<int64[1] zero = {0}, int64[1] three = {3}, int64[1] one = {1}, float nil = {0},",
    )
)


def test_a_later_stage_sees_the_unsure_rows_only():
    x = _x(32)
    p = _softmax(_own(x)[0])
    unsure = ~(p.max(-1) >= 0.6)
    assert 0 < unsure.sum() < 32
    members = {**MEMBERS, "counter": COUNTER}
    (found,) = evaluate("cascade(softmax(a), counter, confidence=0.6)", members, {"x": x}).values()
    np.testing.assert_allclose(found[~unsure], p[~unsure], rtol=1e-5)
    np.testing.assert_array_equal(found[unsure], np.full((unsure.sum(), 3), unsure.sum()))
    (nested,) = evaluate(
        "cascade(softmax(a), cascade(softmax(b), counter, confidence=0.6), confidence=0.6)",
        members, {"x": x},
    ).values()  # fmt: skip
    both = unsure & ~(_softmax(_own(x)[1]).max(-1) >= 0.6)
    np.testing.assert_array_equal(nested[both], np.full((both.sum(), 3), both.sum()))


def test_nan_is_unsure():
    x = _x(4)
    x[2] = np.nan
    found = evaluate("cascade(softmax(a), counter, confidence=0)", {"a": A, "counter": COUNTER},
                     {"x": x})["y"]  # fmt: skip
    np.testing.assert_array_equal(found[2], [1, 1, 1])
    assert (found[[0, 1, 3]].sum(-1) < 1.001).all()


def test_a_stack_feeds_rows_of_all_outputs():
    x = _x(5)
    a, b, _ = _own(x)
    meta = _model(
        """
        m (float[N, 10] rows) => (float[N, 1] z) <int64[1] axis = {1}> {
            z = ReduceMax<keepdims = 1>(rows, axis)
        }""".replace("ReduceMax<keepdims = 1>(rows, axis)", "ReduceSum<keepdims = 1>(rows, axis)")
    )
    found = evaluate("stack(a, b, meta=m, passthrough=True)", {**MEMBERS, "m": meta}, {"x": x})["z"]
    expected = np.concatenate([x, a, b], 1).sum(1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_subset_sees_its_columns():
    x = _x(5)
    narrow = _model("m (float[N, K] x) => (float[N, K] y) { y = Neg(x) }")
    found = evaluate("subset(n, [3, 0])", {"n": narrow}, {"x": x})["y"]
    np.testing.assert_array_equal(found, -x[:, [3, 0]])
    bag = evaluate("bag(n, n, columns=[[0, 1], [2, 3]])", {"n": narrow}, {"x": x})["y"]
    np.testing.assert_allclose(bag, -(x[:, :2] + x[:, 2:]) / 2, rtol=1e-6)


IMAGE = _model("""
    m (float[N, 1, 3, 4] image) => (float[N, 1, 3, 4] map, float[N, 4] columns) <
        float[1, 1, 3, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, int64[2] axes = {1, 2}> {
        map = Mul(image, w)
        columns = ReduceSum<keepdims = 0>(map, axes)
    }""")


@pytest.mark.parametrize("rows", BATCHES)
def test_flips_are_averaged_and_maps_flipped_back(rows: int):
    image = np.random.default_rng(0).normal(size=(rows, 1, 3, 4)).astype(np.float32)
    found = evaluate("tta(m, 'flip', 'vertical', 'both')", {"m": IMAGE}, {"image": image})
    w = np.arange(1, 13, dtype=np.float32).reshape(1, 1, 3, 4)
    flips = [(), (3,), (2,), (2, 3)]
    maps = [np.flip(np.flip(image, axes) * w, axes) for axes in flips]
    columns = [(np.flip(image, axes) * w).sum((1, 2)) for axes in flips]
    np.testing.assert_allclose(found["map"], sum(maps) / 4, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["columns"], sum(columns) / 4, rtol=1e-4, atol=1e-5)


class _Counting(Sessions):
    runs = 0

    def run(self, *given: object, **named: object) -> Arrays:
        type(self).runs += 1
        return super().run(*given, **named)  # type: ignore[arg-type]  # handed on as it came


def test_members_run_once_however_many_weights_are_tried():
    _Counting.runs = 0
    reference = Reference(_Counting(MEMBERS), {"x": _x(8)})
    a, b = Member("a"), Member("b")
    for step in range(20):
        share = step / 19
        found = reference.outputs(Sum(((share, a), (1 - share, b))))["y"]
        own = _own(_x(8))
        np.testing.assert_allclose(found, share * own[0] + (1 - share) * own[1], rtol=1e-4,
                                   atol=1e-6)  # fmt: skip
        reference.outputs(Combine("mean", (a, b, a), (1.0, 2.0, 1.0 + step)))
    assert _Counting.runs == 2


def test_what_is_kept_is_bounded_and_changes_nothing():
    text = "p = mean(softmax(a), softmax(b)); y = argmax(p); z = a >> head"
    members = {**MEMBERS, "head": HEAD}
    kept = Reference(Sessions(members), {"x": _x(8)})
    tight = Reference(Sessions(members), {"x": _x(8)}, memory=1)
    for _ in range(3):
        for name, array in kept.outputs(text).items():
            np.testing.assert_array_equal(array, tight.outputs(text)[name])


def test_no_rows_have_no_labels() -> None:
    members = {"a": LABELLED, "b": LABELLED}
    found = evaluate("vote(a.label, b.label)", members, {"x": _x(0)})
    assert found["label"].shape == (0,)
    assert found["label"].dtype == np.int64
