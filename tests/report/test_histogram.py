from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from graphopt.pipeline.contract import Context, Declined, Effect, Pass, Rewrite
from graphopt.pipeline.manager import run
from graphopt.report.histogram import Histogram, WeightHistograms, take

Array = npt.NDArray[Any]


def histogram(before: Array, after: Array, threshold: float | None = None) -> Histogram:
    return take(
        ir.tensor(before), ir.tensor(after), weight="w", pass_text="cut()", threshold=threshold
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_every_element_is_counted_once(dtype: type) -> None:
    before: Array = np.random.default_rng(0).normal(size=(30, 40)).astype(dtype)
    before[0, :5] = 0
    after: Array = np.where(np.abs(before.astype(np.float64)) < 0.5, 0, before).astype(dtype)
    found = histogram(before, after, 0.5)
    assert found.shape == (30, 40)
    assert found.zeros_before == 5
    assert found.zeros_after == np.count_nonzero(after.astype(np.float64) == 0)
    assert sum(found.before) + found.zeros_before == 1200
    assert sum(found.after) + found.zeros_after == 1200


def test_bins_are_where_the_values_are() -> None:
    values = np.array([-2.0, -2.0, -0.001, 0.001, 2.0])
    found = histogram(values, values)
    assert found.limit == 2.0
    assert len(found.before) % 2 == 1
    assert (found.before[0], found.before[-1]) == (2, 1)
    assert found.before[len(found.before) // 2] == 2


def test_what_a_pass_removed_is_the_difference() -> None:
    before = np.linspace(-1, 1, 2001)
    after = np.where(np.abs(before) < 0.5, 0, before)
    found = histogram(before, after, 0.5)
    width = 2 * found.limit / len(found.before)
    for index, (old, new) in enumerate(zip(found.before, found.after, strict=True)):
        low = -found.limit + index * width
        if low > 0.5 or low + width < -0.5:
            assert new == old
        elif low > -0.5 and low + width < 0.5:
            assert new == 0
            assert old > 0


def test_an_outlier_does_not_flatten_the_rest() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=10_000), [1e6]])
    values = np.concatenate([values, np.full(10**6, 0.1)])
    found = histogram(values, values)
    assert found.limit < 1e5
    assert sum(found.before) == values.size


def test_the_threshold_is_inside() -> None:
    values = np.array([0.1, -0.1, 10.0] + [0.1] * 1000)
    assert histogram(values, values, 8.0).limit >= 8.0


@pytest.mark.parametrize(
    "values", [[0.0, 0.0], [np.nan, np.inf, -np.inf], [1e308, -1e308, 1e300], [5e-324, 0.0], []]
)
def test_odd_values(values: list[float]) -> None:
    array = np.array(values)
    found = histogram(array, array)
    assert np.isfinite(found.limit)
    assert found.limit > 0
    finite = array[np.isfinite(array)]
    assert sum(found.before) + found.zeros_before == finite.size


@dataclass(frozen=True)
class Cut(Pass):
    """Zero what is small, in every weight of the main graph."""

    name: ClassVar[str] = "cut"
    effect: ClassVar[Effect] = Effect.LOSSY

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        del context
        for value in list(model.graph.initializers.values()):
            tensor = value.const_value
            assert tensor is not None
            array = tensor.numpy()
            cut = ir.tensor(np.where(np.abs(array) < 0.5, 0, array).astype(array.dtype))

            def apply(value: ir.Value = value, cut: ir.TensorProtocol = cut) -> None:
                value.const_value = cut

            details = {"weight": value.name, "threshold": 0.5, "elements": array.size}
            yield Rewrite(value.name or "", "it has small values", apply, details)


def model_of(*shapes: tuple[int, ...]) -> ir.Model:
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["": 20]> g (float[N,8] x) => (y) { y = Relu(x) }'
    )
    generator = np.random.default_rng(0)
    for index, shape in enumerate(shapes):
        tensor = ir.tensor(generator.normal(size=shape).astype(np.float32), name=f"w{index}")
        model.graph.register_initializer(ir.Value(name=f"w{index}", const_value=tensor))
    return model


def test_the_instrument_reads_the_largest_weights() -> None:
    instrument = WeightHistograms(most=2)
    run(model_of((4, 4), (8, 8), (2, 2), (6, 6)), [Cut()], instruments=[instrument])
    assert [found.weight for found in instrument.found] == ["w1", "w3"]
    first = instrument.found[0]
    assert first.threshold == 0.5
    assert first.zeros_before == 0 < first.zeros_after
    assert sum(first.before) == 64


def test_a_pass_without_weights_takes_no_histogram() -> None:
    instrument = WeightHistograms()
    run(model_of(), [Cut()], instruments=[instrument])
    assert instrument.found == ()


def test_memory_is_that_of_a_piece(tmp_path: Path) -> None:
    elements = 1 << 23
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(4 * elements)
    tensor = ir.ExternalTensor(
        "w.bin",
        0,
        4 * elements,
        ir.DataType.FLOAT,
        shape=ir.Shape([elements]),
        name="w",
        base_dir=tmp_path,
    )
    tracemalloc.start()
    found = take(tensor, tensor, weight="w", pass_text="")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.zeros_before == elements
    assert peak < 16 << 20
