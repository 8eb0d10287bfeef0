"""ONNX Runtime on a model with taps; what it does not take or run is left out by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from graphopt.calibration.taps import Form, Places, Tap, Tapped, tapped
from graphopt.errors import CheckFailed
from graphopt.runtime.feeds import Batch
from graphopt.runtime.session import Session

_WORTH_A_STEP = 3500
"""Bytes of values to compute for which ONNX Runtime may look at one node and one output.

Its optimizations look through all outputs at each node, at 0.7 us for each: 1.4 s for the extents
of the 440 values of a text recognizer. They save about 0.2 ms in each MB of values.
"""


class TapSession:
    """Returns values of all scopes of a model.

    Args:
        places: The model.
        forms: What to return, by address.
        providers: Execution providers.
        bytes_computed: The bytes of the values that all runs will compute together, about: from
            them follows whether optimizing the graph pays.

    Attributes:
        taps: Where each value is found in the outputs.
        missing: Why others are not returned; it may grow with each run.

    Raises:
        CheckFailed: The model does not load, whether tapped or not.
    """

    def __init__(
        self,
        places: Places,
        forms: Mapping[str, Form],
        providers: Sequence[str],
        bytes_computed: int,
    ) -> None:
        self._places, self._providers = places, providers
        self._bytes_computed = bytes_computed
        self.missing: dict[str, str] = {}
        self.taps: Mapping[str, Tap] = {}
        self._session: Session | None = None
        self._open(forms, None)

    def run(self, batch: Batch) -> tuple[Mapping[str, Tap], dict[str, Any]]:
        """Run one batch; return the taps that there are, and their outputs.

        Raises:
            CheckFailed: The model does not run on it, whether tapped or not.
        """
        if self._session is None:
            return {}, {}
        try:
            return self.taps, self._session.run(batch)
        except CheckFailed:
            self._try_untapped(batch)
        self._open({name: tap.form for name, tap in self.taps.items()}, batch)
        return self.taps, {} if self._session is None else self._session.run(batch)

    def _open(self, forms: Mapping[str, Form], samples: Batch | None) -> None:
        """Open a session on all values with which the model loads, and runs on samples."""
        found = tapped(self._places, forms)
        self.missing.update(found.missing)
        session: Session | None = None
        while found.taps:
            try:
                session = self._attempt(found, samples)
                break
            except CheckFailed as error:
                reasons = self._reasons({n: tap.form for n, tap in found.taps.items()}, samples)
                if len(reasons) == len(found.taps):
                    self._try_untapped(samples)
                if not reasons:
                    raise CheckFailed(
                        f"the model fails when it is watched: {error.cause}"
                    ) from None
                self.missing.update(reasons)
                found = tapped(self._places, {n: forms[n] for n in found.taps if n not in reasons})
        self.taps, self._session = found.taps, session

    def _attempt(self, found: Tapped, samples: Batch | None) -> Session:
        session = Session(
            found.model,
            self._providers,
            title=_title(self._places),
            spinning=False,
            optimization=self._optimization(found.model),
        )
        if samples is not None:
            session.run(samples)
        return session

    def _optimization(self, model: ir.Model) -> str:
        work = len(model.graph) * len(model.graph.outputs)
        return "all" if self._bytes_computed > work * _WORTH_A_STEP else "none"

    def _try_untapped(self, samples: Batch | None) -> None:
        """Let the model fail on its own, if it does."""
        session = Session(self._places.model, self._providers)
        if samples is not None:
            session.run(samples)

    def _reasons(self, forms: Mapping[str, Form], samples: Batch | None) -> dict[str, str]:
        """Find the values with which an attempt fails, and why, by halves."""
        try:
            self._attempt(tapped(self._places, forms), samples)
        except CheckFailed as error:
            if len(forms) == 1:
                return {next(iter(forms)): error.cause}
            names = list(forms)
            middle = len(names) // 2
            found = {}
            for half in (names[:middle], names[middle:]):
                found.update(self._reasons({name: forms[name] for name in half}, samples))
            return found
        return {}


def _title(places: Places) -> str:
    return f"model {places.model.graph.name!r}" if places.model.graph.name else "the model"
