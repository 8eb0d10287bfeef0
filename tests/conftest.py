"""Fixtures that several folders of tests share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Ran
from hypothesis import settings
from wheels import install, wheel

# Examples are slow on busy machines; what they find does not depend on it.
settings.register_profile("graphopt", deadline=None)
settings.load_profile("graphopt")

TOYS = Path(__file__).parent / "pipeline" / "toys.py"
ENTRY_POINTS = """[graphopt.passes]
drop_identity = toy_passes:DropIdentity
scale = toy_passes:Scale
false_scale = toy_passes:FalseScale
boom = toy_passes:Boom
"""


@pytest.fixture(scope="session")
def toy_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install a third party's package of passes into a folder of its own, without a network."""
    folder = tmp_path_factory.mktemp("third-party")
    return install(
        wheel(folder, "toy-passes", {"toy_passes.py": TOYS.read_text()}, ENTRY_POINTS),
        folder / "site",
    )


@pytest.fixture
def toys(toy_site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the third party's passes importable."""
    monkeypatch.syspath_prepend(str(toy_site))
    return toy_site


@pytest.fixture
def graphopt(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Call the command line in this process."""
    from graphopt.cli.main import main

    def call(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["graphopt", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        assert isinstance(left.value.code, int)
        out, err = capfd.readouterr()
        return Ran(left.value.code, out, err)

    return call
