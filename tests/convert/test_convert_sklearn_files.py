from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from command_line import Ran

from graphopt.convert import Options, convert
from graphopt.errors import GraphoptError

pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")
skops = pytest.importorskip("skops.io")

from sklearn import ensemble, linear_model, tree  # noqa: E402
from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import OrdinalEncoder  # noqa: E402
from sklearn_estimators import X, Y  # noqa: E402

TREE = "sklearn.tree._tree.Tree"


def test_skops_file_with_unknown_types_is_refused_until_they_are_trusted(tmp_path: Path) -> None:
    path = tmp_path / "forest.skops"
    skops.dump(ensemble.RandomForestClassifier(3, random_state=0).fit(X, Y), path)
    with pytest.raises(GraphoptError, match=f"harmless: {TREE}; .*--trust {TREE}"):
        convert(str(path))
    first = convert(str(path), options=Options(trust=(TREE,)))
    again = convert(str(path), options=Options(trust=(TREE,)))
    one, two = (ir.to_proto(found.model).SerializeToString() for found in (first, again))
    assert one == two


def test_dtypes_are_trusted_by_their_exact_name(tmp_path: Path) -> None:
    path = tmp_path / "encoder.skops"
    transformer = ColumnTransformer([("codes", OrdinalEncoder(dtype=np.dtype("float32")), [0])])
    estimator = make_pipeline(transformer, linear_model.Ridge()).fit(X, Y)
    skops.dump(estimator, path)
    assert skops.get_untrusted_types(file=path) == ["numpy.dtype"]
    convert(str(path))


def test_trees_are_refused_for_their_memory(tmp_path: Path) -> None:
    path = tmp_path / "tree.skops"
    skops.dump(tree.DecisionTreeClassifier(max_depth=2).fit(X, Y), path)
    with pytest.raises(GraphoptError, match="a crafted file can crash"):
        convert(str(path))


def test_skops_file_of_known_types_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "line.model"
    skops.dump(linear_model.Ridge().fit(X, Y), path)
    assert convert(str(path)).notes == ()


@pytest.mark.parametrize("how", ["pickle", "joblib", "compressed"])
def test_pickle_is_refused_until_it_is_allowed(tmp_path: Path, how: str) -> None:
    import joblib

    path = tmp_path / "model"
    estimator = linear_model.Ridge().fit(X, Y)
    if how == "pickle":
        path.write_bytes(pickle.dumps(estimator))
    else:
        joblib.dump(estimator, path, compress=3 if how == "compressed" else 0)
    with pytest.raises(GraphoptError, match=r"is a pickle of sklearn\S*Ridge, and .* any code"):
        convert(str(path))
    notes = convert(str(path), options=Options(allow_pickle=True)).notes
    assert any("can run any code" in note for note in notes)


class Evil:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (print, ("it ran",))


def test_nothing_of_a_pickle_runs_unless_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(GraphoptError, match="any code"):
        convert(str(path))
    assert "it ran" not in capsys.readouterr().out


def test_broken_files_are_one_line(graphopt: Callable[..., Ran], tmp_path: Path) -> None:
    whole = tmp_path / "whole.skops"
    skops.dump(linear_model.Ridge().fit(X, Y), whole)
    cut = tmp_path / "cut.skops"
    cut.write_bytes(whole.read_bytes()[:-100])
    empty = tmp_path / "empty.skops"
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("schema.json", json.dumps({"__class__": "nothing"}))
    pickled = tmp_path / "cut.pkl"
    pickled.write_bytes(pickle.dumps(linear_model.Ridge().fit(X, Y))[:-40])
    unfitted = tmp_path / "unfitted.skops"
    skops.dump(linear_model.Ridge(), unfitted)
    other = tmp_path / "list.skops"
    skops.dump([1, 2], other)
    for path, message in (
        (cut, "cut.skops"),
        (empty, "cannot be read by skops"),
        (pickled, "cannot be unpickled"),
        (unfitted, "is not fitted"),
        (other, "not an estimator of scikit-learn"),
    ):
        out = tmp_path / "out.onnx"
        done = graphopt("convert", str(path), "-o", str(out), "--from", "sklearn", "--allow-pickle")
        assert done.code == 2, path
        assert message in done.err
        assert len(done.err.splitlines()) == 1
        assert not out.exists()
