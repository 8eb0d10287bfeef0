"""No operator of the CPU table breaks an integer chain: each stands between two convolutions."""

from __future__ import annotations

import numpy as np
import pytest
from region_models import left_float, normal, parse, quantized, run, sqnr

from passes.quantize.targets import TARGETS

# name: (body between a and b, shape of what comes out)
CHAINS = {
    "Add": "b = Add(a, a2)",
    "Mul": "b = Mul(a, a2)",
    "Mul by a constant": "c = Constant<value_float = 0.3>() b = Mul(a, c)",
    "Mul by a negative constant": "c = Constant<value_float = -0.3>() b = Mul(a, c)",
    "Div by a constant": "c = Constant<value_float = 3.0>() b = Div(a, c)",
    "Sub a constant": "c = Constant<value_float = 0.3>() b = Sub(a, c)",
    "AveragePool": "b = AveragePool<kernel_shape = [2, 2]>(a)",
    "GlobalAveragePool": "b = GlobalAveragePool(a)",
    "ReduceMean": "axes = Constant<value_ints = [2, 3]>() b = ReduceMean(a, axes)",
    "MaxPool": "b = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a)",
    "Sigmoid": "b = Sigmoid(a)",
    "LeakyRelu": "b = LeakyRelu<alpha = 0.1>(a)",
    "SiLU": "s = Sigmoid(a) b = Mul(a, s)",
    "HardSigmoid": "b = HardSigmoid<alpha = 0.2, beta = 0.5>(a)",
    "HardSwish": "b = HardSwish(a)",
    "HardSwish written out": """three = Constant<value_float = 3.0>()
        six = Constant<value_float = 6.0>()
        zero = Constant<value_float = 0.0>()
        t = Add(a, three) c = Clip(t, zero, six) m = Mul(a, c) b = Div(m, six)""",
    "shifted Clip": """three = Constant<value_float = 3.0>() six = Constant<value_float = 6.0>()
        zero = Constant<value_float = 0.0>() t = Add(a, three) c = Clip(t, zero, six)
        b = Mul(a, c)""",
    "Concat": "b0 = Concat<axis = 1>(a, a2) b = Slice(b0, s0, s4, s1)",
    "Resize": """scales = Constant<value_floats = [1.0, 1.0, 2.0, 2.0]>()
        b = Resize<mode = 'nearest'>(a, , scales)""",
    "Pad": "pads = Constant<value_ints = [0, 0, 1, 1, 0, 0, 1, 1]>() b = Pad(a, pads)",
    "Pad with a value": """pads = Constant<value_ints = [0, 0, 1, 1, 0, 0, 1, 1]>()
        v = Constant<value_float = 0.5>() b = Pad(a, pads, v)""",
    "Reshape": "to = Constant<value_ints = [-1, 4, 4, 16]>() b = Reshape(a, to)",
    "Transpose": "b = Transpose<perm = [0, 1, 3, 2]>(a)",
    "Squeeze": "axes = Constant<value_ints = [0]>() u = Unsqueeze(a, axes) b = Squeeze(u, axes)",
    "Flatten": "f = Flatten(a) to = Constant<value_ints = [-1, 4, 8, 8]>() b = Reshape(f, to)",
    "DepthToSpace": "d = SpaceToDepth<blocksize = 2>(a) b = DepthToSpace<blocksize = 2>(d)",
    "Slice": """axes = Constant<value_ints = [2]>()
        two = Constant<value_ints = [2]>()
        six = Constant<value_ints = [6]>()
        b = Slice(a, two, six, axes)""",
    "Split": "p, r = Split<axis = 2, num_outputs = 2>(a) b = Add(p, r)",
    "Gather": "i = Constant<value_ints = [3, 1, 2, 0]>() b = Gather<axis = 1>(a, i)",
    "Expand": "to = Constant<value_ints = [1, 1, 1, 1]>() b = Expand(a, to)",
    "Tile": "to = Constant<value_ints = [1, 1, 2, 1]>() b = Tile(a, to)",
    "ReduceMax": "axes = Constant<value_ints = [3]>() b = ReduceMax(a, axes)",
    "Relu": "b = Relu(a)",
    "Clip": """zero = Constant<value_float = 0.0>()
        six = Constant<value_float = 0.6>()
        b = Clip(a, zero, six)""",
    "Clip around 0": """l = Constant<value_float = -0.5>()
        h = Constant<value_float = 0.6>()
        b = Clip(a, l, h)""",
    "Relu of what is read elsewhere": "r = Relu(a) b = Add(r, a)",
    "Relu into a Concat with signs": """r = Relu(a2)
        b0 = Concat<axis = 1>(a, r)
        b = Slice(b0, s0, s4, s1)""",
    "residual": "r = Relu(a) c = Conv<pads = [1, 1, 1, 1]>(r, w3) s = Add(c, r) b = Relu(s)",
    "gated channels": "g = GlobalAveragePool(a) h = Conv(g, w4) k = HardSigmoid(h) b = Mul(a, k)",
    "shape asked for": "sh = Shape(a) to = Slice(sh, s0, s4) b = Reshape(a, to)",
}

WEIGHTS = {
    "w1": normal(4, 3, 3, 3, seed=1, scale=0.5),
    "w12": normal(4, 3, 3, 3, seed=5, scale=0.5),
    "w2": normal(5, 4, 1, 1, seed=2),
    "w3": normal(4, 4, 3, 3, seed=3, scale=0.3),
    "w4": normal(4, 4, 1, 1, seed=4),
    "bias": normal(4, seed=6),
    "s0": np.array([0]),
    "s4": np.array([4]),
    "s1": np.array([1]),
}


def chain(body: str) -> str:
    second = "a2 = Conv<pads = [1, 1, 1, 1]>(x, w12, bias)" if "a2" in body else ""
    text = body.replace("'", '"')
    return f"""main (float[N, 3, 8, 8] x) => (float[N, 5, P, Q] y) {{
        a = Conv<pads = [1, 1, 1, 1]>(x, w1, bias) {second} {text} y = Conv(b, w2) }}"""


def used(body: str) -> dict[str, np.ndarray]:
    words = set(chain(body).replace(",", " ").replace(")", " ").replace("(", " ").split())
    return {name: array for name, array in WEIGHTS.items() if name in words}


@pytest.mark.parametrize("name", CHAINS)
def test_chain_runs_on_integers(name: str) -> None:
    model = parse(chain(CHAINS[name]), used(CHAINS[name]))
    feeds = {"x": normal(16, 3, 8, 8, seed=9)}
    result, _ = quantized(model, feeds)
    assert left_float(result) == []
    assert sqnr(run(model, feeds)["y"], run(result, feeds)["y"]) > 25


def test_chains_name_what_the_table_names() -> None:
    tried = " ".join(CHAINS.values())
    layers = {"Conv", "Gemm", "MatMul"}  # test_static_layers.py
    same = {"Identity", "Unsqueeze", "GatherElements"}  # as Squeeze and Gather
    assert {op for op in TARGETS["ort-cpu"].rules if op not in tried} <= layers | same
