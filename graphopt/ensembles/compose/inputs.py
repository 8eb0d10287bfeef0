"""The inputs of an ensemble: one for all members that agree on it."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from graphopt.ensembles.compose.copying import Dim
from graphopt.ensembles.compose.dims import Dims
from graphopt.ensembles.compose.signature import Port, Signature, port
from graphopt.ensembles.ports import INDICES, widest
from graphopt.errors import GraphoptError
from graphopt.model.carried import TYPE_KEY
from graphopt.pipeline.registry import nearest
from graphopt.pipeline.snapshot import own_type
from graphopt.runtime.layout import FLOATS

Place = tuple[str, str]
"""A member and the name of an input of it."""

_KINDS = (FLOATS, INDICES)
"""Element types that the mapping unifies by a Cast."""


def read_mapping(
    mapping: Mapping[str, str], signatures: Mapping[str, Signature]
) -> dict[Place, str]:
    """Read which inputs of members are which inputs of the ensemble.

    Args:
        mapping: `member.input` with the name that it has in the ensemble.
        signatures: Of the members.

    Raises:
        GraphoptError: There is no such member or input, or the name is empty.
    """
    read: dict[Place, str] = {}
    for key, target in mapping.items():
        member, dot, name = key.partition(".")
        if not dot or not target:
            raise GraphoptError(
                f"the map {key}={target} names no input of a member",
                fix="write member.input=name, such as b.pixel_values=image",
            )
        if member not in signatures:
            raise GraphoptError(
                f"the map {key}={target}: there is no member {member!r}",
                fix=nearest(member, signatures),
            )
        known = [each.name for each in _takes(signatures[member])]
        if name not in known:
            raise GraphoptError(
                f"the map {key}={target}: member {member!r} has no input {name!r}",
                fix=nearest(name, known),
            )
        read[member, name] = target
    return read


class Inputs:
    """The inputs of an ensemble under construction.

    Args:
        graph: Its main graph.
        dims: Its dims.
        notes: What to tell the user goes here.
        mapping: As `read_mapping` returns it.
        signatures: Of the members.
    """

    def __init__(
        self,
        graph: ir.Graph,
        dims: Dims,
        notes: list[str],
        mapping: Mapping[Place, str],
        signatures: Mapping[str, Signature],
    ) -> None:
        self._graph = graph
        self._dims = dims
        self._notes = notes
        self._mapping = mapping
        self._widest = _widest(mapping, signatures)
        self._shared: dict[str, list[ir.Value]] = {}
        self._found: dict[Place, ir.Value] = {}
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self._first: dict[ir.Value, str] = {}
        self._fixed: set[tuple[ir.Value, int]] = set()

    def of(self, member: str, wanted: Port, template: ir.Value) -> ir.Value:
        """Return what feeds an input of a member.

        Args:
            member: The member.
            wanted: Its input.
            template: The same as a value of the member's own copy.

        Raises:
            GraphoptError: The mapping unifies what cannot be unified.
        """
        place = member, wanted.name
        if place not in self._found:
            self._found[place] = self._find(member, wanted, template)
        return self._found[place]

    def is_mapped(self, member: str, name: str) -> bool:
        """Whether the mapping names an input."""
        return (member, name) in self._mapping

    def _find(self, member: str, wanted: Port, template: ir.Value) -> ir.Value:
        mapped = self._mapping.get((member, wanted.name))
        name = mapped or wanted.name
        problem = None
        for there in self._shared.get(name, ()):
            converts = mapped and _converts(there.dtype, wanted.dtype)
            differs = None if converts else _disagreement(there, wanted)
            differs = differs or self._unify(there, member, wanted)
            if differs is None:
                return self._converted(there, member, wanted)
            problem = problem or (there, differs)
        own = name
        if problem is not None:
            if mapped:
                raise self._impossible(name, member, wanted, *problem)
            own = f"{member}/{name}"
            self._notes.append(self._apart(name, member, wanted, *problem))
        elif not mapped:
            self._note_likeness(member, wanted)
        value = self._create(own, member, wanted, template)
        self._shared.setdefault(name, []).append(value)
        return self._converted(value, member, wanted)

    def _impossible(
        self, name: str, member: str, wanted: Port, there: ir.Value, why: str
    ) -> GraphoptError:
        return GraphoptError(
            f"the map {member}.{wanted.name}={name} cannot hold: member {member!r} takes"
            f" {wanted.says()}, and {name!r} is {self._says(there)} ({why})",
            fix="give it an input of its own, under another name",
        )

    def _apart(self, name: str, member: str, wanted: Port, there: ir.Value, why: str) -> str:
        return (
            f"input {name!r} of member {member!r} ({wanted.says()}) stays on its own as"
            f" '{member}/{name}': {name!r} of member {self._first[there]!r} is"
            f" {self._says(there)}, {why}"
        )

    def _note_likeness(self, member: str, wanted: Port) -> None:
        """Say how an input would be fed from one of another name that looks the same."""
        own = [name for of, name in self._found if of == member]
        for there, first in self._first.items():
            if first != member and there.name not in own and _look_alike(there, wanted):
                self._notes.append(
                    f"input {wanted.name!r} of member {member!r} stays on its own beside"
                    f" {there.name!r}; if they are one, say so: --map"
                    f" {member}.{wanted.name}={there.name}"
                )
                return

    def _create(self, name: str, member: str, wanted: Port, template: ir.Value) -> ir.Value:
        value = ir.Value(
            name=name,
            type=own_type(wanted.type),
            shape=self._own_shape(member, wanted.shape),
            doc_string=template.doc_string,
            metadata_props=dict(template.metadata_props) or None,
        )
        if TYPE_KEY in template.meta:
            value.meta[TYPE_KEY] = template.meta[TYPE_KEY]
        if name in self._widest and (member, wanted.name) in self._mapping:
            value.dtype = self._widest[name]
        self._graph.inputs.append(value)
        self._first[value] = member
        return value

    def _own_shape(self, member: str, shape: ir.Shape | None) -> ir.Shape | None:
        if shape is None:
            return None
        own: list[Dim] = [
            ir.SymbolicDim(self._dims.own(member, dim.value))
            if isinstance(dim, ir.SymbolicDim) and dim.value is not None
            else dim
            for dim in shape
        ]
        return ir.Shape(own, [shape.get_denotation(axis) for axis in range(len(shape))])

    def _unify(self, there: ir.Value, member: str, wanted: Port) -> str | None:
        """Let an input feed a member, too; say what dims contradict each other."""
        own = self._own_shape(member, wanted.shape)
        if own is None:
            return None
        if there.shape is None:
            there.shape = own
            return None
        if len(own) != len(there.shape):
            return "another rank"
        if not self._dims.unify(zip(there.shape, own, strict=True)):
            return "another shape"
        for axis, (dim, other) in enumerate(zip(there.shape, own, strict=True)):
            self._narrow(there, axis, dim, other, member)
        return None

    def _narrow(self, there: ir.Value, axis: int, dim: Dim, other: Dim, member: str) -> None:
        """Write down what one more member says of a dim of an input."""
        shape = there.shape
        if shape is None:
            return
        found = self._dims.find(other if self._dims.find(dim) is None else dim)
        if isinstance(found, str) and self._dims.find(dim) is None:
            shape[axis] = found
        if not isinstance(found, int) or (isinstance(dim, int) and isinstance(other, int)):
            return
        shape[axis] = found
        if (there, axis) not in self._fixed:
            self._fixed.add((there, axis))
            fixing = self._first[there] if isinstance(dim, int) else member
            self._notes.append(
                f"dim {axis} of input {there.name!r} is fixed to {found}: member {fixing!r} takes"
                " no other"
            )

    def _converted(self, value: ir.Value, member: str, wanted: Port) -> ir.Value:
        """Return a value, cast to the element type that a member takes."""
        dtype = wanted.dtype
        if dtype is None or value.dtype == dtype:
            return value
        if (value, dtype) not in self._casts:
            self._notes.append(
                f"input {value.name!r} is {self._says(value)}, and cast to {dtype.name} for"
                f" {wanted.name!r} of member {member!r}"
            )
            name = f"{value.name}_{dtype.name.lower()}"
            cast = ir.Value(name=name, type=ir.TensorType(dtype), shape=_copied(value.shape))
            to = [ir.AttrInt64("to", dtype.value)]
            self._graph.append(ir.Node("", "Cast", [value], to, outputs=[cast], name=name))
            self._casts[value, dtype] = cast
        return self._casts[value, dtype]

    def _says(self, value: ir.Value) -> str:
        plain = port(value)
        if plain.shape is None:
            return plain.says()
        dims = [self._dims.find(dim) for dim in plain.shape]
        shown = [dim.partition("/")[2] or dim if isinstance(dim, str) else dim for dim in dims]
        return Port(plain.name, plain.type, ir.Shape(shown), plain.other).says()


def _disagreement(there: ir.Value, wanted: Port) -> str | None:
    """Say in what an input differs from what a member takes, dims aside; None: in nothing."""
    given = port(there)
    same = given.type == wanted.type and given.other == wanted.other
    return None if same else "another type"


def _look_alike(there: ir.Value, wanted: Port) -> bool:
    """Whether types and ranks are equal and no static dims differ."""
    if _disagreement(there, wanted) or there.shape is None or wanted.shape is None:
        return False
    return len(there.shape) == len(wanted.shape) and not any(
        isinstance(one, int) and isinstance(other, int) and one != other
        for one, other in zip(there.shape, wanted.shape, strict=True)
    )


def _copied(shape: ir.Shape | None) -> ir.Shape | None:
    return None if shape is None else shape.copy()


def _takes(signature: Signature) -> tuple[Port, ...]:
    return (*signature.inputs, *signature.defaults)


def _converts(first: ir.DataType | None, second: ir.DataType | None) -> bool:
    return any(first in kinds and second in kinds for kinds in _KINDS)


def _widest(
    mapping: Mapping[Place, str], signatures: Mapping[str, Signature]
) -> dict[str, ir.DataType]:
    """Return the element type of inputs that the mapping makes out of several types."""
    types: dict[str, set[ir.DataType]] = {}
    for (member, name), target in mapping.items():
        for each in _takes(signatures[member]):
            if each.name == name and each.dtype is not None:
                types.setdefault(target, set()).add(each.dtype)
    return {
        target: widest(found) if found <= FLOATS else max(found, key=lambda dtype: dtype.itemsize)
        for target, found in types.items()
        if any(found <= kinds for kinds in _KINDS)
    }
