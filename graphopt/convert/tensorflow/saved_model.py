"""A SavedModel, by one of its signatures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphopt.convert.tensorflow.network import Input, Network, reason, sizes_of
from graphopt.convert.tensorflow.screen import screen_graph, screen_saved_model
from graphopt.errors import GraphoptError

_DEFAULT = "serving_default"


def open_saved_model(folder: Path, signature: str | None) -> tuple[Network, Sequence[str]]:
    """Load a SavedModel and choose a signature.

    Args:
        folder: It holds `saved_model.pb`, or `saved_model.pbtxt`.
        signature: Its name; None: the only one, or else `serving_default`, TensorFlow's default.

    Returns:
        The network, and a note where there was a choice.

    Raises:
        GraphoptError: It cannot be loaded, or has no such signature.
    """
    import tensorflow as tf

    screen_saved_model(folder)
    try:
        loaded = tf.saved_model.load(str(folder))
    except Exception as error:
        # TensorFlow raises errors of its own, of files and of protobuf for a bad SavedModel.
        raise GraphoptError(f"cannot be loaded: {reason(error)}", file=folder) from error
    name = _chosen(folder, loaded.signatures, signature)
    function = loaded.signatures[name]
    # What saves and restores the model was let through; what it computes needs none of that.
    screen_graph(function.graph.as_graph_def(), folder)
    others = sorted(set(loaded.signatures) - {name})
    notes = []
    if signature is None and others:
        notes = [f"converted the signature {name}; --signature chooses {' or '.join(others)}"]
    return _network(str(folder), loaded, function), notes


def _chosen(folder: Path, signatures: Mapping[str, object], asked: str | None) -> str:
    names = sorted(signatures)
    if not names:
        raise GraphoptError(
            "has no signatures",
            file=folder,
            fix="save it with tf.saved_model.save(model, DIR, signatures=...)",
        )
    if asked is None and len(names) == 1:
        return names[0]
    wanted = _DEFAULT if asked is None else asked
    if wanted in signatures:
        return wanted
    cause = "has several signatures" if asked is None else f"has no signature {asked!r}, but"
    raise GraphoptError(
        f"{cause}: {', '.join(names)}",
        file=folder,
        fix="choose one with --signature",
    )


def _network(source: str, loaded: object, function: Any) -> Network:
    specs = function.structured_input_signature[1]
    names = sorted(specs, key=_natural)
    outputs = tuple(sorted(function.structured_outputs, key=_natural))

    def call(*tensors: Any) -> list[Any]:
        results = function(**dict(zip(names, tensors, strict=True)))
        return [results[name] for name in outputs]

    inputs = tuple(Input(name, specs[name].dtype, sizes_of(specs[name].shape)) for name in names)
    return Network(source, call, inputs, outputs, loaded)


def _natural(name: str) -> list[tuple[int, str]]:
    """Order names with their numbers by size: the file is a map, which has no order."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
