"""Grids, boxes and signals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from one_node import check, check_gradients, one_node

from graphopt.training import OnnxModule

Array = np.ndarray[Any, Any]


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("padding", ["border", "reflection", "zeros"])
@pytest.mark.parametrize("mode", ["cubic", "linear", "nearest"])
def test_sampling_along_grids(mode: str, padding: str, aligned: int) -> None:
    attributes = {"mode": mode, "padding_mode": padding, "align_corners": aligned}
    grid = (normal(1, 2, 3, 4, 2) * 1.2).astype(np.float32)
    check("GridSample", [normal(0, 2, 3, 5, 6), grid], atol=5e-5, **attributes)
    if mode != "cubic":
        grid = (normal(1, 2, 3, 4, 2, 3) * 1.2).astype(np.float32)
        check("GridSample", [normal(0, 2, 3, 5, 6, 4), grid], atol=5e-5, **attributes)


@pytest.mark.parametrize("aligned", [0, 1])
def test_grids_of_affine_transformations(aligned: int) -> None:
    for size in ([2, 3, 4, 5], [2, 3, 4, 5, 6]):
        axes = len(size) - 2
        theta = normal(0, 2, axes, axes + 1)
        check("AffineGrid", [theta, np.array(size)], align_corners=aligned)


def test_blocks_that_overlap() -> None:
    # Two axes with dilations, three without: ONNX Runtime mixes up those of three.
    attributes: dict[str, Any] = {"dilations": [2, 1], "pads": [1, 0, 0, 2], "strides": [1, 2]}
    blocks = [normal(0, 2, 12, 6 * 3), np.array([7, 5]), np.array([2, 2])]
    check("Col2Im", blocks, opset=18, **attributes)
    check_gradients("Col2Im", blocks, opset=18, **attributes)
    solid = [normal(0, 1, 16, 4 * 3 * 2), np.array([5, 4, 3]), np.array([2, 2, 2])]
    check("Col2Im", solid, opset=18)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("coordinates", ["half_pixel", "output_half_pixel"])
def test_pooling_in_regions(coordinates: str, ratio: int, mode: str) -> None:
    corners = np.random.default_rng(0).uniform(-1, 12, (5, 2, 2)).astype(np.float32)
    regions, images = np.sort(corners, 1).reshape(5, 4), np.array([0, 1, 1, 0, 1])
    arrays = [normal(0, 2, 3, 7, 9), regions, images]
    attributes: dict[str, Any] = {"mode": mode, "sampling_ratio": ratio, "spatial_scale": 0.7}
    attributes.update(output_height=2, output_width=3, coordinate_transformation_mode=coordinates)
    check("RoiAlign", arrays, opset=16, atol=5e-5, **attributes)
    check_gradients("RoiAlign", arrays, opset=16, **attributes)
    numbered = np.concatenate([images[:, None].astype(np.float32), regions], 1)
    attributes = {"pooled_shape": [2, 3], "spatial_scale": 0.7}
    check("MaxRoiPool", [arrays[0], numbered], opset=13, **attributes)


@pytest.mark.parametrize("centred", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_choosing_boxes(seed: int, centred: int) -> None:
    numbers = np.random.default_rng(seed)
    boxes = numbers.random((2, 12, 4)).astype(np.float32)
    # Rounded, so that some are equal.
    scores = np.round(numbers.random((2, 3, 12)), 1).astype(np.float32)
    bounds: list[Array] = [np.array([4]), np.array([0.3], np.float32), np.array([0.4], np.float32)]
    for count in range(4):
        arrays = [boxes, scores, *bounds[:count]]
        check("NonMaxSuppression", arrays, opset=11, center_point_box=centred)


@pytest.mark.parametrize("axis", [1, 2, -2])
@pytest.mark.parametrize("length", [None, 4, 9])
def test_fourier_transforms(length: int | None, axis: int) -> None:
    size = None if length is None else np.array(length)
    at = np.array(axis)
    real, pairs = normal(0, 2, 5, 6, 1), normal(1, 2, 5, 6, 2)
    bounds: dict[str, Any] = {"opset": 20, "atol": 1e-4}
    for onesided in (0, 1):
        check("DFT", [real, size, at], onesided=onesided, **bounds)
    for inverse in (0, 1):
        check("DFT", [pairs, size, at], inverse=inverse, **bounds)
    check_gradients("DFT", [real, size, at], opset=20, onesided=1)


@pytest.mark.parametrize("length", [3, 4, 7])
def test_real_signals_of_frequencies(length: int) -> None:
    # ONNX Runtime is right where the length is that of the input only.
    pairs = normal(0, 2, 5, 2)
    arrays = [pairs, np.array(length), np.array(1)]
    module = OnnxModule(one_node("DFT", arrays, opset=20, inverse=1, onesided=1))
    found = module(*[torch.from_numpy(np.asarray(each)) for each in arrays])
    wanted = np.fft.irfft(pairs[..., 0] + 1j * pairs[..., 1], length, axis=1)
    np.testing.assert_allclose(found[..., 0].numpy(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("onesided", [0, 1])
def test_transforms_of_frames(onesided: int) -> None:
    arrays = [normal(0, 2, 30, 1), np.array(3), normal(1, 8), np.array(8)]
    check("STFT", arrays, opset=17, atol=1e-4, onesided=onesided)
    check("STFT", [*arrays[:2], None, arrays[3]], opset=17, atol=1e-4, onesided=onesided)


@pytest.mark.parametrize("periodic", [0, 1])
@pytest.mark.parametrize("name", ["BlackmanWindow", "HammingWindow", "HannWindow"])
def test_windows(name: str, periodic: int) -> None:
    for size in (2, 7, 16):
        check(name, [np.array(size)], opset=17, periodic=periodic)


def test_mel_weights() -> None:
    for bins, length in ((4, 16), (20, 128)):
        edges = [np.array(60.0, np.float32), np.array(3000.0, np.float32)]
        check("MelWeightMatrix", [*map(np.array, (bins, length, 8192)), *edges], opset=17)
