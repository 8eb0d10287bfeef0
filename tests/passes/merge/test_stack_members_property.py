"""Random members, equal in parts: stacked, they compute what they did."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from members_text import assert_same, ops, stack
from onnx import TensorProto, helper, numpy_helper

from graphopt.pipeline.contract import Rewrite

Step = tuple[int, int]
WIDTH = 6


class Sketch:
    """A graph of members over one input, which is [N, 6] or [N, 3, 6, 6]."""

    def __init__(self, seed: int, *, image: bool) -> None:
        self.rng = np.random.default_rng(seed)
        self.image = image
        self.nodes: list[onnx.NodeProto] = []
        self.held: list[onnx.TensorProto] = []
        self.count = 0

    def weight(self, *shape: int, positive: bool = False) -> str:
        drawn = self.rng.standard_normal(shape) / 2
        array = (np.abs(drawn) + 0.5 if positive else drawn).astype(np.float32)
        self.held.append(numpy_helper.from_array(array, self.name()))
        return self.held[-1].name

    def name(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def add(
        self, op_type: str, inputs: Sequence[str], outputs: int = 1, **attributes: object
    ) -> str:
        names = [self.name() for _ in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, **attributes))
        return names[0]

    def step(self, x: str, step: Step, earlier: Sequence[str]) -> str:
        kind, pick = step
        return (
            IMAGE_STEPS[kind % 8](self, x, pick, earlier)
            if self.image
            else (ROW_STEPS[kind % 8](self, x, pick, earlier))
        )


def _unary(sketch: Sketch, x: str, pick: int, earlier: Sequence[str]) -> str:
    del earlier
    return sketch.add(("Relu", "Tanh", "Sigmoid", "Neg", "Abs", "LeakyRelu")[pick % 6], [x])


def _residual(sketch: Sketch, x: str, pick: int, earlier: Sequence[str]) -> str:
    return sketch.add(("Add", "Sub", "Mul", "Max")[pick % 4], [x, earlier[pick % len(earlier)]])


def _affine(sketch: Sketch, x: str, pick: int, earlier: Sequence[str]) -> str:
    del earlier
    tail = (1, 1) if sketch.image else ()
    width = 3 if sketch.image else WIDTH
    shapes = [(width, *tail), (1,), (), (1, width, *tail)]
    return sketch.add(("Add", "Mul")[pick % 2], [x, sketch.weight(*shapes[pick % 4])])


def _gemm(sketch: Sketch, x: str, pick: int, earlier: Sequence[str]) -> str:
    del earlier
    bias = [[], [sketch.weight(WIDTH)], [sketch.weight(1, WIDTH)], [sketch.weight(1)]][pick % 4]
    return sketch.add(
        "Gemm",
        [x, sketch.weight(WIDTH, WIDTH), *bias],
        transB=pick % 2,
        alpha=(1.0, 0.5)[pick // 4 % 2],
        beta=(1.0, 2.0)[pick // 8 % 2],
    )


def _matmul(sketch: Sketch, x: str, pick: int, earlier: Sequence[str]) -> str:
    del earlier, pick
    return sketch.add("MatMul", [x, sketch.weight(WIDTH, WIDTH)])


def _softmax(sketch: Sketch, x: str, pick: int, earlier: Sequence[str]) -> str:
    del earlier
    return sketch.add(("Softmax", "LogSoftmax")[pick % 2], [x], axis=(-1, 1, 0)[pick % 3])


def _norm(sketch: Sketch, x: str, pick: int, earlier: Sequence[str]) -> str:
    del earlier
    width = 3 if sketch.image else WIDTH
    if pick % 2 or sketch.image:
        rest = [sketch.weight(width, positive=n == 3) for n in range(4)]
        return sketch.add("BatchNormalization", [x, *rest])
    return sketch.add("LayerNormalization", [x, sketch.weight(width), sketch.weight(width)])


def _reduce(sketch: Sketch, x: str, pick: int, earlier: Sequence[str]) -> str:
    del earlier
    axis = [(1,), (-1,), (0, 1)][pick % 3]
    found = sketch.add(("ReduceMax", "ReduceMean")[pick % 2], [x], axes=axis, keepdims=1)
    return sketch.add("Sub", [x, found])


def _conv(sketch: Sketch, x: str, pick: int, earlier: Sequence[str]) -> str:
    del earlier
    groups = (1, 3)[pick % 2]
    rest = [sketch.weight(3, 3 // groups, 3, 3)] + ([sketch.weight(3)] if pick % 3 else [])
    return sketch.add("Conv", [x, *rest], group=groups, pads=[1, 1, 1, 1])


def _pool(sketch: Sketch, x: str, pick: int, earlier: Sequence[str]) -> str:
    del earlier
    op_type = ("MaxPool", "AveragePool")[pick % 2]
    return sketch.add(op_type, [x], kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def _transpose(sketch: Sketch, x: str, pick: int, earlier: Sequence[str]) -> str:
    del earlier, pick
    return sketch.add("Transpose", [x], perm=[0, 1, 3, 2])


ROW_STEPS = (_gemm, _unary, _residual, _affine, _matmul, _softmax, _norm, _reduce)
IMAGE_STEPS = (_conv, _unary, _residual, _affine, _pool, _softmax, _norm, _transpose)


def model_of(
    architectures: Sequence[Sequence[Step]],
    members: Sequence[int],
    join: int,
    seed: int,
    image: bool,
) -> onnx.ModelProto:
    """Build an ensemble: `members` are numbers of architectures."""
    sketch = Sketch(seed, image=image)
    ends = []
    for member in members:
        values = ["x"]
        for step in architectures[member % len(architectures)]:
            values.append(sketch.step(values[-1], step, values))
        ends.append(values[-1] if values[-1] != "x" else sketch.add("Neg", ["x"]))
    outputs = _joined(sketch, ends, join)
    tail = [3, 6, 6] if image else [WIDTH]
    graph = helper.make_graph(
        sketch.nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *tail])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * (1 + len(tail)))
            for name in outputs
        ],
        sketch.held,
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def _joined(sketch: Sketch, ends: list[str], join: int) -> list[str]:
    if join == 0:
        return list(dict.fromkeys(ends))
    if join == 1:
        return [sketch.add("Mean", ends)]
    if join == 2:
        scaled = [sketch.add("Mul", [end, sketch.weight()]) for end in ends]
        return [sketch.add("Sum", scaled)]
    if join == 3:
        total = ends[0]
        for end in ends[1:]:
            total = sketch.add("Add", [total, end])
        return [total]
    if join == 4:
        return [sketch.add("Concat", ends, axis=1), sketch.add("Max", ends)]
    return [sketch.add("Concat", ends, axis=0), ends[0]]


steps = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 15)), min_size=1, max_size=7)


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(steps, min_size=1, max_size=3),
    st.lists(st.integers(0, 2), min_size=2, max_size=7),
    st.integers(0, 5),
    st.integers(0, 1000),
    st.booleans(),
    st.sampled_from([None, 2, 3]),
)
@example([[(6, 0), (0, 0)]], [0] * 5, 3, 0, True, 2)
def test_random_members(
    architectures: list[list[Step]],
    members: list[int],
    join: int,
    seed: int,
    image: bool,
    most: int | None,
) -> None:
    before = model_of(architectures, members, join, seed, image)
    onnx.checker.check_model(before, full_check=True)
    after, said = stack(before, lanes=most)
    if any(isinstance(step, Rewrite) for step in said):
        assert_same(before, after, (1, 7), rtol=1e-4, atol=1e-4)
    assert len(ops(after)) <= len(ops(before))
