"""What recurrent layers share, however their weights are stored."""

from __future__ import annotations

import torch

from graphopt.training.call import Call
from graphopt.training.operators.recurrent_activations import Activation


def reversed_in_time(x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Turn the order of time around, of each sequence within its length.

    Args:
        x: Sequences: (time, batch, features).
        lengths: The length of each, (batch); None: all are of the full one.
    """
    if lengths is None:
        return x.flip(0)
    steps = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    ends = lengths.to(torch.int64)
    places = torch.where(steps < ends, ends - 1 - steps, steps)
    return x.gather(0, places.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def clipped(call: Call, gate: torch.Tensor) -> torch.Tensor:
    """Bound what goes into an activation, where the layer says so."""
    bound = call.real("clip", 0.0)
    return gate.clamp(-bound, bound) if bound > 0 else gate


def lstm_cell(
    call: Call,
    functions: list[Activation],
    peepholes: torch.Tensor | None,
    gates: torch.Tensor,
    cell: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the next hidden state and the next state of the cell, as ONNX's LSTM defines them.

    Args:
        call: Has the attributes `clip` and `input_forget`.
        functions: The activations of gates, of the new content, and of the cell.
        peepholes: Weights of the cell's state, (3 * hidden), or None.
        gates: What input and hidden state give to the gates i, o, f, c: (batch, 4 * hidden).
        cell: The state of the cell: (batch, hidden).
    """
    f, g, h = functions
    enter, leave, keep, new = gates.chunk(4, -1)
    weights = (None,) * 3 if peepholes is None else peepholes.chunk(3)
    enter = f(clipped(call, _peeping(enter, weights[0], cell)))
    if call.integer("input_forget", 0):
        keep = 1 - enter
    else:
        keep = f(clipped(call, _peeping(keep, weights[2], cell)))
    cell = keep * cell + enter * g(clipped(call, new))
    return f(clipped(call, _peeping(leave, weights[1], cell))) * h(cell), cell


def _peeping(gate: torch.Tensor, weight: torch.Tensor | None, cell: torch.Tensor) -> torch.Tensor:
    return gate if weight is None else gate + weight * cell
