from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.model import save

Run = Callable[..., Any]


@pytest.fixture
def model(toys: Path, tmp_path: Path) -> Path:
    path = tmp_path / "in.onnx"
    save(importlib.import_module("toy_passes").chain(), path)
    return path


def test_the_first_breaking_rewrite_is_printed_with_its_surroundings(
    graphopt: Run, model: Path
) -> None:
    ran = graphopt("bisect", model, "-p", "drop_identity | false_scale(factor=2) | scale")
    assert ran.code == 1
    assert ran.err == "graphopt: rewrite 3 breaks a check\n"
    lines = ran.out.splitlines()
    assert lines[0] == "rewrite 3, by false_scale(factor=2.0)"
    assert lines[1:3] == ["  at:  w", "  why: it is there"]
    assert lines[3].startswith("breaks: it is exact, and output 'y' differs by up to")
    assert "    [first] h0 = Mul (x, w)" in lines
    assert "changed weights: w" in lines
    assert lines[-1] == "the last good model: graphopt run --limit 2"


def test_what_it_names_is_where_run_turns(graphopt: Run, model: Path, tmp_path: Path) -> None:
    pipeline = "drop_identity | false_scale(factor=2)"
    arguments = ("-p", pipeline, "--reproducer", tmp_path / "failures")
    out = tmp_path / "out.onnx"
    assert graphopt("run", model, "-o", out, *arguments, "--limit", 2).code == 0
    assert graphopt("run", model, "-o", out, *arguments, "--limit", 3).code == 1


def test_a_sound_pipeline_has_no_culprit(graphopt: Run, model: Path) -> None:
    ran = graphopt("bisect", model, "-p", "drop_identity | scale(factor=2)")
    assert (ran.code, ran.out, ran.err) == (0, "no rewrite breaks a check\n", "")


def test_lossy_passes_are_held_to_a_ratio_on_data(
    graphopt: Run, model: Path, tmp_path: Path
) -> None:
    rows = np.random.default_rng(3).standard_normal((8, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=rows)
    arguments = ("bisect", model, "-p", "scale(factor=1.5)", "--data", tmp_path / "data.npz")
    assert graphopt(*arguments).code == 0
    assert graphopt(*arguments, "--min-sqnr", 1).code == 0
    ran = graphopt(*arguments, "--min-sqnr", 30, "--json", "-")
    assert ran.code == 1
    culprit = json.loads(ran.out)["culprit"]
    assert culprit["number"] == 1
    assert culprit["rewrite"]["at"] == "w"
    assert "SQNR" in culprit["problem"]


def test_a_pass_that_raises_outside_of_its_rewrites(graphopt: Run, model: Path) -> None:
    ran = graphopt("bisect", model, "-p", "boom(after=0)")
    assert ran.code == 1
    assert ran.out == "boom(after=0) fails outside of its rewrites: RuntimeError: out of luck\n"


def test_bad_usage(graphopt: Run, model: Path) -> None:
    assert graphopt("bisect", model).err == (
        "graphopt: there is no pipeline; give -p PIPELINE or --pass\n"
    )
    ran = graphopt("bisect", model, "-p", "scale(cap=-1)")
    assert ran.code == 2
    assert "cap must not be negative" in ran.err
