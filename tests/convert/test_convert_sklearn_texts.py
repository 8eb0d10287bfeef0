from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")

from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn_estimators import converted, outputs

from graphopt.errors import GraphoptError

WORDS = ["good", "bad", "ünïcode", "été", "кино", "snake_case", "co2", "电影"]
STRANGE = ["", "Ünïcode, ÉTÉ! a КИНО", "good a été", "unknown слово", "电影 good-bad co2 b"]


def texts() -> list[str]:
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS, 5)) for _ in range(60)]


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("longest", [1, 2])
@pytest.mark.parametrize("kind", [CountVectorizer, TfidfVectorizer])
def test_words_of_any_script(kind: Any, longest: int, lowercase: bool) -> None:
    vectorizer = kind(lowercase=lowercase, ngram_range=(1, longest))
    estimator = vectorizer.fit([*texts(), *STRANGE])
    model, _ = converted(estimator)
    rows = [*texts(), *STRANGE]
    found = outputs(model, text=np.array(rows, object)[:, None])[0]
    np.testing.assert_allclose(found, estimator.transform(rows).toarray(), atol=1e-6)


def test_single_letters_do_not_part_two_words() -> None:
    rows = texts()
    labels = ["good" in text for text in rows]
    estimator = make_pipeline(CountVectorizer(ngram_range=(2, 2)), LogisticRegression())
    model, _ = converted(estimator.fit(rows, labels))
    strange = ["good a bad", "Bad, I good"]
    found = outputs(model, text=np.array(strange, object)[:, None])[1]
    np.testing.assert_allclose(found, estimator.predict_proba(strange), atol=1e-6)


@pytest.mark.parametrize(
    "vectorizer",
    [
        TfidfVectorizer(sublinear_tf=True, norm=None),
        TfidfVectorizer(sublinear_tf=True, use_idf=False, ngram_range=(1, 2)),
        make_pipeline(CountVectorizer(), TfidfTransformer(sublinear_tf=True)),
    ],
    ids=["plain", "pairs", "apart"],
)
def test_logarithms_of_counts(vectorizer: Any) -> None:
    rows = ["good good bad", "bad", "good bad bad bad", ""]
    vectorizer.fit(rows)
    model, _ = converted(vectorizer)
    found = outputs(model, text=np.array(rows, object)[:, None])[0]
    np.testing.assert_allclose(found, vectorizer.transform(rows).toarray(), atol=1e-6)


@pytest.mark.parametrize("analyzer", ["char", "char_wb"])
def test_letters_are_refused_by_name(analyzer: str) -> None:
    rows = texts()
    estimator = make_pipeline(CountVectorizer(analyzer=analyzer), LogisticRegression())
    with pytest.raises(GraphoptError, match=f"CountVectorizer with analyzer='{analyzer}'"):
        converted(estimator.fit(rows, ["good" in text for text in rows]))
