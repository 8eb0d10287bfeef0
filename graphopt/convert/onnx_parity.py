"""Whether ONNX Runtime computes the same before and after a model was written anew."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.convert.contract import Options
from graphopt.convert.model_parity import check_candidate, feeds_of
from graphopt.convert.parity import Parity
from graphopt.errors import CheckFailed, GraphoptError
from graphopt.runtime.session import Session

Compared = tuple[tuple[Parity, ...], tuple[str, ...]]
"""What was compared, and why something was not."""


def compare_models(before: ir.Model, after: ir.Model, options: Options) -> Compared:
    """Run both models on the same inputs, at several batch sizes where the batch is free.

    Raises:
        CheckFailed: An output differs by more than float reassociation explains, or by more than
            is allowed; or only the model before runs.
        GraphoptError: The data that the user names do not fit.
    """
    try:
        reference = Session(before, title="the source")
    except CheckFailed as error:
        return (), (f"not compared: ONNX Runtime does not take the source ({error.cause})",)
    candidate = Session(after, title="the converted model")
    try:
        feeds = feeds_of(before, options.data)
    except GraphoptError as error:
        if options.data is not None:
            raise
        return (), (f"not compared: {error}",)
    return check_candidate(before, reference, candidate, feeds, options.tolerance), ()
