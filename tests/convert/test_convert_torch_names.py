"""What inputs, outputs and dimensions of networks are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from converted_models import computed

from graphopt.convert import Options, convert

torch = pytest.importorskip("torch")

X = np.arange(12, dtype=np.float32).reshape(3, 4)


pytestmark = pytest.mark.usefixtures("importable_sources")


def converted(name: str) -> ir.Model:
    return convert(f"torch_interfaces:{name}").model


def test_outputs_are_named_by_their_keys() -> None:
    outputs = computed(converted("keyed"), x=X)

    assert list(outputs) == ["sum", "parts_0", "parts_1_0"]
    np.testing.assert_array_equal(outputs["sum"], X + 1)
    np.testing.assert_array_equal(outputs["parts_1_0"], X > 0)


def test_outputs_are_named_by_fields_of_a_named_tuple() -> None:
    outputs = computed(converted("fields"), x=X)

    assert list(outputs) == ["mean", "spread"]
    np.testing.assert_allclose(outputs["spread"], X.std(axis=1, ddof=1), rtol=1e-6)


def test_an_output_of_the_name_of_an_input_gets_another() -> None:
    outputs = computed(converted("keyed_as_input"), x=X)

    assert list(outputs) == ["x_output", "again"]
    np.testing.assert_array_equal(outputs["again"], X * 2)


def test_an_input_that_is_returned_keeps_its_name() -> None:
    model = converted("returning")

    assert [value.name for value in model.graph.inputs] == ["x"]
    outputs = computed(model, x=X)
    assert next(iter(outputs)) == "x_output"
    np.testing.assert_array_equal(outputs["x_output"], X)


def test_the_batch_of_an_unused_input_is_the_batch() -> None:
    dims = [
        [dim if isinstance(dim, int) else dim.value for dim in value.shape or ()]
        for value in converted("unused").graph.inputs
    ]

    # A table of another size is no batch, though nothing says more of it.
    assert dims == [["batch", 3], ["batch", 4], ["table_dim_0", 4]]


def test_capitals_of_inputs_are_kept(tmp_path: Path) -> None:
    shapes = dict.fromkeys(("X", "Mask"), ("batch", "width"))
    model = convert("torch_troubles:capitals", options=Options(dynamic_shapes=shapes)).model
    assert {value.name: str(value.shape) for value in model.graph.inputs} == {
        "X": "[batch,width]",
        "Mask": "[batch,width]",
    }
    np.savez(tmp_path / "data.npz", X=X[:2], Mask=X[:2] > 3)
    given = convert(
        "torch_troubles:capitals", options=Options(static=True, data=str(tmp_path / "data.npz"))
    ).model
    (product,) = computed(given, X=X[:2], Mask=X[:2] > 3).values()
    np.testing.assert_array_equal(product, X[:2] * (X[:2] > 3))


@pytest.mark.parametrize("fixed", [True, False])
def test_capitals_of_inputs_of_a_saved_program_are_kept(tmp_path: Path, fixed: bool) -> None:
    class Structured(torch.nn.Module):
        def forward(
            self,
            X: torch.Tensor,  # noqa: N803  # its names are the test
            Parts: dict[str, torch.Tensor],  # noqa: N803
            *,
            maskB: torch.Tensor,  # noqa: N803
        ) -> torch.Tensor:
            return X * 2 + Parts["Q"] - maskB

    # torch.export takes one tensor in three places for one input.
    x, part, mask = (torch.ones(2, 3) for _ in range(3))
    shape = None if fixed else {0: torch.export.Dim("rows")}
    program = torch.export.export(
        Structured(),
        (x, {"Q": part}),
        {"maskB": mask},
        dynamic_shapes={"X": shape, "Parts": {"Q": shape}, "maskB": shape},
    )
    torch.export.save(program, tmp_path / "program.pt2")

    model = convert(str(tmp_path / "program.pt2")).model

    assert [value.name for value in model.graph.inputs] == ["X", "Parts_Q", "maskB"]
    feeds = {"X": X[:, :3], "Parts_Q": X[:, 1:], "maskB": X[:, :3] * 3}
    (found,) = computed(model, **feeds).values()
    np.testing.assert_array_equal(found, X[:, 1:] - X[:, :3])
