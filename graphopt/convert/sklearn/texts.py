"""Weights of words: logarithms of counts as scikit-learn takes them."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np

from graphopt.convert.sklearn.converters import ContainerNodes
from graphopt.convert.sklearn.doubles import Stand
from graphopt.convert.sklearn.override import override
from graphopt.errors import GraphoptError


@functools.cache
def register_texts() -> None:
    """Let skl2onnx write sublinear counts, 1 + log(count) and 0 for none, not log(1 + count)."""
    from skl2onnx.common._registration import get_converter

    before = get_converter("SklearnTfidfTransformer")

    def write(scope: Any, operator: Any, container: Any) -> None:
        from skl2onnx.common.data_types import DoubleTensorType

        nodes, given = ContainerNodes(scope, container), operator.inputs[0]
        double = isinstance(given.type, DoubleTensorType)
        one, none = (
            nodes.constant(np.array([value], np.float64 if double else np.float32))
            for value in (1, 0)
        )
        counts = nodes.node("Cast", [given.full_name], to=11 if double else 1)
        grown = nodes.node("Add", [nodes.node("Log", [counts]), one])
        made = scope.declare_local_variable("sublinear", copy.deepcopy(given.type))
        present = nodes.node("Greater", [counts, none])
        nodes.into(made.full_name, "Where", [present, grown, none])
        plain = copy.copy(operator.raw_operator)
        if hasattr(plain, "_tfidf"):
            # A TfidfVectorizer has it of the transformer inside of it.
            plain._tfidf = copy.copy(plain._tfidf)
        plain.sublinear_tf = False
        before(scope, Stand(plain, [made], operator.outputs), container)

    override("SklearnTfidfTransformer", lambda operator: operator.raw_operator.sublinear_tf, write)


def check_words(part: Any, source: str) -> None:
    """See that texts are split into words.

    Raises:
        GraphoptError: They are split into letters, or by a function of the user's.
    """
    analyzer = getattr(part, "analyzer", "word")
    if hasattr(part, "token_pattern") and analyzer != "word":
        raise GraphoptError(
            f"{type(part).__name__} with analyzer={analyzer!r} cannot be converted: ONNX"
            " Runtime's tokenizer does not count letters as scikit-learn does",
            file=source,
            fix="use analyzer='word', or convert the steps behind it",
        )
