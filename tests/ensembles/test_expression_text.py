"""Ensembles as text: read, written back, and refused where it points."""

from __future__ import annotations

import keyword

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ensembles import checks
from graphopt.ensembles.expression import (
    Activation,
    Applied,
    Cascade,
    Chain,
    Combine,
    Expression,
    Member,
    Output,
    Program,
    Soup,
    Stack,
    Subset,
    Sum,
    Tta,
    Vote,
)
from graphopt.ensembles.text import ExpressionError, parse, unparse
from graphopt.errors import GraphoptError

numbers = st.floats(allow_nan=False, allow_infinity=False)
shares = st.floats(0, 1)
words = st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True).filter(
    lambda word: not keyword.iskeyword(word) and word not in checks.FUNCTIONS
)
labels = st.text(min_size=1, max_size=6)
members = st.builds(Member, st.sampled_from("abcdef"))
axes = st.integers(-4, 4)


def _weighted(of: tuple[Expression, ...], weight: st.SearchStrategy[float]):
    return st.none() | st.tuples(*[weight] * len(of))


def _soups() -> st.SearchStrategy[Soup]:
    several = st.lists(members, min_size=2, max_size=4).map(tuple)
    shares_of = several.flatmap(
        lambda of: st.builds(Soup, st.just(of), _weighted(of, st.floats(0.1, 9)), st.just("mean"))
    )
    tasks = several.flatmap(
        lambda of: st.builds(Soup, st.just(of), _weighted(of[1:], numbers), st.just("task"))
    )
    slerps = st.builds(
        Soup, st.tuples(members, members), st.none() | st.tuples(shares), st.just("slerp")
    )
    return shares_of | tasks | slerps


def _larger(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    several = st.lists(inner, min_size=1, max_size=3).map(tuple)
    stages = st.lists(inner, min_size=2, max_size=4).map(tuple)
    bindings = st.dictionaries(words | labels, inner, min_size=1, max_size=2)
    return st.one_of(
        st.builds(Output, inner, words | labels),
        st.builds(Applied, inner, bindings.map(lambda found: tuple(found.items()))),
        st.builds(Chain, inner, inner),
        st.builds(
            Sum, st.lists(st.tuples(numbers, inner), min_size=1, max_size=3).map(tuple), numbers
        ),
        st.builds(Combine, st.sampled_from(["median", "min", "max", "product"]), several),
        several.flatmap(
            lambda of: st.builds(
                Combine,
                st.sampled_from(["mean", "geometric_mean"]),
                st.just(of),
                _weighted(of, st.floats(0.1, 9)),
            )
        ),
        several.flatmap(
            lambda of: st.builds(
                Vote,
                st.just(of),
                _weighted(of, st.floats(0.1, 9)),
                st.sampled_from(checks.TIES),
                axes,
            )
        ),
        st.builds(Activation, st.sampled_from(["softmax", "log_softmax", "argmax"]), inner, axes),
        st.builds(Activation, st.just("sigmoid"), inner),
        stages.flatmap(
            lambda of: st.builds(
                Cascade,
                st.just(of),
                st.tuples(*[shares] * (len(of) - 1)),
                st.sampled_from(checks.RULES),
                st.none() | labels,
            )
        ),
        st.builds(Stack, several, st.none() | inner, st.booleans()),
        st.builds(
            Tta,
            inner,
            st.lists(st.sampled_from(checks.FLIPS), min_size=1, unique=True).map(tuple),
            st.none() | labels,
        ),
        st.builds(
            Subset,
            inner,
            st.lists(st.integers(0, 99), min_size=1, max_size=4).map(tuple),
            st.none() | labels,
        ),
    )


expressions = st.recursive(members | _soups(), _larger, max_leaves=12)
outputs = st.sampled_from(["y", "label", "_hidden", "scores"])
programs = st.builds(lambda of: Program(((None, of),)), expressions) | st.dictionaries(
    outputs, expressions, min_size=1
).filter(lambda found: set(found) != {"_hidden"}).map(lambda found: Program(tuple(found.items())))


@given(programs)
@settings(max_examples=200)
def test_text_reads_back_to_the_same_tree(program: Program):
    assert parse(unparse(program)) == program


@given(st.text(max_size=60))
@settings(max_examples=200)
def test_any_text_is_read_or_refused_in_words(text: str):
    try:
        program = parse(text)
    except GraphoptError:
        return
    assert parse(unparse(program)) == program


@given(st.text(alphabet="ab()[]{}'\",.;:=+-*/>01e_ \n#\\", max_size=40))
@settings(max_examples=400)
def test_text_of_the_grammars_letters_is_read_or_refused(text: str):
    try:
        program = parse(text)
    except GraphoptError:
        return
    assert parse(unparse(program)) == program


A, B, C = Member("a"), Member("b"), Member("c")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.5*a + 0.3*b - c/4 + 1", Sum(((0.5, A), (0.3, B), (-0.25, C)), 1.0)),
        ("0.3*a + 0.3*b", Sum(((0.3, A), (0.3, B)))),
        ("2 * (a + b)", Sum(((2.0, Sum(((1.0, A), (1.0, B)))),))),
        ("(1/4 + 1/4) * a", Sum(((0.5, A),))),
        ("-a", Sum(((-1.0, A),))),
        ("1 - a", Sum(((-1.0, A),), 1.0)),
        ("a * b", Combine("product", (A, B))),
        ("a >> b + c", Chain(A, Sum(((1.0, B), (1.0, C))))),
        ("a >> b >> c", Chain(Chain(A, B), C)),
        ("a >> (b >> c)", Chain(A, Chain(B, C))),
        ("a.x + a['y:0']", Sum(((1.0, Output(A, "x")), (1.0, Output(A, "y:0"))))),
        ("b(x=a.y)", Applied(B, (("x", Output(A, "y")),))),
        ('b(**{"x:0": a})', Applied(B, (("x:0", A),))),
        ("bag(a, b, columns=[[0, 1], (1, 2)])", Combine(
            "mean", (Subset(A, (0, 1)), Subset(B, (1, 2))))),
        ("boost(a, b, c, rate=0.1, base=0.5)", Sum(((0.1, A), (0.1, B), (0.1, C)), 0.5)),
        ("cascade(a, b, c, confidence=0.9)", Cascade((A, B, C), (0.9, 0.9))),
        ("stack(a, b, meta=c)", Stack((A, B), C)),
        ("tta(a, 'flip', 'both', input='x')", Tta(A, ("flip", "both"), "x")),
        ("slerp(a, b)", Soup((A, B), (0.5,), "slerp")),
        ("task_vectors(a, b, weights=[0.3])", Soup((A, B), (0.3,), "task")),
        ("vote(a, b, weights=[1, 2], ties='first')", Vote((A, B), (1.0, 2.0), "first")),
    ],
)  # fmt: skip
def test_text_means_what_python_would_make_of_it(text: str, expected: Expression):
    assert parse(text) == Program(((None, expected),))


def test_statements_are_lines_or_stand_between_semicolons():
    expected = Program((("_p", Sum(((1.0, A), (1.0, B)))), ("y", Output(Member("_p"), "z"))))
    assert parse("_p = a + b; y = _p.z") == expected
    assert parse("\n  _p = a + b\n\n    y = _p.z\n") == expected
    assert parse("_p = (a\n + b)\r\ny = _p.z;") == expected
    assert parse("_p = a + b; _p").outputs == ((None, Member("_p")),)


def test_parts_know_their_column():
    first, second = parse("x = a +\\\n b; y = c").statements
    assert [part.column for part in first[1].walk()] == [5, 5, 11]
    assert second[1].column == 18


@pytest.mark.parametrize(
    ("text", "cause", "column"),
    [
        ("a < b", "a comparison is not for ensembles", 1),
        ("a if b else c", "a conditional expression is not", 1),
        ("mean(a, lambda: b)", "a lambda is not", 9),
        ("a and b", "and/or is not", 1),
        ("a + * b", "invalid syntax", 5),
        ("~a", "~ is not", 1),
        ("a ** b", "** is not", 6),
        ("a @ b", "@ is not", 5),
        ("a | b", "| (pipelines stand behind -p) is not", 5),
        ("f'{a}'", "an f-string is not", 1),
        ("[x for x in a]", "a comprehension is not", 1),
        ("(y := a)", ":= is not", 2),
        ("import os", "import is not", 1),
        ("x += a", "an assignment such as += is not", 1),
        ("for x in a: x", "for is not", 1),
        ("a = b = c", "one name", 1),
        ("a[0]", "this picks no output", 1),
        ("a + b  # sum", "no comments", 8),
        ("mean(a, 0.5)", "a number stands where", 9),
        ("mean(*a)", "* is not for ensembles", 6),
        ("mean(a, weights=b)", "an expression stands where a number", 17),
        ("men(a, b)", "there is no function 'men'", 1),
        ("0.5*a + vote(a, b, tie='first')", "vote has no parameter 'tie'", 20),
        ("vote(a, b, ties='frist')", "ties is one of lowest, first, mean", 1),
        ("mean(a, b, weights=[1])", "weights: 1 for 2 operands", 1),
        ("mean(a, b, weights=[1, -1])", "weights sum to 0", 1),
        ("vote(a, b, weights=[0, 0])", "nobody has a vote", 1),
        ("vote(a, b, weights=[1, -1])", "less than none", 1),
        ("mean()", "at least one member or expression", 1),
        ("cascade(a, b)", "missing a required argument: 'confidence'", 1),
        ("cascade(a, b, confidence=1.01)", "must be from 0 to 1", 1),
        ("cascade(a, b, confidence=[0.5, 0.5])", "2 for 2 stages", 1),
        ("cascade(a, confidence=0.5)", "at least 2", 1),
        ("subset(a, [])", "name none", 1),
        ("subset(a, [0.5])", "whole numbers", 1),
        ("tta(a)", "at least one flip", 1),
        ("tta(a, 'flop')", "a flip is one of", 1),
        ("soup(a >> b)", "soup is of members", 1),
        ("slerp(a, b, t=2)", "from 0 to 1", 1),
        ("softmax(a, axis=10**2)", "** is not", 21),
        ("a / 0", "divided by 0", 5),
        ("a / b", "only numbers can be divided by", 5),
        ("1e999 * a", "not a finite number", 1),
        ("1j * a", "a complex number is not", 1),
        ("True * a", "True stands where", 1),
        ("'a' + b", "'a' stands where", 1),
        ("a >> 2", "a number stands where", 6),
        ("0.5", "a number stands where", 1),
        ("mean", "mean is a function", 1),
        ("max = a", "cannot be called 'max'", 1),
        ("b()", "says what feeds its inputs", 1),
        ("b(x=a, x=c)", "fed twice", 8),
        ("a.x = b", "one name", 1),
        ("é + a", "other characters", 1),
        ("ﬁ + a", "other characters", 1),
        ("a; b", "the only output", 4),
        ("_x = a", "nothing is an output", 1),
        ("y = a; y = b", "'y' is assigned twice", 8),
        ("a = a", "used before it is assigned", 1),
        ("a\0b", "a null character", 2),
        ("(a", "was never closed", 1),
    ],
)  # fmt: skip
def test_a_refusal_points_at_its_column(text: str, cause: str, column: int):
    with pytest.raises(ExpressionError) as refused:
        parse(text)
    assert cause in refused.value.cause
    assert f"(column {column})" in refused.value.cause
    shown, caret = str(refused.value).split("\n")[-2:]
    assert caret.index("^") - 2 == column - 1
    assert shown.strip() == text.replace("\0", " ").strip()


@pytest.mark.parametrize(
    ("text", "offer"),
    [
        ("men(a, b)", "did you mean 'mean'?"),
        ("cascade(a, b, confidense=0.5)", "did you mean 'confidence'?"),
        ("cascade(a, b, confidence=0.5, rule='entropie')", "did you mean 'entropy'?"),
        ("soft_max(a)", "did you mean 'softmax'?"),
        ("a << b", "a >> b"),
        ("'a'", "without quotes"),
    ],
)
def test_a_refusal_offers_the_nearest(text: str, offer: str):
    with pytest.raises(ExpressionError) as refused:
        parse(text)
    assert offer in (refused.value.fix or "")


def test_a_refusal_shows_its_line():
    with pytest.raises(ExpressionError) as refused:
        parse("x = a\n   y = men(a)\nz = b")
    assert "(line 2, column 8)" in refused.value.cause
    assert str(refused.value).endswith("\n     y = men(a)\n         ^")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n ",
        "a" * (1 << 20),
        "9" * 5000 + " * a",
        "9" * 400 + " * a",
        "(" * 30000 + "a" + ")" * 30000,
        "-" * 60000 + "a",
        "*".join(["a"] * 30000),
        ">>".join(["a"] * 20000),
        ".x" * 2000,
        "a" + ".x" * 30000,
        "a" + "(x=a" * 5000 + ")" * 5000,
        "a" * 60000,
        "mean(" * 95 + "a" + ")" * 95 + "<" + "a" * 60000,
        "\ud800 + a",
        "a\u202e + b\u2066",
        "\x0c\x0b\x1c",
        "a" + "\\\n" * 20000,
        "weights=[" * 5000,
        "; ".join([f"x{i} = a" for i in range(1)] + ["é = a"]),
    ],
)  # fmt: skip
def test_hostile_text_is_refused_in_one_short_line(text: str):
    with pytest.raises(GraphoptError) as refused:
        parse(text)
    assert "\n" not in refused.value.args[0]
    assert len(str(refused.value)) < 600


def test_names_cannot_double_themselves_out_of_bounds():
    doubled = [f"_x{i + 1} = mean(_x{i}, _x{i})" for i in range(40)]
    with pytest.raises(GraphoptError, match="100,000 parts"):
        parse("; ".join(["_x0 = a", *doubled, "y = _x40"]))


def test_a_long_sum_is_read_without_nesting():
    program = parse(" + ".join(f"0.5*m{i}" for i in range(900)))
    assert len(program.statements[0][1].children) == 900
    assert parse(unparse(program)) == program
