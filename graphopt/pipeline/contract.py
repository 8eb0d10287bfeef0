"""What a pass is: it decides, and the manager applies."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir

from graphopt.runtime.feeds import Feeds

Detail = str | int | float | bool | None
"""A fact about a rewrite that a report shows."""


class Effect(enum.Enum):
    """What a pass may do to the outputs of a model."""

    EXACT = "exact"
    """Outputs stay equal up to the rounding of reassociated floating-point sums."""

    LOSSY = "lossy"
    """Outputs may change: the user trades accuracy for size or speed."""


@dataclass(frozen=True)
class Rewrite:
    """One edit that a pass wants to make.

    Args:
        at: Where: the name of the node or value that is edited, `scope/name` inside a subgraph
            or function.
        why: The reason, in one clause, with the numbers that decided it.
        apply: Makes the edit, in place. The manager calls it at most once, and before it asks the
            pass for its next rewrite.
        details: What a report shows in numbers, such as `weight`, `threshold` and `sparsity`. It
            is read after `apply`, which may fill it in.
    """

    at: str
    why: str
    apply: Callable[[], None]
    details: Mapping[str, Detail] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Declined:
    """A place where a pass would have been expected to act and did not.

    Args:
        at: Where, as in `Rewrite`.
        why: The reason, in one clause.
        details: As in `Rewrite`.
    """

    at: str
    why: str
    details: Mapping[str, Detail] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Finding:
    """What a pass found out about a place, where nothing is edited and nothing was declined.

    Args:
        at: Where, as in `Rewrite`.
        why: What was found, in one clause.
        details: As in `Rewrite`. The findings of one pass have the same keys: a table shows them.
    """

    at: str
    why: str
    details: Mapping[str, Detail] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Context:
    """What a run has: data, providers, seed. Nothing that a pass needs is global.

    Args:
        feeds: Calibration samples, or None when the user gave none.
        providers: Short names of ONNX Runtime execution providers, the preferred one first.
        seed: For everything that is random.
        progress: Called with a phase, the steps done, and the steps in all (None: unknown).
        cache: What passes of one run may keep for later ones, under a key that starts with the
            name of the pass.
        calibration_memory: Bytes of activations that one calibration run may return.
        calibration_cache: The folder where activation statistics are kept between runs; None:
            nowhere.
    """

    feeds: Feeds | None = None
    providers: tuple[str, ...] = ("cpu",)
    seed: int = 0
    progress: Callable[[str, int, int | None], None] = lambda phase, done, total: None
    cache: MutableMapping[str, object] = field(default_factory=dict)
    calibration_memory: int = 256 << 20
    calibration_cache: Path | None = None


@dataclass(frozen=True)
class Pass(ABC):
    """A rewrite of one model. Subclasses are frozen dataclasses whose fields are the parameters.

    A subclass sets `name` and `effect`, checks its parameters in `__post_init__` (raise
    `GraphoptError` with the parameter's name), and implements `rewrites`. It covers the main
    graph, the bodies of If, Loop and Scan, and the functions of a model, or yields `Declined`
    there.
    """

    name: ClassVar[str]
    effect: ClassVar[Effect]
    keeps_interface: ClassVar[bool] = True
    """Whether names, types and shapes of the inputs and outputs survive this pass."""
    imports: ClassVar[tuple[str, ...]] = ()
    """The parameters that name code to import, as `module:function`. Text that comes in a file (a
    recipe, a reproducer) gets no code imported that the user does not name, too."""

    @abstractmethod
    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined | Finding]:
        """Yield what to edit, where not to and why, and what else was found out.

        The manager applies each rewrite before it resumes the generator, or stops asking: a pass
        sees its earlier rewrites applied, and must not edit the model itself.
        """
