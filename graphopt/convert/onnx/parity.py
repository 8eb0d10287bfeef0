"""Whether a model computes the same before and after it was written anew, and whether it loads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt.convert.contract import Options
from graphopt.convert.model_parity import check_candidate, feeds_of
from graphopt.convert.onnx.operators import remarks
from graphopt.convert.parity import Parity, Reference, check_parity
from graphopt.convert.reasons import first_line
from graphopt.errors import CheckFailed, GraphoptError
from graphopt.model import scopes, to_proto
from graphopt.pipeline.instruments.checker import check_problem
from graphopt.rewrite.constants import ONNX_DOMAINS
from graphopt.runtime.feeds import Array, Batch, Feeds
from graphopt.runtime.session import Session

Compared = tuple[tuple[Parity, ...], tuple[str, ...]]
"""What was compared, and why something was not."""

_RUNTIME_DOMAINS = frozenset({*ONNX_DOMAINS, "ai.onnx.ml", "ai.onnx.preview.training"})
_RUNTIME_PREFIX = "com.microsoft"
_BATCH = 3


def compare_models(before: ir.Model, after: ir.Model, source: str, options: Options) -> Compared:
    """Run both models on the same inputs, at several batch sizes where the batch is free.

    Where ONNX Runtime does not take the source (it is newer, or uses what was given up long ago),
    ONNX's reference evaluator runs it.

    Raises:
        CheckFailed: An output differs by more than float reassociation explains, or by more than
            is allowed; or ONNX Runtime or `onnx.checker` takes only the model before.
        GraphoptError: They take neither, or the data that the user names do not fit.
    """
    reference = _session(before, "the source")
    candidate = _session(after, "the converted model")
    flaw = _flaw(before, after)
    if isinstance(candidate, CheckFailed):
        return (), (_why_unproven(before, after, candidate, flaw, source, reference),)
    notes: tuple[str, ...] = ()
    if flaw is not None:
        if isinstance(reference, CheckFailed):
            raise GraphoptError(f"onnx.checker refuses it: {flaw}", file=source)
        notes = (f"onnx.checker refuses it, and the source: {flaw}",)
    try:
        # Their interface is one; what is made up is tried out.
        feeds = feeds_of(before if isinstance(reference, Session) else after, options.data)
    except GraphoptError as error:
        if options.data is not None:
            raise
        return (), (*notes, f"not proven, nothing was compared: {error}")
    if isinstance(reference, Session):
        tolerances = {} if options.tolerance is None else {"*": options.tolerance}
        found, refused = check_candidate(before, reference, candidate, feeds, tolerances)
        return found, (*notes, *refused)
    found, more = _compare_evaluated(before, after, feeds, reference, options)
    return found, (*notes, more)


def _compare_evaluated(
    before: ir.Model, after: ir.Model, feeds: Feeds, refused: CheckFailed, options: Options
) -> tuple[tuple[Parity, ...], str]:
    """Compare with ONNX's reference evaluator; say that, or why that cannot be.

    Raises:
        CheckFailed: An output differs.
    """
    why = f"ONNX Runtime does not take the source ({refused.cause})"
    tolerances = {} if options.tolerance is None else {"*": options.tolerance}
    batch = next(feeds.batches(_BATCH))
    try:
        evaluate = _evaluator(before)
        found, _ = check_parity(after, batch, evaluate, ranges={}, tolerances=tolerances)
    except CheckFailed:
        raise
    except GraphoptError as error:
        why = f"{why}, nor does ONNX's reference evaluator ({error.cause})"
        return (), f"not proven, nothing was compared: {why}"
    return found, f"compared with ONNX's reference evaluator: {why}"


def _session(model: ir.Model, title: str) -> Session | CheckFailed:
    try:
        return Session(model, title=title)
    except CheckFailed as error:
        return error


def _flaw(before: ir.Model, after: ir.Model) -> str | None:
    """Return what `onnx.checker` has against the result, where it has it against the source too.

    Raises:
        CheckFailed: It takes the source, and not the result.
    """
    flaw = check_problem(after, full=False)
    if flaw is not None and check_problem(before, full=False) is None:
        raise CheckFailed(
            f"onnx.checker refuses the converted model: {flaw}", fix="nothing was written"
        )
    return flaw


def _why_unproven(
    before: ir.Model,
    after: ir.Model,
    refused: CheckFailed,
    flaw: str | None,
    source: str,
    reference: Session | CheckFailed,
) -> str:
    """Say why a model is carried over that ONNX Runtime does not load.

    Raises:
        CheckFailed: ONNX Runtime took the source.
        GraphoptError: It took neither, for another reason than operators that are not its own.
    """
    if isinstance(reference, Session):
        raise refused
    explained = remarks(before)
    foreign = _foreign(after)
    if explained or flaw is not None or foreign is None:
        why = explained[0] if explained else flaw or refused.cause
        raise GraphoptError(
            f"ONNX Runtime takes neither the source nor the converted model: {why}",
            file=source,
            fix="export the model anew, by a newer exporter, or replace the operator",
        )
    return (
        "not proven, nothing was compared: ONNX Runtime has no operator"
        f" {foreign.domain}.{foreign.op_type}; the library that brings it has to be loaded there"
    )


def _foreign(model: ir.Model) -> ir.Node | None:
    """Find an operator of a domain that belongs neither to ONNX nor to ONNX Runtime."""
    for scope in scopes(model):
        for node in scope.graph:
            if (
                node.domain not in _RUNTIME_DOMAINS
                and not node.domain.startswith(_RUNTIME_PREFIX)
                and node.op_identifier() not in model.functions
            ):
                return node
    return None


def _evaluator(model: ir.Model) -> Reference:
    """Return ONNX's own evaluator of a model, which knows operators that no runtime has yet.

    Raises:
        GraphoptError: It does not take the model.
    """
    from onnx.reference import ReferenceEvaluator

    try:
        evaluator = ReferenceEvaluator(to_proto(model))
    except Exception as error:
        # It has no errors of its own: what its operators raise is what there is.
        raise GraphoptError(first_line(error)) from error

    def run(batch: Batch) -> Sequence[Array]:
        try:
            with np.errstate(all="ignore"):
                return [np.asarray(found) for found in evaluator.run(None, dict(batch))]
        except Exception as error:
            # As above.
            raise GraphoptError(first_line(error)) from error

    return run
