"""Fixtures that several folders of tests share."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings

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


class Ran(NamedTuple):
    """What a command line call left."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def toy_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install a third party's package of passes into a folder of its own, without a network."""
    folder = tmp_path_factory.mktemp("third-party")
    return install(
        wheel(folder, "toy-passes", {"toy_passes.py": TOYS.read_text()}, ENTRY_POINTS),
        folder / "site",
    )


def wheel(folder: Path, name: str, modules: dict[str, str], entry_points: str) -> Path:
    """Write a wheel, which is a zip file of modules and metadata."""
    stem = f"{name.replace('-', '_')}-1.2"
    info = f"{stem}.dist-info"
    files = {
        **modules,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
        f"{info}/entry_points.txt": entry_points,
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items():
            archive.writestr(inside, text)
    return path


def install(package: Path, site: Path) -> Path:
    """Install a wheel: by pip, or as the wheel format says where an environment has no pip."""
    if importlib.util.find_spec("pip") is None:
        with zipfile.ZipFile(package) as archive:
            archive.extractall(site)
        return site
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*command, "--target", str(site), str(package)], check=True)
    return site


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
