"""Resize, and Upsample before it: the coordinates that they read from, and how they round."""

from __future__ import annotations

import numpy as np

from graphopt.rewrite.constants import Array, array
from graphopt.rewrite.opset_changes.attributes import given
from graphopt.rewrite.opset_changes.site import Edit, Impossible, Site


def upsample(site: Site) -> Edit | None:
    """Scales are an input since opset 9; Resize took its place in 10."""
    if site.source < 7:
        raise Impossible("it scales in the way of the first versions")
    scales = site.value("scales") if site.source < 9 else None
    if site.source < 9 and scales is None:
        raise Impossible("it says no scales")

    def apply() -> None:
        if scales is not None:
            del site.node.attributes["scales"]
            site.read(1, site.constant("scales", np.asarray(scales, np.float32)))
        if site.target >= 10:
            site.node.op_type = "Resize"
        if site.target >= 11:
            _place_asymmetric(site, "floor")

    return apply if site.target >= 9 else None


def resize(site: Site) -> Edit | None:
    """Coordinates and rounding are attributes since opset 11; one kind is gone since 13."""
    if site.crosses(11):
        rounding = "floor"
        if site.value("mode", "nearest") == "nearest":
            rounding = _rounding(array(site.node.inputs[1]))
        return lambda: _place_asymmetric(site, rounding)
    mode = site.value("coordinate_transformation_mode", "half_pixel")
    if site.crosses(13) and mode == "tf_half_pixel_for_nn":
        raise Impossible(f"its coordinates are {mode}, which is gone")
    return None


def _rounding(scales: Array | None) -> str:
    """Opset 10 cuts the places off where it enlarges, and rounds up where it reduces."""
    if scales is None:
        raise Impossible("its scales are computed, and rounding depends on them")
    if (scales >= 1).all():
        return "floor"
    if (scales <= 1).all():
        return "ceil"
    raise Impossible("it enlarges one axis and reduces another")


def _place_asymmetric(site: Site, rounding: str) -> None:
    node = site.node
    scales = node.inputs[1]
    # Required, and not read, before opset 13.
    roi = site.constant("roi", np.zeros(0, np.float32)) if site.target < 13 else None
    site.read(2, scales)
    site.read(1, roi)
    given(site, coordinate_transformation_mode="asymmetric", nearest_mode=rounding)()
