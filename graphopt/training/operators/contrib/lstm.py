"""DynamicQuantizeLSTM of com.microsoft."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from graphopt.training.call import Call
from graphopt.training.operators.contrib.integers import centred_columns, rounded, scaled_product
from graphopt.training.operators.recurrence import lstm_cell, reversed_in_time
from graphopt.training.operators.recurrent_activations import Activation, activations
from graphopt.training.operators.registry import MICROSOFT, operator


@dataclass(frozen=True)
class _Direction:
    """One direction of the layer.

    Args:
        weights: Whole numbers beside the input and beside the hidden state, (in, 4 * hidden).
        scales: Their scales: one, or one for each column.
        bias: Added to the gates.
        peepholes: Weights of the cell's state, (3 * hidden), or None.
        functions: The activations.
        states: Where the sequences start from: the hidden and the cell's state, (batch, hidden).
        backwards: Whether it reads the sequences from their end.
    """

    weights: tuple[torch.Tensor, torch.Tensor]
    scales: tuple[torch.Tensor, torch.Tensor]
    bias: torch.Tensor
    peepholes: torch.Tensor | None
    functions: list[Activation]
    states: tuple[torch.Tensor, torch.Tensor]
    backwards: bool


@operator("DynamicQuantizeLSTM", domain=MICROSOFT)
def dynamic_quantize_lstm(
    call: Call,
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    bias: torch.Tensor | None,
    lengths: torch.Tensor | None,
    initial_h: torch.Tensor | None,
    initial_c: torch.Tensor | None,
    peepholes: torch.Tensor | None,
    w_scale: torch.Tensor,
    w_point: torch.Tensor,
    r_scale: torch.Tensor,
    r_point: torch.Tensor,
) -> Any:
    """Long short-term memory whose input and hidden states are rounded to 8 bits at each step.

    They are rounded in the range of the whole batch, as in ONNX Runtime with one thread; with more
    of them it takes a range for the part of the batch that a thread has.
    """
    hidden = r.shape[1]
    zeros = x.new_zeros(x.shape[1], hidden)
    name = call.text("direction", "forward")
    functions = activations(call, ("Sigmoid", "Tanh", "Tanh"), w.shape[0])
    outputs, last = [], []
    for index in range(w.shape[0]):
        direction = _Direction(
            (centred_columns(w[index], w_point[index]), centred_columns(r[index], r_point[index])),
            (w_scale[index], r_scale[index]),
            x.new_zeros(4 * hidden) if bias is None else torch.add(*bias[index].chunk(2)),
            None if peepholes is None else peepholes[index],
            functions[index],
            (
                zeros if initial_h is None else initial_h[index],
                zeros if initial_c is None else initial_c[index],
            ),
            name == "reverse" or index == 1,
        )
        y, states = _run(call, direction, x, lengths)
        outputs.append(y)
        last.append(states)
    return torch.stack(outputs, 1), *(torch.stack(each) for each in zip(*last, strict=True))


def _run(
    call: Call, direction: _Direction, x: torch.Tensor, lengths: torch.Tensor | None
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    if direction.backwards:
        x = reversed_in_time(x, lengths)
    steps = torch.arange(x.shape[0], device=x.device)
    # What is behind the end of all sequences has no part in the range that x is rounded in.
    read = x if lengths is None else x * (steps < lengths.amax()).reshape(-1, 1, 1)
    gates = (
        scaled_product(rounded(read), direction.weights[0], direction.scales[0]) + direction.bias
    )
    states, seen = direction.states, direction.states[0]
    outputs = []
    for time in range(x.shape[0]):
        new = _step(call, direction, gates[time], (seen, states[1]))
        if lengths is None:
            states, seen = new, new[0]
            outputs.append(new[0])
            continue
        runs = (lengths > time).unsqueeze(-1)
        outputs.append(torch.where(runs, new[0], 0))
        states = (torch.where(runs, new[0], states[0]), torch.where(runs, new[1], states[1]))
        # Of sequences that have ended, ONNX Runtime rounds the zeros that it puts out.
        seen = outputs[-1]
    y = torch.stack(outputs)
    return reversed_in_time(y, lengths) if direction.backwards else y, states


def _step(
    call: Call,
    direction: _Direction,
    gates: torch.Tensor,
    states: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    hidden, cell = states
    seen = scaled_product(rounded(hidden), direction.weights[1], direction.scales[1])
    return lstm_cell(call, direction.functions, direction.peepholes, gates + seen, cell)
