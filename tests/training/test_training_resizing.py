from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from one_node import check, check_export, check_gradients

Array = np.ndarray[Any, Any]
COORDINATES = [
    "align_corners",
    "asymmetric",
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "tf_crop_and_resize",
]
NEAREST = ["ceil", "floor", "round_prefer_ceil", "round_prefer_floor"]


def image(*sizes: int) -> Array:
    return np.random.default_rng(0).standard_normal((2, 3, *sizes)).astype(np.float32)


def drawn(seed: int, coordinates: str) -> tuple[list[Any], dict[str, Any]]:
    """Draw an image, and what it is resized to."""
    draw = Random(seed)
    sizes = [draw.randint(3, 9), draw.randint(3, 9)]
    roi: Any = None
    attributes: dict[str, Any] = {"coordinate_transformation_mode": coordinates}
    if coordinates == "tf_crop_and_resize":
        ends = [draw.choice([1.0, 0.8, 1.2]), draw.choice([1.0, 0.7])]
        roi = np.array([0, 0, draw.choice([0, 0.2, -0.1]), 0.1, 1, 1, *ends], np.float32)
        attributes["extrapolation_value"] = 7.0
    if seed % 2:
        # Multiples of a quarter leave nothing to the order of roundings.
        factors = [draw.choice([0.25, 0.5, 0.75, 1.5, 2, 3]) for _ in range(2)]
        return [image(*sizes), roi, np.array([1, 1, *factors], np.float32)], attributes
    new = np.array([2, 3, draw.randint(1, 12), draw.randint(1, 12)])
    if coordinates != "tf_crop_and_resize":
        new = new[2:]
        attributes["axes"] = [3, 2]
        attributes["keep_aspect_ratio_policy"] = ["stretch", "not_larger", "not_smaller"][seed % 3]
    return [image(*sizes), roi, None, new], attributes


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("mode", ["cubic", "linear"])
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_interpolation(coordinates: str, mode: str, seed: int) -> None:
    arrays, attributes = drawn(seed, coordinates)
    if mode == "cubic":
        attributes.update(exclude_outside=seed % 2, cubic_coeff_a=-0.5 - 0.25 * (seed % 2))
    check("Resize", arrays, opset=19, atol=5e-5, mode=mode, **attributes)


@pytest.mark.parametrize("rounding", NEAREST)
@pytest.mark.parametrize("coordinates", [each for each in COORDINATES if "symmetric" not in each])
def test_nearest(coordinates: str, rounding: str) -> None:
    for seed in range(6):
        arrays, attributes = drawn(seed, coordinates)
        for kind in (np.float32, np.int32, np.uint8):
            arrays[0] = (image(*arrays[0].shape[2:]) * 20).astype(kind)
            check("Resize", arrays, opset=19, nearest_mode=rounding, **attributes)


@pytest.mark.parametrize("mode", ["cubic", "linear"])
@pytest.mark.parametrize("coordinates", COORDINATES[:-1])
def test_filters_that_take_in_all_that_is_covered(coordinates: str, mode: str) -> None:
    arrays = [image(8, 9), None, np.array([1, 1, 0.5, 0.75], np.float32)]
    attributes = {"coordinate_transformation_mode": coordinates, "mode": mode, "antialias": 1}
    check("Resize", arrays, opset=19, atol=5e-5, **attributes)


def test_one_and_three_axes() -> None:
    flat = np.random.default_rng(0).standard_normal((2, 3, 7)).astype(np.float32)
    check("Resize", [flat, None, np.array([1, 1, 2.5], np.float32)], opset=19, mode="linear")
    solid = np.random.default_rng(0).standard_normal((1, 2, 3, 4, 5)).astype(np.float32)
    check("Resize", [solid, None, None, np.array([1, 2, 6, 5, 9])], opset=19, mode="linear")
    check("Resize", [solid, None, None, np.array([1, 2, 6, 5, 9])], opset=19)


def test_upsample() -> None:
    check("Upsample", [image(3, 4), np.array([1, 1, 2, 3], np.float32)], opset=9, mode="linear")


@pytest.mark.parametrize("antialias", [0, 1])
@pytest.mark.parametrize("mode", ["cubic", "linear"])
def test_gradients(mode: str, antialias: int) -> None:
    arrays = [image(4, 5), None, None, np.array([2, 3, 3, 8])]
    check_gradients("Resize", arrays, opset=19, mode=mode, antialias=antialias)


@pytest.mark.parametrize("mode", ["cubic", "linear", "nearest"])
@pytest.mark.parametrize("coordinates", ["align_corners", "asymmetric", "half_pixel"])
def test_export_with_a_dynamic_image(coordinates: str, mode: str) -> None:
    x = np.random.default_rng(0).standard_normal((4, 3, 8, 9)).astype(np.float32)
    attributes = {"coordinate_transformation_mode": coordinates, "mode": mode}
    scales = np.array([1, 1, 2, 0.5], np.float32)
    check_export("Resize", [x, None, scales], (0, 2, 3), opset=19, **attributes)
    sizes = np.array([16, 5])
    check_export("Resize", [x, None, None, sizes], (0, 2, 3), opset=19, axes=[2, 3], **attributes)
