"""The export of a function of JAX through jax2onnx, and what that needs to be told."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.convert.contract import Options
from graphopt.convert.jax.bounds import bounded
from graphopt.convert.jax.errors import export_reason
from graphopt.convert.jax.function import Function
from graphopt.convert.jax.indices import fit_indices
from graphopt.convert.jax.pooling import fit_pools
from graphopt.errors import GraphoptError
from graphopt.model import scopes
from graphopt.rewrite.names import Names

_OLDEST, _NEWEST = 21, 25
"""Opsets that jax2onnx writes; others come of rewriting."""


def exported(function: Function, specs: Sequence[Any], options: Options) -> ir.Model:
    """Export a function, or else the primitives that JAX makes of it.

    jax2onnx puts functions of its own in the place of many of `jax.numpy` and flax, which do not
    take every call that JAX takes; of primitives it knows others.

    Args:
        function: What to export.
        specs: Shapes and types of its arrays.
        options: `opset` is asked for.

    Raises:
        GraphoptError: jax2onnx can do neither: why it does not export the function.
    """
    call = bounded(function.call)
    try:
        model = _to_onnx(call, function, specs, options)
    except Exception as error:
        # Its plugins raise whatever they stumble over.
        try:
            model = _to_onnx(_primitives(call, specs), function, specs, options)
        except Exception as second:
            # The first error is on what the user wrote, unless the second names a primitive.
            errors = [error, second]
            raise GraphoptError(
                export_reason(errors, function.call, specs), file=function.source
            ) from error
    if options.opset is not None:
        from graphopt.convert.onnx.opset import to_opset

        to_opset(model, options.opset, function.source)
    return model


def _to_onnx(
    call: Callable[..., Any], function: Function, specs: Sequence[Any], options: Options
) -> ir.Model:
    import jax2onnx

    wide = any(np.dtype(example.dtype).itemsize == 8 for example in function.examples)
    chosen = {} if options.opset is None else {"opset": min(max(options.opset, _OLDEST), _NEWEST)}
    with _functions_of_jax(), _symbols_in_shapes():
        model: ir.Model = jax2onnx.to_onnx(
            call,
            list(specs),
            model_name=function.source.rpartition(":")[2],
            enable_double_precision=wide,
            return_mode="ir",
            **chosen,
        )
    _fit_biases(model)
    fit_indices(model)
    fit_pools(model)
    return model


def _fit_biases(model: ir.Model) -> None:
    """Give the zeros that jax2onnx adds to products, which are float32, the type of the factors."""
    for scope in scopes(model):
        for node in scope.graph:
            bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
            factor = node.inputs[0] if bias is not None else None
            dtype = None if factor is None else factor.dtype
            if bias is None or bias.const_value is None or dtype is None or dtype == bias.dtype:
                continue
            array = bias.const_value.numpy().astype(dtype.numpy())
            name = Names.of(model).fresh(f"{bias.name}_{dtype.name.lower()}")
            fitted = ir.Value(name=name, const_value=ir.tensor(array, name=name))
            fitted.type, fitted.shape = ir.TensorType(dtype), ir.Shape(array.shape)
            scope.graph.register_initializer(fitted)
            node.replace_input_with(2, fitted)
    Names.forget(model)


def _primitives(call: Callable[..., Any], specs: Sequence[Any]) -> Callable[..., Any]:
    """Trace a function with JAX's own functions; what is returned calls nothing but primitives.

    What no output depends on is left out: flax makes random states that it does not read.
    """
    import jax
    from jax.interpreters.partial_eval import dce_jaxpr

    closed, outputs = jax.make_jaxpr(call, return_shape=True)(*specs)
    structure = jax.tree_util.tree_structure(outputs)
    every = [True] * structure.num_leaves
    # Inputs stay, and the constants with them.
    needed, _ = dce_jaxpr(closed.jaxpr, every, instantiate=True)

    def run(*arrays: Any) -> Any:
        found = jax.core.eval_jaxpr(needed, closed.consts, *arrays)
        return jax.tree_util.tree_unflatten(structure, found)

    return run


@contextlib.contextmanager
def _functions_of_jax() -> Iterator[None]:
    """Put `jax.numpy.cumsum` back, in whose place jax2onnx leaves one that takes less.

    The proof would compare ONNX with that.
    """
    import jax

    before = jax.numpy.cumsum
    try:
        yield
    finally:
        jax.numpy.cumsum = before


@contextlib.contextmanager
def _symbols_in_shapes() -> Iterator[None]:
    """Let a shape of ONNX take JAX's symbols, by name.

    Some of jax2onnx's plugins, as that of `lax.rem`, give it the shapes of JAX as they are.
    """
    from jax import export

    before = ir.Shape.__init__

    def init(self: ir.Shape, dims: Any, *rest: Any, **named: Any) -> None:
        shown = [str(dim) if export.is_symbolic_dim(dim) else dim for dim in dims]
        before(self, shown, *rest, **named)

    ir.Shape.__init__ = init  # type: ignore[method-assign]  # for the time of the export
    try:
        yield
    finally:
        ir.Shape.__init__ = before  # type: ignore[method-assign]  # as it was
