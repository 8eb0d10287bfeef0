"""An ONNX graph as a module of PyTorch."""

from graphopt.training.module import OnnxModule, to_torch

__all__ = ["OnnxModule", "to_torch"]
