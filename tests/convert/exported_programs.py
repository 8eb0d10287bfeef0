"""Programs of the networks beside this file, and what a converted model computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch


def shapes(model: ir.Model) -> dict[str, list[object]]:
    values = [*model.graph.inputs, *model.graph.outputs]
    return {
        str(value.name): [d if isinstance(d, int) else d.value for d in value.shape or ()]
        for value in values
    }


def run(model: ir.Model, **feeds: np.ndarray) -> list[np.ndarray]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, feeds))


def program_of(name: str, path: Path, dynamic: object = None) -> Path:
    import networks

    module, *rest = getattr(networks, name)()
    args = rest[0]
    program = torch.export.export(module.eval(), tuple(args), dynamic_shapes=dynamic)
    torch.export.save(program, path)
    return path
