from __future__ import annotations

import onnx_ir as ir
import pytest

from graphopt.rewrite.constants import array, constant, integers, scalar
from graphopt.rewrite.names import Names
from graphopt.rewrite.uses import can_replace, is_unused, only_user, remove, replace

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


def model_of(text: str) -> ir.Model:
    return ir.from_onnx_text(HEADER + text)


def values(model: ir.Model) -> dict[str | None, ir.Value]:
    found = {value.name: value for value in model.graph.inputs}
    found |= dict(model.graph.initializers.items())
    for node in model.graph.all_nodes():
        found |= {output.name: output for output in node.outputs}
    return found


def test_an_output_keeps_name_type_and_shape() -> None:
    model = model_of("g (float[N] x) => (float[K] y) { a = Exp(x)\n y = Identity(a)\n b = Neg(a) }")
    known = values(model)
    replace(known["y"], known["a"])
    remove(model.graph[1])
    (output,) = model.graph.outputs
    assert output is known["a"]
    assert output.name == "y"
    assert output.shape == ir.Shape(["K"])
    assert model.graph[1].inputs[0] is output


def test_what_cannot_carry_the_name_gets_an_identity() -> None:
    model = model_of("g (float[N] x) => (float[N] y) { a = Exp(x)\n y = Neg(a) }")
    known = values(model)
    assert not can_replace(known["y"], known["x"])
    replace(known["y"], known["x"])
    remove(known["y"].producer() or model.graph[0])
    assert [(node.op_type, node.outputs[0].name) for node in model.graph] == [("Identity", "y")]


def test_a_value_that_is_an_output_twice() -> None:
    model = model_of("g (float[N] x) => (float[N] y) { a = Exp(x)\n y = Identity(a) }")
    known = values(model)
    model.graph.outputs.append(known["y"])
    replace(known["y"], known["a"])
    assert [value is known["a"] for value in model.graph.outputs] == [True, True]


def test_removal_frees_captured_values_but_not_inputs() -> None:
    model = model_of(
        """g (float[N] x, bool c) => (float[N] y) <float[1] w = {1}> {
          a = Mul(x, w)
          b = If(c) <
            then_branch = t () => (float[N] p) { p = Neg(a) },
            else_branch = e () => (float[N] r) { r = Identity(a) }
          >
          y = Neg(x)
        }"""
    )
    remove(model.graph[1])
    assert [node.op_type for node in model.graph] == ["Neg"]
    assert list(model.graph.initializers) == []
    assert len(model.graph.inputs) == 2


def test_a_node_that_is_read_is_not_removed() -> None:
    model = model_of("g (float[N] x) => (float[N] y) { a = Exp(x)\n y = Neg(a) }")
    with pytest.raises(ValueError, match="still read"):
        remove(model.graph[0])
    with pytest.raises(ValueError, match="still read"):
        remove(model.graph[1])
    assert len(model.graph) == 2


def test_users() -> None:
    model = model_of(
        "g (float[N] x) => (float[N] y) { a = Exp(x)\n b = Add(a, a)\n d = Neg(b)\n y = Neg(b) }"
    )
    known = values(model)
    assert only_user(known["x"]) is model.graph[0]
    assert only_user(known["a"]) is None
    assert only_user(known["b"]) is None
    assert is_unused(known["d"])
    assert not is_unused(known["y"])


def test_constants_of_every_kind() -> None:
    known = values(
        model_of(
            """g (float[2] x, float[2] default = {1, 2}) => (float[2] y) <float[2] w = {3, 4}> {
              i = Constant<value_int = 7>()
              l = Constant<value_ints = [1, -1]>()
              f = Constant<value_float = 0.5>()
              t = Constant<value = int32[2] {5, 6}>()
              s = Constant<value_strings = ["a", "b"]>()
              y = Add(x, w)
            }"""
        )
    )
    assert integers(known["i"]) == (7,)
    assert integers(known["l"]) == (1, -1)
    assert integers(known["t"]) == (5, 6)
    assert integers(known["t"], at_most=1) is None
    assert integers(known["f"]) is None
    assert scalar(known["f"]) == 0.5
    assert scalar(known["l"]) is None
    assert scalar(known["s"]) is None
    strings = constant(known["s"])
    assert strings is not None
    assert strings.dtype == ir.DataType.STRING
    contents = array(known["w"])
    assert contents is not None
    assert contents.tolist() == [3, 4]
    assert constant(known["default"]) is None
    assert constant(known["x"]) is None
    assert constant(None) is None


def test_fresh_names_are_free_in_every_scope() -> None:
    model = model_of(
        """g (float[N] x, bool c) => (float[N] y) {
          y = If(c) <
            then_branch = t () => (float[N] p) { q = Exp(x)\n p = Neg(q) },
            else_branch = e () => (float[N] r) { q = Neg(x)\n r = Neg(q) }
          >
        }"""
    )
    names = Names.of(model)
    assert names is Names.of(model)
    assert names.fresh("q") == "q_1"
    assert names.fresh("q") == "q_2"
    assert names.fresh("new") == "new"
    assert names.is_ambiguous("q")
    assert not names.is_ambiguous("p")
    Names.forget(model)
    assert Names.of(model) is not names
