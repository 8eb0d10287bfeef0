from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from scripted_passes import Scripted, content
from toys import Boom, DropIdentity, Scale, chain, ops

from graphopt.errors import CheckFailed, GraphoptError
from graphopt.pipeline.contract import Context, Declined, Rewrite
from graphopt.pipeline.instrument import Instrument, Step
from graphopt.pipeline.manager import PassFailed, run


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(GraphoptError, match="negative"):
        run(chain(), [], limit=-1)


@pytest.mark.parametrize("limit", [1, None])
def test_the_generator_is_closed_also_when_something_fails(limit: int | None) -> None:
    closed = []

    def script(model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        def apply() -> None:
            if limit is None:
                raise RuntimeError("no")

        try:
            yield Rewrite("first", "why not", apply)
            yield Rewrite("first", "again", apply)
        finally:
            closed.append(True)

    try:
        run(chain(), [Scripted(script)], limit=limit)
    except PassFailed:
        assert limit is None
    assert closed == [True]


def test_a_failing_pass_is_named_and_rolled_back(tmp_path: Path) -> None:
    model = chain()
    before = content(model)
    with pytest.raises(PassFailed) as caught:
        run(model, [DropIdentity(), Boom(after=2, words="kaput")], reproducers=tmp_path)
    error = caught.value
    assert 'boom(after=2, words="kaput") failed, after drop_identity: RuntimeError: kaput' in str(
        error
    )
    assert "\n" not in str(error)
    assert error.exit_code == 1
    assert (error.rewrites_before, len(error.rewrites)) == (2, 2)
    assert content(model) == before
    # The model before the failing pass: everything the pass edited is as it was.
    assert content(error.before) == content(run(chain(), [DropIdentity()]).model)


def test_a_pass_that_refuses_is_named_with_the_fix_and_leaves_no_folder(tmp_path: Path) -> None:
    def script(model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        raise GraphoptError("it needs samples", fix="give --data")
        yield

    with pytest.raises(PassFailed) as caught:
        run(chain(), [Scripted(script)], reproducers=tmp_path)
    assert caught.value.exit_code == 2
    assert "as the first pass: it needs samples; give --data" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (lambda model, context: iter([3]), "yielded 3, which is no Rewrite, Declined or Finding"),
        (lambda model, context: 3, "TypeError"),
    ],
)
def test_a_pass_that_breaks_the_contract_is_named(script: Any, said: str) -> None:
    with pytest.raises(PassFailed, match=said):
        run(chain(), [Scripted(script)])


def edit_name(model: ir.Model) -> None:
    model.graph.node(0).name = "renamed"


def edit_weight(model: ir.Model) -> None:
    model.graph.initializers["w"].const_value = ir.tensor([0.0, 0.0, 0.0, 0.0])


def edit_attribute(model: ir.Model) -> None:
    model.graph.node(0).attributes["alpha"] = ir.AttrFloat32("alpha", 1.0)


def edit_metadata(model: ir.Model) -> None:
    model.metadata_props["a"] = "b"


def edit_output(model: ir.Model) -> None:
    model.graph.outputs[0].dtype = ir.DataType.DOUBLE


@pytest.mark.parametrize(
    "edit", [edit_name, edit_weight, edit_attribute, edit_metadata, edit_output]
)
def test_an_edit_outside_of_a_rewrite_is_found_and_undone(edit: Any) -> None:
    def script(model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        edit(model)
        yield Declined("everything", "nothing to do")

    model = chain()
    before = content(model)
    with pytest.raises(PassFailed, match="edited the model without yielding a rewrite"):
        run(model, [Scripted(script)])
    assert content(model) == before


def test_an_instrument_that_fails_names_the_pass_it_looked_at() -> None:
    class No(Instrument):
        def after(self, step: Step) -> None:
            if step.work.name == "scale":
                raise CheckFailed("no good")

    with pytest.raises(PassFailed, match="scale failed, after drop_identity: no good"):
        run(chain(), [DropIdentity(), Scale()], instruments=[No()])


def test_nodes_out_of_order_are_put_in_order_and_others_stay() -> None:
    def script(model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        def apply() -> None:
            first = model.graph.node("first")
            model.graph.remove(first)
            model.graph.append(first)

        yield Rewrite("first", "to confuse", apply)

    result = run(chain(), [Scripted(script)])
    assert [node.name for node in result.model.graph] == [
        "first",
        "second",
        "third",
        "fourth",
        "fifth",
    ]


def test_a_model_that_comes_out_of_order_is_accepted() -> None:
    model = chain()
    last = model.graph.node("fifth")
    model.graph.remove(last)
    model.graph.insert_before(model.graph.node("first"), last)
    assert ops(run(model, [DropIdentity()]).model) == ["Mul", "Add", "Relu"]


def make_cycle(model: ir.Model) -> None:
    model.graph.node("first").replace_input_with(0, model.graph.node("third").outputs[0])


def leave_dangling(model: ir.Model) -> None:
    model.graph.remove(model.graph.node("third"))


def lose_weight(model: ir.Model) -> None:
    del model.graph.initializers["w"]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (make_cycle, "has a cycle"),
        (leave_dangling, "node 'fourth' reads 'h2', which only a removed node provides"),
        (lose_weight, "node 'first' reads 'w', which nothing provides"),
    ],
)
def test_a_graph_that_no_order_makes_right_is_the_passs_failure(edit: Any, said: str) -> None:
    def script(model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        yield Rewrite("first", "to break it", lambda: edit(model))

    with pytest.raises(PassFailed, match=said):
        run(chain(), [Scripted(script)])


def test_a_model_that_is_broken_before_is_not_a_passs_failure() -> None:
    model = chain()
    make_cycle(model)
    with pytest.raises(GraphoptError, match="broken before any pass: chain has a cycle") as caught:
        run(model, [DropIdentity()])
    assert not isinstance(caught.value, PassFailed)
