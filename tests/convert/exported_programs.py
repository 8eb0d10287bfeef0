"""Programs of the networks beside this file."""

from __future__ import annotations

from pathlib import Path

import torch


def program_of(name: str, path: Path, dynamic: object = None) -> Path:
    import networks

    module, *rest = getattr(networks, name)()
    args = rest[0]
    program = torch.export.export(module.eval(), tuple(args), dynamic_shapes=dynamic)
    torch.export.save(program, path)
    return path
