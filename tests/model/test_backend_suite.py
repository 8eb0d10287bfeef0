"""Every model of ONNX's backend suite loads, saves and compares losslessly."""

from __future__ import annotations

import functools
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import onnx
import onnx.backend.test
import onnx_ir as ir
import pytest

from graphopt.errors import GraphoptError
from graphopt.model import load, save
from graphopt.model.lossless import differences

SHIPPED = Path(onnx.backend.test.__file__).parent / "data"
PINNED = {"1.23": Counter(shipped=149, generated=1884)}


def shipped() -> Iterator[tuple[str, bytes]]:
    for path in sorted(SHIPPED.rglob("*.onnx")):
        yield str(path.relative_to(SHIPPED)), path.read_bytes()


@functools.cache
def generated() -> list[tuple[str, bytes]]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        # The cases compute overflows and divisions by zero on purpose.
        warnings.simplefilter("ignore", RuntimeWarning)
        cases = collect_testcases(None)
    return [(case.name, case.model.SerializeToString()) for case in cases]


def carried(content: bytes, folder: Path, *, external_data: bool) -> list[str]:
    """Load and save a model; return the fields in which the result differs."""
    source, target = folder / "source.onnx", folder / "target.onnx"
    source.write_bytes(content)
    save(load(source), target, external_data=external_data)
    return list(differences(onnx.load_from_string(content), onnx.load(target)))


@pytest.mark.parametrize("external_data", [False, True])
def test_all_models_of_the_backend_suite_survive(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    external_data: bool,
) -> None:
    # Thousands of flushes would take most of the time, and prove nothing about the contents.
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    counts: Counter[str] = Counter()
    refused: dict[str, str] = {}
    lost: dict[str, list[str]] = {}
    for group, models in (("shipped", shipped()), ("generated", generated())):
        for name, content in models:
            try:
                fields = carried(content, tmp_path, external_data=external_data)
            except GraphoptError as error:
                refused[name] = str(error)
                continue
            counts[group] += 1
            # Tensors that moved into a data file and back come as raw_data.
            fields = [f for f in fields if not (external_data and f.endswith("_data"))]
            if fields:
                lost[name] = fields
    with capsys.disabled():
        print(f"\nbackend suite: {dict(counts)} kept, {len(refused)} refused, {len(lost)} lost")
    assert lost == {}
    assert refused == {}
    release = ".".join(version("onnx").split(".")[:2])
    if release in PINNED:
        assert counts == PINNED[release]


def test_onnx_ir_alone_would_add_to_five_of_them() -> None:
    """The comparison sees what changes: onnx-ir writes types of initializers that had none."""
    names = [name for name, content in generated() if "flexattention" in name and _changed(content)]
    assert len(names) >= 5


def _changed(content: bytes) -> bool:
    before = onnx.load_from_string(content)
    return bool(list(differences(before, ir.to_proto(ir.from_proto(before)))))
