"""What a fitted estimator takes: columns, their types, and samples of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from graphopt.convert.contract import Options
from graphopt.convert.sklearn.edges import edges_behind
from graphopt.convert.sklearn.samples import made_up
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Array, Batch, open_feeds

Kind = Literal["float32", "float64", "int32", "int64", "bool", "string"]

_SAMPLES = 29
_TEXTS = ("CountVectorizer", "TfidfVectorizer", "HashingVectorizer")
_ENCODERS = ("OneHotEncoder", "OrdinalEncoder", "TargetEncoder")
_NO_ARRAYS = ("DictVectorizer", "FeatureHasher")
_KINDS: dict[str, Kind] = {"U": "string", "O": "string", "S": "string", "b": "bool", "i": "int64"}


@dataclass(frozen=True)
class Input:
    """An input of the graph.

    Args:
        name: Its name.
        kind: The type of its elements.
        columns: Which columns of the estimator's table it holds.
    """

    name: str
    kind: Kind
    columns: tuple[int, ...]


@dataclass(frozen=True)
class Table:
    """The estimator's input: columns in order, and the inputs they come from.

    Args:
        inputs: In the order of the graph.
        width: Number of columns.
        names: Names of the columns, where the estimator was fitted on named ones.
        is_text: Whether it is a list of texts, not a table.
        by_column: Whether column transformers choose columns by position among the inputs.
        empty_is_missing: Columns of strings where an imputer fills in for empty ones.
    """

    inputs: tuple[Input, ...]
    width: int
    names: tuple[str, ...] | None
    is_text: bool = False
    by_column: bool = False
    empty_is_missing: frozenset[int] = frozenset()

    def joined(self, batch: Batch) -> Any:
        """Make of feeds what the estimator takes: an array, a frame with names, or texts."""
        arrays = [(item, batch[item.name]) for item in self.inputs]
        if self.is_text:
            return arrays[0][1].reshape(-1)
        if len(arrays) == 1 and not self.by_column:
            array = arrays[0][1]
            return array.astype(np.float64) if array.dtype.kind == "f" else array
        columns: list[Any] = [np.zeros(len(arrays[0][1]))] * self.width
        for item, array in arrays:
            for position, column in enumerate(item.columns):
                values = _plain(array[:, position])
                if column in self.empty_is_missing:
                    values[values == ""] = np.nan
                columns[column] = values
        if self.names is not None:
            import pandas as pd

            return pd.DataFrame(dict(zip(self.names, columns, strict=True)))
        table = np.empty((len(columns[0]), self.width), object)
        for position, column in enumerate(columns):
            table[:, position] = column
        return table


def _plain(column: Array) -> Any:
    if column.dtype.kind == "f":
        return column.astype(np.float64)
    return column.astype(object) if column.dtype.kind in "USO" else column


def fronts(estimator: Any) -> Iterator[Any]:
    """Yield the fitted estimators inside of one that its input goes to as it is."""
    inner = _takers(estimator)
    if inner is None:
        yield estimator
    for part in inner or ():
        yield from fronts(part)


def _takers(estimator: Any) -> list[Any] | None:
    """The parts of an estimator that take its input; None: it takes it itself."""
    kind = type(estimator).__name__
    if kind == "Pipeline":
        steps = [step for _, step in estimator.steps if step is not None and step != "passthrough"]
        return steps[:1] or None
    if kind == "FeatureUnion":
        parts = [part for _, part in estimator.transformer_list]
        return [part for part in parts if part is not None and not isinstance(part, str)]
    if kind.startswith(("Voting", "Stacking", "MultiOutput")):
        return list(estimator.estimators_)
    if kind == "CalibratedClassifierCV":
        return [calibrated.estimator for calibrated in estimator.calibrated_classifiers_]
    alone = getattr(estimator, "best_estimator_", None) or getattr(estimator, "regressor_", None)
    return None if alone is None else [alone]


def is_string_imputer(estimator: Any) -> bool:
    """Whether an estimator fills in strings for what is missing."""
    if type(estimator).__name__ != "SimpleImputer":
        return False
    return any(isinstance(value, str) for value in estimator.statistics_)


def is_encoder(estimator: Any) -> bool:
    """Whether an estimator takes categories."""
    return type(estimator).__name__ in _ENCODERS


def given_samples(options: Options) -> Batch:
    """Read samples of `--data`; none where none are given."""
    return {} if options.data is None else next(open_feeds(options.data).batches(_SAMPLES))


def table_of(estimator: Any, given: Batch, source: str) -> Table:
    """Find out what an estimator takes.

    Args:
        estimator: A fitted one.
        given: What `given_samples` returns: their types are kept.
        source: What messages call the estimator.

    Raises:
        GraphoptError: It takes something other than columns or texts, or does not say how many.
    """
    leaves = list(fronts(estimator))
    for leaf in leaves:
        if type(leaf).__name__ in _NO_ARRAYS:
            raise GraphoptError(
                f"{type(leaf).__name__} takes dictionaries, which no ONNX model can",
                file=source,
                fix="convert the steps behind it",
            )
    if leaves and all(type(leaf).__name__ in _TEXTS for leaf in leaves):
        return Table((Input(_first(given, "text"), "string", (0,)),), 1, None, is_text=True)
    width = _width(estimator, leaves, source)
    names = _names(estimator, leaves)
    transformers = [leaf for leaf in leaves if type(leaf).__name__ == "ColumnTransformer"]
    kinds = [_kinds(leaf, width) for leaf in leaves]
    merged = {column: kind for found in kinds for column, kind in found.items() if kind is not None}
    mixed = len({merged.get(column, "float32") for column in range(width)}) > 1
    if (transformers and names is not None) or mixed:
        used = sorted({column for found in kinds for column in found})
        inputs = tuple(
            Input(name, _dtype(given, name, merged.get(column)), (column,))
            for column in used
            for name in [names[column] if names is not None else f"x{column}"]
        )
        missing = frozenset(
            column
            for leaf in transformers
            for column in used
            for inner, _ in chosen(leaf, column)
            if is_string_imputer(inner)
        )
        return Table(inputs, width, names, by_column=True, empty_is_missing=missing)
    name = _first(given, "X")
    kind = _dtype(given, name, merged.get(0))
    return Table((Input(name, kind, tuple(range(width))),), width, None)


def examples(table: Table, estimator: Any, *, missing: bool) -> Batch:
    """Make samples up in the range that an estimator was fitted on.

    Args:
        table: What the estimator takes.
        estimator: The estimator.
        missing: Whether some values are missing, where what takes them says that it allows it.
    """
    random = np.random.default_rng(0)
    leaves = list(fronts(estimator))
    if table.is_text:
        texts = made_up(leaves[0], 0, "string", _SAMPLES, random)
        return {table.inputs[0].name: texts.reshape(-1, 1)}
    batch: Batch = {}
    edges: dict[int, list[float]] = {}
    for column, value in edges_behind(estimator):
        edges.setdefault(column, []).append(value)
    for item in table.inputs:
        columns = []
        for column in item.columns:
            leaf, position = _taker(leaves, column)
            own = edges.get(column, ())
            columns.append(made_up(leaf, position, item.kind, _SAMPLES, random, missing, own))
        array = np.stack(columns, axis=1)
        batch[item.name] = array.astype(object if item.kind == "string" else item.kind)
    return batch


def _taker(leaves: Sequence[Any], column: int) -> tuple[Any, int]:
    """Find the first estimator that takes a column, and where it sees it."""
    for leaf in leaves:
        if type(leaf).__name__ != "ColumnTransformer":
            return leaf, column
        for found in chosen(leaf, column):
            return found
    return None, 0


def chosen(transformer: Any, column: int) -> Iterator[tuple[Any, int]]:
    """Yield the estimators of a column transformer that take a column, and where they see it."""
    for name, inner, _ in transformer.transformers_:
        indices = list(transformer._transformer_to_input_indices.get(name, ()))
        if column in indices and inner is not None and not _is_drop(inner):
            if isinstance(inner, str):
                yield None, 0
            else:
                for leaf in fronts(inner):
                    yield leaf, indices.index(column)


def _is_drop(inner: Any) -> bool:
    return isinstance(inner, str) and inner == "drop"


def from_data(table: Table, batch: Batch, data: str) -> Batch:
    """Lay samples that are given out as an estimator takes them.

    Raises:
        GraphoptError: The data has other inputs or widths.
    """
    found: Batch = {}
    for item in table.inputs:
        if item.name not in batch:
            raise GraphoptError(
                f"lacks the input {item.name}; it has {', '.join(batch)}", file=data
            )
        array = batch[item.name]
        array = array.reshape(len(array), -1)
        if array.shape[1] != len(item.columns):
            raise GraphoptError(
                f"{item.name} has {array.shape[1]} columns, the estimator takes"
                f" {len(item.columns)}",
                file=data,
            )
        found[item.name] = array.astype(object if item.kind == "string" else item.kind)
    return found


def _first(given: Batch, default: str) -> str:
    return next(iter(given)) if len(given) == 1 else default


def _dtype(given: Batch, name: str, kind: Kind | None) -> Kind:
    """The type of an input: as in the data, as the estimator knows it, or float32."""
    if kind == "string":
        return kind
    if name in given:
        dtype = given[name].dtype
        if dtype.kind in "USO":
            return "string"
        if dtype.name in ("float64", "int64", "int32", "bool"):
            return dtype.name  # type: ignore[return-value]  # one of the names of Kind
        return "int64" if dtype.kind in "iu" else "float32"
    return kind or "float32"


def _width(estimator: Any, leaves: Sequence[Any], source: str) -> int:
    for part in (estimator, *leaves):
        width = getattr(part, "n_features_in_", None)
        if width is not None:
            return int(width)
    raise GraphoptError(
        f"the {type(estimator).__name__} does not know how many columns it takes",
        file=source,
        fix="fit it before it is saved",
    )


def _names(estimator: Any, leaves: Sequence[Any]) -> tuple[str, ...] | None:
    for part in (estimator, *leaves):
        names = getattr(part, "feature_names_in_", None)
        if names is not None:
            return tuple(map(str, names))
    return None


def _kinds(leaf: Any, width: int) -> dict[int, Kind | None]:
    """The columns that an estimator takes, with the type that it knows them to have."""
    name = type(leaf).__name__
    if name == "ColumnTransformer":
        found: dict[int, Kind | None] = {}
        for column in range(width):
            for inner, position in chosen(leaf, column):
                known = None if inner is None else _kind(inner, position)
                found[column] = known or found.get(column)
        return found
    return {column: _kind(leaf, column) for column in range(width)}


def _kind(leaf: Any, position: int) -> Kind | None:
    name = type(leaf).__name__
    if name in _TEXTS:
        return "string"
    if is_encoder(leaf):
        return _KINDS.get(np.asarray(leaf.categories_[position]).dtype.kind)
    if name == "SimpleImputer":
        value = leaf.statistics_[position]
        return "string" if isinstance(value, str) else None
    return None
