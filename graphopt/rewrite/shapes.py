"""What is known of shapes and types, without touching the model and without copying its weights.

Shapes are inferred from the inputs of the model, afresh. The `value_info` that a file carries is
not trusted: nothing forces it to be true, and an edit can leave it stale. What is trusted is the
declared interface (types and shapes of the graph's inputs, where one symbolic name means one size)
and the weights. The declared shapes of outputs are a promise to the caller and prove nothing.

They are kept beside the model, not in it: a saved model has no `value_info` that it did not have.
They speak of what a value holds, so they stay true while rewrites change who computes it; a value
that is newer than the inference is unknown until `learn` is told.
"""

from __future__ import annotations

import onnx_ir as ir

from graphopt.model.scopes import scopes
from graphopt.rewrite.constants import constant
from graphopt.rewrite.contents import Contents
from graphopt.rewrite.dims import Dims, equal_dims, static
from graphopt.rewrite.inference import infer

_KEY = "graphopt.rewrite.shapes"


class Shapes:
    """What is known of the values of a model. Inside functions, only constants are.

    Args:
        model: Read once, now.

    Attributes:
        failure: Why shape inference gave up, where it did; what is known is then the interface.
    """

    def __init__(self, model: ir.Model) -> None:
        inferred = infer(model)
        self.failure = inferred.failure
        self._shapes = inferred.shapes
        self._dtypes = inferred.dtypes
        self._contents = Contents(inferred.shapes)
        for scope in scopes(model):
            for node in scope.graph:
                self._contents.visit(node)

    @classmethod
    def of(cls, model: ir.Model) -> Shapes:
        """Return what is known of a model, inferred once until `forget`."""
        shapes = model.meta.get(_KEY)
        if not isinstance(shapes, Shapes):
            shapes = model.meta[_KEY] = cls(model)
        return shapes

    @staticmethod
    def forget(model: ir.Model) -> None:
        """Drop what `of` has inferred."""
        model.meta.pop(_KEY, None)

    def shape(self, value: ir.Value | None) -> Dims | None:
        """Return the sizes of a tensor; None where not even the rank is known."""
        return self._contents.shape(value)

    def static_shape(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """Return the sizes of a tensor where all of them are known."""
        return static(self.shape(value))

    def rank(self, value: ir.Value | None) -> int | None:
        """Return the number of dimensions of a tensor."""
        shape = self.shape(value)
        return None if shape is None else len(shape)

    def dtype(self, value: ir.Value | None) -> ir.DataType | None:
        """Return the element type of a tensor."""
        if value is None:
            return None
        tensor = constant(value)
        return self._dtypes.get(value) if tensor is None else tensor.dtype

    def elements(self, value: ir.Value | None) -> Dims | None:
        """Return the elements of a tensor of integers of rank 0 or 1, as far as they are known.

        A shape that is computed from an input of size (N, 3, H) gives ("N", 3, "H").
        """
        return self._contents.of(value)

    def same_shape(self, first: ir.Value | None, second: ir.Value | None) -> bool:
        """Whether two tensors are known to have the same shape."""
        return equal_dims(self.shape(first), self.shape(second))

    def learn(self, value: ir.Value, like: ir.Value) -> None:
        """Say that a new value has the shape, type and elements of another."""
        if like in self._shapes:
            self._shapes[value] = self._shapes[like]
        if like in self._dtypes:
            self._dtypes[value] = self._dtypes[like]
        self._contents.learn(value, like)
