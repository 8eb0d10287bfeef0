from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.model import load
from graphopt.rewrite.dims import declared_dims
from graphopt.rewrite.shapes import Shapes

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


def known(text: str) -> tuple[Shapes, dict[str | None, ir.Value]]:
    model = ir.from_onnx_text(HEADER + text)
    found = {value.name: value for value in model.graph.inputs}
    found |= dict(model.graph.initializers.items())
    for node in model.graph.all_nodes():
        found |= {output.name: output for output in node.outputs}
    return Shapes.of(model), found


def test_shapes_types_and_sizes_are_inferred_with_symbols() -> None:
    shapes, value = known(
        """g (float[N,4,6] x) => (double[K] y) <int64 first = {0}, int64 second = {1},
          int64[1] axis = {0}, int64[2] rest = {-1, 6}> {
          a = Exp(x)
          s = Shape(a)
          n = Gather<axis = 0>(s, first)
          f = Gather<axis = 0>(s, second)
          m = Unsqueeze(n, axis)
          t = Concat<axis = 0>(m, rest)
          b = Reshape(x, t)
          y = Cast<to = 11>(b)
        }"""
    )
    assert shapes.failure is None
    assert shapes.shape(value["a"]) == ("N", 4, 6)
    assert shapes.static_shape(value["a"]) is None
    assert shapes.static_shape(value["s"]) == (3,)
    assert shapes.elements(value["s"]) == ("N", 4, 6)
    assert shapes.elements(value["n"]) == ("N",)
    assert shapes.elements(value["f"]) == (4,)
    assert shapes.elements(value["t"]) == ("N", -1, 6)
    assert shapes.rank(value["b"]) == 3
    assert shapes.dtype(value["y"]) == ir.DataType.DOUBLE
    assert shapes.same_shape(value["a"], value["x"])
    assert shapes.shape(None) is None


def test_claims_inside_a_model_are_not_believed() -> None:
    model = ir.from_onnx_text(
        HEADER + "g (float[N,4] x) => (float[N,9] y) { a = Exp(x)\n y = Exp(a) }"
    )
    model.graph[0].outputs[0].shape = ir.Shape([7, 7])
    shapes = Shapes(model)
    assert shapes.shape(model.graph[0].outputs[0]) == ("N", 4)
    assert shapes.shape(model.graph.outputs[0]) == ("N", 4)
    assert model.graph[0].outputs[0].shape == ir.Shape([7, 7])


def test_placeholders_for_unknown_sizes_are_not_equal() -> None:
    assert declared_dims(ir.Shape(["?", 3, "None", -1, "N"])) == (None, 3, None, None, "N")
    assert declared_dims(ir.Shape(["d", "d", "N"])) == (None, None, "N")
    assert declared_dims(None) is None


def test_bodies_are_inferred_with_what_surrounds_them() -> None:
    shapes, value = known(
        """g (float[N,4] x, bool c) => (float[K,L] y) {
          a = Exp(x)
          y = If(c) <
            then_branch = t () => (float[K,L] p) { q = Neg(a)\n p = Transpose(q) },
            else_branch = e () => (float[K,L] r) { q = Transpose(a)\n r = Neg(q) }
          >
        }"""
    )
    assert shapes.shape(value["p"]) == (4, "N")
    assert shapes.shape(value["r"]) == (4, "N")


def test_equal_names_in_two_bodies_are_two_values() -> None:
    model = ir.from_onnx_text(
        HEADER
        + """g (float[N,4] x, bool c) => (float[K,L] y) {
          y = If(c) <
            then_branch = t () => (float[K,L] p) { q = Neg(x)\n p = Exp(q) },
            else_branch = e () => (float[K,L] r) { q = Transpose(x)\n r = Transpose(q) }
          >
        }"""
    )
    shapes = Shapes(model)
    found = [
        shapes.shape(node.outputs[0])
        for node in model.graph.all_nodes()
        if node.outputs[0].name == "q"
    ]
    assert found == [("N", 4), (4, "N")]


def test_weights_are_not_read() -> None:
    """A lazy weight that nobody may evaluate gives its shape all the same."""
    model = ir.from_onnx_text(HEADER + "g (float[N,512] x) => (float[N,4] y) { y = MatMul(x, w) }")

    def fail() -> ir.TensorProtocol:
        raise AssertionError("read")

    tensor = ir.LazyTensor(fail, ir.DataType.FLOAT, ir.Shape([512, 4]), name="w")
    weight = model.graph[0].inputs[1]
    assert weight is not None
    weight.const_value = tensor
    weight.type = ir.TensorType(ir.DataType.FLOAT)
    model.graph.register_initializer(weight)
    assert Shapes(model).shape(model.graph.outputs[0]) == ("N", 4)


def test_an_inconsistent_model_leaves_the_interface() -> None:
    shapes, value = known(
        "g (float[N,4] x, float[3] z) => (float[N,4] y) { a = MatMul(x, z)\n y = Neg(x) }"
    )
    assert shapes.shape(value["x"]) == ("N", 4)


def test_a_new_value_is_unknown_until_told() -> None:
    shapes, value = known("g (float[N,4] x) => (int64[2] y) { y = Shape(x) }")
    fresh = ir.Value(name="fresh")
    assert shapes.shape(fresh) is None
    shapes.learn(fresh, value["y"])
    assert shapes.shape(fresh) == (2,)
    assert shapes.elements(fresh) == ("N", 4)
    constant = ir.Value(name="c", const_value=ir.Tensor(np.array([1, 2])))
    graph = ir.Graph([], [], nodes=[])
    graph.register_initializer(constant)
    assert shapes.elements(constant) == (1, 2)


def test_constants_that_onnx_ir_cannot_write_are_no_obstacle(tmp_path: Path) -> None:
    values = onnx.helper.make_tensor("", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = onnx.helper.make_tensor("", onnx.TensorProto.INT64, [2], [3, 7])
    sparse = onnx.helper.make_sparse_tensor(values, indices, [4, 4])
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20, "local" : 1]>
        g (float[N,4] x) => (float[N,4] y, float[N,4] z) {
          y = MatMul(x, w)
          z = local.f(x)
        }
        <domain: "local", opset_import: ["" : 20]> f (a) => (b) { b = MatMul(a, v) }"""
    )
    proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], sparse_value=sparse))
    proto.functions[0].node.insert(
        0, onnx.helper.make_node("Constant", [], ["v"], sparse_value=sparse)
    )
    onnx.save(proto, tmp_path / "sparse.onnx")
    model = load(tmp_path / "sparse.onnx")
    shapes = Shapes(model)
    assert shapes.failure is None
    assert [shapes.shape(value) for value in model.graph.outputs] == [("N", 4), ("N", 4)]
