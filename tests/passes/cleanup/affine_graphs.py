"""Graphs of ONNX text around convolutions and products, for the tests of folding."""

from __future__ import annotations

IMAGE = "float[N,4,7,6] x"
NORM = "float[6] gain, float[6] shift, float[6] mean, float[6] var"
BN = "y = BatchNormalization(t, gain, shift, mean, var)"


def graph(inputs: str, body: str) -> str:
    ranks = {"Gemm": 2, "MatMul": 3, "Layer": 3}
    of_data = inputs.partition("]")[0].count(",") + 1
    found = next((rank for name, rank in ranks.items() if name in body), of_data)
    dims = ",".join("ABCDE"[:found])
    return f"g ({inputs}) => (float[{dims}] y) {{\n {body}\n}}"
