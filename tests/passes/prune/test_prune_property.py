"""Random networks: what is left of them computes what they do without the channels that went."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from prune_runs import check, shapes

Tensor = tuple[str, int]
"""A name and its number of channels."""


class Sketch:
    """A network over images [N, 3, 6, 6], all of whose tensors are of that size."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes, self.held, self.tensors = [], [], list[Tensor]()

    def pick(self, count: int) -> int:
        return int(self.rng.integers(count))

    def weight(self, *shape: int, positive: bool = False) -> str:
        drawn = self.rng.standard_normal(shape) / 2
        array = (np.abs(drawn) + 0.5 if positive else drawn).astype(np.float32)
        self.held.append(numpy_helper.from_array(array, f"w{len(self.held)}"))
        return str(self.held[-1].name)

    def add(self, op_type: str, *inputs: str, count: int = 1, **attributes: object) -> list[str]:
        names = [f"{op_type}{len(self.nodes)}_{index}" for index in range(count)]
        self.nodes.append(helper.make_node(op_type, inputs, names, **attributes))
        return names


def _conv(sketch: Sketch, x: Tensor) -> Tensor:
    groups = [g for g in (1, 1, 2, 3, x[1]) if x[1] % g == 0][sketch.pick(3) - 1]
    width = groups * (1 + sketch.pick(4))
    weight = sketch.weight(width, x[1] // groups, 3, 3)
    inputs = [x[0], weight, *([sketch.weight(width)] if sketch.pick(2) else [])]
    return sketch.add("Conv", *inputs, pads=[1, 1, 1, 1], group=groups)[0], width


def _transposed(sketch: Sketch, x: Tensor) -> Tensor:
    groups = [g for g in (1, 2, x[1]) if x[1] % g == 0][sketch.pick(2)]
    each = 1 + sketch.pick(3)
    weight = sketch.weight(x[1], each, 3, 3)
    return sketch.add("ConvTranspose", x[0], weight, pads=[1] * 4, group=groups)[0], each * groups


def _unary(sketch: Sketch, x: Tensor) -> Tensor:
    op_type = ("Relu", "Sigmoid", "HardSwish", "Abs", "Neg")[sketch.pick(5)]
    return sketch.add(op_type, x[0])[0], x[1]


def _normalized(sketch: Sketch, x: Tensor) -> Tensor:
    numbers = [sketch.weight(x[1], positive=index == 3) for index in range(4)]
    if sketch.pick(2):
        return sketch.add("InstanceNormalization", x[0], *numbers[:2])[0], x[1]
    return sketch.add("BatchNormalization", x[0], *numbers)[0], x[1]


def _joined(sketch: Sketch, x: Tensor) -> Tensor:
    other = sketch.tensors[sketch.pick(len(sketch.tensors))]
    if other[1] == x[1]:
        return sketch.add(("Add", "Mul", "Max")[sketch.pick(3)], x[0], other[0])[0], x[1]
    return sketch.add("Concat", x[0], other[0], axis=1)[0], x[1] + other[1]


def _split(sketch: Sketch, x: Tensor) -> Tensor:
    if x[1] < 2:
        return x
    first = 1 + sketch.pick(x[1] - 1)
    sizes = numpy_helper.from_array(np.array([first, x[1] - first]), f"w{len(sketch.held)}")
    sketch.held.append(sizes)
    names = sketch.add("Split", x[0], sizes.name, axis=1, count=2)
    sketch.tensors.append((names[0], first))
    return names[1], x[1] - first


def _squeezed(sketch: Sketch, x: Tensor) -> Tensor:
    pooled = sketch.add("GlobalAveragePool", x[0])[0]
    width = 1 + sketch.pick(4)
    narrow = sketch.add("Conv", pooled, sketch.weight(width, x[1], 1, 1))[0]
    wide = sketch.add("Conv", narrow, sketch.weight(x[1], width, 1, 1))[0]
    return sketch.add("Mul", x[0], sketch.add("Sigmoid", wide)[0])[0], x[1]


def _shuffled(sketch: Sketch, x: Tensor) -> Tensor:
    if x[1] % 2:
        return x
    there, back = ([0, 2, x[1] // 2, 6, 6], [0, -1, 6, 6])
    constants = []
    for numbers in (there, back):
        held = numpy_helper.from_array(np.array(numbers), f"w{len(sketch.held)}")
        sketch.held.append(held)
        constants.append(held.name)
    apart = sketch.add("Reshape", x[0], constants[0])[0]
    turned = sketch.add("Transpose", apart, perm=[0, 2, 1, 3, 4])[0]
    return sketch.add("Reshape", turned, constants[1])[0], x[1]


STEPS: tuple[Callable[[Sketch, Tensor], Tensor], ...] = (
    *(_conv, _conv, _conv, _transposed, _unary, _unary),
    *(_normalized, _joined, _joined, _split, _squeezed, _shuffled),
)


def network(seed: int, steps: list[int]) -> ir.Model:
    sketch = Sketch(seed)
    x: Tensor = ("x", 3)
    for step in (0, *steps, 0):
        x = STEPS[step](sketch, x)
        sketch.tensors.append(x)
    flat = sketch.add("Flatten", x[0])[0]
    last = sketch.add("Gemm", flat, sketch.weight(x[1] * 36, 5))[0]
    graph = helper.make_graph(
        sketch.nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 6, 6])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["N", 5])],
        sketch.held,
    )
    return ir.from_proto(
        helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    )


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**31),
    steps=st.lists(st.integers(0, len(STEPS) - 1), max_size=12),
    ratio=st.sampled_from([0.3, 0.5, 0.8]),
    scope=st.sampled_from(["global", "layer"]),
    score=st.sampled_from(["magnitude", "l1"]),
)
def test_random_networks(seed: int, steps: list[int], ratio: float, scope: str, score: str) -> None:
    check(network(seed, steps), ratio=ratio, scope=scope, score=score)


def test_most_random_networks_lose_something() -> None:
    smaller = 0
    for seed in range(20):
        steps = np.random.default_rng(seed).integers(0, len(STEPS), 8).tolist()
        model = network(seed, steps)
        pruned, _, _ = check(model, ratio=0.5)
        smaller += sum(map(np.prod, shapes(pruned).values())) < sum(
            map(np.prod, shapes(model).values())
        )
    assert smaller > 15
