"""What `torch.export` and `torch.onnx` cannot take: what it is, and where in the network."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.convert.reasons import first_line
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    import torch

_NODE = re.compile(r"(?:translating node|While executing) %(?P<name>\w+)")
_TARGET = re.compile(r"target=torch\.ops\.(?P<name>[\w.]+)")
_NO_FUNCTION = re.compile(r"<OpOverload\(op='(?P<name>[\w.]+)', overload='(?P<overload>\w+)'\)>")
_LISTS = re.compile(r"\.?\s*Tried overloads:.*$")
_FRAME = re.compile(r'File "(?P<path>[^"]+)", line (?P<line>\d+)')


@contextlib.contextmanager
def no_graph_on_stderr() -> Iterator[None]:
    """Drop what `torch.export` prints where it fails: the graph that it had by then."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            yield
    except Exception as error:
        if hasattr(error, "partial_fx_graph"):
            printed = io.StringIO()
        raise
    finally:
        sys.stderr.write(printed.getvalue())


def trace_error(error: Exception, source: str) -> GraphoptError:
    """Say why `torch.export.export` fails.

    Args:
        error: What it raised, of its tracer, its solver or the network.
        source: What messages call the source.
    """
    text = str(error)
    if "Could not guard on data-dependent expression" in text:
        place = _own_frame(text)
        return GraphoptError(
            "torch.export fails: what the network does depends on the values of a tensor"
            + (f" ({place})" if place else ""),
            file=source,
            fix="branch with torch.cond, or compute both and choose with torch.where",
        )
    # Torch's first line, and the line that says which dimension is wrong.
    dims = [line.strip(" -") for line in text.splitlines() if line.startswith("  - ")]
    return GraphoptError(
        " ".join([f"torch.export fails: {first_line(error)}", *dims[:1]]),
        file=source,
        fix="keep every size as in the example inputs with --static, or change the network",
    )


def export_reason(error: Exception, program: torch.export.ExportedProgram) -> str:
    """Say why `torch.onnx.export` fails, in one line.

    Args:
        error: What it raised: its own error, with that of the step that failed as the cause.
        program: What was exported.
    """
    causes = list(_causes(error))
    text = "\n".join(map(str, causes))
    place = _place(text, program)
    where = f" ({place})" if place else ""
    missing = _NO_FUNCTION.search(text)
    if missing is not None:
        operator = ".".join(part for part in missing.groups() if part != "default")
        return f"torch.onnx does not support the operator {operator}{where}"
    said = causes[1] if len(causes) > 1 else error
    return f"torch.onnx fails: {_LISTS.sub('', first_line(said))}{where}"


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    pending: BaseException | None = error
    while pending is not None and pending not in found:
        found.append(pending)
        pending = pending.__cause__
    return found


def _place(text: str, program: torch.export.ExportedProgram) -> str | None:
    """Return the line of the network: of the node, or else of the first with its operator."""
    node, target = _NODE.search(text), _TARGET.search(text)
    nodes = [item for item in program.graph.nodes if item.op == "call_function"]
    named = [item for item in nodes if node is not None and item.name == node["name"]]
    alike = [item for item in nodes if target is not None and str(item.target) == target["name"]]
    for item in (*named, *alike):
        if place := _own_frame(item.meta.get("stack_trace") or ""):
            return place
    return None


def _own_frame(trace: str) -> str | None:
    """Return the innermost line of a stack trace that belongs to no installed package."""
    for match in reversed(list(_FRAME.finditer(trace))):
        path = Path(match["path"])
        if not {"site-packages", "dist-packages"} & set(path.parts):
            return f"{path.name}:{match['line']}"
    return None
