"""From scikit-learn: `skl2onnx`, then a comparison with the estimator itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from graphopt.convert.contract import Conversion, Options
from graphopt.convert.finishing import finish, require
from graphopt.convert.sklearn.export import export
from graphopt.convert.sklearn.files import is_pickle, is_skops, load_estimator
from graphopt.convert.sklearn.inputs import given_samples, table_of
from graphopt.convert.sklearn.outputs import outputs_of, settle_outputs
from graphopt.convert.sklearn.proof import Subject, prove_data, samples_of, without_ties
from graphopt.convert.sklearn.reference import reference
from graphopt.convert.sklearn.sums import allowed_of


def recognises(path: Path) -> bool:
    """Whether a file holds an estimator: of skops, or a pickle that is of no other framework."""
    return is_skops(path) or is_pickle(path)


def convert(source: str, options: Options) -> Conversion:
    """Export a fitted estimator or pipeline.

    Args:
        source: A file of skops; a pickle, as of joblib, where it is allowed; or `module:callable`,
            which returns the estimator.
        options: What to ask for. `data` has one array per input, whose types are kept.

    Raises:
        GraphoptError: It cannot be read or exported, or holds types that are not trusted.
        CheckFailed: ONNX Runtime computes something else than scikit-learn.
    """
    require(["sklearn", "skl2onnx"], "sklearn", "scikit-learn with skl2onnx")
    estimator, notes = load_estimator(source, options)
    wanted = outputs_of(estimator, source)
    given = given_samples(options)
    table = table_of(estimator, given, source)
    subject = Subject(estimator, table, wanted, source)
    exported = export(estimator, table, wanted, options, source)
    model = exported.model
    notes += exported.notes
    batch, found = samples_of(subject, given, options.data)
    notes += found
    forms = settle_outputs(model, estimator, wanted, batch, source, rounds=exported.rounds)
    batch, found = without_ties(subject, batch)
    notes += found
    names = [
        *options.input_names,
        *(item.name for item in table.inputs[len(options.input_names) :]),
    ]
    own = reference(estimator, table, wanted, forms, source, names)
    allowed = {}
    if any(form.dtype == np.float64 for form in forms):
        allowed = allowed_of(estimator, table.joined(batch))
    conversion = finish(model, list(batch.values()), own, options, allowed=allowed, notes=notes)
    if options.data is None:
        return conversion
    ended = {
        value.name or "": allowed[item.name]
        for item, value in zip(wanted, conversion.model.graph.outputs, strict=True)
        if item.name in allowed
    }
    return prove_data(subject, conversion, own, options, ended)
