"""Which models of ONNX's own backend suite cross to onnx-graphsurgeon and back without a loss."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from graphopt.errors import GraphoptError
from graphopt.model import load
from graphopt.surgeon import refuse_losses

SHIPPED = sorted((Path(onnx.__file__).parent / "backend/test/data").rglob("model.onnx"))
# onnx-graphsurgeon drops the shapes inside sequences, and has no optional types.
REFUSED = ("shape of tensor_type of elem_type of sequence_type", "type of value")


def generated(folder: Path) -> Iterator[Path]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        # Reference implementations of the suite divide by zero on purpose.
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    for case in cases:
        path = folder / f"{case.name}.onnx"
        path.write_bytes(case.model.SerializeToString())
        yield path


def refusals(paths: Iterator[Path]) -> list[str]:
    found = []
    for path in paths:
        try:
            refuse_losses(load(path), path.stem)
        except GraphoptError as error:
            found.append(str(error))
    return found


def test_all_shipped_models_cross() -> None:
    assert len(SHIPPED) > 100
    assert refusals(iter(SHIPPED)) == []


@pytest.mark.slow
def test_nearly_all_node_models_cross_and_the_others_are_refused_by_name(tmp_path: Path) -> None:
    found = refusals(generated(tmp_path))
    assert len(list(tmp_path.iterdir())) > 1800
    assert len(found) < 30
    assert all(any(reason in text for reason in REFUSED) for text in found)
