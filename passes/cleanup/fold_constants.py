"""Nodes whose outputs are known before the model runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import onnx_ir as ir

from graphopt.model.scopes import Scope, scopes
from graphopt.pipeline.contract import Declined, Rewrite
from graphopt.rewrite.constants import (
    ONNX_DOMAINS,
    Array,
    add_initializer,
    constant,
    constant_node,
    nbytes,
)
from graphopt.rewrite.shapes import Facts
from graphopt.rewrite.uses import bodies, is_unused, remove, replace
from passes.cleanup import numpy_kernels, ort_kernels
from passes.cleanup.determinism import is_random
from passes.cleanup.kernel_call import Call
from passes.cleanup.sites import place

_TRANSIENT_BYTES = 64 << 20
"""The most bytes of an intermediate result that is not kept."""

_KEPT_AS_THEY_ARE = frozenset(
    {
        "Constant",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "QuantizeLinear",
        "Optional",
        "OptionalGetElement",
        "OptionalHasElement",
        "SequenceConstruct",
        "SequenceEmpty",
        "SplitToSequence",
    }
)
"""Folding quantizers would undo quantization; sequences and optionals have no tensor form."""

_BOUNDED_BY_INPUTS = frozenset({"Compress", "NonZero", "TopK", "Unique"})
"""Operators whose output size depends on data, but never exceeds rank times input."""


def rewrites(model: ir.Model, max_bytes: int = 1 << 20) -> Iterator[Rewrite | Declined]:
    """Yield one rewrite per value that is known and that a node which stays reads.

    Known is what deterministic nodes of ONNX's own domain compute from constants alone, and
    integers that follow from shapes (a size of a partly dynamic shape is known if it is static).
    What lies between constants and such a value is computed on the way and not kept.

    Args:
        model: The model.
        max_bytes: The most bytes by which one fold may enlarge the model.
    """
    facts = Facts.of(model)
    for scope in scopes(model):
        imports = model.opset_imports
        if scope.function is not None:
            imports = scope.function.opset_imports or imports
        yield from _Folding(scope, facts, imports, max_bytes).rewrites()


class _Folding:
    """The constants of one graph: found, computed, and chosen."""

    def __init__(
        self, scope: Scope, facts: Facts, opsets: Mapping[str, int], max_bytes: int
    ) -> None:
        self._scope = scope
        self._facts = facts
        self._opsets = opsets
        self._opset = opsets.get("", opsets.get("ai.onnx", 1))
        self._max_bytes = max_bytes
        self._known: dict[ir.Value, Array] = {}
        self._foldable: dict[ir.Node, None] = {}
        self._pending: dict[ir.Value, None] = {}

    def rewrites(self) -> Iterator[Rewrite | Declined]:
        """Compute forwards, choose backwards from what is read, then fold."""
        for node in self._scope.graph:
            self._visit(node)
        if not self._foldable:
            return
        self._evaluate_pending()
        folds: list[Rewrite | Declined] = []
        for node in reversed(list(self._foldable)):
            folds.extend(self._choose(node))
        yield from reversed(folds)

    def _visit(self, node: ir.Node) -> None:
        if not self._may_fold(node):
            return
        outputs = [value for value in node.outputs if value.name]
        sizes = [self._from_shapes(value) for value in outputs]
        if all(size is not None for size in sizes):
            for value, size in zip(outputs, sizes, strict=True):
                if size is not None:
                    self._known[value] = size
            self._foldable[node] = None
            return
        if not all(value is None or self._is_known(value) for value in node.inputs):
            return
        result = self._compute(node)
        if result is not None:
            self._known[node.outputs[0]] = result
            self._foldable[node] = None
        elif self._fits_a_session(node):
            self._pending.update(dict.fromkeys(outputs))
            self._foldable[node] = None

    def _may_fold(self, node: ir.Node) -> bool:
        if node.domain not in ONNX_DOMAINS or node.op_type in _KEPT_AS_THEY_ARE:
            return False
        if node.op_type == "Identity" and node.outputs[0].is_graph_output():
            return False  # it returns an initializer, which another node may read too
        if is_random(node) or any(attribute.is_ref() for attribute in node.attributes.values()):
            return False
        return next(bodies(node), None) is None

    def _from_shapes(self, value: ir.Value) -> Array | None:
        """Return integers that follow from shapes alone."""
        elements, shape = self._facts.elements(value), self._facts.static_shape(value)
        dtype = self._facts.dtype(value)
        if elements is None or shape is None or dtype not in (ir.DataType.INT64, ir.DataType.INT32):
            return None
        known = [element for element in elements if isinstance(element, int)]
        if len(known) != len(elements) or len(known) != int(np.prod(shape)):
            return None
        return np.array(known, dtype.numpy()).reshape(shape)

    def _is_known(self, value: ir.Value) -> bool:
        if value in self._known or value in self._pending:
            return True
        tensor = constant(value)
        return tensor is not None and tensor.dtype != ir.DataType.STRING

    def _array(self, value: ir.Value | None) -> Array | None:
        if value is None:
            return None
        if value not in self._known:
            tensor = constant(value)
            if tensor is None:
                raise ValueError(f"{value.name!r} is not known")
            self._known[value] = tensor.numpy()
        return self._known[value]

    def _compute(self, node: ir.Node) -> Array | None:
        if any(value in self._pending for value in node.inputs if value is not None):
            return None
        inputs = [self._array(value) for value in node.inputs]
        return numpy_kernels.evaluate(Call(node, inputs, self._opset, _TRANSIENT_BYTES))

    def _fits_a_session(self, node: ir.Node) -> bool:
        """Whether ONNX Runtime can take the inputs, and the outputs are known to be small."""
        for value in node.inputs:
            if value is not None and not ort_kernels.is_supported(self._facts.dtype(value)):
                return False
        if not node.inputs:
            return False
        return all(self._is_bounded(node, value) for value in node.outputs if value.name)

    def _is_bounded(self, node: ir.Node, value: ir.Value) -> bool:
        dtype, shape = self._facts.dtype(value), self._facts.static_shape(value)
        if dtype is None or not ort_kernels.is_supported(dtype):
            return False
        if shape is not None:
            return float(np.prod(shape, dtype=np.float64)) * dtype.itemsize <= _TRANSIENT_BYTES
        inputs = [self._facts.static_shape(source) for source in node.inputs]
        return node.op_type in _BOUNDED_BY_INPUTS and all(
            source is not None and np.prod(source) <= self._max_bytes for source in inputs
        )

    def _evaluate_pending(self) -> None:
        if not self._pending:
            return
        nodes = [node for node in self._foldable if node.outputs[0] in self._pending]
        inside = {value for node in nodes for value in node.outputs}
        known: dict[ir.Value, Array] = {}
        for node in nodes:
            for value in node.inputs:
                array = None if value is None or value in inside else self._array(value)
                if value is not None and array is not None:
                    known[value] = array
        # All of them: a result that turns out too big to keep leaves its inputs to be folded.
        batch = ort_kernels.Batch(nodes, known, list(self._pending), self._opsets)
        self._known.update(ort_kernels.evaluate(batch))

    def _is_read_outside(self, value: ir.Value) -> bool:
        return value.is_graph_output() or any(
            use.node not in self._foldable for use in value.uses()
        )

    def _choose(self, node: ir.Node) -> Iterator[Rewrite | Declined]:
        """Fold what is read by nodes that stay; a node that cannot be folded stays itself."""
        wanted = [value for value in node.outputs if value.name and self._is_read_outside(value)]
        if not wanted:
            return
        at = place(self._scope, node)
        missing = [value for value in wanted if value not in self._known]
        if missing:
            del self._foldable[node]
            yield Declined(at, f"ONNX Runtime cannot compute {node.op_type} of these constants")
            return
        size = sum(self._known[value].nbytes for value in wanted)
        freed = self._freed_bytes(node)
        if size > freed and size > self._max_bytes:
            del self._foldable[node]
            why = f"its result needs {size} bytes, its constants {freed}; max_bytes is"
            yield Declined(at, f"{why} {self._max_bytes}")
            return
        for value in wanted:
            why = f"{node.op_type} of constants is constant ({self._known[value].nbytes} bytes)"
            yield Rewrite(at, why, partial(self._fold, node, value))

    def _freed_bytes(self, node: ir.Node) -> int:
        """Count the bytes of the constants that only the fold of this node has read."""
        freed, gone, pending, seen = 0, {node}, [node], set()
        while pending:
            for value in pending.pop().inputs:
                if value is None or value in seen or value.is_graph_output():
                    continue
                if any(use.node not in gone for use in value.uses()):
                    continue
                seen.add(value)
                tensor, producer = constant(value), value.producer()
                if tensor is not None:
                    freed += nbytes(tensor)
                elif producer is not None and producer in self._foldable:
                    gone.add(producer)
                    pending.append(producer)
        return freed

    def _fold(self, node: ir.Node, value: ir.Value) -> None:
        graph, name = node.graph, value.name
        if graph is None or name is None:
            raise ValueError(f"{node.name!r} is in no graph")
        tensor = _tensor(self._known[value])
        if self._scope.function is None and not value.is_graph_output():
            value.name = None
            folded = add_initializer(graph, name, tensor)
        else:
            carrier = constant_node(name, tensor)
            graph.insert_before(node, carrier)
            folded = carrier.outputs[0]
        folded.metadata_props.update(value.metadata_props)
        replace(value, folded)
        if all(is_unused(output) for output in node.outputs):
            remove(node)


def _tensor(array: Array) -> ir.TensorProtocol:
    # A view would keep the whole array alive that it was cut from.
    whole = np.ascontiguousarray(array).reshape(array.shape)
    if isinstance(whole.base, np.ndarray) and whole.nbytes < whole.base.nbytes:
        whole = whole.copy()
    return ir.Tensor(whole, dtype=ir.DataType.from_numpy(whole.dtype))
