"""What converted models say: their interface, and what ONNX Runtime computes."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime


def shapes(model: ir.Model) -> dict[str, list[object]]:
    """Sizes of inputs and outputs by name; a free one by its own name."""
    values = [*model.graph.inputs, *model.graph.outputs]
    return {
        str(value.name): [d if isinstance(d, int) else d.value for d in value.shape or ()]
        for value in values
    }


def computed(model: ir.Model, **feeds: Any) -> dict[str, Any]:
    """Outputs by name, of a model that the checker of onnx accepts."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def run(model: ir.Model, **feeds: Any) -> list[Any]:
    """Outputs in order."""
    return list(computed(model, **feeds).values())
