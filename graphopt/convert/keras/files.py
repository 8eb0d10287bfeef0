"""What Keras file a file is, and whether opening it would run code of its own; without Keras."""

from __future__ import annotations

import enum
import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graphopt.convert.archives import open_archive
from graphopt.errors import GraphoptError

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_LARGEST_CONFIG = 1 << 28
"""Bytes of a config.json that is read: those of networks take a few MB at most."""

_CODE = frozenset(
    {"Lambda", "__lambda__", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer"}
)
_OWN_MODULES = ("keras", "builtins", "keras_hub", "tensorflow.keras", "tf_keras")


class Kind(enum.Enum):
    """What Keras writes."""

    ARCHIVE = ".keras archive"
    HDF5 = "HDF5 file with a network"
    WEIGHTS = "HDF5 file of weights"


def kind_of(path: Path) -> Kind | None:
    """Tell what a file is; None: nothing that Keras writes.

    Raises:
        GraphoptError: It cannot be read, or is broken.
    """
    if path.is_dir():
        return None
    try:
        with path.open("rb") as file:
            start = file.read(len(_HDF5))
            if start == _HDF5:
                return _kind_of_hdf5(file.fileno())
        if start[: len(_ZIP)] == _ZIP:
            with open_archive(path) as archive:
                names = set(archive.namelist())
            return Kind.ARCHIVE if {_CONFIG, _METADATA} <= names else None
    except OSError as error:
        raise GraphoptError(f"cannot be read: {error.strerror or error}", file=path) from error
    return None


def screen(path: Path, kind: Kind) -> None:
    """Refuse a network with code in it, or of classes that only its author has.

    Raises:
        GraphoptError: What was found, and what to do.
    """
    for item in _objects(_config(path, kind)):
        name, module = item.get("class_name"), item.get("module")
        if name in _CODE:
            raise GraphoptError(
                f"holds a {'Lambda' if name == '__lambda__' else name} layer, whose code would run"
                if name in {"Lambda", "__lambda__"}
                else f"holds a {name}, which runs what the file brings along",
                file=path,
                fix="where you trust it, load it in a function of your own that returns the model,"
                " and give module:callable",
            )
        if isinstance(module, str) and not _is_own(module):
            raise GraphoptError(
                f"needs the class {module}.{name}, which is none of Keras's own",
                file=path,
                fix="load it in a function that has the class and returns the model,"
                " and give module:callable",
            )


def _is_own(module: str) -> bool:
    return any(module == own or module.startswith(f"{own}.") for own in _OWN_MODULES)


def _kind_of_hdf5(descriptor: int) -> Kind | None:
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as content:
        # The names of attributes and groups stand in the file as they are.
        if content.find(b"model_config") >= 0:
            return Kind.HDF5
        if content.find(b"layer_names") >= 0 or content.find(b"vars") >= 0:
            return Kind.WEIGHTS
    return None


def _config(path: Path, kind: Kind) -> object:
    try:
        return json.loads(
            _config_of_archive(path) if kind is Kind.ARCHIVE else _config_of_hdf5(path)
        )
    except (ValueError, RecursionError) as error:
        raise GraphoptError(f"its config cannot be read: {error}", file=path) from error


def _config_of_archive(path: Path) -> bytes:
    with open_archive(path) as archive:
        if _WEIGHTS not in archive.namelist() and not any(
            name.startswith("model.weights") for name in archive.namelist()
        ):
            raise GraphoptError("holds a network without weights", file=path)
        if archive.getinfo(_CONFIG).file_size > _LARGEST_CONFIG:
            raise GraphoptError("its config.json is too large to be one", file=path)
        return archive.read(_CONFIG)


def _config_of_hdf5(path: Path) -> str | bytes:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            config: Any = file.attrs.get("model_config")
    except OSError as error:
        raise GraphoptError(
            "is a broken or truncated HDF5 file", file=path, fix="copy it, or save the model, again"
        ) from error
    if not isinstance(config, (str, bytes)):
        raise GraphoptError("holds no model_config", file=path)
    return config


def _objects(content: object) -> Iterator[dict[str, Any]]:
    """Yield the serialized objects at any depth."""
    pending = [content]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            if "class_name" in item:
                yield item
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
