from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from wheels import install, wheel

Run = Callable[..., Any]


def test_lists_name_effect_summary_and_distribution(graphopt: Run, toys: Path) -> None:
    ran = graphopt("passes")
    assert ran.code == 0
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert "drop_identity exact Remove Identity nodes. toy-passes 1.2" in lines
    assert any(line.startswith("cleanup exact ") and "graphopt" in line for line in lines)
    names = [line.split()[0] for line in lines if line.endswith("toy-passes 1.2")]
    assert names == sorted(names)


def test_shows_parameters_types_defaults_and_documentation(graphopt: Run, toys: Path) -> None:
    ran = graphopt("passes", "scale")
    assert ran.code == 0
    assert "scale (lossy), toy-passes 1.2" in ran.out
    assert "Formula: w <- factor * w." in ran.out
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    for row in (
        "factor float 1.0",
        "include tuple of str ()",
        'mode "all" or "first" "all"',
        "cap int or None None",
    ):
        assert row in lines


@pytest.mark.parametrize("name", ["cleanup", "strip", "threshold", "surgeon"])
def test_shows_the_built_in_passes(graphopt: Run, name: str) -> None:
    ran = graphopt("passes", name)
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"{name} (")


def test_json(graphopt: Run, toys: Path, tmp_path: Path) -> None:
    listed = json.loads(graphopt("passes", "--json", "-").out)
    (scale,) = [record for record in listed["passes"] if record["name"] == "scale"]
    assert scale == {
        "name": "scale",
        "effect": "lossy",
        "summary": "Multiply every initializer by a factor.",
        "distribution": "toy-passes 1.2",
    }
    assert graphopt("passes", "scale", "--json", tmp_path / "scale.json").code == 0
    shown = json.loads((tmp_path / "scale.json").read_text())
    assert shown["parameters"][3] == {"name": "cap", "type": "int or None", "default": "None"}
    assert shown["target"] == "toy_passes:Scale"


def test_an_unknown_pass_is_answered_with_the_nearest(graphopt: Run, toys: Path) -> None:
    ran = graphopt("passes", "scael")
    assert ran.code == 2
    assert ran.err == "graphopt: there is no pass 'scael'; did you mean 'scale'?\n"


def test_a_broken_package_is_told_apart_and_hides_no_other(
    graphopt: Run, toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = "[graphopt.passes]\nbroken = broken_module:Broken\nscale = broken_module:Scale\n"
    package = wheel(tmp_path, "broken-one", {"broken_module.py": "1 / 0"}, points)
    monkeypatch.syspath_prepend(str(install(package, tmp_path / "site")))
    ran = graphopt("passes")
    assert ran.code == 0
    assert "drop_identity" in ran.out
    assert "'broken' (broken_module:Broken of broken-one 1.2) does not load: Zero" in ran.err
    assert "'scale' is offered twice, by broken-one 1.2 (broken_module:Scale) and toy-passes" in (
        ran.err
    )
