"""Models of ONNX text that the tests of conversion from ONNX convert."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from graphopt.model import to_proto

FIXTURE = Path(__file__).parents[2] / "fixtures" / "digits_mlp.onnx"

EVERYDAY = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[batch, 3, 8] x) => (float[batch, 2, 1] y, int64[batch] size)
<int64[1] last = {-1}, int64[1] first = {0}, int64[1] two = {2}, int64[2] halves = {4, 4},
 float low = {0}, float high = {6}, int64[6] around = {0, 0, 1, 0, 0, 1}, int64[1] rows = {3}>
{
  padded = Pad (x, around)
  clipped = Clip (padded, low, high)
  cut = Slice (clipped, two, rows, two)
  mean = ReduceMean <keepdims = 1> (clipped, last)
  soft = Softmax <axis = -1> (clipped)
  left, right = Split <axis = 2, num_outputs = 2> (x)
  total = ReduceSum <keepdims = 1> (left, last)
  flat = Squeeze (total, last)
  wide = Unsqueeze (flat, last)
  one = Add (wide, mean)
  most = ReduceMax <keepdims = 1> (soft, last)
  sum = Mul (one, most)
  best, place = TopK <axis = 1> (sum, halfway)
  halfway = Constant <value_ints = [2]> ()
  y = Identity (best)
  batch = Shape <start = 0, end = 1> (x)
  size = Expand (rows, batch)
}
"""
EVERYDAY = EVERYDAY.replace(
    "  best, place = TopK <axis = 1> (sum, halfway)\n  halfway = Constant <value_ints = [2]> ()\n",
    "  halfway = Constant <value_ints = [2]> ()\n  best, place = TopK <axis = 1> (sum, halfway)\n",
)


def saved(text: str, path: Path) -> Path:
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def run(model: ir.Model | Path, **feeds: np.ndarray) -> list[np.ndarray]:
    content = (
        to_proto(model).SerializeToString() if isinstance(model, ir.Model) else model.read_bytes()
    )
    onnx.checker.check_model(content, full_check=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))
