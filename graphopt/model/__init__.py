"""ONNX files in and out: `load`, `save`, and the facts of a model."""

from graphopt.model.limits import Limits
from graphopt.model.load import load
from graphopt.model.save import Saved, save
from graphopt.model.scopes import Scope, scopes
from graphopt.model.serialize import to_proto

__all__ = ["Limits", "Saved", "Scope", "load", "save", "scopes", "to_proto"]
