"""Random graphs full of Transposes: cleanup keeps what they compute and has none more of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from before_after import assert_equal_outputs, clean, session
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

N = 7
"""The batch of the feeds, which no other size equals at first."""
SHAPE = (N, 4, 3, 6)
"""Of the input; the models call its first size N."""

ORDERS = ((0, 2, 3, 1), (0, 3, 1, 2), (0, 1, 3, 2), (1, 0, 2, 3), (0, 2, 1, 3))


@dataclass
class Sketch:
    """A graph that grows node by node; `shapes` are those of its float tensors in the feeds."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"x": SHAPE})
    count: int = 0

    def constant(self, numbers: Any, dtype: Any = np.int64) -> str:
        self.count += 1
        tensor = numpy_helper.from_array(np.array(numbers, dtype), f"c{self.count}")
        self.constants.append(tensor)
        return tensor.name

    def add(
        self, op_type: str, inputs: list[str], *shapes: tuple[int, ...], **attributes: Any
    ) -> str:
        names = [f"v{self.count + index + 1}" for index in range(len(shapes))]
        self.count += len(shapes)
        self.nodes.append(helper.make_node(op_type, inputs, names, **attributes))
        self.shapes.update(zip(names, shapes, strict=True))
        return names[0]


def _transpose(sketch: Sketch, x: str, pick: int) -> None:
    shape = sketch.shapes[x]
    order = ORDERS[pick % len(ORDERS)]
    if len(shape) == 3:
        order = ((0, 2, 1), (2, 0, 1), (1, 2, 0))[pick % 3]
    if len(shape) == 2:
        order = (1, 0)
    if len(shape) == len(order):
        sketch.add("Transpose", [x], tuple(shape[axis] for axis in order), perm=order)


def _unary(sketch: Sketch, x: str, pick: int) -> None:
    sketch.add(("Relu", "Neg", "Sigmoid", "Tanh")[pick % 4], [x], sketch.shapes[x])


def _binary(sketch: Sketch, x: str, pick: int) -> None:
    shape = sketch.shapes[x]
    others = [
        name
        for name, other in sketch.shapes.items()
        if len(other) <= len(shape)
        and all(a in (1, b) for a, b in zip(other[::-1], shape[::-1], strict=False))
    ]
    pair = [x, others[pick % len(others)]]
    op_type = ("Add", "Sub", "Mul", "Max")[pick % 4]
    sketch.add(op_type, pair if pick % 3 else pair[::-1], shape)


def _with_constant(sketch: Sketch, x: str, pick: int) -> None:
    shape = sketch.shapes[x]
    kept = shape[pick % (len(shape) + 1) :]
    sizes = tuple(size if (pick >> axis) % 2 else 1 for axis, size in enumerate(kept))
    if shape[0] == N and len(kept) == len(shape):
        sizes = (1, *sizes[1:])
    numbers = np.random.default_rng(pick).uniform(0.5, 1.5, sizes)
    sketch.add(
        ("Mul", "Add", "Sub", "PRelu")[pick % 4], [x, sketch.constant(numbers, np.float32)], shape
    )


def _reduce(sketch: Sketch, x: str, pick: int) -> None:
    shape = sketch.shapes[x]
    axes = [axis for axis in range(1, len(shape)) if (pick >> axis) % 2] or [len(shape) - 1]
    keeps = pick % 2
    kept = [1 if axis in axes else size for axis, size in enumerate(shape)]
    if not keeps:
        kept = [size for axis, size in enumerate(shape) if axis not in axes]
    signed = [axis - len(shape) if pick % 3 == 0 else axis for axis in axes]
    if pick % 4 < 2:
        sketch.add("ReduceSum", [x, sketch.constant(signed)], tuple(kept), keepdims=keeps)
    else:
        sketch.add("ReduceMax", [x], tuple(kept), axes=signed, keepdims=keeps)


def _reshape(sketch: Sketch, x: str, pick: int) -> None:
    """Split the last axis, join the last two, drop ones, put ones in."""
    shape = sketch.shapes[x]
    goals: list[tuple[int, ...]] = [tuple(size for size in shape if size != 1)]
    if shape[-1] % 2 == 0 and len(shape) < 5:
        goals.append((*shape[:-1], 2, shape[-1] // 2))
    if len(shape) > 2:
        goals.append((*shape[:-2], shape[-2] * shape[-1]))
    if len(shape) < 5:
        goals.append((shape[0], 1, *shape[1:]))
        goals.append((*shape, 1))
    goal = goals[pick % len(goals)]
    if len(goal) < 2:
        return
    if goal.count(N) == 1:
        target = sketch.constant([-1 if size == N else size for size in goal])
    else:
        target = sketch.constant([-1, *goal[1:]])
    sketch.add("Reshape", [x, target], goal)


def _along_axis(sketch: Sketch, x: str, pick: int) -> None:
    shape = sketch.shapes[x]
    axis = pick % len(shape)
    if pick % 3 == 0:
        sketch.add("Softmax", [x], shape, axis=axis - len(shape))
    elif pick % 3 == 1 or shape[axis] % 2:
        joined = (*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])
        if axis and math.prod(joined) < 4000:
            sketch.add("Concat", [x, x], joined, axis=axis)
    elif axis:
        half = (*shape[:axis], shape[axis] // 2, *shape[axis + 1 :])
        sketch.add("Split", [x], half, half, axis=axis)


def _cut(sketch: Sketch, x: str, pick: int) -> None:
    shape = sketch.shapes[x]
    axis = pick % len(shape)
    if axis == 0 or shape[axis] < 2:
        return
    left = (*shape[:axis], shape[axis] - 1, *shape[axis + 1 :])
    starts, ends = sketch.constant([1]), sketch.constant([2**62])
    if pick % 2:
        sketch.add("Slice", [x, starts, ends, sketch.constant([axis])], left)
    else:
        index = sketch.constant([0] if pick % 4 else 0)
        gone = (*shape[:axis], *([1] if pick % 4 else []), *shape[axis + 1 :])
        if len(gone) > 1:
            sketch.add("Gather", [x, index], gone, axis=axis)


def _pad(sketch: Sketch, x: str, pick: int) -> None:
    shape = sketch.shapes[x]
    axis = 1 + pick % (len(shape) - 1)
    pads = [0] * (2 * len(shape))
    pads[axis], pads[axis + len(shape)] = pick % 2, 1
    padded = tuple(size + (pads[i] + pads[i + len(shape)]) for i, size in enumerate(shape))
    mode = "constant" if pick % 3 or shape[axis] < 2 else "reflect"
    sketch.add("Pad", [x, sketch.constant(pads)], padded, mode=mode)


def _resize(sketch: Sketch, x: str, pick: int) -> None:
    shape = sketch.shapes[x]
    if len(shape) != 4 or math.prod(shape) > 2000:
        return
    factors = (1, 2, 2, 1) if pick % 2 else (1, 1, 2, 2)
    sizes = tuple(size * factor for size, factor in zip(shape, factors, strict=True))
    scales = sketch.constant(factors, np.float32)
    mode = "nearest" if pick % 4 < 2 else "linear"
    sketch.add("Resize", [x, "", scales], sizes, mode=mode)


def _matmul(sketch: Sketch, x: str, pick: int) -> None:
    shape = sketch.shapes[x]
    weight = np.random.default_rng(pick).uniform(-1, 1, (shape[-1], 1 + pick % 4))
    sketch.add("MatMul", [x, sketch.constant(weight, np.float32)], (*shape[:-1], weight.shape[1]))


STEPS: tuple[Callable[[Sketch, str, int], None], ...] = (
    *(_transpose, _transpose, _transpose, _unary, _binary, _binary, _with_constant, _reduce),
    *(_reshape, _reshape, _along_axis, _cut, _pad, _resize, _matmul),
)


def model_of(steps: list[tuple[int, int, int]], outputs: int) -> onnx.ModelProto:
    sketch = Sketch()
    for step, source, pick in steps:
        names = list(sketch.shapes)
        x = names[-1 - source % min(4, len(names))]
        if len(sketch.shapes[x]) > 1:
            STEPS[step % len(STEPS)](sketch, x, pick)
    if len(sketch.shapes) == 1:
        sketch.add("Neg", ["x"], SHAPE)
    read = {name for node in sketch.nodes for name in node.input}
    made = [name for name in sketch.shapes if name != "x"]
    returned = [name for name in made if name not in read] + made[-outputs:]
    graph = helper.make_graph(
        sketch.nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *SHAPE[1:]])],
        [
            helper.make_tensor_value_info(
                name, TensorProto.FLOAT, [f"{name}_{axis}" for axis in range(len(shape))]
            )
            for name, shape in sketch.shapes.items()
            if name in returned
        ],
        sketch.constants,
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def transposes(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Transpose" for node in model.graph.node)


def is_run(model: onnx.ModelProto) -> bool:
    try:
        session(model).run(None, {"x": np.zeros(SHAPE, np.float32)})
    except (
        runtime.Fail,
        runtime.InvalidArgument,
        runtime.NotImplemented,
        runtime.RuntimeException,
    ):
        return False
    return True


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.integers(0, len(STEPS) - 1), st.integers(0, 3), st.integers(0, 63)),
        min_size=4,
        max_size=24,
    ),
    st.integers(1, 3),
)
def test_outputs_stay_and_no_transpose_comes(
    steps: list[tuple[int, int, int]], outputs: int
) -> None:
    before = model_of(steps, outputs)
    assume(is_run(before))
    model = ir.from_proto(before)
    clean(model)
    after = ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    assert transposes(after) <= transposes(before)
    assert len(after.graph.node) <= len(before.graph.node)
    feeds = {"x": np.random.default_rng(0).uniform(-1, 1, SHAPE).astype(np.float32)}
    assert_equal_outputs(before, after, feeds, rtol=1e-3)
    clean(model)
    assert ir.to_proto(model).SerializeToString() == after.SerializeToString()
