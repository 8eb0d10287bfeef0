"""What callables may return, without a framework; the conversion tests name them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

CALLS: list[str] = []


def _of(module: str) -> Any:
    return type("Thing", (), {"__module__": module, "__call__": lambda self: self})()


class KerasOnTorch(type(_of("torch.nn.modules.module"))):  # type: ignore[misc]  # made above
    __module__ = "keras.src.layers.layer"


def keras_on_torch() -> Any:
    return KerasOnTorch()


def torch_network() -> Any:
    return _of("torch.nn.modules.module"), np.ones(3)


def tf_function() -> Any:
    return _of("tensorflow.python.eager.polymorphic_function.polymorphic_function")


def jitted() -> Any:
    return _of("jaxlib._jax"), np.ones(3)


def flax_module() -> Any:
    return _of("flax.linen.module"), {"x": np.ones(3)}


def function_with_examples_of_jax() -> tuple[Callable[..., Any], Any]:
    return (lambda x: x), {"x": [_of("jaxlib._jax")]}


def unknown() -> Any:
    CALLS.append("unknown")
    return (lambda x: x), np.ones(3)


def with_parameters(x: Any) -> Any:
    CALLS.append("with_parameters")
    return x


def failing() -> Any:
    raise ValueError("no weights here")
