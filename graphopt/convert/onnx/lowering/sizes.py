"""Sizes, paddings and coordinates in older opsets."""

from __future__ import annotations

import numpy as np

from graphopt.convert.onnx.lowering.reading import crosses, input_of, integers_of
from graphopt.rewrite.constants import constant, scalar
from graphopt.rewrite.opset_changes import Edit, Impossible, Site
from graphopt.rewrite.opset_changes.attributes import forget, given


def pad(site: Site) -> Edit | None:
    """Pads and what fills them were attributes until opset 11; some axes alone since 18."""
    spread = _spread_pads(site) if crosses(site, 18) and input_of(site, 3) is not None else None
    if not crosses(site, 11):
        return spread
    if spread is not None:
        raise Impossible("it pads some axes only")
    pads = integers_of(site, 1, "pads")
    value = input_of(site, 2)
    filling = 0.0 if value is None else scalar(value)
    if filling is None:
        raise Impossible("what it fills with is computed, and had to be an attribute")

    def apply() -> None:
        site.node.resize_inputs(1)
        given(site, pads=list(pads or ()), value=float(filling))()

    return apply


def _spread_pads(site: Site) -> Edit:
    """Pad the other axes, too, by nothing: a Gather takes that from behind the pads."""
    axes, rank = integers_of(site, 3, "axes") or (), site.rank(0)
    if rank is None:
        raise Impossible("it pads some axes only, and the rank of its input is not known")
    places = np.full(2 * rank, 2 * len(axes), np.int64)
    for index, axis in enumerate(axes):
        places[axis % rank] = index
        places[axis % rank + rank] = index + len(axes)

    def apply() -> None:
        nothing = site.integers("nothing", [0])
        padded = site.add("Concat", [site.node.inputs[1], nothing], "given", axis=0)
        every = site.add(
            "Gather", [padded, site.integers("places", places.tolist())], "pads", axis=0
        )
        site.node.resize_inputs(3)
        site.read(1, every)

    return apply


def grid_sample(site: Site) -> Edit | None:
    """Images of two dimensions until opset 20, and other names of modes."""
    if not crosses(site, 20):
        return None
    if site.rank(0) not in (None, 4):
        raise Impossible("it took images of two dimensions only")
    old = {"linear": "bilinear", "cubic": "bicubic"}
    mode = site.value("mode", "linear")
    return given(site, mode=old.get(mode, mode))


def resize(site: Site) -> Edit | None:
    """Region and scales had to be there until opset 13."""
    if crosses(site, 11):
        return resize_of_10(site)
    if not crosses(site, 13):
        return None

    def apply() -> None:
        # Region and scales had to be there, if empty.
        for index, what in ((1, "roi"), (2, "scales")):
            if input_of(site, index) is None:
                site.read(index, site.constant(what, np.zeros(0, np.float32)))

    return apply


def resize_of_10(site: Site) -> Edit | None:
    """Asymmetric coordinates until opset 11."""
    mode = site.value("mode", "nearest")
    if site.value("coordinate_transformation_mode", "half_pixel") != "asymmetric":
        raise Impossible("its coordinates were asymmetric only")
    scales = constant(input_of(site, 2))
    if scales is None or not scales.size:
        raise Impossible("it says no scales")
    if mode == "cubic":
        raise Impossible("its mode cubic came later")
    if mode == "nearest" and (
        site.value("nearest_mode", "round_prefer_floor") != "floor" or (scales.numpy() < 1).any()
    ):
        raise Impossible("it rounds in a way that came later")

    def apply() -> None:
        content = site.node.inputs[2]
        site.node.resize_inputs(2)
        site.node.replace_input_with(1, content)
        forget(
            site, "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a",
            "exclude_outside", "extrapolation_value",
        )  # fmt: skip
        if site.target < 10:
            site.node.op_type = "Upsample"

    return apply


def pool(site: Site) -> Edit | None:
    """Until opset 22 a last window counted that starts in the padding at the end."""
    if not crosses(site, 22) or not site.value("ceil_mode", 0):
        return None
    kernel = site.value("kernel_shape", ())
    shape = site.facts.shapes.shape(site.node.inputs[0])
    strides = site.value("strides", [1] * len(kernel))
    dilations = site.value("dilations", [1] * len(kernel))
    pads = site.value("pads", [0] * 2 * len(kernel))
    for axis, (window, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        size = None if shape is None else shape[axis + 2]
        if not isinstance(size, int):
            raise Impossible("its ceil_mode counted windows otherwise, and its size is not known")
        begin, end = pads[axis], pads[axis + len(kernel)]
        windows = -(-(size + begin + end - dilation * (window - 1) - 1) // stride) + 1
        if (windows - 1) * stride >= size + begin:
            raise Impossible("its ceil_mode counted one window more")
    return None


def roi_align(site: Site) -> Edit | None:
    """Other coordinates until opset 16."""
    if not crosses(site, 16):
        return None
    if site.value("coordinate_transformation_mode", "half_pixel") != "output_half_pixel":
        raise Impossible("its coordinates are half_pixel, which came later")
    return lambda: forget(site, "coordinate_transformation_mode")
