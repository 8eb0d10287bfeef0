"""Remove what documents a model and does not compute: doc strings and metadata."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import onnx
import onnx_ir as ir

from graphopt.model import Scope, scopes
from graphopt.model.carried import values_of
from graphopt.pipeline.contract import Context, Declined, Effect, Pass, Rewrite
from graphopt.pipeline.recipe import PREFIX

Patterns = str | tuple[str, ...]

_Holder = ir.Model | ir.Graph | ir.Node | ir.Value


@dataclass(frozen=True)
class Strip(Pass):
    """Remove doc strings and metadata, from the model down to its tensors and attributes.

    Exporters write down where they ran: torch.onnx, for one, puts the stack of every node, with
    its folders, under `pkg.torch.onnx.stack_trace`. Outputs, names and weights stay as they are.
    What an application reads from the metadata of a model goes too, unless `keep` names it.

    Args:
        metadata: Globs on the keys of metadata that are removed.
        keep: Globs on keys that stay.
        doc_strings: Whether doc strings are removed.
        recipe: Whether graphopt's own recipe, under `graphopt.*`, may be removed.
    """

    name: ClassVar[str] = "strip"
    effect: ClassVar[Effect] = Effect.EXACT

    metadata: Patterns = "*"
    keep: Patterns = ()
    doc_strings: bool = True
    recipe: bool = False

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        """Yield one rewrite per place and key, one per place for doc strings, one for tensors."""
        del context
        yield from self._strip("model", [model])
        for scope in list(scopes(model)):
            graph = scope.graph
            at = scope.name or graph.name or "graph"
            yield from self._strip(at, [graph, *values_of(graph), *graph])
            yield from self._strip_tensors(at, scope)

    def _strip(self, at: str, holders: Iterable[_Holder]) -> Iterator[Rewrite]:
        held = list(holders)
        for key in sorted({key for holder in held for key in holder.metadata_props}):
            if self._removes(key):
                having = [holder for holder in held if key in holder.metadata_props]
                size = sum(len(holder.metadata_props[key].encode()) for holder in having)
                yield Rewrite(
                    at=at,
                    why=f"metadata {key!r} in {_counted(len(having), 'place')}, {size:,} bytes",
                    apply=_removal(having, key),
                )
        documented = [holder for holder in held if holder.doc_string]
        if self.doc_strings and documented:
            size = sum(len((holder.doc_string or "").encode()) for holder in documented)
            yield Rewrite(
                at=at,
                why=f"doc strings in {_counted(len(documented), 'place')}, {size:,} bytes",
                apply=lambda: _forget_doc_strings(documented),
            )

    def _strip_tensors(self, at: str, scope: Scope) -> Iterator[Rewrite]:
        initializers = [v for v in scope.graph.initializers.values() if self._notes(v.const_value)]
        attributes = [
            (node, attribute)
            for node in scope.graph
            for attribute in node.attributes.values()
            if self._annotated(attribute)
        ]
        if not initializers and not attributes:
            return

        def apply() -> None:
            for value in initializers:
                value.const_value = self._plain(value.const_value)
            for node, attribute in attributes:
                node.attributes[attribute.name] = self._plain_attribute(attribute)

        count = len(initializers) + len(attributes)
        yield Rewrite(
            at=at,
            why=f"doc strings or metadata of {_counted(count, 'tensor or attribute')}",
            apply=apply,
        )

    def _removes(self, key: str) -> bool:
        if key.startswith(PREFIX) and not self.recipe:
            return False
        return _matches(key, self.metadata) and not _matches(key, self.keep)

    def _notes(self, tensor: ir.TensorProtocol | None) -> bool:
        """Whether a tensor has something to remove."""
        if tensor is None:
            return False
        documented = self.doc_strings and bool(tensor.doc_string)
        return documented or any(map(self._removes, tensor.metadata_props))

    def _annotated(self, attribute: ir.Attr) -> bool:
        is_tensor = attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref()
        return (self.doc_strings and bool(attribute.doc_string)) or (
            is_tensor and self._notes(attribute.as_tensor())
        )

    def _plain_attribute(self, attribute: ir.Attr) -> ir.Attr:
        doc = None if self.doc_strings else attribute.doc_string
        if attribute.is_ref():
            return ir.RefAttr(attribute.name, attribute.ref_attr_name or "", attribute.type, doc)
        value = attribute.value
        if attribute.type == ir.AttributeType.TENSOR:
            value = self._plain(value)
        return ir.Attr(attribute.name, attribute.type, value, doc_string=doc)

    def _plain(self, tensor: Any) -> Any:
        """Return a tensor on the same data without what is removed.

        A copy, because models that were cloned from this one share the tensor.
        """
        if not self._notes(tensor):
            return tensor
        plain = copy.copy(tensor)
        if isinstance(tensor, ir.TensorProtoTensor):
            proto = onnx.TensorProto()
            proto.CopyFrom(tensor.raw)
            proto.ClearField("metadata_props")
            if self.doc_strings:
                proto.ClearField("doc_string")
            plain = ir.TensorProtoTensor(proto)
        elif self.doc_strings:
            plain.doc_string = None
        kept = {k: v for k, v in tensor.metadata_props.items() if not self._removes(k)}
        if isinstance(tensor, ir.TensorProtoTensor):
            plain.metadata_props.update(kept)
        else:
            _set_metadata(plain, kept)
        return plain


def _set_metadata(tensor: Any, metadata: dict[str, str]) -> None:
    # Tensors of onnx-ir keep it behind a property without a setter.
    if hasattr(tensor, "_metadata_props"):
        tensor._metadata_props = metadata
    else:
        tensor.metadata_props = metadata


def _matches(key: str, patterns: Patterns) -> bool:
    globs = (patterns,) if isinstance(patterns, str) else patterns
    return any(fnmatchcase(key, glob) for glob in globs)


def _removal(holders: list[_Holder], key: str) -> Callable[[], None]:
    def apply() -> None:
        for holder in holders:
            del holder.metadata_props[key]

    return apply


def _forget_doc_strings(holders: list[_Holder]) -> None:
    for holder in holders:
        holder.doc_string = None


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count:,} {noun}s"
