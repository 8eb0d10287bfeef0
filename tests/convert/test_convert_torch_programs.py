from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from converted_models import run, shapes
from exported_programs import program_of

from graphopt.convert import Options, convert
from graphopt.errors import GraphoptError

HERE = Path(__file__).parent
SHARED = HERE.parents[1].parent / "shared" / "models"


pytestmark = pytest.mark.usefixtures("importable_sources")


def test_program_is_converted(tmp_path: Path) -> None:
    path = program_of("mlp", tmp_path / "mlp.pt2", ({0: torch.export.Dim("rows")},))
    conversion = convert(str(path))
    assert shapes(conversion.model)["features"] == ["batch", 6]
    assert {parity.sizes["batch"] for parity in conversion.parity} == {3, 4, 1}


def test_program_with_control_flow_and_two_dynamic_dimensions(tmp_path: Path) -> None:
    batch, sequence = torch.export.Dim("b"), torch.export.Dim("s")
    shape = {0: batch, 1: sequence}
    path = program_of("masked", tmp_path / "masked.pt2", (shape, shape))
    conversion = convert(
        str(path), options=Options(dynamic_shapes={"tokens": ("batch", "sequence")})
    )
    assert shapes(conversion.model)["mask"] == ["batch", "sequence"]
    path = program_of("branching", tmp_path / "branching.pt2")
    assert "If" in {node.op_type for node in convert(str(path)).model.graph}


def test_batch_of_a_static_program_is_freed_where_samples_stand_alone(tmp_path: Path) -> None:
    path = program_of("mlp", tmp_path / "mlp.pt2")
    conversion = convert(str(path))
    assert shapes(conversion.model)["features"] == ["batch", 6]
    assert [parity.sizes["batch"] for parity in conversion.parity] == [3, 4, 1]
    assert "the batch, fixed in the program, was freed" in conversion.notes[0]
    import networks

    x = torch.randn(9, 6)
    (y,) = run(conversion.model, features=x.numpy())
    with torch.no_grad():
        expected = networks.Mlp().eval()(x).numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["fixed_batch", "mixing"])
def test_static_program_whose_samples_do_not_stand_alone_stays_static(
    tmp_path: Path, name: str
) -> None:
    path = program_of(name, tmp_path / "program.pt2")
    conversion = convert(str(path))
    assert shapes(conversion.model)["x"] == [2, 5]
    assert "axis 0 of x stays 2" in conversion.notes[0]
    with pytest.raises(GraphoptError, match="is 2 in the program and cannot vary"):
        convert(str(path), options=Options(dynamic_shapes={"x": ("batch", 5)}))


def test_static_program_stays_static_when_asked(tmp_path: Path) -> None:
    path = program_of("mlp", tmp_path / "mlp.pt2")
    conversion = convert(str(path), options=Options(static=True))
    assert shapes(conversion.model)["features"] == [3, 6]
    assert conversion.notes == ()


def test_dynamic_program_becomes_static_when_asked(tmp_path: Path) -> None:
    path = program_of("mlp", tmp_path / "mlp.pt2", ({0: torch.export.Dim("rows")},))
    conversion = convert(str(path), options=Options(static=True))
    assert shapes(conversion.model)["features"] == [3, 6]


def test_shared_program_keeps_its_interface() -> None:
    path = SHARED / "cifar10_resnet20.pt2"
    if not path.exists():
        pytest.skip("../shared/models/cifar10_resnet20.pt2 is absent")
    conversion = convert(str(path), options=Options(output_names=("logits",)))
    assert shapes(conversion.model) == {"image": ["batch", 3, 32, 32], "logits": ["batch", 10]}
    x = np.random.default_rng(0).standard_normal((5, 3, 32, 32)).astype(np.float32)
    reference = onnxruntime.InferenceSession(SHARED / "cifar10_resnet20.onnx")
    (expected,) = reference.run(None, {"image": x})
    (y,) = run(conversion.model, image=x)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_example_inputs_from_a_file(tmp_path: Path) -> None:
    data = tmp_path / "examples.npz"
    with pytest.raises(GraphoptError, match=r"has no example inputs; .*--data"):
        convert("networks:mlp_alone")
    np.savez(data, features=np.ones((5, 6), np.float32), labels=np.zeros(5))
    conversion = convert("networks:mlp_alone", options=Options(data=str(data)))
    assert shapes(conversion.model)["features"] == ["batch", 6]
    np.savez(data, pixels=np.ones((5, 6), np.float32))
    with pytest.raises(GraphoptError, match="has pixels; the network's inputs are features"):
        convert("networks:mlp_alone", options=Options(data=str(data)))


def test_example_inputs_of_several_parameters_and_of_a_program(tmp_path: Path) -> None:
    data = tmp_path / "examples.npz"
    tokens, mask = np.zeros((3, 5), np.int64), np.zeros((3, 5), np.bool_)
    np.savez(data, mask=mask, tokens=tokens)
    conversion = convert("networks:masked", options=Options(data=str(data)))
    assert shapes(conversion.model)["tokens"] == ["batch", 5]
    path = program_of("masked", tmp_path / "masked.pt2", ({0: torch.export.Dim("b")},) * 2)
    assert convert(str(path), options=Options(data=str(data))).parity
    np.savez(data, tokens=tokens)
    for source in ("networks:masked", str(path)):
        with pytest.raises(GraphoptError, match="lacks the input mask"):
            convert(source, options=Options(data=str(data)))
