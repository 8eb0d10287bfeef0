"""Products and recurrent layers of com.microsoft with weights of few bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from microsoft_nodes import FLOAT, check, one_node

from graphopt.training import OnnxModule

RNG = np.random.default_rng(0)


def drawn(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def quantized(dtype: Any, *shape: int) -> Any:
    bounds = np.iinfo(dtype)
    return RNG.integers(bounds.min, bounds.max + 1, size=shape).astype(dtype)


def scales(*shape: int) -> Any:
    return np.float32(np.abs(drawn(*shape)) * 0.003 + 0.001)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("columns", [(), (5,)])
def test_products_that_round_their_input(dtype: Any, columns: tuple[int, ...]) -> None:
    given = {
        "x": drawn(2, 3, 7),
        "w": quantized(dtype, 7, 5),
        "scale": scales(*columns),
        "point": quantized(dtype, *columns),
        "bias": drawn(5),
    }
    held = ("w", "scale", "point", "bias")
    check("DynamicQuantizeMatMul", given, held=held)
    check("DynamicQuantizeMatMul", {**given, "bias": None}, held=held[:-1])
    check("DynamicQuantizeMatMul", {**given, "x": np.abs(given["x"])}, held=held)
    check("DynamicQuantizeMatMul", {**given, "x": 0 * given["x"]}, held=held)


def test_the_gradient_passes_the_rounding() -> None:
    given = {"x": drawn(3, 7), "w": quantized(np.int8, 7, 5), "scale": scales(5)}
    proto = one_node("DynamicQuantizeMatMul", given, {"y": FLOAT}, held=("w", "scale"))
    x = torch.from_numpy(given["x"]).requires_grad_()
    OnnxModule(ir.from_proto(proto))(x).sum().backward()
    expected = (given["w"] * given["scale"]).sum(axis=1)
    np.testing.assert_allclose(x.grad, np.tile(expected, (3, 1)), rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_products_of_quantized_matrices(dtype: Any) -> None:
    for columns in ((), (5,)):
        given = {
            "a": quantized(np.uint8, 2, 3, 7),
            "b": quantized(dtype, 7, 5),
            "a_scale": scales(),
            "b_scale": scales(*columns),
            "a_point": quantized(np.uint8),
            "b_point": quantized(dtype, *columns),
            "bias": drawn(5),
        }
        check("MatMulIntegerToFloat", given)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("points", [False, True])
def test_products_of_packed_matrices(bits: int, *, points: bool) -> None:
    summed, columns, block = 80, 6, 32
    blocks = -(-summed // block)
    row = -(-blocks * bits // 8)
    given = {
        "x": drawn(2, 3, summed),
        "w": quantized(np.uint8, columns, blocks, block * bits // 8),
        "scale": scales(columns * blocks),
        "points": quantized(np.uint8, columns * row) if points else None,
        "groups": None,
        "bias": drawn(columns),
    }
    held = tuple(name for name in ("w", "scale", "points", "bias") if given[name] is not None)
    sizes = {"K": summed, "N": columns, "bits": bits, "block_size": block}
    check("MatMulNBits", given, held=held, rtol=1e-4, atol=1e-5, **sizes)


@pytest.mark.parametrize("mask", [None, np.array([3, 5], np.int32)])
def test_attention_of_quantized_inputs(mask: Any) -> None:
    given = {
        "x": quantized(np.uint8, 2, 5, 6),
        "w": quantized(np.int8, 6, 36),
        "bias": drawn(36),
        "x_scale": scales(),
        "w_scale": scales(),
        "mask": mask,
        "x_point": quantized(np.uint8),
        "w_point": np.int8(3),
    }
    check("QAttention", given, held=("w", "x_point", "w_point"), num_heads=3)


def lstm(
    *, directions: int = 1, columns: bool = False, dtype: Any = np.int8, lengths: bool = False
) -> dict[str, Any]:
    hidden, size, batch, steps = 16, 8, 3, 6
    shape = (directions, 4 * hidden) if columns else (directions,)
    point = np.full(shape, 0 if dtype is np.int8 else 127, dtype)
    ends = np.array([steps, 2, 4], np.int32)
    return {
        "x": drawn(steps, batch, size),
        "w": quantized(dtype, directions, size, 4 * hidden),
        "r": quantized(dtype, directions, hidden, 4 * hidden),
        "b": drawn(directions, 8 * hidden),
        "lengths": ends if lengths else None,
        "h": None,
        "c": None,
        "p": None,
        "w_scale": scales(*shape),
        "w_point": point,
        "r_scale": scales(*shape),
        "r_point": point,
    }


OUTPUTS = {"y": FLOAT, "h_end": FLOAT, "c_end": FLOAT}
HELD = ("w", "r", "b", "w_scale", "w_point", "r_scale", "r_point")


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
def test_recurrent_layers(direction: str, *, columns: bool, lengths: bool) -> None:
    count = 2 if direction == "bidirectional" else 1
    for dtype in (np.int8, np.uint8):
        given = lstm(directions=count, columns=columns, dtype=dtype, lengths=lengths)
        check(
            "DynamicQuantizeLSTM",
            given,
            OUTPUTS,
            held=HELD,
            hidden_size=16,
            direction=direction,
        )


def test_recurrent_layers_with_states_and_peepholes() -> None:
    given = {**lstm(), "h": drawn(1, 3, 16), "c": drawn(1, 3, 16), "p": drawn(1, 48)}
    check("DynamicQuantizeLSTM", given, OUTPUTS, held=HELD, hidden_size=16)
    for attributes in ({"clip": 0.3}, {"input_forget": 1}):
        check("DynamicQuantizeLSTM", lstm(), OUTPUTS, held=HELD, hidden_size=16, **attributes)
