"""What exporters wrote and ONNX Runtime refuses: said as such, not as a fault of cleanup."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.convert import Options
from graphopt.convert.finishing import finish
from graphopt.errors import CheckFailed, GraphoptError
from graphopt.runtime.feeds import Array, Batch

X = np.ones((2, 3), np.float32)


def model(node: str, *initializers: str) -> ir.Model:
    given = f"<{', '.join(initializers)}>" if initializers else ""
    return ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[n, 3] x) => (float[m, 3] y) {given}'
        f"{{ {node} }}"
    )


def reference(batch: Batch) -> Sequence[Array]:
    return list(batch.values())


@pytest.mark.parametrize("cleanup", [None, False])
def test_model_that_no_runtime_loads_is_the_exporters_fault(cleanup: bool | None) -> None:
    broken = model(
        "[join] k = Concat<axis = 0>(a, b) z = Reshape(x, k) y = Relu(z)",
        "int64[2] a = {2, 3}",
        "int64[1, 1] b = {1}",
    )
    with pytest.raises(
        GraphoptError, match=r"as its exporter wrote it does not load.*Concat"
    ) as caught:
        finish(broken, [X], reference, Options(cleanup=cleanup))
    assert caught.value.exit_code == 2


def test_model_that_loads_and_differs_is_a_failed_check() -> None:
    with pytest.raises(CheckFailed, match="differs from the source framework"):
        finish(model("y = Neg(x)"), [X], reference, Options())
