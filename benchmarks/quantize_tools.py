"""What `quantize.py` compares: graphopt's pipelines, and the settings of its peers.

ONNX Runtime's quantizer, onnxsim and NNCF are optional. Each gets the same calibration samples one
by one; per-channel weights wherever it has them, except in `ort-default`, which has no setting.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from quantize_task import Arrays, Task

DEFAULT = "graphopt"
PIPELINES = {
    DEFAULT: "cleanup | quantize",
    "graphopt-minmax": 'cleanup | quantize(mode="static", method="minmax")',
    "graphopt-entropy": 'cleanup | quantize(mode="static", method="entropy")',
    "graphopt-percentile": 'cleanup | quantize(mode="static", method="percentile")',
    "graphopt-mse": 'cleanup | quantize(mode="static", method="mse")',
    "graphopt-tuned": 'cleanup | equalize | smooth | quantize(mode="static", method="mse")'
    " | correct_bias",
    "graphopt-dynamic": "cleanup | quantize_dynamic",
    "graphopt-float": "cleanup",
    "graphopt-int8": "cleanup | quantize_weights",
    "graphopt-int4": 'cleanup | quantize_weights(dtype="int4")',
}
"""What `graphopt run -p` is given; `graphopt-float` shows what is `cleanup`'s share."""

Samples = list[Arrays]
Job = Callable[[str, str, Samples, Task], object]
"""Quantizes a file into another."""


@dataclass(frozen=True)
class Peer:
    """A setting of another tool.

    Args:
        module: What must be installed, and is imported before the clock starts.
        job: Does it.
        transformers: Whether it is for transformers only.
    """

    module: str
    job: Job
    transformers: bool = False

    @property
    def absent(self) -> bool:
        return importlib.util.find_spec(self.module.partition(".")[0]) is None


def versions() -> dict[str, str]:
    """The versions of what is compared."""
    names = ("graphopt", "onnx", "onnxruntime", "onnxsim", "nncf", "torch", "numpy")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


class _Reader:
    """Samples as ONNX Runtime's calibrators want them."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.rest: Iterator[Arrays] = iter(samples)

    def get_next(self) -> Arrays | None:
        return next(self.rest, None)

    def rewind(self) -> None:
        self.rest = iter(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.rest = iter(self.samples[start_index:end_index])


def _ort_prepared(source: str, folder: str) -> str:
    """What its documentation asks for; without symbolic shapes where those fail, as users do."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, prepared = str(Path(source).resolve()), str(Path(folder).resolve() / "prepared.onnx")
    # It leaves temporary files in the working directory.
    with contextlib.chdir(folder):
        try:
            quant_pre_process(source, prepared)
        except Exception:
            # It wraps nothing: what goes wrong inside comes out as any type.
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
    return prepared


def _ort_static(
    source: str,
    out: str,
    samples: Samples,
    _: Task,
    *,
    prepare: bool = True,
    activations: str = "QUInt8",
    method: str = "MinMax",
) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder:
        quantize_static(
            _ort_prepared(source, folder) if prepare else source,
            out,
            _Reader(samples),
            per_channel=True,
            activation_type=getattr(QuantType, activations),
            weight_type=QuantType.QInt8,
            calibrate_method=getattr(CalibrationMethod, method),
        )


def _ort_default(source: str, out: str, samples: Samples, _: Task) -> None:
    from onnxruntime.quantization import quantize_static

    quantize_static(source, out, _Reader(samples))


def _ort_dynamic(source: str, out: str, _: Samples, __: Task, *, prepare: bool = True) -> None:
    from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        path = _ort_prepared(source, folder) if prepare else source
        quantize_dynamic(path, out, per_channel=True)


def _onnxsim(
    source: str, out: str, samples: Samples, _: Task, *, mode: str, method: str = "minmax"
) -> None:
    """Onnxsim quantizes what its simplifier leaves, as its command line does."""
    import onnx
    import onnxsim

    model, _checked = onnxsim.simplify(onnx.load(source))
    if mode == "static":
        result = onnxsim.quantize_static(model, samples, method=method)
    elif mode == "dynamic":
        result = onnxsim.quantize_dynamic(model)
    else:
        result = onnxsim.quantize_weight_only(model)
    onnx.save(result, out)


def _nncf(source: str, out: str, samples: Samples, _: Task, *, transformer: bool = False) -> None:
    import nncf
    import onnx

    options: dict[str, Any] = {"subset_size": len(samples)}
    if transformer:
        options["model_type"] = nncf.ModelType.TRANSFORMER
    onnx.save(nncf.quantize(onnx.load(source), nncf.Dataset(samples), **options), out)


def _nncf_weights(source: str, out: str, _: Samples, __: Task) -> None:
    import nncf
    import onnx

    onnx.save(nncf.compress_weights(onnx.load(source)), out)


_ORT = "onnxruntime.quantization.shape_inference"


def _ort_peers() -> Iterator[tuple[str, Peer]]:
    yield "ort-default", Peer(_ORT, _ort_default)
    for name, activations in (("u8s8", "QUInt8"), ("s8s8", "QInt8")):
        for method in ("MinMax", "Entropy", "Percentile"):
            job = partial(_ort_static, activations=activations, method=method)
            yield f"ort-{name}-{method.lower()}", Peer(_ORT, job)
    yield "ort-u8s8-minmax-raw", Peer(_ORT, partial(_ort_static, prepare=False))
    yield "ort-dynamic", Peer(_ORT, _ort_dynamic)
    yield "ort-dynamic-raw", Peer(_ORT, partial(_ort_dynamic, prepare=False))


PEERS: dict[str, Peer] = {
    **dict(_ort_peers()),
    "onnxsim-static": Peer("onnxsim", partial(_onnxsim, mode="static")),
    "onnxsim-static-entropy": Peer("onnxsim", partial(_onnxsim, mode="static", method="entropy")),
    "onnxsim-dynamic": Peer("onnxsim", partial(_onnxsim, mode="dynamic")),
    "onnxsim-weights": Peer("onnxsim", partial(_onnxsim, mode="weights")),
    "nncf": Peer("nncf", _nncf),
    "nncf-transformer": Peer("nncf", partial(_nncf, transformer=True), transformers=True),
    "nncf-weights": Peer("nncf", _nncf_weights),
}
"""By name; `-raw` is without ONNX Runtime's `quant_pre_process`."""

TOOLS = (*PIPELINES, *PEERS)
