"""Operators that an opset lacks, written as ONNX defines them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from graphopt.convert import Options, convert
from graphopt.model import to_proto

_DTYPES = {"float": np.float32, "float16": np.float16, "bool": np.bool_, "int64": np.int64}
_HEADS = "float[b, 2, s, 8] q, float[b, 2, t, 8] k, float[b, 2, t, 8] v"
_GROUPED = "float[b, 4, s, 8] q, float[b, 2, t, 8] k, float[b, 2, t, 8] v"
_FLAT = "float[b, s, 32] q, float[b, t, 16] k, float[b, t, 16] v"
_PAST = "float[b, 2, 3, 8] pk, float[b, 2, 3, 8] pv"
_SIZES = {"b": 3, "n": 3, "s": 5, "t": 6}

# Since which opset, the node, its inputs, its outputs, and the opsets to write it in.
CASES = [
    (12, "Celu <alpha = 0.7>", "float[n, 4] x", "float[n, 4] y", (7, 11)),
    (10, "ThresholdedRelu <alpha = 0.3>", "float[n, 4] x", "float[n, 4] y", (7, 8, 9)),
    (22, "ThresholdedRelu <alpha = -0.3>", "float[n, 4] x", "float[n, 4] y", (7, 9)),
    (
        21, "GroupNormalization <num_groups = 2>",
        "float[n, 4, 3, 3] x, float[4] s, float[4] b", "float[n, 4, 3, 3] y", (7, 11, 17, 18),
    ),
    (
        18, "GroupNormalization <num_groups = 2>",
        "float[n, 4, 6] x, float[2] s, float[2] b", "float[n, 4, 6] y", (11, 17),
    ),
    (
        23, "RMSNormalization <epsilon = 0.01>", "float[n, s, 6] x, float[6] s1",
        "float[n, s, 6] y", (7, 13, 22),
    ),
    (
        23, "RMSNormalization <axis = 1>", "float16[n, 5, 6] x, float16[5, 6] s1",
        "float16[n, 5, 6] y", (13,),
    ),
    (
        17, "LayerNormalization", "float16[n, 5, 6] x, float16[6] s1", "float16[n, 5, 6] y", (13,),
    ),
    (
        17, "LayerNormalization", "float[n, 5, 6] x, float[6] s1",
        "float[n, 5, 6] y, float[n, 5, 1] mean, float[n, 5, 1] inverse", (9, 13),
    ),
    (13, "Softmax <axis = 1>", "float[n, 4, 6] x", "float[n, 4, 6] y", (7, 11, 12)),
    (13, "Clip", "float[n, 4] x, float low, float high", "float[n, 4] y", (9, 10)),
    (18, "ReduceL2", "float[n, 4] x, int64[1] last", "float[n, m] y", (13, 17)),
    (24, "Swish <alpha = 1.5>", "float[n, 4] x", "float[n, 4] y", (7, 23)),
    (
        23, "RotaryEmbedding", "float[b, 2, s, 8] x, float[b, s, 4] c, float[b, s, 4] d",
        "float[b, 2, s, 8] y", (9, 17),
    ),
    (9, "MeanVarianceNormalization", "float[n, 4, 3, 3] x", "float[n, 4, 3, 3] y", (7,)),
    (23, "Attention", _HEADS, "float[b, 2, s, 8] y", (11, 13, 17, 22)),
    (23, "Attention <is_causal = 1>", _HEADS, "float[b, 2, s, 8] y", (11, 17)),
    (23, "Attention <softcap = 2.0, scale = 0.2>", _HEADS, "float[b, 2, s, 8] y", (17,)),
    (23, "Attention", f"{_HEADS}, float[s, t] m", "float[b, 2, s, 8] y", (13, 17)),
    (23, "Attention", f"{_HEADS}, bool[s, t] m", "float[b, 2, s, 8] y", (17,)),
    (23, "Attention", _GROUPED, "float[b, 4, s, 8] y", (13, 17)),
    (
        23, "Attention <q_num_heads = 4, kv_num_heads = 2>", _FLAT, "float[b, s, 32] y", (13, 17),
    ),
    (
        24, "Attention <is_causal = 1>", f"{_HEADS}, float[b, 2, s, u] m, {_PAST}",
        "float[b, 2, s, 8] y, float[b, 2, u, 8] pk1, float[b, 2, u, 8] pv1", (17,),
    ),
]  # fmt: skip


def names(values: str) -> str:
    return ", ".join(re.findall(r"(\w+)(?:,|$)", re.sub(r"\[[^]]*\]", "", values)))


def made_up(inputs: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    feeds = {}
    for element, shape, name in re.findall(r"(\w+)(?:\[([^]]*)\])? (\w+)", inputs):
        dims = [dim.strip() for dim in shape.split(",") if dim]
        sizes = [int(dim) if dim.isdecimal() else {**_SIZES, "u": 9}[dim] for dim in dims]
        array = random.standard_normal(sizes)
        feeds[name] = np.asarray(array > 0 if element == "bool" else array, _DTYPES[element])
    feeds |= {"last": np.array([-1])} if "last" in feeds else {}
    return feeds | (
        {"low": np.array(-0.5, np.float32), "high": np.array(0.5, np.float32)}
        if "low" in feeds
        else {}
    )


@pytest.mark.parametrize(
    ("opset", "node", "inputs", "outputs", "target"),
    [(*case[:-1], target) for case in CASES for target in case[-1]],
)
def test_definition_computes_the_same(
    tmp_path: Path, opset: int, node: str, inputs: str, outputs: str, target: int
) -> None:
    head, attributes, _ = re.fullmatch(r"(\w+) ?(<.*>)?()", node).groups()  # type: ignore[union-attr] # all match
    text = f"""
    <ir_version: 8, opset_import: ["" : {opset}]>
    g ({inputs}) => ({outputs})
    {{ {names(outputs)} = {head} {attributes or ""} ({names(inputs)}) }}
    """
    path = tmp_path / "model.onnx"
    proto = onnx.parser.parse_model(text)
    onnx.save(proto, path)
    conversion = convert(str(path), options=Options(opset=target))
    assert head not in [part.op_type for part in conversion.model.graph]
    assert conversion.parity
    content = to_proto(conversion.model).SerializeToString()
    onnx.checker.check_model(content, full_check=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    feeds = made_up(inputs)
    rough = 4e-3 if "float16" in inputs else 2e-5
    wanted = ReferenceEvaluator(proto).run(None, feeds)
    for found, expected in zip(session.run(None, feeds), wanted, strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=rough, atol=rough)


IN_FUNCTION_AND_BODY = """
<ir_version: 10, opset_import: ["" : 24, "local" : 1]>
g (float[n, 4] x, float[4] s, bool flip) => (float[n, 4] y)
{
  y = If (flip) <
    then_branch = then () => (float[n, 4] a) { a = local.Twice (x) },
    else_branch = otherwise () => (float[n, 4] b) { m = RMSNormalization (x, s) b = Neg (m) }
  >
}
<domain: "local", opset_import: ["" : 24]>
Twice (x) => (y) { a = HardSwish (x) y = Mish (a) }
"""


def test_definitions_in_functions_and_bodies(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(IN_FUNCTION_AND_BODY), path)
    conversion = convert(str(path), options=Options(opset=12))
    content = to_proto(conversion.model).SerializeToString()
    onnx.checker.check_model(content, full_check=True)
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    for flip in (True, False):
        feeds = {"x": x, "s": np.arange(4, dtype=np.float32), "flip": np.array(flip)}
        before, after = (
            onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, feeds)
            for model in (path.read_bytes(), content)
        )
        np.testing.assert_allclose(after[0], before[0], rtol=1e-5, atol=1e-6)


def test_sizes_that_the_source_refuses_are_named(tmp_path: Path) -> None:
    """Axis 0 of the mask is no batch: cut to three rows it does not fit the queries."""
    path = tmp_path / "model.onnx"
    text = f"""
    <ir_version: 8, opset_import: ["" : 23]>
    g ({_HEADS}, float[s, t] m) => (float[b, 2, s, 8] y) {{ y = Attention (q, k, v, m) }}
    """
    onnx.save(onnx.parser.parse_model(text), path)
    conversion = convert(str(path), options=Options(opset=17))
    assert len(conversion.parity) == 1
    assert all(note.startswith("not compared at b=") for note in conversion.notes)
    assert len(conversion.notes) == 2


def test_thresholded_relu_of_infinities(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    text = """
    <ir_version: 8, opset_import: ["" : 10]>
    g (float[n] x) => (float[n] y) { y = ThresholdedRelu <alpha = -2.0> (x) }
    """
    onnx.save(onnx.parser.parse_model(text), path)
    content = to_proto(convert(str(path), options=Options(opset=7)).model).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    x = np.array([np.inf, -np.inf, -2, -1.5, 0, 3e38], np.float32)
    (y,) = session.run(None, {"x": x})
    np.testing.assert_array_equal(y, np.array([np.inf, 0, 0, -1.5, 0, 3e38], np.float32))


def test_definition_of_a_node_that_leaves_an_input_out(tmp_path: Path) -> None:
    """A cache without a mask, as decoders have it."""
    outputs = "float[b, 2, s, 8] y, float[b, 2, u, 8] pk1, float[b, 2, u, 8] pv1"
    text = f"""
    <ir_version: 8, opset_import: ["" : 23]>
    g ({_HEADS}, {_PAST}) => ({outputs})
    {{ y, pk1, pv1 = Attention <is_causal = 1> (q, k, v, , pk, pv) }}
    """
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    conversion = convert(str(path), options=Options(opset=17))
    assert {parity.output for parity in conversion.parity} == {"y", "pk1", "pv1"}
    assert dict(conversion.model.opset_imports) == {"": 17}
    content = to_proto(conversion.model).SerializeToString()
    onnx.checker.check_model(content, full_check=True)
    feeds = made_up(f"{_HEADS}, {_PAST}")
    before, after = (
        onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, feeds)
        for model in (path.read_bytes(), content)
    )
    for found, expected in zip(after, before, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
