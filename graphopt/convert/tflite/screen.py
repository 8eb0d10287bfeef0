"""Check a TFLite file before TFLite's own reader, which a truncated file can bring down."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from graphopt.errors import GraphoptError


def screen(path: Path) -> None:
    """Walk through every table of a flatbuffer, and refuse what tf2onnx does not read.

    Raises:
        GraphoptError: Something points outside of the file, or a tensor is stored sparse.
    """
    from tf2onnx.tflite.Model import Model

    content = path.read_bytes()
    try:
        _walk(Model.GetRootAsModel(bytearray(content), 0), len(content), path)
    except (struct.error, IndexError, ValueError, TypeError, UnicodeDecodeError) as error:
        # What the flatbuffers library raises where an offset leads out of the file.
        raise GraphoptError("is a broken or truncated TFLite file", file=path) from error


def _walk(model: Any, size: int, path: Path) -> None:
    if not model.SubgraphsLength():
        raise ValueError("no graph")
    codes, buffers = model.OperatorCodesLength(), model.BuffersLength()
    for position in range(codes):
        model.OperatorCodes(position).CustomCode()
    for position in range(buffers):
        buffer = model.Buffers(position)
        if buffer.DataLength():
            _within(buffer.DataAsNumpy().nbytes == buffer.DataLength() <= size)
    for position in range(model.SubgraphsLength()):
        _walk_graph(model.Subgraphs(position), codes, buffers, path)


def _walk_graph(graph: Any, codes: int, buffers: int, path: Path) -> None:
    tensors = graph.TensorsLength()
    for position in range(tensors):
        tensor = graph.Tensors(position)
        _within(tensor.Buffer() < buffers)
        tensor.ShapeAsNumpy()
        name = (tensor.Name() or b"").decode("utf-8")
        if tensor.Sparsity() is not None:
            raise GraphoptError(
                f"its tensor {name} is stored sparse, which tf2onnx does not read",
                file=path,
                fix="convert the model to TFLite again without sparsity",
            )
        quantization = tensor.Quantization()
        if quantization is not None:
            quantization.ScaleAsNumpy()
            quantization.ZeroPointAsNumpy()
    for position in range(graph.OperatorsLength()):
        operator = graph.Operators(position)
        _within(operator.OpcodeIndex() < codes)
        used = [operator.Inputs(item) for item in range(operator.InputsLength())]
        used += [operator.Outputs(item) for item in range(operator.OutputsLength())]
        _within(all(-1 <= item < tensors for item in used))
    ends = [graph.Inputs(item) for item in range(graph.InputsLength())]
    ends += [graph.Outputs(item) for item in range(graph.OutputsLength())]
    _within(all(0 <= item < tensors for item in ends))


def _within(holds: bool) -> None:
    if not holds:
        raise ValueError("an index leads out of the file")
