from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from toys import chain

from graphopt.errors import GraphoptError
from graphopt.model import load, save
from graphopt.pipeline.recipe import (
    Recipe,
    data_files,
    file_sha256,
    next_recipe,
    read_recipe,
    source_sha256,
    write_recipe,
)

FIXTURES = Path(__file__).parents[2] / "fixtures"
FULL = Recipe(
    pipeline='scale(include=("größe",))',
    version="1.0",
    source_sha256="ab" * 32,
    seed=-3,
    limit=0,
    data_sha256="cd" * 32,
    incomplete="because",
    history=(Recipe("drop_identity", "0.9", "ef" * 32), Recipe("", "0.9", "01" * 32, seed=5)),
)


def test_a_recipe_survives_a_file(tmp_path: Path) -> None:
    model = chain()
    model.metadata_props["theirs"] = "kept"
    write_recipe(model, FULL)
    save(model, tmp_path / "m.onnx")
    again = load(tmp_path / "m.onnx")
    assert read_recipe(again) == FULL
    assert again.metadata_props["theirs"] == "kept"


def test_writing_replaces_the_recipe_before() -> None:
    model = chain()
    write_recipe(model, FULL)
    write_recipe(model, Recipe("drop_identity", "1.0", "00"))
    assert read_recipe(model) == Recipe("drop_identity", "1.0", "00")


def test_a_model_without_a_recipe_has_none() -> None:
    assert read_recipe(chain()) is None


def test_the_next_recipe_goes_behind_those_before() -> None:
    model = chain()
    first, second = (
        Recipe("a", "1", "aa"),
        Recipe("b", "1", "bb", history=(Recipe("c", "1", "cc"),)),
    )
    assert next_recipe(model, first) == first
    write_recipe(model, first)
    joined = next_recipe(model, second)
    assert [step.pipeline for step in joined.steps] == ["a", "c", "b"]
    assert [step.pipeline for step in joined.steps_from("cc")] == ["c", "b"]
    assert [step.pipeline for step in joined.steps_from("unknown")] == ["a", "c", "b"]


def test_incompleteness_is_handed_on() -> None:
    model = chain()
    write_recipe(model, Recipe("a", "1", "aa", incomplete="lost"))
    assert next_recipe(model, Recipe("b", "1", "bb", incomplete="code")).incomplete == "lost; code"
    model.metadata_props["graphopt.history"] = "{"
    assert "recipe cannot be read" in str(next_recipe(model, Recipe("b", "1", "bb")).incomplete)


def test_the_hash_covers_external_data_in_the_order_of_names(tmp_path: Path) -> None:
    source = FIXTURES / "digits_mlp.onnx"
    assert source_sha256(source, load(source)) == hashlib.sha256(source.read_bytes()).hexdigest()
    path = tmp_path / "m.onnx"
    save(load(source), path, external_data=True)
    model = load(path)
    files = data_files(model, path)
    assert len(files) == 1
    both = hashlib.sha256(path.read_bytes() + files[0].read_bytes()).hexdigest()
    assert source_sha256(path, model) == both


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match=r"gone.onnx: cannot be read: No such file"):
        file_sha256([tmp_path / "gone.onnx"])
