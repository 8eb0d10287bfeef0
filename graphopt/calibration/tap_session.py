"""ONNX Runtime on a model with taps; what it does not take or run is left out by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphopt.calibration.taps import Form, Places, Tap, Tapped, tapped
from graphopt.errors import CheckFailed
from graphopt.runtime.feeds import Batch
from graphopt.runtime.session import Session


class TapSession:
    """Returns values of all scopes of a model.

    Args:
        places: The model.
        forms: What to return, by address.
        providers: Execution providers.

    Attributes:
        taps: Where each value is found in the outputs.
        missing: Why others are not returned; it may grow with each run.

    Raises:
        CheckFailed: The model does not load, whether tapped or not.
    """

    def __init__(self, places: Places, forms: Mapping[str, Form], providers: Sequence[str]) -> None:
        self._places, self._providers = places, providers
        self.missing: dict[str, str] = {}
        self.taps: Mapping[str, Tap] = {}
        self._session: Session | None = None
        self._open(dict(forms), self._load)

    def run(self, batch: Batch) -> dict[str, Any]:
        """Run one batch; return all outputs of taps.

        Raises:
            CheckFailed: The model does not run on it, whether tapped or not.
        """
        if self._session is None:
            return {}
        try:
            return self._session.run(batch)
        except CheckFailed:
            Session(self._places.model, self._providers).run(batch)
        self._open(
            {name: tap.form for name, tap in self.taps.items()},
            lambda found: self._load(found).run(batch),
        )
        return self.run(batch)

    def _load(self, found: Tapped) -> Session:
        return Session(found.model, self._providers, title=_title(self._places))

    def _open(self, forms: dict[str, Form], attempt: Callable[[Tapped], object]) -> None:
        """Open a session on all values for which an attempt succeeds."""
        found = self._tapped(forms)
        if len(found.taps) > 0:
            reasons = self._failures(dict(found.taps), attempt)
            if len(reasons) == len(found.taps):
                Session(self._places.model, self._providers)
            if reasons:
                self.missing.update(reasons)
                found = self._tapped(
                    {name: form for name, form in forms.items() if name not in self.missing}
                )
        self.taps = found.taps
        self._session = self._load(found) if found.taps else None

    def _tapped(self, forms: Mapping[str, Form]) -> Tapped:
        found = tapped(self._places, forms)
        self.missing.update(found.missing)
        return found

    def _failures(
        self, taps: Mapping[str, Tap], attempt: Callable[[Tapped], object]
    ) -> dict[str, str]:
        """Find the values that make an attempt fail, and why, by halves."""
        forms = {name: tap.form for name, tap in taps.items()}
        try:
            attempt(self._tapped(forms))
        except CheckFailed as error:
            if len(taps) == 1:
                return {next(iter(taps)): error.cause}
            names = list(taps)
            middle = len(names) // 2
            halves = (names[:middle], names[middle:])
            return {
                name: why
                for half in halves
                for name, why in self._failures({n: taps[n] for n in half}, attempt).items()
            }
        return {}


def _title(places: Places) -> str:
    return f"model {places.model.graph.name!r}" if places.model.graph.name else "the model"
