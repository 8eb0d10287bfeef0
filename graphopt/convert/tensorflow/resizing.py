"""Bicubic resizing as TensorFlow does it: with weights from a table."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.convert.tensorflow.rewriting import Rewriting
from graphopt.runtime.feeds import Array

_TABLE = 1024
"""Places between two pixels that have weights of their own."""

_RANK = 4
_FLAGS = ("align_corners", "half_pixel_centers")


def resize_bicubic(graph: Any, node: Any, name: str, arguments: object) -> None:
    """Multiply rows and columns with TensorFlow's own weights, where the sizes are known.

    ONNX's Resize has exact weights; TensorFlow's are of the nearest of 1024 places between pixels.
    """
    del name, arguments
    from tf2onnx.onnx_opset import nn

    shape = graph.get_shape(node.input[0])
    target = node.inputs[1]
    if shape is None or len(shape) != _RANK or min(shape[1:3]) < 1 or not target.is_const():
        nn.Resize.version_11(graph, node)
        return
    attributes = {key: bool(value.i) for key, value in node.attr.items() if key in _FLAGS}
    sizes = [int(size) for size in target.get_tensor_value()]
    rows, columns = (
        weights(old, new, **attributes) for old, new in zip(shape[1:3], sizes, strict=True)
    )
    site = Rewriting(graph, node)
    image = site.cast(site.inputs[0], ir.DataType.FLOAT)
    image = site.made("Transpose", image, perm=[0, 3, 1, 2])
    image = site.made("MatMul", site.constant(rows), image)
    image = site.made("MatMul", image, site.constant(np.ascontiguousarray(columns.T)))
    site.end("Transpose", [image], perm=[0, 2, 3, 1])


def weights(
    old: int, new: int, *, align_corners: bool = False, half_pixel_centers: bool = False
) -> Array:
    """Return what each pixel counts in each pixel of the result, (new, old), in float32.

    Source: tensorflow/core/kernels/image/resize_bicubic_op.cc.

    Args:
        old: Pixels along an axis.
        new: Pixels along it in the result.
        align_corners: Whether the centres of the first and last pixels stay.
        half_pixel_centers: Whether pixels have their centres in their middle; Keys' kernel then,
            of the pixels that are there alone.
    """
    step = np.float32(old) / np.float32(new)
    if align_corners and new > 1:
        step = np.float32(old - 1) / np.float32(new - 1)
    table = _coefficients(-0.5 if half_pixel_centers else -0.75)
    found = np.zeros((new, old), np.float32)
    half = np.float32(0.5 if half_pixel_centers else 0)
    for row in range(new):
        place = (np.float32(row) + half) * step - half
        first = int(np.floor(place))
        offset = int(np.rint((place - np.float32(first)) * np.float32(_TABLE)))
        before, behind = table[offset, ::-1], table[_TABLE - offset]
        own = np.concatenate([before, behind])
        at = np.arange(first - 1, first + 3)
        within = np.clip(at, 0, old - 1)
        if half_pixel_centers:
            own[at != within] = 0
            total = own.sum(dtype=np.float32)
            if abs(total) >= 1000 * np.finfo(np.float32).tiny:
                own /= total
        np.add.at(found[row], within, own)
    return found


def _coefficients(a: float) -> Array:
    """Return the cubic kernel at distances of up to 1, and of 1 to 2, (places, 2)."""
    x = np.arange(_TABLE + 1, dtype=np.float32) / np.float32(_TABLE)
    sharpness = np.float32(a)
    near = ((sharpness + 2) * x - (sharpness + 3)) * x * x + 1
    x = x + 1
    far = ((sharpness * x - 5 * sharpness) * x + 8 * sharpness) * x - 4 * sharpness
    table: Array = np.stack([near, far], axis=1).astype(np.float32)
    return table
