"""A convolutional network on integers from end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt.model import load
from graphopt.pipeline.contract import Context, Declined, Rewrite
from graphopt.runtime.feeds import Feeds
from graphopt.runtime.session import Session
from passes.quantize.quantize import Quantize

FIXTURES = Path(__file__).parents[3] / "fixtures"


@pytest.mark.parametrize("name", ["cnn", "mlp", "resnet", "separable"])
def test_fixture_keeps_its_accuracy(name: str) -> None:
    calibration = np.load(FIXTURES / "digits_calibration.npz")
    test = np.load(FIXTURES / "digits_test.npz")
    (images,) = (key for key in test.files if key != "labels")
    model = load(FIXTURES / f"digits_{name}.onnx")
    before = Session(model).run({images: test[images]})
    context = Context(feeds=Feeds({images: calibration[images]}).for_model(model))
    for item in Quantize(mode="static").rewrites(model, context):
        assert not isinstance(item, Declined)
        if isinstance(item, Rewrite):
            item.apply()
    after = Session(model).run({images: test[images]})
    for output, reference in before.items():
        assert after[output].dtype == reference.dtype
        right = (reference.argmax(1) == test["labels"]).mean()
        assert (after[output].argmax(1) == test["labels"]).mean() >= right - 0.005
