from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from converted_models import run, shapes
from exported_programs import program_of

from graphopt.convert import Options, convert, parse_shape
from graphopt.errors import CheckFailed, GraphoptError
from graphopt.model.source_paths import source_paths
from graphopt.runtime.difference import Tolerance

HERE = Path(__file__).parent


pytestmark = pytest.mark.usefixtures("importable_sources")


def test_network_from_a_callable_has_a_dynamic_batch_and_the_names_of_forward() -> None:
    conversion = convert("networks:mlp")
    assert shapes(conversion.model)["features"] == ["batch", 6]
    assert shapes(conversion.model)[conversion.model.graph.outputs[0].name] == ["batch", 3]
    assert [parity.sizes["batch"] for parity in conversion.parity] == [3, 4, 1]
    assert conversion.notes == ()
    import networks

    x = torch.randn(7, 6)
    (y,) = run(conversion.model, features=x.numpy())
    with torch.no_grad():
        expected = networks.Mlp().eval()(x).numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_example_batch_of_one_is_no_constant() -> None:
    conversion = convert("networks:mlp_of_one")
    assert shapes(conversion.model)["features"] == ["batch", 6]


def test_static_keeps_every_size() -> None:
    conversion = convert("networks:mlp", options=Options(static=True))
    assert shapes(conversion.model)["features"] == [3, 6]
    assert [parity.sizes for parity in conversion.parity] == [{}]


def test_names_can_be_chosen() -> None:
    conversion = convert(
        "networks:mlp", options=Options(input_names=("image",), output_names=("logits",))
    )
    assert shapes(conversion.model) == {"image": ["batch", 6], "logits": ["batch", 3]}
    run(conversion.model, image=np.zeros((2, 6), np.float32))


def test_chosen_name_of_an_inner_value_moves_that_value() -> None:
    conversion = convert("networks:mlp", options=Options(output_names=("relu",)))
    (y,) = run(conversion.model, features=np.zeros((2, 6), np.float32))
    assert y.shape == (2, 3)
    assert conversion.model.graph.outputs[0].name == "relu"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(input_names=("a", "b")), "2 input names are given, the model has 1 inputs"),
        (Options(input_names=("x",), output_names=("x",)), "would both be called 'x'"),
    ],
)
def test_names_that_cannot_be_are_refused(options: Options, message: str) -> None:
    with pytest.raises(GraphoptError, match=message):
        convert("networks:mlp", options=options)


@pytest.mark.parametrize("opset", [9, 13, 17, 18, 21])
def test_opset_is_what_was_asked_for(opset: int) -> None:
    conversion = convert("networks:mlp", options=Options(opset=opset))
    assert conversion.model.opset_imports[""] == opset


def test_opset_that_does_not_exist_is_refused() -> None:
    with pytest.raises(GraphoptError, match=r"where 999 is asked for|torch.onnx fails"):
        convert("networks:mlp", options=Options(opset=999))


def test_two_inputs_with_a_dynamic_sequence() -> None:
    options = Options(
        dynamic_shapes={"tokens": ("batch", "sequence"), "mask": ("batch", "sequence")}
    )
    conversion = convert("networks:masked", options=options)
    assert shapes(conversion.model)["tokens"] == ["batch", "sequence"]
    assert shapes(conversion.model)["mask"] == ["batch", "sequence"]
    assert {(p.sizes["batch"], p.sizes["sequence"]) for p in conversion.parity} == {
        (2, 5),
        (3, 6),
        (1, 1),
    }
    assert len(conversion.model.graph.outputs) == 2


def test_lstm_has_a_dynamic_batch() -> None:
    conversion = convert("networks:recurrent")
    assert shapes(conversion.model)["steps"] == ["batch", 5, 4]
    assert "LSTM" in {node.op_type for node in conversion.model.graph}


def test_control_flow_becomes_if() -> None:
    conversion = convert("networks:branching")
    assert "If" in {node.op_type for node in conversion.model.graph}
    import networks

    network = networks.Branching().eval()
    for sign in (1.0, -1.0):
        x, switch = torch.randn(5, 4), torch.full((1,), sign)
        feeds = dict(zip(shapes(conversion.model), (x.numpy(), switch.numpy()), strict=False))
        (y,) = run(conversion.model, **feeds)
        with torch.no_grad():
            np.testing.assert_allclose(y, network(x, switch).numpy(), rtol=1e-5, atol=1e-6)


def test_batch_that_the_network_fixes_stays_and_is_said() -> None:
    conversion = convert("networks:fixed_batch")
    assert shapes(conversion.model)["x"] == [2, 5]
    assert len(conversion.notes) == 1
    assert "axis 0 of x stays 2" in conversion.notes[0]


def test_range_that_the_network_branches_on_is_said_and_kept_to() -> None:
    conversion = convert("networks:small_batch")
    assert shapes(conversion.model)["x"] == ["batch", 5]
    assert any("to 7" in note for note in conversion.notes)


def test_nested_and_keyword_inputs() -> None:
    conversion = convert("networks:nested")
    first, second, scale = (value.name for value in conversion.model.graph.inputs)
    (y,) = run(
        conversion.model,
        **{
            first: np.ones((2, 3), np.float32),
            second: np.ones((3, 4), np.float32),
            scale: np.array(3, np.float32),
        },
    )
    np.testing.assert_array_equal(y, np.full((2, 4), 10, np.float32))


def test_half_precision_is_kept() -> None:
    conversion = convert("networks:half")
    assert conversion.model.graph.inputs[0].dtype == ir.DataType.FLOAT16
    assert conversion.parity[0].bound > 0


def test_result_that_differs_is_refused() -> None:
    with pytest.raises(CheckFailed, match="differs from the source framework"):
        convert("networks:noisy")


def test_difference_can_be_allowed() -> None:
    conversion = convert("networks:noisy", options=Options(tolerance=Tolerance(atol=1.0)))
    assert conversion.parity[0].max_abs <= 1


def test_exporter_and_network_write_nothing_on_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    convert("networks:chatty")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert set(captured.err.splitlines()) <= {"hello from the network"}


def test_source_paths_do_not_get_into_the_model() -> None:
    conversion = convert("networks:mlp")
    assert source_paths(conversion.model) == (0, None)
    assert str(HERE) not in str(ir.to_proto(conversion.model))
    assert any(node.metadata_props for node in conversion.model.graph)


def test_source_paths_can_be_kept() -> None:
    conversion = convert("networks:mlp", options=Options(keep_source_paths=True))
    assert str(HERE) in str(ir.to_proto(conversion.model))


def test_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    path = program_of("mlp", tmp_path / "mlp.pt2", ({0: torch.export.Dim("rows")},))
    first, second = (ir.to_proto(convert(str(path)).model) for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()


def test_shape_notation() -> None:
    assert parse_shape("tokens[batch, sequence, 8]") == ("tokens", ("batch", "sequence", 8))
    assert parse_shape("scalar[]") == ("scalar", ())
    for text in ("tokens", "tokens[a-b]", "[batch]", "tokens[batch,]"):
        with pytest.raises(GraphoptError, match="is not the shape of an input"):
            parse_shape(text)


def test_shapes_that_do_not_fit() -> None:
    for shape, message in [
        (("batch",), "features has 2 dimensions, not 1"),
        (("batch", 7), "axis 1 of features is 6 in the example inputs, not 7"),
    ]:
        with pytest.raises(GraphoptError, match=message):
            convert("networks:mlp", options=Options(dynamic_shapes={"features": shape}))
    with pytest.raises(GraphoptError, match="has no input image"):
        convert("networks:mlp", options=Options(dynamic_shapes={"image": ("batch",)}))
    with pytest.raises(GraphoptError, match="exclude each other"):
        Options(static=True, dynamic_shapes={"features": ("batch", 6)})


def test_outputs_without_a_finite_number_are_not_called_proven() -> None:
    (note,) = convert("networks:logarithm_of_negatives").notes
    assert "not proven: it holds no finite number" in note
