"""What a library says where it fails, in one line."""

from __future__ import annotations

_LONGEST = 400


def first_line(error: BaseException, places: tuple[str, ...] = ()) -> str:
    """Name an error and the first line of what it says; libraries add pages of advice.

    Args:
        error: The error.
        places: How lines begin that say where in the library it was, not what is wrong.
    """
    lines = _lines(error)
    telling = [line for line in lines if not line.startswith(places)] or lines
    return ": ".join([type(error).__name__, *(line[:_LONGEST] for line in telling[:1])])


def behind(place: str, error: BaseException) -> str:
    """Return the first line of what an error says, from the end of its last `place` on."""
    return next((line.rpartition(place)[2] for line in _lines(error)), type(error).__name__)


def one_line(error: BaseException) -> str:
    """Return all that an error says, as far as it fits."""
    return " ".join(_lines(error))[:_LONGEST]


def _lines(error: BaseException) -> list[str]:
    said = error.args[0] if len(error.args) == 1 else None
    # ONNX's parser says bytes.
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(error)
    return [line.strip() for line in text.splitlines() if line.strip()]
