from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
import pytest
from toys import Boom, DropIdentity, Scale, chain

from graphopt.errors import GraphoptError
from graphopt.pipeline.bisect import Culprit, bisect
from graphopt.pipeline.contract import Context, Declined, Effect, Pass, Rewrite
from graphopt.pipeline.instrument import Instrument
from graphopt.pipeline.instruments import Checker, Compare
from graphopt.pipeline.manager import PassFailed, run
from graphopt.pipeline.surroundings import surroundings


def checks() -> Sequence[Instrument]:
    return [Checker(), Compare()]


@dataclass(frozen=True)
class Sabotage(Pass):
    """Adds 0 to the bias a number of times, and 1 once in between."""

    name: ClassVar[str] = "sabotage"
    effect: ClassVar[Effect] = Effect.EXACT

    steps: int = 50
    bad: int = 31
    raises: bool = False

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        for number in range(1, self.steps + 1):

            def apply(number: int = number) -> None:
                if self.raises and number == self.bad:
                    raise RuntimeError("here")
                bias = model.graph.initializers["b"]
                assert bias.const_value is not None
                moved = bias.const_value.numpy() + (number == self.bad)
                bias.const_value = ir.tensor(moved.astype("float32"), name="b")

            yield Rewrite(f"b{number}", f"step {number}", apply)


def found(passes: Sequence[Pass]) -> Culprit:
    culprit = bisect(chain(), passes, checks)
    assert culprit is not None
    return culprit


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("bad", [1, 2, 31, 49, 50])
def test_the_first_bad_rewrite_is_found_in_few_runs(bad: int, raises: bool) -> None:
    culprit = found([DropIdentity(), Sabotage(bad=bad, raises=raises), Scale()])
    assert culprit.number == 2 + bad
    assert culprit.pass_text.startswith(f"sabotage(bad={bad}" if bad != 31 else "sabotage")
    assert culprit.note is not None
    assert (culprit.note.at, culprit.note.why) == (f"b{bad}", f"step {bad}")
    if raises:
        assert culprit.after is None
        assert culprit.problem == "RuntimeError: here"
    else:
        assert culprit.after is not None
        assert surroundings(culprit.before, culprit.after).endswith("changed weights: b")
    assert culprit.runs <= 8


def test_what_it_finds_is_where_a_run_turns() -> None:
    passes = [DropIdentity(), Sabotage(bad=7)]
    number = found(passes).number
    run(chain(), passes, instruments=checks(), limit=number - 1)
    with pytest.raises(PassFailed):
        run(chain(), passes, instruments=checks(), limit=number)


def test_nothing_is_found_where_nothing_breaks() -> None:
    assert bisect(chain(), [DropIdentity(), Scale(factor=2.0)], checks) is None


def test_a_pass_that_fails_before_its_first_rewrite_has_no_rewrite() -> None:
    culprit = found([DropIdentity(), Boom(after=0)])
    assert (culprit.number, culprit.note, culprit.after) == (0, None, None)
    assert culprit.problem == "RuntimeError: out of luck"


def test_a_model_that_is_bad_before_is_told() -> None:
    model = chain()
    model.graph.node("fifth").op_type = "Rleu"
    with pytest.raises(GraphoptError, match="before any pass"):
        bisect(model, [DropIdentity()], checks)


def test_surroundings_show_what_went_and_what_came_with_neighbours() -> None:
    model = chain()
    after = run(model, [DropIdentity()], limit=1).model
    assert surroundings(model, after).splitlines() == [
        "before:",
        "    [first] h0 = Mul (x, w)",
        "  - [second] h1 = Identity (h0)",
        "  - [third] h2 = Add (h1, b)",
        "    [fourth] h3 = Identity (h2)",
        "after:",
        "    [first] h0 = Mul (x, w)",
        "  + [third] h2 = Add (h0, b)",
        "    [fourth] h3 = Identity (h2)",
    ]
    assert surroundings(model, model) == ""


def test_surroundings_inside_a_body_name_it_and_leave_big_tensors_out() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    main (bool c, float[2] x) => (float[2] y) {
        [branch] y = If (c) <
            then_branch = yes () => (float[2] t) {
                [big] k = Constant <value = float[20] {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}> ()
                [sum] s = ReduceSum (k)
                [inner] t = Add (x, s)
            },
            else_branch = no () => (float[2] e) { e = Abs(x) }
        >
    }
    """
    before, after = ir.from_onnx_text(text), ir.from_onnx_text(text)
    body = after.graph[0].attributes["then_branch"].as_graph()
    body.node("sum").op_type = "ReduceMax"
    shown = surroundings(before, after)
    assert "  in branch/then_branch:" in shown
    assert "  - [sum] s = ReduceSum (k)" in shown
    assert "  + [sum] s = ReduceMax (k)" in shown
    assert "    [inner] t = Add (x, s)" in shown
    assert 'Constant <value: string = "<FLOAT[20]>"> ()' in shown.replace(
        "value =", "value: string ="
    )
