from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from command_line import Ran
from onnx_texts import EVERYDAY, FIXTURE, run, saved

from graphopt.convert import Options, convert
from graphopt.errors import CheckFailed, GraphoptError
from graphopt.model import load, to_proto
from graphopt.model.lossless import differences


def test_graph_stays_as_it_is_unless_cleanup_is_asked_for(tmp_path: Path) -> None:
    path = saved(EVERYDAY, tmp_path / "model.onnx")
    same = convert(str(path))
    assert list(differences(onnx.load(path), to_proto(load(path)))) == list(
        differences(onnx.load(path), to_proto(same.model))
    )
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert [node.op_type for node in same.model.graph] == operators
    cleaned = convert(str(path), options=Options(cleanup=True))
    assert len(list(cleaned.model.graph)) < len(list(same.model.graph))


OLD_BATCH_NORMALIZATION = """
<ir_version: 3, opset_import: ["" : {opset}]>
g (float[n, 2, 3] x, float[2] s, float[2] b, float[2] m, float[2] v) => (float[n, 2, 3] y)
{{ y = BatchNormalization <consumed_inputs = [0, 0, 0, 1, 1], is_test = 1> (x, s, b, m, v) }}
"""


def test_what_is_not_compared_never_looks_proven(
    graphopt: Callable[..., Ran], tmp_path: Path
) -> None:
    """Neither ONNX Runtime nor the reference evaluator has the first BatchNormalization."""
    path = saved(OLD_BATCH_NORMALIZATION.format(opset=5), tmp_path / "old.onnx")
    out, report = tmp_path / "out.onnx", tmp_path / "report.json"
    done = graphopt("convert", str(path), "-o", str(out), "--opset", "15", "--json", str(report))
    assert done.code == 0
    assert "not proven, nothing was compared: ONNX Runtime does not take the source" in done.err
    assert "NOT PROVEN" in done.out
    assert "max abs error" not in done.out
    assert json.loads(report.read_text())["proven"] is False
    x, ones = np.ones((2, 2, 3), np.float32), np.ones(2, np.float32)
    (y,) = run(out, x=3 * x, s=ones, b=ones, m=ones, v=ones)
    np.testing.assert_allclose(y, 3 * x, rtol=1e-4)


def test_result_that_does_not_load_is_not_written(
    graphopt: Callable[..., Ran], tmp_path: Path
) -> None:
    path = saved(OLD_BATCH_NORMALIZATION.format(opset=6), tmp_path / "wrong.onnx")
    out = tmp_path / "out.onnx"
    out.write_bytes(b"before")
    done = graphopt("convert", str(path), "-o", str(out), "--opset", "15")
    assert done.code == 2
    assert "takes neither the source nor the converted model" in done.err
    assert len(done.err.splitlines()) == 1
    assert out.read_bytes() == b"before"


def test_result_that_the_checker_refuses_is_not_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from graphopt.convert import onnx as source

    def wrong(model: ir.Model, version: int, name: str) -> None:
        model.ir_version = 1

    monkeypatch.setattr(source, "to_opset", wrong)
    with pytest.raises(CheckFailed, match=r"onnx\.checker refuses the converted model: .*version"):
        convert(str(FIXTURE), options=Options(opset=20))


def test_operators_of_others_are_carried_over_and_not_called_proven(tmp_path: Path) -> None:
    text = """
    <ir_version: 9, opset_import: ["" : 18, "my.own" : 1]>
    g (float[n, 4] x) => (float[n, 4] y) { a = my.own.Twist (x) y = Relu (a) }
    """
    path = saved(text, tmp_path / "model.onnx")
    conversion = convert(str(path), options=Options(opset=17))
    assert conversion.parity == ()
    assert conversion.notes == (
        "not proven, nothing was compared: ONNX Runtime has no operator my.own.Twist; the library"
        " that brings it has to be loaded there",
    )


def test_source_that_is_newer_than_the_runtime_is_compared(tmp_path: Path) -> None:
    """ONNX Runtime is a few opsets behind; what evaluates the newest is ONNX itself."""
    newest = onnx.defs.onnx_opset_version()
    text = f"""
    <ir_version: 10, opset_import: ["" : {newest}]>
    g (float[n, 4] x) => (float[n, 4] y) {{ y = Relu (x) }}
    """
    path = saved(text, tmp_path / "model.onnx")
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail):
        run(path, x=np.zeros((1, 4), np.float32))
    conversion = convert(str(path), options=Options(opset=13))
    assert {parity.sizes["n"] for parity in conversion.parity} == {1, 3, 4}
    assert conversion.notes[0].startswith("compared with ONNX's reference evaluator: ONNX Runtime")


def test_sequences_are_compared(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[n, 4] x) => (seq(float[n, 2]) y)
    { y = SplitToSequence <axis = 1, keepdims = 1> (x, two) }
    """.replace("{ y", "<int64 two = {2}> { y")
    conversion = convert(str(saved(text, tmp_path / "model.onnx")), options=Options(opset=13))
    assert {parity.output for parity in conversion.parity} == {"y"}
    text = (
        '<ir_version: 8, opset_import: ["" : 17]>'
        " g (seq(float[n]) x) => (int64 y) { y = SequenceLength (x) }"
    )
    conversion = convert(str(saved(text, tmp_path / "other.onnx")))
    assert conversion.parity == ()
    assert "nothing can be made up" in conversion.notes[0]


def test_difference_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = saved(EVERYDAY, tmp_path / "model.onnx")

    from graphopt.convert import onnx as source

    def wrong(model: ir.Model, version: int, name: str) -> None:
        node = next(node for node in model.graph if node.op_type == "ReduceMean")
        node.op_type = "ReduceMin"

    monkeypatch.setattr(source, "to_opset", wrong)
    with pytest.raises(
        CheckFailed,
        match=r"output y at batch=4 of the converted model differs from the source's by",
    ):
        convert(str(path), options=Options(opset=21))


def test_data_names_and_options_that_mean_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, image=np.zeros((5, 1, 8, 8), np.float32))
    conversion = convert(
        str(FIXTURE),
        options=Options(data=str(data), input_names=("pixels",), output_names=("scores",)),
    )
    assert [value.name for value in conversion.model.graph.inputs] == ["pixels"]
    assert {parity.output for parity in conversion.parity} == {"scores"}
    np.savez(data, other=np.zeros((5, 1, 8, 8), np.float32))
    with pytest.raises(GraphoptError, match="other"):
        convert(str(FIXTURE), options=Options(data=str(data)))
    with pytest.raises(GraphoptError, match="--layout says nothing of a source that is ONNX"):
        convert(str(FIXTURE), options=Options(layout="nchw"))
    with pytest.raises(GraphoptError, match="opset 99 is not one of 1 to"):
        convert(str(FIXTURE), options=Options(opset=99))


def test_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    path = saved(EVERYDAY, tmp_path / "model.onnx")
    first, second = (
        to_proto(convert(str(path), options=Options(opset=13)).model).SerializeToString(
            deterministic=True
        )
        for _ in range(2)
    )
    assert first == second
