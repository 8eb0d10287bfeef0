"""Attention, and rotary embeddings of positions."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
import torch
from torch.nn import functional

from graphopt.training.call import Call
from graphopt.training.dtypes import torch_dtype
from graphopt.training.operators.heads import joined_heads, split_heads
from graphopt.training.operators.registry import operator
from graphopt.training.operators.rotation import rotated


@operator("Attention")
def attention(
    call: Call,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    past_key: torch.Tensor | None = None,
    past_value: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ...]:
    """Attend to the keys; also return all keys and values, and the scores at some point."""
    flat = query.ndim == 3
    if flat:
        query = split_heads(query, call.integer("q_num_heads"))
        key = split_heads(key, call.integer("kv_num_heads"))
        value = split_heads(value, call.integer("kv_num_heads"))
    if past_key is not None and past_value is not None:
        key = torch.cat((past_key, key), 2)
        value = torch.cat((past_value, value), 2)
    past = 0 if past_key is None else past_key.shape[2]
    allowed = _allowed(call, query, key, past, lengths)
    present = key, value
    groups = query.shape[1] // key.shape[1]
    if groups != 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = call.real("scale", 1 / math.sqrt(query.shape[-1]))
    if _is_plain(call, mask, lengths):
        y = functional.scaled_dot_product_attention(query, key, value, allowed, scale=scale)
        return (joined_heads(y) if flat else y), *present
    bias = _bias(query, key, mask, allowed)
    y, scores = _attended_with_scores(call, query, key, value, bias, scale)
    return (joined_heads(y) if flat else y), *present, scores


def _is_plain(call: Call, mask: torch.Tensor | None, lengths: torch.Tensor | None) -> bool:
    """Whether PyTorch's own function computes the same.

    Without a mask each query sees a key. The fused functions differ in what they return for
    queries that see none.
    """
    masked = mask is not None or lengths is not None
    precise = call.has("softmax_precision") or call.real("softcap", 0.0)
    return not (masked or precise or call.wants(3))


def _allowed(
    call: Call, query: torch.Tensor, key: torch.Tensor, past: Any, lengths: torch.Tensor | None
) -> torch.Tensor | None:
    """Return which keys a query sees by their distance and by the lengths of the sequences.

    Returns:
        Booleans of the shape (queries, keys) or (batch, 1, queries, keys); None: all of them.
    """
    causal = call.integer("is_causal", 0) == 1
    left = call.integer("left_window_size", -1)
    right = call.integer("right_window_size", -1)
    if causal:
        right = 0 if right < 0 else min(right, 0)
    keys = torch.arange(key.shape[2], device=query.device)
    allowed: torch.Tensor | None = None
    if left >= 0 or right >= 0:
        at = torch.arange(query.shape[2], device=query.device).unsqueeze(1)
        cached = past if lengths is None else lengths.reshape(-1, 1, 1, 1) - query.shape[2]
        at = at + cached
        if right >= 0:
            allowed = keys <= at + right
        if left >= 0:
            near = keys >= at - left
            allowed = near if allowed is None else allowed & near
    if lengths is not None:
        filled = keys < lengths.reshape(-1, 1, 1, 1)
        allowed = filled if allowed is None else allowed & filled
    return allowed


def _bias(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, allowed: torch.Tensor | None
) -> torch.Tensor | None:
    """Return what is added to the scores: -inf where a query does not see a key."""
    bias: torch.Tensor | None = None
    if mask is not None:
        missing = key.shape[2] - mask.shape[-1]
        beyond = 0 if mask.dtype == torch.bool else -math.inf
        mask = functional.pad(mask, (0, missing), value=beyond)
        bias = _additive(mask, query.dtype) if mask.dtype == torch.bool else mask
    if allowed is not None:
        structural = _additive(allowed, query.dtype)
        bias = structural if bias is None else bias + structural
    return bias


def _additive(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    zero = torch.zeros((), dtype=dtype, device=seen.device)
    return torch.where(seen, zero, torch.full_like(zero, -math.inf))


def _attended_with_scores(
    call: Call,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the output, and the scores that qk_matmul_output_mode asks for."""
    root = math.sqrt(scale)
    scores = (query * root) @ (key * root).transpose(-1, -2)
    stages = [scores]
    softcap = call.real("softcap", 0.0)
    if softcap > 0:
        scores = torch.tanh(scores / softcap) * softcap
    stages.append(scores)
    empty: torch.Tensor | None = None
    if bias is not None:
        scores = scores + bias
        # A query that sees no key attends to nothing, and has no gradient of NaN.
        empty = (bias == -math.inf).all(-1, keepdim=True)
    stages.append(scores)
    if call.has("softmax_precision"):
        scores = scores.to(torch_dtype(ir.DataType(call.integer("softmax_precision"))))
    if empty is not None:
        scores = scores.masked_fill(empty, 0)
    weights = torch.softmax(scores, -1)
    if empty is not None:
        weights = weights.masked_fill(empty, 0)
    weights = weights.to(query.dtype)
    stages.append(weights)
    return weights @ value, stages[call.integer("qk_matmul_output_mode", 0)]


@operator("RotaryEmbedding")
def rotary_embedding(
    call: Call,
    x: torch.Tensor,
    cosines: torch.Tensor,
    sines: torch.Tensor,
    positions: torch.Tensor | None = None,
) -> torch.Tensor:
    """Rotate pairs of elements by angles that grow with the position."""
    flat = x.ndim == 3
    heads = split_heads(x, call.integer("num_heads")) if flat else x
    count = call.integer("rotary_embedding_dim", 0) or heads.shape[-1]
    if positions is not None:
        cosines, sines = cosines[positions], sines[positions]
    half = count // 2
    interleaved = call.integer("interleaved", 0) == 1
    y = rotated(heads, cosines[..., :half], sines[..., :half], count, interleaved=interleaved)
    return joined_heads(y) if flat else y
