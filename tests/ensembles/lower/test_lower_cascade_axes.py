"""Along which axis of a value a cascade takes rows, and where it cannot."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from lowered import Ensemble, between, softmax, text_model

from graphopt.ensembles.reference import evaluate
from graphopt.errors import GraphoptError


def beside_a_table(factor: float, rows_of_table: str | int | None) -> ir.Model:
    """Probabilities of rows, which the mean of another input moves."""
    model = text_model(
        f"""<ir_version: 8, opset_import: ["": 13]>
        g (float[N, 3] x, float[K, 3] table) => (float[N, 3] p) {{
            f = Constant<value_float = {factor}>()
            means = ReduceMean<axes = [0], keepdims = 1>(table)
            scaled = Mul(x, f)
            moved = Add(scaled, means)
            p = Softmax(moved)
        }}"""
    )
    model.graph.inputs[1].shape = ir.Shape([rows_of_table, 3])
    return model


@pytest.mark.parametrize(
    ("rows_of_table", "batch"),
    [*(("K", n) for n in (1, 5, 7)), *((5, n) for n in (1, 5, 7)), (None, 1), (None, 7)],
)
def test_an_input_whose_rows_are_not_the_batch_is_seen_whole(
    rows_of_table: str | int | None, batch: int
) -> None:
    rng = np.random.default_rng(batch)
    x, held = (rng.standard_normal((n, 3)).astype(np.float32) for n in (batch, 5))
    members = {name: beside_a_table(k, rows_of_table) for name, k in (("a", 1.0), ("b", 4.0))}
    first, second = (softmax(x * k + held.mean(0)) for k in (1, 4))
    threshold = between(first.max(-1), 0.5)
    text = f"cascade(a, b, confidence={threshold!r})"
    expected = np.where(first.max(-1, keepdims=True) >= threshold, first, second)
    found = Ensemble(text, **members).only(x=x, table=held)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    (reference,) = evaluate(text, members, {"x": x, "table": held}).values()
    np.testing.assert_allclose(reference, expected, rtol=1e-5, atol=1e-6)


def test_rows_that_lie_along_two_axes_are_refused() -> None:
    member = text_model(
        """<ir_version: 8, opset_import: ["": 13]>
        g (float[N, 3] x, float[N, N] edges) => (float[N, 3] p) {
            mixed = MatMul(edges, x)
            p = Softmax(mixed)
        }"""
    )
    with pytest.raises(GraphoptError, match="'edges' has the rows of the batch along 2 axes"):
        Ensemble("cascade(a, b, confidence=0.5)", a=member, b=member.clone())
    Ensemble("mean(a, b)", a=member, b=member.clone())


def test_an_undeclared_output_beside_a_state_is_picked_or_refused() -> None:
    member = text_model(
        """<ir_version: 8, opset_import: ["": 13]>
        g (float[N, 3] x, float[2, N, 3] state) => (float[N, 3] p, float[A, B, C] next) {
            moved = Add(state, x)
            next = Tanh(moved)
            p = Softmax(x)
        }"""
    )
    member.graph.outputs[1].shape = ir.Shape([None, None, None])
    members = {"a": member, "b": member.clone()}
    with pytest.raises(GraphoptError, match="'a/next' has the rows of the batch is not declared"):
        Ensemble("cascade(a, b, confidence=0.5)", **members)
    Ensemble("cascade(a.p, b.p, confidence=0.5)", **members)
