"""Models before and after a rule, written in ONNX text and run on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort

from graphopt.pipeline.contract import Context, Declined, Rewrite
from passes.cleanup import Cleanup

Array = npt.NDArray[Any]
Rule = Callable[[ir.Model], Iterator[Rewrite | Declined]]

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
SYMBOLS = {"N": 3, "M": 2}


def model_of(text: str) -> ir.Model:
    """Parse ONNX text; a header with IR version 8 and opset 17 is put before it if it has none."""
    return ir.from_onnx_text(text if text.lstrip().startswith("<") else HEADER + text)


def apply(rule: Rule, model: ir.Model) -> list[Rewrite | Declined]:
    """Apply all rewrites of a rule, as the manager does; return all that it said."""
    said = []
    for step in rule(model):
        said.append(step)
        if isinstance(step, Rewrite):
            step.apply()
    return said


def clean(model: ir.Model, **parameters: Any) -> list[Rewrite | Declined]:
    """Apply the whole pass."""
    return apply(lambda it: Cleanup(**parameters).rewrites(it, Context()), model)


def declines(said: list[Rewrite | Declined]) -> list[Declined]:
    return [step for step in said if isinstance(step, Declined)]


def check(rule: Rule, before: str, after: str, *, run: bool = True) -> list[Rewrite | Declined]:
    """Assert that a rule makes one model of another, which is valid and computes the same.

    Names of nodes and intermediate shapes do not count.
    """
    model = model_of(before)
    original = ir.to_proto(model_of(before))
    said = apply(rule, model)
    assert text_of(model) == text_of(model_of(after))
    result = ir.to_proto(model)
    onnx.checker.check_model(result, full_check=True)
    if run:
        assert_equal_outputs(original, result)
    return said


def check_clean(before: str, after: str, **parameters: Any) -> list[Rewrite | Declined]:
    """Assert what the whole pass makes of a model."""
    return check(lambda it: Cleanup(**parameters).rewrites(it, Context()), before, after)


def unchanged(rule: Rule, text: str) -> list[Declined]:
    """Assert that a rule has nothing to do; return what it declined."""
    model = model_of(text)
    said = apply(rule, model)
    assert text_of(model) == text_of(model_of(text))
    assert not [step for step in said if isinstance(step, Rewrite)]
    return declines(said)


def text_of(model: ir.Model) -> str:
    proto = ir.to_proto(model)
    _plain(proto.graph)
    for function in proto.functions:
        function.ClearField("value_info")
        for node in function.node:
            _plain_node(node)
    return onnx.printer.to_text(proto)


def _plain(graph: onnx.GraphProto) -> None:
    graph.ClearField("value_info")
    graph.ClearField("name")
    initializers = sorted(graph.initializer, key=lambda tensor: tensor.name)
    graph.ClearField("initializer")
    for tensor in initializers:
        array = onnx.numpy_helper.to_array(tensor)
        graph.initializer.append(onnx.numpy_helper.from_array(array, tensor.name))
    for node in graph.node:
        _plain_node(node)


def _plain_node(node: onnx.NodeProto) -> None:
    node.ClearField("name")
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            _plain(attribute.g)
        if attribute.type == onnx.AttributeProto.TENSOR:
            array = onnx.numpy_helper.to_array(attribute.t)
            attribute.t.CopyFrom(onnx.numpy_helper.from_array(array))


def session(proto: onnx.ModelProto) -> ort.InferenceSession:
    """Run as the model says: without optimizations of ONNX Runtime's own."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def feeds_for(proto: onnx.ModelProto, seed: int = 0) -> dict[str, Array]:
    """Draw inputs: floats from a normal distribution, integers from 0 and 1."""
    rng = np.random.default_rng(seed)
    fixed = {tensor.name for tensor in proto.graph.initializer}
    return {
        value.name: _draw(value.type.tensor_type, rng)
        for value in proto.graph.input
        if value.name not in fixed
    }


def _draw(declared: onnx.TypeProto.Tensor, rng: np.random.Generator) -> Array:
    shape = [dim.dim_value or SYMBOLS.get(dim.dim_param, 2) for dim in declared.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(declared.elem_type)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def assert_equal_outputs(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    feeds: Mapping[str, Array] | None = None,
    *,
    rtol: float = 1e-5,
) -> None:
    fed = feeds_for(before) if feeds is None else feeds
    names = [value.name for value in before.graph.output]
    assert names == [value.name for value in after.graph.output]
    expected = session(before).run(names, fed)
    results = session(after).run(names, fed)
    for name, want, got in zip(names, expected, results, strict=True):
        assert np.asarray(want).dtype == np.asarray(got).dtype, name
        np.testing.assert_allclose(got, want, rtol=rtol, atol=1e-6, err_msg=name)
