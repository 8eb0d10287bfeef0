"""The wheel holds what a user needs, and works without torch."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

NO_TORCH = """
import sys
from importlib.abc import MetaPathFinder

class Refuse(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {"torch", "sklearn", "scipy", "hypothesis"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(ROOT)], check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_both_packages_and_the_fixtures(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "graphopt/cli/main.py" in names
    assert "passes/threshold/__init__.py" in names
    assert "graphopt/py.typed" in names
    assert any(name.startswith("graphopt/fixtures/digits_") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)


def test_the_demo_runs_from_the_wheel_without_torch(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--target", str(site), str(wheel)], check=True)
    (site / "sitecustomize.py").write_text(NO_TORCH)
    done = subprocess.run(
        [sys.executable, "-m", "graphopt", "demo"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(site) not in done.stdout
    assert ".onnx" in done.stdout


def test_the_command_line_answers_without_heavy_imports() -> None:
    code = (
        "import sys, contextlib, io\n"
        "from graphopt.cli.main import cli\n"
        "with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "    cli(['--help'], standalone_mode=False)\n"
        "assert 'validate' in out.getvalue()\n"
        "heavy = {'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'onnxscript', 'rich', 'torch'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
