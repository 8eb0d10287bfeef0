"""Fused operators and normalizations of ONNX Runtime in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from microsoft_nodes import FLOAT, check, one_node
from onnx import TensorProto

from graphopt.errors import GraphoptError
from graphopt.training import OnnxModule

RNG = np.random.default_rng(0)
INT32 = TensorProto.INT32
TABLES = ("word_table", "position_table", "segment_table", "scale", "shift")


def drawn(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def test_activations() -> None:
    x = 3 * drawn(2, 3, 4)
    for operator in ("Gelu", "FastGelu", "QuickGelu"):
        check(operator, {"x": x})
    check("QuickGelu", {"x": x}, alpha=0.7)
    for operator in ("BiasGelu", "FastGelu"):
        check(operator, {"x": x, "bias": drawn(4)})


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
def test_distances(metric: str) -> None:
    a, b = drawn(5, 4), drawn(3, 4)
    check("CDist", {"a": a, "b": b}, metric=metric, rtol=1e-4, atol=1e-5)


def test_inverses() -> None:
    check("Inverse", {"x": drawn(2, 4, 4)}, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("a", "b", "turned"),
    [
        ((2, 3, 4), (2, 4, 5), {}),
        ((2, 4, 3), (2, 5, 4), {"transA": 1, "transB": 1}),
        ((3, 2, 4), (2, 4, 5), {"transBatchA": 1}),
        ((3, 2, 4), (4, 2, 5), {"transBatchA": 1, "transBatchB": 1}),
        ((3, 2, 6, 4), (2, 6, 4, 5), {"transBatchA": 1}),
        ((2, 3, 4), (4, 5), {}),
    ],
)
def test_products(a: Any, b: Any, turned: dict[str, int]) -> None:
    check("FusedMatMul", {"a": drawn(*a), "b": drawn(*b)}, alpha=0.5, **turned)


ACTIVATIONS = [
    ("Relu", []),
    ("Tanh", []),
    ("Sigmoid", []),
    ("LeakyRelu", [0.2]),
    ("Clip", [-0.5, 0.7]),
    ("HardSigmoid", [0.3, 0.4]),
]


@pytest.mark.parametrize(("activation", "given"), ACTIVATIONS)
def test_convolutions_with_activations(activation: str, given: list[float]) -> None:
    inputs = {"x": drawn(2, 3, 6, 6), "w": drawn(4, 3, 3, 3), "b": drawn(4)}
    attributes: dict[str, Any] = {"activation": activation, "pads": [1] * 4}
    if given:
        attributes["activation_params"] = given
    check("FusedConv", inputs, held=("w", "b"), atol=1e-5, **attributes)
    if activation == "Relu":
        inputs["z"] = drawn(2, 4, 6, 6)
        check("FusedConv", inputs, held=("w", "b"), atol=1e-5, **attributes)


@pytest.mark.parametrize(
    ("activation", "given"),
    [
        ("Relu", {}),
        ("Tanh", {}),
        ("LeakyRelu", {"activation_alpha": 0.2}),
        ("HardSigmoid", {"activation_alpha": 0.3, "activation_beta": 0.4}),
    ],
)
def test_products_with_activations(activation: str, given: dict[str, float]) -> None:
    inputs = {"a": drawn(3, 4), "b": drawn(5, 4), "c": drawn(5)}
    numbers = {"alpha": 0.5, "beta": 0.7, "transB": 1}
    check("FusedGemm", inputs, activation=activation, **numbers, **given)


def test_an_unknown_activation_is_refused() -> None:
    inputs = {"x": drawn(1, 1, 4), "w": drawn(1, 1, 3)}
    proto = one_node("FusedConv", inputs, {"y": FLOAT}, activation="Mish")
    with pytest.raises(GraphoptError, match="activation 'Mish' is not known"):
        OnnxModule(ir.from_proto(proto))(*[torch.from_numpy(each) for each in inputs.values()])


def test_normalizations_of_sums() -> None:
    x, skip, scale, shift, bias = drawn(2, 3, 4), drawn(2, 3, 4), *(drawn(4) for _ in range(3))
    for given in ({}, {"shift": shift}, {"shift": shift, "bias": bias}):
        check("SkipLayerNormalization", {"x": x, "skip": skip, "scale": scale, **given})
    check("SkipLayerNormalization", {"x": x, "skip": skip[:1], "scale": scale}, epsilon=0.1)
    for given in ({}, {"bias": bias}):
        check("SkipSimplifiedLayerNormalization", {"x": x, "skip": skip, "scale": scale, **given})


def test_default_epsilons() -> None:
    x, skip, scale = 1e-3 * drawn(2, 3, 4), 1e-3 * drawn(2, 3, 4), drawn(4)
    for operator in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"):
        check(operator, {"x": x, "skip": skip, "scale": scale})


def test_sums_that_are_put_out() -> None:
    inputs = {"x": drawn(2, 3, 4), "skip": drawn(2, 3, 4), "scale": drawn(4)}
    for operator in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"):
        proto = one_node(operator, inputs, {"y": FLOAT, "sum": FLOAT})
        proto.graph.node[0].output[:] = ["y", "", "", "sum"]
        tensors = [torch.from_numpy(each) for each in inputs.values()]
        _, total = OnnxModule(ir.from_proto(proto))(*tensors)
        np.testing.assert_array_equal(total, inputs["x"] + inputs["skip"])


def test_normalization_by_the_mean_square() -> None:
    for axis in (-1, 1):
        scale = drawn(4) if axis == -1 else drawn(3, 4)
        inputs = {"x": drawn(2, 3, 4), "scale": scale}
        check("SimplifiedLayerNormalization", inputs, domain="", axis=axis, epsilon=1e-3)


@pytest.mark.parametrize("mask", [None, np.array([[1, 1, 0], [1, 1, 1]], np.int32)])
def test_embeddings(mask: Any) -> None:
    whole = np.array([[1, 2, 0], [3, 1, 1]], np.int32)
    inputs = {
        "words": whole,
        "segments": whole % 2,
        "word_table": drawn(4, 6),
        "position_table": drawn(5, 6),
        "segment_table": drawn(2, 6),
        "scale": drawn(6),
        "shift": drawn(6),
        "mask": mask,
        "positions": None,
    }
    for positions in (None, np.array([[4, 1, 0], [0, 1, 2]], np.int32)):
        given = {**inputs, "positions": positions}
        outputs = {"y": FLOAT, "counts": INT32, "sum": FLOAT}
        check("EmbedLayerNormalization", given, outputs, held=TABLES)
    alone = {**inputs, "segments": None, "segment_table": None}
    held = tuple(name for name in TABLES if alone[name] is not None)
    check("EmbedLayerNormalization", alone, {"y": FLOAT, "counts": INT32}, held=held)
