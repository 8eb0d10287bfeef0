"""TensorFlow's messages in protobuf's text format, bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphopt.convert.reasons import one_line
from graphopt.errors import GraphoptError

MAX_TEXT_BYTES = 64 << 20
"""What a text may have: protobuf reads about 1 MB a second."""


def read_text(path: Path, message: Any) -> None:
    """Fill a message with what a file says in text.

    Raises:
        GraphoptError: It is too large, or no such text; the text says where.
    """
    from google.protobuf import text_format

    size = path.stat().st_size
    if size > MAX_TEXT_BYTES:
        raise GraphoptError(
            f"has {size} bytes of text, more than the {MAX_TEXT_BYTES} that are read",
            file=path,
            fix="write it in binary: tf.io.write_graph(graph, folder, name, as_text=False)",
        )
    try:
        text_format.Parse(path.read_bytes(), message)
    except RecursionError as error:
        raise GraphoptError("nests too deep", file=path) from error
    except (text_format.ParseError, UnicodeDecodeError, ValueError) as error:
        raise GraphoptError(
            f"is no {type(message).__name__} in protobuf's text format: {one_line(error)}",
            file=path,
        ) from error
