"""From an expression and its members to one model."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path

import onnx_ir as ir

from graphopt.ensembles import checks
from graphopt.ensembles.compose import Composition
from graphopt.ensembles.expression import Expression, Member, Program, Soup, Stack
from graphopt.ensembles.lower import lower
from graphopt.ensembles.names import without_soups, written_out
from graphopt.ensembles.provenance import Origin, write_provenance
from graphopt.ensembles.soups import resolve
from graphopt.ensembles.source import Source
from graphopt.ensembles.text import as_program
from graphopt.ensembles.unparse import title, unparse
from graphopt.errors import GraphoptError
from graphopt.model import Limits, load
from graphopt.pipeline.recipe import source_sha256
from graphopt.pipeline.registry import nearest

NOTES_KEY = "graphopt.ensembles.notes"
"""Where `meta` of an ensemble keeps what the user should be told: a list of texts."""

_NO_NAME = re.compile(r"[^A-Za-z0-9_]+")


def member(model: ir.Model | str | PathLike[str], name: str | None = None) -> Member:
    """Make a member of a model, for expressions that Python's operators write.

    Args:
        model: The model, or its file, which is loaded when the ensemble is built.
        name: What the ensemble calls it; None: as its file, or its graph.

    Raises:
        GraphoptError: The name cannot be one.
    """
    if isinstance(model, ir.Model):
        return Member(_named(model.graph.name or "") if name is None else name, model)
    path = Path(fspath(model))
    return Member(_named(path.stem) if name is None else name, path)


def ensemble(
    program: Program | Expression | str,
    members: Mapping[str, ir.Model | str | PathLike[str]] | None = None,
    *,
    mapping: Mapping[str, str] | None = None,
    limits: Limits | None = None,
) -> ir.Model:
    """Make one model of several.

    Weights are shared with the members and stay memory-mapped. What it was made of is kept in the
    metadata (see `provenance`), what the user should be told in `meta` under `NOTES_KEY`.

    Args:
        program: What it computes: text, or what Python's operators make of members.
        members: Models or their files by name; those that `member` gave a model need none.
        mapping: Which inputs of members are which inputs of the ensemble, beside those that agree
            in name, type and shape: `{"b.pixel_values": "image"}`.
        limits: What the files of members may ask for.

    Raises:
        GraphoptError: The text is no ensemble; a member is unknown, not used, or no model; members
            do not go together.
    """
    return prepare(program, members, limits=limits).build(mapping)


@dataclass(frozen=True)
class Prepared:
    """An ensemble whose members are loaded and whose soups are cooked.

    Args:
        text: What it computes, as the user would write it.
        program: The same with members in the place of soups.
        members: The models that the program names, in the order in which it does.
        origins: Where the members of the text came from.
        notes: What the user should be told.
    """

    text: str
    program: Program
    members: Mapping[str, ir.Model]
    origins: Sequence[Origin]
    notes: Sequence[str]

    def with_program(self, program: Program) -> Prepared:
        """Return the same with another program over the same members, or over some of them."""
        used = {part.name for part in program.walk() if isinstance(part, Member)}
        members = {name: model for name, model in self.members.items() if name in used}
        return replace(self, text=unparse(program), program=program, members=members)

    def build(self, mapping: Mapping[str, str] | None = None) -> ir.Model:
        """Make one model, as `ensemble` does."""
        _check_complete(self.program.statements)
        composition = Composition(self.members, mapping=dict(mapping or {}))
        composition.notes[:0] = self.notes
        model = lower(self.program, composition)
        model.meta[NOTES_KEY] = list(composition.notes)
        write_provenance(model, self.text, self.origins)
        return model


def prepare(
    program: Program | Expression | str,
    members: Mapping[str, ir.Model | str | PathLike[str]] | None = None,
    *,
    limits: Limits | None = None,
    files: MutableMapping[str, ir.Model] | None = None,
) -> Prepared:
    """Load the members of an ensemble, and cook its soups: the first half of `ensemble`.

    Args:
        program: As of `ensemble`.
        members: As of `ensemble`.
        limits: As of `ensemble`.
        files: Models that are loaded already, by their paths; those that are loaded here come in.

    Raises:
        GraphoptError: As in `ensemble`.
    """
    wanted = _Wanted.of(program)
    models = _Models(wanted, members or {}, limits, {} if files is None else files)
    outputs = written_out(wanted.program)
    notes: list[str] = []
    resolved, made = _cooked(outputs, models, notes)
    used = dict.fromkeys(
        part.name for _, of in resolved for part in of.walk() if isinstance(part, Member)
    )
    found = {name: made[name] if name in made else models[name] for name in used}
    origins = models.origins()
    # Last: what else is wrong may be why they are not used.
    models.check_used(members or ())
    return Prepared(unparse(wanted.program), Program(resolved), found, origins, notes)


@dataclass(frozen=True)
class _Wanted:
    """What is to be built.

    Args:
        program: It.
        source: The text that it was read from.
    """

    program: Program
    source: Source | None

    @classmethod
    def of(cls, given: Program | Expression | str) -> _Wanted:
        return cls(as_program(given), Source(given) if isinstance(given, str) else None)

    def members(self) -> Iterator[Member]:
        """Yield all members, not the names of earlier statements."""
        named: set[str] = set()
        for name, expression in self.program.statements:
            for part in expression.walk():
                if isinstance(part, Member) and part.name not in named:
                    yield part
            if name is not None:
                named.add(name)

    def error(self, at: Expression, cause: str, fix: str | None) -> GraphoptError:
        """Make an error that points to a part of the text."""
        if self.source is None or not at.column:
            return GraphoptError(cause, fix=fix)
        return self.source.at_index(at.column - 1, cause, fix)


class _Models(Mapping[str, ir.Model]):
    """The models of the members, loaded when they are first asked for, each file once."""

    def __init__(
        self,
        wanted: _Wanted,
        members: Mapping[str, ir.Model | str | PathLike[str]],
        limits: Limits | None,
        files: MutableMapping[str, ir.Model],
    ) -> None:
        self._limits = limits
        self._files = files
        for name in members:
            checks.check_name(name, "member")
        self._given: dict[str, ir.Model | str] = {}
        for part in wanted.members():
            offers = [given for given in (members.get(part.name), part.model) if given is not None]
            if not offers:
                cause = f"there is no member {part.name!r}"
                raise wanted.error(part, cause, _offer(part.name, members))
            for offer in offers:
                given = offer if isinstance(offer, ir.Model) else fspath(offer)
                known = self._given.setdefault(part.name, given)
                if known is not given and known != given:
                    cause = f"two models are called {part.name!r}"
                    raise wanted.error(part, cause, "name them: graphopt.member(model, name)")

    def check_used(self, names: Iterable[str]) -> None:
        """Refuse names that are given in vain."""
        for name in names:
            if name not in self._given:
                raise GraphoptError(
                    f"member {name!r} is given, and the expression does not use it",
                    fix=f"it uses {', '.join(self._given)}",
                )

    def __getitem__(self, name: str) -> ir.Model:
        given = self._given[name]
        if isinstance(given, ir.Model):
            return given
        if given not in self._files:
            self._files[given] = load(given, self._limits)
        return self._files[given]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)

    def origins(self) -> list[Origin]:
        """Say where each member came from."""
        hashes: dict[str, str] = {}
        found = []
        for name, given in self._given.items():
            if isinstance(given, ir.Model):
                found.append(Origin(name))
                continue
            if given not in hashes:
                hashes[given] = source_sha256(given, self[name])
            found.append(Origin(name, Path(given).name, hashes[given]))
        return found


def _cooked(
    outputs: tuple[tuple[str | None, Expression], ...], models: _Models, notes: list[str]
) -> tuple[tuple[tuple[str | None, Expression], ...], dict[str, ir.Model]]:
    """Put members in the place of soups; return them by name, too."""
    made: dict[str, ir.Model] = {}
    names: dict[Soup, str] = {}

    def cooked(soup: Soup) -> str:
        if soup not in names:
            count = len(names) + 1
            while (name := f"soup_{count}") in models or name in made:
                count += 1
            names[soup] = name
            made[name] = resolve(soup, models, notes=notes)
        return names[soup]

    return tuple((name, without_soups(of, cooked)) for name, of in outputs), made


def _check_complete(outputs: tuple[tuple[str | None, Expression], ...]) -> None:
    for _, expression in outputs:
        for part in expression.walk():
            if isinstance(part, Stack) and part.meta is None:
                raise GraphoptError(
                    f"{title(part)} has no meta-model", fix="give one: meta=m, or fit one"
                )


def _offer(name: str, members: Mapping[str, object]) -> str:
    return nearest(name, members) if members else f"give it: {name}=model.onnx"


def _named(text: str) -> str:
    """Make a name of the name of a file or graph."""
    name = _NO_NAME.sub("_", text).strip("_") or "member"
    if name[0].isdigit():
        name = f"m_{name}"
    taken = name in checks.FUNCTIONS or keyword.iskeyword(name)
    return f"{name}_model" if taken else name
