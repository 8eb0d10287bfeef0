from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from graphopt.errors import GraphoptError
from graphopt.model import to_proto
from graphopt.rewrite.constants import opset
from graphopt.rewrite.opset_changes import RULES
from graphopt.rewrite.opsets import NEWEST, is_below, raise_opset

Array = npt.NDArray[Any]
TARGETS = (11, 13, 18, 21)


def parsed(text: str, version: int, ir_version: int = 3) -> ir.Model:
    header = f'<ir_version: {ir_version}, opset_import: ["" : {version}, "local" : 1]>\n'
    return ir.from_onnx_text(header + text)


def run(model: ir.Model, feeds: Mapping[str, Array]) -> list[Array]:
    ort.set_default_logger_severity(4)
    session = ort.InferenceSession(
        to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, dict(feeds)))


def grid(*shape: int) -> Array:
    size = int(np.prod(shape))
    return (np.sin(np.arange(size) * 1.7) * 3).astype(np.float32).reshape(shape)


CHANGES: dict[str, tuple[int, str, tuple[int, ...]]] = {
    "softmax in the middle": (7, "y = Softmax<axis=1>(x)", (2, 3, 4)),
    "softmax by default": (9, "y = Softmax(x)", (2, 3, 4)),
    "softmax at the end": (11, "y = Softmax<axis=2>(x)", (2, 3, 4)),
    "log softmax of all": (11, "y = LogSoftmax<axis=0>(x)", (2, 3, 4)),
    "hardmax": (11, "y = Hardmax<axis=1>(x)", (2, 3, 4)),
    "clip": (7, "y = Clip<min=-1.0, max=1.5>(x)", (2, 3)),
    "clip above": (9, "y = Clip<max=0.5>(x)", (2, 3)),
    "clip not at all": (9, "y = Clip(x)", (2, 3)),
    "pad": (7, "y = Pad<pads=[0,1,0,2], value=2.5>(x)", (2, 3)),
    "reflect": (9, 'y = Pad<mode="reflect", pads=[0,1,0,2]>(x)', (2, 3)),
    "slice": (8, "y = Slice<axes=[1], starts=[1], ends=[-1]>(x)", (2, 5)),
    "slice all": (8, "y = Slice<starts=[0,1], ends=[2,3]>(x)", (2, 5)),
    "split": (7, "a, b = Split<axis=1, split=[1,2]>(x)  y = Sub(b, a)", (2, 3)),
    "split evenly": (7, "a, b = Split<axis=1>(x)  y = Sub(b, a)", (2, 4)),
    "top": (9, "y, i = TopK<axis=1, k=2>(x)", (2, 5)),
    "squeeze": (11, "y = Squeeze<axes=[0]>(x)", (1, 5)),
    "squeeze all": (11, "y = Squeeze(x)", (1, 5)),
    "unsqueeze": (9, "y = Unsqueeze<axes=[0,2]>(x)", (3, 2)),
    "sum": (11, "y = ReduceSum<axes=[1], keepdims=0>(x)", (3, 2)),
    "mean": (9, "y = ReduceMean<axes=[0], keepdims=1>(x)", (3, 2)),
    "mean of all": (9, "y = ReduceMean(x)", (3, 2)),
    "largest": (12, "y = ReduceMax<axes=[1]>(x)", (3, 2)),
    "dropout": (7, "y = Dropout<ratio=0.25>(x)", (3, 2)),
    "enlarge near": (7, 'y = Upsample<mode="nearest", scales=[1.0,1.0,2.0,1.5]>(x)', (1, 2, 3, 4)),
    "enlarge linear": (8, 'y = Upsample<mode="linear", scales=[1.0,1.0,2.0,1.5]>(x)', (1, 2, 3, 4)),
    "resize up": (
        10,
        "s = Constant<value = float[4] {1.0,1.0,2.5,2.0}>()  y = Resize(x, s)",
        (1, 2, 3, 4),
    ),
    "resize down": (
        10,
        "s = Constant<value = float[4] {1.0,1.0,0.6,0.6}>()  y = Resize(x, s)",
        (1, 1, 5, 7),
    ),
    "resize linear": (
        10,
        's = Constant<value = float[4] {1.0,1.0,0.6,2.0}>()  y = Resize<mode="linear">(x, s)',
        (1, 1, 5, 7),
    ),
    "bilinear": (
        16,
        "z = Constant<value = float[1,1,2,2] {-0.5,0.2,0.3,0.9}>()"
        '  y = GridSample<mode="bilinear">(x, z)',
        (1, 1, 4, 4),
    ),
    "rois": (
        10,
        "r = Constant<value = float[1,4] {0.0,0.0,3.0,3.0}>()"
        "  b = Constant<value = int64[1] {0}>()"
        "  y = RoiAlign<output_height=2, output_width=2>(x, r, b)",
        (1, 1, 5, 5),
    ),
    "recurrent": (
        7,
        "w = Constant<value = float[1,3,2] {0.1,0.2,0.3,0.4,0.5,0.6}>()"
        "  r = Constant<value = float[1,3,3] {0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9}>()"
        "  y = RNN<hidden_size=3>(x, w, r)",
        (4, 1, 2),
    ),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CHANGES)
def test_computes_the_same_in_every_version(case: str, target: int) -> None:
    source, body, shape = CHANGES[case]
    if source >= target:
        pytest.skip("written in that version already")
    text = f"m (float[{','.join(map(str, shape))}] x) => (float y) {{ {body} }}"
    model = parsed(text, source)
    feeds = {"x": grid(*shape)}
    before = run(model, feeds)
    model.graph.outputs[0].shape = ir.Shape(before[0].shape)
    raise_opset(model, target)
    assert opset(model) == target
    onnx.checker.check_model(to_proto(model), full_check=True)
    assert [value.name for value in model.graph.outputs] == ["y"]
    np.testing.assert_array_equal(before[0], run(model, feeds)[0])


def test_hardmax_and_softmax_of_the_specification() -> None:
    text = "m (float[2,3,4] x) => (float[2,3,4] y, float[2,3,4] z) {{ {} }}".format(
        "y = Hardmax(x)  z = Softmax(x)"
    )
    model = parsed(text, 11)
    feeds = {"x": grid(2, 3, 4)}
    raise_opset(model, 13)
    found = ReferenceEvaluator(to_proto(model)).run(None, feeds)
    flat = feeds["x"].reshape(2, 12)
    hard = (flat == flat.max(axis=1, keepdims=True)).astype(np.float32)
    soft = np.exp(flat) / np.exp(flat).sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(found[0].reshape(2, 12), hard)
    np.testing.assert_allclose(found[1].reshape(2, 12), soft, rtol=1e-6)


def test_group_normalization_gets_a_scale_per_channel() -> None:
    text = """m (float[2,6,3] x) => (float[2,6,3] y) {
      s = Constant<value = float[2] {2.0, 3.0}>()
      b = Constant<value = float[2] {0.5, -1.0}>()
      y = GroupNormalization<num_groups=2>(x, s, b)
    }"""
    model = parsed(text, 18, 8)
    feeds = {"x": grid(2, 6, 3)}
    groups = feeds["x"].reshape(2, 2, 9)
    mean, var = groups.mean(axis=2, keepdims=True), groups.var(axis=2, keepdims=True)
    scale, bias = np.array([2.0, 3.0])[:, None], np.array([0.5, -1.0])[:, None]
    expected = ((groups - mean) / np.sqrt(var + 1e-5) * scale + bias).reshape(2, 6, 3)
    raise_opset(model, 21)
    np.testing.assert_allclose(run(model, feeds)[0], expected, atol=1e-5)


def test_bodies_and_functions_are_raised_with_their_graph() -> None:
    text = """m (bool c, float[2,3] x) => (float[2,3] y) {
      t = local.f(x)
      y = If(c) <
        then_branch = g () => (float[2,3] u) { u = Clip<min=0.0>(t) },
        else_branch = h () => (float[2,3] v) { v = Softmax<axis=0>(t) }
      >
    }
    <opset_import: ["" : 9], domain: "local">
    f (a) => (b) { s = ReduceSum<axes=[1]>(a)  b = Sub(a, s) }"""
    model = parsed(text, 9, 8)
    feeds = {"c": np.array(False), "x": grid(2, 3)}
    before = [run(model, {**feeds, "c": np.array(way)})[0] for way in (False, True)]
    raise_opset(model, 21)
    (function,) = model.functions.values()
    assert function.opset_imports[""] == 21
    after = [run(model, {**feeds, "c": np.array(way)})[0] for way in (False, True)]
    np.testing.assert_array_equal(before, after)


def test_a_function_does_not_know_the_rank_of_what_it_is_called_with() -> None:
    text = """m (float[2,3,4] x) => (float[2,3,4] y) { y = local.f(x) }
    <opset_import: ["" : 11], domain: "local">
    f (a) => (b) { b = Softmax<axis=1>(a) }"""
    model = parsed(text, 11, 8)
    before = run(model, {"x": grid(2, 3, 4)})
    raise_opset(model, 13)
    np.testing.assert_array_equal(before[0], run(model, {"x": grid(2, 3, 4)})[0])


def test_weights_of_old_files_stay_fixed() -> None:
    text = "m (float[2,3] x, float[3,2] w) => (float[2,2] y) { y = MatMul(x, w) }"
    model = parsed(text, 7)
    weight = ir.tensor(grid(3, 2), name="w")
    value = model.graph.inputs[1]
    value.const_value = weight
    model.graph.register_initializer(value)
    raise_opset(model, 13)
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert model.graph.initializers["w"].const_value is weight
    assert model.ir_version == 7
    assert opset(model) == 13


def test_a_model_that_is_there_stays_as_it_is() -> None:
    model = parsed("m (float[2,3] x) => (float[2,3] y) { y = Relu(x) }", 17, 8)
    before = to_proto(model).SerializeToString()
    assert not is_below(model, 13)
    raise_opset(model, 13)
    assert to_proto(model).SerializeToString() == before


REFUSED = {
    "a mask that is read": (
        9,
        "m (float[2,3] x) => (float[2,3] y, float[2,3] n) { y, n = Dropout(x) }",
        "its mask is read",
    ),
    "a batch of scans": (
        8,
        """m (float[1,2] a, float[1,3,2] x) => (float[1,2] y, float[1,3,2] z) {
        y, z = Scan<num_scan_inputs=1, body = b (float[2] s, float[2] e) => (float[2] t, float[2] f)
          { t = Add(s, e)  f = Identity(t) }>(, a, x) }""",
        "batch axis",
    ),
    "places apart": (
        7,
        "m (float[2,3] x, float[3] s) => (float[2,3] y)"
        " { y = BatchNormalization<spatial=0>(x, s, s, s, s) }",
        "spatial=0",
    ),
    "unknown scales": (
        10,
        "m (float[2,3] x, float[2] s) => (float[a,b] y) { y = Resize(x, s) }",
        "its scales are computed",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_equal_is_refused_and_nothing_is_edited(case: str) -> None:
    source, text, why = REFUSED[case]
    model = parsed(text, source)
    before = to_proto(model).SerializeToString()
    with pytest.raises(
        GraphoptError, match=f"opset {source} cannot be written in opset 21: .*{why}"
    ):
        raise_opset(model, 21)
    assert to_proto(model).SerializeToString() == before


def test_versions_out_of_reach() -> None:
    model = parsed("m (float[2,3] x) => (float[2,3] y) { y = Relu(x) }", 13, 8)
    with pytest.raises(GraphoptError, match="opset 999 is not one of"):
        raise_opset(model, 999)


def test_what_takes_the_place_of_a_node_says_what_it_said() -> None:
    model = parsed("m (float[2,3,4] x) => (float[2,3,4] y) { t = Softmax(x)  y = Relu(t) }", 11)
    softmax = next(iter(model.graph))
    softmax.doc_string = "scores to weights"
    softmax.metadata_props["source"] = "attention.py:12"
    softmax.outputs[0].doc_string = "weights"
    softmax.outputs[0].metadata_props["unit"] = "1"
    raise_opset(model, 13)
    *written, relu = to_proto(model).graph.node
    assert [node.op_type for node in written] == ["Shape", "Flatten", "Softmax", "Reshape"]
    for node in written:
        assert node.doc_string == "scores to weights"
        assert {e.key: e.value for e in node.metadata_props} == {"source": "attention.py:12"}
    assert not relu.doc_string
    assert not relu.metadata_props
    (weights,) = (info for info in to_proto(model).graph.value_info if info.name == "t")
    assert weights.doc_string == "weights"
    assert {e.key: e.value for e in weights.metadata_props} == {"unit": "1"}


def test_a_graph_output_keeps_what_it_says() -> None:
    model = parsed("m (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax(x) }", 11)
    model.graph.outputs[0].doc_string = "weights"
    raise_opset(model, 13)
    (output,) = to_proto(model).graph.output
    assert (output.name, output.doc_string) == ("y", "weights")


def test_a_node_that_is_edited_in_place_and_what_prepares_its_inputs_say_the_same() -> None:
    text = """m (float[2,6,3] x, float[2] s) => (float[2,6,3] y) {
      y = GroupNormalization<num_groups=2>(x, s, s)
    }"""
    model = parsed(text, 18, 8)
    (node,) = model.graph
    node.doc_string, node.metadata_props["source"] = "norm", "block.py:3"
    raise_opset(model, 21)
    assert len(model.graph) > 1
    assert {n.doc_string for n in model.graph} == {"norm"}
    assert [n.metadata_props for n in model.graph] == [{"source": "block.py:3"}] * len(model.graph)


def test_defaults_that_changed_are_written_down() -> None:
    model = parsed("m (float[2,3] x) => (float[2,3] y) { y = Selu<alpha=1.5>(x) }", 5)
    raise_opset(model, 13)
    (selu,) = model.graph
    assert selu.attributes["alpha"].value == 1.5
    assert selu.attributes["gamma"].value == pytest.approx(1.0507, abs=1e-7)


def test_rules_cover_all_that_an_operator_lost() -> None:
    """What the changelog took away or changed has a rule, or is refused where a node has it."""
    refused = {"Cast", "GRU", "GlobalLpPool", "LSTM", "LpPool", "RNN", "Tile"}
    versions: dict[str, list[onnx.defs.OpSchema]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version <= NEWEST:
            versions.setdefault(schema.name, []).append(schema)
    for name, schemas in versions.items():
        schemas.sort(key=lambda schema: schema.since_version)
        for old, new in pairwise(schemas):
            if name not in RULES and name not in refused:
                assert not _losses(old, new), (name, new.since_version)


def _losses(old: onnx.defs.OpSchema, new: onnx.defs.OpSchema) -> list[str]:
    lost = ["the operator"] if new.deprecated and not old.deprecated else []
    if new.min_input > old.min_input or new.max_input < old.max_input:
        lost.append("the number of inputs")
    for name, was in old.attributes.items():
        now = new.attributes.get(name)
        if name == "consumed_inputs":
            continue
        if now is None or now.type != was.type or now.default_value != was.default_value:
            lost.append(name)
    return lost
