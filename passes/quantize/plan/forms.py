"""The forms that a layer can take, and which form each layer of a model takes."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

_MANY = 1 / 3


class Form(enum.Enum):
    """How a layer computes, and how it is stored."""

    STATIC = "static"
    """Integer inputs, with scales found on the feeds."""

    DYNAMIC = "dynamic"
    """Integer inputs, with scales found on each run."""

    BLOCKS = "blocks"
    """Integer weights in blocks, which the runtime reads as they are (MatMulNBits)."""

    FOLDED = "folded"
    """Integer weights, which the runtime makes float when a session starts: float speed."""

    FINE = "fine"
    """As folded, with a scale for every few neighbours: less noise, and a little larger."""

    FLOAT = "float"
    """As it was."""


Forms = Mapping[str, Form]
"""The form of each layer by its address. A layer that is not named stays float."""


@dataclass(frozen=True)
class Layer:
    """A node, or all nodes of one address, that a form is chosen for.

    Args:
        at: Its address, see `graphopt.rewrite.selection.address`.
        op_type: Its operator.
        kind: What it is among operators of its kind, such as `depthwise Conv`: layers of one kind
            tend to gain alike.
        forms: What it can take beside FLOAT.
        weights: Bytes of the constants that it reads.
        also: Addresses of layers that read the same weight, and take the same form.
        storage: What `stored` is, once that is found out.
    """

    at: str
    op_type: str
    kind: str
    forms: frozenset[Form]
    weights: int = 0
    also: tuple[str, ...] = ()
    storage: Form | None = None

    @property
    def stored(self) -> Form:
        """The form that computes in float, and is small where it can be."""
        if self.storage is not None:
            return self.storage
        return Form.FOLDED if Form.FOLDED in self.forms else Form.FLOAT


def stored(layers: Iterable[Layer]) -> dict[str, Form]:
    """Every layer computes in float, and is stored in integers where it can be."""
    return {layer.at: layer.stored for layer in layers}


def candidates(layers: Sequence[Layer]) -> dict[str, dict[str, Form]]:
    """Forms for a whole model, by a name for each choice; equal choices stand once.

    The order is that of preference where nothing is measured: the most integers first. Forms of
    matrix products are choices for a whole model only where those are a good part of it;
    elsewhere they are tried when the rest is settled.
    """
    rules: dict[str, Callable[[Layer], bool]] = {
        "static": lambda layer: True,
        "static weights": lambda layer: layer.weights > 0,
    }
    beside = [Form.FOLDED]
    if _has_many_products(layers):
        rules["static without MatMul"] = lambda layer: Form.DYNAMIC not in layer.forms
        rules["none static"] = lambda layer: False
        beside = [Form.DYNAMIC, Form.BLOCKS, Form.FOLDED]
    else:
        rules["none static"] = lambda layer: False
    found: dict[str, dict[str, Form]] = {}
    for name, rule in rules.items():
        for other in beside:
            forms = {layer.at: _form(layer, static=rule(layer), beside=other) for layer in layers}
            if forms not in found.values():
                found[_named(name, forms)] = forms
    return found


def _has_many_products(layers: Sequence[Layer]) -> bool:
    heavy = [layer for layer in layers if layer.weights > 0]
    products = [layer for layer in heavy if layer.forms & {Form.DYNAMIC, Form.BLOCKS}]
    return len(products) > _MANY * len(heavy)


def _form(layer: Layer, *, static: bool, beside: Form) -> Form:
    if static and Form.STATIC in layer.forms:
        return Form.STATIC
    stays = beside is Form.FOLDED or beside not in layer.forms
    return layer.stored if stays else beside


def _named(rule: str, forms: Forms) -> str:
    used = set(forms.values())
    beside = [form.value for form in (Form.DYNAMIC, Form.BLOCKS) if form in used]
    if Form.STATIC not in used:
        return beside[0] if beside else "folded" if Form.FOLDED in used else "float"
    return " + ".join([rule, *beside])


def merged(forms: Forms, layers: Iterable[Layer], form: Form | None) -> dict[str, Form]:
    """Give layers another form: what they take is `form`, or with None what is stored small."""
    changed = dict(forms)
    for layer in layers:
        changed[layer.at] = form if form is not None and form in layer.forms else layer.stored
    return changed


def expanded(forms: Forms, layers: Iterable[Layer]) -> dict[str, Form]:
    """Name the layers that take the form of another one, too."""
    found = dict(forms)
    for layer in layers:
        if layer.at in forms:
            found.update(dict.fromkeys(layer.also, forms[layer.at]))
    return found


def counted(forms: Forms) -> str:
    """Say how many layers take each form, such as `12 static, 3 folded`."""
    counts = {form: sum(one is form for one in forms.values()) for form in Form}
    return ", ".join(f"{count} {form.value}" for form, count in counts.items() if count) or "none"
