from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_files import recipe

from graphopt.model import load, save

Run = Callable[..., Any]


def test_the_recipe_is_in_the_metadata(graphopt: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert graphopt("run", model, "-o", out, "-p", "drop_identity", "--seed", 7).code == 0
    assert recipe(out) == {
        "graphopt.pipeline": "drop_identity",
        "graphopt.version": importlib.metadata.version("graphopt"),
        "graphopt.source_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "graphopt.seed": "7",
    }


def test_a_recipe_is_replayed_to_the_same_bytes(graphopt: Run, model: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "first.onnx", tmp_path / "again.onnx"
    pipeline = "drop_identity | scale(factor=0.5)"
    assert graphopt("run", model, "-o", first, "-p", pipeline, "--seed", 3, "--limit", 3).code == 0
    ran = graphopt("run", model, "-o", again, "--recipe-from", first)
    assert ran.code == 0
    assert ran.err == ""
    assert again.read_bytes() == first.read_bytes()


def test_a_recipe_from_a_recipe_is_complete(graphopt: Run, model: Path, tmp_path: Path) -> None:
    one, two, three = (tmp_path / f"{name}.onnx" for name in ("one", "two", "three"))
    graphopt("run", model, "-o", one, "-p", "drop_identity", "--seed", 1)
    graphopt("run", one, "-o", two, "-p", "scale(factor=0.5)", "--seed", 2)
    graphopt("run", two, "-o", three, "-p", 'scale(factor=3, mode="first")')
    steps = json.loads(recipe(three)["graphopt.history"])
    assert [(step["pipeline"], step["seed"]) for step in steps] == [
        ("drop_identity", "1"),
        ("scale(factor=0.5)", "2"),
    ]
    from_source, from_middle = tmp_path / "a.onnx", tmp_path / "b.onnx"
    ran = graphopt("run", model, "-o", from_source, "--recipe-from", three)
    assert (ran.code, ran.err) == (0, "")
    assert from_source.read_bytes() == three.read_bytes()
    ran = graphopt("run", one, "-o", from_middle, "--recipe-from", three)
    assert (ran.code, ran.err) == (0, "")
    assert from_middle.read_bytes() == three.read_bytes()


def test_a_replay_on_another_model_or_data_says_so(
    graphopt: Run, model: Path, data: Path, tmp_path: Path
) -> None:
    out, other = tmp_path / "out.onnx", tmp_path / "other.onnx"
    graphopt("run", model, "-o", out, "-p", "drop_identity", "--data", data)
    assert recipe(out)["graphopt.data_sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()
    twin = load(model)
    twin.graph.name = "twin"
    save(twin, other)
    ran = graphopt("run", other, "-o", tmp_path / "new.onnx", "--recipe-from", out)
    assert ran.code == 0
    assert "made for another model" in ran.err
    assert "made with other data" in ran.err


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({}, "carries no recipe"),
        ({"graphopt.pipeline": "drop_identity", "graphopt.seed": "x"}, "recipe cannot be read"),
        ({"graphopt.pipeline": "drop_identity", "graphopt.history": "[" * 9999}, "cannot be read"),
        ({"graphopt.pipeline": "drop_identity", "graphopt.history": "[3]"}, "cannot be read"),
        ({"graphopt.pipeline": "nothing_like_it"}, "there is no pass 'nothing_like_it'"),
        (
            {"graphopt.pipeline": "drop_identity", "graphopt.incomplete": "lost"},
            "its recipe cannot be replayed: lost",
        ),
        (
            {"graphopt.pipeline": 'surgeon(function="os:abort")'},
            "its pipeline imports os:abort; if you trust that code, allow it: --pass os:abort",
        ),
    ],
)
def test_a_recipe_that_cannot_be_replayed_is_refused(
    graphopt: Run, model: Path, tmp_path: Path, metadata: dict[str, str], said: str
) -> None:
    carrier = load(model)
    carrier.metadata_props.update(metadata)
    save(carrier, tmp_path / "carrier.onnx")
    out = tmp_path / "out.onnx"
    ran = graphopt("run", model, "-o", out, "--recipe-from", tmp_path / "carrier.onnx")
    assert ran.code == 2
    assert said in ran.err
    assert not out.exists()


def test_a_history_that_cannot_be_read_makes_the_next_recipe_incomplete(
    graphopt: Run, model: Path, tmp_path: Path
) -> None:
    carrier = load(model)
    carrier.metadata_props.update({"graphopt.pipeline": "x", "graphopt.seed": "?"})
    save(carrier, tmp_path / "carrier.onnx")
    out = tmp_path / "out.onnx"
    assert graphopt("run", tmp_path / "carrier.onnx", "-o", out, "-p", "drop_identity").code == 0
    assert "recipe cannot be read" in recipe(out)["graphopt.incomplete"]
    assert recipe(out)["graphopt.pipeline"] == "drop_identity"
