"""The toy model and data that graphopt run reads, and what the model it saves holds."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import onnx

from graphopt.model import save


def ops(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def recipe(path: Path) -> dict[str, str]:
    return {item.key: item.value for item in onnx.load(path).metadata_props}


def saved_chain(folder: Path) -> Path:
    path = folder / "in.onnx"
    save(importlib.import_module("toy_passes").chain(), path)
    return path


def labelled_data(folder: Path) -> Path:
    rows = np.random.default_rng(5).standard_normal((32, 4)).astype(np.float32)
    answers = np.maximum(rows * [1, -2, 3, -4] + [0.5, 0.25, 0.125, 1.0], 0).argmax(axis=1)
    np.savez(folder / "data.npz", x=rows, labels=answers)
    return folder / "data.npz"
