"""Converters of skl2onnx that are replaced for some of the estimators that they write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Write = Callable[[Any, Any, Any], None]
"""Writes an operator, given skl2onnx's scope, operator and container."""


def override(name: str, is_meant: Callable[[Any], bool], write: Write) -> None:
    """Write the operators of a name that are meant; skl2onnx writes others as before.

    Args:
        name: What skl2onnx calls the operator.
        is_meant: Tells of an operator whether `write` writes it.
        write: What writes it.
    """
    from skl2onnx.common._registration import get_converter, register_converter

    before = get_converter(name)

    def convert(scope: Any, operator: Any, container: Any) -> None:
        (write if is_meant(operator) else before)(scope, operator, container)

    register_converter(name, convert, overwrite=True, options=before.get_allowed_options())
