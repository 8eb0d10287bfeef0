"""Execution providers: what a user calls them, and which of them are there."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphopt.errors import CheckFailed, GraphoptError

_SUFFIX = "ExecutionProvider"
_CUDA = "CUDA" + _SUFFIX
CPU = "CPU" + _SUFFIX

_FULL_NAMES = {
    "cpu": CPU,
    "cuda": _CUDA,
    "tensorrt": "Tensorrt" + _SUFFIX,
    "rocm": "ROCM" + _SUFFIX,
    "openvino": "OpenVINO" + _SUFFIX,
    "directml": "Dml" + _SUFFIX,
    "coreml": "CoreML" + _SUFFIX,
    "qnn": "QNN" + _SUFFIX,
}


class ProviderAbsentError(CheckFailed):
    """An execution provider was asked for, and is not there or does not start."""


@dataclass(frozen=True)
class Provider:
    """An execution provider as asked for.

    Args:
        text: What the user wrote.
        name: ONNX Runtime's name of it.
        options: Its options, by ONNX Runtime's names.
        library: The plug-in library that brings it, if any.
    """

    text: str
    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    library: Path | None = None

    @property
    def is_cpu(self) -> bool:
        """Whether this is ONNX Runtime's own CPU provider."""
        return self.name == CPU

    @property
    def has_tf32(self) -> bool:
        """Whether float32 may be rounded to TF32 here, and the user did not say."""
        return self.name == _CUDA and "use_tf32" not in self.options

    def with_options(self, **options: str) -> Provider:
        """The same with other options."""
        return Provider(self.text, self.name, {**self.options, **options}, self.library)


def parse_provider(text: str) -> Provider:
    """Read `cpu`, `cuda:device_id=0,use_tf32=0`, a full name, or `Name=library.so:key=value`.

    Raises:
        GraphoptError: It cannot be read, or the library is not there.
    """
    spec, _, options_text = text.partition(":")
    name, equals, library = spec.partition("=")
    options = {}
    for item in filter(None, options_text.split(",")):
        key, found, value = item.partition("=")
        if not found or not key:
            raise GraphoptError(
                f"provider {text!r}: {item!r} is no option", fix="write cuda:device_id=0,use_tf32=0"
            )
        options[key.strip()] = value.strip()
    if not name or (equals and not library):
        raise GraphoptError(
            f"provider {text!r} has no {'library' if name else 'name'}",
            fix="write cpu, cuda, a name ending in ExecutionProvider, or Name=library.so",
        )
    if equals and not Path(library).is_file():
        raise GraphoptError(f"provider {text!r}: there is no library {library}")
    full = _FULL_NAMES.get(name.lower(), name)
    if full == CPU and options:
        # ONNX Runtime takes anything here, and does nothing with it.
        raise GraphoptError(
            f"provider {text!r}: {CPU} has no option {next(iter(options))!r}, nor any other",
            fix="write cpu",
        )
    return Provider(text, full, options, Path(library).resolve() if equals else None)


def parse_providers(texts: Sequence[str | Provider]) -> tuple[Provider, ...]:
    """Read several."""
    return tuple(item if isinstance(item, Provider) else parse_provider(item) for item in texts)


def offered() -> tuple[str, ...]:
    """The providers that the installed ONNX Runtime has without further libraries."""
    import onnxruntime

    names = dict.fromkeys(onnxruntime.get_available_providers())
    names.update(dict.fromkeys(_devices_by_name()))
    return tuple(names)


def check_known(provider: Provider) -> None:
    """Refuse what is no execution provider, here or in any other build of ONNX Runtime.

    Raises:
        GraphoptError: It is none, and no library is named that would bring it.
    """
    import onnxruntime

    known = dict.fromkeys((*_FULL_NAMES.values(), *onnxruntime.get_all_providers(), *offered()))
    if provider.library is None and provider.name not in known:
        raise GraphoptError(
            f"there is no execution provider {provider.text!r}",
            fix=f"use {', '.join(_FULL_NAMES)}, another of ONNX Runtime's, or Name=library.so",
        )


def require_offered(provider: Provider) -> None:
    """Raise unless the installed ONNX Runtime offers this provider.

    Raises:
        ProviderAbsentError: It does not, or the library is none.
    """
    if provider.library is not None:
        _register(provider)
        return
    names = offered()
    if provider.name not in names:
        install = (
            "install graphopt[cuda] where there is an NVIDIA GPU"
            if provider.name == _CUDA
            else "install the package that brings it, or give Name=library.so"
        )
        raise ProviderAbsentError(
            f"{provider.name} is absent: this ONNX Runtime offers {', '.join(names)}", fix=install
        )


def add_providers(options: Any, providers: Sequence[Provider]) -> list[tuple[str, dict[str, str]]]:
    """Configure session options with providers.

    Returns:
        The providers to give to the session's constructor; none, where plug-ins had to be
        configured in the options.

    Raises:
        ProviderAbsentError: One is not there.
    """
    for provider in providers:
        require_offered(provider)
    if any(provider.name == _CUDA for provider in providers):
        _load_cuda_libraries()
    plain = _plain_names()
    if all(provider.name in plain for provider in providers):
        return [(provider.name, dict(provider.options)) for provider in providers]
    devices = _devices_by_name()
    for provider in providers:
        if provider.name in devices:
            options.add_provider_for_devices(devices[provider.name], dict(provider.options))
        elif not provider.is_cpu:
            options.add_provider(provider.name, dict(provider.options))
    return []


def _plain_names() -> tuple[str, ...]:
    import onnxruntime

    return tuple(onnxruntime.get_available_providers())


def _devices_by_name() -> dict[str, list[Any]]:
    import onnxruntime

    devices: dict[str, list[Any]] = {}
    # Older releases know no plug-ins.
    for device in getattr(onnxruntime, "get_ep_devices", list)():
        devices.setdefault(device.ep_name, []).append(device)
    return devices


def _register(provider: Provider) -> None:
    import onnxruntime

    if provider.name in _devices_by_name():
        return
    if not hasattr(onnxruntime, "register_execution_provider_library"):
        raise ProviderAbsentError(
            f"ONNX Runtime {onnxruntime.__version__} takes no plug-in libraries",
            fix="install a newer onnxruntime",
        )
    before = set(_devices_by_name())
    try:
        onnxruntime.register_execution_provider_library(provider.name, str(provider.library))
    except Exception as error:
        # ONNX Runtime's exception classes have only Exception in common.
        raise ProviderAbsentError(
            f"{provider.name} is absent: its library does not load: {_first_line(error)}",
            file=provider.library,
        ) from None
    found = set(_devices_by_name()) - before
    if provider.name not in found:
        names = f"it brings {', '.join(sorted(found))}" if found else "it finds no device"
        raise ProviderAbsentError(f"{provider.name} is absent: {names}", file=provider.library)


def _load_cuda_libraries() -> None:
    """Find the CUDA libraries of NVIDIA's Python packages, where those are installed."""
    import onnxruntime

    preload = getattr(onnxruntime, "preload_dlls", None)
    if preload is not None:
        # It prints what it does not find; a session that then does not start says so itself.
        with contextlib.redirect_stdout(io.StringIO()):
            preload()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
