"""Trees of every library and a network, fused into one graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from command_line import Ran

pytest.importorskip("skl2onnx")
skops = pytest.importorskip("skops.io")
catboost = pytest.importorskip("catboost")
lightgbm = pytest.importorskip("lightgbm")
xgboost = pytest.importorskip("xgboost")

FIXTURES = Path(__file__).parents[2] / "fixtures"
FLATTEN = """
<ir_version: 10, opset_import: ["" : 20]>
flatten (float[N, 1, 8, 8] image) => (float[N, 64] X) { X = Flatten<axis = 1>(image) }
"""


def digits(name: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(FIXTURES / f"digits_{name}.npz") as data:
        return data["image"][:600], data["labels"][:600]


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources of four libraries, trained on the same digits."""
    from sklearn.ensemble import RandomForestClassifier

    folder = tmp_path_factory.mktemp("members")
    images, labels = digits("train")
    rows = images.reshape(len(images), -1)
    forest = RandomForestClassifier(15, max_depth=8, random_state=0).fit(rows, labels)
    skops.dump(forest, folder / "f.skops")
    boosted = xgboost.XGBClassifier(n_estimators=8, max_depth=4, n_jobs=1).fit(rows, labels)
    boosted.save_model(folder / "x.ubj")
    light = lightgbm.LGBMClassifier(n_estimators=8, n_jobs=1, verbose=-1).fit(rows, labels)
    light.booster_.save_model(folder / "l.txt")
    cats = catboost.CatBoostClassifier(
        iterations=15, depth=4, verbose=0, thread_count=1, allow_writing_files=False
    ).fit(rows, labels)
    cats.save_model(str(folder / "c.cbm"))
    onnx.save(onnx.parser.parse_model(FLATTEN), folder / "flat.onnx")
    return folder


def test_forest_boosters_and_a_network_are_one_graph(
    graphopt: Callable[..., Ran], members: Path
) -> None:
    arguments = [f"flat={members / 'flat.onnx'}", f"n={FIXTURES / 'digits_mlp.onnx'}"]
    for source in ("f.skops", "x.ubj", "l.txt", "c.cbm"):
        name = source[0]
        out = members / f"{name}.onnx"
        trust = ["--trust", "sklearn.tree._tree.Tree"]
        done = graphopt("convert", str(members / source), "-o", str(out), *trust)
        assert done.code == 0, done.err
        arguments.append(f"{name}={out}")
    trees = [f"(flat >> {name}).probabilities" for name in "fxlc"]
    out = members / "all.onnx"
    done = graphopt(
        "ensemble", f"mean({', '.join(trees)}, softmax(n.logits))", *arguments, "-o", str(out),
        "-p", "cleanup | threshold(sparsity=0.5) | cleanup", "--data",
        str(FIXTURES / "digits_test.npz"),
    )  # fmt: skip
    assert done.code == 0, done.err
    images, labels = digits("test")
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["image"]
    (probabilities,) = session.run(None, {"image": images})
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.9
    domains = {item.domain for item in onnx.load(out).opset_import}
    assert "ai.onnx.ml" in domains


def test_labels_are_put_to_the_vote(graphopt: Callable[..., Ran], members: Path) -> None:
    arguments = []
    for source in ("f.skops", "x.ubj", "l.txt"):
        out = members / f"v{source[0]}.onnx"
        trust = ["--trust", "sklearn.tree._tree.Tree"]
        done = graphopt("convert", str(members / source), "-o", str(out), *trust)
        assert done.code == 0, done.err
        arguments.append(f"{source[0]}={out}")
    out = members / "vote.onnx"
    expression = "vote(f.probabilities, x.probabilities, l.probabilities)"
    done = graphopt("ensemble", expression, *arguments, "-o", str(out))
    assert done.code == 0, done.err
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    images, labels = digits("test")
    outputs = session.run(None, {"X": images.reshape(len(images), -1)})
    found = outputs[0] if outputs[0].ndim == 1 else outputs[0].argmax(axis=1)
    assert (found == labels).mean() > 0.85
