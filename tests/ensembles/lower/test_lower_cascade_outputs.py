"""Which outputs of cascades are carried through, and what is told and refused of them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from lowered import (
    Ensemble,
    digits,
    rows,
    scaled,
    softmax,
    table,
    text_model,
)

from graphopt.errors import GraphoptError


def test_it_says_what_does_not_look_like_probabilities() -> None:
    members = {"a": digits("mlp"), "d": digits("resnet")}
    ensemble = Ensemble("cascade(a, d, confidence=0.9)", **members)
    assert any("softmax" in note for note in ensemble.notes)
    ensemble = Ensemble("cascade(mean(softmax(a), softmax(d)), d, confidence=0.9)", **members)
    assert ensemble.notes == []


def test_what_has_no_confidence_is_refused() -> None:
    labels = table({"label": np.asarray([1, 2]), "p": np.ones((2, 1), np.float32)})
    with pytest.raises(GraphoptError, match="on='NAME'"):
        Ensemble("cascade(a, b, confidence=0.9)", a=labels, b=labels)
    with pytest.raises(GraphoptError, match="one class"):
        Ensemble('cascade(a, b, confidence=0.9, on="p", rule="margin")', a=labels, b=labels)
    with pytest.raises(GraphoptError, match="no output 'q'"):
        Ensemble('cascade(a, b, confidence=0.9, on="q")', a=labels, b=labels)


def test_outputs_that_nobody_reads_are_not_carried_through() -> None:
    p = np.asarray([[0.9, 0.1], [0.6, 0.4], [0.5, 0.5]], np.float32)
    tables = [{"p": np.roll(p, -k, 0), "label": rows(3) + 10 * k, "word": p + k} for k in range(3)]
    members = {name: table(content) for name, content in zip("abc", tables, strict=True)}
    text = 'x = cascade(a, b, c, confidence=0.8, on="p"); y = x.label'.replace("x = ", "_x = ")
    ensemble = Ensemble(text.replace("x.label", "_x.label"), **members)
    ifs = [node for node in ensemble.model.graph.all_nodes() if node.op_type == "If"]
    assert [len(node.outputs) for node in ifs] == [1, 1]
    # The probabilities of the last stage and all words are read by nobody.
    assert not any("word" in (name or "") for name in _values(ensemble.model))
    first, second = (np.asarray(content["p"]).max(-1) < 0.8 for content in tables[:2])
    expected = np.where(first & second, rows(3) + 20, np.where(first, rows(3) + 10, rows(3)))
    np.testing.assert_array_equal(ensemble.only(row=rows(3)), expected)


def _values(model: ir.Model) -> list[str | None]:
    return [value.name for node in model.graph.all_nodes() for value in node.outputs]


def test_an_output_that_an_unread_output_is_made_of_stays() -> None:
    tables = [
        {"p": np.asarray([[0.9, 0.1], [0.6, 0.4]], np.float32), "label": rows(2) + 10 * k}
        for k in range(2)
    ]
    text = "p = cascade(a, b, confidence=0.8).p; l = 2*b.label"
    found = Ensemble(text, a=table(tables[0]), b=table(tables[1]))(row=rows(2))
    np.testing.assert_array_equal(found["l"], 2 * tables[1]["label"])
    np.testing.assert_array_equal(found["p"], tables[0]["p"])
    text = "p = cascade(a, b, confidence=0.8).p; l = b.label"
    found = Ensemble(text, a=table(tables[0]), b=table(tables[1]))(row=rows(2))
    np.testing.assert_array_equal(found["l"], tables[1]["label"])


def test_twelve_stages() -> None:
    factors = np.arange(1, 13) / 4
    members = {f"m{index}": scaled(float(factor)) for index, factor in enumerate(factors)}
    ensemble = Ensemble(f"cascade({', '.join(members)}, confidence=0.9)", **members)
    x = np.linspace(-3, 3, 64, dtype=np.float32).reshape(32, 2) * np.asarray([1, -1], np.float32)
    expected = softmax(np.float32(factors[0]) * x)
    for factor in factors[1:]:
        later = softmax(np.float32(factor) * x)
        expected = np.where((expected.max(-1) < 0.9)[:, None], later, expected)
    np.testing.assert_allclose(ensemble.only(x=x), expected, rtol=1e-5)


BARE = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    m (float[N, 5] x) => (float[N, 5] y) { h = com.microsoft.SampleOp(x)  y = Softmax(h) }"""


def test_a_rank_that_nothing_tells_is_refused_by_the_names_of_member_and_output() -> None:
    member = text_model(BARE)
    member.graph.outputs[0].shape = None
    for text in ("cascade(m, m, confidence=0.9)", "vote(m, m, axis=1)"):
        with pytest.raises(GraphoptError, match="output 'y' of member 'm' declares no shape"):
            Ensemble(text, m=member)


def test_a_rank_that_follows_from_the_inputs_is_enough() -> None:
    member = text_model(BARE.replace("com.microsoft.SampleOp", "Tanh"))
    member.graph.outputs[0].shape = None
    x = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    found = Ensemble("cascade(m, softmax(m), confidence=0.3)", m=member).only(x=x)
    first = softmax(np.tanh(x))
    sure = first.max(-1, keepdims=True) >= 0.3
    np.testing.assert_allclose(found, np.where(sure, first, softmax(first)), rtol=1e-5)
