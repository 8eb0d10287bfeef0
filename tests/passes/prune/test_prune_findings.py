from __future__ import annotations

from typing import Any

import pytest
from before_after import model_of
from prune_runs import drawn

from graphopt.pipeline.contract import Context, Finding
from passes.prune import Prune

TEXT = """
main (float[N,3,4,4] x) => (float[N,4,4,4] y) {
    a = Conv(x, w1)
    r = Relu(a)
    y = Conv(r, w2)
}"""


def findings(model: Any, **parameters: Any) -> list[str]:
    found = Prune(ratio=0.5, **parameters).rewrites(model, Context())
    return [one.why for one in found if isinstance(one, Finding)]


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({}, []),
        ({"include": "w1"}, []),
        ({"include": "conv9*"}, ["no layer matches include='conv9*'"]),
        ({"op_types": ("Gemm", "MatMul")}, ["no layer is a Gemm or MatMul (op_types)"]),
        (
            {"score": "batchnorm"},
            ["no BatchNormalization scores a channel: cleanup folds them, so prune before it"],
        ),
    ],
    ids=str,
)
def test_what_nothing_goes_by_is_told(parameters: dict[str, Any], why: list[str]) -> None:
    model = drawn(TEXT, w1=(8, 3, 1, 1), w2=(4, 8, 1, 1))
    assert findings(model, **parameters) == why


def test_a_model_without_layers_is_told() -> None:
    model = model_of("main (int64[N] x) => (int64[N] y) { y = Add(x, x) }")
    assert findings(model) == ["no layer has weights that can be cut"]
