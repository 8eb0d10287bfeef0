"""From JAX: plain functions and flax modules, through jax2onnx, compared with JAX itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.convert.contract import Conversion, Dim, Options
from graphopt.convert.finishing import finish, require
from graphopt.convert.inner_precision import inner_tolerances
from graphopt.convert.jax.export import exported
from graphopt.convert.jax.function import Function, open_function, path_name
from graphopt.convert.jax.interface import fit_interface
from graphopt.convert.layout import to_channels_first
from graphopt.convert.parity import REFUSED, Reference
from graphopt.convert.quiet import quiet
from graphopt.convert.reasons import first_line
from graphopt.convert.unsupported import missing_kernels
from graphopt.errors import CheckFailed, GraphoptError
from graphopt.runtime.feeds import Array, Batch

_BATCH = "batch"

Dims = tuple[Dim, ...]


def recognises(path: Path) -> bool:
    """No file is of JAX: its programs are Python."""
    del path
    return False


def convert(source: str, options: Options) -> Conversion:
    """Export a function with example inputs.

    Axis 0 is the batch of all inputs that have the size of the first input's there, where the
    function takes any; else of the first input alone; else no size varies, and a note says why.

    Args:
        source: `module:callable`: a function, or what returns one (see `open_function`).
        options: What to ask for.

    Raises:
        GraphoptError: It is none, or JAX or jax2onnx cannot trace it: the primitive and its place.
        CheckFailed: ONNX Runtime computes something else than JAX on the example inputs.
    """
    require(["jax", "jax2onnx"], "jax", "JAX with jax2onnx")
    with _as_it_was(), quiet():
        function = open_function(source, options)
        refused = ""
        for dims in _candidates(function, options):
            try:
                return _converted(function, dims, options, refused)
            except CheckFailed:
                # What is wrong at other sizes is no reason to look at one only.
                raise
            except GraphoptError as error:
                # Fixed sizes come last: what fails with them fails.
                if _is_fixed(dims) or options.dynamic_shapes:
                    raise
                refused = refused or error.cause
    raise AssertionError("the last candidate has fixed sizes")


@contextlib.contextmanager
def _as_it_was() -> Iterator[None]:
    """Undo what the user's module and jax2onnx set of JAX's 64-bit types."""
    import jax

    before = jax.config.jax_enable_x64
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def _candidates(function: Function, options: Options) -> Iterator[tuple[Dims, ...]]:
    """Dimensions of every input, the most dynamic first."""
    fixed = tuple(tuple(example.shape) for example in function.examples)
    if options.dynamic_shapes:
        yield _asked(function, options)
        return
    if not options.static:
        batch = next((shape[0] for shape in fixed if shape), None)
        first = next((index for index, shape in enumerate(fixed) if shape), None)
        alike = [index for index, shape in enumerate(fixed) if shape and shape[0] == batch]
        for varying in (alike, [first]) if len(alike) > 1 else (alike,):
            if varying:
                yield tuple(
                    (_BATCH, *shape[1:]) if index in varying else shape
                    for index, shape in enumerate(fixed)
                )
    yield fixed


def _asked(function: Function, options: Options) -> tuple[Dims, ...]:
    unknown = [name for name in options.dynamic_shapes if name not in function.names]
    if unknown:
        raise GraphoptError(
            f"has no input {unknown[0]}; its inputs are {', '.join(function.names)}",
            file=function.source,
        )
    found: list[Dims] = []
    for name, example in zip(function.names, function.examples, strict=True):
        default: Dims = (_BATCH, *example.shape[1:]) if example.ndim else ()
        dims = tuple(options.dynamic_shapes.get(name, default))
        if len(dims) != example.ndim:
            raise GraphoptError(
                f"{name} has {example.ndim} dimensions, not {len(dims)}", file=function.source
            )
        for axis, dim in enumerate(dims):
            if isinstance(dim, int) and dim != example.shape[axis]:
                raise GraphoptError(
                    f"axis {axis} of {name} is {example.shape[axis]} in the example inputs,"
                    f" not {dim}",
                    file=function.source,
                )
        found.append(dims)
    return tuple(found)


def _is_fixed(dims: Sequence[Dims]) -> bool:
    return all(isinstance(dim, int) for shape in dims for dim in shape)


def _converted(
    function: Function, dims: tuple[Dims, ...], options: Options, refused: str
) -> Conversion:
    specs = _specs(function, dims)
    shapes = _output_shapes(function, specs)
    model = exported(function, specs, options)
    notes = [*function.notes, *fit_interface(model, function, dims, shapes)]
    if refused and _is_fixed(dims):
        notes.append(f"every size stays as in the example inputs: {refused}")
    examples, reference = list(function.examples), _reference(function)
    if options.layout == "nchw":
        examples, reference = to_channels_first(model, examples, reference)
    allowed = inner_tolerances(model, examples, reference, options)
    with missing_kernels(model, function.source, "let the function compute in float32"):
        done = finish(model, examples, reference, options, allowed=allowed, notes=notes)
    if not options.dynamic_shapes and not _is_fixed(dims) and _ran_only_once(done):
        # Tracing does not find every size that is written into a function.
        raise GraphoptError(f"it takes no other batch: {done.notes[-1]}", file=function.source)
    return done


def _ran_only_once(done: Conversion) -> bool:
    refused = [note for note in done.notes if note.startswith(REFUSED)]
    return bool(refused) and len({tuple(item.sizes.items()) for item in done.parity}) == 1


def _specs(function: Function, dims: Sequence[Dims]) -> list[Any]:
    import jax
    from jax import export

    scope = export.SymbolicScope()
    specs = []
    for shape, example in zip(dims, function.examples, strict=True):
        text = ", ".join(map(str, shape))
        sizes = export.symbolic_shape(text, scope=scope) if shape else ()
        specs.append(jax.ShapeDtypeStruct(sizes, example.dtype))
    return specs


def _output_shapes(function: Function, specs: Sequence[Any]) -> list[tuple[str, Any]]:
    """Name the outputs by their keys, with shapes and types as JAX traces them."""
    import jax

    try:
        outputs = jax.eval_shape(function.call, *specs)
    except Exception as error:
        # JAX's tracer raises what the function raises, and its own errors.
        raise GraphoptError(
            f"JAX cannot trace it: {first_line(error)}",
            file=function.source,
            fix="keep every size as in the example inputs with --static, or change the function",
        ) from error
    found = [
        ("_".join(("output", path_name(path))) if _numbered(path) else path_name(path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(outputs)
    ]
    if not found:
        raise GraphoptError("returns no array", file=function.source)
    return [(name or "output", leaf) for name, leaf in found]


def _numbered(path: Sequence[Any]) -> bool:
    return bool(path) and not path_name(path[:1]).isidentifier()


def _reference(function: Function) -> Reference:
    import jax

    def run(batch: Batch) -> Sequence[Array]:
        try:
            outputs = function.call(*map(jax.numpy.asarray, batch.values()))
        except Exception as error:
            # What the function raises is its own.
            raise GraphoptError(first_line(error), file=function.source) from error
        return [np.asarray(leaf) for leaf in jax.tree_util.tree_leaves(outputs)]

    return run
