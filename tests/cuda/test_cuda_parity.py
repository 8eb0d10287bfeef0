"""Parity of ONNX Runtime's CUDA provider with its CPU. Needs an NVIDIA GPU and onnxruntime-gpu."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.errors import CheckFailed
from graphopt.runtime.compare import compare_sessions
from graphopt.runtime.feeds import Feeds
from graphopt.runtime.providers import parse_provider
from graphopt.runtime.session import Session
from graphopt.runtime.validation import Options, Subject, validate

CUDA = "CUDAExecutionProvider"

pytestmark = pytest.mark.cuda


def residual_network() -> ir.Model:
    """Two residual blocks of 3x3 convolutions, pooling, and a classifier over 10 classes."""
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["": 20]>
resnet (float[N,3,32,32] image) => (float[N,10] logits)
  <float w0 = {1}, float w1 = {1}, float w2 = {1}, float w3 = {1}, float fc = {1}> {
  s = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(image, w0)
  r0 = Relu(s)
  c1 = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(r0, w1)
  r1 = Relu(c1)
  c2 = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(r1, w2)
  a2 = Add(c2, r0)
  r2 = Relu(a2)
  c3 = Conv<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>(r2, w3)
  r3 = Relu(c3)
  p = GlobalAveragePool(r3)
  f = Flatten(p)
  logits = MatMul(f, fc)
}""")
    generator = np.random.default_rng(0)
    shapes = {
        "w0": (32, 3, 3, 3),
        "w1": (32, 32, 3, 3),
        "w2": (32, 32, 3, 3),
        "w3": (64, 32, 3, 3),
        "fc": (64, 10),
    }
    for name, shape in shapes.items():
        fan_in = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        weight = generator.standard_normal(shape) * np.sqrt(2 / fan_in)
        value = model.graph.initializers[name]
        value.const_value = ir.tensor(weight.astype(np.float32), name=name)
        value.shape = ir.Shape(shape)
    return model


def images() -> Feeds:
    values = np.random.default_rng(1).standard_normal((16, 3, 32, 32)).astype(np.float32)
    return Feeds({"image": values}, source="noise")


@pytest.fixture
def cuda() -> str:
    """Skip, and say so, where CUDA does not start."""
    onnxruntime = pytest.importorskip("onnxruntime")
    if CUDA not in onnxruntime.get_available_providers():
        pytest.skip(f"{CUDA} is absent from this ONNX Runtime: no GPU was tested")
    try:
        Session(residual_network(), ["cuda"])
    except CheckFailed as error:
        pytest.skip(f"no GPU was tested: {error}")
    return "cuda"


def test_the_network_itself_runs_on_the_cpu() -> None:
    batch = next(images().batches(2))
    assert Session(residual_network()).run(batch)["logits"].shape == (2, 10)


def test_parity_without_tf32_and_its_effect_apart(cuda: str) -> None:
    model = residual_network()
    options = Options((parse_provider(cuda),), rounds=2, require_provider=True)
    subject = Subject("resnet", model, 1)
    found = validate(subject, [subject], images(), options)
    (trial,) = found.trials
    assert found.failures == ()
    assert trial.status == "passed"
    (error,) = trial.errors
    assert error.equal
    assert error.argmax_agreement == 1
    (rounded,) = trial.tf32
    assert rounded.finite
    assert rounded.sqnr_db > 40
    assert trial.ratio is not None


def test_every_node_is_placed_on_the_gpu(cuda: str) -> None:
    session = Session(residual_network(), [cuda], profile=True)
    session.run(next(images().batches(4)))
    placement = session.placement()
    assert placement.fallback(parse_provider(cuda)) is None
    assert placement.nodes[CUDA] >= 5


def test_copies_between_devices_are_counted(cuda: str) -> None:
    # No CUDA kernel takes strings: the model has to come back to the CPU in between.
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["": 20]>
g (float[N,64] x) => (float[N,64] y) {
  a = Exp(x)
  t = Cast<to=8>(a)
  b = Cast<to=1>(t)
  y = Relu(b)
}""")
    session = Session(model, [cuda], profile=True)
    values = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    session.run({"x": values})
    placement = session.placement()
    assert placement.copies == {"MemcpyToHost": 1, "MemcpyFromHost": 1}
    assert "did not run on CUDAExecutionProvider" in str(placement.fallback(parse_provider(cuda)))


def test_tf32_can_be_asked_for(cuda: str) -> None:
    model = residual_network()
    exact = Session(model, [f"{cuda}:use_tf32=0"])
    again = Session(model, [f"{cuda}:use_tf32=0"])
    (error,) = compare_sessions(exact, again, images())
    assert error.equal
