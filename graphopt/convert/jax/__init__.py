"""From JAX: plain functions and flax modules, through jax2onnx, compared with JAX itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.convert.contract import Conversion, Options
from graphopt.convert.finishing import finish, require
from graphopt.convert.inner_precision import inner_tolerances
from graphopt.convert.jax.export import exported
from graphopt.convert.jax.function import Function, open_function, path_name
from graphopt.convert.jax.interface import fit_interface
from graphopt.convert.jax.sizes import Dims, candidates, is_fixed, specs_of, vary_apart
from graphopt.convert.layout import to_channels_first
from graphopt.convert.parity import REFUSED, Reference
from graphopt.convert.quiet import quiet
from graphopt.convert.reasons import first_line
from graphopt.convert.unsupported import missing_kernels
from graphopt.errors import CheckFailed, GraphoptError
from graphopt.runtime.feeds import Array, Batch


def recognises(path: Path) -> bool:
    """No file is of JAX: its programs are Python."""
    del path
    return False


def convert(source: str, options: Options) -> Conversion:
    """Export a function with example inputs.

    Axis 0 is the batch of all inputs that have the size of the first input's there, where the
    function takes any, but for those that it takes with other sizes than the first's; else it is
    the batch of the first input alone; else no size varies, and a note says why.

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
        for dims in candidates(function, options):
            try:
                return _converted(function, dims, options, refused)
            except CheckFailed as error:
                # What is wrong at other sizes is no reason to look at one only.
                if not vary_apart(dims) or options.dynamic_shapes:
                    raise
                refused = refused or error.cause
            except GraphoptError as error:
                # Fixed sizes come last: what fails with them fails.
                if is_fixed(dims) or options.dynamic_shapes:
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


def _converted(
    function: Function, dims: Sequence[Dims], options: Options, refused: str
) -> Conversion:
    specs = specs_of(function, dims)
    shapes = _output_shapes(function, specs)
    model = exported(function, specs, options)
    notes = [*function.notes, *fit_interface(model, function, dims, shapes)]
    if refused and is_fixed(dims):
        notes.append(f"every size stays as in the example inputs: {refused}")
    examples, reference = list(function.examples), _reference(function)
    if options.layout == "nchw":
        examples, reference = to_channels_first(model, examples, reference)
    allowed = inner_tolerances(model, examples, reference, options)
    with missing_kernels(model, function.source, "let the function compute in float32"):
        done = finish(model, examples, reference, options, allowed=allowed, notes=notes)
    if not options.dynamic_shapes and not is_fixed(dims) and _ran_only_once(done):
        # Tracing does not find every size that is written into a function.
        raise GraphoptError(f"it takes no other batch: {done.notes[-1]}", file=function.source)
    return done


def _ran_only_once(done: Conversion) -> bool:
    refused = [note for note in done.notes if note.startswith(REFUSED)]
    return bool(refused) and len({tuple(item.sizes.items()) for item in done.parity}) == 1


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
