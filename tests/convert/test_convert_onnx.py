from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from conftest import Ran

from graphopt.convert import Options, convert
from graphopt.convert.onnx import files as onnx_files
from graphopt.errors import CheckFailed, GraphoptError
from graphopt.model import load, to_proto
from graphopt.model.lossless import differences

FIXTURE = Path(__file__).parents[2] / "fixtures" / "digits_mlp.onnx"

EVERYDAY = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[batch, 3, 8] x) => (float[batch, 2, 1] y, int64[batch] size)
<int64[1] last = {-1}, int64[1] first = {0}, int64[1] two = {2}, int64[2] halves = {4, 4},
 float low = {0}, float high = {6}, int64[6] around = {0, 0, 1, 0, 0, 1}, int64[1] rows = {3}>
{
  padded = Pad (x, around)
  clipped = Clip (padded, low, high)
  cut = Slice (clipped, two, rows, two)
  mean = ReduceMean <keepdims = 1> (clipped, last)
  soft = Softmax <axis = -1> (clipped)
  left, right = Split <axis = 2, num_outputs = 2> (x)
  total = ReduceSum <keepdims = 1> (left, last)
  flat = Squeeze (total, last)
  wide = Unsqueeze (flat, last)
  one = Add (wide, mean)
  most = ReduceMax <keepdims = 1> (soft, last)
  sum = Mul (one, most)
  best, place = TopK <axis = 1> (sum, halfway)
  halfway = Constant <value_ints = [2]> ()
  y = Identity (best)
  batch = Shape <start = 0, end = 1> (x)
  size = Expand (rows, batch)
}
"""
EVERYDAY = EVERYDAY.replace(
    "  best, place = TopK <axis = 1> (sum, halfway)\n  halfway = Constant <value_ints = [2]> ()\n",
    "  halfway = Constant <value_ints = [2]> ()\n  best, place = TopK <axis = 1> (sum, halfway)\n",
)

FUNCTION_AND_BODY = """
<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
g (float[batch, 4] x, bool flip) => (float[batch, 1] y)
{
  y = If (flip) <
    then_branch = then () => (float[batch, 1] a) { a = local.Total (x) },
    else_branch = otherwise () => (float[batch, 1] b)
      <int64[1] axes = {1}> { n = Neg (x) b = ReduceMax (n, axes) }
  >
}
<domain: "local", opset_import: ["" : 21]>
Total (x) => (y) { axes = Constant <value_ints = [1]> () y = ReduceMean (x, axes) }
"""


def saved(text: str, path: Path) -> Path:
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def run(model: ir.Model | Path, **feeds: np.ndarray) -> list[np.ndarray]:
    content = (
        to_proto(model).SerializeToString() if isinstance(model, ir.Model) else model.read_bytes()
    )
    onnx.checker.check_model(content, full_check=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


@pytest.mark.parametrize("opset", [11, 12, 13, 14, 17, 18, 20, 22, 25])
def test_any_opset_computes_the_same(tmp_path: Path, opset: int) -> None:
    path = saved(EVERYDAY, tmp_path / "model.onnx")
    conversion = convert(str(path), options=Options(opset=opset))
    assert conversion.model.opset_imports[""] == opset
    assert {parity.output for parity in conversion.parity} == {"y", "size"}
    assert {parity.sizes["batch"] for parity in conversion.parity} == {1, 3, 4}
    for batch in (1, 3, 7):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 8)).astype(np.float32)
        for array, expected in zip(run(conversion.model, x=x), run(path, x=x), strict=True):
            np.testing.assert_allclose(array, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("opset", [7, 9, 13, 17, 26])
def test_real_network_at_any_opset(opset: int) -> None:
    conversion = convert(str(FIXTURE), options=Options(opset=opset))
    onnx.checker.check_model(to_proto(conversion.model), full_check=True)
    assert conversion.model.opset_imports[""] == opset
    assert max(parity.max_abs for parity in conversion.parity) == 0


def test_functions_and_bodies_are_lowered_too(tmp_path: Path) -> None:
    path = saved(FUNCTION_AND_BODY, tmp_path / "model.onnx")
    conversion = convert(str(path), options=Options(opset=15))
    model = conversion.model
    assert [function.opset_imports[""] for function in model.functions.values()] == [15]
    assert model.ir_version == 8
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    for flip in (True, False):
        feeds = {"x": x, "flip": np.array(flip)}
        np.testing.assert_array_equal(run(model, **feeds)[0], run(path, **feeds)[0])


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


LATE = """
<ir_version: 9, opset_import: ["" : 20]>
g (float[batch, 4] x) => (float[batch, 4] y, int64[batch, 4] z)
<float[4] scale = {1, 2, 3, 4}, float[4] bias = {1, 0, 0, 1}, int64 whole = {1}>
{
  n = LayerNormalization <axis = -1, epsilon = 0.01> (x, scale, bias)
  a = Gelu (n)
  b = Gelu <approximate = "tanh"> (a)
  c = HardSwish (b)
  y = Mish (c)
  z = CastLike (n, whole)
}
"""


@pytest.mark.parametrize("opset", [9, 13, 16, 17, 19])
def test_operators_that_came_late_are_written_as_their_parts(tmp_path: Path, opset: int) -> None:
    path = saved(LATE, tmp_path / "model.onnx")
    conversion = convert(str(path), options=Options(opset=opset))
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    for array, expected in zip(run(conversion.model, x=x), run(path, x=x), strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-5)


REFUSED = [
    (
        "float[n, 4] x, int64[n, 4] i", "float[n, 4] y", "y = GatherElements (x, i)", 13, 9,
        r"GatherElements '.*' of opset 13 cannot be written in opset 9: the operator came",
    ),
    (
        "float[n, 4] x, int64[1] axes", "float[] y", "y = ReduceMean <keepdims = 0> (x, axes)",
        18, 17, "its axes are computed, and had to be an attribute",
    ),
    (
        "float[n, 4] x", "float[n, 4] y", "y = Shrink (x)", 9, 8,
        r"Shrink '.*', by its part Where, of opset 9 cannot be written in opset 8: the operator",
    ),
    (
        "float[n, 4] x", "float8e4m3fn[n, 4] y", "y = Cast <to = 17> (x)", 19, 13,
        "it did not take tensor",
    ),
    (
        "float[n, 4] x, int64[2] s", "float[a, b] y", "y = Reshape <allowzero = 1> (x, s)", 14, 13,
        "a 0 in it came to mean no elements",
    ),
    (
        "float[2, 4] x, float[4] b", "float[2, 4] y", "y = Max (x, b)", 8, 7,
        "its operands may differ in shape, and it did not broadcast",
    ),
    (
        "float[2, 4] x, float[4] b", "float[2, 4] y", "y = Add (x, b)", 7, 6,
        "it broadcast in another way",
    ),
    (
        "float[n, 4] x", "float[n, 6] y",
        "p = Constant <value = int64[4] {0, 1, 0, 1}> () y = Pad <mode = \"wrap\"> (x, p)",
        19, 18, "its mode 'wrap' came later",
    ),
    (
        "float[1, 1, 4, 4] x", "float[a, b, c, d] y",
        "y = Scale <scale = 2.0> (x)", 8, 9,
        r"Scale '.*' was an experimental operator of ONNX, given up: scale\*x; Mul says it",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "outputs", "body", "opset", "target", "message"), REFUSED)
def test_what_a_version_cannot_say_is_refused_by_name(
    tmp_path: Path, inputs: str, outputs: str, body: str, opset: int, target: int, message: str
) -> None:
    text = f'<ir_version: 9, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}'
    path = saved(text, tmp_path / "model.onnx")
    with pytest.raises(GraphoptError, match=message) as error:
        convert(str(path), options=Options(opset=target))
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("operator", "opset", "message"),
    [
        ("ImageScaler", 8, "ImageScaler 'y' was an experimental operator of ONNX"),
        ("Upsample", 11, "Upsample 'y' was removed from ONNX in opset 10, where Resize took"),
        ("Mish", 13, "Mish 'y' came to ONNX with opset 18, and the model is written in opset 13"),
        ("Frobnicate", 13, "Frobnicate 'y' is no operator of ONNX, in any version known here"),
    ],
)
def test_operators_that_are_none_are_explained(
    tmp_path: Path, operator: str, opset: int, message: str
) -> None:
    text = (
        f'<ir_version: 7, opset_import: ["" : {opset}]>'
        f" g (float[n, 4] x) => (float[n, 4] y) {{ y = {operator} (x) }}"
    )
    path = saved(text, tmp_path / "model.onnx")
    with pytest.raises(GraphoptError, match="takes neither the source nor") as error:
        convert(str(path))
    assert message in str(error.value)
    assert str(error.value).startswith(str(path))
    assert error.value.exit_code == 2


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


def test_external_data_and_back(graphopt: Callable[..., Ran], tmp_path: Path) -> None:
    out, back = tmp_path / "out.onnx", tmp_path / "back.onnx"
    assert graphopt("convert", str(FIXTURE), "-o", str(out), "--external-data").code == 0
    assert (tmp_path / "out.onnx.data").stat().st_size > 10_000 > out.stat().st_size
    assert graphopt("convert", str(out), "-o", str(back), "--no-external-data").code == 0
    x = np.random.default_rng(0).random((3, 1, 8, 8), dtype=np.float32)
    np.testing.assert_array_equal(run(back, image=x)[0], run(FIXTURE, image=x)[0])


def test_text_and_back(graphopt: Callable[..., Ran], tmp_path: Path) -> None:
    text, back = tmp_path / "model.onnxtxt", tmp_path / "back.onnx"
    done = graphopt("convert", str(FIXTURE), "-o", str(text))
    assert done.code == 0
    assert text.read_text().startswith("<")
    assert graphopt("convert", str(text), "-o", str(back)).code == 0
    x = np.random.default_rng(0).random((3, 1, 8, 8), dtype=np.float32)
    np.testing.assert_array_equal(run(back, image=x)[0], run(FIXTURE, image=x)[0])
    again = tmp_path / "again.onnxtxt"
    assert graphopt("convert", str(back), "-o", str(again)).code == 0
    assert again.read_bytes() == text.read_bytes()


def test_text_that_is_none_or_too_large(
    graphopt: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "model.onnxtxt"
    text.write_text('<ir_version: 8, opset_import: ["" : 17]>\ng (float[n] x) => (float[n] y) {')
    with pytest.raises(GraphoptError, match="is no model in ONNX's text syntax"):
        convert(str(text))
    text.write_text("<ir_version: 8>" + "(" * 100_000)
    with pytest.raises(GraphoptError, match="nest too deep"):
        convert(str(text))
    from graphopt.convert.onnx import text as onnx_text

    monkeypatch.setattr(onnx_text, "_MAX_WEIGHT_BYTES", 100)
    done = graphopt("convert", str(FIXTURE), "-o", str(text))
    assert done.code == 2
    assert "bytes of weights, more than the 100 that fit in a text" in done.err
    monkeypatch.setattr(onnx_text, "MAX_TEXT_BYTES", 100)
    with pytest.raises(GraphoptError, match="bytes of text, more than the 100"):
        convert(str(text))


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_model_in_an_archive(tmp_path: Path) -> None:
    content = FIXTURE.read_bytes()
    one = archive(tmp_path / "one.zip", **{"a/model.onnx": content, "README": b"hello"})
    assert convert(str(one)).parity
    two = archive(tmp_path / "two.zip", **{"a/x.onnx": content, "y.onnx": content})
    with pytest.raises(GraphoptError, match=r"holds 2 ONNX models \(a/x\.onnx, y\.onnx\)"):
        convert(str(two))
    assert convert(f"{two}:a/x.onnx").parity
    with pytest.raises(GraphoptError, match=r"has no 'z\.onnx'; it holds a/x\.onnx, y\.onnx"):
        convert(f"{two}:z.onnx")
    none = archive(tmp_path / "none.zip", README=b"hello")
    with pytest.raises(GraphoptError, match="holds 0 ONNX models"):
        convert(str(none), framework="onnx")


def test_archive_with_external_data(tmp_path: Path) -> None:
    model = onnx.load(FIXTURE)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data",
              size_threshold=0)  # fmt: skip
    members = {f"deep/{name}": (tmp_path / name).read_bytes() for name in ("m.onnx", "m.data")}
    whole = archive(tmp_path / "whole.zip", **members)
    assert convert(str(whole)).parity
    del members["deep/m.data"]
    with pytest.raises(GraphoptError, match=r"m\.data"):
        convert(str(archive(tmp_path / "part.zip", **members)))


@pytest.mark.parametrize("location", ["../outside.data", "/etc/hostname", "a/../../x"])
def test_archive_reaches_nothing_outside(tmp_path: Path, location: str) -> None:
    proto = onnx.load(FIXTURE)
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path = archive(
        tmp_path / "evil.zip",
        **{"a/b/m.onnx": proto.SerializeToString(), "a/outside.data": b"x" * 100_000},
    )
    with pytest.raises(GraphoptError, match=r"evil\.zip:a/b/m\.onnx"):
        convert(str(path))


def test_archive_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "bomb.zip", **{"m.onnx": b"\0" * (4 << 20)})
    monkeypatch.setattr(onnx_files, "MAX_UNPACKED_BYTES", 1 << 20)
    with pytest.raises(GraphoptError, match=r"m\.onnx unpacks to 4194304 bytes"):
        convert(str(path), framework="onnx")


def test_files_that_are_no_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(FIXTURE.read_bytes()[:1000])
    with pytest.raises(GraphoptError, match="is no whole ONNX model"):
        convert(str(path))
    zipped = archive(tmp_path / "m.zip", **{"m.onnx": FIXTURE.read_bytes()})
    zipped.write_bytes(zipped.read_bytes()[:-30])
    with pytest.raises(GraphoptError, match=r"m\.zip"):
        convert(str(zipped), framework="onnx")


def test_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    path = saved(EVERYDAY, tmp_path / "model.onnx")
    first, second = (
        to_proto(convert(str(path), options=Options(opset=13)).model).SerializeToString(
            deterministic=True
        )
        for _ in range(2)
    )
    assert first == second
