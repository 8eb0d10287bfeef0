from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from run_files import ops, recipe

from graphopt.model import load, save

Run = Callable[..., Any]


def test_a_pipeline_rewrites_a_model_and_prints_a_row_per_pass(
    graphopt: Run, model: Path, tmp_path: Path
) -> None:
    before = model.read_bytes()
    out = tmp_path / "out.onnx"
    ran = graphopt("run", model, "-o", out, "-p", "drop_identity | scale(factor=0.5)")
    assert ran.code == 0, ran.err
    assert ops(out) == ["Mul", "Add", "Relu"]
    assert model.read_bytes() == before
    rows = {line.split()[0]: line.split() for line in ran.out.splitlines() if line.strip()}
    assert rows["(source)"][1:4] == ["5", "8", "32"]
    assert rows["drop_identity"][1:5] == ["exact", "2", "3", "3"]
    assert "equal" in rows["drop_identity"]
    assert rows["scale(factor=0.5)"][1:5] == ["lossy", "2", "0", "3"]
    assert re.search(r"y: [\d.]+ dB", ran.out)
    assert ran.out.splitlines()[-1].startswith(f"wrote {out}, ")
    assert ran.err == ""


def test_explain_prints_every_rewrite_and_decline(
    graphopt: Run, model: Path, tmp_path: Path
) -> None:
    arguments = ("run", model, "-o", tmp_path / "o.onnx", "-p", "drop_identity | scale")
    first = graphopt(*arguments, "--explain").out
    explained = first[first.index("drop_identity: 2 rewrites, 3 declined") :].splitlines()
    assert explained[:-1] == [
        "drop_identity: 2 rewrites, 3 declined",
        "  rewrote   second: it copies its input",
        "  rewrote   fourth: it copies its input",
        "  declined  first: Mul is no Identity",
        "  declined  third: Add is no Identity",
        "  declined  fifth: Relu is no Identity",
        "scale: 2 rewrites, 0 declined",
        "  rewrote   w: it is there",
        "  rewrote   b: it is there",
    ]


def test_limit_applies_the_first_rewrites(graphopt: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    ran = graphopt("run", model, "-o", out, "-p", "drop_identity | scale(factor=9)", "--limit", 1)
    assert ops(out) == ["Mul", "Add", "Identity", "Relu"]
    assert "stopped by --limit after 1 rewrites" in ran.out
    assert recipe(out)["graphopt.limit"] == "1"


def test_json_to_stdout_is_nothing_but_json(graphopt: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    ran = graphopt("run", model, "-o", out, "-p", "drop_identity", "--json", "-")
    record = json.loads(ran.out)
    assert record["saved"]["path"] == str(out)
    assert record["steps"][0]["before"]["nodes"] == 5
    assert record["steps"][0]["after"]["nodes"] == 3
    assert record["steps"][0]["errors"][0]["equal"] is True


def test_the_report_and_the_dump_are_written(graphopt: Run, model: Path, tmp_path: Path) -> None:
    report, dump = tmp_path / "r.html", tmp_path / "dump"
    arguments = ("run", model, "-o", tmp_path / "o.onnx", "-p", "drop_identity | scale(factor=2)")
    ran = graphopt(*arguments, "--report", report, "--dump", dump, "--timing")
    assert ran.code == 0, ran.err
    assert "drop_identity" in report.read_text()
    assert len(list(dump.glob("*.onnx"))) == 3
    assert re.search(r"^ +[\d.]+ s  run$", ran.out, re.MULTILINE)


def test_a_dry_run_saves_nothing(graphopt: Run, model: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    ran = graphopt("run", model, "-p", "drop_identity", "--dry-run")
    assert ran.code == 0
    assert ran.out.endswith("nothing saved\n")
    assert sorted(tmp_path.iterdir()) == before


def test_saving_over_the_source_works(graphopt: Run, model: Path) -> None:
    assert graphopt("run", model, "-o", model, "-p", "drop_identity").code == 0
    assert ops(model) == ["Mul", "Add", "Relu"]


def test_weights_go_where_they_are_asked_to(graphopt: Run, tmp_path: Path) -> None:
    model = Path(__file__).parents[3] / "fixtures" / "digits_mlp.onnx"
    out = tmp_path / "deep" / "out.onnx"
    out.parent.mkdir()
    assert graphopt("run", model, "-o", out, "-p", "drop_identity", "--external-data").code == 0
    assert len(list(out.parent.iterdir())) == 2
    digest = hashlib.sha256(out.read_bytes())
    (data,) = [file for file in out.parent.iterdir() if file != out]
    digest.update(data.read_bytes())
    last = tmp_path / "last.onnx"
    assert graphopt("run", out, "-o", last, "-p", "drop_identity", "--inline-data").code == 0
    assert recipe(last)["graphopt.source_sha256"] == digest.hexdigest()


def test_data_of_another_model_that_are_still_read_are_named(graphopt: Run, tmp_path: Path) -> None:
    rows = np.ones((2, 1024), np.float32)
    text = (
        '<ir_version: 10, opset_import: ["": 20]> g (float[1024] x) => (float[1024] y)'
        "{ z = Identity(x) w0 = Add(z, a) y = Add(w0, b) }"
    )
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(row, name) for name, row in zip("ab", rows, strict=True)
    )
    onnx.save(proto, tmp_path / "in.onnx", save_as_external_data=True, location="in.onnx.data")
    (tmp_path / "other").mkdir()
    for out, noted in (("out.onnx", True), ("other/out.onnx", False)):
        ran = graphopt("run", "in.onnx", "-o", out, "-p", "drop_identity", "--external-data")
        assert ran.code == 0, ran.err
        assert ("out.onnx goes on reading in.onnx.data" in ran.err) is noted
        assert len(load(tmp_path / out).graph.initializers) == 2


def test_a_guard_rolls_back_and_the_recipe_holds_what_was_kept(
    graphopt: Run, model: Path, data: Path, tmp_path: Path
) -> None:
    out, again = tmp_path / "out.onnx", tmp_path / "again.onnx"
    pipeline = "scale(factor=-1) | drop_identity"
    arguments = ("-p", pipeline, "--data", data, "--guard-metric", "accuracy")
    ran = graphopt("run", model, "-o", out, *arguments, "--guard-max-drop", 0.05)
    assert ran.code == 0, ran.err
    assert "scale(factor=-1.0): rolled back: accuracy went from 1 to" in ran.out
    assert recipe(out)["graphopt.pipeline"] == "drop_identity"
    assert graphopt("run", model, "-o", again, "--recipe-from", out, "--data", data).code == 0
    assert again.read_bytes() == out.read_bytes()


USAGE = [
    (["-p", "drop_identity"], "there is no place for the result; give -o OUT"),
    (["-o", "o.onnx"], "there is no pipeline; give -p PIPELINE"),
    (["-o", "no/where/o.onnx", "-p", "scale"], "no/where/o.onnx: its folder does not exist"),
    (["-o", "o.onnx", "-p", "scale", "--report", "no/r.html"], "no/r.html: its folder does not"),
    (["-o", "o.onnx", "-p", "scale", "--json", "no/r.json"], "no/r.json: its folder does not"),
    (["-o", "o.onnx", "-p", "scal"], "there is no pass 'scal' (column 1); did you mean 'scale'?"),
    (["-o", "o.onnx", "-p", "scale", "--recipe-from", "x"], "--recipe-from says what runs"),
    (["-o", "o.onnx", "-p", "scale", "--guard-max-drop", "1"], "give --guard-metric"),
    (["-o", "o.onnx", "-p", "scale", "--guard-metric", "accuracy"], "needs labels"),
    (["-o", "o.onnx", "-p", "scale", "--data", "missing.npz"], "missing.npz"),
    (["-o", "o.onnx", "-p", "scale", "--pass", "missing:f"], "missing:f: cannot be imported"),
    (["-o", "o.onnx", "-p", "scale", "--dump", "in.onnx/x"], "in.onnx/x: cannot be made"),
    (["-o", "o.onnx", "-p", "scale", "--limit", "-1"], "--limit"),
]


@pytest.mark.parametrize(("arguments", "said"), USAGE)
def test_bad_usage_is_told_and_writes_nothing(
    graphopt: Run, model: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    ran = graphopt("run", model, *arguments)
    assert ran.code == 2
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("pipeline", ["boom", "false_scale(factor=2)", "scale(factor=nan)", "nope"])
def test_a_failure_leaves_what_stood_at_the_output(
    graphopt: Run, model: Path, tmp_path: Path, pipeline: str
) -> None:
    out = tmp_path / "out.onnx"
    out.write_bytes(b"what stood there")
    before = model.read_bytes()
    arguments = ("-p", pipeline, "--reproducer", tmp_path / "failures")
    assert graphopt("run", model, "-o", out, *arguments).code != 0
    assert out.read_bytes() == b"what stood there"
    assert model.read_bytes() == before


def test_a_model_that_never_ran_can_be_rewritten_without_checks(
    graphopt: Run, tmp_path: Path
) -> None:
    text = '<ir_version: 8, opset_import: ["": 17, "mars": 1]>\n'
    text += "g (float[2] x) => (float[2] y) { t = Identity(x) y = mars.Rover(t) }"
    save(ir.from_onnx_text(text), tmp_path / "mars.onnx")
    out = tmp_path / "out.onnx"
    ran = graphopt("run", tmp_path / "mars.onnx", "-o", out, "-p", "drop_identity")
    assert ran.code == 1
    assert f"{tmp_path / 'mars.onnx'}: the model does not run on ONNX Runtime" in ran.err
    assert ran.err.rstrip().endswith("--no-verify")
    assert ran.err.count("\n") == 1
    assert not out.exists()
    ran = graphopt("run", tmp_path / "mars.onnx", "-o", out, "-p", "drop_identity", "--no-verify")
    assert ran.code == 0, ran.err
    assert ops(out) == ["Rover"]


def test_a_provider_that_is_absent_is_not_the_models_fault(
    graphopt: Run, model: Path, tmp_path: Path
) -> None:
    arguments = ("-p", "scale", "--provider", "QNNExecutionProvider")
    ran = graphopt("run", model, "-o", tmp_path / "o.onnx", *arguments)
    assert ran.code != 0
    assert "QNNExecutionProvider is absent" in ran.err
    assert "does not run" not in ran.err
    assert not (tmp_path / "o.onnx").exists()


def test_a_file_that_is_no_model_is_one_line(graphopt: Run, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not a model")
    ran = graphopt("run", tmp_path / "text.onnx", "-o", tmp_path / "o.onnx", "-p", "scale")
    assert ran.code == 2
    assert ran.err.count("\n") == 1


def test_importing_graphopt_or_its_commands_loads_nothing_heavy() -> None:
    script = (
        "import sys, graphopt, graphopt.cli.main, graphopt.cli.run, graphopt.cli.passes,"
        " graphopt.cli.bisect\n"
        "heavy = {'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'torch', 'onnxscript', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "missing = [name for name in graphopt.__all__ if not hasattr(graphopt, name)]\n"
        "print(missing, sorted(graphopt.__all__) == sorted(graphopt._HOMES))\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n[] True\n"


def test_the_report_may_be_a_stream(graphopt: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    ran = graphopt("run", model, "-o", out, "-p", "drop_identity", "--report", "-")
    assert ran.code == 0, ran.err
    assert ran.out.lstrip().startswith("<!")
    assert ran.out.rstrip().endswith("</html>")
    assert not Path("-").exists()
    mixed = graphopt("run", model, "-o", out, "-p", "drop_identity", "--report", "-", "--json", "-")
    assert mixed.code == 2
    assert "--json - and --report - would mix on stdout" in mixed.err
