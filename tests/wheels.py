"""Packages of third parties, made and installed without a network."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path


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
