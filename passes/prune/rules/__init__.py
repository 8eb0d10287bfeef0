"""How slices go together at each operator."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from graphopt.rewrite.constants import ONNX_DOMAINS
from passes.prune.rules import axes, elementwise, layers, normalization, regroup, windows
from passes.prune.site import Rule

__all__ = ["rule"]

_MICROSOFT = "com.microsoft"


def rule(node: ir.Node) -> Rule | None:
    """Return what couples the slices of a node's tensors; None where nothing is known of it."""
    domain = "" if node.domain in ONNX_DOMAINS else node.domain
    return _RULES.get((domain, node.op_type))


_POOLS = (
    *("AveragePool", "LpPool", "MaxPool"),
    *("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"),
)
_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
)

_RULES: Mapping[tuple[str, str], Rule] = {
    **{("", op): elementwise.unary for op in elementwise.UNARY},
    **{("", op): elementwise.broadcast for op in elementwise.BROADCAST},
    **{(_MICROSOFT, op): elementwise.unary for op in ("Gelu", "QuickGelu")},
    **{(_MICROSOFT, op): elementwise.broadcast for op in ("BiasGelu", "FastGelu")},
    **{("", op): windows.pool for op in _POOLS},
    **{("", op): axes.reduced for op in _REDUCTIONS},
    **{("", op): axes.chosen for op in ("ArgMax", "ArgMin")},
    **{("", op): regroup.regroup for op in ("Flatten", "Reshape", "Squeeze", "Unsqueeze")},
    **{("", op): layers.recurrent for op in ("GRU", "LSTM", "RNN")},
    **{("", op): normalization.quantized for op in ("DequantizeLinear", "QuantizeLinear")},
    **{
        ("", op): normalization.along(-1, coerced=True)
        for op in ("Hardmax", "LogSoftmax", "Softmax")
    },
    ("", "BatchNormalization"): normalization.batch,
    ("", "Concat"): axes.concat,
    ("", "Constant"): axes.nothing,
    ("", "Conv"): layers.conv,
    (_MICROSOFT, "FusedConv"): layers.conv,
    ("", "ConvTranspose"): layers.conv_transpose,
    ("", "CumSum"): normalization.cumulative,
    ("", "Gather"): axes.gather,
    ("", "Gemm"): layers.gemm,
    (_MICROSOFT, "FusedGemm"): layers.gemm,
    ("", "GroupNormalization"): normalization.grouped,
    ("", "InstanceNormalization"): normalization.instance,
    ("", "LRN"): normalization.across_channels,
    ("", "LayerNormalization"): normalization.layer,
    ("", "LpNormalization"): normalization.along(-1),
    ("", "MatMul"): layers.matmul,
    (_MICROSOFT, "FusedMatMul"): layers.matmul,
    ("", "MeanVarianceNormalization"): normalization.named_axes,
    ("", "Pad"): windows.pad,
    ("", "RMSNormalization"): normalization.layer,
    ("", "SimplifiedLayerNormalization"): normalization.layer,
    ("", "Resize"): windows.resize,
    ("", "Shape"): axes.shape,
    ("", "Slice"): axes.cut_out,
    ("", "Split"): axes.split,
    ("", "Tile"): windows.tile,
    ("", "TopK"): axes.largest,
    ("", "Transpose"): axes.transpose,
    ("", "Upsample"): windows.resize,
}
