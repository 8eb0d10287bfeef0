"""Attention and MultiHeadAttention of com.microsoft."""

from __future__ import annotations

import math
from typing import Any

import torch

from graphopt.training.call import Call
from graphopt.training.operators.heads import joined_heads, split_heads
from graphopt.training.operators.registry import MICROSOFT, operator

_FILTERED = -10000.0
"""What is added to the scores of keys that a mask leaves out, if mask_filter_value says nothing."""


@operator("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(
    call: Call,
    query: torch.Tensor,
    key: torch.Tensor | None = None,
    value: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    attention_bias: torch.Tensor | None = None,
    past_key: torch.Tensor | None = None,
    past_value: torch.Tensor | None = None,
    past_length: torch.Tensor | None = None,
    cache_indirection: torch.Tensor | None = None,
) -> Any:
    """Let heads attend; the projections are made before."""
    if past_length is not None or cache_indirection is not None:
        raise call.refused("it shares one buffer for past and present keys")
    heads = call.integer("num_heads")
    q, k, v = _biased_heads(call, heads, query, key, value, bias)
    if past_key is not None and past_value is not None:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    filtered = _masked(call, mask, q, k)
    output, scores = _attended_with_biases(call, q, k, v, [attention_bias, filtered])
    return output, k, v, scores


def _biased_heads(
    call: Call,
    heads: int,
    query: torch.Tensor,
    key: torch.Tensor | None,
    value: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return queries, keys and values with their biases, (batch, heads, length, size)."""
    if query.ndim == 5:
        parts = _unpacked(query)
    elif key is None:
        raise call.refused("its keys are left out, and its queries are not packed with them")
    elif key.ndim == 5:
        parts = [split_heads(query, heads), *_unpacked(key)]
    elif value is None:
        raise call.refused("its values are left out, and its keys are not packed with them")
    elif key.ndim == 4:
        # Keys and values that another layer has projected: their biases are in them.
        queries = split_heads(query, heads)
        if bias is not None:
            queries = queries + bias[: query.shape[-1]].reshape(heads, 1, -1)
        return queries, key, value
    else:
        parts = [split_heads(each, heads) for each in (query, key, value)]
    if bias is not None:
        sizes = [heads * each.shape[-1] for each in parts]
        biases = torch.split(bias, sizes)
        parts = [
            part + each.reshape(heads, 1, -1) for part, each in zip(parts, biases, strict=True)
        ]
    q, k, v = parts
    return q, k, v


def _unpacked(packed: torch.Tensor) -> list[torch.Tensor]:
    """Return the parts of (batch, length, heads, parts, size), with their heads as an axis."""
    return [each.transpose(1, 2) for each in packed.unbind(3)]


@operator("Attention", domain=MICROSOFT)
def attention(
    call: Call,
    x: torch.Tensor,
    weights: torch.Tensor,
    bias: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    past: torch.Tensor | None = None,
    attention_bias: torch.Tensor | None = None,
    past_length: torch.Tensor | None = None,
) -> Any:
    """Project queries, keys and values, and let heads attend."""
    if past_length is not None or call.integer("past_present_share_buffer", 0):
        raise call.refused("it shares one buffer for past and present keys")
    projected = torch.matmul(x, weights)
    if bias is not None:
        projected = projected + bias
    return attended(call, projected, mask, past, attention_bias)


def attended(
    call: Call,
    projected: torch.Tensor,
    mask: torch.Tensor | None,
    past: torch.Tensor | None,
    attention_bias: torch.Tensor | None,
) -> Any:
    """Let heads attend to what one product has projected.

    Args:
        call: Attention or QAttention.
        projected: Queries, keys and values behind each other, (batch, length, sizes).
        mask: The keys to leave out, in one of Attention's forms.
        past: Keys and values before, (2, batch, heads, length, size).
        attention_bias: Added to the scores.

    Returns:
        The output, and past and present keys and values.
    """
    if call.integer("do_rotary", 0):
        raise call.refused("it rotates queries and keys")
    heads = call.integer("num_heads")
    third = projected.shape[-1] // 3
    sizes = call.integers("qkv_hidden_sizes", []) or [third] * 3
    parts = [split_heads(each, heads) for each in torch.split(projected, sizes, -1)]
    q, k, v = parts
    if past is not None:
        k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
    filtered = _masked(call, mask, q, k)
    output, _ = _attended_with_biases(call, q, k, v, [attention_bias, filtered])
    return output, torch.stack([k, v]) if call.wants(1) else None


def _attended_with_biases(
    call: Call, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, added: list[torch.Tensor | None]
) -> tuple[torch.Tensor, torch.Tensor]:
    scale = call.real("scale", 0.0) or 1 / math.sqrt(q.shape[-1])
    scores = torch.matmul(q, k.transpose(-1, -2)) * scale
    for each in added:
        if each is not None:
            scores = scores + each
    weighted = torch.matmul(torch.softmax(scores, -1), v)
    return joined_heads(weighted), scores


def _masked(
    call: Call, mask: torch.Tensor | None, q: torch.Tensor, k: torch.Tensor
) -> torch.Tensor | None:
    """Return what is added to scores of keys that are left out; None: there are none.

    ONNX Runtime takes: (batch,), how many keys there are; (2 * batch,), the end and the start of
    the keys; (batch, keys) or (batch, queries, keys), where 0 leaves a key out.
    """
    keys, device = k.shape[2], q.device
    found: torch.Tensor | None = None
    if mask is not None and not (mask.ndim == 2 and mask.shape[1] == 1 and keys != 1):
        filtered = call.real("mask_filter_value", _FILTERED)
        if mask.ndim == 1:
            seen = _between(mask, q.shape[0], keys)
        elif mask.ndim in (2, 3):
            seen = (mask > 0).unsqueeze(1) if mask.ndim == 2 else mask > 0
        else:
            raise call.refused(f"its mask has {mask.ndim} axes")
        found = torch.where(seen, 0.0, filtered).to(q.dtype).unsqueeze(1)
    if call.integer("unidirectional", 0):
        lowest = torch.finfo(q.dtype).min
        last = torch.arange(q.shape[2], device=device).unsqueeze(1) + (keys - q.shape[2])
        ahead = torch.arange(keys, device=device) > last
        added = 0.0 if found is None else found
        found = torch.where(ahead, lowest, added).to(q.dtype)
    return found


def _between(mask: torch.Tensor, batch: int, keys: int) -> torch.Tensor:
    places = torch.arange(keys, device=mask.device)
    seen = places < mask[:batch].unsqueeze(1)
    if mask.shape[0] != batch:
        seen = seen & (places >= mask[batch : 2 * batch].unsqueeze(1))
    return seen.unsqueeze(1)
