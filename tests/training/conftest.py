from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def same_numbers_in_any_order(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let each test draw from the start, whatever ran before it."""
    if hasattr(request.module, "RNG"):
        monkeypatch.setattr(request.module, "RNG", np.random.default_rng(0))
