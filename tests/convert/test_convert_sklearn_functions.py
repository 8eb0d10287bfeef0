from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.errors import GraphoptError

pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")

from sklearn import linear_model
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn_estimators import X, Y, converted, interface, outputs

UFUNCS = (
    np.abs, np.arctan, np.ceil, np.cos, np.cosh, np.exp, np.exp2, np.expm1, np.floor, np.log,
    np.log10, np.log1p, np.log2, np.negative, np.reciprocal, np.rint, np.sign, np.sin, np.sinh,
    np.sqrt, np.square, np.tan, np.tanh,
)  # fmt: skip
SMALL = np.array([[1e-9, 3e-6, 1e-3], [0.3, 1.5, 7.0]], np.float32)


@pytest.mark.parametrize("function", UFUNCS, ids=lambda function: function.__name__)
def test_function_of_numpy_is_written(function: Any) -> None:
    """Small arguments, too, where log(1 + x) and exp(x) - 1 as such lose all digits."""
    estimator = FunctionTransformer(function).fit(SMALL)
    model, _ = converted(estimator)
    (found,) = outputs(model, X=SMALL)
    expected = estimator.transform(SMALL.astype(np.float64))
    np.testing.assert_allclose(found, expected, rtol=8 * 2.0**-23)


@pytest.mark.parametrize("function", [np.arccos, np.arcsin])
def test_function_of_a_bounded_argument(function: Any) -> None:
    values = np.linspace(-0.99, 0.99, 12, dtype=np.float32).reshape(4, 3)
    estimator = make_pipeline(FunctionTransformer(np.tanh), FunctionTransformer(function))
    model, _ = converted(estimator.fit(values))
    (found,) = outputs(model, X=values)
    np.testing.assert_allclose(found, estimator.transform(values), rtol=1e-5)


def test_infinite_argument_of_log1p() -> None:
    model, _ = converted(FunctionTransformer(np.log1p).fit(SMALL))
    (found,) = outputs(model, X=np.array([[np.inf, -1, 0]], np.float32))
    np.testing.assert_array_equal(found, [[np.inf, -np.inf, 0]])


def test_step_of_a_pipeline_and_of_columns() -> None:
    columns = ColumnTransformer(
        [
            ("logs", FunctionTransformer(np.log1p), [20, 21, 30]),
            ("roots", make_pipeline(FunctionTransformer(np.sqrt), StandardScaler()), [40, 41]),
            ("same", FunctionTransformer(), [50]),
        ]
    )
    estimator = make_pipeline(columns, linear_model.LogisticRegression()).fit(X, Y % 3)
    model, _ = converted(estimator)
    assert list(interface(model)) == ["X", "label", "probabilities"]
    _, probabilities = outputs(model, X=X[:7].astype(np.float32))
    np.testing.assert_allclose(probabilities, estimator.predict_proba(X[:7]), atol=2e-6)


def test_float64_stays_float64(tmp_path: Any) -> None:
    np.savez(tmp_path / "x.npz", X=X[:20])
    estimator = FunctionTransformer(np.log1p).fit(X)
    model, _ = converted(estimator, data=str(tmp_path / "x.npz"))
    assert interface(model)["variable"][0] == "DOUBLE"
    (found,) = outputs(model, X=X[:7])
    np.testing.assert_allclose(found, np.log1p(X[:7]), rtol=4 * 2.0**-52)


@pytest.mark.parametrize("estimator", [
    FunctionTransformer(np.round),
    FunctionTransformer(np.add, kw_args={"x2": 1.0}),
    FunctionTransformer(np.exp, kw_args={"where": True}),
])  # fmt: skip
def test_other_functions_are_refused(estimator: Any) -> None:
    with pytest.raises(GraphoptError, match="no converter for the function of FunctionTransformer"):
        converted(estimator.fit(X))
