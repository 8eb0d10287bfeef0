"""One model of an expression and its members, against numpy formulas over what each computes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import scipy.special

import graphopt
from graphopt.ensembles import functions
from graphopt.ensembles.build import NOTES_KEY, prepare
from graphopt.ensembles.provenance import KEY, read_provenance
from graphopt.ensembles.source import ExpressionError
from graphopt.ensembles.verification import verify
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Feeds
from graphopt.runtime.session import Session

_soft = partial(scipy.special.softmax, axis=-1)

FIXTURES = Path(__file__).parents[2] / "fixtures"
BATCHES = (1, 7, 32)
DIGITS = {name: FIXTURES / f"digits_{name}.onnx" for name in ("cnn", "mlp", "resnet", "separable")}
Own = dict[str, np.ndarray]


@cache
def _images() -> np.ndarray:
    with np.load(FIXTURES / "digits_test.npz") as data:
        return data["image"]


@cache
def _session(name: str) -> Session:
    return Session(DIGITS[name])


def _used(text: str) -> dict[str, Path]:
    return {name: path for name, path in DIGITS.items() if name in text}


def _votes(*scores: np.ndarray) -> np.ndarray:
    return sum(np.eye(10)[y.argmax(1)] for y in scores) / len(scores)


def _cascaded(first: np.ndarray, second: np.ndarray, threshold: float) -> np.ndarray:
    sure = first.max(1, keepdims=True) >= np.float32(threshold)
    return np.where(sure, first, second)


def _flipped(name: str, x: np.ndarray) -> np.ndarray:
    return _session(name).run({"image": np.ascontiguousarray(x[..., ::-1])})["logits"]


CASES: dict[str, Callable[[Own, np.ndarray], np.ndarray]] = {
    "cnn": lambda y, x: y["cnn"],
    "0.3*cnn + 0.3*mlp": lambda y, x: np.float32(0.3) * y["cnn"] + np.float32(0.3) * y["mlp"],
    "0.5*cnn - mlp/4 + 1": lambda y, x: y["cnn"] / 2 - y["mlp"] / 4 + 1,
    "cnn + cnn": lambda y, x: 2 * y["cnn"],
    "mean(cnn, mlp, resnet)": lambda y, x: (y["cnn"] + y["mlp"] + y["resnet"]) / 3,
    "mean(cnn, mlp, weights=[3, 1])": lambda y, x: 0.75 * y["cnn"] + 0.25 * y["mlp"],
    "median(cnn, mlp, resnet, separable)": lambda y, x: np.median(
        np.stack([y["cnn"], y["mlp"], y["resnet"], y["separable"]]), 0
    ),
    "min(cnn, mlp)": lambda y, x: np.minimum(y["cnn"], y["mlp"]),
    "max(cnn, mlp, resnet)": lambda y, x: np.max(np.stack([y["cnn"], y["mlp"], y["resnet"]]), 0),
    "softmax(cnn) * softmax(mlp)": lambda y, x: _soft(y["cnn"]) * _soft(y["mlp"]),
    "geometric_mean(softmax(cnn), softmax(mlp))": lambda y, x: np.sqrt(
        _soft(y["cnn"]).astype(float) * _soft(y["mlp"])
    ),
    "sigmoid(mlp)": lambda y, x: 1 / (1 + np.exp(-y["mlp"])),
    "log_softmax(mlp)": lambda y, x: np.log(_soft(y["mlp"].astype(float))),
    "argmax(mean(softmax(cnn), softmax(mlp)))": lambda y, x: (
        _soft(y["cnn"]) + _soft(y["mlp"])
    ).argmax(1),
    "vote(cnn, mlp, resnet)": lambda y, x: _votes(y["cnn"], y["mlp"], y["resnet"]),
    "vote(argmax(mlp), argmax(cnn), ties='first')": lambda y, x: y["mlp"].argmax(1),
    "0.6*softmax(mlp) + 0.4*vote(cnn, resnet)": lambda y, x: (
        0.6 * _soft(y["mlp"]) + 0.4 * _votes(y["cnn"], y["resnet"])
    ),
    "cascade(softmax(mlp), softmax(cnn), confidence=0.999)": lambda y, x: _cascaded(
        _soft(y["mlp"]), _soft(y["cnn"]), 0.999
    ),
    "tta(mlp, 'flip')": lambda y, x: (y["mlp"] + _flipped("mlp", x)) / 2,
    "boost(cnn, mlp, rate=0.1, base=2)": lambda y, x: (y["cnn"] + y["mlp"]) / 10 + 2,
}


@pytest.mark.parametrize("text", CASES)
def test_the_graph_computes_the_formula(text: str):
    session = Session(graphopt.ensemble(text, _used(text)))
    assert session.input_names == ("image",)
    for rows in BATCHES:
        x = _images()[:rows]
        own = {name: _session(name).run({"image": x})["logits"] for name in _used(text)}
        (found,) = session.run({"image": x}).values()
        np.testing.assert_allclose(found, CASES[text](own, x), rtol=1e-4, atol=2e-5)


def test_python_builds_the_same_model_as_text():
    a, b = (graphopt.member(DIGITS[name], name) for name in ("cnn", "mlp"))
    made = graphopt.ensemble(0.5 * functions.softmax(a) + 0.5 * functions.softmax(b))
    read = graphopt.ensemble("0.5*softmax(cnn) + 0.5*softmax(mlp)", _used("cnn mlp"))
    assert ir.to_proto(made).SerializeToString() == ir.to_proto(read).SerializeToString()


def test_the_same_ensemble_has_the_same_bytes(tmp_path: Path):
    text = "p = vote(cnn, mlp, ties='mean'); y = argmax(cascade(softmax(cnn), mlp, confidence=0.5))"
    for name in ("one", "two"):
        graphopt.save(graphopt.ensemble(text, _used(text)), tmp_path / f"{name}.onnx")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    onnx.checker.check_model(tmp_path / "one.onnx", full_check=True)


def test_what_it_was_made_of_is_kept(tmp_path: Path):
    folder = tmp_path / "secret folder"
    folder.mkdir()
    file = folder / "weights.onnx"
    shutil.copy(DIGITS["mlp"], file)
    model = graphopt.ensemble("0.5*a + .5*b", {"a": file, "b": graphopt.load(DIGITS["cnn"])})
    graphopt.save(model, tmp_path / "out.onnx")
    read = graphopt.load(tmp_path / "out.onnx")
    assert "secret folder" not in read.metadata_props[KEY]
    kept = read_provenance(read)
    assert kept is not None
    assert kept.expression == "0.5 * a + 0.5 * b"
    first, second = kept.members
    assert (first.name, first.file) == ("a", "weights.onnx")
    assert first.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (second.name, second.file, second.sha256) == ("b", None, None)
    result = graphopt.run(read, graphopt.parse("cleanup"))
    assert read_provenance(result.model) == kept


@pytest.mark.parametrize("text", ["{", "[]", '{"members": 1}', "[" * 100_000, "1" * (3 << 20)])
def test_metadata_that_say_nothing_are_refused(text: str):
    model = graphopt.load(DIGITS["mlp"])
    assert read_provenance(model) is None
    model.metadata_props[KEY] = text
    with pytest.raises(GraphoptError, match="cannot be read"):
        read_provenance(model)


def test_metadata_are_bounded():
    members = {f"{'m' * 190}{index}": DIGITS["mlp"] for index in range(3)}
    model = graphopt.ensemble(" + ".join(members), members)
    assert len(json.loads(model.metadata_props[KEY])["members"]) == 3


def test_an_unknown_member_is_pointed_at():
    with pytest.raises(ExpressionError) as refused:
        graphopt.ensemble("(0.5*cnn +\n  0.5*(cnn + mpl))", _used("cnn mlp"))
    assert refused.value.cause == "there is no member 'mpl' (line 2, column 14)"
    assert refused.value.fix == "did you mean 'mlp'?"
    assert str(refused.value).endswith("\n    0.5*(cnn + mpl))\n               ^")


@pytest.mark.parametrize(
    ("text", "members", "cause"),
    [
        ("a", {}, "there is no member 'a'"),
        ("cnn", ("cnn", "mlp"), "'mlp' is given, and the expression does not use it"),
        ("cnn >> mlp", ("cnn", "mlp"), "nothing in front of >> feeds mlp"),
        ("mlp(image=cnn)", ("cnn", "mlp"), "does not fit input image"),
        ("cnn.probabilities", ("cnn",), "no output 'probabilities'"),
        ("stack(cnn, mlp)", ("cnn", "mlp"), "no meta-model"),
        ("soup(cnn, mlp)", ("cnn", "mlp"), "member mlp has another architecture than cnn"),
        ("vote(argmax(cnn), ties='mean')", ("cnn",), "wants scores"),
        ("softmax(cnn, axis=5)", ("cnn",), "no axis 5"),
    ],
)
def test_what_does_not_go_together_is_refused(text: str, members: tuple[str, ...], cause: str):
    with pytest.raises(GraphoptError) as refused:
        graphopt.ensemble(text, {name: DIGITS[name] for name in members})
    assert cause in refused.value.cause
    assert "\n" not in refused.value.args[0]


def test_members_must_be_files_with_models(tmp_path: Path):
    with pytest.raises(GraphoptError, match=r"nowhere\.onnx: cannot be opened"):
        graphopt.ensemble("a", {"a": tmp_path / "nowhere.onnx"})
    with pytest.raises(GraphoptError, match=r"nowhere\.onnx: cannot be opened"):
        graphopt.ensemble("a", {"a": tmp_path / "nowhere.onnx", "unused": DIGITS["mlp"]})
    with pytest.raises(GraphoptError, match="this is a function; call it mean_model"):
        graphopt.ensemble("a", {"a": DIGITS["mlp"], "mean": DIGITS["cnn"]})


def test_two_models_of_one_name_are_refused():
    a, b = graphopt.member(DIGITS["cnn"], "a"), graphopt.member(DIGITS["mlp"], "a")
    with pytest.raises(GraphoptError, match="two models are called 'a'"):
        graphopt.ensemble(a + b)
    with pytest.raises(GraphoptError, match="two models are called 'a'"):
        graphopt.ensemble(a + a, {"a": DIGITS["mlp"]})
    assert graphopt.ensemble(a + a, {"a": DIGITS["cnn"]}).graph.outputs[0].name == "logits"


@pytest.mark.parametrize(
    ("file", "name"),
    [("resnet-20.v2.onnx", "resnet_20_v2"), ("20.onnx", "m_20"), ("mean.onnx", "mean_model"),
     ("é.onnx", "member"), ("for.onnx", "for_model")],
)  # fmt: skip
def test_members_are_called_as_their_files(file: str, name: str):
    assert graphopt.member(Path("folder") / file).name == name


def test_one_file_under_two_names_is_two_members():
    model = graphopt.ensemble("a - b", {"a": DIGITS["mlp"], "b": DIGITS["mlp"]})
    found = Session(model).run({"image": _images()[:7]})["logits"]
    np.testing.assert_array_equal(found, np.zeros((7, 10)))


def test_statements_become_outputs_in_order():
    model = graphopt.ensemble(
        "_p = mean(softmax(cnn), softmax(mlp)); scores = _p; label = argmax(_p)", _used("cnn mlp")
    )
    assert [value.name for value in model.graph.outputs] == ["scores", "label"]
    x = _images()
    found = Session(model).run({"image": x})
    own = [_soft(_session(name).run({"image": x})["logits"]) for name in ("cnn", "mlp")]
    np.testing.assert_allclose(found["scores"], sum(own) / 2, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found["label"], (sum(own) / 2).argmax(1))


def test_the_name_of_a_statement_can_stand_behind_a_chain():
    body = _text("float[N, 3] x", "float[N, 3] y", "y = Neg(x)")
    head = _text("float[N, 3] h", "float[N, 3] z", "z = Abs(h)")
    members = {"body": body, "head": head}
    model = graphopt.ensemble("_twice = 2 * head; z = body >> _twice", members)
    x = np.array([[1, -2, 3]], np.float32)
    np.testing.assert_array_equal(Session(model).run({"x": x})["z"], 2 * np.abs(x))


def _text(inputs: str, outputs: str, body: str) -> ir.Model:
    return ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["" : 17]> m ({inputs}) => ({outputs}) {{ {body} }}'
    )


def _linear(weight: float) -> ir.Model:
    return ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["" : 17]> m (float[N, 2] x) => (float[N, 2] y)'
        f" <float[2] w = {{{weight}, 1}}> {{ y = Mul(x, w) }}"
    )


def test_soups_become_members():
    members = {"a": _linear(1), "b": _linear(3), "c": _linear(7)}
    x = np.array([[1, 1]], np.float32)
    cases = {
        "soup(a, b)": 2,
        "soup(a, b, weights=[3, 1])": 1.5,
        "task_vectors(a, b, c)": 9,
        "0.5 * soup(a, b) + 0.5 * c": 4.5,
        "soup(soup(a, b), c, weights=[1, 1])": 4.5,
        "_s = soup(a, b); y = _s + _s": 4,
    }
    for text, expected in cases.items():
        used = {name: model for name, model in members.items() if f"{name}" in text.replace(
            "task_vectors", "").replace("soup", "").replace("weights", "")}  # fmt: skip
        found = Session(graphopt.ensemble(text, used)).run({"x": x})["y"]
        assert found[0, 0] == pytest.approx(expected), text


def test_the_mapping_makes_inputs_one():
    a = _text("float[N, 3] image", "float[N, 3] y", "y = Neg(image)")
    b = _text("float[N, 3] pixels", "float[N, 3] y", "y = Abs(pixels)")
    apart = graphopt.ensemble("a + b", {"a": a, "b": b})
    assert [value.name for value in apart.graph.inputs] == ["image", "pixels"]
    joined = graphopt.ensemble("a + b", {"a": a, "b": b}, mapping={"b.pixels": "image"})
    assert [value.name for value in joined.graph.inputs] == ["image"]
    x = np.array([[1, -2, 3]], np.float32)
    np.testing.assert_array_equal(Session(joined).run({"image": x})["y"], np.abs(x) - x)


def test_what_the_user_should_know_is_noted():
    a = _text("float[N, 3] x", "float[N, 3] y", "y = Neg(x)")
    b = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17]> m (float[N, 4] x) => (float[N, 3] y)'
        " <int64[1] zero = {0}, int64[1] three = {3}, int64[1] one = {1}>"
        " { y = Slice(x, zero, three, one) }"
    )
    model = graphopt.ensemble("a + b", {"a": a, "b": b})
    assert any("stays on its own" in note for note in model.meta[NOTES_KEY])


def test_an_output_with_the_name_of_an_input_is_renamed_and_verified():
    there = _text("float[N, 3] x", "float[N, 3] y", "y = Neg(x)")
    back = _text("float[N, 3] h", "float[N, 3] x", "x = Abs(h)")
    prepared = prepare("there >> back", {"there": there, "back": back})
    model = prepared.build()
    assert [value.name for value in model.graph.outputs] == ["x_output"]
    feeds = Feeds({"x": np.array([[1, -2, 3]] * 5, np.float32)})
    (error,) = verify(model, prepared.program, prepared.members, feeds)
    assert error.equal


def test_doubles_vote():
    one = _text("float[N, 3] x", "double[N, 3] y", "y = Cast<to = 11>(x)")
    other = _text("float[N, 3] x", "float[N, 3] y", "y = Neg(x)")
    model = graphopt.ensemble("vote(one, other, weights=[2, 1])", {"one": one, "other": other})
    found = Session(model).run({"x": np.array([[1, 2, 3]], np.float32)})["y"]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [[1 / 3, 0, 2 / 3]])


@pytest.mark.parametrize("wrong", [None, [1], {"a": 1}, True])
def test_what_is_no_expression_is_refused(wrong: object) -> None:
    with pytest.raises(GraphoptError, match="an ensemble is an expression over members"):
        graphopt.ensemble(wrong)  # type: ignore[arg-type]  # what users do
