from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from integer_models import (
    Array,
    declared,
    on_runtime,
    run_pass,
    with_weights,
)

from graphopt.model import save
from passes.quantize.dequantize import Dequantize
from passes.quantize.weights import QuantizeWeights

SIZE, HEADS_OF_ATTENTION, VOCABULARY, LAYERS_OF_MODEL = 64, 4, 320, 2


def language_model(seed: int = 0) -> ir.Model:
    """A decoder of two layers, with a causal mask and a tied table."""
    generator = np.random.default_rng(seed)
    held: dict[str, Array] = {}

    def weight(name: str, *shape: int) -> str:
        held[name] = (generator.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        return name

    weight("table", VOCABULARY, SIZE)
    held["table"] *= np.float32(np.sqrt(VOCABULARY) / 8)
    held["gain"] = np.ones(SIZE, np.float32)
    lines = ["h0 = Gather(table, ids)"]
    for n in range(LAYERS_OF_MODEL):
        lines.append(f"n{n} = LayerNormalization<axis = -1>(h{n}, gain)")
        for part in "qkv":
            lines.append(f"{part}{n} = MatMul(n{n}, {weight(f'w{part}{n}', SIZE, SIZE)})")
            lines.append(f"{part}r{n} = Reshape({part}{n}, split)")
            order = "[0, 2, 3, 1]" if part == "k" else "[0, 2, 1, 3]"
            lines.append(f"{part}t{n} = Transpose<perm = {order}>({part}r{n})")
        lines += [
            f"s{n} = MatMul(qt{n}, kt{n})",
            f"c{n} = Div(s{n}, four)",
            f"b{n} = Where(later, lowest, c{n})",
            f"p{n} = Softmax<axis = -1>(b{n})",
            f"a{n} = MatMul(p{n}, vt{n})",
            f"at{n} = Transpose<perm = [0, 2, 1, 3]>(a{n})",
            f"ar{n} = Reshape(at{n}, join)",
            f"o{n} = MatMul(ar{n}, {weight(f'wo{n}', SIZE, SIZE)})",
            f"g{n} = Add(h{n}, o{n})",
            f"m{n} = LayerNormalization<axis = -1>(g{n}, gain)",
            f"u{n} = MatMul(m{n}, {weight(f'wu{n}', SIZE, 4 * SIZE)})",
            f"r{n} = Relu(u{n})",
            f"d{n} = MatMul(r{n}, {weight(f'wd{n}', 4 * SIZE, SIZE)})",
            f"h{n + 1} = Add(g{n}, d{n})",
        ]
    lines += [
        f"last = LayerNormalization<axis = -1>(h{LAYERS_OF_MODEL}, gain)",
        "turned = Transpose<perm = [1, 0]>(table)",
        "logits = MatMul(last, turned)",
    ]
    later = ", ".join(str(int(column > row)) for row in range(8) for column in range(8))
    constants = f"""int64[4] split = {{0, 0, {HEADS_OF_ATTENTION}, -1}},
    int64[3] join = {{0, 0, -1}}, float four = {{4}}, float lowest = {{-3.4e38}},
    bool[8, 8] later = {{{later}}}"""
    weights_declared = ", ".join(declared(name, array) for name, array in held.items())
    text = f"""g (int64[N, 8] ids) => (float[N, 8, {VOCABULARY}] logits)
    <{weights_declared}, {constants}> {{ {" ".join(lines)} }}"""
    return with_weights(text, **held)


@pytest.mark.parametrize(
    ("wish", "share", "error"),
    [
        ({}, 0.29, 0.02),
        ({"form": "dequantize"}, 0.29, 0.03),
        ({"form": "matmulnbits", "accuracy_level": 1}, 0.31, 0.02),
        ({"dtype": "uint8", "symmetric": False, "granularity": "block"}, 0.34, 0.02),
        ({"dtype": "int4"}, 0.24, 0.25),
        ({"dtype": "int4", "form": "matmulnbits", "accuracy_level": 1}, 0.24, 0.25),
    ],
)
def test_a_language_model(
    wish: dict[str, object], share: float, error: float, tmp_path: Path
) -> None:
    model = language_model()
    after, step = run_pass(model, QuantizeWeights(**wish))
    assert not step.declined
    for name, one in (("before", model), ("after", after)):
        save(one, tmp_path / f"{name}.onnx")
    sizes = [(tmp_path / f"{name}.onnx").stat().st_size for name in ("before", "after")]
    assert sizes[1] <= share * sizes[0]
    data = {"ids": np.random.default_rng(1).integers(0, VOCABULARY, (3, 8))}
    wanted, found = on_runtime(model, data, "all")[0], on_runtime(after, data, "all")[0]
    assert np.sqrt(np.mean((wanted - found) ** 2)) < error * np.sqrt(np.mean(wanted**2))
    back, _ = run_pass(after, Dequantize())
    near = on_runtime(back, data)[0]
    np.testing.assert_allclose(on_runtime(after, data)[0], near, rtol=1e-3, atol=1e-3)
