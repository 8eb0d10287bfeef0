"""The crossing from a model to an onnx-graphsurgeon graph and back; imports that library."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from graphopt.model import scopes
from graphopt.surgeon.restore import (
    depths,
    restore_interface,
    restore_notes,
    return_captured,
)

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Array = npt.NDArray[np.generic]

_LOCATION = "graphopt.surgeon"


class Bridge:
    """One crossing from a model to a graph and back.

    Tensors stay here. What crosses is a placeholder: a tensor whose data are external, at an
    offset that is its index in `tensors`.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._tensors: list[ir.TensorProtocol] = []
        self._read: dict[int, tuple[Array, int]] = {}

    def take_out(self) -> gs.Graph:
        """Make a graph of the model."""
        import onnx_graphsurgeon as gs
        from onnx_graphsurgeon.ir.tensor import LazyValues

        hollow = self._model.clone()
        _exchange_tensors(hollow, self._placeholder)
        with _silent():
            graph = gs.import_onnx(ir.to_proto(hollow))
        for constant in _constants(graph):
            if isinstance(constant._values, LazyValues):
                self._wrap(constant)
        return graph

    def put_back(self, graph: gs.Graph) -> None:
        """Make the model what a graph is, in place."""
        import onnx_graphsurgeon as gs

        for constant in _constants(graph):
            if isinstance(constant._values, np.ndarray) and constant._export_dtype is None:
                self._hollow_out(constant)
        with _silent():
            proto = gs.export_onnx(graph)
        return_captured(proto.graph, depths(self._model))
        made = ir.from_proto(proto)
        _exchange_tensors(made, self._original)
        restore_interface(self._model, made)
        restore_notes(self._model, made)
        for scope in scopes(made):
            if scope.owner is None:
                scope.graph.sort()
        self._model.graph = made.graph
        self._model.functions.clear()
        self._model.functions.update(made.functions)
        self._model.ir_version = made.ir_version

    def _placeholder(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if tensor.dtype == ir.DataType.STRING:
            return tensor
        self._tensors.append(tensor)
        return ir.ExternalTensor(
            _LOCATION,
            len(self._tensors) - 1,
            None,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "",
        )

    def _original(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if isinstance(tensor, ir.ExternalTensor) and str(tensor.location) == _LOCATION:
            return self._tensors[tensor.offset or 0]
        return tensor

    def _wrap(self, constant: gs.Constant) -> None:
        """Let a constant read its values from the tensor that its placeholder stands for."""
        proto = constant._values.tensor
        entries = {entry.key: entry.value for entry in getattr(proto, "external_data", ())}
        if entries.get("location") == _LOCATION:
            constant._values = _weight_type()(self, int(entries["offset"]), proto)
            constant.data_location = None

    def _load(self, index: int) -> Array:
        """Return the values of a tensor, free to be written; remember whose they are."""
        array = np.array(self._tensors[index].numpy())
        self._read[id(array)] = array, index
        return array

    def _hollow_out(self, constant: gs.Constant) -> None:
        """Exchange an array for a placeholder: of the tensor it was read from, if unchanged."""
        from onnx_graphsurgeon.ir.tensor import LazyValues

        array = constant._values
        if array.dtype.kind in "OSUT":
            # onnx-graphsurgeon would write the addresses of the strings.
            texts = [t if isinstance(t, bytes) else str(t).encode() for t in array.flat]
            strings = onnx.TensorProto(dims=array.shape, data_type=onnx.TensorProto.STRING)
            strings.string_data.extend(texts)
            constant._values = LazyValues(strings)
            return
        _, index = self._read.get(id(array), (None, None))
        if index is None or not _same_bytes(array, self._tensors[index].numpy()):
            self._tensors.append(ir.Tensor(np.ascontiguousarray(array).reshape(array.shape)))
            index = len(self._tensors) - 1
        tensor = self._tensors[index]
        proto = onnx.TensorProto(
            dims=tensor.shape.numpy(),
            data_type=tensor.dtype.value,
            data_location=onnx.TensorProto.EXTERNAL,
        )
        proto.external_data.add(key="location", value=_LOCATION)
        proto.external_data.add(key="offset", value=str(index))
        constant._values = _weight_type()(self, index, proto)


@functools.cache
def _weight_type() -> Any:
    from onnx_graphsurgeon.ir.tensor import LazyValues

    class Weight(LazyValues):  # type: ignore[misc]  # the library has no types
        """The values of a tensor of a bridge; read when the function asks for them."""

        def __init__(self, bridge: Bridge, index: int, proto: onnx.TensorProto) -> None:
            self._bridge = bridge
            self._index = index
            self._proto = proto
            super().__init__(proto)

        @property
        def tensor(self) -> onnx.TensorProto:
            # A copy: the exporter writes the name of each constant that has these values into it.
            copied = onnx.TensorProto()
            copied.CopyFrom(self._proto)
            return copied

        @tensor.setter
        def tensor(self, proto: onnx.TensorProto) -> None:
            self._proto = proto

        def load(self) -> Array:
            return self._bridge._load(self._index)

    return Weight


def _same_bytes(array: Array, original: Array) -> bool:
    return (
        array.dtype == original.dtype
        and array.shape == original.shape
        and bool(np.array_equal(_bytes(array), _bytes(original)))
    )


def _bytes(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep what onnx-graphsurgeon says off stdout; what it drops is found by comparison."""
    from onnx_graphsurgeon.logger import G_LOGGER

    before = G_LOGGER.severity
    G_LOGGER.severity = G_LOGGER.CRITICAL
    try:
        yield
    finally:
        G_LOGGER.severity = before


def _constants(graph: gs.Graph) -> list[gs.Constant]:
    """Return the constants of a graph, its bodies and functions: initializers and attributes."""
    import onnx_graphsurgeon as gs

    found: dict[int, gs.Constant] = {}
    for root in (graph, *graph.functions):
        for part in (root, *root.subgraphs(recursive=True)):
            tensors: list[object] = list(part.tensors().values())
            tensors += [value for node in part.nodes for value in node.attrs.values()]
            found |= {id(t): t for t in tensors if isinstance(t, gs.Constant)}
    return list(found.values())


def _exchange_tensors(
    model: ir.Model, exchange: Callable[[ir.TensorProtocol], ir.TensorProtocol]
) -> None:
    for scope in scopes(model):
        for value in scope.graph.initializers.values():
            if value.const_value is not None:
                value.const_value = exchange(value.const_value)
        for node in scope.graph:
            for name, attribute in list(node.attributes.items()):
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    tensor = exchange(attribute.as_tensor())
                    node.attributes[name] = ir.AttrTensor(name, tensor, attribute.doc_string)
