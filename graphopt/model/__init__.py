"""ONNX files in and out: `load`, `save`, and the facts of a model."""

from graphopt.model.load import Limits, load
from graphopt.model.save import Saved, save
from graphopt.model.scopes import Scope, scopes

__all__ = ["Limits", "Saved", "Scope", "load", "save", "scopes"]
