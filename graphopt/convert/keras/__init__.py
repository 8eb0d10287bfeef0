"""From Keras 3: .keras and .h5 files, and models that are built in Python, through TensorFlow."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graphopt.callables import import_callable, is_callable_spec
from graphopt.convert.contract import Conversion, Options
from graphopt.convert.finishing import require
from graphopt.convert.keras.files import Kind, kind_of, screen
from graphopt.convert.keras.reasons import why_not_loaded
from graphopt.convert.tensorflow.network import Network, reason
from graphopt.convert.tensorflow.quiet import quiet
from graphopt.errors import GraphoptError

_BACKEND = "KERAS_BACKEND"


def recognises(path: Path) -> bool:
    """Whether Keras wrote a file; Keras is not imported for it."""
    return kind_of(path) is not None


def convert(source: str, options: Options) -> Conversion:
    """Convert a `.keras` or `.h5` file, weights with `options.model`, or `module:callable`.

    Args:
        source: A file, or a function that returns a model or `(model, example_inputs)`.
        options: What to ask for.

    Raises:
        GraphoptError: It cannot be read or exported, or holds code.
        CheckFailed: ONNX Runtime computes something else than Keras on the example inputs.
    """
    require(["keras", "tensorflow", "tf2onnx"], "keras", "Keras with TensorFlow and tf2onnx")
    with quiet():
        _import_keras(source)
        from graphopt.convert.tensorflow.export import convert_network

        return convert_network(_opened(source, options), options)


def _import_keras(source: str) -> None:
    """Import Keras on TensorFlow, unless the process runs it on something else already."""
    before = os.environ.get(_BACKEND)
    if "keras" not in sys.modules:
        os.environ[_BACKEND] = "tensorflow"
    try:
        import keras
    finally:
        if before is None:
            os.environ.pop(_BACKEND, None)
        else:
            os.environ[_BACKEND] = before
    if keras.backend.backend() != "tensorflow":
        raise GraphoptError(
            f"Keras runs on {keras.backend.backend()} here, and tf2onnx needs TensorFlow",
            file=source,
            fix="set KERAS_BACKEND=tensorflow",
        )


def _opened(source: str, options: Options) -> Network:
    from graphopt.convert.tensorflow.callable import open_callable

    path = Path(source)
    if not path.exists() and is_callable_spec(source):
        return open_callable(source)
    kind = kind_of(path) if path.exists() else None
    if kind is None:
        raise GraphoptError(
            "is no Keras file" if path.exists() else "no such file",
            file=path,
            fix="give a .keras or .h5 file, or module:callable returning a model",
        )
    if kind is Kind.WEIGHTS:
        return _with_weights(path, options.model)
    from graphopt.convert.keras.network import network_of

    screen(path, kind)
    return network_of(_loaded(path, kind), str(path), None)


def _loaded(path: Path, kind: Kind) -> Any:
    import keras

    try:
        with _called_as_keras_expects(path, kind) as file:
            return keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:
        # Keras raises what its layers, zip, JSON or HDF5 raise.
        raise GraphoptError(
            f"Keras {keras.__version__} cannot load it: {why_not_loaded(error)}",
            file=path,
            fix="build the model in Python, load its weights, and give module:callable",
        ) from error


@contextlib.contextmanager
def _called_as_keras_expects(path: Path, kind: Kind) -> Iterator[Path]:
    """Give a file the suffix of its content, by which Keras goes."""
    suffix = ".keras" if kind is Kind.ARCHIVE else ".h5"
    if path.suffix in {suffix, ".hdf5"}:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"model{suffix}"
        link.symlink_to(path.resolve())
        yield link


def _with_weights(path: Path, spec: str | None) -> Network:
    if spec is None:
        raise GraphoptError(
            "holds weights and no network",
            file=path,
            fix="name a function that builds the model with --model module:callable",
        )
    from graphopt.convert.keras.network import built, network_of

    model, examples = built(import_callable(spec), spec)
    try:
        model.load_weights(path)
    except Exception as error:
        # Keras raises what its layers or HDF5 raise.
        raise GraphoptError(
            f"its weights do not fit the model of {spec}: {reason(error)}", file=path
        ) from error
    return network_of(model, str(path), examples)
