from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from command_line import Ran

from graphopt.convert import finishing
from graphopt.convert.export import TARGETS, export
from graphopt.convert.export.contract import Order, Written
from graphopt.errors import CheckFailed, GraphoptError

FIXTURE = Path(__file__).parents[2] / "fixtures" / "digits_mlp.onnx"
TWO_INPUTS = """
<ir_version: 8, opset_import: ["" : 17]>
g (int64[batch, length] tokens, bool[batch, length] mask)
    => (float[batch, length, 2] states, int64[batch] count)
<float[3, 2] table = {1.5, 2, 3, 4, 5, 6}, int64[1] one = {1}, int64[1] two = {2}>
{
  rows = Gather (table, tokens)
  held = Cast <to = 1> (mask)
  column = Unsqueeze (held, two)
  states = Mul (rows, column)
  whole = Cast <to = 7> (mask)
  count = ReduceSum <keepdims = 0> (whole, one)
}
"""
EXTRAS = {
    "torch": "torch",
    "tensorflow": "tensorflow-export",
    "tflite": "tflite-export",
    "openvino": "openvino",
}
UNKNOWN = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[batch, 4, 4] x) => (float[batch] y) { y = Det (x) }
"""


def saved(text: str, path: Path) -> Path:
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def test_openvino_computes_what_onnx_runtime_computes(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    done = export(str(FIXTURE), tmp_path / "out", "openvino")
    assert [path.name for path in done.files] == ["digits_mlp.xml", "digits_mlp.bin"]
    assert [list(parity.sizes.values()) for parity in done.parity] == [[4], [3], [1]]
    assert all(parity.max_abs <= parity.bound for parity in done.parity)
    model = openvino.Core().read_model(str(done.files[0]))
    assert [value.any_name for value in (*model.inputs, *model.outputs)] == ["image", "logits"]
    x = np.random.default_rng(0).random((7, 1, 8, 8), dtype=np.float32)
    (expected,) = onnxruntime.InferenceSession(FIXTURE).run(None, {"image": x})
    # Left alone, it computes in bfloat16 on processors that have it, as the note says.
    assert "INFERENCE_PRECISION_HINT" in done.notes[0]
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    found = openvino.Core().compile_model(model, "CPU", hint)({"image": x})["logits"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


FUNCTION = """
<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
g (float[batch, 3] x, float scale) => (float[batch, 3] y) { y = own.Scaled (x, scale) }
<domain: "own", opset_import: ["" : 17]>
Scaled (a, b) => (c) { c = Mul (a, b) }
"""


def test_openvino_takes_functions_and_single_numbers(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    done = export(str(saved(FUNCTION, tmp_path / "function.onnx")), tmp_path / "out", "openvino")
    assert [parity.max_abs for parity in done.parity] == [0, 0, 0]


def test_two_inputs_two_outputs_and_their_dtypes(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    done = export(str(saved(TWO_INPUTS, tmp_path / "two.onnx")), tmp_path / "out", "openvino")
    assert {parity.output for parity in done.parity} == {"states", "count"}
    assert {parity.max_abs for parity in done.parity} == {0.0}


def test_command_shows_files_and_proof(graphopt: Callable[..., Ran], tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    report = tmp_path / "report.json"
    done = graphopt(
        "export", str(FIXTURE), "-o", str(tmp_path / "out"), "--to", "openvino",
        "--json", str(report),
    )  # fmt: skip
    assert done.code == 0
    assert "INFERENCE_PRECISION_HINT" in done.err
    assert "digits_mlp.xml" in done.out
    assert "logits" in done.out
    content = json.loads(report.read_text())
    assert content["target"] == "openvino"
    assert all(Path(path).exists() for path in content["files"])


def test_what_differs_is_not_written_and_what_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OffByOne:
        NOTES = ()
        BATCHES = (4,)

        @staticmethod
        def write(order: Order) -> Written:
            (order.folder / f"{order.name}.xml").write_text("wrong")
            session = onnxruntime.InferenceSession(order.source)
            return Written(lambda batch: [out + 1 for out in session.run(None, dict(batch))])

    from graphopt.convert.export import targets

    monkeypatch.setattr(targets.importlib, "import_module", lambda name: OffByOne)
    out = tmp_path / "out"
    out.mkdir()
    (out / "digits_mlp.xml").write_text("before")
    with pytest.raises(
        CheckFailed, match=r"digits_mlp\.onnx: output logits .* differs from ONNX Runtime's by 1"
    ):
        export(str(FIXTURE), out, "openvino")
    assert (out / "digits_mlp.xml").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_folder_in_the_place_of_a_file_stays(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "out" / "digits_mlp.xml").mkdir(parents=True)
    with pytest.raises(GraphoptError, match=r"digits_mlp\.xml: is a folder"):
        export(str(FIXTURE), tmp_path / "out", "openvino")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["digits_mlp.xml"]


@pytest.mark.parametrize("option", ["--atol", "--rtol"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_tolerances_that_allow_anything(
    option: str, value: str, graphopt: Callable[..., Ran], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = graphopt("export", str(FIXTURE), "-o", str(out), "--to", "openvino", option, value)
    assert done.code == 2
    assert option in done.err
    assert not out.exists()


def test_model_that_the_library_does_not_take(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = saved(UNKNOWN, tmp_path / "unknown.onnx")
    with pytest.raises(GraphoptError, match=r"unknown\.onnx: OpenVINO does not take it") as error:
        export(str(path), tmp_path / "out", "openvino")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.convert.export import targets

    def refused(*args: object, **settings: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / ".out.temporary"))

    monkeypatch.setattr(targets.tempfile, "mkdtemp", refused)
    with pytest.raises(GraphoptError) as error:
        export(str(FIXTURE), tmp_path / "out", "openvino")
    text = f"{tmp_path / 'out'}: cannot be written: Permission denied; choose a folder"
    assert str(error.value).startswith(text)


def test_bad_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("before")
    with pytest.raises(GraphoptError, match="no target is called 'caffe'; choose from torch"):
        export(str(FIXTURE), tmp_path / "out", "caffe")
    with pytest.raises(GraphoptError, match="is no directory"):
        export(str(FIXTURE), file, "openvino")
    with pytest.raises(GraphoptError, match="does not exist; create it first"):
        export(str(FIXTURE), tmp_path / "absent" / "out", "openvino")
    with pytest.raises(GraphoptError, match="is a text file, not an ONNX model"):
        export(str(file), tmp_path / "out", "openvino")
    monkeypatch.setattr(finishing.importlib.util, "find_spec", lambda name: None)
    for target, extra in EXTRAS.items():
        with pytest.raises(GraphoptError, match=rf'pip install "graphopt\[{extra}\]"'):
            export(str(FIXTURE), tmp_path / "out", target)
    assert sorted(EXTRAS) == sorted(TARGETS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
