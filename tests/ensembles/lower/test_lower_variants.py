"""Flipped inputs, columns of features, and meta-models, beside numpy."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from lowered import BATCHES, Ensemble, all_digits, digits, images, logits, run, softmax, text_model

from graphopt.errors import GraphoptError

FLIPS = {"flip": (3,), "vertical": (2,), "both": (2, 3)}


def _flipped(image: np.ndarray, flip: str) -> np.ndarray:
    return np.ascontiguousarray(np.flip(image, FLIPS[flip]))


@pytest.mark.parametrize("flips", [["flip"], ["vertical"], ["both"], ["flip", "vertical", "both"]])
def test_flips_of_digits(flips: list[str]) -> None:
    said = ", ".join(map(repr, flips))
    model = digits("cnn", 17)
    ensemble = Ensemble(f"tta(softmax(c), {said})", c=model)
    for batch in BATCHES:
        image = images()[:batch]
        variants = [image, *(_flipped(image, flip) for flip in flips)]
        expected = np.mean([softmax(run(model, image=v)["logits"]) for v in variants], 0)
        np.testing.assert_allclose(ensemble.only(image=image), expected, rtol=1e-5, atol=1e-6)


SPATIAL = """<ir_version: 8, opset_import: ["": 13]>
g (float[N, 1, {height}, {width}] image)
  => (float[N, 1, {height}, {width}] mask, float[N, 1, {half}, {other}] coarse, float[N, 1] score)
  <float[1, 1, 1, 2] w = {{1, 2}}> {{
    mask = Conv<pads = [0, 0, 0, 1]>(image, w)
    coarse = MaxPool<kernel_shape = [2, 1], strides = [2, 1]>(mask)
    f = Flatten(image)
    axis = Constant<value_ints = [1]>()
    score = ReduceSum(f, axis)
}}"""


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("flip", FLIPS)
def test_spatial_outputs_are_flipped_back(flip: str, known: bool) -> None:
    sizes = ("6", "4", "3", "4") if known else ("H", "W", "H2", "W2")
    model = text_model(
        SPATIAL.format(height=sizes[0], width=sizes[1], half=sizes[2], other=sizes[3])
    )
    ensemble = Ensemble(f"tta(m, {flip!r})", m=model)
    for batch in BATCHES:
        image = np.random.default_rng(batch).standard_normal((batch, 1, 6, 4)).astype(np.float32)
        plain, turned = run(model, image=image), run(model, image=_flipped(image, flip))
        found = ensemble(image=image)
        for name in ("mask", "coarse", "score"):
            back = turned[name]
            if name == "mask" or (name == "coarse" and flip == "flip"):
                back = _flipped(back, flip)
            expected = (plain[name] + back) / 2
            np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-6, err_msg=name)


def test_the_flipped_input_is_said_where_there_are_several() -> None:
    model = text_model(
        """<ir_version: 8, opset_import: ["": 13]>
        g (float[N, 1, 2, 2] x, float[N, 1, 2, 2] y) => (float[N, 4] z) {
            d = Sub(x, y)
            z = Flatten(d)
        }"""
    )
    with pytest.raises(GraphoptError, match="several inputs"):
        Ensemble('tta(m, "flip")', m=model)
    x, y = np.random.default_rng(0).standard_normal((2, 7, 1, 2, 2)).astype(np.float32)
    found = Ensemble('tta(m, "flip", input="y")', m=model).only(x=x, y=y)
    expected = ((x - y) + (x - _flipped(y, "flip"))).reshape(7, 4) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def _linear(size: int) -> ir.Model:
    weights = ", ".join(str(index + 1) for index in range(size))
    return text_model(
        f"""<ir_version: 8, opset_import: ["": 13]>
        g (float[N, {size}] x) => (float[N] y) <float[{size}] w = {{{weights}}}> {{
            y = MatMul(x, w)
        }}"""
    )


def test_columns_of_an_input() -> None:
    x = np.arange(28, dtype=np.float32).reshape(7, 4)
    text = "p = subset(a, [3, 0]); q = bag(a, b, columns=[[0, 1], [1, 2, 3]])"
    found = Ensemble(text, a=_dynamic(), b=_dynamic())(x=x)
    np.testing.assert_array_equal(found["p"], x[:, [3, 0]].sum(1))
    np.testing.assert_array_equal(found["q"], (x[:, :2].sum(1) + x[:, 1:].sum(1)) / 2)


def _dynamic() -> ir.Model:
    return text_model(
        """<ir_version: 8, opset_import: ["": 13]>
        g (float[N, C] x) => (float[N] y) {
            axis = Constant<value_ints = [1]>()
            y = ReduceSum<keepdims = 0>(x, axis)
        }"""
    )


def test_boosting_and_its_base() -> None:
    ensemble = Ensemble("boost(a, c, d, rate=0.1, base=0.5)", **all_digits_of("acd"))
    for batch in BATCHES:
        alone = logits(batch)
        expected = 0.1 * (alone["a"] + alone["c"] + alone["d"]) + 0.5
        found = ensemble.only(image=images()[:batch])
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def all_digits_of(names: str) -> dict[str, ir.Model]:
    return {name: all_digits()[name] for name in names}


META = """<ir_version: 8, opset_import: ["": 13]>
g ({dtype}[N, {columns}] rows) => ({dtype}[N, {columns}] out) {{ out = Neg(rows) }}"""


@pytest.mark.parametrize("dtype", ["float", "double"])
@pytest.mark.parametrize("passthrough", [False, True])
def test_a_stack_of_digits(passthrough: bool, dtype: str) -> None:
    meta = text_model(META.format(dtype=dtype, columns=84 if passthrough else 20))
    text = f"stack(softmax(a), c, meta=m, passthrough={passthrough})"
    ensemble = Ensemble(text, m=meta, **all_digits_of("ac"))
    for batch in BATCHES:
        parts = [softmax(logits(batch)["a"]), logits(batch)["c"]]
        if passthrough:
            parts.insert(0, images()[:batch].reshape(batch, -1))
        found = ensemble.only(image=images()[:batch])
        assert found.dtype == (np.float32 if dtype == "float" else np.float64)
        np.testing.assert_allclose(found, -np.concatenate(parts, 1), rtol=1e-5, atol=1e-5)


def test_a_stack_of_outputs_of_all_ranks_and_types() -> None:
    model = text_model(
        """<ir_version: 8, opset_import: ["": 13]>
        g (float[N, 2, 3] x) => (float[N, 2, 3] y, int64[N] label, bool[N, 2] flag) {
            y = Identity(x)
            axis = Constant<value_ints = [1, 2]>()
            s = ReduceSum<keepdims = 0>(x, axis)
            label = Cast<to = 7>(s)
            one = ReduceMax<axes = [2], keepdims = 0>(x)
            flag = Cast<to = 9>(one)
        }"""
    )
    meta = text_model(META.format(dtype="float", columns="C"))
    x = np.random.default_rng(0).integers(-2, 3, (7, 2, 3)).astype(np.float32)
    alone = run(model, x=x)
    rows = [alone[name].reshape(7, -1).astype(np.float32) for name in ("y", "label", "flag")]
    found = Ensemble("stack(a, meta=m)", a=model, m=meta).only(x=x)
    np.testing.assert_array_equal(found, -np.concatenate(rows, 1))


def test_a_stack_of_batches_of_several_sizes_is_refused() -> None:
    first, second = (
        text_model(
            f"""<ir_version: 8, opset_import: ["": 13]>
            g (float[{size}, 2] {name}) => (float[{size}, 2] y) {{ y = Neg({name}) }}"""
        )
        for size, name in ((3, "u"), (4, "v"))
    )
    meta = text_model(META.format(dtype="float", columns="C"))
    with pytest.raises(GraphoptError, match="shapes that go together"):
        Ensemble("stack(a, b, meta=m)", a=first, b=second, m=meta)


def test_a_stack_that_does_not_fit_its_meta_model_is_refused() -> None:
    meta = text_model(META.format(dtype="float", columns=21))
    with pytest.raises(GraphoptError, match=r"\[N, 20\].*\[N, 21\]"):
        Ensemble("stack(a, c, meta=m)", m=meta, **all_digits_of("ac"))
    with pytest.raises(GraphoptError, match="no column 4"):
        Ensemble("subset(a, [0, 4])", a=_linear(4))


def test_what_is_not_flipped_back_is_told() -> None:
    sizes = {"height": 4, "width": 5, "half": 2, "other": 5}
    ensemble = Ensemble('tta(a, "vertical")', a=text_model(SPATIAL.format(**sizes)))
    (note,) = [note for note in ensemble.notes if note.startswith("tta")]
    assert "coarse" in note
    assert "averaged as it is for 'vertical'" in note


def test_images_with_channels_last_are_refused() -> None:
    model = text_model(
        """<ir_version: 8, opset_import: ["": 13]>
        g (float[N, H, 5, 3] image) => (float[N, H, 5, 3] y) { y = Relu(image) }"""
    )
    with pytest.raises(GraphoptError, match="flips are those of"):
        Ensemble('tta(a, "flip")', a=model)
    square = text_model(
        """<ir_version: 8, opset_import: ["": 13]>
        g (float[N, 8, 3, 3] features) => (float[N, 8, 3, 3] y) { y = Relu(features) }"""
    )
    Ensemble('tta(a, "flip")', a=square)
