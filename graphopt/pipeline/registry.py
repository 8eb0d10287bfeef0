"""Which passes there are: those that installed packages declare in `graphopt.passes`.

A third party adds a pass with an entry point of its own package:

    [project.entry-points."graphopt.passes"]
    my_pass = "my_package.my_pass:MyPass"
"""

from __future__ import annotations

import difflib
import importlib.metadata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Effect, Pass

GROUP = "graphopt.passes"
"""The entry-point group through which built-in and third-party passes are found."""


@dataclass(frozen=True)
class PassEntry:
    """A pass that a distribution offers; its module is imported by `load`, not before.

    Args:
        name: What pipeline text calls it.
        target: `module:Class`.
        distribution: Name and version of the package that offers it, empty where unknown.
    """

    name: str
    target: str
    distribution: str

    def load(self) -> type[Pass]:
        """Import the class.

        Raises:
            GraphoptError: It cannot be imported, or is no pass of that name.
        """
        entry = importlib.metadata.EntryPoint(self.name, self.target, GROUP)
        try:
            found = entry.load()
        # A module of a third party may raise anything, and must not take other passes with it.
        except (Exception, SystemExit) as error:
            raise self._broken(f"{type(error).__name__}: {error}") from error
        if problem := _not_a_pass(found, self.name):
            raise self._broken(problem)
        loaded: type[Pass] = found
        return loaded

    def _broken(self, problem: str) -> GraphoptError:
        by = f" of {self.distribution}" if self.distribution else ""
        return GraphoptError(
            f"pass {self.name!r} ({self.target}{by}) does not load: {problem}",
            fix="repair or uninstall the package that offers it",
        )


class Registry:
    """Passes by name.

    Args:
        entries: What distributions offer; of two with one name, neither can be used.
        classes: Passes that no distribution offers, by their own names; they go first.
    """

    def __init__(
        self, entries: Iterable[PassEntry] = (), classes: Iterable[type[Pass]] = ()
    ) -> None:
        self._entries: dict[str, list[PassEntry]] = {}
        for entry in entries:
            known = self._entries.setdefault(entry.name, [])
            if entry not in known:
                known.append(entry)
        self._classes = {found.name: found for found in classes}

    @classmethod
    def installed(cls, classes: Iterable[type[Pass]] = ()) -> Registry:
        """Look at what is installed now, in every distribution on `sys.path`."""
        return cls(map(_entry, importlib.metadata.entry_points(group=GROUP)), classes)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._entries, *self._classes}))

    def __contains__(self, name: str) -> bool:
        return name in self._entries or name in self._classes

    def entry(self, name: str) -> PassEntry:
        """Return who offers a pass.

        Raises:
            GraphoptError: There is no such pass, or two distributions offer it.
        """
        if name in self._classes:
            found = self._classes[name]
            return PassEntry(name, f"{found.__module__}:{found.__qualname__}", "")
        known = self._entries.get(name, [])
        if len(known) > 1:
            offers = " and ".join(sorted(f"{e.distribution} ({e.target})" for e in known))
            raise GraphoptError(
                f"pass {name!r} is offered twice, by {offers}", fix="uninstall one of them"
            )
        if not known:
            raise GraphoptError(f"there is no pass {name!r}", fix=nearest(name, self))
        return known[0]

    def load(self, name: str) -> type[Pass]:
        """Return the class of a pass.

        Raises:
            GraphoptError: There is none, there are two, or it does not load.
        """
        entry = self.entry(name)
        return self._classes[name] if name in self._classes else entry.load()


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant, else which ones there are."""
    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there is {', '.join(names)}" if names else "there is none at all"


def summary(found: type[Pass]) -> str:
    """Return the first line of a pass's documentation."""
    lines = (found.__doc__ or "").strip().splitlines()
    # dataclass() writes a signature where the author wrote nothing; that is no summary.
    return "" if not lines or lines[0].startswith(f"{found.__name__}(") else lines[0]


def _entry(point: importlib.metadata.EntryPoint) -> PassEntry:
    by = point.dist
    return PassEntry(point.name, point.value, "" if by is None else f"{by.name} {by.version}")


def _not_a_pass(found: object, name: str) -> str | None:
    if not (isinstance(found, type) and issubclass(found, Pass)):
        return "it is not a subclass of graphopt.Pass"
    if "__dataclass_params__" not in vars(found):
        return "it is not a dataclass; decorate it with @dataclass(frozen=True)"
    if not isinstance(getattr(found, "effect", None), Effect):
        return "it has no effect; set effect = Effect.EXACT or Effect.LOSSY"
    if getattr(found, "name", None) != name:
        return f"its class calls itself {getattr(found, 'name', None)!r}"
    return None
