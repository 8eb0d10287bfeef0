"""`quantize_dynamic`: integer weights, and activations that become integers as they come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, get_args

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model.scopes import scopes
from graphopt.pipeline.contract import Context, Declined, Effect, Pass, Rewrite
from graphopt.pipeline.snapshot import snapshot
from graphopt.rewrite.names import Names
from graphopt.rewrite.opsets import QUANTIZE_DYNAMIC, is_below, raise_opset
from graphopt.rewrite.selection import Globs, address, selects
from graphopt.rewrite.shapes import Shapes
from passes.quantize.dynamic.layers import Layer, is_layer, layer, weight_problem
from passes.quantize.dynamic.stored import readers
from passes.quantize.dynamic.writer import Granularity, WeightType, Writer

__all__ = ["QuantizeDynamic"]

_OPERATORS = ("MatMul", "Gemm", "Conv", "LSTM")


@dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """Multiply in integers: weights are stored so, activations are quantized at run time.

    y = A B becomes s_A s_B (A_q - z_A)(B_q - z_B), where A_q, s_A, z_A come from a
    DynamicQuantizeLinear (uint8, one range per tensor, found anew at every run), and B_q, s_B from
    the weight: MatMulInteger, Cast, Mul. A weight channel of zeros has the scale 1. ONNX Runtime
    fuses this to DynamicQuantizeMatMul, or to MatMulIntegerToFloat where several layers share one
    activation, which is quantized once. A weight that several layers share is stored once.

    Covered are MatMul and Gemm (transposed operands, alpha, beta, bias) in the main graph, bodies
    and functions, with weights in initializers and Constant nodes, also behind Cast, Transpose and
    Reshape; float16, bfloat16 and double layers get casts around. Everything else stays as it
    is: Softmax, normalizations, masks.

    Declined: layers whose weight the caller may override, is the left operand, is read by anything
    else too (its float copy would stay), or holds NaN or infinity; MatMul of two activations.

    No data are needed. It should not be used where activations have outliers hundreds of times
    their usual size, and gains nothing on convolutions on most CPUs.

    Args:
        weights: "int8" (symmetric) or "uint8" (with zero points).
        granularity: "channel": a scale per output channel; "tensor": one in all.
        op_types: Which of MatMul, Gemm, Conv (as ConvInteger) and LSTM.
        include: Globs on names of layers, of their outputs or of their constants; one that
            matches lets a layer in.
        exclude: Globs that keep layers out.
        reduce_range: Use 7 bits for weights: for CPUs whose 16-bit sums saturate (AVX2 and
            AVX-512 without VNNI).
        activations: Whether a MatMul of two activations is quantized too.
        contrib: Whether com.microsoft's operators may be written: DynamicQuantizeLSTM for "LSTM".

    Raises:
        GraphoptError: A parameter is not one of its choices.
    """

    name: ClassVar[str] = "quantize_dynamic"
    effect: ClassVar[Effect] = Effect.LOSSY

    weights: Literal["int8", "uint8"] = "int8"
    granularity: Granularity = "channel"
    op_types: str | tuple[str, ...] = ("MatMul", "Gemm")
    include: Globs = "*"
    exclude: Globs = ""
    reduce_range: bool = False
    activations: bool = False
    contrib: bool = False

    def __post_init__(self) -> None:
        """Check the parameters."""
        for name, choices in (
            ("weights", ("int8", "uint8")),
            ("granularity", get_args(Granularity)),
        ):
            chosen = getattr(self, name)
            if chosen not in choices:
                raise GraphoptError(
                    f"quantize_dynamic: {name} must be one of {', '.join(choices)}, not {chosen!r}"
                )
        for op_type in self._op_types:
            if op_type not in _OPERATORS:
                raise GraphoptError(
                    f"quantize_dynamic: op_types has {op_type!r},"
                    f" which is none of {', '.join(_OPERATORS)}"
                )

    @property
    def _op_types(self) -> tuple[str, ...]:
        return (self.op_types,) if isinstance(self.op_types, str) else self.op_types

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        """Yield one rewrite per layer, after one that raises the opset where it is too low."""
        found = list(self._found(model))
        layers = [item for item in found if isinstance(item, Layer)]
        yield from (item for item in found if isinstance(item, Declined))
        layers, declined = _alone_with_their_weights(layers)
        yield from declined
        if not layers:
            return
        context.cache.setdefault("quantize.reference", snapshot(model))
        yield from _raised(model)
        if is_below(model, QUANTIZE_DYNAMIC):
            return
        dtype = ir.DataType[self.weights.upper()]
        writer = Writer(model, WeightType(dtype, self.granularity, self.reduce_range))
        try:
            for item in layers:
                problem = weight_problem(item)
                if problem is None:
                    yield self._rewrite(item, writer)
                else:
                    yield Declined(item.at, problem)
        finally:
            Names.forget(model)

    def _found(self, model: ir.Model) -> Iterator[Layer | Declined]:
        shapes = Shapes(model)
        for scope in list(scopes(model)):
            for node in scope.graph:
                if not is_layer(node) or not selects(
                    node, scope, self.include, self.exclude, self._op_types
                ):
                    continue
                item = layer(
                    node,
                    scope,
                    shapes.dtype(node.inputs[0]),
                    contrib=self.contrib,
                    activations=self.activations,
                )
                yield Declined(address(node, scope), item) if isinstance(item, str) else item

    def _rewrite(self, item: Layer, writer: Writer) -> Rewrite:
        names = ", ".join(weight.root.name or "?" for weight in item.weights)
        details = {"op_type": item.node.op_type, "weight": names, "weights": self.weights}
        why = f"{item.node.op_type} of {item.dtype.name} in integers, weights {self.weights}"
        return Rewrite(item.at, why, partial(item.write, item, writer), details)


def _raised(model: ir.Model) -> Iterator[Rewrite | Declined]:
    if not is_below(model, QUANTIZE_DYNAMIC):
        return
    trial = snapshot(model)
    try:
        raise_opset(trial, QUANTIZE_DYNAMIC)
    except GraphoptError as error:
        yield Declined("opset", error.cause)
        return
    why = f"DynamicQuantizeLinear came with opset {QUANTIZE_DYNAMIC}"
    yield Rewrite("opset", why, partial(raise_opset, model, QUANTIZE_DYNAMIC))


def _alone_with_their_weights(layers: list[Layer]) -> tuple[list[Layer], list[Declined]]:
    """Leave out layers whose weight someone else reads too: its float copy would stay."""
    declined: list[Declined] = []
    while True:
        nodes = {item.node for item in layers}
        shared = {id(item): why for item in layers if (why := _other_reader(item, nodes))}
        if not shared:
            return layers, declined
        declined += [Declined(item.at, shared[id(item)]) for item in layers if id(item) in shared]
        layers = [item for item in layers if id(item) not in shared]


def _other_reader(item: Layer, nodes: set[ir.Node]) -> str | None:
    for weight in item.weights:
        for reader, index in readers(weight.root):
            if reader is None:
                return f"its weight {weight.root.name!r} is an output of a graph too"
            if reader not in nodes or index not in _weight_inputs(reader):
                return (
                    f"its weight {weight.root.name!r} is read by {reader.op_type}"
                    f" {reader.name or reader.outputs[0].name} too, which needs the floats"
                )
    return None


def _weight_inputs(node: ir.Node) -> tuple[int, ...]:
    return (1, 2) if node.op_type == "LSTM" else (1,)
