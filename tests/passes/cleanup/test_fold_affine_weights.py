from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from affine_graphs import BN, IMAGE, NORM, graph
from before_after import apply, assert_equal_outputs
from seeded import check_ops, check_stays, ops, seeded

from passes.cleanup import fold_affine, folded


@pytest.mark.parametrize("opset", [7, 9, 13, 20])
def test_opsets_of_batch_normalization(opset: int) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g ({IMAGE}, float[6,4,3,3] w, {NORM}) => (float[A,B,C,D] y) {{ t = Conv(x, w)\n {BN} }}"""
    check_ops(fold_affine.rewrites, text, ["Conv"], rtol=2e-4)


@pytest.mark.parametrize(
    ("factor", "reason"), [(1e5, "leave the range"), (1e-6, "leave the range"), (0.5, None)]
)
def test_float16_is_folded_within_its_range(factor: float, reason: str | None) -> None:
    text = """g (float16[N,4,7,6] x, float16[6,4,1,1] w, float16[6] gain, float16[6] shift,
        float16[6] mean, float16[6] var) => (float16[A,B,C,D] y) {
      t = Conv(x, w)
      y = BatchNormalization<epsilon = 0.0>(t, gain, shift, mean, var)
    }"""
    gain = np.full(6, min(factor, 6e4), np.float16)
    given = {
        "gain": gain,
        "w": np.full((6, 4, 1, 1), 3 if factor > 1 else 0.1),
        "mean": np.zeros(6),
        "shift": np.full(6, 10),
    }
    if reason is None:
        check_ops(fold_affine.rewrites, text, ["Conv"], given, rtol=1e-2)
    else:
        (declined,) = check_stays(fold_affine.rewrites, text, given)
        assert reason in declined.why


def test_bfloat16_keeps_its_type() -> None:
    bfloat16 = ir.DataType.BFLOAT16.numpy()
    weights = np.array([1, 2, 3, 4, 5, 6, 7, 8]).astype(bfloat16).reshape(2, 4, 1, 1)
    factors = np.array([2, 4]).astype(bfloat16).reshape(2, 1, 1)
    text = """<ir_version: 10, opset_import: ["" : 22]>
    g (bfloat16[N,4,7,6] x, bfloat16[2,4,1,1] w, bfloat16[2,1,1] s) => (bfloat16[A,B,C,D] y) {
      t = Conv(x, w)
      y = Mul(t, s)
    }"""
    model = seeded(text, {"w": weights, "s": factors})
    apply(fold_affine.rewrites, model)
    weight = model.graph.initializers["w"].const_value
    assert ops(model) == ["Conv"]
    assert weight is not None
    assert weight.dtype == ir.DataType.BFLOAT16
    assert weight.numpy().astype(np.float32).ravel().tolist() == [2, 4, 6, 8, 20, 24, 28, 32]


def test_names_of_weights_stay_and_constants_go() -> None:
    inputs = f"{IMAGE}, float[6,4,3,3] w, float[6] b, {NORM}"
    model = check_ops(
        fold_affine.rewrites, graph(inputs, f"t = Conv(x, w, b)\n {BN}"), ["Conv"], rtol=2e-4
    )
    assert sorted(model.graph.initializers) == ["b", "w"]
    assert [value.name for value in model.graph.outputs] == ["y"]


def test_large_weights_are_computed_when_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folded, "_LAZY_BYTES", 0)
    model = seeded(graph(f"{IMAGE}, float[6,4,3,3] w, {NORM}", f"t = Conv(x, w)\n {BN}"))
    before = ir.to_proto(model)
    apply(fold_affine.rewrites, model)
    assert isinstance(model.graph.initializers["w"].const_value, ir.LazyTensor)
    assert_equal_outputs(before, ir.to_proto(model), rtol=2e-4)


def test_a_rewrite_that_is_not_applied_changes_nothing() -> None:
    model = seeded(graph(f"{IMAGE}, float[6,4,3,3] w, {NORM}", f"t = Conv(x, w)\n {BN}"))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert len(list(fold_affine.rewrites(model))) == 1
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_dead_channel_does_not_keep_its_normalization() -> None:
    """Training drives some gains to 1e-40: the channel is its shift, whatever the weight is."""
    inputs = f"{IMAGE}, float[6,4,3,3] w, {NORM}"
    given = {"gain": np.array([1, 1, 1e-40, 1, 1, 1])}
    check_ops(
        fold_affine.rewrites, graph(inputs, f"t = Conv(x, w)\n {BN}"), ["Conv"], given, rtol=2e-4
    )
