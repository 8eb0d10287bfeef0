from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from threshold_runs import contents, dense, normal, read, run

from graphopt.model import load, save


@pytest.mark.parametrize(
    "dtype",
    [
        np.float16,
        np.float32,
        np.float64,
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e5m2fnuz,
        ml_dtypes.float4_e2m1fn,
    ],
)
def test_element_types(dtype: Any) -> None:
    weight = normal(40, 30).astype(dtype)
    model = dense(weight)
    run(model, sparsity=0.5, score="magnitude")
    after = contents(model)[0]
    assert after.dtype == weight.dtype
    expected = weight.ravel().copy()
    order = np.argsort(np.abs(expected.astype(np.float64)), kind="stable")
    expected[order[:600]] = 0
    np.testing.assert_array_equal(after.ravel().astype(np.float64), expected.astype(np.float64))


def test_a_type_without_a_zero_is_declined() -> None:
    model = dense(np.abs(normal(4, 4)).astype(ml_dtypes.float8_e8m0fnu))
    assert run(model, value=1.0) == ([], {"w0": "FLOAT8E8M0 has no zero"})


def test_float64_thresholds_are_compared_in_float64() -> None:
    model = dense(np.array([[1.0], [1.0 + 1e-12]]))
    run(model, value=1.0 + 1e-12)
    np.testing.assert_array_equal(contents(model)[0], [[0], [1.0 + 1e-12]])


def test_quantized_weights_go_to_their_zero_point() -> None:
    model = read("qdq")
    weight = model.graph.initializers["w_quantized"]
    zero = model.graph.initializers["w_zero"]
    zero.const_value = ir.tensor(np.array([4, 0], np.int8), name="w_zero")
    before = np.asarray(weight.const_value).astype(int)
    real = np.abs((before - [4, 0]) * np.float32([0.01, 0.02]))
    run(model, value=0.3)
    expected = np.where(real < 0.3, [4, 0], before)
    np.testing.assert_array_equal(np.asarray(weight.const_value), expected)


def test_constants_shared_weights_bodies_and_functions() -> None:
    model = read("constant_weights")
    rewrites, _ = run(model, sparsity=0.5)
    assert [rewrite.at for rewrite in rewrites] == ["w"]
    again = ir.from_proto(ir.to_proto(model))
    (constant,) = (node for node in again.graph if node.outputs[0].name == "w")
    assert np.count_nonzero(constant.attributes["value"].as_tensor().numpy() == 0) == 3
    _, declined = run(read("shared_weights"), sparsity=0.5)
    assert declined == {"w": "shared by a Gather as embedding"}
    rewrites, _ = run(read("shared_weights"), sparsity=0.5, embeddings=True)
    assert sorted(rewrite.at for rewrite in rewrites) == ["twin", "w"]
    rewrites, _ = run(read("nested_if"), value=1e9)
    assert [rewrite.at for rewrite in rewrites][-1].endswith("then_branch/v")
    rewrites, _ = run(read("functions"), sparsity=0.5)
    assert [rewrite.at for rewrite in rewrites] == ["w"]


def test_biases_and_normalization_only_when_asked() -> None:
    model = read("folding")
    before = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    rewrites, _ = run(model, value=1e9)
    assert [rewrite.at for rewrite in rewrites] == ["w"]
    rewrites, _ = run(model, value=1e9, biases=True, normalization=True)
    assert rewrites
    for name, value in model.graph.initializers.items():
        changed = not np.array_equal(value.const_value.numpy(), before[name])
        assert changed == (name in {"w", *(rewrite.at for rewrite in rewrites)})


def test_tensors_are_computed_when_read_and_the_source_stays(tmp_path: Path) -> None:
    weight = normal(64, 64)
    save(dense(weight), tmp_path / "m.onnx", external_data=True)
    model = load(tmp_path / "m.onnx")
    run(model, sparsity=0.5)
    replaced = model.graph.initializers["w0"].const_value
    assert isinstance(replaced, ir.LazyTensor)
    assert not replaced.cache
    save(model, tmp_path / "m.onnx", external_data=True)
    after = contents(load(tmp_path / "m.onnx"))[0]
    assert np.count_nonzero(after == 0) == 2048
    np.testing.assert_array_equal(after[after != 0], weight[after != 0])


def test_the_same_bytes_every_time() -> None:
    arrays = [np.round(normal(30, 30, seed=seed), 1) for seed in range(3)]
    first, second = dense(*arrays), dense(*arrays)
    run(first, sparsity=0.5)
    run(second, sparsity=0.5)
    for one, other in zip(contents(first), contents(second), strict=True):
        assert one.tobytes() == other.tobytes()
