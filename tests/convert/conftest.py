from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def importable_sources(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let `module:callable` name the modules that stand here, imported afresh by each test."""
    monkeypatch.chdir(HERE)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == HERE:
            del sys.modules[name]
