from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import scipy.special
from click.testing import CliRunner, Result

from graphopt.cli.ensemble import command
from graphopt.errors import CheckFailed, GraphoptError
from graphopt.model import load, save
from graphopt.runtime.session import Session

softmax = partial(scipy.special.softmax, axis=-1)

FIXTURES = Path(__file__).parents[2] / "fixtures"
MEMBERS = {name: FIXTURES / f"digits_{name}.onnx" for name in ("cnn", "mlp", "resnet")}
DATA = FIXTURES / "digits_calibration.npz"


def ensemble(expression: str, output: Path, *arguments: str | Path, **members: Path) -> Result:
    given = [f"{name}={path}" for name, path in (members or MEMBERS).items()]
    return CliRunner().invoke(
        command, [expression, *given, "-o", str(output), *map(str, arguments)]
    )


def done(result: Result) -> str:
    if result.exception is not None:
        raise result.exception
    return result.stdout


def outputs(path: Path, x: np.ndarray) -> np.ndarray:
    return Session(load(path)).run({"image": x})["logits"]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    with np.load(FIXTURES / "digits_test.npz") as data:
        return data["image"][:40]


def test_it_writes_what_the_expression_says(tmp_path: Path, images: np.ndarray) -> None:
    output = tmp_path / "out.onnx"
    text = "0.5 * softmax(cnn) + 0.25 * softmax(mlp) + 0.25 * softmax(resnet)"
    shown = done(ensemble(text, output, "--data", DATA))
    each = {name: softmax(outputs(path, images)) for name, path in MEMBERS.items()}
    expected = 0.5 * each["cnn"] + 0.25 * each["mlp"] + 0.25 * each["resnet"]
    np.testing.assert_allclose(outputs(output, images), expected, rtol=2e-5, atol=1e-6)
    for part in ("digits_cnn.onnx", "numpy over the members", "stack_members", f"wrote {output}"):
        assert part in shown
    metadata = load(output).metadata_props
    assert json.loads(metadata["graphopt.ensemble"])["expression"] == text
    assert metadata["graphopt.pipeline"].startswith("cleanup | dedupe")


def test_an_empty_pipeline_leaves_the_composed_graph(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    done(ensemble("mean(a, b)", output, "-p", "", a=MEMBERS["cnn"], b=MEMBERS["mlp"]))
    model = load(output)
    assert "graphopt.pipeline" not in model.metadata_props
    assert len(model.graph) >= sum(len(load(MEMBERS[name]).graph) for name in ("cnn", "mlp"))


def test_the_record_names_members_and_checks(tmp_path: Path) -> None:
    result = ensemble("vote(cnn, mlp, resnet)", tmp_path / "out.onnx", "--json", "-")
    record = json.loads(done(result))
    assert [member["name"] for member in record["members"]] == ["cnn", "mlp", "resnet"]
    assert [source["file"] for source in record["sources"]] == [p.name for p in MEMBERS.values()]
    assert record["verified"][0]["equal"]
    assert [step["pass_text"] for step in record["steps"]][:2] == ["cleanup", "dedupe"]


def test_the_result_goes_through_other_passes(tmp_path: Path, images: np.ndarray) -> None:
    output = tmp_path / "out.onnx"
    pipeline = 'cleanup | dedupe | quantize(mode="weights")'
    done(ensemble("mean(cnn, mlp, resnet)", output, "-p", pipeline, "--data", DATA))
    whole = np.mean([outputs(path, images) for path in MEMBERS.values()], axis=0)
    assert (outputs(output, images).argmax(1) == whole.argmax(1)).mean() > 0.95
    assert output.stat().st_size < 0.5 * sum(path.stat().st_size for path in MEMBERS.values())


def test_inputs_of_other_names_are_mapped_or_told(tmp_path: Path) -> None:
    head = '<ir_version: 10, opset_import: ["": 20]> '
    text = head + "g (float[N,3] {}) => (float[M,3] y) {{ y = Neg({}) }}"
    for name, value in (("a", "x"), ("b", "pixels")):
        ir.save(ir.from_onnx_text(text.format(value, value)), tmp_path / f"{name}.onnx")
    members = {name: tmp_path / f"{name}.onnx" for name in "ab"}
    apart = ensemble("a + b", tmp_path / "out.onnx", **members)
    assert "note: " in apart.stderr
    assert "pixels" in apart.stderr
    done(ensemble("a + b", tmp_path / "out.onnx", "--map", "b.pixels=x", **members))
    assert [value.name for value in load(tmp_path / "out.onnx").graph.inputs] == ["x"]


def test_weights_are_fitted_and_told(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    text = "mean(softmax(cnn), softmax(mlp), softmax(resnet))"
    result = ensemble(
        text,
        output,
        "--fit-weights",
        "--data",
        DATA,
        "--metric",
        "accuracy",
        "-p",
        "",
        "--json",
        "-",
    )
    record = json.loads(done(result))
    (fitted,) = record["fitted"]
    assert sum(share["weight"] for share in fitted["shares"]) == pytest.approx(1)
    assert fitted["after"] >= fitted["equal"]
    assert record["expression"] == fitted["expression"]


def test_a_meta_model_is_fitted(tmp_path: Path, images: np.ndarray) -> None:
    output = tmp_path / "out.onnx"
    fit = ("--fit-meta", "logistic", "--data", DATA, "--metric", "accuracy")
    shown = done(ensemble("stack(cnn, mlp, resnet)", output, *fit))
    assert "held out" in shown
    probabilities = Session(load(output)).run({"image": images})["probabilities"]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_a_greedy_soup_keeps_what_helps(tmp_path: Path) -> None:
    model = load(MEMBERS["mlp"])
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT:
            value.const_value = ir.tensor(-value.const_value.numpy())
    ir.save(model, tmp_path / "worse.onnx")
    options = ("--greedy-soup", "--data", DATA, "--metric", "accuracy")
    members = {"good": MEMBERS["mlp"], "worse": tmp_path / "worse.onnx"}
    shown = done(ensemble("soup(good, worse)", tmp_path / "out.onnx", *options, **members))
    assert "left out" in shown


@pytest.mark.parametrize(
    ("expression", "arguments", "said"),
    [
        ("voet(cnn, mlp, resnet)", (), "did you mean 'vote'"),
        ("cnn + mlp", (), "the expression does not use it"),
        ("cnn + mlp + resnet + x", (), "there is no member 'x'"),
        ("cnn + mlp + resnet", ("--map", "cnn"), "write MEMBER.INPUT=NAME"),
        ("cnn + mlp + resnet", ("--provider", "Foo"), "no execution provider 'Foo'; use cpu"),
        ("cnn + mlp + resnet", ("--fit-weights",), "give --data"),
        ("cnn + mlp + resnet", ("--fit-weights", "--data", DATA), "give --metric"),
        ("cnn + mlp + resnet", ("--fit-method", "convex"), "give --fit-weights"),
        (
            "cnn + mlp + resnet",
            ("--greedy-soup", "--data", DATA, "--metric", "accuracy"),
            "no soup",
        ),
        (
            "stack(cnn, mlp, resnet)",
            ("--fit-meta", "ridge", "--data", DATA, "--metric", "accuracy"),
            "ridge fits numbers",
        ),
        ("1e39*cnn + mlp + resnet", (), "1e+39 does not fit FLOAT"),
        ("soup(cnn, mlp, resnet)", (), "another architecture"),
        ("stack(cnn, mlp, resnet)", (), "no meta-model"),
        ("cnn + mlp + resnet", ("-p", "cleanup | nosuch"), "nosuch"),
    ],
)
def test_bad_usage_is_refused_and_writes_nothing(
    tmp_path: Path, expression: str, arguments: tuple[str, ...], said: str
) -> None:
    output = tmp_path / "out.onnx"
    result = ensemble(expression, output, *arguments)
    assert isinstance(result.exception, GraphoptError)
    assert result.exception.exit_code == 2
    assert said in str(result.exception)
    assert not output.exists()


def test_a_graph_that_is_not_what_numpy_makes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphopt.ensembles import verification

    class Off(verification.NumpySession):
        def run(self, batch):  # type: ignore[no-untyped-def]
            return {name: array + 1 for name, array in super().run(batch).items()}

    monkeypatch.setattr(verification, "NumpySession", Off)
    result = ensemble("mean(cnn, mlp, resnet)", tmp_path / "out.onnx")
    assert isinstance(result.exception, CheckFailed)
    assert "not what numpy makes" in str(result.exception)
    assert not (tmp_path / "out.onnx").exists()
    done(ensemble("mean(cnn, mlp, resnet)", tmp_path / "out.onnx", "--no-verify", "-p", ""))


@pytest.mark.parametrize(
    ("expression", "arguments"),
    [
        ("mean(soup(a, b), c)", ()),
        ("mean(soup(a, b), c)", ("--greedy-soup", "--metric", "top1")),
    ],
)
def test_each_file_is_loaded_once(
    tmp_path: Path,
    two_inputs: Path,
    monkeypatch: pytest.MonkeyPatch,
    expression: str,
    arguments: tuple[str, ...],
) -> None:
    members = {"a": two_inputs, "b": tmp_path / "b.onnx", "c": tmp_path / "c.onnx"}
    for path in (members["b"], members["c"]):
        save(ir.from_onnx_text(TWO_INPUTS), path)
    draw = np.random.default_rng(0)
    x, z = draw.normal(size=(2, 40, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", labels=x.argmax(1), x=x, z=z)
    loaded: list[str] = []

    def counted(path: str, *arguments: object) -> ir.Model:
        loaded.append(Path(path).name)
        return load(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("graphopt.model.load", counted)
    monkeypatch.setattr("graphopt.ensembles.build.load", counted)
    program = f"y = {expression}.y"
    data = ("--data", tmp_path / "data.npz")
    done(ensemble(program, tmp_path / "out.onnx", *data, *arguments, **members))
    assert sorted(loaded) == ["b.onnx", "c.onnx", "two.onnx"]


def test_a_member_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_text("no model")
    result = ensemble("a", tmp_path / "out.onnx", a=tmp_path / "bad.onnx")
    assert isinstance(result.exception, GraphoptError)
    assert "bad.onnx" in str(result.exception)


def test_a_name_that_is_no_word_is_told_as_such(tmp_path: Path) -> None:
    result = ensemble("a", tmp_path / "out.onnx", **{"1a": MEMBERS["cnn"]})
    assert isinstance(result.exception, GraphoptError)
    assert "'1a'" in str(result.exception)
    assert "did you mean" not in str(result.exception)


def test_weights_of_a_soup_that_are_divided_are_told(tmp_path: Path) -> None:
    members = {"a": MEMBERS["mlp"], "b": MEMBERS["mlp"]}
    result = ensemble("soup(a, b, weights=[0.3, 0.3])", tmp_path / "out.onnx", **members)
    assert "sum to 0.6 and are divided" in result.stderr


TWO_INPUTS = """<ir_version: 8, opset_import: ["" : 17]>
    m (float[N, 4] x, float[N, 4] z) => (float[N, 4] y, float[N, 4] w) {
        y = Softmax(x)
        w = Add(x, z)
    }"""


@pytest.fixture
def two_inputs(tmp_path: Path) -> Path:
    save(ir.from_onnx_text(TWO_INPUTS), tmp_path / "two.onnx")
    return tmp_path / "two.onnx"


@pytest.mark.parametrize("names", ["xz", "x"])
@pytest.mark.parametrize("fitting", [(), ("--fit-weights", "--metric", "top1")])
def test_data_may_have_or_lack_what_the_ensemble_does_not_read(
    tmp_path: Path, two_inputs: Path, names: str, fitting: tuple[str, ...]
) -> None:
    draw = np.random.default_rng(0)
    arrays = {name: draw.normal(size=(40, 4)).astype(np.float32) for name in names}
    np.savez(tmp_path / "data.npz", labels=arrays["x"].argmax(1), **arrays)
    data = ("--data", tmp_path / "data.npz", *fitting)
    output = tmp_path / "out.onnx"
    done(ensemble("0.5*a.y + 0.5*b.y", output, *data, a=two_inputs, b=two_inputs))
    model = load(output)
    assert [value.name for value in model.graph.inputs] == ["x"]
    x = arrays["x"]
    expected = softmax(x)
    np.testing.assert_allclose(Session(model).run({"x": x})["y"], expected, rtol=1e-5)


def test_an_output_that_needs_fewer_inputs_is_picked_without_data(
    tmp_path: Path, two_inputs: Path
) -> None:
    shown = done(ensemble("a.y", tmp_path / "out.onnx", a=two_inputs))
    assert "numpy over the members: output 'y' equal" in shown


def test_data_for_no_input_of_any_member_are_refused(tmp_path: Path, two_inputs: Path) -> None:
    x = np.ones((4, 4), np.float32)
    np.savez(tmp_path / "data.npz", x=x, z=x, other=x)
    with pytest.raises(GraphoptError, match="array 'other' is no input"):
        done(ensemble("a.y", tmp_path / "o.onnx", "--data", tmp_path / "data.npz", a=two_inputs))


def test_a_member_whose_shape_nothing_tells_is_noted_and_runs(tmp_path: Path) -> None:
    member = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        m (float[N, 4] x) => (float[N, 4] y) { y = com.microsoft.SampleOp(x) }"""
    )
    member.graph.outputs[0].shape = None
    save(member, tmp_path / "gelu.onnx")
    result = ensemble("vote(a, a)", tmp_path / "out.onnx", a=tmp_path / "gelu.onnx")
    assert "output 'y' equal" in done(result)
    assert "onnx.checker refuses member 'a' (no type or shape is known of its output 'y')" in (
        result.stderr
    )
