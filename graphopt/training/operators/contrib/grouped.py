"""GroupQueryAttention and RotaryEmbedding of com.microsoft."""

from __future__ import annotations

import math
from typing import Any

import torch

from graphopt.training.call import Call
from graphopt.training.numbers import Numbers, Value, integer_of
from graphopt.training.operators.contrib.normalization import inverse_root_mean_square
from graphopt.training.operators.heads import joined_heads, split_heads
from graphopt.training.operators.registry import MICROSOFT, operator
from graphopt.training.operators.rotation import rotated


@operator("RotaryEmbedding", domain=MICROSOFT)
def rotary_embedding(
    call: Call, x: torch.Tensor, positions: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor
) -> Any:
    """Rotate pairs of features by angles that grow with the position."""
    heads, count = call.integer("num_heads", 0), 2 * cosines.shape[-1]
    split = split_heads(x, heads or x.shape[-1] // count) if x.ndim == 3 else x
    if positions.numel() == 1 and positions.ndim == 1:
        positions = positions + torch.arange(split.shape[2], device=x.device).unsqueeze(0)
    interleaved = call.integer("interleaved", 0) == 1
    found = rotated(split, cosines[positions], sines[positions], count, interleaved=interleaved)
    return joined_heads(found) if x.ndim == 3 else found


@operator("GroupQueryAttention", domain=MICROSOFT, numbers=(6,))
def group_query_attention(
    call: Call,
    query: torch.Tensor,
    key: torch.Tensor | None,
    value: torch.Tensor | None,
    past_key: torch.Tensor | None,
    past_value: torch.Tensor | None,
    last: torch.Tensor,
    total: Value,
    cosines: torch.Tensor | None = None,
    sines: torch.Tensor | None = None,
    positions: torch.Tensor | None = None,
    attention_bias: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    q_norm: torch.Tensor | None = None,
    k_norm: torch.Tensor | None = None,
) -> Any:
    """Let groups of heads attend to the same keys, causally; the past is in front of new keys."""
    if k_scale is not None or v_scale is not None or call.integer("sliding_window_cache", 0):
        raise call.refused("its past keys are quantized, or a window of them")
    if call.integer("qk_output", 0) or not call.integer("causal", 1):
        raise call.refused("it puts out its scores, or is not causal")
    heads, groups = call.integer("num_heads"), call.integer("kv_num_heads")
    if key is None or value is None:
        size = query.shape[-1] // (heads + 2 * groups)
        sizes = [heads * size, groups * size, groups * size]
        query, key, value = torch.split(query, sizes, -1)
    q, k, v = (
        split_heads(each, count) for each, count in ((query, heads), (key, groups), (value, groups))
    )
    if q_norm is not None and k_norm is not None:
        epsilon = call.real("qk_norm_epsilon", 1e-6)
        q, k = _normed(q, q_norm, epsilon), _normed(k, k_norm, epsilon)
    # What a right-padded prompt has is counted from 0 too.
    before = (last.reshape(-1).to(torch.int64) + 1 - q.shape[2]).clamp(min=0)
    places = before.unsqueeze(1) + torch.arange(q.shape[2], device=q.device)
    if call.integer("do_rotary", 0):
        if cosines is None or sines is None:
            raise call.refused("it rotates, and has no angles")
        at = places if positions is None else positions
        angles = cosines[at], sines[at], 2 * cosines.shape[-1]
        interleaved = call.integer("rotary_interleaved", 0) == 1
        q, k = (rotated(each, *angles, interleaved=interleaved) for each in (q, k))
    length = _length(total, past_key, q)
    present = [
        _present(each, new, places, length) for each, new in ((past_key, k), (past_value, v))
    ]
    # Queries that pad a prompt see the keys before them.
    ends = torch.minimum(places, last.reshape(-1, 1).to(torch.int64))
    output = _attended_causally(call, q, present, (places, ends), attention_bias, sinks)
    return output, *present


def _normed(x: torch.Tensor, scale: torch.Tensor, epsilon: float) -> torch.Tensor:
    inverse = inverse_root_mean_square(x, [-1], epsilon)
    return (x.to(inverse.dtype) * inverse * scale).to(x.dtype)


def _length(total: Value, past: torch.Tensor | None, q: torch.Tensor) -> Any:
    """Return how many keys the present ones have room for."""
    before = 0 if past is None else past.shape[2]
    if isinstance(total, Numbers) or not torch.compiler.is_compiling():
        return max(integer_of(total), before)
    # The total is data there; this is what it is where no room is left.
    return before + q.shape[2]


def _present(
    past: torch.Tensor | None, new: torch.Tensor, places: torch.Tensor, length: Any
) -> torch.Tensor:
    """Put new keys or values at their places behind those of the past."""
    room = new.new_zeros(new.shape[0], new.shape[1], length, new.shape[3])
    if past is not None:
        room = torch.cat([past, room[:, :, past.shape[2] :]], 2)
    index = places[:, None, :, None].expand(-1, new.shape[1], -1, new.shape[3])
    return room.scatter(2, index, new)


def _attended_causally(
    call: Call,
    q: torch.Tensor,
    present: list[torch.Tensor],
    sight: tuple[torch.Tensor, torch.Tensor],
    attention_bias: torch.Tensor | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    group = q.shape[1] // present[0].shape[1]
    k, v = (each.repeat_interleave(group, 1) for each in present)
    scale = call.real("scale", 0.0) or 1 / math.sqrt(q.shape[-1])
    scores = torch.matmul(q, k.transpose(-1, -2)) * scale
    cap = call.real("softcap", 0.0)
    if cap > 0:
        scores = cap * torch.tanh(scores / cap)
    if attention_bias is not None:
        scores = scores + attention_bias
    keys = torch.arange(k.shape[2], device=q.device)
    places, ends = (each.unsqueeze(-1) for each in sight)
    seen = keys <= ends
    window = call.integer("local_window_size", -1)
    if window > 0:
        seen = seen & (keys > places - window)
    scores = torch.where(seen.unsqueeze(1), scores, -torch.inf)
    if sinks is not None or call.integer("smooth_softmax", 0) == 1:
        sink = q.new_zeros(q.shape[1]) if sinks is None else sinks
        column = sink.reshape(1, -1, 1, 1).expand(q.shape[0], -1, q.shape[2], 1)
        weights = torch.softmax(torch.cat([scores, column], -1), -1)[..., :-1]
    else:
        weights = torch.softmax(scores, -1)
    return joined_heads(torch.matmul(weights, v))
