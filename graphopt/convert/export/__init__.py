"""From ONNX to what other runtimes read, proved beside ONNX Runtime."""

from graphopt.convert.export.targets import TARGETS, Export, export

__all__ = ["TARGETS", "Export", "export"]
