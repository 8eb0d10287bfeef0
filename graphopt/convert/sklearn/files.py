"""Fitted scikit-learn estimators out of files: skops, pickles where allowed, or a callable."""

from __future__ import annotations

import bz2
import contextlib
import lzma
import pickle
import pickletools
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from graphopt.callables import import_callable, is_callable_spec
from graphopt.convert.archives import open_archive
from graphopt.convert.contract import Options
from graphopt.convert.finishing import require
from graphopt.convert.reasons import first_line
from graphopt.errors import GraphoptError

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_COMPRESSED: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", lambda start: zlib.decompressobj(31).decompress(start)),
    (b"BZh", lambda start: bz2.BZ2Decompressor().decompress(start)),
    (b"\xfd7zXZ", lambda start: lzma.LZMADecompressor().decompress(start)),
    (b"\x5d\x00\x00", lambda start: lzma.LZMADecompressor().decompress(start)),
    (b"\x78", lambda start: zlib.decompressobj().decompress(start)),
)
_LZ4 = b"\x04\x22\x4d\x18"
_START = 1 << 16
_MAX_UNPACKED_BYTES = 8 << 30
_PICKLE_NOTE = "was read from a pickle, which can run any code when it is read"
_HARMLESS = ("numpy.dtype",)
"""Types that are trusted without being asked for, by their exact names.

skops makes a dtype by reading an empty array with pickles forbidden, and numpy.dtype itself imports
and calls nothing, whatever it is given."""
_UNCHECKED = (
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
)
"""Made of arrays alone, so that reading them runs no code. Yet they are not trusted: scikit-learn
follows the numbers of nodes and features in them without looking at bounds, and a crafted file
makes it read memory that is not its own, or crash, when it predicts."""
_FOREIGN = ("torch", "tensorflow", "keras", "jax", "flax")
"""Packages whose pickles are not estimators."""


def is_skops(path: Path) -> bool:
    """Whether a file is a zip archive with the schema that skops writes.

    Raises:
        GraphoptError: It is a broken one.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != _ZIP:
                return False
    except OSError:
        return False
    with open_archive(path) as archive:
        return "schema.json" in archive.namelist()


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle, as of joblib, compressed or not, of no other framework."""
    try:
        with path.open("rb") as file:
            start = file.read(_START)
    except OSError:
        return False
    if start.startswith(_LZ4):
        return True
    start = _decompressed(start)
    if not start.startswith(_PICKLE):
        return False
    classes = list(_classes(start))
    return bool(classes) and classes[0].partition(".")[0] not in _FOREIGN


def load_estimator(source: str, options: Options) -> tuple[Any, list[str]]:
    """Load a fitted estimator.

    Args:
        source: A file, or `module:callable` that returns it.
        options: What may be trusted.

    Returns:
        The estimator, and notes for the user.

    Raises:
        GraphoptError: It cannot be read, or holds what may not be trusted.
    """
    path = Path(source)
    notes: list[str] = []
    with _notes_of_versions(notes):
        if not path.exists() and is_callable_spec(source):
            estimator = _built(source)
        elif is_skops(path):
            estimator = _from_skops(path, options)
        elif is_pickle(path) or _is_any_pickle(path):
            estimator = _from_pickle(path, options)
            notes.append(f"{path} {_PICKLE_NOTE}")
        else:
            raise GraphoptError(
                "is no skops file and no pickle",
                file=path,
                fix="save the estimator with skops.io.dump, or give module:callable",
            )
    return estimator, notes


@contextlib.contextmanager
def _notes_of_versions(notes: list[str]) -> Iterator[None]:
    """Turn scikit-learn's warnings on estimators of another version into notes."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield
    for warning in found:
        if type(warning.message).__name__ == "InconsistentVersionWarning":
            before = getattr(warning.message, "original_sklearn_version", "another version")
            here = getattr(warning.message, "current_sklearn_version", "another")
            note = f"was saved by scikit-learn {before} and read by {here}"
            if note not in notes:
                notes.append(note)


def _built(spec: str) -> Any:
    try:
        return import_callable(spec)()
    except GraphoptError:
        raise
    except Exception as error:
        # The user's function may raise anything.
        raise GraphoptError(f"fails: {first_line(error)}", file=spec) from error


def _from_skops(path: Path, options: Options) -> Any:
    require(["skops"], "sklearn", "skops")
    import skops.io

    _check_size(path)
    try:
        found = skops.io.get_untrusted_types(file=path)
        trusted = [name for name in found if name in (*options.trust, *_HARMLESS)]
        untrusted = [name for name in found if name not in trusted]
        if not untrusted:
            return skops.io.load(path, trusted=trusted)
    except Exception as error:
        # skops raises what its readers stumble over: a fault of the file.
        raise GraphoptError(
            f"cannot be read by skops: {first_line(error)}",
            file=path,
            fix="save the estimator again with skops.io.dump",
        ) from error
    raise GraphoptError(
        f"holds {'types' if len(untrusted) > 1 else 'a type'} that skops does not know to be"
        f" harmless: {', '.join(untrusted)}",
        file=path,
        fix=_how_to_trust(untrusted),
    )


def _how_to_trust(names: Sequence[str]) -> str:
    risk = ""
    if set(names) <= set(_UNCHECKED):
        risk = " (nodes of trees are not checked: a crafted file can crash this process)"
    return f"where you trust it{risk}, add " + " ".join(f"--trust {name}" for name in names)


def _check_size(path: Path) -> None:
    with open_archive(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > _MAX_UNPACKED_BYTES:
        raise GraphoptError(f"unpacks to {size:,} bytes", file=path)


def _from_pickle(path: Path, options: Options) -> Any:
    if not options.allow_pickle:
        raise GraphoptError(
            f"is a pickle{_contents(path)}, and reading one can run any code",
            file=path,
            fix="save the estimator with skops.io.dump, or allow it with --allow-pickle where you"
            " trust who wrote it",
        )
    require(["joblib"], "sklearn", "joblib")
    import joblib

    try:
        return joblib.load(path)
    except Exception as error:
        # What unpickling runs may raise anything.
        raise GraphoptError(
            f"cannot be unpickled: {first_line(error)}",
            file=path,
            fix="read it with the versions of Python and the packages that wrote it",
        ) from error


def _contents(path: Path) -> str:
    with path.open("rb") as file:
        name = next(_classes(_decompressed(file.read(_START))), None)
    return f" of {name}" if name else ""


def _is_any_pickle(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _decompressed(file.read(_START)).startswith(_PICKLE)
    except OSError as error:
        raise GraphoptError(f"cannot be read: {error.strerror or error}", file=path) from error


def _decompressed(start: bytes) -> bytes:
    for magic, decompress in _COMPRESSED:
        if start.startswith(magic):
            try:
                return decompress(start)[:_START]
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
                return b""
    return start


def _classes(start: bytes) -> Iterator[str]:
    """Names of what a pickle imports, as far as its beginning can be read; none is imported."""
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(start):
            if opcode.name in {"GLOBAL", "INST"}:
                yield str(argument).replace(" ", ".")
            elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
                yield ".".join(strings[-2:])
            elif isinstance(argument, str):
                strings.append(argument)
    except (ValueError, KeyError, EOFError, UnicodeDecodeError, pickle.UnpicklingError):
        # The beginning is cut off, or joblib's raw arrays follow.
        return
