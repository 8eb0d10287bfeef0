from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.pipeline.contract import Context
from graphopt.runtime.feeds import Feeds
from graphopt.runtime.paired import Paired, Ratios
from graphopt.runtime.session import Session
from passes.merge.gain import Outlook, Scales, Verdict, choose, costs, outlook

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
WEIGHTS = "float[4,4] w = {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}"


def model(body, *, inputs="float[N,4] x", weights=WEIGHTS):
    return ir.from_onnx_text(f"{HEADER}g ({inputs}) => (float[N,4] y) <{weights}> {{ {body} }}")


TWO = "t = MatMul(x, w)\n y = MatMul(t, w)"
TWICE = "t = MatMul(x, w)\n u = MatMul(x, w)\n y = Add(t, u)"
ONE = "y = MatMul(x, w)"
OTHER = "t = Abs(x)\n y = Neg(t)"

WIDE = (*(0.5,) * 7, 1.1, *(2.0,) * 7)


def rounds(*ratios, work=None):
    """A clock that finds these ratios, setting after setting, without running anything twice."""
    left = list(ratios)

    def time(first, second, count):
        first()
        second()
        ratio = left.pop(0)
        ratio = ratio if isinstance(ratio, tuple) else (ratio,) * count
        return Paired(Ratios(ratio), None if work is None else Ratios((work,) * count))

    return time


def scales(*ratios, start=ONE, context=None, **options):
    return Scales(context or Context(), model(start), rounds=rounds(*ratios), **options)


def test_costs_of_a_product():
    found = costs(model(TWO), {"x[0]": 3})
    assert (found.nodes, found.macs, found.weight_bytes, found.tensor_bytes) == (2, 96, 64, 96)


def test_constants_cost_no_node_and_bodies_count():
    text = """c = Constant<value = bool {1}>()
    y = If(c) <then_branch = a () => (float[N,4] p) { p = Abs(x) },
               else_branch = b () => (float[N,4] q) { s = Neg(x) q = Abs(s) }>"""
    assert costs(model(text)).nodes == 4


def test_functions_are_counted_at_their_calls():
    text = """<ir_version: 8, opset_import: ["" : 17, "f" : 1]>
    g (float[N,4] x) => (float[N,4] y) { t = f.twice(x) y = f.twice(t) }
    <domain: "f", opset_import: ["" : 17]> twice (a) => (c) { b = Abs(a) c = Neg(b) }"""
    assert costs(ir.from_onnx_text(text)).nodes == 4


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (TWO, TWO, Outlook.HOPELESS),
        (ONE, TWO, Outlook.HOPELESS),
        (TWICE, TWO, Outlook.OBVIOUS),
        (TWO, ONE, Outlook.OBVIOUS),
        (TWO, OTHER, Outlook.DOUBTFUL),
    ],
)
def test_what_costs_alone_say(before, after, expected):
    assert outlook(costs(model(before)), costs(model(after))) is expected


def test_the_clock_is_not_asked_where_costs_are_clear():
    assert scales().weigh(model(TWO), model(ONE)).gains
    hopeless = scales().weigh(model(ONE), model(TWO))
    assert not hopeless.gains
    assert "nothing gets cheaper" in hopeless.why
    assert hopeless.details["nodes_before"] == 1
    assert hopeless.details["nodes_after"] == 2


def test_faster_in_one_setting_and_slower_in_none():
    verdict = scales(0.5, *[1.0] * 9).weigh(model(TWO), model(OTHER))
    assert verdict.gains
    assert verdict.details["ratio, batch 1"] == 0.5
    assert "0.50x" in verdict.why


def test_slower_in_one_setting_is_no_gain():
    verdict = scales(0.5, 1.2).weigh(model(TWO), model(OTHER))
    assert not verdict.gains
    assert verdict.why.startswith("slower or too uncertain on batch 32")
    assert "batch 1:" not in verdict.why


def test_equally_fast_is_no_gain_and_no_loss():
    verdict = scales(*[1.0] * 6).weigh(model(TWO), model(OTHER))
    assert not verdict.gains
    assert verdict.why.startswith("no faster")


def test_in_doubt_the_median_decides():
    noise = (0.5, 2.0, 1.1) * 5
    verdict = scales(0.5, *[noise] * 3).weigh(model(TWO), model(OTHER))
    assert verdict.why.startswith("slower or too uncertain on batch 32")


@pytest.mark.parametrize(("ratio", "gains"), [(1.2, False), (1.005, True), (WIDE, True)])
def test_with_spinning_threads_it_may_not_be_clearly_slower(ratio, gains):
    verdict = scales(0.5, 0.5, *[ratio] * 6).weigh(model(TWO), model(OTHER))
    assert verdict.gains is gains
    assert verdict.details["ratio, batch 1"] == 0.5
    assert verdict.details["ratio, batch 32 with spinning threads"] == np.median(ratio)
    assert verdict.why.startswith("takes of the time" if gains else "slower with spinning threads")


def test_what_spinning_threads_work_says_nothing():
    left = [(0.5, 0.5), (0.5, 0.5), (0.5, 3.0), (0.5, 3.0)]

    def time(first, second, count):
        latency, work = left.pop(0)
        return Paired(Ratios((latency,) * count), Ratios((work,) * count))

    assert Scales(Context(), model(ONE), rounds=time).weigh(model(TWO), model(OTHER)).gains


def test_a_model_is_started_once_for_all_that_is_weighed(monkeypatch):
    started = []

    class Counted(Session):
        def __init__(self, model, *args, **options):
            started.append((model, options["spinning"]))
            super().__init__(model, *args, **options)

    monkeypatch.setattr("passes.merge.gain.scales.Session", Counted)
    start, taken, left = model(TWO), model(OTHER), model(ONE)
    weighing = scales(*[0.5] * 4, *[2.0] * 2)
    assert weighing.weigh(start, taken).gains
    assert not weighing.weigh(taken, left).gains
    assert [how for _, how in started] == [False, False, "during runs", "during runs", False]
    assert [one for one, _ in started] == [start, taken, start, taken, left]


@pytest.mark.parametrize(("work", "gains"), [(None, False), (1.1, False), (1.0, True)])
def test_wide_doubt_is_no_equality_unless_the_work_says_so(work, gains):
    noise = (*WIDE[:7], 0.9, *WIDE[8:])
    ratios = (0.5, *[noise] * 3, 0.5, *[noise] * 3)
    weighing = Scales(Context(), model(ONE), rounds=rounds(*ratios, work=work))
    assert weighing.weigh(model(TWO), model(OTHER)).gains is gains


def test_work_has_a_veto():
    weighing = Scales(Context(), model(ONE), rounds=rounds(0.5, 0.5, work=1.5))
    assert not weighing.weigh(model(TWO), model(OTHER)).gains


def test_batches_come_from_the_data_and_sizes_from_the_caller():
    feeds = Feeds({"x": np.ones((5, 4), np.float32)})
    verdict = scales(*[0.5] * 4, context=Context(feeds=feeds), sizes=(1, 7)).weigh(
        model(TWO), model(OTHER)
    )
    assert [name for name in verdict.details if name.startswith("ratio, ")] == [
        "ratio, batch 1",
        "ratio, batch 7",
        "ratio, batch 1 with spinning threads",
        "ratio, batch 7 with spinning threads",
    ]


def test_what_does_not_load_does_not_gain():
    broken = model("t = Nothing(x)\n y = Neg(t)")
    verdict = scales(0.5, 0.5).weigh(model(TWO), broken)
    assert not verdict.gains
    assert "cannot be timed" in verdict.why


def test_inputs_that_cannot_be_made_up_are_told():
    text = HEADER + "g (seq(float[N,4]) x) => (float[N,4] y) { z = Constant<value_int = 0>()\n %s }"
    one = ir.from_onnx_text(text % "y = SequenceAt(x, z)")
    two = ir.from_onnx_text(text % "t = SequenceAt(x, z)\n y = Neg(t)")
    verdict = Scales(Context(), one).weigh(two, one)
    assert not verdict.gains
    assert "sequence" in verdict.why or "no element type" in verdict.why


class Judge:
    """Scales that know which sets of edits gain."""

    def __init__(self, *gaining):
        self.gaining = [frozenset(keys) for keys in gaining]
        self.asked = []

    def weigh(self, before, after):
        self.asked.append(frozenset(after - before))
        gains = self.asked[-1] in self.gaining
        return Verdict(gains, "told so")


def chosen(judge, groups):
    choice = choose(judge, frozenset(), groups, frozenset)
    assert choice.taken.keys() | choice.left.keys() == groups.keys()
    return set(choice.taken)


def test_all_at_once_where_that_gains():
    judge = Judge("abc")
    assert chosen(judge, {"a": 1, "b": 2, "c": 1}) == {"a", "b", "c"}
    assert len(judge.asked) == 1


def test_groups_on_their_own_where_it_does_not():
    assert chosen(Judge("ac"), {"a": 1, "b": 2, "c": 1}) == {"a", "c"}


def test_a_group_has_to_gain_behind_the_ones_before():
    judge = Judge("ac", "b", "d")
    assert chosen(judge, {"a": 1, "b": 2, "c": 1, "d": 3, "e": 4}) == {"a", "b", "c", "d"}
    assert judge.asked[1:] == [frozenset(keys) for keys in ("ac", "b", "d", "e")]


def test_one_group_is_not_asked_twice():
    judge = Judge()
    assert chosen(judge, {"a": 1, "b": 1}) == set()
    assert len(judge.asked) == 1


def test_nothing_to_choose_from():
    assert chosen(Judge(), {}) == set()
