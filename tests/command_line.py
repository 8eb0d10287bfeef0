"""What a call of the command line leaves."""

from __future__ import annotations

from typing import NamedTuple


class Ran(NamedTuple):
    """What a command line call left."""

    code: int
    out: str
    err: str
