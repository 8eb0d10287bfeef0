"""Task metrics, by scikit-learn's definitions."""

from __future__ import annotations

import importlib
import math
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.callables import import_callable, is_callable_spec, prints_to_stderr
from graphopt.errors import GraphoptError

Array = npt.NDArray[Any]

NAMES = ("accuracy", "top-K", "f1-macro", "f1-micro", "auc", "mae", "rmse", "spearman")

_TOP = re.compile(r"top-?(?P<k>[1-9]\d*)")


@dataclass(frozen=True)
class Outputs:
    """The outputs of one model for all samples.

    Args:
        arrays: By output name, samples along axis 0.
        classes: The class of each column, for outputs that were maps of class to score.
    """

    arrays: Mapping[str, Array]
    classes: Mapping[str, Array]


class Metric(ABC):
    """A number for how good outputs are.

    Args:
        name: What the user called it.
        output: The output it looks at; None: the model's first.
    """

    lower_is_better = False

    def __init__(self, name: str, output: str | None) -> None:
        self.name = name
        self.output = output

    def outputs(self, names: Sequence[str]) -> list[str]:
        """Which of a model's outputs this metric looks at.

        Raises:
            GraphoptError: The model does not have it.
        """
        if self.output is None:
            return list(names[:1])
        if self.output not in names:
            raise GraphoptError(
                f"there is no output {self.output!r}", fix=f"use one of {', '.join(names)}"
            )
        return [self.output]

    @abstractmethod
    def score(self, outputs: Outputs, labels: Array, like: Outputs) -> float:
        """Rate outputs.

        Args:
            outputs: Of any model.
            labels: One entry per sample, in the same order.
            like: The reference's outputs: what they look like says how to read the others'.

        Raises:
            GraphoptError: The outputs or labels are not what this metric takes.
        """

    def drop(self, reference: float, candidate: float) -> float:
        """How much worse a candidate is, in the metric's own unit."""
        return candidate - reference if self.lower_is_better else reference - candidate


def open_metric(name: str, output: str | None = None) -> Metric:
    """Return the metric of a name, or of `module:function`.

    Classification reads an output so: integers, bools and strings are classes; floats of one
    column are scores of class 1, taken as probabilities (class 1 from 0.5) where all of the
    reference's are in [0, 1], else as logits (class 1 from 0); floats of several columns are one
    score per class 0, 1, 2, ..., the largest wins. `auc` with several classes is one against the
    rest, on rows that sum to 1: others go through softmax first. Axes in front of the classes are
    flattened, the labels' likewise. A function gets all outputs by name and the labels, and more
    is better.

    Raises:
        GraphoptError: There is no such metric.
    """
    if is_callable_spec(name):
        return _Custom(name, import_callable(name))
    top = _TOP.fullmatch(name)
    if top:
        return _TopK(name, output, int(top["k"]))
    kinds: Mapping[str, Callable[[str, str | None], Metric]] = {
        "accuracy": _Classes,
        "f1-macro": _Classes,
        "f1-micro": _Classes,
        "auc": _Auc,
        "mae": _Regression,
        "rmse": _Regression,
        "spearman": _Spearman,
    }
    if name not in kinds:
        raise GraphoptError(
            f"there is no metric {name!r}", fix=f"use {', '.join(NAMES)}, or module:function"
        )
    return kinds[name](name, output)


class _OneOutput(Metric):
    def score(self, outputs: Outputs, labels: Array, like: Outputs) -> float:
        name = next(iter(like.arrays))
        try:
            with warnings.catch_warnings():
                # What scikit-learn and scipy warn of is that the result is nan.
                warnings.simplefilter("ignore")
                score = float(self._score(_View(outputs, like, name, labels)))
        except ValueError as error:
            # scikit-learn says so of labels that a metric is not defined for.
            reason = str(error).splitlines()[0]
            raise GraphoptError(f"metric {self.name!r} on output {name!r}: {reason}") from None
        if math.isnan(score):
            raise GraphoptError(
                f"metric {self.name!r} on output {name!r} is not defined: it needs more than one"
                " value among the labels and among the outputs"
            )
        return score

    @abstractmethod
    def _score(self, view: _View) -> float:
        """Rate one output; ValueError: it is not defined for these."""


class _Classes(_OneOutput):
    def _score(self, view: _View) -> float:
        labels, predicted = view.labels_and_classes()
        if self.name == "accuracy":
            # As scikit-learn defines it; the demo runs without scikit-learn.
            return float(np.mean(labels == predicted))
        average = self.name.removeprefix("f1-")
        return float(_sklearn().f1_score(labels, predicted, average=average, zero_division=0.0))


class _TopK(_OneOutput):
    def __init__(self, name: str, output: str | None, k: int) -> None:
        super().__init__(name, output)
        self._k = k

    def _score(self, view: _View) -> float:
        metrics = _sklearn()
        labels, scores, classes = view.labels_and_scores()
        if scores.shape[1] <= self._k:
            raise ValueError(f"{scores.shape[1]} classes are always within the top {self._k}")
        if self._k == 1:
            return float(metrics.accuracy_score(labels, classes[scores.argmax(axis=1)]))
        return float(metrics.top_k_accuracy_score(labels, scores, k=self._k, labels=classes))


class _Auc(_OneOutput):
    def _score(self, view: _View) -> float:
        metrics = _sklearn()
        labels, scores, classes = view.labels_and_scores()
        if scores.shape[1] <= 2:
            margin = scores[:, -1] - (scores[:, 0] if scores.shape[1] == 2 else 0.0)
            return float(metrics.roc_auc_score(labels, margin))
        rows = _probabilities(scores, view.reference())
        return float(metrics.roc_auc_score(labels, rows, multi_class="ovr", labels=classes))


class _Regression(_OneOutput):
    lower_is_better = True

    def _score(self, view: _View) -> float:
        metrics = _sklearn()
        labels, values = view.labels_and_values()
        function = (
            metrics.mean_absolute_error if self.name == "mae" else metrics.root_mean_squared_error
        )
        return float(function(labels, values))


class _Spearman(_OneOutput):
    def _score(self, view: _View) -> float:
        stats = _import("scipy.stats")
        labels, values = view.labels_and_values()
        return float(stats.spearmanr(values.ravel(), labels.ravel()).statistic)


class _Custom(Metric):
    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        super().__init__(name, None)
        self._function = function

    def outputs(self, names: Sequence[str]) -> list[str]:
        return list(names)

    def score(self, outputs: Outputs, labels: Array, like: Outputs) -> float:
        del like
        try:
            with prints_to_stderr():
                return float(self._function(dict(outputs.arrays), labels))
        except Exception as error:
            # Whatever the user's function raises is the user's to read, as one line.
            raise GraphoptError(
                f"metric {self.name} fails: {type(error).__name__}: {error}"
            ) from error


class _View:
    """One output beside the labels, in the forms that metrics take."""

    def __init__(self, outputs: Outputs, like: Outputs, name: str, labels: Array) -> None:
        self._name = name
        self._output = outputs.arrays[name]
        self._like = like.arrays[name]
        self._classes = outputs.classes.get(name)
        self._labels = labels

    def reference(self) -> Array:
        """The reference's output as rows of scores."""
        return self._like.reshape(-1, self._like.shape[-1])

    def labels_and_values(self) -> tuple[Array, Array]:
        """Labels and outputs of the same shape."""
        labels, values = self._labels, self._output
        if labels.dtype.kind not in "fiub" or values.dtype.kind in "OSUT":
            raise ValueError("labels and outputs must be numbers")
        if labels.size != values.size:
            raise ValueError(f"{values.size} values, but {labels.size} labels")
        shape = (len(labels), -1)
        return labels.astype(np.float64).reshape(shape), values.astype(np.float64).reshape(shape)

    def labels_and_classes(self) -> tuple[Array, Array]:
        """Labels and predicted classes, one dimension each."""
        if self._output.dtype.kind in "iubOSUT":
            labels, predicted = self._labels.ravel(), self._output.ravel()
            if predicted.dtype.kind == "O":
                predicted, labels = predicted.astype(str), labels.astype(str)
            return self._counted(labels, predicted)
        labels, scores, classes = self.labels_and_scores()
        if scores.shape[1] > 1:
            return labels, classes[scores.argmax(axis=1)]
        probabilities = self._like.min(initial=0.0) >= 0 and self._like.max(initial=0.0) <= 1
        return labels, (scores[:, 0] >= (0.5 if probabilities else 0.0)).astype(np.int64)

    def labels_and_scores(self) -> tuple[Array, Array, Array]:
        """Labels in one dimension, scores as rows over classes, and the classes."""
        output, labels = self._output, self._labels
        if output.dtype.kind in "iubOSUT":
            raise ValueError(f"needs scores, not {output.dtype}: choose another --output")
        output = output.astype(np.float64)
        if output.ndim > 1 and labels.shape == output.shape and output.shape[-1] > 1:
            if not (np.isin(labels, (0, 1)).all() and (labels.sum(axis=-1) == 1).all()):
                raise ValueError("labels of the outputs' shape must be one-hot")
            labels = labels.argmax(axis=-1)
        scores = (
            output.reshape(-1, 1)
            if output.size == labels.size
            else (output.reshape(-1, output.shape[-1]))
        )
        labels = labels.ravel()
        self._counted(labels, scores)
        if self._classes is not None:
            return labels.astype(self._classes.dtype), scores, self._classes
        if labels.dtype.kind == "f" and (labels == np.floor(labels)).all():
            labels = labels.astype(np.int64)
        if labels.dtype.kind not in "iub":
            raise ValueError(f"labels must be class numbers, not {labels.dtype}")
        classes = max(scores.shape[1], 2)
        if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(
                f"labels from {labels.min()} to {labels.max()}, but {classes} classes from 0"
            )
        return labels.astype(np.int64), scores, np.arange(classes)

    def _counted(self, labels: Array, predicted: Array) -> tuple[Array, Array]:
        if len(labels) != len(predicted):
            raise ValueError(
                f"{len(predicted)} predictions (shape {list(self._output.shape)}),"
                f" but {len(labels)} labels"
            )
        return labels, predicted


class Collector:
    """Keeps the outputs that a metric wants, batch by batch.

    Args:
        names: The outputs to keep.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._batches: dict[str, list[Array]] = {name: [] for name in names}
        self._classes: dict[str, Array] = {}

    def add(self, outputs: Mapping[str, Any]) -> None:
        """Keep the outputs of one batch.

        Raises:
            GraphoptError: One is neither a tensor nor one map of class to score per sample.
        """
        for name, batches in self._batches.items():
            value = outputs[name]
            if isinstance(value, list) and value and isinstance(value[0], Mapping):
                self._classes[name] = np.asarray(sorted(value[0]))
                value = np.asarray([[row[key] for key in sorted(row)] for row in value])
            if not isinstance(value, np.ndarray) or value.ndim == 0:
                raise GraphoptError(
                    f"output {name!r} has no samples along axis 0", fix="choose another --output"
                )
            batches.append(value)

    def outputs(self) -> Outputs:
        """All that was kept."""
        arrays = {name: np.concatenate(batches) for name, batches in self._batches.items()}
        return Outputs(arrays, self._classes)


def _probabilities(scores: Array, reference: Array) -> Array:
    sums = reference.astype(np.float64).sum(axis=1)
    if reference.min() >= 0 and np.allclose(sums, 1, atol=1e-2):
        # The candidate's rows may miss 1 by its own rounding, which scikit-learn refuses.
        return np.asarray(scores / scores.sum(axis=1, keepdims=True))
    return np.asarray(_import("scipy.special").softmax(scores, axis=1))


def _sklearn() -> Any:
    return _import("sklearn.metrics")


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        package = "scikit-learn" if module.startswith("sklearn") else "scipy"
        raise GraphoptError(
            f"metrics need {package}, which is not installed",
            fix="run: pip install 'graphopt[sklearn]'",
        ) from None
