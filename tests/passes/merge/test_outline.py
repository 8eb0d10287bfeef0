from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from before_after import (
    Array,
    apply,
    assert_equal_outputs,
    check,
    model_of,
    text_of,
    unchanged,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import GraphoptError
from graphopt.model import load, scopes
from graphopt.pipeline.contract import Context, Rewrite
from graphopt.pipeline.manager import run
from graphopt.runtime.session import Session
from graphopt.runtime.synthetic import synthetic_feeds
from passes.merge.inline import Inline
from passes.merge.outline import Outline

ROOT = Path(__file__).resolve().parents[3]
SHARED = ROOT.parent / "shared" / "models"


def outline(model: ir.Model, **parameters: Any):  # type: ignore[no-untyped-def] # what a rule returns
    return Outline(**parameters).rewrites(model, Context())


def operators(model: ir.Model) -> Counter[tuple[str, ...]]:
    nodes = (node for scope in scopes(model) for node in scope.graph)
    return Counter(
        (node.domain, node.op_type, *sorted(f"{n}={a.value}" for n, a in node.attributes.items()))
        for node in nodes
        if not any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values())
    )


def round_trip(
    text: str, feeds: dict[str, Array] | None = None, **parameters: Any
) -> tuple[ir.Model, list[Rewrite]]:
    """Outline, run, inline, run; return the outlined model and what was done."""
    model, original = model_of(text), model_of(text)
    said = apply(lambda it: outline(it, **parameters), model)
    before, outlined = ir.to_proto(original), ir.to_proto(model)
    onnx.checker.check_model(outlined, full_check=True)
    assert_equal_outputs(before, outlined, feeds, rtol=0)
    back = ir.from_proto(outlined)
    apply(lambda it: Inline().rewrites(it, Context()), back)
    inlined = ir.to_proto(back)
    onnx.checker.check_model(inlined, full_check=True)
    assert_equal_outputs(before, inlined, feeds, rtol=0)
    if not original.functions:
        assert operators(back) == operators(original)
        assert not back.functions
    return model, [step for step in said if isinstance(step, Rewrite)]


LAYERS = """g (float[N,2] x) => (float[N,2] y)
<float[2,2] w0 = {1.0, 2.0, 3.0, 4.0}, float[2,2] w1 = {0.1, 0.2, 0.3, 0.4},
 float[2] b = {0.5, 0.5}> {
  start = Neg(x)
  h0 = MatMul(start, w0)\n s0 = Add(h0, b)\n r0 = Relu(s0)\n a0 = Add(r0, start)
  h1 = MatMul(a0, w1)\n s1 = Add(h1, b)\n r1 = Relu(s1)\n a1 = Add(r1, a0)
  y = Exp(a1)
}"""


def test_layers_become_calls_of_one_function_with_their_weights_as_inputs() -> None:
    said = check(
        outline,
        LAYERS,
        """<ir_version: 8, opset_import: ["" : 17, "graphopt.outlined" : 1]>
        g (float[N,2] x) => (float[N,2] y)
        <float[2,2] w0 = {1.0, 2.0, 3.0, 4.0}, float[2,2] w1 = {0.1, 0.2, 0.3, 0.4},
         float[2] b = {0.5, 0.5}> {
          start = Neg(x)
          a0 = graphopt.outlined.MatMul_Add_Relu(start, w0, b)
          a1 = graphopt.outlined.MatMul_Add_Relu(a0, w1, b)
          y = Exp(a1)
        }
        <domain: "graphopt.outlined", opset_import: ["" : 17]>
        MatMul_Add_Relu (start, w0, b) => (a0)
          { h0 = MatMul(start, w0)\n s0 = Add(h0, b)\n r0 = Relu(s0)\n a0 = Add(r0, start) }
        """,
    )
    (step,) = said
    assert step.details["occurrences"] == 2
    assert (step.details["nodes_before"], step.details["nodes_after"]) == (8, 6)
    assert step.details["bytes_before"] == 140  # of nodes with names of one letter
    assert step.details["bytes_after"] == 284


def test_it_comes_back() -> None:
    round_trip(LAYERS)


def test_functions_are_named_after_what_tells_layers_apart() -> None:
    model = model_of(LAYERS)
    for node in model.graph:
        layer = node.outputs[0].name[-1]
        if layer.isdigit():
            node.name = f"/encoder/layer.{layer}/{node.op_type}_{node.outputs[0].name[0]}"
    apply(outline, model)
    assert list(model.functions) == [("graphopt.outlined", "layer", "")]
    names = [node.name for node in model.graph]
    assert names[1:3] == ["/encoder/layer.0", "/encoder/layer.1"]
    assert [n.name for n in model.functions["graphopt.outlined", "layer", ""]] == [
        *("MatMul_h", "Add_s", "Relu_r", "Add_a")
    ]
    apply(lambda it: Inline().rewrites(it, Context()), model)
    assert model.graph.node(1).name == "/encoder/layer.0/MatMul_h"


def test_functions_are_not_called_like_operators() -> None:
    calls = "\n".join(
        f"s{i} = Sub(v{i}, v{i})\n p{i} = Sub(s{i}, s{i})\n v{i + 1} = Sub(p{i}, v{i})"
        for i in range(5)
    )
    faces = ", ".join(f"float[N] p{i}" for i in (0, 1, 2, 4))
    text = f"g (float[N] x) => (float[N] y, {faces}) {{ v0 = Abs(x)\n{calls}\n y = Atan(v5) }}"
    model, _ = round_trip(text, {"x": np.array([0.1, -0.2, 0.3], np.float32)}, nodes=2)
    assert [name for _, name, _ in model.functions] == ["Sub_block"]
    model = model_of(LAYERS)
    for node in model.graph:
        if node.outputs[0].name[-1].isdigit():
            node.name = f"/Attention.{node.outputs[0].name[-1]}/{node.op_type}"
    apply(outline, model)
    assert [name for _, name, _ in model.functions] == ["Attention_block"]


def test_a_second_run_finds_nothing() -> None:
    model = model_of(LAYERS)
    apply(outline, model)
    once = text_of(model)
    assert apply(outline, model) == []
    assert text_of(model) == once


def test_short_or_single_blocks_stay() -> None:
    assert unchanged(lambda it: outline(it, nodes=5), LAYERS) == []


def test_branches_whose_nodes_stand_between_each_other_are_found() -> None:
    steps = ["Exp({})", "Neg({})", "Sin({})", "Cos({})", "Tanh({})", "Relu({})"]
    lines, last = [], ["x", "z", "u"]
    for place, step in enumerate(steps):
        for branch in range(3):
            name = f"v{branch}_{place}"
            lines.append(f"{name} = {step.format(last[branch])}")
            last[branch] = name
    text = (
        "g (float[N] x, float[N] z, float[N] u) => (float[N] y) {"
        + "\n".join(lines)
        + f"\n y = Sum({', '.join(last)})}}"
    )
    model, (step,) = round_trip(text)
    assert step.details["occurrences"] == 3
    assert len(model.graph) == 4


def test_attributes_that_differ_become_parameters() -> None:
    text = """g (float[N,4] x) => (float[N,4] y) {
      a0 = LeakyRelu<alpha = 0.1>(x)\n b0 = Softmax<axis = 1>(a0)\n c0 = Exp(b0)\n d0 = Neg(c0)
      a1 = LeakyRelu<alpha = 0.2>(d0)\n b1 = Softmax<axis = 1>(a1)\n c1 = Exp(b1)\n d1 = Neg(c1)
      y = Identity(d1)
    }"""
    model, _ = round_trip(text)
    (function,) = model.functions.values()
    assert list(function.attributes) == ["alpha"]
    assert [node.attributes["alpha"].value for node in model.graph if node.attributes] == [
        pytest.approx(0.1),
        pytest.approx(0.2),
    ]
    assert "axis = 1" in onnx.printer.to_text(ir.to_proto(model)).replace("axis: int", "axis")


def test_constant_nodes_go_inside_where_they_are_equal_and_own() -> None:
    text = """g (float[N,4] x) => (float[N,4] y) {
      k = Constant<value = float {3.0}>()
      h0 = Constant<value = float {0.5}>()\n o0 = Constant<value = float {1.0}>()
      a0 = Mul(x, h0)\n b0 = Add(a0, o0)\n c0 = Exp(b0)\n d0 = Div(c0, k)\n e0 = Neg(d0)
      h1 = Constant<value = float {0.5}>()\n o1 = Constant<value = float {2.0}>()
      a1 = Mul(e0, h1)\n b1 = Add(a1, o1)\n c1 = Exp(b1)\n d1 = Div(c1, k)\n e1 = Neg(d1)
      y = Identity(e1)
    }"""
    model, _ = round_trip(text)
    (function,) = model.functions.values()
    assert [node.op_type for node in function] == ["Constant", "Mul", "Add", "Exp", "Div", "Neg"]
    assert [value.name for value in function.inputs] == ["x", "o0", "k"]


def test_inner_values_may_be_outputs_of_the_graph_or_be_read_elsewhere() -> None:
    text = """g (float[N,4] x) => (float[N,4] y, float[N,4] b0, float[N,4] c1) {
      a0 = Exp(x)\n b0 = Neg(a0)\n c0 = Sin(b0)\n e0 = Tanh(c0)\n f0 = Abs(e0)\n d0 = Cos(f0)
      a1 = Exp(d0)\n b1 = Neg(a1)\n c1 = Sin(b1)\n e1 = Tanh(c1)\n f1 = Abs(e1)\n d1 = Cos(f1)
      y = Add(d1, a1)
    }"""
    model, (step,) = round_trip(text)
    (function,) = model.functions.values()
    assert len(function.outputs) == 4
    assert step.details["nodes_after"] == 8


def test_optional_inputs_and_several_outputs() -> None:
    text = """g (float[N,4] x) => (float[N,4] y) <float h = {0.5}, int64[2] s = {2, 2}> {
      a0 = Clip(x, , h)\n p0, q0 = Split<axis = 1>(a0, s)\n c0 = Concat<axis = 1>(q0, p0)
      d0 = Neg(c0)\n a1 = Clip(d0, , h)\n p1, q1 = Split<axis = 1>(a1, s)
      c1 = Concat<axis = 1>(q1, p1)\n d1 = Neg(c1)\n y = Exp(d1)
    }"""
    model, _ = round_trip(text)
    assert [node.op_type for node in model.graph] == [*["Clip_Split_Concat"] * 2, "Exp"]


BODIES = """g (float[N] x, bool c, int64 n) => (float[N] y) <float w = {0.5}, float v = {0.25}> {
  e0 = Exp(x)
  i0 = If(c) <then_branch = t0 () => (float[N] p0) { q0 = Mul(e0, w)\n p0 = Neg(q0) },
              else_branch = f0 () => (float[N] r0) { r0 = Sin(x) }>
  l0 = Loop(n, , i0) <body = b0 (int64 j0, bool k0, float[N] s0) => (bool o0, float[N] u0)
       { o0 = Identity(k0)\n u0 = Mul(s0, w) }>
  t0 = Tanh(l0)
  e1 = Exp(t0)
  i1 = If(c) <then_branch = t1 () => (float[N] p1) { q1 = Mul(e1, v)\n p1 = Neg(q1) },
              else_branch = f1 () => (float[N] r1) { r1 = Sin(t0) }>
  l1 = Loop(n, , i1) <body = b1 (int64 j1, bool k1, float[N] s1) => (bool o1, float[N] u1)
       { o1 = Identity(k1)\n u1 = Mul(s1, v) }>
  t1 = Tanh(l1)
  y = Neg(t1)
}"""


@pytest.mark.parametrize("flag", [True, False])
def test_bodies_and_what_they_capture(flag: bool) -> None:
    feeds = {
        "x": np.array([1.0, -2.0], np.float32),
        "c": np.array(flag),
        "n": np.array(3, np.int64),
    }
    model, (step,) = round_trip(BODIES, feeds)
    assert step.details["occurrences"] == 2
    (function,) = model.functions.values()
    assert [node.op_type for node in function] == ["Exp", "If", "Loop", "Tanh"]
    assert [node.op_type for node in model.graph] == ["Exp_If_Loop", "Exp_If_Loop", "Neg"]


def test_blocks_inside_bodies_and_outside() -> None:
    block = "a{0} = Exp({1})\n b{0} = Neg(a{0})\n c{0} = Sin(b{0})\n d{0} = Add(c{0}, {1})\n"
    text = (
        "g (float[N] x, bool c) => (float[N] y) {"
        + block.format(0, "x")
        + " i = If(c) <then_branch = t () => (float[N] d1) {"
        + block.format(1, "d0")
        + "}, else_branch = e () => (float[N] d2) {"
        + block.format(2, "x")
        + "}>\n y = Neg(i) }"
    )
    model, (step,) = round_trip(text, {"x": np.ones(2, np.float32), "c": np.array(True)})
    assert step.details["occurrences"] == 3
    assert len(list(model.graph.all_nodes())) == 5


def layered(members: int, layers: int) -> str:
    lines, outputs = [], []
    for m in range(members):
        last = "x"
        lines.append(f"s{m} = Sqrt(x)")
        for k in range(layers):
            i = f"{m}_{k}"
            lines.append(f"a{i} = Exp({last})\n b{i} = Neg(a{i})\n c{i} = Sin(b{i})")
            lines.append(f"d{i} = Mul(c{i}, s{m})\n e{i} = Add(d{i}, {last})")
            last = f"e{i}"
        lines.append(f"f{m} = Tanh({last})\n t{m} = Cos(f{m})\n z{m} = Relu(t{m})")
        outputs.append(f"z{m}")
    lines.append(f"y = Sum({', '.join(outputs)})")
    return "g (float[N] x) => (float[N] y) {" + "\n".join(lines) + "}"


def test_members_are_made_of_layers_as_deep_as_is_asked_for() -> None:
    nested, rewrites = round_trip(layered(4, 3))
    flat, _ = round_trip(layered(4, 3), depth=1)
    calls = [{n.domain for n in function} for function in nested.functions.values()]
    assert {"graphopt.outlined", ""} in calls
    assert len(rewrites) == len(nested.functions) == 2
    assert all(n.domain == "" for function in flat.functions.values() for n in function)


def test_what_a_function_is_given_is_passed_on() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17, "m" : 1]>
    g (float[N] x) => (float[N] y) { y = m.f<alpha = 0.3>(x) }
    <domain: "m", opset_import: ["" : 17]> f<alpha>(x) => (y) {
      a0 = LeakyRelu<alpha: float = @alpha>(x)\n b0 = Exp(a0)\n c0 = Sin(b0)\n d0 = Neg(c0)
      a1 = LeakyRelu<alpha: float = @alpha>(d0)\n b1 = Exp(a1)\n c1 = Sin(b1)\n y = Neg(c1)
    }"""
    model, _ = round_trip(text)
    assert [node.op_type for node in model.functions["m", "f", ""]] == ["LeakyRelu_Exp_Sin"] * 2


def test_weights_that_had_to_be_inputs_stay_fixed() -> None:
    text = '<ir_version: 3, opset_import: ["" : 8]>\n' + LAYERS.replace(
        "(float[N,2] x)", "(float[N,2] x, float[2,2] w0, float[2,2] w1, float[2] b)"
    ).replace("<float[2,2] w0", "<float[2,2] w0", 1)
    model, _ = round_trip(text)
    assert model.ir_version == 8
    assert [value.name for value in model.graph.inputs] == ["x"]


def test_functions_that_call_themselves_are_declined() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17, "m" : 1]>
    g (float[N] x) => (float[N] y) { y = m.f(x) }
    <domain: "m", opset_import: ["" : 17, "m" : 1]> f (x) => (y) { y = m.f(x) }"""
    (declined,) = unchanged(outline, text)
    assert "call themselves" in declined.why


@pytest.mark.parametrize("parameters", [{"nodes": 1}, {"depth": 0}, {"nodes": True}])
def test_parameters_are_checked(parameters: dict[str, Any]) -> None:
    with pytest.raises(GraphoptError, match="must be a whole number from"):
        Outline(**parameters)


UNARY = ("Exp", "Neg", "Sin", "Tanh", "Relu")


@settings(max_examples=100)
@given(
    block=st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=8
    ),
    order=st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=5),
)
def test_random_blocks_in_random_wiring_keep_their_outputs(
    block: list[tuple[int, int, int]], order: list[tuple[int, bool]]
) -> None:
    lines, made, outputs = ["v = Abs(x)"], ["x", "v"], ["y"]
    for copy, (source, is_output) in enumerate(order):
        own = [made[source % len(made)], made[-1]]
        for place, (op, first, second) in enumerate(block):
            name = f"n{copy}_{place}"
            left, right = own[first % len(own)], own[second % len(own)]
            call = f"{UNARY[op % 5]}({left})" if op < 7 else f"Sub({left}, {right})"
            lines.append(f"{name} = {call}")
            own.append(name)
        made += own[2:]
        if is_output:
            outputs.append(own[-2])
    lines.append(f"y = Atan({made[-1]})")
    faces = ", ".join(f"float[N] {name}" for name in dict.fromkeys(outputs) if name not in "xv")
    text = f"g (float[N] x) => ({faces}) {{" + "\n".join(lines) + "}"
    round_trip(text, {"x": np.array([0.1, -0.2, 0.3], np.float32)}, nodes=2)


@pytest.mark.parametrize(("name", "least"), [("cifar10_resnet20", 30), ("cifar10_resnet32", 50)])
def test_residual_networks(name: str, least: int) -> None:
    path = SHARED / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    real_round_trip(load(path), least)


@pytest.mark.parametrize("members", [2, 5])
def test_ensembles_of_members_of_one_architecture(members: int) -> None:
    import graphopt

    rng = np.random.default_rng(0)
    parts = {}
    for index in range(members):
        part = load(ROOT / "fixtures" / "digits_cnn.onnx")
        for value in part.graph.initializers.values():
            array = value.const_value.numpy()
            if array.dtype == np.float32:
                value.const_value = ir.Tensor(array + rng.normal(0, 0.01, array.shape).astype("f4"))
        parts[f"m{index}"] = part
    model = graphopt.ensemble(f"mean({', '.join(parts)})", parts)
    real_round_trip(model, 1)


def real_round_trip(model: ir.Model, least: int) -> None:
    result = run(model, [Outline()])
    again = run(model, [Outline()])
    assert ir.to_proto(result.model).SerializeToString() == (
        ir.to_proto(again.model).SerializeToString()
    )
    saved = sum(
        int(str(note.details["nodes_before"])) - int(str(note.details["nodes_after"]))
        for note in result.steps[0].rewrites
    )
    assert saved >= least
    back = run(result.model, [Inline()]).model
    assert operators(back) == operators(model)
    batch = next(synthetic_feeds(model).batches(2))
    want = Session(model, threads=1).run(batch)
    for other in (result.model, back):
        got = Session(other, threads=1).run(batch)
        for name, array in want.items():
            np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-6)
