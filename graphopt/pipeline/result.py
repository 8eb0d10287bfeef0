"""What a pipeline run leaves behind: the model, and a record of every step."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from graphopt.model.facts import Facts
    from graphopt.pipeline.contract import Detail
    from graphopt.runtime.compare import OutputError

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True)
class Timing:
    """Seconds of wall clock, as a tree. A parent's seconds include its children's.

    Args:
        name: What was timed: `run`, a pass, `decide`, `apply`, an instrument.
        seconds: How long it took.
        parts: What it is made of; they need not add up to the whole.
    """

    name: str
    seconds: float
    parts: tuple[Timing, ...] = ()


@dataclass(frozen=True)
class Note:
    """A rewrite that was applied, a place where a pass declined, or what it found there.

    Args:
        at: The node or value, `scope/name` inside a body or function.
        why: The reason, in one clause.
        details: What the pass said about it in numbers; `threshold` gives `weight`, `threshold`
            and `sparsity`, from which a report draws a histogram.
    """

    at: str
    why: str
    details: Mapping[str, Detail] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class StepRecord:
    """One pass of a run.

    Args:
        pass_text: The pass as pipeline text, with its parameters.
        name: The name of the pass.
        effect: `exact` or `lossy`.
        rewrites: The rewrites that were applied, in order.
        declined: Where the pass declined, in order.
        timing: `snapshot`, `decide`, `apply`, `order`, and one part per instrument.
        before: The facts of the model before the pass; None where nothing measured them.
        after: The facts of the model after it (after the roll-back, where there was one).
        errors: Outputs after against outputs before; empty where nothing compared them.
        measures: What guards measured, by name.
        rolled_back: Why the pass was undone; None where it was kept.
        findings: What else the pass found out, in order.
    """

    pass_text: str
    name: str
    effect: str
    rewrites: tuple[Note, ...]
    declined: tuple[Note, ...]
    timing: Timing
    before: Facts | None = None
    after: Facts | None = None
    errors: tuple[OutputError, ...] = ()
    measures: Mapping[str, float] = field(default_factory=dict, hash=False)
    rolled_back: str | None = None
    findings: tuple[Note, ...] = ()


@dataclass(frozen=True)
class RunResult:
    """What `run` returns.

    Args:
        source: The model that came in, untouched.
        model: The model that came out; it shares with `source` the tensors nobody replaced.
        steps: One record per pass that ran, in order.
        timing: The whole run.
        seed: The seed of the run's context.
        limited: Whether the limit on rewrites ended the run before the pipeline did.
    """

    source: ir.Model
    model: ir.Model
    steps: tuple[StepRecord, ...]
    timing: Timing
    seed: int = 0
    limited: bool = False

    @property
    def pipeline(self) -> str:
        """The passes that ran, as pipeline text."""
        return " | ".join(step.pass_text for step in self.steps)

    @property
    def kept_pipeline(self) -> str:
        """The passes that ran and were not rolled back, as pipeline text."""
        return " | ".join(step.pass_text for step in self.steps if step.rolled_back is None)

    @property
    def kept_rewrites(self) -> int:
        """How many rewrites are in the model that came out."""
        return sum(len(step.rewrites) for step in self.steps if step.rolled_back is None)

    def as_json(self) -> dict[str, Json]:
        """Return everything but the two models, ready for `json.dump`.

        Numbers that JSON lacks become the strings `inf`, `-inf` and `nan`, which `float` reads.
        """
        record = to_json(
            {
                "pipeline": self.pipeline,
                "seed": self.seed,
                "limited": self.limited,
                "steps": self.steps,
                "timing": self.timing,
            }
        )
        assert isinstance(record, dict)
        return record


def joined(results: Sequence[RunResult]) -> RunResult:
    """Return several runs, each of which went on where the one before ended, as one.

    Args:
        results: At least one. The seed is the last one's.
    """
    first, last = results[0], results[-1]
    return RunResult(
        source=first.source,
        model=last.model,
        steps=tuple(step for result in results for step in result.steps),
        timing=Timing(
            "run",
            sum(result.timing.seconds for result in results),
            tuple(part for result in results for part in result.timing.parts),
        ),
        seed=last.seed,
        limited=last.limited,
    )


def to_json(value: object) -> Json:  # noqa: PLR0911 - one return per kind of value
    """Turn dataclasses, mappings, sequences, enums and numpy scalars into what JSON has."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, enum.Enum):
        return to_json(value.value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {part.name: to_json(getattr(value, part.name)) for part in fields}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [to_json(item) for item in value]
    scalar = getattr(value, "item", None)
    return to_json(scalar()) if callable(scalar) else str(value)
