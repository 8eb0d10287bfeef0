"""`skl2onnx` on a fitted estimator, and what it leaves to be said or mended."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.convert.contract import Options
from graphopt.convert.reasons import first_line
from graphopt.convert.sklearn.boosting import is_boosted
from graphopt.convert.sklearn.inputs import Table, fronts, is_string_imputer
from graphopt.convert.sklearn.outputs import last_of
from graphopt.convert.sklearn.precision import decides_behind, take_as, wider_kinds
from graphopt.convert.sklearn.preprocessing import as_transformer, replace_inside
from graphopt.convert.sklearn.reference import Output
from graphopt.convert.sklearn.selection import as_predictor
from graphopt.convert.sklearn.texts import check_words
from graphopt.errors import CheckFailed, GraphoptError
from graphopt.runtime.session import Session

_ML_OPSET = 3
_TYPES = {
    "float32": "FloatTensorType",
    "float64": "DoubleTensorType",
    "int32": "Int32TensorType",
    "int64": "Int64TensorType",
    "bool": "BooleanTensorType",
    "string": "StringTensorType",
}
_FLOAT32_OPERATORS = (
    "LinearClassifier",
    "LinearRegressor",
    "SVMClassifier",
    "SVMRegressor",
    "TfIdfVectorizer",
    "TreeEnsembleClassifier",
    "TreeEnsembleRegressor",
)
"""Of ai.onnx.ml: they compute in float32, or give it, whatever they take."""

_FLOAT32_NOTE = (
    "is computed in float32: a float64 feature within rounding of a tree's threshold may fall on"
    " its other side"
)

_TOKENS = r"(?u)\b\w\w+\b"
_ASCII_TOKENS = "[a-zA-Z0-9_]+"
_UNICODE_TOKENS = r"[\p{L}\p{N}_][\p{L}\p{N}_]+"

_EMPTY_NOTE = "an empty string stands for a missing one, which strings in ONNX cannot be"


@dataclass(frozen=True)
class Exported:
    """What skl2onnx made.

    Args:
        model: With the inputs of a table, and skl2onnx's own outputs.
        notes: What the user should know.
        rounds: Whether its float64 outputs are no more exact than float32.
    """

    model: ir.Model
    notes: list[str]
    rounds: bool = False


def export(
    estimator: Any, table: Table, wanted: Sequence[Output], options: Options, source: str
) -> Exported:
    """Export an estimator with the inputs of a table.

    Raises:
        GraphoptError: skl2onnx has no way to write one of its parts, which is named.
    """
    _register(estimator)
    _check_supported(estimator, source)
    prepared = _prepared(estimator, table)
    kinds = {item.name: item.kind for item in table.inputs}
    wide = [name for name, kind in kinds.items() if kind not in ("float32", "string")]
    doubles = "float64" in kinds.values()
    notes = [_EMPTY_NOTE] if table.empty_is_missing else []
    if decides_behind(estimator):
        try:
            model = _exported(prepared, table, wider_kinds(estimator, table), options, source)
            take_as(model.graph, kinds)
            Session(model, title="what skl2onnx makes of it")
            return Exported(model, notes, rounds=not doubles or _rounds(model))
        except (GraphoptError, CheckFailed):
            # Some converters of skl2onnx write float32 alone; the proof sees what that changes.
            pass
    try:
        model = _exported(prepared, table, kinds, options, source)
        if wide:
            Session(model, title="what skl2onnx makes of it")
        if not (doubles and _rounds(model)):
            return Exported(model, notes)
    except (GraphoptError, CheckFailed):
        if not wide:
            raise
    narrow = {name: "float32" if name in wide else kind for name, kind in kinds.items()}
    model = _exported(prepared, table, narrow, options, source)
    take_as(model.graph, kinds)
    return Exported(model, [*notes, f"{source} {_FLOAT32_NOTE}"] if doubles else notes)


def _register(estimator: Any) -> None:
    """Give skl2onnx the converters that it lacks or has wrong."""
    from graphopt.convert.sklearn.converters import register_booster, register_converters
    from graphopt.convert.sklearn.discriminants import register_discriminants
    from graphopt.convert.sklearn.doubles import register_doubles
    from graphopt.convert.sklearn.functions import register_functions
    from graphopt.convert.sklearn.kernels import register_kernels
    from graphopt.convert.sklearn.meta import register_meta
    from graphopt.convert.sklearn.neighbours import register_neighbours
    from graphopt.convert.sklearn.preprocessing import register_preprocessing
    from graphopt.convert.sklearn.selection import register_selection
    from graphopt.convert.sklearn.stacking import register_stacking
    from graphopt.convert.sklearn.targets import register_targets
    from graphopt.convert.sklearn.texts import register_texts
    from graphopt.convert.sklearn.trees import register_trees

    register_converters()
    register_discriminants()
    register_doubles()
    register_functions()
    register_kernels()
    register_meta()
    register_neighbours()
    register_preprocessing()
    register_selection()
    register_stacking()
    register_targets()
    register_texts()
    register_trees()
    for _, part in parts(estimator):
        if is_boosted(part):
            kind: Any = type(part)
            register_booster(kind)


def _rounds(model: ir.Model) -> bool:
    """Whether outputs are float64 that were float32 on the way."""
    narrow = any(node.op_type in _FLOAT32_OPERATORS for node in model.graph)
    return narrow and any(value.dtype == ir.DataType.DOUBLE for value in model.graph.outputs)


def _exported(
    estimator: Any, table: Table, kinds: dict[str, Any], options: Options, source: str
) -> ir.Model:
    from skl2onnx.common import data_types

    types = [
        (item.name, getattr(data_types, _TYPES[kinds[item.name]])([None, len(item.columns)]))
        for item in table.inputs
    ]
    versions = {"ai.onnx.ml": _ML_OPSET}
    if options.opset is not None:
        versions[""] = options.opset
    else:
        from skl2onnx import get_latest_tested_opset_version

        versions[""] = get_latest_tested_opset_version()
    name = type(estimator).__name__
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            proto = _written(estimator, initial_types=types, name=name, target_opset=versions)
    except Exception as error:
        # skl2onnx raises whatever its converters raise.
        raise GraphoptError(
            f"skl2onnx cannot write the {type(last_of(estimator)).__name__}: {first_line(error)}",
            file=source,
        ) from error
    model: ir.Model = ir.from_proto(proto)
    _read_as_unicode(model, estimator)
    for value, item in zip(model.graph.inputs, table.inputs, strict=True):
        value.shape = ir.Shape(["batch", len(item.columns)])
    for node in model.graph:
        for output in node.outputs:
            # Shapes that skl2onnx guesses are wrong for several estimators.
            output.shape = None
    return model


def _written(estimator: Any, **settings: Any) -> Any:
    """Try the options that ask for plain tensors: each estimator takes some, and refuses others."""
    from skl2onnx import to_onnx

    last = last_of(estimator)
    raw = {id(last): {"raw_scores": True}}
    plain: dict[Any, Any] = {"zipmap": False}
    if type(last).__name__ in {"SVC", "NuSVC"} and not hasattr(last, "predict_proba"):
        # Without it the scores of two classes are in the wrong order.
        plain = {id(last): {"zipmap": False, "raw_scores": True}}
    for options in (plain, None):
        try:
            return to_onnx(estimator, options=options, **settings)
        except NameError:
            # What it says of an option that the estimator does not have.
            continue
    return to_onnx(estimator, options=raw, **settings)


def _read_as_unicode(model: ir.Model, estimator: Any) -> None:
    """Let texts be lowercased and split as by Python: any letter and digit is of a word.

    The default locale, en_US, often is not there. Where all words that count are ASCII, so are the
    letters that count, and C will do, which is everywhere.
    """
    words = [
        word for _, part in parts(estimator) for word in getattr(part, "vocabulary_", None) or ()
    ]
    locale = "C" if all(word.isascii() for word in words) else "C.UTF-8"
    patterns = {getattr(part, "token_pattern", _TOKENS) for _, part in parts(estimator)}
    for node in model.graph:
        if node.op_type == "StringNormalizer" and "locale" not in node.attributes:
            node.attributes["locale"] = ir.AttrString("locale", locale)
        if node.op_type != "Tokenizer" or patterns != {_TOKENS}:
            continue
        # skl2onnx writes the default pattern for ASCII, and takes single letters for words.
        if node.attributes.get_string("tokenexp") == _ASCII_TOKENS:
            node.attributes["tokenexp"] = ir.AttrString("tokenexp", _UNICODE_TOKENS)


def _prepared(estimator: Any, table: Table) -> Any:
    """A copy of the estimator that skl2onnx takes: it computes the same."""
    made = as_predictor(copy.deepcopy(estimator))
    if hasattr(made, "transform") and not hasattr(made, "predict"):
        made = as_transformer(made)
    for _, part in parts(made):
        kind = type(part).__name__
        if kind == "VotingClassifier":
            # What it says is of `transform` alone, and skl2onnx refuses it.
            part.flatten_transform = False
        if kind.startswith("Voting") and part.weights is not None:
            part.weights = np.asarray(part.weights, np.float64)
        replace_inside(part)
        if is_string_imputer(part) and not isinstance(part.missing_values, str):
            part.missing_values = ""
    used = [column for item in table.inputs for column in item.columns]
    for front in fronts(made):
        if type(front).__name__ == "ColumnTransformer":
            _by_position(front, {column: position for position, column in enumerate(used)})
    return made


def _by_position(transformer: Any, positions: dict[int, int]) -> None:
    """Let a column transformer choose by position, whatever it chose by: names, masks, slices."""
    transformer.transformers_ = [
        (
            name,
            inner,
            [
                positions[column]
                for column in transformer._transformer_to_input_indices.get(name, ())
                if column in positions
            ],
        )
        for name, inner, _ in transformer.transformers_
    ]


def parts(estimator: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the fitted estimators that make one up, each with where it is."""
    yield path, estimator
    kind = type(estimator).__name__
    named: list[tuple[str, Any]] = []
    if kind == "Pipeline":
        named = [(f"step {name!r}", inner) for name, inner in estimator.steps]
    elif kind == "ColumnTransformer":
        named = [(f"transformer {name!r}", inner) for name, inner, _ in estimator.transformers_]
    elif kind == "FeatureUnion":
        named = [(f"transformer {name!r}", inner) for name, inner in estimator.transformer_list]
    elif kind.startswith(("Voting", "Stacking")):
        names = [name for name, inner in estimator.estimators if not isinstance(inner, str)]
        named = [
            (f"estimator {name!r}", inner)
            for name, inner in zip(names, estimator.estimators_, strict=True)
        ]
        if hasattr(estimator, "final_estimator_"):
            named.append(("the final estimator", estimator.final_estimator_))
    elif kind == "TransformedTargetRegressor":
        named = [("the regressor", estimator.regressor_)]
    elif hasattr(estimator, "best_estimator_"):
        named = [("the best estimator", estimator.best_estimator_)]
    for name, inner in named:
        if inner is not None and not isinstance(inner, str):
            yield from parts(inner, f"{path}, {name}" if path else name)


def _check_supported(estimator: Any, source: str) -> None:
    from skl2onnx._parse import sklearn_parsers_map
    from skl2onnx._supported_operators import sklearn_operator_name_map
    from skl2onnx.common._registration import _converter_pool

    from graphopt.convert.sklearn.functions import is_known

    for path, part in parts(estimator):
        check_words(part, source)
        kind = type(part)
        if kind.__name__ == "KNNImputer":
            raise GraphoptError(
                "KNNImputer cannot be converted: what skl2onnx writes fills in other values",
                file=source,
                fix="use SimpleImputer, or convert the steps behind it",
            )
        known = (
            kind in sklearn_parsers_map or sklearn_operator_name_map.get(kind) in _converter_pool
        )
        own_code = kind.__name__ == "FunctionTransformer" and not is_known(part)
        if (known or hasattr(part, "onnx_converter")) and not own_code:
            continue
        where = f" ({path} of the {type(estimator).__name__})" if path else ""
        what = (
            f"the function of {kind.__name__}"
            if own_code
            else f"{kind.__module__}.{kind.__qualname__}"
        )
        raise GraphoptError(
            f"skl2onnx has no converter for {what}{where}",
            file=source,
            fix="replace it by a supported one, or convert the steps before and behind it",
        )
