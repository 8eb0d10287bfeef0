"""Random small graphs: cleanup keeps their outputs and never makes them bigger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from before_after import Array, assert_equal_outputs, clean, session
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

N = 3
"""The batch of the feeds; the models call it N."""


@dataclass
class Sketch:
    """A graph that grows node by node.

    `values` are float tensors with a leading axis N, by name; `shapes` their shapes in the feeds.
    """

    seed: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"x": (N, 4, 6)})
    count: int = 0

    def name(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def constant(self, array: Array, *, node: bool = False) -> str:
        name = self.name()
        tensor = numpy_helper.from_array(np.array(array, order="C"), name)
        if node:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.constants.append(tensor)
        return name

    def weights(self, *shape: int, low: float = -1.0) -> str:
        rng = np.random.default_rng(self.seed + self.count)
        return self.constant(rng.uniform(low, 1.0, shape).astype(np.float32))

    def add(
        self, op_type: str, inputs: Sequence[str], shape: tuple[int, ...], **attributes: object
    ) -> str:
        output = self.name()
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], **attributes))
        self.shapes[output] = shape
        return output


def _unary(sketch: Sketch, x: str, pick: int) -> None:
    ops = ("Relu", "Neg", "Abs", "Identity", "Sigmoid", "Dropout", "Tanh")
    sketch.add(ops[pick % len(ops)], [x], sketch.shapes[x])


def _binary(sketch: Sketch, x: str, pick: int) -> None:
    others = [name for name, shape in sketch.shapes.items() if shape == sketch.shapes[x]]
    op_type = ("Add", "Sub", "Mul", "Max")[pick % 4]
    sketch.add(op_type, [x, others[pick % len(others)]], sketch.shapes[x])


def _with_constant(sketch: Sketch, x: str, pick: int) -> None:
    op_type = ("Add", "Sub", "Mul", "Div")[pick % 4]
    number = (0.0, 1.0, 2.0, -1.5)[pick // 4 % 4]
    width = (1, sketch.shapes[x][-1])[pick // 16 % 2]
    if op_type == "Div" and number == 0.0:
        number = 1.0
    other = sketch.constant(np.full(width, number, np.float32), node=pick % 3 == 0)
    sketch.add(op_type, [x, other], sketch.shapes[x])


def _matmul(sketch: Sketch, x: str, pick: int) -> None:
    shape = sketch.shapes[x]
    width = 1 + pick % 5
    weight = sketch.weights(shape[-1], width)
    if pick % 2:
        flipped = sketch.name()
        sketch.nodes.append(helper.make_node("Transpose", [weight], [flipped], perm=[0, 1]))
        weight = flipped
    sketch.add("MatMul", [x, weight], (*shape[:-1], width))


def _conv(sketch: Sketch, x: str, pick: int) -> None:
    shape = sketch.shapes[x]
    if len(shape) != 3:
        return
    channels = 1 + pick % 4
    weight, bias = sketch.weights(channels, shape[1], 1), sketch.weights(channels)
    convolved = sketch.add("Conv", [x, weight, bias], (shape[0], channels, shape[2]))
    if pick % 2:
        rest = [sketch.weights(channels) for _ in range(3)]
        rest.append(sketch.weights(channels, low=0.5))
        sketch.add("BatchNormalization", [convolved, *rest], sketch.shapes[convolved])


def _transpose(sketch: Sketch, x: str, pick: int) -> None:
    shape = sketch.shapes[x]
    tail = list(range(1, len(shape)))
    order = [0, *(reversed(tail) if pick % 2 else tail)]
    sketch.add("Transpose", [x], tuple(shape[axis] for axis in order), perm=order)


def _reshape(sketch: Sketch, x: str, pick: int) -> None:
    shape = sketch.shapes[x]
    targets = [(0, *shape[1:]), (-1, *shape[1:]), (0, int(np.prod(shape[1:]))), (0, -1, 1)]
    target = np.array(targets[pick % 4], np.int64)
    if pick % 3 == 0:
        return _computed_reshape(sketch, x)
    given_shape = tuple(N if axis == 0 else int(size) for axis, size in enumerate(target))
    rest = int(np.prod(shape)) // abs(int(np.prod(given_shape)))
    result = tuple(rest if size == -1 else size for size in given_shape)
    sketch.add("Reshape", [x, sketch.constant(target)], result)
    return None


def _computed_reshape(sketch: Sketch, x: str) -> None:
    """The way exporters write x.view(x.shape[0], -1)."""
    shape = sketch.shapes[x]
    size, zero, batch, joined = (sketch.name() for _ in range(4))
    first = sketch.constant(np.array(0, np.int64), node=True)
    axis = sketch.constant(np.array([0], np.int64))
    rest = sketch.constant(np.array([int(np.prod(shape[1:]))], np.int64))
    sketch.nodes += [
        helper.make_node("Shape", [x], [size]),
        helper.make_node("Gather", [size, first], [zero], axis=0),
        helper.make_node("Unsqueeze", [zero, axis], [batch]),
        helper.make_node("Concat", [batch, rest], [joined], axis=0),
    ]
    sketch.add("Reshape", [x, joined], (shape[0], int(np.prod(shape[1:]))))


def _slice(sketch: Sketch, x: str, pick: int) -> None:
    shape = sketch.shapes[x]
    axis = 1 + pick % (len(shape) - 1)
    start = pick // 2 % min(2, shape[axis])
    end = (shape[axis], 2**62)[pick % 2]
    parts = [sketch.constant(np.array([part], np.int64)) for part in (start, end, axis)]
    result = tuple(size - start if i == axis else size for i, size in enumerate(shape))
    sketch.add("Slice", [x, *parts], result)


def _concat(sketch: Sketch, x: str, pick: int) -> None:
    shape = sketch.shapes[x]
    count = 1 + pick % 2
    sketch.add("Concat", [x] * count, (shape[0], shape[1] * count, *shape[2:]), axis=1)


def _cast(sketch: Sketch, x: str, pick: int) -> None:
    shape = sketch.shapes[x]
    if pick % 2:
        wide = sketch.name()
        sketch.nodes.append(helper.make_node("Cast", [x], [wide], to=TensorProto.DOUBLE))
        x = wide
    sketch.add("Cast", [x], shape, to=TensorProto.FLOAT)


def _if(sketch: Sketch, x: str, pick: int) -> None:
    condition = "flag" if pick % 3 == 0 else sketch.constant(np.array(pick % 3 == 1))
    names = [sketch.name() for _ in range(4)]
    bodies = []
    for op_type, (inner, output) in zip(
        ("Relu", "Neg"), ((names[0], names[1]), (names[2], names[3])), strict=True
    ):
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        body = [
            helper.make_node("Identity", [x], [inner]),
            helper.make_node(op_type, [inner], [output]),
        ]
        bodies.append(helper.make_graph(body, op_type, [], [result]))
    sketch.add("If", [condition], sketch.shapes[x], then_branch=bodies[0], else_branch=bodies[1])


def _constant_arithmetic(sketch: Sketch, x: str, pick: int) -> None:
    width = sketch.shapes[x][-1]
    left, right = sketch.weights(width), sketch.weights(width, low=0.5)
    folded = sketch.name()
    op_type = ("Mul", "Div", "Pow", "Sub")[pick % 4]
    if op_type == "Pow":
        left, right = right, left
    sketch.nodes.append(helper.make_node(op_type, [left, right], [folded]))
    sketch.add("Add", [x, folded], sketch.shapes[x])


STEPS: tuple[Callable[[Sketch, str, int], None], ...] = (
    _unary,
    _binary,
    _with_constant,
    _matmul,
    _conv,
    _transpose,
    _reshape,
    _slice,
    _concat,
    _cast,
    _if,
    _constant_arithmetic,
)


def model_of(steps: Sequence[tuple[int, int, int]], seed: int) -> onnx.ModelProto:
    """Build a model from steps: what to add, to which value, and a number for its details."""
    sketch = Sketch(seed)
    for step, source, pick in steps:
        names = list(sketch.shapes)
        x = names[-1 - source % min(3, len(names))]
        if len(sketch.shapes[x]) > 1:
            STEPS[step % len(STEPS)](sketch, x, pick)
    outputs = [name for name in list(sketch.shapes)[-2:] if name != "x"]
    if not outputs:
        outputs = [sketch.add("Neg", ["x"], sketch.shapes["x"])]
    graph = helper.make_graph(
        sketch.nodes,
        "random",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *sketch.shapes[name][1:]])
            for name in outputs
        ],
        sketch.constants,
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def size_of(proto: onnx.ModelProto) -> int:
    model = ir.from_proto(proto)
    return sum(node.op_type != "Constant" for node in model.graph.all_nodes())


def is_run(proto: onnx.ModelProto, feeds: dict[str, Array]) -> bool:
    try:
        session(proto).run(None, feeds)
    except Fail:
        return False
    return True


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.integers(0, 11), st.integers(0, 2), st.integers(0, 63)),
        min_size=1,
        max_size=14,
    ),
    st.integers(0, 1000),
    st.booleans(),
)
def test_outputs_stay_and_nothing_grows(
    steps: list[tuple[int, int, int]], seed: int, flag: bool
) -> None:
    before = model_of(steps, seed)
    onnx.checker.check_model(before, full_check=True)
    model = ir.from_proto(before)
    clean(model)
    after = ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    assert size_of(after) <= size_of(before)
    rng = np.random.default_rng(seed)
    feeds = {"x": rng.standard_normal((N, 4, 6)).astype(np.float32), "flag": np.array(flag)}
    # ONNX Runtime 1.31 cannot run some originals: an Identity in a body that reads an outer value
    # behind two casts finds no tensor. There is nothing to compare with then.
    assume(is_run(before, feeds))
    assert_equal_outputs(before, after, feeds, rtol=1e-3)
    clean(model)
    assert ir.to_proto(model).SerializeToString() == after.SerializeToString()
