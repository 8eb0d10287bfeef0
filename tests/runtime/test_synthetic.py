from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.errors import GraphoptError
from graphopt.runtime.compare import compare
from graphopt.runtime.session import Session
from graphopt.runtime.synthetic import synthetic_feeds

SHARED = Path(__file__).parents[3] / "shared" / "models"


def model(body: str, interface: str) -> ir.Model:
    return ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["": 20]>\ng ({interface}) {{ {body} }}'
    )


def test_the_same_seed_makes_the_same_inputs() -> None:
    made = model("y = Relu(x)", "float[N,3] x) => (float[N,3] y")
    first, again, other = (synthetic_feeds(made, seed=seed).arrays["x"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.dtype == np.float32
    assert first.shape == (4, 3)


def test_indices_stay_below_the_rows_of_their_table() -> None:
    made = ir.from_onnx_text("""<ir_version: 10, opset_import: ["": 20]>
g (int32[N,T] ids) => (float[N,1,T,2] y)
  <float[5,2] table = {1,2,3,4,5,6,7,8,9,0}, int64[1] axes = {1}> {
  i = Cast<to=7>(ids)
  u = Unsqueeze(i, axes)
  y = Gather(table, u)
}""")
    ids = synthetic_feeds(made, samples=50).arrays["ids"]
    assert ids.min() == 0
    assert ids.max() == 4


def test_masks_hold_ones_and_then_zeros() -> None:
    made = model("y = Cast<to=1>(attention_mask)", "int64[N,T] attention_mask) => (float[N,T] y")
    mask = synthetic_feeds(made, samples=40).arrays["attention_mask"]
    assert set(np.unique(mask)) == {0, 1}
    assert (np.diff(mask, axis=1) <= 0).all()
    assert (mask.sum(1) >= mask.shape[1] / 2).all()


def test_the_same_symbol_has_the_same_size() -> None:
    made = model("y = Add(a, b)", "float[N,T] a, float[T] b) => (float[N,T] y")
    feeds = synthetic_feeds(made)
    (batch,) = feeds.batches()
    assert batch["a"].shape[1] == batch["b"].shape[0]
    assert feeds.count == 4


def test_known_sizes_are_taken() -> None:
    made = model("y = Relu(a)", "float[N,T,C] a) => (float[N,T,C] y")
    assert synthetic_feeds(made, sizes={"T": 7}).arrays["a"].shape[:2] == (4, 7)


def test_sizes_are_searched_for_without_noise(capfd: pytest.CaptureFixture[str]) -> None:
    shape = "s = Constant<value_ints = [-1, 12288]>()"
    made = model(f"{shape} y = Reshape(x, s)", "float[N,3,H,W] x) => (float[M,12288] y")
    assert synthetic_feeds(made, samples=3).arrays["x"].shape == (3, 3, 64, 64)
    made = model("a = MatMul(left, x) y = MatMul(a, right)", "float[N,H,W] x) => (float[N,1,1] y")
    for name, shape in {"left": (1, 48), "right": (192, 1)}.items():
        node = made.graph[0 if name == "left" else 1]
        value = ir.Value(name=name, const_value=ir.tensor(np.ones(shape, np.float32), name=name))
        made.graph.initializers.add(value)
        node.replace_input_with(0 if name == "left" else 1, value)
    assert synthetic_feeds(made).arrays["x"].shape[1:] == (48, 192)
    assert capfd.readouterr().err == ""


def test_a_model_that_takes_nothing_is_refused_with_its_reason() -> None:
    shape = "s = Constant<value_ints = [-1, 7919]>()"
    made = model(f"{shape} y = Reshape(x, s)", "float[N,3] x) => (float[M,7919] y")
    with pytest.raises(GraphoptError, match=r"give --data \(the first try: .*7919"):
        synthetic_feeds(made)


def test_finite_outputs_are_preferred() -> None:
    made = model("y = Log(x)", "float[N,3] x) => (float[N,3] y")
    (batch,) = synthetic_feeds(made).batches()
    assert np.isfinite(Session(made).run(batch)["y"]).all()


def test_states_whose_batch_is_not_in_front() -> None:
    made = model("y = Add(state, x)", "float[B,3] x, float[2,B,3] state) => (float[2,B,3] y")
    feeds = synthetic_feeds(made)
    assert feeds.arrays["state"].shape == (2, 4, 3)
    assert [batch["state"].shape for batch in feeds.batches(3)] == [(2, 3, 3), (2, 1, 3)]
    made = model("y = Add(state, x)", "float[?,3] x, float[2,?,3] state) => (float[2,?,3] y")
    assert synthetic_feeds(made).arrays["state"].shape == (2, 4, 3)


def test_fixed_batches_and_scalars() -> None:
    made = model("y = Add(x, r)", "float[3,2] x, float r) => (float[3,2] y")
    feeds = synthetic_feeds(made, samples=4)
    assert feeds.count == 6
    assert [batch["x"].shape for batch in feeds.batches(99)] == [(3, 2)] * 2
    made = model("y = Abs(r)", "float r) => (float y")
    feeds = synthetic_feeds(made)
    assert feeds.count == 4
    assert [batch["r"].shape for batch in feeds.batches(99)] == [()] * 4


def test_a_rate_is_one_that_the_model_asks_for() -> None:
    body = "k = Constant<value_int = 16000>() e = Equal(sr, k) c = Cast<to=1>(e) y = Mul(x, c)"
    made = model(body, "float[N,2] x, int64 sr) => (float[N,2] y")
    assert synthetic_feeds(made).arrays["sr"] == 16000


@pytest.mark.parametrize(
    ("body", "interface"),
    [
        ("y = Reshape(x, s)", "float[N,6] x, int64[2] s) => (float[A,B] y"),
        ("y = Slice(x, s, e, a)", "float[N,6] x, int64[1] s, int64[1] e, int64[1] a) => (float y"),
        ("y = Slice(x, s, e, a)", "float[5,6] x, int64[2] s, int64[2] e, int64[2] a) => (float y"),
        ("y = Expand(x, s)", "float[N,1] x, int64[2] s) => (float[A,B] y"),
        ("y = Tile(x, s)", "float[N,2] x, int64[2] s) => (float[A,B] y"),
        ("y, i = TopK(x, k)", "float[N,5] x, int64[1] k) => (float[N,A] y, int64[N,A] i"),
        ("y = ReduceSum(x, a)", "float[N,5] x, int64[1] a) => (float[A,B] y"),
        ("y = GatherElements(x, i)", "float[N,5] x, int64[N,2] i) => (float[N,2] y"),
        ("y = Identity(x)", "string[N,2] x) => (string[N,2] y"),
        ("y = Where(c, x, x)", "bool[N,1] c, float16[N,2] x) => (float16[N,2] y"),
        ("y = Identity(x)", "uint8[N,3,8,8] x) => (uint8[N,3,8,8] y"),
        ("y = Identity(x)", "bfloat16[N,3] x) => (bfloat16[N,3] y"),
    ],
)
def test_control_values_and_types_run(body: str, interface: str) -> None:
    made = model(body, interface)
    feeds = synthetic_feeds(made)
    (error,) = compare(made, made, feeds)[:1]
    assert error.equal
    assert error.elements > 0


def test_inputs_without_a_rank_are_refused() -> None:
    made = model("y = Relu(x)", "float[N] x) => (float[N] y")
    made.graph.inputs[0].shape = None
    with pytest.raises(GraphoptError, match="has no rank"):
        synthetic_feeds(made)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/models is not here")
@pytest.mark.parametrize("name", ["cifar10_resnet20", "cifar10_resnet20_bn", "cifar10_resnet32"])
def test_real_models(name: str) -> None:
    made = ir.load(SHARED / f"{name}.onnx")
    feeds = synthetic_feeds(made, samples=2)
    assert feeds.arrays["image"].shape == (2, 3, 32, 32)
    assert compare(made, made, feeds)[0].equal


@pytest.mark.parametrize("shape", ["100000,100000", f"{1 << 32},{1 << 32}"])
def test_a_fixed_input_that_no_memory_holds_is_not_made(shape: str) -> None:
    model = ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[{shape}] x) => (int64[2] y)'
        "{ y = Shape(x) }"
    )
    with pytest.raises(GraphoptError, match="too large"):
        synthetic_feeds(model)
