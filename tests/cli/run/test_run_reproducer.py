from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from run_files import ops, recipe

Run = Callable[..., Any]


def test_a_failing_pass_leaves_a_folder_that_run_replays(
    graphopt: Run, model: Path, data: Path, tmp_path: Path
) -> None:
    out, folder = tmp_path / "out.onnx", tmp_path / "failures"
    pipeline = 'drop_identity | scale(factor=2.0) | boom(words="no luck")'
    ran = graphopt(
        "run", model, "-o", out, "-p", pipeline, "--data", data, "--reproducer", folder, "--seed", 5
    )
    assert ran.code == 1
    assert not out.exists()
    assert ran.err.count("\n") == 1
    assert (
        'boom(words="no luck") failed, after drop_identity | scale(factor=2.0):'
        " RuntimeError: no luck; see it again with: graphopt run "
    ) in ran.err
    (made,) = folder.iterdir()
    assert ops(made / "model.onnx") == ["Mul", "Add", "Relu"]
    assert f"graphopt run {made}" in (made / "README").read_text()
    assert "no luck" in (made / "traceback.txt").read_text()
    with np.load(made / "feeds" / "000000.npz") as kept, np.load(data) as given:
        assert {name: kept[name].tolist() for name in kept} == {
            name: given[name].tolist() for name in given
        }
    settings = json.loads((made / "reproducer.json").read_text())
    assert settings["seed"] == 5
    again = graphopt("run", made, "--reproducer", tmp_path / "second")
    assert again.code == 1
    assert "as the first pass: RuntimeError: no luck" in again.err
    (second,) = (tmp_path / "second").iterdir()
    assert (second / "model.onnx").read_bytes() == (made / "model.onnx").read_bytes()


def test_a_pass_that_a_check_refuses_is_replayed_too(
    graphopt: Run, model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "failures"
    arguments = ("-p", "false_scale(factor=2.0)", "--reproducer", folder)
    ran = graphopt("run", model, "-o", tmp_path / "out.onnx", *arguments)
    assert ran.code == 1
    (made,) = folder.iterdir()
    again = graphopt("run", made, "--reproducer", tmp_path / "second")
    assert again.code == 1
    assert "it is exact, and output 'y' differs" in again.err
    assert graphopt("run", made, "--no-verify").code == 0


def test_a_full_disk_does_not_hide_the_failure(graphopt: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    ran = graphopt(
        "run", model, "-o", tmp_path / "o", "-p", "boom", "--reproducer", tmp_path / "taken/x"
    )
    assert ran.code == 1
    assert "RuntimeError: out of luck; no reproducer could be written: " in ran.err


@pytest.mark.parametrize(
    "settings", ["{}", "[", '{"pipeline": 3, "seed": 0, "providers": []}', None]
)
def test_a_folder_that_is_no_reproducer_is_refused(
    graphopt: Run, tmp_path: Path, settings: str | None
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    if settings is not None:
        (folder / "reproducer.json").write_text(settings)
    ran = graphopt("run", folder)
    assert ran.code == 2
    assert f"{folder}: is a folder and no reproducer" in ran.err


FUNCTION = """
def rename(graph):
    for node in graph.nodes:
        if node.op == "Identity":
            node.name += "_seen"

def fail(graph):
    raise ValueError("surgeon slipped")
"""


def test_a_function_of_a_graphsurgeon_graph_is_a_pass(
    graphopt: Run, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "my_surgery.py").write_text(FUNCTION)
    out, again = tmp_path / "out.onnx", tmp_path / "again.onnx"
    ran = graphopt("run", model, "-o", out, "-p", "scale", "--pass", "my_surgery:rename")
    assert ran.code == 0, ran.err
    assert [node.name for node in onnx.load(out).graph.node][1] == "second_seen"
    assert recipe(out)["graphopt.pipeline"] == 'scale | surgeon(function="my_surgery:rename")'
    refused = graphopt("run", model, "-o", again, "--recipe-from", out)
    assert refused.code == 2
    assert "allow it: --pass my_surgery:rename" in refused.err
    allowed = ("--recipe-from", out, "--pass", "my_surgery:rename")
    assert graphopt("run", model, "-o", again, *allowed).code == 0
    assert again.read_bytes() == out.read_bytes()


def test_a_function_that_fails_is_reproduced_when_its_code_is_allowed(
    graphopt: Run, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "my_failure.py").write_text(FUNCTION)
    folder = tmp_path / "failures"
    arguments = ("--pass", "my_failure:fail", "--reproducer", folder)
    ran = graphopt("run", model, "-o", tmp_path / "out.onnx", *arguments)
    assert ran.code == 1
    assert "surgeon slipped" in ran.err
    (made,) = folder.iterdir()
    assert graphopt("run", made).code == 2
    again = graphopt("run", made, "--pass", "my_failure:fail", "--reproducer", tmp_path / "second")
    assert "surgeon slipped" in again.err


def test_a_reproducer_leaves_no_other_one(
    graphopt: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    first = graphopt(
        "run", model, "-o", tmp_path / "o", "-p", "boom", "--reproducer", tmp_path / "r"
    )
    assert first.code == 1
    (made,) = (tmp_path / "r").iterdir()
    again = graphopt("run", made)
    assert again.code == 1
    assert "out of luck" in again.err
    assert not [path for path in temporary.iterdir() if path.name.startswith("graphopt-boom")]
