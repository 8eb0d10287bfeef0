"""TensorFlow without its logs on the terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import TextIO

from graphopt.convert.quiet import quiet as exporter_quiet

_SETTINGS = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": ""}
"""Read by TensorFlow when it is imported: errors only; sums in one order, whatever the machine;
the reference runs on the CPU, as ONNX Runtime does."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what TensorFlow, TFLite, Keras and tf2onnx say about themselves off the terminal.

    C++ writes to the file descriptor 2, which goes to a temporary file meanwhile. What Python
    writes, as the user's own code does, still gets out, all of it on stderr.
    """
    # stdout goes to what stands for stderr while C++ is kept away from it.
    with _settings(), _native_stderr_away(), exporter_quiet(logging.CRITICAL):
        yield


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    if "tensorflow" in sys.modules:
        yield
        return
    before = {name: os.environ.get(name) for name in _SETTINGS}
    os.environ.update(_SETTINGS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _native_stderr_away() -> Iterator[None]:
    stream = sys.stderr
    try:
        of_terminal = stream.fileno() == 2
    except (AttributeError, OSError, io.UnsupportedOperation):
        of_terminal = False
    try:
        kept = os.dup(2)
    except OSError:
        # A process without a stderr has nothing to keep clean.
        yield
        return
    replacement: TextIO | None = None
    try:
        with tempfile.TemporaryFile() as sink:
            stream.flush()
            os.dup2(sink.fileno(), 2)
            if of_terminal:
                replacement = os.fdopen(
                    os.dup(kept), "w", encoding=stream.encoding, errors=stream.errors, buffering=1
                )
                sys.stderr = replacement
            yield
    finally:
        if replacement is not None:
            replacement.close()
            sys.stderr = stream
        os.dup2(kept, 2)
        os.close(kept)
