"""Find the source paths that exporters leave in a model's documentation."""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx_ir as ir

from graphopt.model.scopes import scopes

# No part matches a character after which a path may start: so no text is scanned twice.
_PATH = re.compile(
    r"""
    (?<![^\s'"(\[{=,;:<>|])                       # at the start of a word, and in no URL
    (?:
        /(?:home|Users|root|tmp|var|usr|opt|mnt|media|srv|data|workspace|work|private)/
        [^\s'"(\[{=,;:<>|]+
      | /(?:[^\s'"(\[{=,;:<>|/]+/)+[^\s'"(\[{=,;:<>|/]+
        \.(?:py|pyc|ipynb|cpp|cc|cu|h|hpp|so|pt|pth|onnx|ckpt|ya?ml)\b
      | [A-Za-z]:[\\/][^\s'"(\[{=,;:<>|\\/]+[\\/][^\s'"(\[{=,;:<>|]*
      | \\\\[\w.$-]+\\[^\s'"(\[{=,;:<>|]+
    )
    """,
    re.VERBOSE,
)
_SCANNED = 1 << 16


def source_path(text: str | None) -> str | None:
    """Return the first absolute path of a Unix or Windows machine in a text, or None."""
    if not text:
        return None
    found = _PATH.search(text[:_SCANNED])
    return found.group() if found else None


def source_paths(model: ir.Model) -> tuple[int, str | None]:
    """Count the texts of a model that hold an absolute path, and return the first such path.

    Looked at are doc strings and metadata of the model, its graphs, functions, nodes, values and
    tensors: torch.onnx, for one, writes the stack of every node into its metadata.
    """
    count = 0
    example: str | None = None
    for text in _texts(model):
        path = source_path(text)
        if path is not None:
            count += 1
            example = example or path
    return count, example


def _texts(model: ir.Model) -> Iterator[str | None]:
    yield model.doc_string
    yield from model.metadata_props.values()
    for function in model.functions.values():
        yield function.doc_string
        yield from function.metadata_props.values()
    for scope in scopes(model):
        yield scope.graph.doc_string
        yield from scope.graph.metadata_props.values()
        for value in (*scope.graph.inputs, *scope.graph.initializers.values()):
            yield from _value_texts(value)
        for node in scope.graph:
            yield node.doc_string
            yield from node.metadata_props.values()
            for value in node.outputs:
                yield from _value_texts(value)


def _value_texts(value: ir.Value) -> Iterator[str | None]:
    yield value.doc_string
    yield from value.metadata_props.values()
    if value.const_value is not None:
        yield value.const_value.doc_string
