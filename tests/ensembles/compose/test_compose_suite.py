"""Models of ONNX's backend suite as members: alone, beside themselves, twice, and in bodies."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
import onnx_ir as ir
import onnxruntime
import pytest
from composing import bindings, body, choice, names_are_unique
from onnx import numpy_helper

from graphopt.ensembles.compose import Composition
from graphopt.errors import GraphoptError
from graphopt.model import load, to_proto

SHIPPED = Path(onnx.backend.test.__file__).parent / "data"
RUNNABLE = 100
"""Shipped models that ONNX Runtime runs, at least (onnx 1.23, ONNX Runtime 1.31)."""

GENERATED = 1400
"""Generated models that it runs, at least (of 1884 it runs 1408)."""

CHOOSE = "choose"


def alone(members: Mapping[str, ir.Model]) -> ir.Model:
    composition = Composition({"a": members["a"]})
    graph = composition.model.graph
    return composition.finish(composition.place("a", bindings(composition, "a"), graph))


def twice(members: Mapping[str, ir.Model]) -> ir.Model:
    composition = Composition(members)
    graph = composition.model.graph
    placed = [
        composition.place(name, bindings(composition, name), graph) for name in ("a", "b", "a")
    ]
    outputs = dict(placed[0])
    for index, more in enumerate(placed[1:]):
        outputs.update({f"{index}/{name}": value for name, value in more.items()})
    return composition.finish(outputs)


def in_bodies(members: Mapping[str, ir.Model]) -> ir.Model:
    composition = Composition(members)
    branches = [
        composition.place(name, bindings(composition, name), body(name)) for name in ("a", "b")
    ]
    return composition.finish(choice(composition, *branches))


def session(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), options)


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray):
        if first.dtype.kind in "fc":
            return np.allclose(first, second, rtol=1e-4, atol=1e-5, equal_nan=True)
        return bool(np.array_equal(first, second))
    if isinstance(first, list):
        return len(first) == len(second) and all(map(equal, first, second))
    return bool(first == second)


def outcome(
    path: Path, feeds: Mapping[str, Any], make: Callable[[Mapping[str, ir.Model]], ir.Model]
) -> str:
    """Say what became of a model that ONNX Runtime runs: equal, refused, or what is wrong."""
    try:
        model = make({"a": load(path), "b": load(path)})
    except GraphoptError as error:
        return f"refused: {error}"
    if not names_are_unique(model):
        return "names"
    ran = session(to_proto(model))
    taken = {value.name for value in ran.get_inputs()}
    fed = {name: value for name, value in feeds.items() if name in taken}
    if make is in_bodies:
        fed[CHOOSE] = np.array(True)
    expected = session(onnx.load(path)).run(None, dict(feeds))
    found = ran.run(None, fed)
    rest = [found[start : start + len(expected)] for start in range(0, len(found), len(expected))]
    return "equal" if all(equal(expected, part) for part in rest) else "differs"


def shipped() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(SHIPPED.glob("*/*/model.onnx")):
        model = onnx.load(path)
        folder = path.parent / "test_data_set_0"
        feeds = {}
        for index, value in enumerate(model.graph.input):
            content = folder / f"input_{index}.pb"
            if content.exists() and value.type.HasField("tensor_type"):
                tensor = onnx.TensorProto.FromString(content.read_bytes())
                feeds[value.name] = numpy_helper.to_array(tensor)
        try:
            session(model).run(None, feeds)
        except Exception:  # ONNX Runtime raises whatever it likes: it does not run this model
            continue
        yield path, feeds


def test_shipped_models() -> None:
    found: Counter[str] = Counter()
    wrong = {}
    for path, feeds in shipped():
        for make in (alone, twice, in_bodies):
            result = outcome(path, feeds, make)
            found[result] += 1
            if result != "equal":
                wrong[f"{path.parent.name} {make.__name__}"] = result
    assert not wrong
    assert found["equal"] >= 3 * RUNNABLE


@pytest.mark.slow
def test_generated_models(tmp_path: Path) -> None:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        # The cases compute overflows and divisions by zero on purpose.
        warnings.simplefilter("ignore", RuntimeWarning)
        cases = collect_testcases(None)
    found: Counter[str] = Counter()
    wrong, path = {}, tmp_path / "model.onnx"
    for case in cases:
        names = [value.name for value in case.model.graph.input]
        feeds = dict(zip(names, case.data_sets[0][0], strict=False)) if case.data_sets else {}
        feeds = {name: _array(value) for name, value in feeds.items()}
        try:
            session(case.model).run(None, feeds)
        except Exception:  # as above
            continue
        path.write_bytes(case.model.SerializeToString())
        for make in (alone, twice):
            result = outcome(path, feeds, make)
            found[result] += 1
            if result != "equal":
                wrong[f"{case.name} {make.__name__}"] = result
    # A Scan with a batch axis cannot be written in any later opset.
    assert {name.split()[0] for name in wrong} <= {"test_scan_sum"}
    assert found["equal"] >= 2 * GENERATED


def _array(value: Any) -> Any:
    return np.array(value) if isinstance(value, int | float | bool | np.generic) else value
