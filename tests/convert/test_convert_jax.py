from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from graphopt.convert import Conversion, Options, convert, finishing
from graphopt.errors import CheckFailed, GraphoptError

jax = pytest.importorskip("jax")
pytest.importorskip("jax2onnx")
pytest.importorskip("flax")

HERE = Path(__file__).parent
COLUMNS = np.array([0, 2, 3], np.int32)


@pytest.fixture(autouse=True)
def _functions_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(HERE)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    sys.modules.pop("jax_functions", None)


def converted(name: str, **options: object) -> Conversion:
    return convert(f"jax_functions:{name}", framework="jax", options=Options(**options))  # type: ignore[arg-type]  # by name


def interface(values: object) -> dict[str, tuple[str, list[object]]]:
    return {
        value.name: (
            value.dtype.name,
            [dim if isinstance(dim, int) else dim.value for dim in value.shape],
        )
        for value in values
    }


def run(model: ir.Model, *arrays: np.ndarray) -> list[np.ndarray]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    return list(session.run(None, dict(zip(names, arrays, strict=True))))


@pytest.mark.parametrize("batch", [1, 3, 7])
@pytest.mark.parametrize(
    "name",
    [
        "nnx_module", "linen_module", "convolution", "running_sum", "sums_along_an_axis", "pooled",
        "pooled_by_position", "remembering",
    ],
)  # fmt: skip
def test_any_batch_gives_what_jax_gives(name: str, batch: int) -> None:
    conversion = converted(name)
    import jax_functions

    call, example = getattr(jax_functions, name)()
    if hasattr(call, "eval"):
        call.eval()
    shape = (batch, *np.shape(example)[1:])
    x = np.random.default_rng(batch).standard_normal(shape).astype(np.float32)
    wanted = jax.tree_util.tree_leaves(call(x))
    for array, expected in zip(run(conversion.model, x), wanted, strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_integers_of_both_signs_are_divided_as_jax_does(batch: int) -> None:
    conversion = converted("remainders")
    assert interface(conversion.model.graph.inputs) == {"n": ("INT32", ["batch", 4])}
    n = np.random.default_rng(batch).integers(-50, 50, (batch, 4), dtype=np.int32)
    floor, rest = run(conversion.model, n)
    np.testing.assert_array_equal(floor, n // 4)
    np.testing.assert_array_equal(rest, n % 4)


def test_product_in_half_precision_stays_so() -> None:
    import jax_functions

    model = converted("half_product").model
    product, _ = jax_functions.half_product()
    x = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float16)
    (found,) = run(model, x)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, product(x), rtol=1e-2, atol=1e-2)


def test_jax_is_left_as_it_was() -> None:
    before = jax.numpy.cumsum, ir.Shape.__init__
    converted("sums_along_an_axis")
    assert (jax.numpy.cumsum, ir.Shape.__init__) == before
    assert jax.numpy.cumsum(np.ones((2, 3)), 1).shape == (2, 3)


def test_images_come_with_channels_first_where_that_is_asked_for() -> None:
    import jax_functions

    module, images = jax_functions.pooled()
    model = converted("pooled", layout="nchw").model
    assert interface(model.graph.inputs)["image"][1] == ["batch", 3, 8, 8]
    (found,) = run(model, images.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(found, module(images).transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-5)


def test_only_the_first_input_is_batched_where_the_other_is_not() -> None:
    conversion = converted("plain")
    assert interface(conversion.model.graph.inputs) == {
        "x": ("FLOAT", ["batch", 4]),
        "w": ("FLOAT", [4, 2]),
    }
    assert interface(conversion.model.graph.outputs) == {"output": ("FLOAT", ["batch", 2])}
    assert [parity.sizes for parity in conversion.parity] == [
        {"batch": 3},
        {"batch": 4},
        {"batch": 1},
    ]
    assert conversion.notes == ()


def test_nested_inputs_and_outputs_are_named_by_their_keys() -> None:
    conversion = converted("nested")
    assert interface(conversion.model.graph.inputs) == {
        "batch_x": ("FLOAT", ["batch", 4]),
        "batch_y": ("INT32", ["batch", 2]),
        "scale": ("FLOAT", []),
    }
    assert interface(conversion.model.graph.outputs) == {
        "logits": ("FLOAT", ["batch", 4]),
        "pair_0": ("INT32", ["batch", 2]),
        "pair_1": ("INT32", ["batch"]),
        "same": ("FLOAT", ["batch", 4]),
    }
    x, y = np.ones((2, 4), np.float32), np.full((2, 2), 3, np.int32)
    logits, pair, total, same = run(conversion.model, x, y, np.array(2, np.float32))
    np.testing.assert_array_equal(logits, np.full((2, 4), 3, np.float32))
    np.testing.assert_array_equal(pair, y)
    np.testing.assert_array_equal(total, [6, 6])
    np.testing.assert_array_equal(same, x)


def test_two_inputs_with_dynamic_lengths() -> None:
    shapes = {"q": ("batch", "queries", 8), "k": ("batch", "keys", 8)}
    conversion = converted("attend", dynamic_shapes=shapes)
    assert interface(conversion.model.graph.inputs) == {
        "q": ("FLOAT", ["batch", "queries", 8]),
        "k": ("FLOAT", ["batch", "keys", 8]),
    }
    import jax_functions

    call, _ = jax_functions.attend()
    generator = np.random.default_rng(1)
    q, k = (generator.standard_normal((4, n, 8)).astype(np.float32) for n in (1, 11))
    (y,) = run(conversion.model, q, k)
    np.testing.assert_allclose(y, call(q, k), rtol=1e-5, atol=1e-5)


def test_control_flow_takes_both_branches() -> None:
    conversion = converted("switch")
    assert "If" in {node.op_type for node in conversion.model.graph}
    for sign in (1, -1):
        x = np.full((5, 4), sign, np.float32)
        (y,) = run(conversion.model, x)
        np.testing.assert_array_equal(y, x + 1 if sign > 0 else x * 2)


def test_dtypes_are_kept() -> None:
    assert interface(converted("half").model.graph.outputs) == {"output": ("FLOAT16", ["batch", 4])}
    assert interface(converted("masked").model.graph.inputs) == {
        "tokens": ("INT32", ["batch", 3]),
        "mask": ("BOOL", ["batch", 3]),
    }


def test_double_precision_is_kept_where_jax_has_it_on_and_the_switch_is_left_as_it_was() -> None:
    assert not jax.config.jax_enable_x64
    conversion = converted("doubles")
    assert not jax.config.jax_enable_x64
    dtypes = {name: dtype for name, (dtype, _) in interface(conversion.model.graph.inputs).items()}
    assert dtypes == {"x": "DOUBLE", "y": "FLOAT", "n": "INT64"}
    dtypes = {name: dtype for name, (dtype, _) in interface(conversion.model.graph.outputs).items()}
    assert dtypes == {"output_0": "DOUBLE", "output_1": "FLOAT", "output_2": "INT64"}
    x = np.full((2, 4), 1.0)
    y, _, _ = run(conversion.model, x, x.astype(np.float32), np.arange(2))
    np.testing.assert_array_equal(y, x / 3)


def test_double_precision_that_jax_has_off_is_narrowed_and_said() -> None:
    conversion = converted("doubles_that_jax_narrows")
    assert interface(conversion.model.graph.inputs) == {"x": ("FLOAT", ["batch", 4])}
    assert "x is float64 in the example inputs and float32 in JAX" in conversion.notes[0]


def test_batch_that_the_function_fixes_stays_and_is_said() -> None:
    conversion = converted("fixed_batch")
    assert interface(conversion.model.graph.inputs) == {"x": ("FLOAT", [3, 4])}
    assert "every size stays as in the example inputs" in conversion.notes[0]
    assert interface(converted("plain", static=True).model.graph.inputs)["x"][1] == [3, 4]


@pytest.mark.parametrize("opset", [15, 18, 21, 24])
def test_opset_is_what_was_asked_for(opset: int) -> None:
    assert converted("nnx_module", opset=opset).model.opset_imports[""] == opset


def test_function_itself_with_inputs_from_a_file(tmp_path: Path) -> None:
    data = tmp_path / "examples.npz"
    with pytest.raises(GraphoptError, match=r"has no example inputs; .*--data"):
        converted("scaled")
    np.savez(data, w=np.ones((3, 4), np.float32), x=np.ones((3, 4), np.float32))
    conversion = converted("scaled", data=str(data))
    assert list(interface(conversion.model.graph.inputs)) == ["x", "w"]
    np.savez(data, x=np.ones((3, 4), np.float32))
    with pytest.raises(GraphoptError, match="lacks the input w"):
        converted("scaled", data=str(data))
    np.savez(data, pixels=np.ones((3, 4), np.float32))
    with pytest.raises(GraphoptError, match="has pixels; the function's parameters are x, w"):
        converted("scaled", data=str(data))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("calls_back", r"does not support the primitive pure_callback \(jax_functions\.py:\d+\)"),
        (
            "remembering_noisily",
            r"does not support the primitive random_\w+ \(jax_functions\.py:\d+\)",
        ),
        ("unbound", r"without its variables; return module\.bind"),
        ("python_branch", "JAX cannot trace it: TracerBoolConversionError"),
        ("keyed", "which ONNX does not have"),
        ("number", "returns int; return a function"),
        ("broken", "fails: ValueError: no weights here"),
        ("absent", "jax_functions has no absent"),
    ],
)
def test_what_cannot_be_converted_is_one_line(name: str, message: str) -> None:
    with pytest.raises(GraphoptError, match=message) as error:
        converted(name)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


def test_random_numbers_that_onnx_draws_otherwise_are_refused() -> None:
    with pytest.raises((CheckFailed, GraphoptError), match=r"RandomNormal|differs from the source"):
        converted("noisy")


def test_shapes_that_do_not_fit() -> None:
    for shapes, message in [
        ({"x": ("batch",)}, "x has 2 dimensions, not 1"),
        ({"x": ("batch", 5)}, "axis 1 of x is 4 in the example inputs, not 5"),
        ({"image": ("batch",)}, "has no input image; its inputs are x, w"),
    ]:
        with pytest.raises(GraphoptError, match=message):
            converted("plain", dynamic_shapes=shapes)


def test_same_source_gives_the_same_bytes() -> None:
    first, second = (ir.to_proto(converted("nnx_module").model) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )


def test_absent_jax_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GraphoptError, match=r'pip install "graphopt\[jax\]"'):
        converted("plain")


def test_importing_graphopt_imports_no_jax() -> None:
    code = (
        "import sys, graphopt.convert, graphopt.convert.jax, graphopt.convert.onnx;"
        "assert not {'jax', 'flax', 'jax2onnx', 'torch', 'onnxruntime'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["classes", "narrow_classes"])
def test_classes_that_are_none_give_zeros(name: str) -> None:
    conversion = converted(name)
    import jax_functions

    call, example = getattr(jax_functions, name)()
    wanted = np.array([-1, -2, 3, 5, -9], example.dtype)
    for array, expected in zip(run(conversion.model, wanted), call(wanted), strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("start", [0, 2, 3, 9, -1, -2, -9])
def test_slices_stay_within_what_they_are_of(start: int) -> None:
    conversion = converted("window")
    import jax_functions

    call, (rows, _) = jax_functions.window()
    (array,) = run(conversion.model, rows, np.array(start, np.int32))
    np.testing.assert_array_equal(array, call(rows, start))


BEYOND = [[0, 2, 3], [-1, -4, 1], [-5, -8, 2], [4, 9, -9], [2**31 - 1, -(2**31), 0]]


@pytest.mark.parametrize("indices", BEYOND)
def test_indices_beyond_the_last_mean_what_they_do_in_jax(indices: list[int]) -> None:
    import jax_functions

    i = np.array([*indices, 1], np.int32)
    call, (rows, _) = jax_functions.columns()
    for array, expected in zip(
        run(converted("columns").model, rows, i),
        jax.tree_util.tree_leaves(call(jax.numpy.asarray(rows), i)),
        strict=True,
    ):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("start", [[0, 0], [-1, -2], [-7, -8], [7, 8], [-7, 8]])
def test_what_is_written_stays_within_the_array(start: list[int]) -> None:
    import jax_functions

    call, (rows, _) = jax_functions.written()
    at = np.array(start, np.int32)
    (array,) = run(converted("written", static=True).model, rows, at)
    np.testing.assert_array_equal(array, call(jax.numpy.asarray(rows), at))


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("columns", {"x": ["batch", 4], "i": ["i_length"]}),
        ("pairs", {"x": ["batch", 4], "i": ["i_length"], "j": ["i_length"]}),
        ("twice", {"x": ["batch", 4], "y": ["batch", 4]}),
        ("masked", {"tokens": ["batch", 3], "mask": ["batch", 3]}),
    ],
)
def test_sizes_that_only_happen_to_be_equal_vary_apart(
    name: str, inputs: dict[str, list[object]]
) -> None:
    conversion = converted(name)
    shapes = {key: dims for key, (_, dims) in interface(conversion.model.graph.inputs).items()}
    assert shapes == inputs
    sizes = [parity.sizes for parity in conversion.parity]
    apart = len({dims[0] for dims in inputs.values()}) > 1
    assert any(len({*found.values()}) > 1 for found in sizes) == apart


def test_a_jitted_function_that_was_traced_before_is_bounded_too() -> None:
    import jax_functions

    jax_functions.columns = lambda: (jax.jit(lambda x, i: x[:, i]), (jax_functions.ROWS, COLUMNS))
    i = np.array([-5, 9], np.int32)
    (found,) = run(converted("columns").model, jax_functions.ROWS, i)
    np.testing.assert_array_equal(found, jax_functions.ROWS[:, [0, 3]])
