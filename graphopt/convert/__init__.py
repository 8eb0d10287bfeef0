"""From other frameworks to ONNX: one file per framework, and what they share."""

from graphopt.convert.contract import Conversion, Options, parse_shape
from graphopt.convert.frameworks import FRAMEWORKS, convert

__all__ = ["FRAMEWORKS", "Conversion", "Options", "convert", "parse_shape"]
