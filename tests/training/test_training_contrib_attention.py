"""Attention and MultiHeadAttention of com.microsoft, beside ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from microsoft_nodes import FLOAT, check, one_node

from graphopt.training import OnnxModule

BATCH, LENGTH, HEADS, SIZE = 2, 5, 3, 4
WIDTH = HEADS * SIZE
RNG = np.random.default_rng(0)


def drawn(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def whole(*values: Any) -> Any:
    return np.array(values, np.int32)


def projected(keys: int = LENGTH, value_size: int = SIZE) -> dict[str, Any]:
    return {
        "query": drawn(BATCH, LENGTH, WIDTH),
        "key": drawn(BATCH, keys, WIDTH),
        "value": drawn(BATCH, keys, HEADS * value_size),
    }


def test_heads_attend() -> None:
    for keys, value_size in ((LENGTH, SIZE), (7, SIZE), (LENGTH, 6)):
        check("MultiHeadAttention", projected(keys, value_size), num_heads=HEADS)
    check("MultiHeadAttention", projected(), num_heads=HEADS, scale=0.3)
    check("MultiHeadAttention", projected(), num_heads=HEADS, unidirectional=1)
    check("MultiHeadAttention", {**projected(), "bias": drawn(3 * WIDTH)}, num_heads=HEADS)


@pytest.mark.parametrize("unidirectional", [0, 1])
@pytest.mark.parametrize(
    "mask",
    [
        whole(3, 5),
        whole([1, 1, 0, 1, 0], [1, 1, 1, 1, 0]),
        RNG.integers(0, 2, size=(BATCH, LENGTH, LENGTH)).astype(np.int32),
        None,
    ],
    ids=["ends", "keys", "pairs", "none"],
)
def test_masks_of_heads(mask: Any, unidirectional: int) -> None:
    given = {**projected(), "bias": None, "mask": mask}
    for added in (None, drawn(1, HEADS, LENGTH, LENGTH), drawn(BATCH, 1, LENGTH, LENGTH)):
        check(
            "MultiHeadAttention",
            {**given, "attention_bias": added},
            num_heads=HEADS,
            unidirectional=unidirectional,
            mask_filter_value=-50.0,
        )


def test_packed_projections() -> None:
    check(
        "MultiHeadAttention",
        {"query": drawn(BATCH, LENGTH, WIDTH), "key": drawn(BATCH, HEADS, 6, SIZE)}
        | {"value": drawn(BATCH, HEADS, 6, SIZE)},
        num_heads=HEADS,
    )


def test_past_keys_and_values() -> None:
    given = {**projected(), "bias": None, "mask": None, "attention_bias": None}
    past = {"past_key": drawn(BATCH, HEADS, 4, SIZE), "past_value": drawn(BATCH, HEADS, 4, SIZE)}
    outputs = {"y": FLOAT, "present_key": FLOAT, "present_value": FLOAT}
    for unidirectional in (0, 1):
        attributes = {"num_heads": HEADS, "unidirectional": unidirectional}
        check("MultiHeadAttention", {**given, **past}, outputs, **attributes)
    check("MultiHeadAttention", given, outputs, num_heads=HEADS)


@pytest.mark.parametrize("unidirectional", [0, 1])
@pytest.mark.parametrize(
    "mask",
    [
        whole(3, 5),
        whole(3, 5, 1, 0),
        whole([1, 1, 0, 1, 0], [1, 1, 1, 1, 0]),
        RNG.integers(0, 2, size=(BATCH, LENGTH, LENGTH)).astype(np.int32),
        None,
    ],
    ids=["ends", "ends and starts", "keys", "pairs", "none"],
)
def test_attention_with_its_projection(mask: Any, unidirectional: int) -> None:
    given = {"x": drawn(BATCH, LENGTH, 6), "w": drawn(6, 3 * WIDTH), "b": drawn(3 * WIDTH)}
    attributes = {"num_heads": HEADS, "unidirectional": unidirectional}
    check("Attention", {**given, "mask": mask}, held=("w", "b"), **attributes)


def test_attention_with_a_past_and_other_sizes() -> None:
    given = {"x": drawn(BATCH, LENGTH, 6), "w": drawn(6, 3 * WIDTH), "b": drawn(3 * WIDTH)}
    past = {"mask": None, "past": drawn(2, BATCH, HEADS, 4, SIZE)}
    outputs = {"y": FLOAT, "present": FLOAT}
    check("Attention", {**given, **past}, outputs, num_heads=HEADS, unidirectional=1)
    sizes = [WIDTH, WIDTH, 2 * WIDTH]
    wide = {"x": given["x"], "w": drawn(6, sum(sizes)), "b": drawn(sum(sizes))}
    check("Attention", wide, num_heads=HEADS, qkv_hidden_sizes=sizes)


def test_it_is_exported_for_any_batch_and_length() -> None:
    given = {**projected(), "bias": drawn(3 * WIDTH), "mask": whole([1] * LENGTH, [1] * LENGTH)}
    proto = one_node("MultiHeadAttention", given, {"y": FLOAT}, held=("bias",), num_heads=HEADS)
    module = OnnxModule(ir.from_proto(proto)).eval()
    fed = [torch.from_numpy(array) for name, array in given.items() if name != "bias"]
    dynamic = tuple({0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO} for _ in fed)
    program = torch.export.export(module, tuple(fed), dynamic_shapes=(dynamic,))
    other = [each[:1, :3] for each in fed]
    with torch.no_grad():
        torch.testing.assert_close(program.module()(*other), module(*other))
