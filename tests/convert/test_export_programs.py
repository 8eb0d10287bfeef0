"""Exports by way of PyTorch: programs of torch.export, SavedModels and LiteRT files."""

from __future__ import annotations

import json
import keyword
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from command_line import Ran

from graphopt.convert.export import export
from graphopt.convert.export.program import identifiers, renamed
from graphopt.errors import GraphoptError

FIXTURES = Path(__file__).parents[2] / "fixtures"
TWO_INPUTS = """
<ir_version: 8, opset_import: ["" : 17]>
g (int64[batch, length] tokens, bool[batch, length] Mask)
    => (float[batch, length, 2] states, int64[batch] count)
<float[3, 2] table = {1.5, 2, 3, 4, 5, 6}, int64[1] one = {1}, int64[1] two = {2}>
{
  rows = Gather (table, tokens)
  held = Cast <to = 1> (Mask)
  column = Unsqueeze (held, two)
  states = Mul (rows, column)
  whole = Cast <to = 7> (Mask)
  count = ReduceSum <keepdims = 0> (whole, one)
}
"""
BRANCHES = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[batch, 4] x) => (float[batch, 4] y)
<float zero = {0}>
{
  total = ReduceSum <keepdims = 0> (x)
  positive = Greater (total, zero)
  y = If (positive) <
    then_branch = a () => (float[n, 4] p) { p = Exp (x) },
    else_branch = b () => (float[n, 4] q) { q = Neg (x) }
  >
}
"""
UNKNOWN = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[batch, 2] x) => (string[batch] y)
<string[1] a = {"a"}>
{
  whole = Cast <to = 8> (x)
  axis = Constant <value_ints = [1]> ()
  zero = Constant <value = int64 {0}> ()
  y = Gather <axis = 1> (whole, zero)
}
"""


def saved(text: str, path: Path) -> str:
    onnx.save(onnx.parser.parse_model(text), path)
    return str(path)


def image(samples: int) -> Any:
    return np.random.default_rng(0).random((samples, 1, 8, 8), dtype=np.float32)


def logits(model: str, samples: int) -> Any:
    session = onnxruntime.InferenceSession(FIXTURES / model)
    return session.run(None, {"image": image(samples)})[0]


def test_program_of_torch_runs_trains_and_comes_back(
    tmp_path: Path, graphopt: Callable[..., Ran]
) -> None:
    done = export(str(FIXTURES / "digits_cnn.onnx"), tmp_path / "out", "torch")
    (path,) = done.files
    assert path.name == "digits_cnn.pt2"
    assert [list(parity.sizes.values()) for parity in done.parity] == [[4], [3], [1]]
    module = torch.export.load(path).module()
    found = module(torch.from_numpy(image(7))).detach().numpy()
    np.testing.assert_allclose(found, logits("digits_cnn.onnx", 7), rtol=1e-4, atol=1e-5)
    weights = {value.name for value in onnx.load(FIXTURES / "digits_cnn.onnx").graph.initializer}
    parameters = dict(module.named_parameters())
    assert "6.weight" in parameters
    assert set(parameters) <= weights
    module(torch.from_numpy(image(2))).sum().backward()
    assert all(weight.grad is not None for weight in parameters.values())
    back = graphopt("convert", str(path), "-o", str(tmp_path / "back.onnx"))
    assert back.code == 0, back.err
    session = onnxruntime.InferenceSession(tmp_path / "back.onnx")
    again = session.run(None, {"image": image(5)})[0]
    np.testing.assert_allclose(again, logits("digits_cnn.onnx", 5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["torch", "tensorflow"])
def test_names_types_and_sizes_of_two_inputs_stay(target: str, tmp_path: Path) -> None:
    model = saved(TWO_INPUTS, tmp_path / "two.onnx")
    done = export(model, tmp_path / "out", target)
    assert {parity.output for parity in done.parity} == {"states", "count"}
    assert {parity.max_abs for parity in done.parity} == {0.0}
    fed = {"tokens": np.array([[2, 0, 1, 1, 0]]), "Mask": np.ones((1, 5), bool)}
    states, count = onnxruntime.InferenceSession(model).run(None, fed)
    if target == "torch":
        program = torch.export.load(done.files[0])
        assert program.graph_signature.user_inputs == ("tokens", "mask")
        found = program.module()(*[torch.from_numpy(array) for array in fed.values()])
        one, other = (each.detach().numpy() for each in found)
    else:
        import tensorflow as tf

        serve = tf.saved_model.load(str(tmp_path / "out")).signatures["serving_default"]
        named = serve(**{name: tf.constant(array) for name, array in fed.items()})
        one, other = named["states"].numpy(), named["count"].numpy()
    np.testing.assert_array_equal(one, states)
    np.testing.assert_array_equal(other, count)
    assert (one.dtype, other.dtype) == (np.float32, np.int64)


def test_program_says_the_names_of_its_outputs(tmp_path: Path) -> None:
    done = export(saved(TWO_INPUTS, tmp_path / "two.onnx"), tmp_path / "out", "torch")
    held = {"names.json": ""}
    torch.export.load(done.files[0], extra_files=held)
    assert json.loads(held["names.json"]) == {
        "inputs": ["tokens", "Mask"],
        "outputs": ["states", "count"],
    }


def test_branches_are_kept_in_a_program(tmp_path: Path) -> None:
    done = export(saved(BRANCHES, tmp_path / "branches.onnx"), tmp_path / "out", "torch")
    module = torch.export.load(done.files[0]).module()
    x = torch.tensor([[1.0, 2, 3, 4], [1, 1, 1, 1]])
    torch.testing.assert_close(module(x), x.exp())
    torch.testing.assert_close(module(-x), x)


def test_saved_model_of_an_image_classifier(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    done = export(str(FIXTURES / "digits_cnn.onnx"), tmp_path / "out", "tensorflow")
    assert done.files[0].name == "saved_model.pb"
    assert [list(parity.sizes.values()) for parity in done.parity] == [[4], [3], [1]]
    serve = tf.saved_model.load(str(tmp_path / "out")).signatures["serving_default"]
    found = serve(image=tf.constant(image(6)))["logits"].numpy()
    np.testing.assert_allclose(found, logits("digits_cnn.onnx", 6), rtol=1e-4, atol=1e-5)


def test_litert_file_of_an_image_classifier(tmp_path: Path) -> None:
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    done = export(str(FIXTURES / "digits_cnn.onnx"), tmp_path / "out", "tflite")
    assert [path.name for path in done.files] == ["digits_cnn.tflite"]
    assert done.notes == ("sizes that the file fixes, as the example has them: N=1",)
    runner = litert.Interpreter(str(done.files[0])).get_signature_runner("serving_default")
    assert list(runner.get_input_details()) == ["image"]
    found = np.concatenate([runner(image=row[None])["output_0"] for row in image(3)])
    np.testing.assert_allclose(found, logits("digits_cnn.onnx", 3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["torch", "tensorflow", "tflite"])
def test_text_is_refused_in_one_line(
    target: str, tmp_path: Path, graphopt: Callable[..., Ran]
) -> None:
    model = saved(UNKNOWN, tmp_path / "text.onnx")
    done = graphopt("export", model, "-o", str(tmp_path / "out"), "--to", target)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "text.onnx" in done.err
    assert "STRING" in done.err
    assert not (tmp_path / "out").exists()


def test_what_another_runtime_lacks_is_named(tmp_path: Path) -> None:
    text = TWO_INPUTS.replace("Mul (rows, column)", "Mul (rows, column)\n  z = NonZero (tokens)")
    model = saved(
        text.replace("int64[batch] count)", "int64[batch] count, int64[2, n] z)"),
        tmp_path / "z.onnx",
    )
    with pytest.raises(GraphoptError, match=r"z\.onnx: .* does not take it") as error:
        export(model, tmp_path / "out", "tflite")
    assert "\n" not in str(error.value)


def test_names_that_are_taken_stay_and_others_are_told() -> None:
    names = ("a.b", "a_b", "A_b", "class", "_x", "1", "image")
    given = identifiers(names, "input")
    assert given[1] == "a_b"
    assert given[-1] == "image"
    assert len({name.lower() for name in given}) == len(names)
    assert all(name.isidentifier() and not keyword.iskeyword(name) for name in given)
    assert all(name[0].isalpha() for name in given)
    (note,) = renamed(names, given)
    assert "'class' is input_class" in note
    assert "image" not in note


def test_lists_are_refused(tmp_path: Path) -> None:
    text = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[batch, 4] x) => (seq(float[batch, 2]) y) { y = SplitToSequence <axis = 1> (x, two) }
"""
    text = text.replace("{ y =", "<int64 two = {2}> { y =")
    model = saved(text, tmp_path / "list.onnx")
    with pytest.raises(GraphoptError, match=r"list\.onnx: 'y' is a list .*; let the model"):
        export(model, tmp_path / "out", "torch")


def test_sizes_that_are_equal_by_chance_stay_free(tmp_path: Path) -> None:
    text = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[a, b] x, float[c, d] y) => (float z)
{
  one = ReduceSum <keepdims = 0> (x)
  other = ReduceSum <keepdims = 0> (y)
  z = Add (one, other)
}
"""
    done = export(saved(text, tmp_path / "sums.onnx"), tmp_path / "out", "torch")
    module = torch.export.load(done.files[0]).module()
    assert float(module(torch.ones(2, 3), torch.ones(5, 7))) == 41


def test_what_is_computed_in_half_precision_is_held_against_that(tmp_path: Path) -> None:
    text = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[batch, 64] x) => (float[batch, 64] y)
<float16[64, 64] weight = {1}>
{
  half = Cast <to = 10> (x)
  product = MatMul (half, weight)
  squashed = Softmax (product)
  y = Cast <to = 1> (squashed)
}
"""
    model = onnx.parser.parse_model(text.replace("{1}", "{" + ", ".join(["0"] * 4096) + "}"))
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float16)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "weight"))
    path = tmp_path / "half.onnx"
    onnx.save(model, path)
    done = export(str(path), tmp_path / "out", "torch")
    assert all(parity.max_abs <= parity.bound for parity in done.parity)


def test_a_sigmoid_of_weights_that_are_listed_as_inputs(tmp_path: Path) -> None:
    text = """
<ir_version: 3, opset_import: ["" : 8]>
g (float[2, 3] x, float[3, 1] weight) => (float[2, 1] y) <float[3, 1] weight = {1, -2, 3}>
{ z = MatMul (x, weight)  y = Sigmoid (z) }
"""
    done = export(saved(text, tmp_path / "old.onnx"), tmp_path / "out", "torch")
    module = torch.export.load(done.files[0]).module()
    x = torch.tensor([[1.0, 2, 3], [0, 0, 0]])
    expected = torch.tensor([[6.0], [0]]).sigmoid()
    torch.testing.assert_close(module(x), expected)
