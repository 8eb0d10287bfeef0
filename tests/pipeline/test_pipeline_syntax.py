from __future__ import annotations

import contextlib
import enum
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import DropIdentity, Scale, registry

from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Context, Declined, Effect, Pass, Rewrite
from graphopt.pipeline.registry import Registry
from graphopt.pipeline.syntax import MAX_PASSES, MAX_TEXT, PipelineError, parse, unparse


class Method(enum.Enum):
    MSE = "mse"
    MAX = "max"


@dataclass(frozen=True)
class Everything(Pass):
    """Takes a parameter of every kind."""

    name: ClassVar[str] = "everything"
    effect: ClassVar[Effect] = Effect.LOSSY

    flag: bool = False
    count: int = 0
    ratio: float = 0.5
    text: str = "*"
    maybe: float | None = None
    number: int | float = 1
    either: Literal["a", "b", 3] = "a"
    pair: tuple[int, str] = (1, "x")
    names: tuple[str, ...] = ()
    items: list[float] = field(default_factory=list)
    globs: Sequence[str] = ()
    table: Mapping[str, int] = field(default_factory=dict)
    method: Method = Method.MSE
    chosen: frozenset[int] = frozenset()
    path: PurePosixPath | None = None
    anything: Any = None

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        yield from ()


def read(text: str) -> tuple[Pass, ...]:
    return parse(text, Registry(classes=[Everything, Scale, DropIdentity]))


def test_reads_calls_and_bare_names_joined_by_bars() -> None:
    passes = parse(
        ' drop_identity | scale(factor=2, include=("a", "b")) |\n drop_identity()', registry()
    )
    assert passes == (DropIdentity(), Scale(factor=2.0, include=("a", "b")), DropIdentity())
    assert isinstance(passes[1], Scale)
    assert type(passes[1].factor) is float


def test_writes_only_what_differs_from_the_defaults() -> None:
    assert unparse([Scale(), Scale(factor=0.25, include=("conv*",))]) == (
        'scale | scale(factor=0.25, include=("conv*",))'
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flag=True", Everything(flag=True)),
        ("count=-3", Everything(count=-3)),
        ("ratio=1e-05", Everything(ratio=1e-5)),
        ("ratio=inf", Everything(ratio=math.inf)),
        ("ratio=-inf", Everything(ratio=-math.inf)),
        ("maybe=0.0", Everything(maybe=0.0)),
        ("number=2", Everything(number=2)),
        ("number=2.0", Everything(number=2.0)),
        ("either=3", Everything(either=3)),
        ('pair=(2, "y")', Everything(pair=(2, "y"))),
        ('names=("one",)', Everything(names=("one",))),
        ("items=[1.0, 2.5]", Everything(items=[1.0, 2.5])),
        ('globs=["a"]', Everything(globs=["a"])),
        ('table={"a": 1}', Everything(table={"a": 1})),
        ('method="max"', Everything(method=Method.MAX)),
        ("chosen=[1, 2, 10]", Everything(chosen=frozenset({10, 2, 1}))),
        ('path="a/b"', Everything(path=PurePosixPath("a/b"))),
        ('anything={"deep": [1, (2.5, None)]}', Everything(anything={"deep": [1, (2.5, None)]})),
        ("text='say \"hi\"'", Everything(text='say "hi"')),
        ('text="it\'s | not # over"', Everything(text="it's | not # over")),
        ('text="\\n\\t\\\\"', Everything(text="\n\t\\")),
        ('text="größe ✓"', Everything(text="größe ✓")),
    ],
)
def test_every_kind_of_parameter_reads_and_writes(text: str, expected: Everything) -> None:
    assert read(f"everything({text})") == (expected,)
    assert unparse([expected]) == f"everything({text})".replace(
        "chosen=[1, 2, 10]", "chosen=[1, 10, 2]"
    )
    assert read(unparse([expected])) == (expected,)


def test_numpy_scalars_are_written_as_numbers() -> None:
    made = Scale(factor=np.float32(0.5), cap=np.int64(3))  # type: ignore[arg-type] # callers do
    assert unparse([made]) == "scale(factor=0.5, cap=3)"


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
    ),
    max_leaves=8,
)


@given(anything=VALUES, ratio=st.floats(allow_nan=False), text=st.text(), names=st.lists(st.text()))
def test_any_pipeline_reads_back_to_itself(
    anything: object, ratio: float, text: str, names: list[str]
) -> None:
    passes = (
        Everything(anything=anything, ratio=ratio),
        Scale(include=tuple(names)),
        Everything(text=text),
    )
    again = read(unparse(passes))
    assert again == passes
    assert repr(again) == repr(passes)
    assert unparse(again) == unparse(passes)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(GraphoptError):
        read(text)


WRONG = [
    ("scal(factor=1)", 0, "no pass 'scal'", "did you mean 'scale'?"),
    ("drop_identity | scale(factr=1)", 22, "scale has no parameter 'factr'", "'factor'"),
    ("scale(zzz=1)", 6, "no parameter 'zzz'", "there is cap, factor, include, mode"),
    ("zzz", 0, "there is no pass 'zzz'", "there is drop_identity, everything, scale"),
    ('scale(factor="a")', 13, "parameter 'factor' is float, not \"a\"", ""),
    ("scale(factor=True)", 13, "is float, not True", ""),
    ("scale(cap=1.5)", 10, "is int or None, not 1.5", ""),
    ('scale(mode="alll")', 11, 'is "all" or "first", not "alll"', ""),
    ('scale(include=("a", 1))', 14, "is tuple of str", ""),
    ("everything(pair=(1,))", 16, "is tuple of int, str", ""),
    ('everything(table={"a": "b"})', 17, "is Mapping of str, int", ""),
    ('everything(method="min")', 18, 'is "mse" or "max"', ""),
    ("scale(0.5)", 6, "parameters are named", "write factor=0.5"),
    ("scale({})", 6, "parameters are named", "scale has factor, "),
    ("scale(**{})", 6, "** is not for pipelines", ""),
    ("scale(factor=x)", 13, "a parameter is a string, number", ""),
    ("scale(factor=__import__('os'))", 13, "a parameter is a string, number", ""),
    ("scale(factor=1 + 1)", 13, "a parameter is a string, number", ""),
    ('scale(factor=-"a")', 13, "a sign belongs before a number", ""),
    ("scale(cap=-1)", 0, "cap must not be negative, it is -1", "leave it out"),
    ("scale & scale", 8, "passes are joined by |", ""),
    ("os.system('x')", 0, "this is no pass", "is written like this"),
    ("scale(factor=1, factor=2)", 16, "parameter 'factor' is given twice", ""),
    ("scale # | drop_identity", 6, "no comments", ""),
    ("scale |", 7, "no pass behind the last |", ""),
    ("scale(", 5, "never closed", ""),
    ("  ", 0, "the pipeline is empty", ""),
    ("größe", 0, "there is no pass 'größe'", ""),
    ('scale(include=("größe",)) | sale', 28, "there is no pass 'sale'", "'scale'"),
    ("scale\n| sale", 8, "there is no pass 'sale'", "'scale'"),
]


@pytest.mark.parametrize(("text", "column", "cause", "fix"), WRONG)
def test_errors_point_at_the_column_and_name_the_nearest(
    text: str, column: int, cause: str, fix: str
) -> None:
    with pytest.raises(PipelineError) as caught:
        read(text)
    first, shown, caret = str(caught.value).split("\n")
    assert cause in first
    assert f"(column {column + 1})" in first or not text.strip()
    assert fix in first
    assert shown == "  " + text.replace("\n", " ")
    assert caret == "  " + " " * column + "^"


def test_a_long_line_is_shown_around_the_column() -> None:
    text = " | ".join(["drop_identity"] * 40) + " | drop_idendity"
    with pytest.raises(PipelineError) as caught:
        read(text)
    _, shown, caret = str(caught.value).split("\n")
    assert len(shown) < 80
    assert shown[caret.index("^") :].startswith("drop_idendity")


@pytest.mark.parametrize(
    "text",
    [
        "|".join(["scale"] * 9000),
        "scale(cap=" + "[" * 5000 + "]" * 5000 + ")",
        "scale(cap=" + "-" * 9000 + "1)",
        "(" * 9000,
        "s" * (MAX_TEXT + 1),
        "scale\0",
        "scale(factor='\ud800')",
    ],
    ids=["many", "nested", "signs", "open", "long", "nul", "surrogate"],
)
def test_hostile_text_is_refused(text: str) -> None:
    with pytest.raises(GraphoptError):
        read(text)


def test_passes_of_a_pipeline_are_limited() -> None:
    assert len(read("|".join(["scale"] * MAX_PASSES))) == MAX_PASSES
    with pytest.raises(PipelineError, match="more than 1,000 passes"):
        read("|".join(["scale"] * (MAX_PASSES + 1)))


def test_a_required_parameter_is_asked_for() -> None:
    @dataclass(frozen=True)
    class Needs(DropIdentity):
        name: ClassVar[str] = "needs"
        how: str

    with pytest.raises(PipelineError, match="needs needs the parameter 'how'"):
        parse("needs", Registry(classes=[Needs]))


def test_what_a_pass_says_of_its_parameters_is_passed_on() -> None:
    @dataclass(frozen=True)
    class Picky(DropIdentity):
        name: ClassVar[str] = "picky"
        size: int = 1

        def __post_init__(self) -> None:
            if self.size > 1:
                raise ValueError("size is at most 1")

    with pytest.raises(PipelineError, match="picky: size is at most 1"):
        parse("picky(size=2)", Registry(classes=[Picky]))


def test_a_value_that_text_cannot_hold_is_named() -> None:
    with pytest.raises(GraphoptError, match="everything: parameter 'anything' cannot be written"):
        unparse([Everything(anything=object())])
