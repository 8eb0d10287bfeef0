from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from graphopt.errors import GraphoptError
from graphopt.model import load, save, scopes, to_proto
from graphopt.model.lossless import differences
from graphopt.pipeline.contract import Context, Effect, Pass, Rewrite
from graphopt.pipeline.syntax import parse, unparse
from graphopt.surgeon import Surgeon, refuse_losses, run_on_graph, surgeon_pass

HERE = Path(__file__).parent
FIXTURES = HERE.parents[1] / "fixtures"
TEXTS = sorted((FIXTURES / "text").glob("*.onnxtxt"))
MODELS = sorted(FIXTURES.glob("*.onnx"))


@pytest.fixture(autouse=True)
def _edits_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(HERE)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    sys.modules.pop("edits", None)


def text_model(name: str) -> ir.Model:
    return ir.from_onnx_text((FIXTURES / "text" / f"{name}.onnxtxt").read_text())


def parsed(text: str, *, opsets: str = '"" : 20', ir_version: int = 10) -> ir.Model:
    return ir.from_onnx_text(f"<ir_version: {ir_version}, opset_import: [{opsets}]>\n{text}")


def apply(step: Pass, model: ir.Model) -> list[Rewrite]:
    found = []
    for item in step.rewrites(model, Context()):
        assert isinstance(item, Rewrite)
        item.apply()
        found.append(item)
    return found


def run(model: ir.Model, **feeds: np.ndarray) -> list[np.ndarray]:
    proto = to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, feeds))


def tensors(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    return {
        scope.at(name): value.const_value
        for scope in scopes(model)
        for name, value in scope.graph.initializers.items()
        if value.const_value is not None
    }


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_function_that_does_nothing_changes_nothing(path: Path) -> None:
    model = ir.from_onnx_text(path.read_text())
    before, weights = to_proto(model), tensors(model)
    assert len(apply(surgeon_pass("edits:nothing"), model)) == 1
    assert sorted(tensors(model)) == sorted(weights)
    assert all(tensors(model)[name] is weight for name, weight in weights.items())
    after = to_proto(model)
    for proto in (before, after):
        proto.graph.initializer.sort(key=lambda tensor: tensor.name)
    assert list(differences(before, after)) == []


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_weights_of_a_file_come_back_as_they_were(path: Path, tmp_path: Path) -> None:
    model = load(path)
    weights = tensors(model)
    assert len(apply(surgeon_pass("edits:nothing"), model)) == 1
    assert tensors(model) == weights
    save(model, tmp_path / "out.onnx")
    with np.load(FIXTURES / "digits_test.npz") as data:
        feeds = {"image": data["image"][:50]}
    (expected,) = onnxruntime.InferenceSession(path).run(None, feeds)
    (actual,) = onnxruntime.InferenceSession(tmp_path / "out.onnx").run(None, feeds)
    np.testing.assert_array_equal(actual, expected)


def test_weight_that_was_only_read_comes_back_as_it_was() -> None:
    model = text_model("folding")
    weights = tensors(model)
    apply(surgeon_pass("edits:read_all"), model)
    assert all(tensors(model)[name] is weight for name, weight in weights.items())


def test_weight_that_was_changed_in_place_is_new_and_the_others_are_not() -> None:
    model = text_model("shared_weights")
    weights = tensors(model)
    shared = model.clone()
    apply(surgeon_pass("edits:double_w"), model)
    after = tensors(model)
    np.testing.assert_array_equal(after["w"].numpy(), 2 * weights["w"].numpy())
    assert after["twin"] is weights["twin"]
    # The tensor itself is immutable: models that share it keep it.
    assert tensors(shared)["w"] is weights["w"]


def test_function_is_run_and_its_result_is_the_model() -> None:
    model = text_model("folding")
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 2, 4, 4)).astype(np.float32)}
    (expected,) = run(model, **feeds)
    (rewrite,) = apply(surgeon_pass("edits:drop_identities"), model)
    assert "edits:drop_identities" in rewrite.why
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("Identity") == 1
    assert "Sqrt" not in kinds
    (actual,) = run(model, **feeds)
    np.testing.assert_array_equal(actual, expected)


def test_new_nodes_and_weights_get_in_and_are_sorted() -> None:
    model = text_model("constant_weights")
    x = np.ones((2, 3), np.float32)
    (expected,) = run(model, x=x)
    apply(surgeon_pass("edits:append_scale_first", changes_interface=True), model)
    (actual,) = run(model, x=x)
    np.testing.assert_allclose(actual, 3 * expected)
    assert [value.name for value in model.graph.outputs] == ["scaled"]


def test_two_constants_can_share_values_and_one_can_be_renamed() -> None:
    model = text_model("shared_weights")
    w = tensors(model)["w"]
    apply(surgeon_pass("edits:share_values"), model)
    assert tensors(model)["twin"] is w
    assert tensors(model)["w"] is w
    apply(surgeon_pass("edits:rename_constant"), model)
    assert sorted(tensors(model)) == ["twin", "weight"]
    run(model, x=np.ones((2, 3), np.float32), index=np.zeros(2, np.int64))


def test_weights_that_bodies_read_stay_in_the_outer_graph() -> None:
    model = text_model("loop")
    apply(surgeon_pass("edits:nothing"), model)
    assert "w" in model.graph.initializers
    body = next(scope for scope in scopes(model) if scope.owner is not None)
    assert list(body.graph.initializers) == []
    run(model, x=np.ones((2, 3), np.float32))


def test_documentation_unused_weights_and_input_defaults_are_put_back() -> None:
    model = parsed(
        """g (float[2] x, float[2] scale) => (float[2] y)
        <float[2] scale = {1, 2}, float[2] unused = {3, 4}> {
            h = Mul (x, scale)
            y = Relu (h)
        }"""
    )
    model.doc_string, model.producer_name, model.model_version = "a model", "me", 7
    model.metadata_props["author"] = "me"
    node = model.graph.node(0)
    node.doc_string = "scales"
    node.metadata_props["namespace"] = "net/scale"
    node.outputs[0].metadata_props["kind"] = "inner"
    model.graph.inputs[0].doc_string = "the input"
    model.graph.metadata_props["of"] = "graph"
    before = to_proto(model)
    apply(surgeon_pass("edits:nothing"), model)
    after = to_proto(model)
    for proto in (before, after):
        proto.graph.initializer.sort(key=lambda tensor: tensor.name)
    assert list(differences(before, after)) == []
    assert [value.name for value in model.graph.inputs] == ["x", "scale"]


@pytest.mark.parametrize(
    "dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4, np.float16, np.bool_]
)
def test_dtypes_cross_by_reference_and_by_value(dtype: type) -> None:
    values = np.array([0, 1, 0, 1, 1]).astype(dtype)
    model = parsed(
        "g (float[5] x) => (float[5] y) <float[5] w = {1, 1, 1, 1, 1}> { y = Mul (x, w) }"
    )
    weight = ir.Tensor(values, name="w")
    model.graph.initializers["w"].const_value = weight
    model.graph.initializers["w"].dtype = weight.dtype

    apply(surgeon_pass("edits:nothing"), model)
    assert tensors(model)["w"] is weight

    def invert(graph: object) -> None:
        constant = graph.tensors()["w"]  # type: ignore[attr-defined]  # a gs.Graph
        constant.values = (1 - constant.values.astype(np.int64)).astype(dtype)

    apply(surgeon_pass(invert), model)
    after = tensors(model)["w"]
    assert after.dtype == weight.dtype
    np.testing.assert_array_equal(after.numpy().astype(int), [1, 0, 1, 0, 0])


def test_strings_cross() -> None:
    model = parsed(
        """g (string[2] x) => (bool[2] y) {
            c = Constant <value = string[2] {"a", "bc"}> ()
            y = Equal (x, c)
        }"""
    )

    def swap(graph: object) -> None:
        constant = graph.nodes[0].attrs["value"]  # type: ignore[attr-defined]  # a gs.Graph
        constant.values = constant.values[::-1].copy()

    apply(surgeon_pass(swap), model)
    (y,) = run(model, x=np.array(["bc", "x"], object))
    np.testing.assert_array_equal(y, [True, False])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            """g (float[N] x) => (float[N] y) { y = local.F <empty: ints = []> (x) }""",
            "attribute empty of node F",
        ),
        (
            """g (optional(float[N]) x) => (bool y) { y = OptionalHasElement (x) }""",
            "type of value x",
        ),
        (
            """g () => (bool y) {
                o = Optional <type = optional(float[2])> ()
                y = OptionalHasElement (o)
            }""",
            "attribute type of node Optional",
        ),
    ],
    ids=["empty-list", "optional-input", "type-attribute"],
)
def test_what_would_be_dropped_is_refused_by_name(text: str, message: str) -> None:
    model = parsed(text, opsets='"" : 20, "local" : 1')
    before = ir.to_proto(model).SerializeToString()
    with pytest.raises(GraphoptError, match=message):
        apply(surgeon_pass("edits:nothing"), model)
    assert ir.to_proto(model).SerializeToString() == before


def test_function_overloads_are_refused() -> None:
    model = text_model("functions")
    function = next(iter(model.functions.values()))
    overloaded = ir.Function(
        function.domain, function.name, "other", graph=function.graph.clone(), attributes=[]
    )
    model.functions[overloaded.identifier()] = overloaded
    with pytest.raises(GraphoptError, match="overload other of function Dense"):
        refuse_losses(model, "f")


def test_attribute_documentation_is_refused_with_its_node() -> None:
    model = text_model("folding")
    cast = next(node for node in model.graph if node.op_type == "Cast")
    cast.name = "to_float"
    cast.attributes["to"] = ir.AttrInt64("to", 1, doc_string="why")
    with pytest.raises(GraphoptError, match="doc_string of attribute to of node to_float"):
        refuse_losses(model, "f")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("edits:fails", "edits:fails fails: KeyError: 'no such node'"),
        ("edits:returns_a_number", "returns int, not a gs.Graph"),
        ("edits:breaks", "leaves a graph that is no model"),
    ],
)
def test_functions_that_go_wrong_are_one_line(spec: str, message: str) -> None:
    model = text_model("folding")
    with pytest.raises(GraphoptError, match=message) as error:
        apply(surgeon_pass(spec), model)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("edits", "does not name a function"),
        ("edits:absent", "edits has no absent"),
        ("nowhere:f", "cannot be imported"),
        ("edits:number", "is a int, not a function"),
    ],
)
def test_functions_that_are_not_there(spec: str, message: str) -> None:
    with pytest.raises(GraphoptError, match=message):
        surgeon_pass(spec)


def test_pass_is_text_and_text_is_the_pass() -> None:
    steps = (surgeon_pass("edits:nothing"), surgeon_pass("edits:nothing", exact=True))
    assert unparse(steps) == (
        'surgeon(function="edits:nothing") | surgeon(function="edits:nothing", exact=True)'
    )
    assert parse(unparse(steps)) == steps
    assert len(apply(parse("surgeon(function='edits:nothing')")[0], text_model("scan"))) == 1


def test_effect_and_interface_are_what_the_user_declares() -> None:
    assert surgeon_pass("edits:nothing").effect is Effect.LOSSY
    assert surgeon_pass("edits:nothing", exact=True).effect is Effect.EXACT
    assert surgeon_pass("edits:nothing").keeps_interface
    assert not surgeon_pass("edits:nothing", changes_interface=True).keeps_interface
    assert Surgeon.effect is Effect.LOSSY


def test_decorator_makes_a_pass_of_a_local_function() -> None:
    called = []

    @surgeon_pass
    def note(graph: object) -> None:
        called.append(graph)

    assert isinstance(note, Surgeon)
    assert note.function.endswith("note")
    apply(note, text_model("scan"))
    assert len(called) == 1


def test_pass_can_be_called_otherwise() -> None:
    step = surgeon_pass("edits:double_w", name="double")
    assert step.function == "double"
    assert apply(step, text_model("shared_weights"))[0].why.startswith("double was asked for")


def test_library_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    model = text_model("nested_if")
    run_on_graph(model, lambda graph: None, "f")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
