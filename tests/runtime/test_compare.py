from __future__ import annotations

import math
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from graphopt.errors import CheckFailed, GraphoptError
from graphopt.runtime.compare import compare
from graphopt.runtime.difference import Difference, Tolerance, as_tensors
from graphopt.runtime.feeds import Feeds


def model(body: str, interface: str = "float[N,4] x) => (float[N,4] y") -> ir.Model:
    return ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["": 20, "ai.onnx.ml": 3]>\ng ({interface}) {{ {body} }}'
    )


def feeds(count: int = 6) -> Feeds:
    values = np.random.default_rng(0).standard_normal((count, 4)).astype(np.float32)
    return Feeds({"x": values})


def difference(a: np.ndarray, b: np.ndarray, tolerance: Tolerance | None = None) -> Difference:
    found = Difference(tolerance)
    found.add(a, b)
    return found


def test_errors_are_those_of_the_definitions() -> None:
    generator = np.random.default_rng(1)
    a = generator.standard_normal((50, 7)).astype(np.float32)
    b = (a + generator.standard_normal((50, 7)) * 0.1).astype(np.float32)
    found = Difference()
    for start in range(0, 50, 9):
        found.add(a[start : start + 9], b[start : start + 9])
    wide, other = a.astype(np.float64), b.astype(np.float64)
    error = other - wide
    assert found.max_abs == pytest.approx(np.abs(error).max())
    assert found.max_rel == pytest.approx((np.abs(error) / np.abs(wide)).max())
    assert found.rms == pytest.approx(np.sqrt((error**2).mean()))
    cosine = (wide * other).sum() / np.linalg.norm(wide) / np.linalg.norm(other)
    assert found.cosine == pytest.approx(1 - cosine)
    sqnr = 10 * np.log10((wide**2).sum() / (error**2).sum())
    assert found.sqnr_db == pytest.approx(sqnr)
    assert found.argmax_agreement == (a.argmax(1) == b.argmax(1)).mean()
    assert not found.equal
    assert found.elements == 350


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_equal_allows_rounding_and_nothing_more(dtype: type) -> None:
    a = np.linspace(-3, 5, 99).astype(dtype)
    eps = float(ml_dtypes.finfo(dtype).eps)
    rounded = (a.astype(np.float64) * (1 + eps)).astype(dtype)
    assert difference(a, rounded).equal
    wrong = a.copy()
    wrong[3] = 0
    assert not difference(a, wrong).equal


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
def test_integers_and_bools_must_be_identical(dtype: type) -> None:
    a = np.ones(5, dtype)
    b = a.copy()
    b[2] = 0
    assert difference(a, a).equal
    assert not difference(a, b).equal


def test_integers_beyond_the_precision_of_doubles_are_told_apart() -> None:
    a = np.array([2**53], np.int64)
    assert not difference(a, a + 1).equal


def test_strings_must_be_identical() -> None:
    a = np.array(["a", "b"], dtype=object)
    assert difference(a, a).equal
    found = difference(a, np.array(["a", "c"], dtype=object))
    assert not found.equal
    assert found.max_abs == 1


def test_nonfinite_values_must_match_in_place() -> None:
    a = np.array([1, np.nan, np.inf, -np.inf], np.float32)
    assert difference(a, a).equal
    assert difference(a, a).max_abs == 0
    swapped = np.array([1, np.nan, -np.inf, np.inf], np.float32)
    assert not difference(a, swapped).equal
    assert difference(a, swapped).finite
    broken = difference(np.ones(2, np.float32), np.array([1, np.nan], np.float32))
    assert not broken.finite
    assert not broken.equal
    assert broken.max_abs == math.inf
    assert broken.sqnr_db == -math.inf


def test_ties_of_the_reference_agree_with_each_winner() -> None:
    a = np.array([[1, 1, 0], [0, 2, 1]], np.float32)
    b = np.array([[0.9, 1, 0], [0, 1, 2]], np.float32)
    assert difference(a, b).argmax_agreement == 0.5
    assert difference(a[0], b[0]).argmax_agreement is None


def test_outputs_without_elements_are_equal() -> None:
    found = difference(np.empty((0, 3), np.float32), np.empty((0, 3), np.float32))
    assert found.equal
    assert found.sqnr_db == math.inf
    assert found.argmax_agreement is None


def test_tolerances_count_what_is_outside() -> None:
    a = np.array([1.0, 10.0, 100.0])
    b = a + 0.5
    assert difference(a, b, Tolerance(atol=0.5)).outside == 0
    assert difference(a, b, Tolerance(rtol=0.05)).outside == 1
    assert difference(a, b, Tolerance(rtol=0.05, atol=0.46)).outside == 0
    assert difference(a, b).outside is None
    assert difference(a, np.array([1.0, 10.0, np.nan]), Tolerance(atol=9)).outside == 1


def test_maps_and_sequences_become_tensors() -> None:
    keys, values = as_tensors([{"b": 1.0, "a": 2.0}, {"a": 3.0, "b": 4.0}])
    assert keys.tolist() == ["a", "b"]
    assert values.tolist() == [[2, 1], [3, 4]]
    assert [t.tolist() for t in as_tensors([np.ones(1), np.zeros(2)])] == [[1], [0, 0]]
    assert as_tensors(None) == ()


def test_reordered_sums_are_equal_and_swapped_weights_are_not() -> None:
    weight = "<float[4,4] w = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}>"
    interface = f"float[N,4] x) => (float[N,4] y) {weight} {{ BODY }} #"
    text = '<ir_version: 10, opset_import: ["": 20]>\ng (' + interface.removesuffix(" #")
    reference = ir.from_onnx_text(text.replace("BODY", "a = Add(x, x) y = MatMul(a, w)"))
    same = ir.from_onnx_text(text.replace("BODY", "a = MatMul(x, w) y = Add(a, a)"))
    other = ir.from_onnx_text(
        text.replace("BODY", "a = Add(x, x) y = MatMul(a, w)").replace("{1,2", "{1.001,2")
    )
    (error,) = compare(reference, same, feeds())
    assert error.equal
    (error,) = compare(reference, other, feeds())
    assert not error.equal
    assert error.finite
    assert error.max_abs > error.bound > 0


def test_a_network_that_amplifies_rounding_is_measured_against_itself() -> None:
    # (x + 1e6) - 1e6 rounds x to multiples of 1/16: a change in the last bit flips some.
    body = "c = Constant<value = float {{1000000.0}}>() {} y = Sub(b, c)"
    reference = model(body.format("b = Add(x, c)"))
    moved = model(
        body.format("e = Constant<value = float {1.0000001}>() a = Mul(x, e) b = Add(a, c)")
    )
    values = (np.arange(4096, dtype=np.float32) / 32 + 1 / 32).reshape(-1, 4)
    (error,) = compare(reference, moved, Feeds({"x": values}))
    assert error.max_abs >= 0.06
    assert error.equal
    shifted = model(body.format("o = Constant<value = float {0.25}>() a = Add(x, o) b = Add(a, c)"))
    (error,) = compare(reference, shifted, Feeds({"x": values}))
    assert not error.equal


def test_outputs_do_not_depend_on_the_batch_size() -> None:
    one = compare(model("y = Relu(x)"), model("y = Abs(x)"), feeds(), batch=1)
    all_at_once = compare(model("y = Relu(x)"), model("y = Abs(x)"), feeds(), batch=100)
    assert one[0].max_abs == all_at_once[0].max_abs
    assert one[0].rms == pytest.approx(all_at_once[0].rms)


def test_sequence_outputs_are_compared() -> None:
    body = "y = SplitToSequence<axis=1, keepdims=0>({})"
    interface = "float[N,4] x) => (seq(float[N]) y"
    same, other = (model(body.format("x"), interface) for _ in range(2))
    assert compare(same, other, feeds())[0].equal
    longer = model("a = Concat<axis=1>(x, x) " + body.format("a"), interface)
    with pytest.raises(CheckFailed, match="8 elements, the reference has 4"):
        compare(same, longer, feeds())


def test_zipmap_outputs_of_files_are_compared(tmp_path: Path) -> None:
    paths = []
    for name, body in {"a": "a = Identity(x)", "b": "a = Relu(x)"}.items():
        text = (
            '<ir_version: 10, opset_import: ["": 20, "ai.onnx.ml": 3]>\n'
            f"g (float[N,4] x) => (seq(map(int64, float)) y) {{ {body}\n"
            "y = ai.onnx.ml.ZipMap<classlabels_int64s = [3, 1, 2, 0]>(a) }"
        )
        paths.append(tmp_path / f"{name}.onnx")
        onnx.save(onnx.parser.parse_model(text), paths[-1])
    assert compare(paths[0], paths[0], feeds())[0].equal
    assert not compare(*paths, feeds())[0].equal


@pytest.mark.parametrize(
    ("reference", "candidate", "cause"),
    [
        ("y = Relu(x)", "y = Nonsense(x)", "candidate does not load"),
        ("y = Nonsense(x)", "y = Relu(x)", "reference does not load"),
        ("y = Relu(x)", "s = Constant<value_ints = [3, 5]>() y = Reshape(x, s)", "candidate does"),
        ("s = Constant<value_ints = [3, 5]>() y = Reshape(x, s)", "y = Relu(x)", "reference does"),
    ],
)
def test_a_model_that_does_not_run_is_named(reference: str, candidate: str, cause: str) -> None:
    with pytest.raises(CheckFailed, match=cause) as failed:
        compare(model(reference), model(candidate), feeds())
    assert "\n" not in str(failed.value)


def test_other_interfaces_are_refused() -> None:
    reference = model("y = Relu(x)")
    with pytest.raises(CheckFailed, match="no output 'y'"):
        compare(reference, model("z = Relu(x)", "float[N,4] x) => (float[N,4] z"), feeds())
    double = model("y = Cast<to=11>(x)", "float[N,4] x) => (double[N,4] y")
    with pytest.raises(CheckFailed, match="dtype float64"):
        compare(reference, double, feeds())
    with pytest.raises(CheckFailed, match="shape"):
        compare(reference, model("y = ReduceSum(x)", "float[N,4] x) => (float[1,1] y"), feeds())
    with pytest.raises(GraphoptError, match="input 'z' is missing"):
        compare(reference, model("y = Relu(z)", "float[N,4] z) => (float[N,4] y"), feeds())


def test_a_candidate_with_nan_is_not_finite() -> None:
    (error,) = compare(model("y = Abs(x)"), model("y = Sqrt(x)"), feeds())
    assert not error.finite
    assert not error.equal
