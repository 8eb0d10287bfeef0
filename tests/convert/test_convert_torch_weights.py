"""Weights without a network: state dicts and safetensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from converted_models import run
from safetensors.torch import save_file, save_model

from graphopt.convert import Options, convert
from graphopt.errors import GraphoptError

pytestmark = pytest.mark.usefixtures("importable_sources")


def test_state_dict_goes_into_its_network(tmp_path: Path) -> None:
    import networks

    torch.manual_seed(5)
    network = networks.Mlp()
    with torch.no_grad():
        network.out.bias.fill_(4)
    path = tmp_path / "weights.pt"
    torch.save(network.state_dict(), path)
    conversion = convert(str(path), options=Options(model="networks:mlp"))
    x = torch.randn(2, 6)
    (y,) = run(conversion.model, features=x.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(y, network.eval()(x).numpy(), rtol=1e-5, atol=1e-6)


def test_checkpoint_of_several_dicts(tmp_path: Path) -> None:
    import networks

    weights = networks.Mlp().state_dict()
    wrapped = {f"module.{name}": value for name, value in weights.items()}
    path = tmp_path / "checkpoint.pt"
    torch.save({"epoch": 3, "state_dict": wrapped}, path)
    assert convert(str(path), options=Options(model="networks:mlp")).parity
    torch.save({"ema": weights, "state_dict": wrapped}, path)
    with pytest.raises(GraphoptError, match="has weights under ema, state_dict"):
        convert(str(path), options=Options(model="networks:mlp"))
    options = Options(model="networks:mlp", state_dict_key="ema")
    assert convert(str(path), options=options).parity


@pytest.mark.parametrize("length", [0x480, 0x1008])
def test_safetensors_go_into_their_network(tmp_path: Path, length: int) -> None:
    import networks

    torch.manual_seed(5)
    network = networks.Mlp()
    with torch.no_grad():
        network.out.bias.fill_(4)
    path = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), path)
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    # A header may be filled up with spaces; 0x80 is what a pickle starts with.
    filled = content[8:end].ljust(length)
    path.write_bytes(length.to_bytes(8, "little") + filled + content[end:])
    conversion = convert(str(path), options=Options(model="networks:mlp"))
    x = torch.randn(2, 6)
    (y,) = run(conversion.model, features=x.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(y, network.eval()(x).numpy(), rtol=1e-5, atol=1e-6)


def test_safetensors_leave_out_the_second_name_of_a_tied_weight(tmp_path: Path) -> None:
    import networks

    path = tmp_path / "tied.safetensors"
    torch.manual_seed(6)
    network = networks.Tied()
    save_model(network, path)
    conversion = convert(str(path), options=Options(model="networks:tied"))
    tokens = torch.tensor([[1, 2], [3, 0]])
    (y,) = run(conversion.model, tokens=tokens.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(y, network.eval()(tokens).numpy(), rtol=1e-5, atol=1e-6)


def test_broken_safetensors_are_one_clear_line(tmp_path: Path) -> None:
    import networks

    path = tmp_path / "weights.safetensors"
    save_file(networks.Mlp().state_dict(), path)
    options = Options(model="networks:mlp")
    with pytest.raises(GraphoptError, match="leave --state-dict-key out"):
        convert(str(path), options=Options(model="networks:mlp", state_dict_key="ema"))
    content = path.read_bytes()
    for broken in (
        content[:-40],
        content.replace(b"[0,", b"[9,"),
        content[:8] + b"{" * len(content),
    ):
        path.write_bytes(broken)
        with pytest.raises(GraphoptError, match="cannot be read as safetensors") as error:
            convert(str(path), options=options)
        assert "\n" not in str(error.value)
    save_file({"other": torch.ones(2)}, path)
    with pytest.raises(GraphoptError, match=r"do not fit the network of --model"):
        convert(str(path), options=options)


def test_state_dict_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"other": torch.ones(2)}, path)
    with pytest.raises(GraphoptError, match=r"do not fit the network of --model"):
        convert(str(path), options=Options(model="networks:mlp"))
    with pytest.raises(GraphoptError, match=r"holds weights and no network; .*--model"):
        convert(str(path))
