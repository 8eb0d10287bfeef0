"""Refuse graphs with operators that reach outside of the computation.

TensorFlow models are programs: operators can read and write files, call Python, and talk to other
machines (TensorFlow's SECURITY.md). Loading a SavedModel runs some of them, and so does comparing
with it. A model that computes outputs from inputs needs none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from graphopt.convert.tensorflow.files import saved_model_file
from graphopt.convert.tensorflow.text import read_text
from graphopt.errors import GraphoptError

_OUTSIDE = re.compile(
    r"(Eager)?PyFunc(Stateless)?|ReadFile|WriteFile|MatchingFiles|ImmutableConst"
    r"|.*Reader(V2)?|Reader.*|.*Dataset(V\d)?|.*Iterator.*"
    r"|WholeFile.*|Rpc.*|TryRpc|Recv|Send|_Recv|_Send|.*HostRecv|.*HostSend"
    r"|TfrtCall|Debug.*|.*Summary.*|FileSystemSetConfiguration"
    r"|InitializeTableFromTextFile(V2)?|LookupTableImport\w*FromFile"
)
_CHECKPOINT = re.compile(r"Save(V2|Slices)?|Restore(V2|Slice)?|MergeV2Checkpoints|LoadAndRemap.*")
_TO_A_FILE = b"file:"
"""How the setting output_stream of PrintV2 begins where it prints into a file."""


def screen_saved_model(folder: Path) -> None:
    """Check every graph and function of a SavedModel before it is loaded.

    Operators of checkpoints are let through: each SavedModel has them, to save itself.

    Raises:
        GraphoptError: It cannot be read, or which operator is there.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    path = saved_model_file(folder)
    if path.suffix == ".pbtxt":
        read_text(path, model)
    else:
        try:
            model.ParseFromString(path.read_bytes())
        except Exception as error:
            # protobuf's DecodeError differs between its implementations.
            raise GraphoptError("is a broken or truncated SavedModel", file=path) from error
    if not model.meta_graphs:
        raise GraphoptError("is a broken or truncated SavedModel", file=path)
    for graph in model.meta_graphs:
        _screen(graph.graph_def, path, checkpoints=True)


def screen_graph(graph: Any, source: str | Path) -> None:
    """Check a GraphDef and its functions.

    Raises:
        GraphoptError: Which operator is there.
    """
    _screen(graph, source, checkpoints=False)


def _screen(graph: Any, source: str | Path, *, checkpoints: bool) -> None:
    bodies: Iterable[Any] = [graph.node, *(item.node_def for item in graph.library.function)]
    for nodes in bodies:
        for node in nodes:
            outside = _OUTSIDE.fullmatch(node.op) or _prints_to_a_file(node)
            if outside or (not checkpoints and _CHECKPOINT.fullmatch(node.op)):
                raise GraphoptError(
                    f"has the operator {node.op} (at {node.name}), which reaches outside of the"
                    " computation",
                    file=source,
                    fix="save the model without it: inference needs none such",
                )


def _prints_to_a_file(node: Any) -> bool:
    if node.op != "PrintV2":
        return False
    stream: bytes = node.attr["output_stream"].s
    return stream.strip().startswith(_TO_A_FILE)
