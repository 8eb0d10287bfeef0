from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_texts import EVERYDAY, FIXTURE, run, saved

from graphopt.convert import Options, convert
from graphopt.errors import GraphoptError
from graphopt.model import to_proto

FUNCTION_AND_BODY = """
<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
g (float[batch, 4] x, bool flip) => (float[batch, 1] y)
{
  y = If (flip) <
    then_branch = then () => (float[batch, 1] a) { a = local.Total (x) },
    else_branch = otherwise () => (float[batch, 1] b)
      <int64[1] axes = {1}> { n = Neg (x) b = ReduceMax (n, axes) }
  >
}
<domain: "local", opset_import: ["" : 21]>
Total (x) => (y) { axes = Constant <value_ints = [1]> () y = ReduceMean (x, axes) }
"""


@pytest.mark.parametrize("opset", [11, 12, 13, 14, 17, 18, 20, 22, 25])
def test_any_opset_computes_the_same(tmp_path: Path, opset: int) -> None:
    path = saved(EVERYDAY, tmp_path / "model.onnx")
    conversion = convert(str(path), options=Options(opset=opset))
    assert conversion.model.opset_imports[""] == opset
    assert {parity.output for parity in conversion.parity} == {"y", "size"}
    assert {parity.sizes["batch"] for parity in conversion.parity} == {1, 3, 4}
    for batch in (1, 3, 7):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 8)).astype(np.float32)
        for array, expected in zip(run(conversion.model, x=x), run(path, x=x), strict=True):
            np.testing.assert_allclose(array, expected, rtol=1e-6, atol=1e-6)


SPLIT_IN_A_BODY = """
<ir_version: 8, opset_import: ["" : 18]>
g (float[batch, n] x, bool flip) => (float[batch, a] y, float[batch, b] z)
{
  y, z = If (flip) <
    then_branch = then () => (float[batch, a] p, float[batch, b] q)
      { p, m, q = Split <axis = AXIS, num_outputs = 3> (x) },
    else_branch = otherwise () => (float[batch, a] r, float[batch, b] s)
      { r, s = Split <axis = AXIS, num_outputs = 2> (x) }
  >
}
"""


@pytest.mark.parametrize(("opset", "axis"), [(17, -1), (13, 1), (12, -1), (11, -1), (10, 1)])
def test_parts_of_a_size_that_varies(tmp_path: Path, opset: int, axis: int) -> None:
    path = saved(SPLIT_IN_A_BODY.replace("AXIS", str(axis)), tmp_path / "model.onnx")
    conversion = convert(str(path), options=Options(opset=opset))
    assert conversion.model.opset_imports[""] == opset
    for size in (6, 7, 8):
        x = np.arange(3 * size, dtype=np.float32).reshape(3, size)
        for flip in (True, False):
            feeds = {"x": x, "flip": np.array(flip)}
            for array, expected in zip(
                run(conversion.model, **feeds), run(path, **feeds), strict=True
            ):
                np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("opset", [7, 9, 13, 17, 26])
def test_real_network_at_any_opset(opset: int) -> None:
    conversion = convert(str(FIXTURE), options=Options(opset=opset))
    onnx.checker.check_model(to_proto(conversion.model), full_check=True)
    assert conversion.model.opset_imports[""] == opset
    assert max(parity.max_abs for parity in conversion.parity) == 0


def test_functions_and_bodies_are_lowered_too(tmp_path: Path) -> None:
    path = saved(FUNCTION_AND_BODY, tmp_path / "model.onnx")
    conversion = convert(str(path), options=Options(opset=15))
    model = conversion.model
    assert [function.opset_imports[""] for function in model.functions.values()] == [15]
    assert model.ir_version == 8
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    for flip in (True, False):
        feeds = {"x": x, "flip": np.array(flip)}
        np.testing.assert_array_equal(run(model, **feeds)[0], run(path, **feeds)[0])


LATE = """
<ir_version: 9, opset_import: ["" : 20]>
g (float[batch, 4] x) => (float[batch, 4] y, int64[batch, 4] z)
<float[4] scale = {1, 2, 3, 4}, float[4] bias = {1, 0, 0, 1}, int64 whole = {1}>
{
  n = LayerNormalization <axis = -1, epsilon = 0.01> (x, scale, bias)
  a = Gelu (n)
  b = Gelu <approximate = "tanh"> (a)
  c = HardSwish (b)
  y = Mish (c)
  z = CastLike (n, whole)
}
"""


@pytest.mark.parametrize("opset", [9, 13, 16, 17, 19])
def test_operators_that_came_late_are_written_as_their_parts(tmp_path: Path, opset: int) -> None:
    path = saved(LATE, tmp_path / "model.onnx")
    conversion = convert(str(path), options=Options(opset=opset))
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    for array, expected in zip(run(conversion.model, x=x), run(path, x=x), strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-5)


COMPUTED = """
<ir_version: 8, opset_import: ["" : 18]>
g (float[batch, 2, 3, 3] x) => (float[batch, 2] y)
<int64[2] last = {2, 3}, int64[1] flat = {-1}, int64[1] width = {2}>
{
  axes = Reshape (last, flat)
  m = ReduceMean <keepdims = 1> (x, axes)
  sizes = Shape <start = 0, end = 1> (x)
  shape = Concat <axis = 0> (sizes, width)
  y = Reshape <allowzero = 1> (m, shape)
}
"""


@pytest.mark.parametrize("opset", [17, 15])
def test_integers_that_are_computed_of_constants_are_known(tmp_path: Path, opset: int) -> None:
    path = saved(COMPUTED, tmp_path / "model.onnx")
    model = convert(str(path), options=Options(opset=opset)).model
    x = np.random.default_rng(0).standard_normal((5, 2, 3, 3)).astype(np.float32)
    np.testing.assert_allclose(run(model, x=x)[0], x.mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)


SIZED = """
<ir_version: 8, opset_import: ["" : 14]>
g (float[batch, 2, 3] x) => (float[batch, 6] y)
<int64[1] zero = {0}, int64[1] width = {6}>
{
  sizes = Shape (x)
  rows = Gather (sizes, zero)
  shape = Concat <axis = 0> (rows, width)
  y = Reshape <allowzero = 1> (x, shape)
}
"""


@pytest.mark.parametrize("opset", [13, 11, 9])
def test_a_size_of_the_input_may_be_zero_at_any_opset(tmp_path: Path, opset: int) -> None:
    path = saved(SIZED, tmp_path / "model.onnx")
    model = convert(str(path), options=Options(opset=opset)).model
    for batch in (0, 1, 4):
        x = np.random.default_rng(0).standard_normal((batch, 2, 3)).astype(np.float32)
        np.testing.assert_array_equal(run(model, x=x)[0], x.reshape(batch, 6))


REFUSED = [
    (
        "float[n, 4] x, int64[n, 4] i", "float[n, 4] y", "y = GatherElements (x, i)", 13, 9,
        r"GatherElements '.*' of opset 13 cannot be written in opset 9: the operator came",
    ),
    (
        "float[n, 4] x, int64[1] axes", "float[] y", "y = ReduceMean <keepdims = 0> (x, axes)",
        18, 17, "its axes are computed, and had to be an attribute",
    ),
    (
        "float[n, 4] x", "float[n, 4] y", "y = Shrink (x)", 9, 8,
        r"Shrink '.*', by its part Where, of opset 9 cannot be written in opset 8: the operator",
    ),
    (
        "float[n, 4] x", "float8e4m3fn[n, 4] y", "y = Cast <to = 17> (x)", 19, 13,
        "it did not take tensor",
    ),
    (
        "float[n, 4] x, int64[2] s", "float[a, b] y", "y = Reshape <allowzero = 1> (x, s)", 14, 13,
        "a 0 in its shape came to mean no elements, and it may have one",
    ),
    (
        "float[n, 4] x, float[m] o", "float[m, b] y",
        "s = Shape (o) r = Constant <value_ints = [-1]> () t = Concat <axis = 0> (s, r)"
        " y = Reshape <allowzero = 1> (x, t)",
        14, 13, "a 0 in its shape came to mean no elements, and it may have one",
    ),
    (
        "float[2, 4] x, float[4] b", "float[2, 4] y", "y = Max (x, b)", 8, 7,
        "its operands may differ in shape, and it did not broadcast",
    ),
    (
        "float[2, 4] x, float[4] b", "float[2, 4] y", "y = Add (x, b)", 7, 6,
        "it broadcast in another way",
    ),
    (
        "float[n, 4] x", "float[n, 6] y",
        "p = Constant <value = int64[4] {0, 1, 0, 1}> () y = Pad <mode = \"wrap\"> (x, p)",
        19, 18, "its mode 'wrap' came later",
    ),
    (
        "float[1, 1, 4, 4] x", "float[a, b, c, d] y",
        "y = Scale <scale = 2.0> (x)", 8, 9,
        r"Scale '.*' was an experimental operator of ONNX, given up: scale\*x; Mul says it",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "outputs", "body", "opset", "target", "message"), REFUSED)
def test_what_a_version_cannot_say_is_refused_by_name(
    tmp_path: Path, inputs: str, outputs: str, body: str, opset: int, target: int, message: str
) -> None:
    text = f'<ir_version: 9, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}'
    path = saved(text, tmp_path / "model.onnx")
    with pytest.raises(GraphoptError, match=message) as error:
        convert(str(path), options=Options(opset=target))
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("operator", "opset", "message"),
    [
        ("ImageScaler", 8, "ImageScaler 'y' was an experimental operator of ONNX"),
        ("Upsample", 11, "Upsample 'y' was removed from ONNX in opset 10, where Resize took"),
        ("Mish", 13, "Mish 'y' came to ONNX with opset 18, and the model is written in opset 13"),
        ("Frobnicate", 13, "Frobnicate 'y' is no operator of ONNX, in any version known here"),
    ],
)
def test_operators_that_are_none_are_explained(
    tmp_path: Path, operator: str, opset: int, message: str
) -> None:
    text = (
        f'<ir_version: 7, opset_import: ["" : {opset}]>'
        f" g (float[n, 4] x) => (float[n, 4] y) {{ y = {operator} (x) }}"
    )
    path = saved(text, tmp_path / "model.onnx")
    with pytest.raises(GraphoptError, match="takes neither the source nor") as error:
        convert(str(path))
    assert message in str(error.value)
    assert str(error.value).startswith(str(path))
    assert error.value.exit_code == 2
