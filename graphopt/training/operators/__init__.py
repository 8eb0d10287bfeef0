"""What computes the operators of ONNX in PyTorch, one module for each family of them."""

import importlib
import pkgutil

from graphopt.training.operators.registry import ON_NUMBERS, Operator, find

__all__ = ["ON_NUMBERS", "Operator", "find"]

for _family in pkgutil.walk_packages(__path__, f"{__name__}."):
    # Each registers what it computes.
    importlib.import_module(_family.name)
