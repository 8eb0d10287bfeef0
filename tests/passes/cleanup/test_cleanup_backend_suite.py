"""Cleanup on the models of ONNX's own backend suite, with their inputs and expected outputs.

A node test has one operator whose operands are all graph inputs. So each is also run with its
inputs turned into constants, all of them and all but the first: then every operator is folded, and
every rule sees every operator beside constants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from before_after import clean, session
from onnx.backend.test.loader import load_model_tests

from graphopt.pipeline.contract import Rewrite

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the suite makes NaN and inf

FOLDERS = ("simple", "pytorch-converted", "pytorch-operator")
DRAWN = ("bernoulli", "training_dropout", "multinomial", "random")
"""Names of cases whose outputs are drawn: there is nothing to compare."""

Values = Sequence[Any]


def cases() -> Iterator[tuple[str, onnx.ModelProto, Values, Values]]:
    """Yield name, model, inputs and expected outputs of the cases whose values are tensors."""
    for case in load_model_tests(kind="node"):
        inputs, outputs = case.data_sets[0]
        if all(isinstance(value, np.ndarray | np.generic) for value in (*inputs, *outputs)):
            yield case.name, case.model, inputs, outputs
    for folder in FOLDERS:
        for case in load_model_tests(kind=folder):
            root = Path(case.model_dir)
            model = onnx.load(root / "model.onnx")
            yield case.name, model, read(root, "input"), read(root, "output")


def read(root: Path, kind: str) -> list[Any]:
    values = []
    for path in sorted((root / "test_data_set_0").glob(f"{kind}_*.pb")):
        tensor = onnx.TensorProto.FromString(path.read_bytes())
        values.append(onnx.numpy_helper.to_array(tensor))
    return values


def frozen(model: onnx.ModelProto, inputs: Values, keep: int) -> onnx.ModelProto | None:
    """Turn the inputs behind the first `keep` into initializers."""
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    held = {value.name for value in model.graph.initializer}
    fed = [value for value in changed.graph.input if value.name not in held]
    if len(fed) != len(inputs) or len(fed) <= keep:
        return None
    for value, array in list(zip(fed, inputs, strict=True))[keep:]:
        tensor = onnx.numpy_helper.from_array(np.asarray(array), value.name)
        if tensor.data_type != value.type.tensor_type.elem_type:
            return None
        changed.graph.initializer.append(tensor)
        changed.graph.input.remove(value)
    changed.ir_version = max(changed.ir_version, 4)
    return changed


def run(model: onnx.ModelProto, inputs: Values) -> list[Any] | None:
    """Run on ONNX Runtime; None where it does not take the model or these inputs."""
    held = {value.name for value in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in held]
    try:
        fed = dict(zip(names, inputs, strict=False))
        return list(session(model).run(None, fed))
    except Exception:  # whatever ONNX Runtime raises, it is counted, not passed over
        return None


def close(got: Any, want: Any) -> bool:
    got, want = np.asarray(got), np.asarray(want)
    if got.shape != want.shape or got.dtype != want.dtype:
        return False
    if got.dtype.kind in "fc":
        return bool(np.allclose(got, want, rtol=1e-3, atol=1e-6, equal_nan=True))
    return bool(np.array_equal(got, want))


def nodes(model: onnx.ModelProto) -> int:
    loaded = ir.from_proto(model)
    graphs = [loaded.graph, *(function.graph for function in loaded.functions.values())]
    return sum(node.op_type != "Constant" for graph in graphs for node in graph.all_nodes())


def test_outputs_are_those_of_the_suite() -> None:
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    for name, model, inputs, outputs in cases():
        if any(word in name for word in DRAWN):
            seen["drawn"] += 1
            continue
        for keep in (len(inputs), 1, 0):
            variant = model if keep == len(inputs) else frozen(model, inputs, keep)
            if variant is None:
                continue
            before = run(variant, inputs)
            if before is None:
                seen["not for ONNX Runtime"] += 1
                continue
            cleaned = ir.from_proto(variant)
            changed = any(isinstance(step, Rewrite) for step in clean(cleaned))
            after_proto = ir.to_proto(cleaned)
            after = run(after_proto, inputs)
            expected = [
                want if close(was, want) else was
                for was, want in zip(before, outputs, strict=False)
            ]
            equal = after is not None and all(map(close, after, expected))
            if not equal or nodes(after_proto) > nodes(variant):
                wrong.append(f"{name} with {keep} inputs")
            seen["changed" if changed else "unchanged"] += 1
    print(dict(seen))
    assert wrong == []
    assert seen["changed"] > 1500
    assert seen["unchanged"] > 1500
