"""Functions of JAX that the conversion tests name as `jax_functions:...`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

Example = tuple[Callable[..., Any], Any]

ROWS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


def project(x: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.tanh(x) @ w


def scaled(x: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.tanh(x) * w


def plain() -> Example:
    return project, (ROWS, np.ones((4, 2), np.float32))


def nested() -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    def f(batch: dict[str, jax.Array], *, scale: jax.Array, offset: float = 1.0) -> dict[str, Any]:
        return {
            "logits": batch["x"] * scale + offset,
            "same": batch["x"],
            "pair": (batch["y"], batch["y"].sum(1)),
        }

    y = np.arange(6, dtype=np.int32).reshape(3, 2)
    return f, ({"x": ROWS, "y": y},), {"scale": np.float32(2)}


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, features: jax.Array) -> jax.Array:
        return self.out(self.drop(nnx.relu(self.norm(self.hidden(features)))))


def nnx_module() -> Example:
    return Net(nnx.Rngs(0)), ROWS


class Mlp(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return flax.linen.Dense(2)(flax.linen.relu(flax.linen.Dense(8)(x)))


def linen_module() -> Example:
    module = Mlp()
    return module.bind(module.init(jax.random.key(0), ROWS)), ROWS


def unbound() -> Example:
    return Mlp(), ROWS


def convolution() -> Example:
    conv = nnx.Conv(3, 8, (3, 3), rngs=nnx.Rngs(0))
    return lambda image: jnp.mean(nnx.relu(conv(image)), (1, 2)), np.ones((2, 8, 8, 3), np.float32)


def attend() -> Example:
    def f(q: jax.Array, k: jax.Array) -> jax.Array:
        return jax.nn.softmax(q @ k.swapaxes(1, 2), -1) @ k

    generator = np.random.default_rng(0)
    q, k = (generator.standard_normal((2, size, 8)).astype(np.float32) for size in (5, 7))
    return f, (q, k)


def running_sum() -> Example:
    return lambda x: jax.lax.scan(lambda c, row: (c + row, c * row), jnp.zeros(4), x), ROWS


def switch() -> Example:
    return lambda x: jax.lax.cond(x.sum() > 0, lambda v: v + 1, lambda v: v * 2, x), ROWS


def half() -> Example:
    return lambda x: x * 2, ROWS.astype(np.float16)


def masked() -> Example:
    return lambda tokens, mask: jnp.where(mask, tokens, 0), (
        np.ones((2, 3), np.int32),
        np.ones((2, 3), bool),
    )


def doubles() -> Example:
    jax.config.update("jax_enable_x64", True)
    return lambda x, y, n: (x / 3, y / 3, n + 1), (
        ROWS.astype(np.float64),
        ROWS,
        np.arange(3, dtype=np.int64),
    )


def doubles_that_jax_narrows() -> Example:
    return lambda x: x / 3, ROWS.astype(np.float64)


def fixed_batch() -> Example:
    return lambda x: x.reshape(2, 6) * 2, ROWS


def python_branch() -> Example:
    return lambda x: x + 1 if x.sum() > 0 else x, ROWS


def calls_back() -> Example:
    def f(x: jax.Array) -> jax.Array:
        return jax.jit(
            lambda v: jax.pure_callback(lambda a: a, jax.ShapeDtypeStruct(v.shape, v.dtype), v)
        )(x)

    return f, ROWS


def noisy() -> Example:
    return lambda x: x + jax.random.normal(jax.random.key(0), x.shape), ROWS


def keyed() -> Example:
    return lambda k: jax.random.normal(k, (2,)), jax.random.key(0)


def number() -> int:
    return 3


def broken() -> Example:
    raise ValueError("no weights here")


def remainders() -> Example:
    """Integers of both signs; jax2onnx's `rem` gives shapes with JAX's symbols to ONNX."""
    numbers = np.arange(-6, 6, dtype=np.int32).reshape(3, 4)
    return lambda n: {"floor": n // 4, "rest": n % 4}, numbers


def sums_along_an_axis() -> Example:
    """A call that jax2onnx's stand-in for `jax.numpy.cumsum` does not take."""
    return lambda x: jnp.cumsum(x, 1), ROWS


class Pooled(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        x = flax.linen.relu(flax.linen.Conv(4, (3, 3))(image))
        return flax.linen.avg_pool(x, (2, 2), strides=(2, 2))


IMAGES = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)


def pooled() -> Example:
    """A call that jax2onnx's stand-in for flax's `avg_pool` does not take."""
    module = Pooled()
    return module.bind(module.init(jax.random.key(0), IMAGES)), IMAGES


def half_product() -> Example:
    """A product in float16, to which jax2onnx adds zeros in float32."""
    weights = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float16)
    return lambda x: x @ weights, ROWS.astype(np.float16)


CLASSES = np.array([0, 2, 4], np.int32)


def classes() -> Example:
    return lambda i: (jax.nn.one_hot(i, 5), jax.nn.one_hot(i, 5, axis=0)), CLASSES


def narrow_classes() -> Example:
    return lambda i: (jax.nn.one_hot(i, 5),), CLASSES.astype(np.int8)


def window() -> Example:
    def f(x: jax.Array, start: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x, start, 2, 1)

    return f, (ROWS, np.int32(1))


class PooledByPosition(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        x = flax.linen.relu(flax.linen.Conv(4, (3, 3))(image))
        x = flax.linen.max_pool(x, (2, 2), (2, 2))
        return flax.linen.max_pool(x, (3, 2), (1, 2), ((1, 1), (0, 1)))


def pooled_by_position() -> Example:
    module = PooledByPosition()
    return module.bind(module.init(jax.random.key(0), IMAGES)), IMAGES


class Remembering(flax.linen.Module):
    """flax splits a random key for the states that it starts with, which are zeros."""

    @flax.linen.compact
    def __call__(self, steps: jax.Array) -> jax.Array:
        return flax.linen.RNN(flax.linen.OptimizedLSTMCell(6))(steps)


STEPS = np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)


def remembering() -> Example:
    module = Remembering()
    return module.bind(module.init(jax.random.key(0), STEPS)), STEPS


def remembering_noisily() -> Example:
    module = Remembering()
    bound = module.bind(module.init(jax.random.key(0), STEPS))

    def f(steps: jax.Array) -> jax.Array:
        key = jax.random.split(jax.random.key(steps.shape[1]))[0]
        return bound(steps) + jax.random.normal(key, (6,))

    return f, STEPS


COLUMNS = np.array([0, 2, 3], np.int32)
"""As many as there are rows."""


def columns() -> Example:
    """Takes and sets columns, as many as it is told, with several modes beyond the last."""

    def f(x: jax.Array, i: jax.Array) -> dict[str, jax.Array]:
        return {
            "moved": x[:, i],
            "filled": jnp.take(x, i, axis=1),
            "whole": jnp.take((x * 10).astype(jnp.int32), i, axis=1),
            "clipped": jnp.take(x, i, axis=1, mode="clip"),
            "rows": jax.lax.scan(lambda c, at: (c, x[0, at]), 0.0, i)[1],
        }

    return f, (ROWS, COLUMNS)


def pairs() -> Example:
    """Elements by two indices each, which vary together, apart from the rows."""
    return lambda x, i, j: x[i, j], (ROWS, COLUMNS, COLUMNS)


def written() -> Example:
    def f(x: jax.Array, start: jax.Array) -> jax.Array:
        ones = jnp.ones((1, 2), x.dtype)
        return jax.lax.dynamic_update_slice(x, ones, (start[0], start[1]))

    return f, (ROWS, np.array([1, 1], np.int32))


def twice() -> Example:
    """Two inputs that could vary apart, but are of one batch."""
    return lambda x, y: (x * 2, y + 1), (ROWS, ROWS)
