from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from one_node import check, check_export, check_gradients

Array = np.ndarray[Any, Any]


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def geometry(draw: Random, auto: str) -> tuple[list[int], list[int], dict[str, Any]]:
    """Draw sizes, a kernel that fits in, and attributes."""
    axes = draw.choice([1, 2, 2, 3])
    kernel = [draw.randint(1, 3) for _ in range(axes)]
    sizes = [draw.randint(6, 9) for _ in range(axes)]
    attributes: dict[str, Any] = {"strides": [draw.randint(1, 2) for _ in range(axes)]}
    if auto.startswith("SAME"):
        # ONNX Runtime pads by negative amounts where a window is smaller than its stride.
        attributes["strides"] = [
            min(each) for each in zip(attributes["strides"], kernel, strict=True)
        ]
    else:
        attributes["dilations"] = [draw.randint(1, 2) for _ in range(axes)]
    if auto == "NOTSET":
        attributes["pads"] = [draw.randint(0, each - 1) for each in kernel * 2]
    else:
        attributes["auto_pad"] = auto
    return sizes, kernel, attributes


PADDING = ["NOTSET", "SAME_LOWER", "SAME_UPPER", "VALID"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("auto", PADDING)
def test_convolutions(auto: str, seed: int) -> None:
    draw = Random(seed)
    sizes, kernel, attributes = geometry(draw, auto)
    group = draw.choice([1, 2])
    x, weight = normal(0, 2, 4, *sizes), normal(1, 6, 4 // group, *kernel)
    check("Conv", [x, weight, normal(2, 6)], group=group, **attributes)


@pytest.mark.parametrize("shaped", [False, True])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("auto", PADDING)
def test_transposed_convolutions(auto: str, seed: int, *, shaped: bool) -> None:
    draw = Random(seed)
    sizes, kernel, attributes = geometry(draw, auto)
    group = draw.choice([1, 2])
    strides = attributes["strides"]
    if shaped:
        attributes.pop("pads", None)
        attributes["output_shape"] = [
            size * stride for size, stride in zip(sizes, strides, strict=True)
        ]
        attributes["auto_pad"] = draw.choice(["SAME_UPPER", "SAME_LOWER"])
        attributes["dilations"] = [2] * len(sizes)
        kernel = [3] * len(sizes)
    else:
        attributes["output_padding"] = [stride - 1 for stride in strides]
    x, weight = normal(0, 2, 4, *sizes), normal(1, 4, 3, *kernel)
    check("ConvTranspose", [x, weight, normal(2, 3 * group)], group=group, **attributes)


@pytest.mark.parametrize("seed", range(8))
def test_convolutions_of_integers(seed: int) -> None:
    draw = Random(seed)
    sizes, kernel, attributes = geometry(draw, draw.choice(PADDING))
    types = [np.uint8, np.int8]
    x_type, w_type = types[seed % 2], types[seed // 2 % 2]
    numbers = np.random.default_rng(seed)
    x = numbers.integers(0, 120, (2, 4, *sizes)).astype(x_type)
    weight = numbers.integers(0, 120, (6, 4, *kernel)).astype(w_type)
    zeros: list[Array] = [np.array(3, x_type), np.array(5, w_type)]
    check("ConvInteger", [x, weight, *zeros[: seed % 3]], opset=10, rtol=0, atol=0, **attributes)


@pytest.mark.parametrize("seed", range(8))
def test_quantized_convolutions(seed: int) -> None:
    draw = Random(seed)
    sizes, kernel, attributes = geometry(draw, draw.choice(PADDING))
    numbers = np.random.default_rng(seed)
    x = numbers.integers(0, 255, (2, 4, *sizes)).astype(np.uint8)
    weight = numbers.integers(-120, 120, (6, 4, *kernel)).astype(np.int8)
    scale = (numbers.random(6) / 50 + 0.001).astype(np.float32)
    arrays = [x, np.array(0.02, np.float32), np.array(7, np.uint8), weight, scale]
    arrays += [np.zeros(6, np.int8), np.array(0.5, np.float32), np.array(9, np.uint8)]
    bias = numbers.integers(-500, 500, 6).astype(np.int32)
    check("QLinearConv", [*arrays, bias], opset=13, rtol=0, atol=0, **attributes)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.uint8, np.int8])
@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("auto", PADDING)
def test_max_pooling_and_where_the_largest_are(auto: str, ceil: int, kind: type) -> None:
    for seed in range(3):
        draw = Random(seed)
        sizes, kernel, attributes = geometry(draw, auto)
        x = (normal(seed, 2, 3, *sizes) * 40).astype(kind)
        attributes.update(kernel_shape=kernel, ceil_mode=ceil, storage_order=seed % 2)
        check("MaxPool", [x], outputs=2, rtol=0, atol=0, **attributes)


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("auto", PADDING)
def test_other_pooling(auto: str, ceil: int) -> None:
    for seed in range(4):
        sizes, kernel, attributes = geometry(Random(seed), auto)
        x = normal(seed, 2, 3, *sizes)
        attributes.update(kernel_shape=kernel, ceil_mode=ceil)
        check("AveragePool", [x], count_include_pad=seed % 2, **attributes)
        check("LpPool", [x], p=seed % 3 + 1, **attributes)


def test_pooling_of_all_there_is() -> None:
    x = normal(0, 2, 3, 4, 5)
    check("GlobalAveragePool", [x])
    check("GlobalMaxPool", [x])
    check("GlobalLpPool", [x], opset=2, p=3)


def test_unpooling_into_the_shape_that_indices_count_in() -> None:
    places = np.array([[[[5, 7], [13, 15]]]])
    arrays = [normal(0, 1, 1, 2, 2), places, np.array([1, 1, 5, 5])]
    check("MaxUnpool", arrays, kernel_shape=[2, 2], strides=[2, 2])
    check("MaxUnpool", arrays[:2], kernel_shape=[2, 2], strides=[2, 2])


def bent(seed: int) -> tuple[list[Array], dict[str, Any]]:
    draw = Random(seed)
    groups, bends = draw.choice([1, 2]), draw.choice([1, 2])
    kernel = [draw.randint(1, 3), draw.randint(1, 3)]
    pads = [draw.randint(0, 2) for _ in range(4)]
    counts = [5 + pads[axis] + pads[axis + 2] - kernel[axis] + 1 for axis in range(2)]
    points = bends * kernel[0] * kernel[1]
    offset = normal(2, 2, 2 * points, *counts) * 2
    mask = np.abs(normal(4, 2, points, *counts))
    weight = normal(1, 6, 4 // groups, *kernel)
    arrays = [normal(0, 2, 4, 5, 5), weight, offset, normal(3, 6), mask]
    return arrays, {"pads": pads, "group": groups, "offset_group": bends}


@pytest.mark.parametrize("seed", range(6))
def test_bent_convolutions(seed: int) -> None:
    arrays, attributes = bent(seed)
    check("DeformConv", arrays, opset=19, atol=5e-5, **attributes)


def test_gradients() -> None:
    arrays, attributes = bent(1)
    check_gradients("DeformConv", arrays, opset=19, **attributes)
    x = normal(0, 1, 2, 6, 7)
    check_gradients("AveragePool", [x], kernel_shape=[2, 3], dilations=[2, 1], ceil_mode=1)
    check_gradients("LpPool", [x], kernel_shape=[2, 3], pads=[1, 1, 0, 0], p=2)
    check_gradients("ConvTranspose", [x, normal(1, 2, 3, 3, 2)], pads=[1, 0, 0, 1], strides=[2, 1])


@pytest.mark.parametrize("auto", ["SAME_LOWER", "SAME_UPPER"])
def test_export_with_padding_that_depends_on_the_size(auto: str) -> None:
    x, dynamic = normal(0, 4, 3, 8, 9), (0, 2, 3)
    check_export("Conv", [x, normal(1, 4, 3, 3, 3)], dynamic, auto_pad=auto, strides=[2, 1])
    check_export(
        "ConvTranspose", [x, normal(1, 3, 4, 3, 3)], dynamic, auto_pad=auto, strides=[2, 2]
    )
    pooling: dict[str, Any] = {"auto_pad": auto, "kernel_shape": [2, 3], "strides": [2, 1]}
    check_export("MaxPool", [x], dynamic, outputs=2, **pooling)
    check_export("AveragePool", [x], dynamic, **pooling)


def test_export_with_a_last_window_for_the_rest() -> None:
    x, dynamic = normal(0, 4, 3, 8, 9), (0, 2, 3)
    pooling: dict[str, Any] = {"ceil_mode": 1, "kernel_shape": [2, 3], "strides": [2, 2]}
    check_export("MaxPool", [x], dynamic, outputs=2, **pooling)
    check_export("AveragePool", [x], dynamic, **pooling)
