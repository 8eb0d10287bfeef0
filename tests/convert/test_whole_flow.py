"""From every framework: convert, make smaller, fuse all of them, validate."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
from command_line import Ran
from convert_sources import FIXTURES, FLATTEN, MAKERS, Source, digits, expression

from graphopt.model import load
from graphopt.runtime.session import Session

PIPELINE = 'cleanup | threshold(sparsity=0.5) | quantize(mode="weights")'


def _missing(framework: str) -> list[str]:
    return [name for name in MAKERS[framework][1] if importlib.util.find_spec(name) is None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flow")


@pytest.fixture(scope="module")
def sources(folder: Path) -> dict[str, Source]:
    found = {name: make(folder) for name, (make, _) in MAKERS.items() if not _missing(name)}
    assert len(found) >= 2
    return found


def test_every_framework_goes_into_one_ensemble(
    graphopt: Callable[..., Ran], folder: Path, sources: dict[str, Source]
) -> None:
    ir.save(ir.from_onnx_text(FLATTEN), folder / "flat.onnx")
    members = [f"flat={folder / 'flat.onnx'}"]
    for name, source in sources.items():
        converted, small = folder / f"{name}.onnx", folder / f"{name}.small.onnx"
        for arguments in (
            ("convert", source.spec, "-o", str(converted), "--cleanup", *source.arguments),
            ("run", str(converted), "-o", str(small), "-p", PIPELINE),
        ):
            done = graphopt(*arguments)
            assert done.code == 0, f"{name}: {done.err}"
        members.append(f"{name}={small}")
    out, calibration = folder / "all.onnx", FIXTURES / "digits_calibration.npz"
    done = graphopt(
        "ensemble", expression(sources), *members, "-o", str(out), "--data", str(calibration)
    )
    assert done.code == 0, done.err
    assert [value.name for value in load(out).graph.inputs] == ["image"]
    rows, labels = digits("test")
    session = Session(out)
    (probabilities,) = session.run({"image": rows.reshape(-1, 1, 8, 8)}).values()
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.95
