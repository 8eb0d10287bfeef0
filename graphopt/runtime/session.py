"""ONNX Runtime sessions on models in memory or on disk."""

from __future__ import annotations

import copy
import ctypes
import re
import tempfile
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from graphopt.errors import CheckFailed, GraphoptError
from graphopt.model import load
from graphopt.model.order import BrokenGraphError, is_in_order
from graphopt.runtime.feeds import Array, Batch
from graphopt.runtime.layout import Input
from graphopt.runtime.placement import Placement, read_profile
from graphopt.runtime.providers import (
    CPU,
    Provider,
    ProviderAbsentError,
    add_providers,
    parse_providers,
)
from graphopt.runtime.staging import Staged, add_initializers, stage
from graphopt.runtime.trapping_division import check_divisions

Spinning = bool | Literal["during runs"]

_LEVELS = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_SILENT = 4
"""ONNX Runtime's severity for fatal errors: what it logs below it also raises."""

_TENSOR = re.compile(r"(?:tensor|sparse_tensor)\((?P<element>\w+)\)")
_ELEMENTS = {"float": "FLOAT", "double": "DOUBLE"}
_LONGEST = 400
_NOISE = (
    re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : "),
    # The place in ONNX Runtime's sources, with the C++ signature behind it.
    re.compile(
        r"(?:[A-Za-z]:)?[\w./\\-]+\.(?:cc|cpp|cu|h|hpp):\d+ [\w:<>~&*, ]+\([^)]*\)(?: const)?"
    ),
    re.compile(r"Please fix either the inputs/outputs or the model\."),
)


class Session:
    """A model ready to run. Thread-safe as ONNX Runtime's own session is.

    Args:
        model: A model, or the path of one. The weights of a model are not copied: those in files
            stay mapped.
        providers: Short names (`cpu`, `cuda`) or full names of execution providers, preferred
            first, with options: see `providers.parse_provider`.
        expose: Names of inner values of the main graph to return beside the outputs. What is
            exposed cannot be fused away.
        title: What messages call this model; None: its path or its name.
        optimization: ONNX Runtime's graph optimizations: none, basic, extended or all.
        threads: Threads inside an operator; None: ONNX Runtime's choice.
        spinning: Whether idle threads spin; None: ONNX Runtime's choice (they do), which distorts
            the latency of whatever else runs. "during runs": they spin, and stop at the end of a
            run: how a session with ONNX Runtime's choice does alone, and others beside it.
        profile: Record where nodes run, for `placement`.
        optimized: A file to write the graph to as ONNX Runtime has optimized it, weights beside it.

    Raises:
        ProviderAbsentError: A provider is not there, or does not start.
        CheckFailed: ONNX Runtime does not take the model.
    """

    def __init__(
        self,
        model: ir.Model | str | PathLike[str],
        providers: Sequence[str | Provider] = ("cpu",),
        *,
        expose: Sequence[str] = (),
        title: str | None = None,
        optimization: str = "all",
        threads: int | None = None,
        spinning: Spinning | None = None,
        profile: bool = False,
        optimized: str | PathLike[str] | None = None,
    ) -> None:
        self.title = title or _title(model)
        self.providers = parse_providers(providers)
        self._folder = tempfile.TemporaryDirectory(prefix="graphopt-") if profile else None
        options = _options(optimization, threads, spinning)
        if self._folder is not None:
            options.enable_profiling = True
            options.profile_file_prefix = f"{self._folder.name}/profile"
        if optimized is not None:
            _write_optimized(options, fspath(optimized))
        if not isinstance(model, ir.Model) and expose:
            model = load(model)
        self._staged: Staged | None = None
        self._content: str | bytes
        if isinstance(model, ir.Model):
            self._staged = self._stage(model, expose)
            self._content = self._staged.content
        else:
            self._content = fspath(model)
        self._session = self._start(options)
        self.inputs = tuple(_input(value) for value in self._session.get_inputs())
        self.input_names = tuple(item.name for item in self.inputs)
        self._overridable = tuple(map(_input, self._session.get_overridable_initializers()))
        outputs = [_input(value) for value in self._session.get_outputs()]
        self.output_names = tuple(item.name for item in outputs)
        self._outputs_beyond_numpy = any(_beyond_numpy(item.dtype) for item in outputs)

    def run(self, batch: Mapping[str, Array]) -> Batch:
        """Run one batch; return the outputs (and exposed values) by name.

        An output that is a sequence is a list, a map is a dict, an optional without a value None.

        Raises:
            GraphoptError: An input is missing or superfluous.
            CheckFailed: ONNX Runtime fails to run the model on it.
        """
        self._check_names(batch)
        takes = (*self.inputs, *self._overridable)
        feed = {item.name: _fed(item, batch[item.name]) for item in takes if item.name in batch}
        try:
            if self._outputs_beyond_numpy:
                found = self._run_beyond_numpy(feed)
            else:
                found = self._session.run(None, feed)
        except GraphoptError:
            raise
        except Exception as error:
            # ONNX Runtime's exception classes have only Exception in common.
            raise CheckFailed(f"{self.title} does not run: {explain(error)}") from None
        return dict(zip(self.output_names, found, strict=True))

    def placement(self) -> Placement:
        """Where the nodes of the runs so far ran; ends the recording. Needs `profile`."""
        if self._folder is None:
            raise ValueError("this session does not record where nodes run")
        file = self._session.end_profiling()
        placement = read_profile(file)
        self._folder.cleanup()
        return placement

    def _stage(self, model: ir.Model, expose: Sequence[str]) -> Staged:
        try:
            if not is_in_order(model):
                raise GraphoptError(
                    f"{self.title} has nodes in front of those that make their inputs",
                    fix="sort them: model.graph.sort()",
                )
            check_divisions(model)
            return stage(model, expose)
        except BrokenGraphError as error:
            raise GraphoptError(f"{self.title}: {error}") from None
        except CheckFailed as error:
            raise CheckFailed(f"{self.title}: {error}") from None

    def unoptimized(self) -> Session:
        """The same model with ONNX Runtime's graph optimizations off: sums in another order."""
        twin = copy.copy(self)
        twin._folder = None
        twin._session = self._start(_options("none", None, None))
        return twin

    def _start(self, options: Any) -> Any:
        import onnxruntime

        if self._staged is not None:
            add_initializers(options, self._staged)
        wanted = add_providers(options, self.providers)
        try:
            session = onnxruntime.InferenceSession(
                self._content, options, providers=wanted or None, enable_fallback=0
            )
        except Exception as error:
            if any(not provider.is_cpu for provider in self.providers) and self._runs_on_cpu():
                names = ", ".join(provider.name for provider in self.providers)
                raise ProviderAbsentError(f"{names} does not start: {explain(error)}") from None
            raise CheckFailed(f"{self.title} does not load: {explain(error)}") from None
        started = session.get_providers()
        for provider in self.providers:
            if provider.name not in started:
                raise ProviderAbsentError(
                    f"{provider.name} does not start: ONNX Runtime took {', '.join(started)}",
                    fix="check its driver and libraries",
                )
        session.disable_fallback()
        return session

    def _runs_on_cpu(self) -> bool:
        """Whether it is not the model that is at fault."""
        import onnxruntime

        options = _options("all", None, None)
        if self._staged is not None:
            add_initializers(options, self._staged)
        try:
            onnxruntime.InferenceSession(self._content, options, providers=[CPU])
        except Exception:
            return False
        return True

    def _check_names(self, batch: Mapping[str, Array]) -> None:
        for item in self.inputs:
            if item.required and item.name not in batch:
                raise GraphoptError(f"{self.title}: input {item.name!r} is missing")
        known = {item.name for item in self._overridable}
        for name in batch:
            if name not in self.input_names and name not in known:
                raise GraphoptError(f"{self.title} has no input {name!r}")

    def _run_beyond_numpy(self, feed: dict[str, Any]) -> list[Any]:
        import onnxruntime

        make = onnxruntime.OrtValue
        values = {
            name: value if isinstance(value, make) else make.ortvalue_from_numpy(value)
            for name, value in feed.items()
        }
        return [self._read(value) for value in self._session.run_with_ort_values(None, values)]

    def _read(self, value: Any) -> Any:
        if not value.is_tensor():
            raise CheckFailed(
                f"{self.title} returns a sequence or map beside a type that numpy lacks,"
                " which ONNX Runtime's Python interface cannot read"
            )
        dtype = ir.DataType(value.element_type())
        if not _beyond_numpy(dtype):
            return value.numpy()
        shape = tuple(value.shape())
        size = -(-int(np.prod(shape)) * dtype.bitwidth // 8)
        content = (
            np.frombuffer(ctypes.string_at(value.data_ptr(), size), np.uint8)
            if size
            else (np.empty(0, np.uint8))
        )
        if dtype.bitwidth < 8:
            return ir.PackedTensor(content, dtype, shape=ir.Shape(shape)).numpy()
        return content.view(dtype.numpy()).reshape(shape)


def explain(error: Exception) -> str:
    """The part of an ONNX Runtime error that a user can read."""
    text = " ".join(str(error).split()) or type(error).__name__
    for noise in _NOISE:
        text = noise.sub("", text)
    text = " ".join(text.split())
    # It repeats names of the model, which may be of any length.
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _title(model: ir.Model | str | PathLike[str]) -> str:
    if isinstance(model, ir.Model):
        return f"model {model.graph.name!r}" if model.graph.name else "the model"
    return fspath(model)


def _options(optimization: str, threads: int | None, spinning: Spinning | None) -> Any:
    import onnxruntime

    if optimization not in _LEVELS:
        raise GraphoptError(
            f"there is no optimization level {optimization!r}", fix=f"use {', '.join(_LEVELS)}"
        )
    # What the default logger prints, ONNX Runtime also raises.
    onnxruntime.set_default_logger_severity(_SILENT)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    options.graph_optimization_level = getattr(
        onnxruntime.GraphOptimizationLevel, _LEVELS[optimization]
    )
    if threads is not None:
        options.intra_op_num_threads = threads
    if spinning is not None:
        spins = str(int(bool(spinning)))
        options.add_session_config_entry("session.intra_op.allow_spinning", spins)
    if spinning == "during runs":
        options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _write_optimized(options: Any, file: str) -> None:
    options.optimized_model_filepath = file
    name = f"{Path(file).name}.data"
    # Weights of more than 2 GiB do not fit into the file itself.
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name", name
    )
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_min_size_in_bytes", "1024"
    )


def _input(value: Any) -> Input:
    match = _TENSOR.fullmatch(value.type)
    dtype = None
    if match is not None:
        element = match["element"]
        dtype = ir.DataType[_ELEMENTS.get(element, element.upper())]
    shape = None if value.shape is None or dtype is None else tuple(value.shape)
    return Input(value.name, dtype, shape, required=not value.type.startswith("optional"))


def _beyond_numpy(dtype: ir.DataType | None) -> bool:
    if dtype is None or dtype == ir.DataType.STRING:
        return False
    return np.dtype(dtype.numpy()).kind not in "fiubc" or dtype.bitwidth < 8


def _fed(item: Input, value: Array) -> Any:
    if not _beyond_numpy(item.dtype) or value.dtype.kind in "OSU":
        return value
    import onnxruntime

    assert item.dtype is not None
    if item.dtype.bitwidth < 8:
        raise CheckFailed(
            f"ONNX Runtime takes no {item.dtype.name} from Python, as input {item.name!r} wants"
        )
    plain = np.ascontiguousarray(value).view(f"u{value.dtype.itemsize}")
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(plain, int(item.dtype))
