"""What is said of networks of PyTorch that cannot be converted, or not as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from command_line import Ran

from graphopt.convert import Options, convert
from graphopt.errors import GraphoptError

torch = pytest.importorskip("torch")


pytestmark = pytest.mark.usefixtures("importable_sources")


def refused(source: str) -> str:
    with pytest.raises(GraphoptError) as caught:
        convert(source, framework="torch")
    assert caught.value.exit_code == 2
    return str(caught.value)


def line_with(text: str) -> int:
    lines = Path("torch_troubles.py").read_text().splitlines()
    return next(at for at, line in enumerate(lines, 1) if text in line)


def test_branch_on_values_is_named_with_its_line_and_no_graph(
    graphopt: Callable[..., Ran], tmp_path: Path
) -> None:
    line = line_with("look for this branch")

    done = graphopt("convert", "torch_troubles:deciding", "-o", str(tmp_path / "out.onnx"))

    assert done.code == 2
    assert f"depends on the values of a tensor (torch_troubles.py:{line}); branch with" in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_unsupported_operator_is_named_with_its_line() -> None:
    line = line_with("look for this line")

    said = refused("torch_troubles:median")

    assert f"does not support the operator aten.median.dim (torch_troubles.py:{line})" in said


def test_a_list_of_overloads_is_left_out() -> None:
    said = refused("torch_troubles:half_bounded")

    assert "for aten.clamp with the provided arguments (torch_troubles.py:" in said
    assert "Tried overloads" not in said


@pytest.mark.parametrize(("name", "dtype"), [("double", "float64"), ("brain_float", "bfloat16")])
def test_a_type_without_a_kernel_is_named(name: str, dtype: str) -> None:
    said = refused(f"torch_troubles:{name}")

    assert f"ONNX Runtime's CPU provider has no Conv of {dtype}" in said
    assert "network.float()" in said


def test_a_size_made_a_constant_is_explained() -> None:
    (note,) = convert("torch_troubles:length").notes

    assert note.startswith("axis 0 of x stays 2: the network makes a constant of it, as len(x)")
    assert "dynamic_shapes" not in note


def test_a_network_in_training_mode_gets_a_note() -> None:
    (note,) = convert("torch_troubles:in_training").notes

    assert "in training mode and is converted in evaluation mode" in note
    assert convert("torch_troubles:in_evaluation").notes == ()


def test_torchscript_keeps_a_branch_on_values_and_a_free_batch(tmp_path: Path) -> None:
    import torch_troubles

    script, data = tmp_path / "branch.pt", tmp_path / "data.npz"
    network = torch_troubles.Branch()
    torch.jit.script(network).save(str(script))
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    np.savez(data, x=x)

    conversion = convert(str(script), framework="torch", options=Options(data=str(data)))

    assert conversion.notes == ()
    session = onnxruntime.InferenceSession(
        ir.to_proto(conversion.model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    sums = set()
    for shifted in (x + 9, x - 9, x[:1] + 9, x[:1] - 9):
        expected = network(torch.from_numpy(shifted)).detach().numpy()
        sums.add(bool(expected.sum() > 0))
        (found,) = session.run(None, {"x": shifted})
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert sums == {True, False}


def test_what_is_broken_says_what_to_do(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt2"
    program = torch.export.export(torch.nn.Linear(4, 3), (torch.ones(2, 4),))
    torch.export.save(program, whole)
    cut = tmp_path / "cut.pt2"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    random = tmp_path / "random.pt2"
    random.write_bytes(b"\x80" + np.random.default_rng(0).bytes(500))

    assert "truncated zip archive; copy it, or save the model, again" in refused(str(cut))
    assert "starts as a pickle does and cannot be read as one to its end; " in refused(str(random))
