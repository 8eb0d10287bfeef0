from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import scipy.special

from graphopt.ensembles.expression import Combine, Member, Program, Sum
from graphopt.ensembles.fit import METHODS, fit_weights
from graphopt.ensembles.fit.combination import find
from graphopt.ensembles.text import parse, unparse
from graphopt.errors import GraphoptError
from graphopt.model import load
from graphopt.runtime.feeds import Feeds, open_feeds
from graphopt.runtime.session import Session

softmax = partial(scipy.special.softmax, axis=-1)

FIXTURES = Path(__file__).parents[3] / "fixtures"
NAMES = ("cnn", "mlp", "resnet", "separable")
NOISE = 3.0


@pytest.fixture(scope="module")
def digits() -> dict[str, ir.Model]:
    return {name: load(FIXTURES / f"digits_{name}.onnx") for name in NAMES}


@pytest.fixture(scope="module")
def noisy() -> Feeds:
    """Digits with so much noise that members err, each in its own way."""
    feeds = open_feeds(str(FIXTURES / "digits_test.npz"))
    image = feeds.arrays["image"]
    draw = np.random.default_rng(0)
    moved = (image + 0.3 * draw.normal(size=image.shape)).astype(np.float32)
    assert feeds.labels is not None
    return Feeds({"image": moved[:300]}, labels=feeds.labels[:300])


def linear(scale: float, seed: int = 0) -> ir.Model:
    """y = scale * x + noise of its own."""
    draw = np.random.default_rng(seed).normal(size=(1, 3)).astype(np.float32)
    numbers = ", ".join(map(str, draw.ravel().tolist()))
    return ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 3] x) => (float[N, 1] y)
        <float s = {{{scale}}}, float[1, 3] w = {{{numbers}}}, int64[1] one = {{1}},
         int64[1] zero = {{0}}>
        {{ a = Slice(x, zero, one, one)  b = Mul(a, s)  t = Transpose <perm = [1, 0]> (w)
           c = MatMul(x, t)  y = Add(b, c) }}"""
    )


def outputs(models: dict[str, ir.Model], feeds: Feeds) -> dict[str, np.ndarray]:
    batch = dict(feeds.arrays)
    return {name: next(iter(Session(model).run(batch).values())) for name, model in models.items()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "text",
    [
        "mean(softmax(cnn), softmax(mlp), softmax(resnet))",
        "softmax(0.5 * cnn + 0.2 * mlp + 0.3 * separable)",
        "geometric_mean(softmax(cnn), softmax(separable))",
    ],
)
def test_fitted_weights_are_not_worse_than_equal_ones(
    digits: dict[str, ir.Model], noisy: Feeds, method: str, text: str
) -> None:
    found = fit_weights(text, digits, noisy, "accuracy", method=method, fold_count=3)
    assert found.method == method
    assert found.after >= found.equal
    assert found.after >= found.before
    assert sum(share.weight for share in found.shares) == pytest.approx(1.0, abs=1e-9)
    assert all(share.weight == round(share.weight, 3) >= 0 for share in found.shares)
    assert 0.3 < found.held_out <= 1
    assert parse(found.text) == found.program
    again = fit_weights(text, digits, noisy, "accuracy", method=method, fold_count=3)
    assert again == found


def test_scores_are_those_of_numpy(digits: dict[str, ir.Model], noisy: Feeds) -> None:
    text = "mean(softmax(cnn), softmax(mlp), softmax(resnet))"
    found = fit_weights(text, digits, noisy, "accuracy", method="coordinate", fold_count=2)
    logits = outputs(digits, noisy)
    labels = noisy.labels
    assert labels is not None
    names = ("cnn", "mlp", "resnet")
    for name, share in zip(names, found.shares, strict=True):
        assert share.operand == f"softmax({name})"
        assert share.score == (logits[name].argmax(axis=1) == labels).mean()
    weights = [share.weight for share in found.shares]
    mixed = sum(w * softmax(logits[name]) for w, name in zip(weights, names, strict=True))
    assert found.after == (np.asarray(mixed).argmax(axis=1) == labels).mean()
    assert found.after > max(share.score for share in found.shares)


def test_the_convex_loss_is_the_log_loss(digits: dict[str, ir.Model], noisy: Feeds) -> None:
    found = fit_weights(
        "0.5 * softmax(cnn) + 0.5 * softmax(mlp)", digits, noisy, "accuracy", fold_count=2
    )
    logits, labels = outputs(digits, noisy), noisy.labels
    assert labels is not None
    loss = found.loss
    assert loss is not None

    def log_loss(share: float) -> float:
        mixed = share * softmax(logits["cnn"]) + (1 - share) * softmax(logits["mlp"])
        return float(-np.log(mixed[np.arange(len(labels)), labels]).mean())

    assert loss.name == "log loss"
    assert loss.equal == pytest.approx(log_loss(0.5), rel=1e-5)
    grid = [log_loss(share) for share in np.linspace(0, 1, 1001)]
    assert min(grid) >= loss.fitted - loss.gap - 1e-6
    assert loss.fitted <= min(grid) + 1e-6


def test_numbers_are_met_by_least_squares() -> None:
    x = np.random.default_rng(3).normal(size=(200, 3)).astype(np.float32)
    models = {"a": linear(1.0, 1), "b": linear(3.0, 2), "c": linear(-5.0, 3)}
    feeds = Feeds({"x": x})
    y = outputs(models, feeds)
    labels = (0.625 * y["a"] + 0.375 * y["b"]).ravel().astype(np.float64) + 0.5
    found = fit_weights(
        "0.2 * a + 0.2 * b + 0.2 * c + 0.5", models, Feeds({"x": x}, labels=labels), "rmse"
    )
    assert found.method == "convex"
    assert found.text == "0.625 * a + 0.375 * b + 0.5"
    assert found.after < 1e-5
    assert found.held_out < 1e-5
    assert any("summed to 0.6 before" in note for note in found.notes)
    assert any(note.startswith("c got the weight 0") for note in found.notes)


def test_what_one_fold_holds_out_shows_overfitting() -> None:
    draw = np.random.default_rng(5)
    x = draw.normal(size=(60, 3)).astype(np.float32)
    labels = draw.integers(0, 2, 60)
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 3] x) => (float[N, 2] y) <float[3, 2] w = {%s}> { y = MatMul(x, w) }"""
    models = {
        f"m{number}": ir.from_onnx_text(
            text % ", ".join(f"{value:.4f}" for value in draw.normal(size=6))
        )
        for number in range(8)
    }
    program = Program(((None, Combine("mean", tuple(Member(name) for name in models))),))
    feeds = Feeds({"x": x}, labels=labels)
    found = fit_weights(program, models, feeds, "accuracy", method="coordinate")
    assert found.after > found.equal
    assert found.held_out < found.after


def test_votes_and_labels_are_fitted_by_coordinates(
    digits: dict[str, ir.Model], noisy: Feeds
) -> None:
    text = "votes = vote(cnn, mlp, resnet); label = argmax(votes)"
    found = fit_weights(text, digits, noisy, "accuracy", fold_count=2)
    assert found.method == "coordinate"
    assert "votes do not change gradually" in found.notes[0]
    assert found.after >= found.equal
    labelled = "vote(argmax(cnn), argmax(mlp), argmax(separable), weights=[1, 1, 3])"
    found = fit_weights(labelled, digits, noisy, "accuracy", method="selection", fold_count=2)
    assert found.after >= max(found.equal, found.before)
    with pytest.raises(GraphoptError, match="votes do not change gradually"):
        fit_weights(text, digits, noisy, "accuracy", method="convex")


def test_logits_without_a_softmax_have_no_log_loss(
    digits: dict[str, ir.Model], noisy: Feeds
) -> None:
    with pytest.raises(GraphoptError, match="no softmax is applied"):
        fit_weights("mean(cnn, mlp)", digits, noisy, "accuracy", method="convex")
    found = fit_weights("mean(cnn, mlp)", digits, noisy, "accuracy", fold_count=2)
    assert found.method == "coordinate"


def test_combinations_inside_of_more(digits: dict[str, ir.Model], noisy: Feeds) -> None:
    brighter = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 1, 8, 8] image) => (float[N, 1, 8, 8] bright) <float s = {0.5}>
        { bright = Mul(image, s) }"""
    )
    members = {**digits, "dim": brighter}
    text = "dim >> softmax(0.5 * cnn + 0.5 * mlp)"
    found = fit_weights(text, members, noisy, "accuracy", fold_count=2)
    assert found.method == "convex"
    assert found.text.startswith("dim >> softmax(")
    dimmed = Feeds({"image": noisy.arrays["image"] * np.float32(0.5)}, labels=noisy.labels)
    logits = outputs(digits, dimmed)
    for share in found.shares:
        assert share.score == (logits[share.operand].argmax(axis=1) == noisy.labels).mean()
    nested = fit_weights(
        "0.5 * softmax(0.9 * cnn + 0.1 * mlp) + 0.5 * softmax(resnet)",
        digits,
        noisy,
        "accuracy",
        fold_count=2,
    )
    (statement,) = nested.program.statements
    assert isinstance(statement[1], Sum)
    assert [share.operand for share in nested.shares] == [
        "softmax(0.9 * cnn + 0.1 * mlp)",
        "softmax(resnet)",
    ]


def test_members_may_carry_their_models(digits: dict[str, ir.Model], noisy: Feeds) -> None:
    a, b = (Member(name, digits[name]) for name in ("cnn", "mlp"))
    carried = fit_weights(0.5 * a + 0.5 * b, {}, noisy, "accuracy", fold_count=2)
    given = fit_weights("0.5 * cnn + 0.5 * mlp", digits, noisy, "accuracy", fold_count=2)
    assert carried == given


def test_the_metrics_output_says_what_is_fitted(digits: dict[str, ir.Model]) -> None:
    program = parse("a = mean(cnn, mlp); b = softmax(0.5 * resnet + 0.5 * separable)")
    first = find(program)
    assert unparse(first.combination) == "mean(cnn, mlp)"
    second = find(program, "b")
    assert second.activation == "softmax"
    assert unparse(second.combination) == "0.5 * resnet + 0.5 * separable"
    through = find(parse("_m = mean(cnn, mlp); p = softmax(_m); label = argmax(p)"), "label")
    assert through.activation == "softmax"
    assert unparse(through.weighted((0.25, 0.75))) == (
        "_m = mean(cnn, mlp, weights=[0.25, 0.75]); p = softmax(_m); label = argmax(p)"
    )


def test_soups_are_operands(digits: dict[str, ir.Model], noisy: Feeds) -> None:
    text = "mean(softmax(soup(cnn, cnn)), softmax(mlp))"
    found = fit_weights(text, digits, noisy, "accuracy", fold_count=2)
    plain = fit_weights("mean(softmax(cnn), softmax(mlp))", digits, noisy, "accuracy", fold_count=2)
    assert [share.weight for share in found.shares] == [share.weight for share in plain.shares]
    assert "soup(cnn, cnn)" in found.text


def test_one_column_is_the_probability_of_class_1() -> None:
    draw = np.random.default_rng(2)
    x = draw.normal(size=(300, 3)).astype(np.float32)
    labels = (x[:, 0] + 0.5 * draw.normal(size=300) > 0).astype(np.int64)
    models = {"a": linear(2.0, 1), "b": linear(1.0, 2)}
    feeds = Feeds({"x": x}, labels=labels)
    inside = fit_weights("sigmoid(0.5 * a + 0.5 * b)", models, feeds, "accuracy")
    outside = fit_weights("mean(sigmoid(a), sigmoid(b))", models, feeds, "auc")
    for found in (inside, outside):
        assert found.method == "convex"
        assert found.loss is not None
        assert found.loss.fitted <= found.loss.equal
        assert found.after >= found.equal


@pytest.mark.parametrize(
    ("text", "labels", "kwargs", "match"),
    [
        ("softmax(cnn)", True, {}, "no weights to fit"),
        ("mean(cnn, mlp)", False, {}, "needs labels"),
        ("mean(cnn, mlp)", True, {"method": "guess"}, "use convex"),
        ("mean(cnn, mlp)", True, {"fold_count": 1}, "cannot be split into 1 folds"),
        ("mean(cnn, other)", True, {}, "other"),
        ("mean(cnn, mlp)", True, {"digits": 0}, "give 1 to 9"),
    ],
)
def test_refusals(
    digits: dict[str, ir.Model],
    noisy: Feeds,
    text: str,
    labels: bool,
    kwargs: dict[str, object],
    match: str,
) -> None:
    feeds = noisy if labels else Feeds(noisy.arrays)
    with pytest.raises(GraphoptError, match=match):
        fit_weights(text, digits, feeds, "accuracy", **kwargs)  # type: ignore[arg-type] # cases
