from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.errors import GraphoptError
from graphopt.model import load, save, scopes, to_proto
from graphopt.model.carried import values_of
from graphopt.model.lossless import differences
from graphopt.pipeline.contract import Context, Effect, Rewrite
from graphopt.pipeline.syntax import parse, unparse
from passes.strip import Strip

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
TRACE = "pkg.torch.onnx.stack_trace"


def bare(name: str, doc_string: str | None = None) -> ir.Model:
    model = ir.from_onnx_text((FIXTURES / "text" / f"{name}.onnxtxt").read_text())
    for scope in scopes(model):
        for value in scope.graph.initializers.values():
            assert value.const_value is not None
            value.const_value = ir.Tensor(value.const_value.numpy(), doc_string=doc_string)
    return model


def annotated(name: str) -> ir.Model:
    """Write metadata and doc strings wherever a model can hold them."""
    model = bare(name, "a tensor")
    model.doc_string = "a model"
    model.metadata_props.update({"author": "me", "graphopt.pipeline": "cleanup"})
    for scope in scopes(model):
        holders = [scope.graph, *scope.graph, *values_of(scope.graph)]
        for holder in holders:
            holder.doc_string = "words"
            holder.metadata_props.update({TRACE: "/home/me/x.py", "namespace": "net/layer"})
    return model


def apply(step: Strip, model: ir.Model) -> list[str]:
    found = []
    for item in step.rewrites(model, Context()):
        assert isinstance(item, Rewrite)
        item.apply()
        found.append(f"{item.at}: {item.why}")
    return found


def texts(model: ir.Model) -> str:
    return str(ir.to_proto(model))


@pytest.mark.parametrize("name", ["nested_if", "functions", "loop", "scan"])
def test_everything_goes_everywhere_but_the_recipe(name: str) -> None:
    model = annotated(name)
    assert apply(Strip(), model)
    text = texts(model)
    for word in ("words", "a model", "a tensor", "author", TRACE, "namespace"):
        assert word not in text
    assert dict(model.metadata_props) == {"graphopt.pipeline": "cleanup"}
    assert apply(Strip(recipe=True), model) == [
        "model: metadata 'graphopt.pipeline' in 1 place, 7 bytes"
    ]
    assert list(differences(to_proto(bare(name)), to_proto(model))) == []


def test_globs_choose_keys() -> None:
    model = annotated("nested_if")
    found = apply(Strip(metadata="pkg.torch.*", doc_strings=False), model)
    assert len(found) == sum(1 for _ in scopes(model))
    assert all(TRACE in line for line in found)
    text = texts(model)
    assert TRACE not in text
    assert "namespace" in text
    assert "words" in text
    apply(Strip(keep=("name*", "author")), model)
    assert "namespace" in texts(model)
    assert model.metadata_props["author"] == "me"
    assert "words" not in texts(model)


def test_nothing_to_do_changes_nothing() -> None:
    model = ir.from_onnx_text((FIXTURES / "text" / "nested_if.onnxtxt").read_text())
    before = ir.to_proto(model).SerializeToString()
    assert apply(Strip(), model) == []
    assert ir.to_proto(model).SerializeToString() == before


def test_reasons_count_places_and_bytes() -> None:
    model = annotated("scan")
    found = apply(Strip(metadata=TRACE, doc_strings=False), model)
    # The main graph, its node, two inputs, one weight, two outputs; the body, its three nodes and
    # their outputs, and its two inputs.
    assert found == [
        f"scan: metadata '{TRACE}' in 7 places, 91 bytes",
        f"Scan_0/body: metadata '{TRACE}' in 9 places, 117 bytes",
    ]


def test_tensors_that_a_clone_shares_stay_as_they_are() -> None:
    model = annotated("nested_if")
    clone = model.clone()
    weight = clone.graph.initializers["w"].const_value
    apply(Strip(), model)
    assert weight is not None
    assert weight.doc_string == "a tensor"
    stripped = model.graph.initializers["w"].const_value
    assert stripped is not None
    assert not stripped.doc_string
    np.testing.assert_array_equal(stripped.numpy(), weight.numpy())


def test_tensors_of_files_and_attributes(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[N, 3] x) => (float[N, 3] y) <float[3] w = {1, 2, 3}> {
            c = Constant <value = float[3] {1, 2, 3}> ()
            s = Add (x, c)
            y = Mul (s, w)
        }"""
    )
    large = np.ones((1000, 3), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(large, "large"))
    for tensor in (*model.graph.initializer, model.graph.node[0].attribute[0].t):
        tensor.doc_string = "secret"
        tensor.metadata_props.add(key="where", value="secret")
    model.graph.node[0].attribute[0].doc_string = "secret"
    path, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(model, path)
    loaded = load(path)
    assert apply(Strip(), loaded)
    save(loaded, out)
    assert b"secret" not in out.read_bytes()
    for tensor in (*model.graph.initializer, model.graph.node[0].attribute[0].t):
        tensor.ClearField("doc_string")
        tensor.ClearField("metadata_props")
    saved = onnx.load(out)
    for before, after in zip(model.graph.initializer, saved.graph.initializer, strict=True):
        np.testing.assert_array_equal(
            onnx.numpy_helper.to_array(after), onnx.numpy_helper.to_array(before)
        )


def test_is_exact_and_round_trips_as_text() -> None:
    assert Strip.effect is Effect.EXACT
    steps = parse("strip(metadata='pkg.torch.*', doc_strings=False) | strip(keep=('a', 'b*'))")
    assert steps == (Strip(metadata="pkg.torch.*", doc_strings=False), Strip(keep=("a", "b*")))
    assert parse(unparse(steps)) == steps
    with pytest.raises(GraphoptError, match="metdata"):
        parse("strip(metdata='*')")
