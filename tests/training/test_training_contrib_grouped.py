"""GroupQueryAttention and RotaryEmbedding of com.microsoft, beside ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from microsoft_nodes import FLOAT, check, one_node

from graphopt.training import OnnxModule

BATCH, HEADS, GROUPS, SIZE = 2, 4, 2, 16
RNG = np.random.default_rng(0)
OUTPUTS = {"y": FLOAT, "present_key": FLOAT, "present_value": FLOAT}
SIZES = {"num_heads": HEADS, "kv_num_heads": GROUPS}


def drawn(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def angles(places: int = 32, pairs: int = SIZE // 2) -> dict[str, Any]:
    table = np.outer(np.arange(places), 0.3 ** np.arange(pairs)).astype(np.float32)
    return {"cosines": np.cos(table), "sines": np.sin(table)}


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotations(interleaved: int) -> None:
    places = np.array([[3, 1, 2], [0, 4, 5]])
    for positions in (np.array([2]), places):
        for x in (drawn(2, 3, HEADS * SIZE), drawn(2, HEADS, 3, SIZE)):
            given = {"x": x, "positions": positions, **angles()}
            check("RotaryEmbedding", given, interleaved=interleaved)
    given = {"x": drawn(2, 3, HEADS * SIZE), "positions": places, **angles(pairs=4)}
    part = {"num_heads": HEADS, "rotary_embedding_dim": 8}
    check("RotaryEmbedding", given, interleaved=interleaved, **part)


def prompt(length: int = 5, past: int = 0) -> dict[str, Any]:
    # ONNX Runtime adds several keys at once to those of one sequence only.
    batch = 1 if length > 1 and past else BATCH
    kept = drawn(batch, GROUPS, past, SIZE), drawn(batch, GROUPS, past, SIZE)
    return {
        "query": drawn(batch, length, HEADS * SIZE),
        "key": drawn(batch, length, GROUPS * SIZE),
        "value": drawn(batch, length, GROUPS * SIZE),
        "past_key": kept[0] if past else None,
        "past_value": kept[1] if past else None,
        "last": np.full((batch,), past + length - 1, np.int32),
        "total": np.array(past + length, np.int32),
    }


@pytest.mark.parametrize(("length", "past"), [(5, 0), (1, 4), (3, 4)])
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"scale": 0.5},
        {"local_window_size": 2},
        {"softcap": 2.0},
        {"smooth_softmax": 1},
        {"do_rotary": 1},
        {"do_rotary": 1, "rotary_interleaved": 1},
    ],
    ids=str,
)
def test_groups_of_heads_attend(length: int, past: int, attributes: dict[str, Any]) -> None:
    given = prompt(length, past) | (angles() if "do_rotary" in attributes else {})
    check("GroupQueryAttention", given, OUTPUTS, **SIZES, **attributes)


def test_packed_projections() -> None:
    width = (HEADS + 2 * GROUPS) * SIZE
    given = {**prompt(), "query": drawn(BATCH, 5, width), "key": None, "value": None}
    check("GroupQueryAttention", given | angles(), OUTPUTS, do_rotary=1, **SIZES)


def test_a_bias_and_sinks() -> None:
    given = prompt() | {"cosines": None, "sines": None, "positions": None}
    given["bias"] = drawn(1, HEADS, 5, 5)
    check("GroupQueryAttention", given, OUTPUTS, **SIZES)
    given |= {"bias": None, "sinks": drawn(HEADS)}
    check("GroupQueryAttention", given, OUTPUTS, **SIZES)


def test_a_prompt_of_unequal_lengths() -> None:
    given = prompt() | {"last": np.array([4, 2], np.int32)}
    check("GroupQueryAttention", given, OUTPUTS, **SIZES)


def test_it_is_exported_for_any_length() -> None:
    given = prompt(3, 4) | angles()
    held = ("cosines", "sines")
    proto = one_node("GroupQueryAttention", given, OUTPUTS, held=held, do_rotary=1, **SIZES)
    module = OnnxModule(ir.from_proto(proto)).eval()
    fed = [torch.from_numpy(np.asarray(each)) for name, each in given.items() if name not in held]
    auto = torch.export.Dim.AUTO
    sizes = [{1: auto}, {1: auto}, {1: auto}, {2: auto}, {2: auto}, None, None]
    program = torch.export.export(module, tuple(fed), dynamic_shapes=(tuple(sizes),))
    other = [
        torch.from_numpy(np.asarray(each))
        for name, each in prompt(2, 7).items()
        if name not in held
    ]
    for one, two in zip(program.module()(*other), module(*other), strict=True):
        torch.testing.assert_close(one, two)
