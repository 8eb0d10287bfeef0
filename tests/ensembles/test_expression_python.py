"""Ensembles as Python's operators and functions make them: the same trees as text."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from graphopt.ensembles import checks, functions
from graphopt.ensembles.expression import (
    Applied,
    Cascade,
    Chain,
    Combine,
    Expression,
    Member,
    Output,
    Program,
    Soup,
    Sum,
    Vote,
)
from graphopt.ensembles.functions import (
    argmax,
    bag,
    boost,
    cascade,
    geometric_mean,
    log_softmax,
    mean,
    median,
    product,
    sigmoid,
    slerp,
    softmax,
    soup,
    stack,
    subset,
    task_vectors,
    tta,
    vote,
)
from graphopt.ensembles.text import parse, unparse
from graphopt.errors import GraphoptError

a, b, c = Member("a"), Member("b"), Member("c")


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (0.5 * a + 0.5 * (b >> c), "0.5*a + 0.5*(b >> c)"),
        (a + b - c, "a + b - c"),
        (a / 4 - 1, "a/4 - 1"),
        (1 - a, "1 - a"),
        (sum([a, b, c]), "a + b + c"),
        (-(a + b), "-(a + b)"),
        (a * b * 2, "a*b*2"),
        (a >> b + c, "a >> b + c"),
        (a >> b >> c, "a >> b >> c"),
        (a["y:0"] + b(x=a["y"]), "a['y:0'] + b(x=a.y)"),
        (b(**{"x:0": a}), "b(**{'x:0': a})"),
        (np.float32(0.5) * a, "0.5*a"),
        (a * np.float64(0.1) + np.int64(2), "0.1*a + 2"),
        (mean(a, b, weights=[1, 2]), "mean(a, b, weights=[1, 2])"),
        (mean(a, b, weights=np.array([1, 2])), "mean(a, b, weights=[1, 2])"),
        (geometric_mean(a, b), "geometric_mean(a, b)"),
        (median(a, b, c), "median(a, b, c)"),
        (functions.min(a, b), "min(a, b)"),
        (functions.max(a, b), "max(a, b)"),
        (product(a, b), "product(a, b)"),
        (vote(a, b, weights=(1, 2), ties="mean", axis=1),
         "vote(a, b, weights=[1, 2], ties='mean', axis=1)"),
        (argmax(softmax(a, axis=1)), "argmax(softmax(a, axis=1))"),
        (log_softmax(a) + sigmoid(b), "log_softmax(a) + sigmoid(b)"),
        (cascade(a, b, c, confidence=[0.9, 0.8], rule="margin", on="p"),
         "cascade(a, b, c, confidence=[0.9, 0.8], rule='margin', on='p')"),
        (cascade(a, b, c, confidence=1), "cascade(a, b, c, confidence=1)"),
        (stack(a, b, meta=c, passthrough=True), "stack(a, b, meta=c, passthrough=True)"),
        (stack(a, b), "stack(a, b)"),
        (tta(a, "flip", "vertical", input="x"), "tta(a, 'flip', 'vertical', input='x')"),
        (subset(a, [0, 3], input="x"), "subset(a, [0, 3], input='x')"),
        (subset(a, np.arange(2)), "subset(a, [0, 1])"),
        (bag(a, b, columns=[[0], [1, 2]], input="x"),
         "bag(a, b, columns=[[0], [1, 2]], input='x')"),
        (boost(a, b, rate=0.1, base=-1), "boost(a, b, rate=0.1, base=-1)"),
        (soup(a, b, weights=[1, 3]), "soup(a, b, weights=[1, 3])"),
        (task_vectors(a, b, c, weights=[0.5, 1]), "task_vectors(a, b, c, weights=[0.5, 1])"),
        (slerp(a, b, t=0.25), "slerp(a, b, t=0.25)"),
        (soup(soup(a, b), c), "soup(soup(a, b), c)"),
    ],
)  # fmt: skip
def test_python_makes_what_text_makes(made: Expression, text: str):
    assert parse(text) == Program(((None, made),))
    assert parse(unparse(made)) == Program(((None, made),))


def test_outputs_are_attributes_as_in_text():
    assert Program(((None, 0.5 * a.y + mean(b, c).label),)) == parse("0.5*a.y + mean(b, c).label")
    assert a.y(x=b.tolist) == parse("a.y(x=b.tolist)").statements[0][1]
    assert (a.name, (a + b).name) == ("a", Output(a + b, "name"))
    assert a.model is None
    assert copy.deepcopy(a.y) == a.y
    for name in ("_repr_html_", "__array__"):
        assert not hasattr(a, name)


def test_python_has_every_function_of_the_grammar():
    assert set(functions.BY_NAME) == set(checks.FUNCTIONS)
    for name in checks.FUNCTIONS:
        assert getattr(functions, name) is functions.BY_NAME[name]


def test_weights_are_kept_as_they_are():
    assert (0.3 * a + 0.3 * b).terms == ((0.3, a), (0.3, b))
    assert boost(a, b).terms == ((1.0, a), (1.0, b))


def test_expressions_can_be_pickled_and_are_hashable():
    made = 0.5 * a + mean(b >> c, weights=[2])
    assert pickle.loads(pickle.dumps(made)) == made
    assert len({made, 0.5 * a + mean(b >> c, weights=[2])}) == 1


@pytest.mark.parametrize("operand", ["a", None, [1], 1j])
def test_operators_take_expressions_and_numbers_only(operand: object):
    with pytest.raises(TypeError):
        a + operand
    with pytest.raises(TypeError):
        operand * a
    with pytest.raises(TypeError):
        a >> operand


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda: a / 0, "divided by 0"),
        (lambda: float("nan") * a, "not a finite number"),
        (lambda: 10**400 * a, "not a finite number"),
        (lambda: a + float("inf"), "not a finite number"),
        (lambda: a["x"][0], "name in quotes"),
        (a, "what feeds its inputs"),
        (lambda: b(x="a"), "x= is of members"),
        (mean, "at least one"),
        (lambda: mean(a, "b"), "not 'b'"),
        (lambda: mean(a, b, weights=[1]), "1 for 2 operands"),
        (lambda: mean(a, b, weights=[0, 0]), "sum to 0"),
        (lambda: mean(a, b, weights=c), "list of numbers"),
        (lambda: geometric_mean(a, b, weights=[float("nan"), 1]), "finite"),
        (lambda: soup(a, b, weights=[1, -1]), "sum to 0"),
        (lambda: vote(a, b, weights=[1, -1]), "less than none"),
        (lambda: vote(a, b, ties="random"), "ties is one of"),
        (lambda: vote(a, axis=True), "whole number"),
        (lambda: vote(a, axis=99), "no tensor has"),
        (lambda: cascade(a, confidence=0.5), "at least 2"),
        (lambda: cascade(a, b, confidence=-0.1), "from 0 to 1"),
        (lambda: cascade(a, b, confidence="0.5"), "list of numbers"),
        (lambda: cascade(a, b, confidence=0.5, rule="sure"), "rule is one of"),
        (lambda: cascade(a, b, confidence=0.5, on=0), "name in quotes"),
        (lambda: stack(a, b, meta="m"), "meta is of members"),
        (lambda: stack(a, b, passthrough=1), "True or False"),
        (lambda: tta(a), "at least one flip"),
        (lambda: tta(a, "flip", "flip"), "twice"),
        (lambda: subset(a, []), "name none"),
        (lambda: subset(a, [-1]), "from 0 on"),
        (lambda: subset(a, [True]), "from 0 on"),
        (lambda: bag(a, b, columns=[[0]]), "1 lists for 2"),
        (lambda: slerp(a, b, t=1.5), "from 0 to 1"),
        (lambda: soup(a + b), "whose weights it mixes"),
        (lambda: task_vectors(a), "at least 2"),
        (lambda: task_vectors(a, b, weights=[1, 1]), "2 for 1"),
        (lambda: Member("mean"), "this is a function"),
        (lambda: Member("a b"), "cannot be the name"),
        (lambda: Member("for"), "Python has this word"),
        (lambda: Member("é"), "cannot be the name"),
        (lambda: Member(""), "cannot be the name"),
        (lambda: Combine("median", (a,), (1.0,)), "no weights"),
        (lambda: Combine("mode", (a,)), "combination is one of"),
        (lambda: Vote(()), "at least one"),
        (lambda: Sum(()), "at least one"),
        (lambda: Cascade((a, b), (2.0,)), "from 0 to 1"),
        (lambda: Soup((a, b, c), None, "slerp"), "between two"),
        (lambda: Applied(a, ()), "what feeds its inputs"),
        (lambda: Output(a, ""), "name in quotes"),
        (lambda: Program(()), "empty"),
        (lambda: Program((("_x", a),)), "nothing is an output"),
        (lambda: Program((("max", a),)), "this is a function"),
        (lambda: Program((("x", Member("x")),)), "before it is assigned"),
        (lambda: Program((("x", Member("y")), ("y", a))), "before it is assigned"),
        (lambda: Program(((None, a), ("y", b))), "only output"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_where_it_is_made(make, cause: str):
    with pytest.raises(GraphoptError) as refused:
        make()
    assert cause in refused.value.cause


def test_trees_that_nest_too_deep_are_refused():
    tree: Expression = a
    for _ in range(150):
        tree = Chain(tree, b)
    with pytest.raises(GraphoptError, match="deeper than 100"):
        Program(((None, tree),))
    with pytest.raises(GraphoptError, match="deeper than 100"):
        unparse(tree)


def test_trees_that_double_themselves_are_refused():
    tree: Expression = a
    for _ in range(60):
        tree = product(tree, tree)
    with pytest.raises(GraphoptError, match="100,000 parts"):
        Program(((None, tree),))
