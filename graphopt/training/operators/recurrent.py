"""Recurrent layers: by PyTorch's fused functions where they know the attributes, else in a loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from graphopt.training.call import Call
from graphopt.training.operators.recurrence import clipped, lstm_cell, reversed_in_time
from graphopt.training.operators.recurrent_activations import Activation, activations
from graphopt.training.operators.registry import operator

States = tuple[torch.Tensor, ...]
"""The hidden state, and that of the cell where there is one; each (batch, hidden)."""


@dataclass(frozen=True)
class _Direction:
    """One direction of a layer.

    Args:
        w: Weights of the input: (gates * hidden, input).
        r: Weights of the hidden state: (gates * hidden, hidden).
        w_bias: Bias beside the input: (gates * hidden).
        r_bias: Bias beside the hidden state.
        peepholes: Weights of the cell's state, (3 * hidden), or None.
        functions: The activations.
        states: Where the sequences start from.
    """

    w: torch.Tensor
    r: torch.Tensor
    w_bias: torch.Tensor
    r_bias: torch.Tensor
    peepholes: torch.Tensor | None
    functions: list[Activation]
    states: States


Step = Callable[[Call, _Direction, torch.Tensor, States], States]
"""Takes the gates' part of the input, (batch, gates * hidden), and states; returns the next."""

Fused = Callable[[_Direction, torch.Tensor], tuple[torch.Tensor, States]]
"""Takes the input, and returns all hidden states and the last ones."""


@operator("LSTM")
def lstm(
    call: Call,
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
    initial_h: torch.Tensor | None = None,
    initial_c: torch.Tensor | None = None,
    peepholes: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ...]:
    """Long short-term memory."""
    plain = peepholes is None and not call.integer("input_forget", 0)
    # The cell's state at the end of shorter sequences is not what the fused function returns.
    plain = plain and (lengths is None or not call.wants(2))
    fused = _fused_lstm if plain and _has_activations(call, ("Sigmoid", "Tanh", "Tanh")) else None
    layer = _Layer(call, x, w, r, b, lengths, ("Sigmoid", "Tanh", "Tanh"))
    return layer.run([initial_h, initial_c], peepholes, _lstm_step, fused)


@operator("GRU")
def gru(
    call: Call,
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
    initial_h: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ...]:
    """Gated recurrent unit."""
    plain = call.integer("linear_before_reset", 0) != 0
    fused = _fused_gru if plain and _has_activations(call, ("Sigmoid", "Tanh")) else None
    layer = _Layer(call, x, w, r, b, lengths, ("Sigmoid", "Tanh"))
    return layer.run([initial_h], None, _gru_step, fused)


@operator("RNN")
def rnn(
    call: Call,
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
    initial_h: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ...]:
    """Recurrent layer of one activation."""
    fused = None
    if _has_activations(call, ("Tanh",)):
        fused = _fused_rnn(torch.rnn_tanh)
    elif _has_activations(call, ("Relu",), default=("Tanh",)):
        fused = _fused_rnn(torch.rnn_relu)
    layer = _Layer(call, x, w, r, b, lengths, ("Tanh",))
    return layer.run([initial_h], None, _rnn_step, fused)


def _has_activations(
    call: Call, wanted: tuple[str, ...], default: tuple[str, ...] | None = None
) -> bool:
    """Whether all directions have these activations, and clip nothing."""
    found = call.texts("activations", default or wanted)
    expected = [each.lower() for each in wanted]
    groups = [found[start : start + len(wanted)] for start in range(0, len(found), len(wanted))]
    same = all([each.lower() for each in group] == expected for group in groups)
    return same and not call.real("clip", 0.0)


class _Layer:
    """A recurrent layer: its input in time order, and the directions that it runs in."""

    def __init__(
        self,
        call: Call,
        x: torch.Tensor,
        w: torch.Tensor,
        r: torch.Tensor,
        b: torch.Tensor | None,
        lengths: torch.Tensor | None,
        default: tuple[str, ...],
    ) -> None:
        self.call, self.w, self.r, self.b = call, w, r, b
        self.batch_first = call.integer("layout", 0) == 1
        self.x = x.transpose(0, 1) if self.batch_first else x
        self.lengths = None if lengths is None else lengths.to(torch.int64)
        self.functions = activations(call, default, w.shape[0])

    def run(
        self,
        initial: Iterable[torch.Tensor | None],
        peepholes: torch.Tensor | None,
        step: Step,
        fused: Fused | None,
    ) -> tuple[torch.Tensor, ...]:
        """Return all hidden states, and the last states."""
        starts = [self._start(each) for each in initial]
        name = self.call.text("direction", "forward")
        outputs: list[torch.Tensor] = []
        last: list[States] = []
        for index in range(self.w.shape[0]):
            w_bias, r_bias = self._biases(index)
            direction = _Direction(
                self.w[index],
                self.r[index],
                w_bias,
                r_bias,
                None if peepholes is None else peepholes[index],
                self.functions[index],
                tuple(start[index] for start in starts),
            )
            backwards = name == "reverse" or index == 1
            x = reversed_in_time(self.x, self.lengths) if backwards else self.x
            if fused is None:
                y, states = self._run_steps(direction, x, step)
            else:
                y, states = self._run_fused(direction, x, fused)
            outputs.append(reversed_in_time(y, self.lengths) if backwards else y)
            last.append(states)
        axis = 1 if self.batch_first else 0
        y = torch.stack([each.transpose(0, axis) for each in outputs], 1 + axis)
        return y, *(torch.stack(states, axis) for states in zip(*last, strict=True))

    def _start(self, given: torch.Tensor | None) -> torch.Tensor:
        if given is None:
            return self.x.new_zeros(self.w.shape[0], self.x.shape[1], self.r.shape[-1])
        return given.transpose(0, 1) if self.batch_first else given

    def _biases(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.b is None:
            zeros = self.w.new_zeros(self.w.shape[1])
            return zeros, zeros
        first, second = self.b[index].chunk(2)
        return first, second

    def _run_steps(
        self, direction: _Direction, x: torch.Tensor, step: Step
    ) -> tuple[torch.Tensor, States]:
        # The input's part of all gates at once.
        gates = x @ direction.w.transpose(0, 1) + direction.w_bias
        states = direction.states
        outputs: list[torch.Tensor] = []
        for time in range(x.shape[0]):
            new = step(self.call, direction, gates[time], states)
            if self.lengths is None:
                states = new
                outputs.append(new[0])
                continue
            runs = (self.lengths > time).unsqueeze(-1)
            outputs.append(torch.where(runs, new[0], torch.zeros_like(new[0])))
            states = tuple(
                torch.where(runs, after, before) for after, before in zip(new, states, strict=True)
            )
        return torch.stack(outputs), tuple(self._empty_as_zero(state) for state in states)

    def _run_fused(
        self, direction: _Direction, x: torch.Tensor, fused: Fused
    ) -> tuple[torch.Tensor, States]:
        y, states = fused(direction, x)
        if self.lengths is None:
            return y, states
        steps = torch.arange(y.shape[0], device=y.device).unsqueeze(1)
        y = torch.where((steps < self.lengths).unsqueeze(-1), y, torch.zeros_like(y))
        # The hidden state behind the last step of each sequence.
        ends = self.lengths.clamp(min=1) - 1
        places = ends.reshape(1, -1, 1).expand(-1, -1, y.shape[-1])
        return y, (self._empty_as_zero(y.gather(0, places).squeeze(0)), *states[1:])

    def _empty_as_zero(self, state: torch.Tensor) -> torch.Tensor:
        """Let sequences without a step end in zeros, as ONNX Runtime does."""
        if self.lengths is None:
            return state
        return torch.where((self.lengths > 0).unsqueeze(-1), state, torch.zeros_like(state))


def _lstm_step(call: Call, direction: _Direction, x: torch.Tensor, states: States) -> States:
    hidden, cell = states
    gates = x + direction.r_bias + hidden @ direction.r.transpose(0, 1)
    return lstm_cell(call, direction.functions, direction.peepholes, gates, cell)


def _gru_step(call: Call, direction: _Direction, x: torch.Tensor, states: States) -> States:
    (hidden,) = states
    f, g = direction.functions
    size = hidden.shape[-1]
    r, r_new = direction.r[: 2 * size], direction.r[2 * size :]
    bias, bias_new = direction.r_bias[: 2 * size], direction.r_bias[2 * size :]
    gates = x[:, : 2 * size] + hidden @ r.transpose(0, 1) + bias
    update, reset = f(clipped(call, gates)).chunk(2, -1)
    if call.integer("linear_before_reset", 0):
        seen = reset * (hidden @ r_new.transpose(0, 1) + bias_new)
    else:
        seen = (reset * hidden) @ r_new.transpose(0, 1) + bias_new
    new = g(clipped(call, x[:, 2 * size :] + seen))
    return ((1 - update) * new + update * hidden,)


def _rnn_step(call: Call, direction: _Direction, x: torch.Tensor, states: States) -> States:
    (f,) = direction.functions
    gate = x + states[0] @ direction.r.transpose(0, 1) + direction.r_bias
    return (f(clipped(call, gate)),)


def _reordered(direction: _Direction, order: tuple[int, ...]) -> list[torch.Tensor]:
    """Return the parameters with their gates in PyTorch's order."""
    given = (direction.w, direction.r, direction.w_bias, direction.r_bias)
    return [
        torch.cat([parts[place] for place in order])
        for parts in (each.chunk(len(order)) for each in given)
    ]


def _fused_lstm(direction: _Direction, x: torch.Tensor) -> tuple[torch.Tensor, States]:
    states = [each.unsqueeze(0) for each in direction.states]
    weights = _reordered(direction, (0, 2, 3, 1))
    y, hidden, cell = torch.lstm(x, states, weights, True, 1, 0.0, False, False, False)
    return y, (hidden.squeeze(0), cell.squeeze(0))


def _fused_gru(direction: _Direction, x: torch.Tensor) -> tuple[torch.Tensor, States]:
    weights = _reordered(direction, (1, 0, 2))
    start = direction.states[0].unsqueeze(0)
    y, hidden = torch.gru(x, start, weights, True, 1, 0.0, False, False, False)
    return y, (hidden.squeeze(0),)


def _fused_rnn(function: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> Fused:
    def fused(direction: _Direction, x: torch.Tensor) -> tuple[torch.Tensor, States]:
        weights = _reordered(direction, (0,))
        start = direction.states[0].unsqueeze(0)
        y, hidden = function(x, start, weights, True, 1, 0.0, False, False, False)
        return y, (hidden.squeeze(0),)

    return fused
