from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.errors import CheckFailed, GraphoptError
from graphopt.runtime.placement import Placement, read_profile
from graphopt.runtime.providers import ProviderAbsentError, parse_provider
from graphopt.runtime.session import Session, explain

TEXT = """<ir_version: 10, opset_import: ["": 20]>
g (float[N,256] x) => (float[N,256] y) <float[256,256] w = {1}> {
  a = MatMul(x, w)
  b = Relu(a)
  y = Add(b, x)
}"""


def model(tensor: ir.TensorProtocol | None = None) -> ir.Model:
    made = ir.from_onnx_text(TEXT)
    value = made.graph.initializers["w"]
    value.const_value = tensor or ir.tensor(weight(), name="w")
    value.dtype = value.const_value.dtype
    return made


def weight() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)


def samples() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((3, 256)).astype(np.float32)}


def expected() -> np.ndarray:
    return np.maximum(samples()["x"] @ weight(), 0) + samples()["x"]


def test_models_in_memory_run_and_stay_as_they_are() -> None:
    made = model()
    before = ir.to_proto(made).SerializeToString()
    np.testing.assert_allclose(Session(made).run(samples())["y"], expected(), rtol=1e-4, atol=1e-4)
    assert ir.to_proto(made).SerializeToString() == before


def test_nodes_out_of_order_are_told_in_one_line() -> None:
    made = model()
    first = made.graph[0]
    made.graph.remove(first)
    made.graph.append(first)
    with pytest.raises(GraphoptError, match="in front of those that make their inputs; sort them"):
        Session(made, title="it")
    made.graph.sort()
    np.testing.assert_allclose(Session(made).run(samples())["y"], expected(), rtol=1e-4, atol=1e-4)
    made.graph.remove(first)
    with pytest.raises(GraphoptError, match="it: node Relu reads 'a', which only a removed node"):
        Session(made, title="it")


def test_lazy_weights_are_evaluated_and_not_kept() -> None:
    reads = []

    def read() -> ir.Tensor:
        reads.append(1)
        return ir.Tensor(weight())

    lazy = ir.LazyTensor(
        read, dtype=ir.DataType.FLOAT, shape=ir.Shape([256, 256]), cache=False, name="w"
    )
    session = Session(model(lazy))
    np.testing.assert_allclose(session.run(samples())["y"], expected(), rtol=1e-4, atol=1e-4)
    assert len(reads) == 1


def test_external_weights_run_from_memory_and_from_a_path(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(
        ir.to_proto(model()), path, save_as_external_data=True, location="m.data", size_threshold=0
    )
    for source in (ir.load(path), path, str(path)):
        found = Session(source).run(samples())["y"]
        np.testing.assert_allclose(found, expected(), rtol=1e-4, atol=1e-4)


def test_inner_values_are_exposed_from_models_and_paths(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    ir.save(model(), path)
    for source in (model(), path):
        outputs = Session(source, expose=["a", "b", "y"]).run(samples())
        assert outputs.keys() == {"y", "a", "b"}
        np.testing.assert_array_equal(np.maximum(outputs["a"], 0), outputs["b"])
    with pytest.raises(GraphoptError, match="'nowhere'"):
        Session(model(), expose=["nowhere"])


def test_the_unoptimized_twin_keeps_the_model_of_its_time() -> None:
    made = model()
    session = Session(made)
    made.graph.initializers["w"].const_value = ir.tensor(np.zeros_like(weight()), name="w")
    found = session.unoptimized().run(samples())["y"]
    np.testing.assert_allclose(found, expected(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float16"])
def test_types_that_numpy_lacks_go_in_and_out(name: str) -> None:
    short = name.replace("_", "")
    text = f"""<ir_version: 10, opset_import: ["": 20]>
g ({short}[N,3] x) => ({short}[N,3] y) {{ y = Identity(x) }}"""
    made = ir.from_onnx_text(text)
    dtype = made.graph.inputs[0].dtype
    assert dtype is not None
    values = np.arange(6).reshape(2, 3).astype(dtype.numpy())
    found = Session(made).run({"x": values})["y"]
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


def test_bfloat16_weights_are_passed_by_reference() -> None:
    made = model(ir.tensor(weight().astype(ml_dtypes.bfloat16), name="w"))
    cast = ir.Node("", "Cast", [made.graph.initializers["w"]], [ir.AttrInt64("to", 1)])
    made.graph.insert_before(made.graph[0], cast)
    made.graph[1].replace_input_with(1, cast.outputs[0])
    rounded = weight().astype(ml_dtypes.bfloat16).astype(np.float32)
    found = Session(made, expose=["a"]).run(samples())["a"]
    np.testing.assert_allclose(found, samples()["x"] @ rounded, rtol=1e-4, atol=1e-4)


def test_errors_are_one_line_that_names_the_model(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckFailed, match=r"^m\.onnx does not run: .*256") as failed:
        Session(model(), title="m.onnx").run({"x": np.zeros((1, 5), np.float32)})
    assert "ONNXRuntimeError" not in str(failed.value)
    with pytest.raises(GraphoptError, match="input 'x' is missing"):
        Session(model()).run({})
    with pytest.raises(GraphoptError, match="no input 'z'"):
        Session(model()).run({**samples(), "z": np.zeros(1)})
    assert capfd.readouterr().err == ""


def test_explanations_lose_the_places_in_onnx_runtimes_sources() -> None:
    error = RuntimeError(
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running "
        "Reshape node. Name:'r' Status Message: /onnxruntime_src/onnxruntime/core/providers/cpu/"
        "tensor/reshape_helper.h:39 onnxruntime::ReshapeHelper::ReshapeHelper(const onnxruntime::"
        "TensorShape&, onnxruntime::TensorShapeVector&, bool) the shapes differ\n"
    )
    text = explain(error)
    assert text == (
        "Non-zero status code returned while running Reshape node. Name:'r' Status Message:"
        " the shapes differ"
    )


def test_an_unknown_optimization_level_is_refused() -> None:
    with pytest.raises(GraphoptError, match="extended"):
        Session(model(), optimization="most")


def test_providers_are_read_with_options() -> None:
    provider = parse_provider("cuda:device_id=1,use_tf32=0")
    assert provider.name == "CUDAExecutionProvider"
    assert provider.options == {"device_id": "1", "use_tf32": "0"}
    assert not provider.has_tf32
    assert parse_provider("cuda").has_tf32
    assert parse_provider("CPUExecutionProvider").is_cpu


@pytest.mark.parametrize(
    "text", ["", "cpu:x", "cpu:foo=1", ":a=1", "Own=", "Own=/nowhere.so", "cpu:=1"]
)
def test_providers_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(GraphoptError, match="provider"):
        parse_provider(text)


def test_absent_providers_are_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(ProviderAbsentError, match="NoSuchExecutionProvider is absent"):
        Session(model(), ["NoSuchExecutionProvider"])
    library = tmp_path / "own.so"
    library.write_text("not a library")
    with pytest.raises(ProviderAbsentError, match="does not load"):
        Session(model(), [f"Own={library}"])


def test_placement_counts_nodes_once() -> None:
    session = Session(model(), profile=True)
    session.run(samples())
    session.run(samples())
    placement = session.placement()
    assert placement.nodes.keys() == {"CPUExecutionProvider"}
    assert 1 <= placement.nodes["CPUExecutionProvider"] <= 3
    assert placement.fallback(parse_provider("cpu")) is None
    assert "none of" in str(placement.fallback(parse_provider("cuda")))


def event(name: str, operator: str, provider: str, outputs: str) -> str:
    return (
        f'{{"cat": "Node", "name": "{name}_kernel_time", "args": {{"op_name": "{operator}",'
        f' "provider": "{provider}", "node_index": "1", "output_type_shape": {outputs}}}}}'
    )


def test_fallbacks_and_copies_are_told_from_size_arithmetic(tmp_path: Path) -> None:
    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    big = '[{"float": [2, 3]}]'
    events = [
        event("conv", "Conv", cuda, big),
        event("conv", "Conv", cuda, big),
        event("shape", "Shape", cpu, '[{"int64": [2]}]'),
        event("to", "MemcpyToHost", cuda, big),
        event("from", "MemcpyFromHost", cuda, big),
    ]
    path = tmp_path / "profile.json"
    path.write_text(f"[{','.join(events)}]")
    placement = read_profile(str(path))
    assert placement == Placement(
        {cuda: 1, cpu: 1}, 1, {"MemcpyToHost": 1, "MemcpyFromHost": 1}, {}
    )
    assert placement.fallback(parse_provider("cuda")) is None
    path.write_text(f"[{','.join([*events, event('sort', 'TopK', cpu, big)])}]")
    assert "1 of 3 nodes did not run on CUDAExecutionProvider (1 TopK)" in str(
        read_profile(str(path)).fallback(parse_provider("cuda"))
    )


def test_an_array_for_an_input_with_a_default_takes_its_place() -> None:
    text = """<ir_version: 10, opset_import: ["": 20]>
    g (float[2] x, float[2] w = {1, 2}) => (float[2] y) { y = Mul(x, w) }"""
    session = Session(ir.from_onnx_text(text))
    x = np.array([1, 1], np.float32)
    np.testing.assert_array_equal(session.run({"x": x})["y"], [1, 2])
    np.testing.assert_array_equal(session.run({"x": x, "w": 3 * x})["y"], [3, 3])
