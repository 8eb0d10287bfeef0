"""Layers over sequences: of any length where one is asked for, and LSTMs with projections."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from converted_models import run, shapes

from graphopt.convert import Options, convert
from graphopt.errors import GraphoptError

pytestmark = pytest.mark.usefixtures("importable_sources")


@pytest.mark.parametrize(
    ("name", "dims", "sizes"),
    [
        ("batch_first", ("batch", "time", 4), [(1, 1), (2, 5), (3, 17)]),
        ("batch_first", ("batch", 5, 4), [(1, 5), (7, 5)]),
        ("time_first", ("time", "batch", 4), [(1, 1), (5, 2), (17, 3)]),
        ("projected", ("batch", 5, 4), [(1, 5), (7, 5)]),
    ],
)
def test_recurrent_layers_compute_the_same_at_every_size(
    name: str, dims: tuple[str | int, ...], sizes: list[tuple[int, int]]
) -> None:
    conversion = convert(
        f"recurrent_networks:{name}", options=Options(dynamic_shapes={"steps": dims})
    )
    assert shapes(conversion.model)["steps"] == list(dims)
    dynamic = {dim for dim in dims if isinstance(dim, str)}
    assert all(parity.sizes.keys() == dynamic for parity in conversion.parity)
    import recurrent_networks

    network, _ = getattr(recurrent_networks, name)()
    for first, second in sizes:
        x = torch.randn(first, second, 4)
        with torch.no_grad():
            expected = torch.utils._pytree.tree_leaves(network.eval()(x))
        for actual, wanted in zip(run(conversion.model, steps=x.numpy()), expected, strict=True):
            np.testing.assert_allclose(actual, wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_transformer_with_a_causal_mask_has_dynamic_lengths() -> None:
    dims = {"source": ("batch", "read", 8), "target": ("batch", "written", 8)}
    conversion = convert("torch_troubles:translating", options=Options(dynamic_shapes=dims))
    import torch_troubles

    network = torch_troubles.Translating().eval()
    for batch, read, written in ((1, 1, 1), (3, 9, 7)):
        source, target = torch.randn(batch, read, 8), torch.randn(batch, written, 8)
        with torch.no_grad():
            expected = network(source, target)
        (actual,) = run(conversion.model, source=source.numpy(), target=target.numpy())
        np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_each_layer_stays_one_operator_where_onnx_has_it() -> None:
    options = Options(dynamic_shapes={"steps": ("batch", "time", 4)})
    conversion = convert("recurrent_networks:batch_first", options=options)
    operators = [node.op_type for node in conversion.model.graph]
    assert (operators.count("LSTM"), operators.count("GRU")) == (2, 1)
    assert {node.domain for node in conversion.model.graph} == {""}


def test_length_that_a_projection_fixes_is_refused_with_torchs_reason() -> None:
    options = Options(dynamic_shapes={"steps": ("batch", "time", 4)})
    with pytest.raises(GraphoptError, match=r"time.*constant \(5\)"):
        convert("recurrent_networks:projected", options=options)


def test_torch_unrolls_as_before_afterwards() -> None:
    operator = torch.ops.aten.lstm.input
    before = dict(operator.py_kernels)
    convert("recurrent_networks:projected")
    assert dict(operator.py_kernels) == before
