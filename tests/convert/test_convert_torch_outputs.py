"""Networks that return other things than tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from converted_models import run, shapes

from graphopt.convert import Options, convert
from graphopt.errors import GraphoptError

pytestmark = pytest.mark.usefixtures("importable_sources")


@pytest.mark.parametrize("static", [False, True])
def test_outputs_that_are_no_tensors_are_left_out_and_named(static: bool) -> None:
    conversion = convert("torch_troubles:counting", options=Options(static=static))
    rows = 3 if static else "batch"
    assert shapes(conversion.model) == {"x": [rows, 4], "sum": [rows, 4], "inner_0": [rows, 4]}
    left_out = "left out of the outputs, as no tensor: 'rows', 'half', 'inner_1', 'name', 'cut'"
    assert left_out in conversion.notes
    x = np.ones((3, 4), np.float32)
    for array, factor in zip(run(conversion.model, x=x), (2, 3), strict=True):
        np.testing.assert_array_equal(array, x * factor)


def test_program_that_returns_a_size(tmp_path: Path) -> None:
    class Sized(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[int, torch.Tensor]:
            return x.shape[0], x * 2

    path = tmp_path / "sized.pt2"
    shape = {0: torch.export.Dim("rows")}
    torch.export.save(
        torch.export.export(Sized(), (torch.ones(3, 4),), dynamic_shapes=(shape,)), path
    )
    conversion = convert(str(path))
    assert "left out of the outputs, as no tensor: 0" in conversion.notes
    assert len(conversion.model.graph.outputs) == 1


def test_network_that_returns_no_tensor_is_refused() -> None:
    with pytest.raises(GraphoptError, match="returns no tensor"):
        convert("torch_troubles:of_no_tensor")
