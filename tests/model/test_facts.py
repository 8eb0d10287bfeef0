from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from graphopt.model.facts import Port, measure

HEAD = '<ir_version: 10, opset_import: ["": 20], producer_name: "lab", producer_version: "3">'


def model_of(text: str, **weights: npt.NDArray[Any]) -> ir.Model:
    model = ir.from_onnx_text(HEAD + text)
    for name, array in weights.items():
        value = model.graph.initializers[name]
        value.const_value = ir.tensor(array, name=name)
        value.shape = ir.Shape(array.shape)
        value.dtype = value.const_value.dtype
    return model


def test_counts() -> None:
    facts = measure(
        model_of(
            """g (float[N,4] x) => (float[N,3] y) <float[4,3] w = {1}, float[3] b = {0}> {
              c = Constant<value = float[2,2] {0, 1, 2, 3}>()
              n = Constant<value_ints = [5, 6]>()
              m = MatMul(x, w)
              y = Add(m, b)
            }""",
            w=np.array([[0, 1, 2]] * 4, np.float32),
            b=np.zeros(3, np.float32),
        )
    )
    assert (facts.nodes, facts.constants) == (2, 2)
    assert facts.ops == {"Constant": 2, "Add": 1, "MatMul": 1}
    assert facts.parameters == 12 + 3 + 4 + 2
    assert facts.size == 4 * (12 + 3 + 4) + 8 * 2
    # 4 of 12 in w and 1 of 4 in the Constant; a bias and a list of integers do not matter.
    assert facts.sparsity == 5 / 16
    assert facts.macs == 12
    assert facts.quantized == 0
    assert facts.inputs == (Port("x", "FLOAT", ("N", 4)),)
    assert facts.outputs == (Port("y", "FLOAT", ("N", 3)),)
    assert facts.producer == "lab 3"
    assert facts.ir_version == 10
    assert facts.opsets == {"ai.onnx": 20}
    assert [weight.name for weight in facts.largest] == ["w", "c", "n", "b"]
    assert facts.largest[0].sparsity == 4 / 12


def test_an_initializer_that_is_an_input_is_no_input_to_feed() -> None:
    model = model_of(
        "g (float[N,4] x) => (y) <float[4,1] w = {1}> { y = MatMul(x, w) }",
        w=np.ones((4, 1), np.float32),
    )
    model.graph.inputs.append(model.graph.initializers["w"])
    facts = measure(model)
    assert [port.name for port in facts.inputs] == ["x"]
    assert facts.parameters == 4
    assert facts.macs == 4


def test_a_shared_tensor_counts_once() -> None:
    model = model_of(
        """g (float[N,2] x) => (y) <float[2,2] w = {1}, float[2,2] v = {1}>
        { h = MatMul(x, w) y = MatMul(h, v) }""",
        w=np.ones((2, 2), np.float32),
    )
    model.graph.initializers["v"].const_value = model.graph.initializers["w"].const_value
    facts = measure(model)
    assert (facts.parameters, facts.size, facts.macs) == (4, 16, 8)


def test_subgraphs_and_functions() -> None:
    facts = measure(
        ir.from_onnx_text(
            """<ir_version: 10, opset_import: ["": 20, "lab": 1]>
            g (float[N,2] x, bool c) => (y) {
              y = If(c)<
                then_branch = t () => (a) { w = Constant<value = float[2,2] {0,0,1,1}>()
                                            a = MatMul(x, w) },
                else_branch = e () => (b) { b = lab.f(x) }>
            }
            <domain: "lab", opset_import: ["": 20]>
            f (p) => (r) { v = Constant<value = float[2,2] {0,0,0,1}>() q = MatMul(p, v)
                           r = Relu(q) }"""
        )
    )
    assert facts.subgraphs == 2
    assert facts.functions == ("lab::f",)
    assert facts.ops == {"Constant": 2, "MatMul": 2, "If": 1, "Relu": 1, "lab::f": 1}
    assert facts.nodes == 5
    assert facts.sparsity == 5 / 8
    assert facts.macs == 4
    assert {weight.name for weight in facts.largest} == {"If_0/then_branch/w", "lab:f/v"}


def test_quantized_weights_are_sparse_at_their_zero_point() -> None:
    facts = measure(
        model_of(
            """g (float[N,2] x) => (y)
            <uint8[2,2] w = {1}, float s = {0.5}, uint8 z = {7}, float[2,2] v = {1}> {
              d = DequantizeLinear(w, s, z)
              h = MatMul(x, d)
              y = MatMul(h, v)
            }""",
            w=np.array([[7, 0], [7, 7]], np.uint8),
            z=np.array(7, np.uint8),
            v=np.ones((2, 2), np.float32),
        )
    )
    assert facts.sparsity == 3 / 8
    assert facts.quantized == 0.5


def test_weights_that_nodes_make_real_are_quantized() -> None:
    facts = measure(
        model_of(
            """g (float[N,2] x) => (y)
            <int8[2,2] w = {1}, float s = {0.5}, int8 z = {7}, float[2,2] v = {1}> {
              c = Cast<to = 1>(w)
              f = Cast<to = 1>(z)
              d = Sub(c, f)
              m = Mul(d, s)
              h = MatMul(x, m)
              y = MatMul(h, v)
            }""",
            w=np.array([[7, 0], [7, 7]], np.int8),
            z=np.array(7, np.int8),
            v=np.ones((2, 2), np.float32),
        )
    )
    assert facts.sparsity == 3 / 8
    assert facts.quantized == 0.5


def test_zero_points_that_differ_between_channels_count_no_zeros() -> None:
    facts = measure(
        model_of(
            """g (float[N,2] x) => (y) <uint8[2,2] w = {1}, float[2] s = {1}, uint8[2] z = {1}>
            { d = DequantizeLinear<axis=1>(w, s, z) y = MatMul(x, d) }""",
            w=np.array([[7, 0], [7, 7]], np.uint8),
            s=np.ones(2, np.float32),
            z=np.array([7, 0], np.uint8),
        )
    )
    assert facts.sparsity is None


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_sparsity_of_other_floats(dtype: type) -> None:
    array: npt.NDArray[Any] = np.array([[0, 1], [2, 0]]).astype(dtype)
    facts = measure(
        model_of("g (float[N,2] x) => (y) <float[2,2] w = {1}> { y = MatMul(x, w) }", w=array)
    )
    assert facts.sparsity == 0.5
    assert facts.size == 4 * array.itemsize


def test_switches() -> None:
    model = model_of(
        "g (float[N,2] x) => (y) <float[2,2] w = {1}> { y = MatMul(x, w) }",
        w=np.zeros((2, 2), np.float32),
    )
    facts = measure(model, sparsity=False, macs=False)
    assert facts.sparsity is None
    assert facts.largest[0].sparsity is None
    assert facts.macs is None
    assert facts.quantized is None
    assert facts.parameters == 4


def test_strings_are_no_parameters() -> None:
    model = ir.from_onnx_text(HEAD + "g (float[N] x) => (y) { y = Relu(x) }")
    names = ir.Value(
        name="names", const_value=ir.StringTensor(np.array([b"a", b"b"]), name="names")
    )
    model.graph.register_initializer(names)
    facts = measure(model)
    assert facts.parameters == 0
    assert facts.sparsity is None


def test_source_paths_are_warned_of() -> None:
    model = ir.from_onnx_text(HEAD + "g (float[N] x) => (y) { y = Relu(x) }")
    assert measure(model).warnings == ()
    model.graph.node(0).metadata_props["pkg.torch.onnx.stack_trace"] = 'File "/home/a/b.py", line 1'
    (warning,) = measure(model).warnings
    assert "/home/a/b.py" in warning
    assert "strip" in warning


def test_the_recipe_is_shown() -> None:
    model = ir.from_onnx_text(HEAD + "g (float[N] x) => (y) { y = Relu(x) }")
    model.metadata_props.update({"graphopt.pipeline": "cleanup", "other": "x"})
    assert measure(model).recipe == {"graphopt.pipeline": "cleanup"}


def test_facts_are_json_and_the_same_each_time() -> None:
    model = model_of(
        "g (float[N,2] x) => (y) <float[2,2] w = {1}> { y = MatMul(x, w) }",
        w=np.zeros((2, 2), np.float32),
    )
    first = json.dumps(measure(model).as_json())
    assert json.dumps(measure(model).as_json()) == first
    assert json.dumps(measure(model.clone()).as_json()) == first


def test_big_weights_are_read_in_little_memory(tmp_path: Path) -> None:
    count, rows = 8, 1 << 20
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(count * rows * 8 * 4)
    model = ir.from_onnx_text(HEAD + "g (float[N,8] x) => (y) { y = Relu(x) }")
    for index in range(count):
        tensor = ir.ExternalTensor(
            "w.bin",
            index * rows * 32,
            rows * 32,
            ir.DataType.FLOAT,
            shape=ir.Shape([rows, 8]),
            name=f"w{index}",
            base_dir=tmp_path,
        )
        model.graph.register_initializer(ir.Value(name=tensor.name, const_value=tensor))
    tracemalloc.start()
    facts = measure(model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert facts.sparsity == 1.0
    assert facts.size == count * rows * 32
    assert peak < 8 << 20
