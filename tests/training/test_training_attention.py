from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from one_node import check, check_export, check_gradients, one_node

from graphopt.training import OnnxModule

Array = np.ndarray[Any, Any]


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def heads(queries: int = 4, keys: int = 6, of_query: int = 4, of_key: int = 4) -> list[Any]:
    return [
        normal(0, 2, of_query, queries, 8),
        normal(1, 2, of_key, keys, 8),
        normal(2, 2, of_key, keys, 5),
    ]


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_attention(groups: int, causal: int, softcap: float) -> None:
    attributes: dict[str, Any] = {"is_causal": causal, "softcap": softcap, "opset": 23}
    arrays = heads(of_key=4 // groups)
    check("Attention", arrays, **attributes)
    check("Attention", [*arrays, normal(3, 4, 6)], scale=0.3, **attributes)
    past = [normal(4, 2, 4 // groups, 3, 8), normal(5, 2, 4 // groups, 3, 5)]
    check("Attention", [*arrays, None, *past], outputs=3, **attributes)
    seen = np.random.default_rng(0).random((4, 9)) < 0.7
    seen[:, 0] = True
    check("Attention", [*arrays, seen, *past], outputs=3, **attributes)


@pytest.mark.parametrize("mode", [0, 3])
def test_scores(mode: int) -> None:
    arrays = [*heads(), normal(3, 2, 1, 4, 6)]
    check("Attention", [*arrays, None, None], 4, 23, qk_matmul_output_mode=mode)


def test_heads_side_by_side() -> None:
    arrays = [normal(0, 2, 4, 32), normal(1, 2, 6, 16), normal(2, 2, 6, 10)]
    check("Attention", arrays, opset=23, q_num_heads=4, kv_num_heads=2)


def test_a_query_that_sees_no_key_has_no_gradient() -> None:
    seen = np.ones((4, 6), bool)
    seen[1] = False
    arrays = [*heads(), seen]
    module = OnnxModule(one_node("Attention", arrays, opset=23))
    tensors = [torch.from_numpy(each) for each in arrays]
    query = tensors[0].requires_grad_()
    y = module(query, *tensors[1:])
    y.sum().backward()
    assert not y[:, :, 1].any()
    assert query.grad is not None
    assert query.grad.isfinite().all()
    assert not query.grad[:, :, 1].any()
    assert query.grad[:, :, 0].any()


def test_gradients() -> None:
    arrays = heads(queries=2, keys=3, of_query=2, of_key=1)
    check_gradients("Attention", [*arrays, normal(3, 2, 3)], opset=23, softcap=2.0)
    check_gradients("Attention", arrays, opset=23, is_causal=1)


def test_export_with_a_dynamic_batch_and_sequence() -> None:
    query, key, value = normal(0, 4, 2, 6, 8), normal(1, 1, 2, 6, 8), normal(2, 1, 2, 6, 5)
    check_export("Attention", [query, key, value, normal(3, 1, 6)], (2,), opset=23)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("rotated", [0, 4])
def test_rotary_embeddings(rotated: int, interleaved: int) -> None:
    half = (rotated or 8) // 2
    angles = normal(1, 10, half)
    arrays = [normal(0, 2, 3, 5, 8), np.cos(angles), np.sin(angles)]
    positions = np.random.default_rng(0).integers(0, 10, (2, 5))
    attributes = {"interleaved": interleaved, "rotary_embedding_dim": rotated, "num_heads": 3}
    check("RotaryEmbedding", [*arrays, positions], opset=23, **attributes)
    flat = normal(0, 2, 5, 24)
    check("RotaryEmbedding", [flat, *arrays[1:], positions], opset=23, **attributes)
    check_gradients("RotaryEmbedding", [*arrays, positions], opset=23, **attributes)
