"""TorchScript archives, and what the other sources of PyTorch have at other lengths."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from converted_models import run

from graphopt.convert import Options, convert
from graphopt.errors import GraphoptError

torch = pytest.importorskip("torch")


pytestmark = pytest.mark.usefixtures("importable_sources")


def shapes(model: ir.Model) -> dict[str, list[object]]:
    return {
        str(value.name): [d if isinstance(d, int) else d.value for d in value.shape or ()]
        for value in model.graph.inputs
    }


def archived(name: str, path: Path, *, traced: bool) -> tuple[Path, Path]:
    """Save a network as TorchScript, and its example inputs by name."""
    import networks

    module, args = getattr(networks, name)()
    module = module.eval()
    script = torch.jit.trace(module, args) if traced else torch.jit.script(module)
    script.save(str(path))
    names = [item.name for item in script.forward.schema.arguments[1:]]
    data = path.with_suffix(".npz")
    np.savez(data, **{key: arg.numpy() for key, arg in zip(names, args, strict=True)})
    return path, data


@pytest.mark.parametrize("traced", [True, False], ids=["traced", "scripted"])
def test_torchscript_has_a_free_batch_and_its_own_names(tmp_path: Path, traced: bool) -> None:
    path, data = archived("mlp", tmp_path / "mlp.pt", traced=traced)
    conversion = convert(str(path), options=Options(data=str(data)))
    assert shapes(conversion.model) == {"features": ["batch", 6]}
    assert len({item.sizes["batch"] for item in conversion.parity}) == 3
    script = torch.jit.load(str(path))
    for batch in (1, 3, 7):
        x = torch.randn(batch, 6)
        (y,) = run(conversion.model, features=x.numpy())
        np.testing.assert_allclose(y, script(x).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_traced_lstm_is_converted(tmp_path: Path) -> None:
    path, data = archived("recurrent", tmp_path / "lstm.pt", traced=True)
    conversion = convert(str(path), options=Options(data=str(data)))
    assert shapes(conversion.model) == {"steps": ["batch", 5, 4]}
    assert "LSTM" in {node.op_type for node in conversion.model.graph}


def test_torchscript_that_branches_on_a_size_keeps_all_sizes(tmp_path: Path) -> None:
    path, data = archived("small_batch", tmp_path / "small.pt", traced=False)
    conversion = convert(str(path), options=Options(data=str(data)))
    assert shapes(conversion.model) == {"x": [2, 5]}
    assert any("its prim::If took one way" in note for note in conversion.notes)


def test_torchscript_without_an_equal_says_what_has_none(tmp_path: Path) -> None:
    path, data = archived("recurrent", tmp_path / "lstm.pt", traced=False)
    with pytest.raises(GraphoptError, match=r"its prim::If has no equal; .*torch\.jit\.trace"):
        convert(str(path), options=Options(data=str(data)))


def test_torchscript_needs_example_inputs_that_fit(tmp_path: Path) -> None:
    path, data = archived("mlp", tmp_path / "mlp.pt", traced=True)
    with pytest.raises(GraphoptError, match=r"has no example inputs; .*--data"):
        convert(str(path))
    np.savez(data, features=np.ones((2, 5), np.float32))
    with pytest.raises(GraphoptError, match="fails on the example inputs"):
        convert(str(path), options=Options(data=str(data)))
    np.savez(data, pixels=np.ones((2, 6), np.float32))
    with pytest.raises(GraphoptError, match="has pixels; the network's inputs are features"):
        convert(str(path), options=Options(data=str(data)))


class Saving(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "witness")
        return x


class Counting(torch.nn.Module):
    def forward(self, x: torch.Tensor, times: int) -> torch.Tensor:
        return x * times


def test_torchscript_that_touches_files_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, data = tmp_path / "saving.pt", tmp_path / "data.npz"
    torch.jit.script(Saving()).save(str(path))
    np.savez(data, x=np.ones((2, 3), np.float32))
    with pytest.raises(GraphoptError, match=r"its code calls torch\.save"):
        convert(str(path), options=Options(data=str(data)))
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("spelled", ["torch . save", "ops.aten.save", "torch.ops.aten . save"])
def test_torchscript_that_touches_files_otherwise_spelled(tmp_path: Path, spelled: str) -> None:
    plain, path = tmp_path / "plain.pt", tmp_path / "saving.pt"
    torch.jit.script(Saving()).save(str(plain))
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(".py"):
                content = content.replace(b"torch.save", spelled.encode())
            new.writestr(name, content)
    with pytest.raises(GraphoptError, match="its code calls"):
        convert(str(path))


def test_torchscript_with_an_input_that_is_no_tensor(tmp_path: Path) -> None:
    path = tmp_path / "counting.pt"
    torch.jit.script(Counting()).save(str(path))
    with pytest.raises(GraphoptError, match="its input times is int, no tensor"):
        convert(str(path))


@pytest.mark.parametrize("size", [100, 2000])
def test_truncated_torchscript_is_one_clear_line(tmp_path: Path, size: int) -> None:
    path, data = archived("mlp", tmp_path / "mlp.pt", traced=True)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(GraphoptError, match=r"mlp\.pt") as error:
        convert(str(path), options=Options(data=str(data)))
    assert "\n" not in str(error.value)


def test_two_inputs_at_other_lengths_and_batches() -> None:
    options = Options(
        dynamic_shapes={"tokens": ("batch", "sequence"), "mask": ("batch", "sequence")}
    )
    conversion = convert("networks:masked", options=options)
    import networks

    network = networks.Masked().eval()
    for batch, length in ((1, 1), (3, 9), (7, 4)):
        tokens = torch.arange(batch * length).reshape(batch, length) % 20
        mask = torch.zeros(batch, length, dtype=torch.bool)
        mask[:, length // 2 + 1 :] = True
        found = run(conversion.model, tokens=tokens.numpy(), mask=mask.numpy())
        with torch.no_grad():
            expected = network(tokens, mask)
        for array, wanted in zip(found, expected.values(), strict=True):
            np.testing.assert_allclose(array, wanted.numpy(), rtol=1e-5, atol=1e-5)


def test_attention_with_a_bias_has_a_free_batch() -> None:
    conversion = convert("networks:attending")
    assert shapes(conversion.model) == {"steps": ["batch", 4, 16]}
    import networks

    network = networks.Attending().eval()
    for batch in (1, 2, 5):
        steps = torch.randn(batch, 4, 16)
        with torch.no_grad():
            expected = network(steps).numpy()
        (found,) = run(conversion.model, steps=steps.numpy())
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
