from __future__ import annotations

from pathlib import Path

import pytest
from run_files import labelled_data, saved_chain


@pytest.fixture(autouse=True)
def _site(toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model(toys: Path, tmp_path: Path) -> Path:
    return saved_chain(tmp_path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return labelled_data(tmp_path)
