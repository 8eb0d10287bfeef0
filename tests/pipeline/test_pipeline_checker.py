from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from edit_passes import Edit
from toys import DropIdentity, chain

from graphopt.errors import CheckFailed
from graphopt.pipeline.instruments import (
    Checker,
)
from graphopt.pipeline.instruments.checker import check_problem
from graphopt.pipeline.manager import PassFailed, run


def wrong_attribute(model: ir.Model) -> None:
    model.graph.node("fifth").attributes["bogus"] = ir.AttrInt64("bogus", 1)


def wrong_type(model: ir.Model) -> None:
    model.graph.initializers["b"].const_value = ir.tensor(np.ones(4, np.int64), name="b")
    model.graph.initializers["b"].dtype = ir.DataType.INT64


def wrong_operator(model: ir.Model) -> None:
    model.graph.node("fifth").op_type = "Rleu"


@pytest.mark.parametrize("edit", [wrong_attribute, wrong_type, wrong_operator])
def test_the_checker_fails_a_pass_that_leaves_an_invalid_model(edit: Any) -> None:
    with pytest.raises(PassFailed, match=r"edit\(.*\) failed.*onnx.checker refuses the result"):
        run(chain(), [Edit(edit)], instruments=[Checker()])


def test_the_checker_looks_into_bodies_and_functions() -> None:
    model = ir.from_onnx_text(
        """
        <ir_version: 8, opset_import: ["": 17, "own": 1]>
        main (bool c, float[2] x) => (float[2] y) {
            y = If (c) <
                then_branch = yes () => (float[2] t) { t = own.Twice(x) },
                else_branch = no () => (float[2] e) { [inner] e = Abs(x) }
            >
        }
        <domain: "own", opset_import: ["": 17]>
        Twice (v) => (w) { w = Add(v, v) }
        """
    )
    assert check_problem(model, full=True) is None
    twin = model.clone()
    twin.graph[0].attributes["else_branch"].as_graph()[0].op_type = "Sba"
    assert "Sba" in str(check_problem(twin, full=False))
    twin = model.clone()
    next(iter(twin.functions.values()))[0].op_type = "Dad"
    assert "Dad" in str(check_problem(twin, full=False))


def test_the_checker_tolerates_contrib_operators() -> None:
    model = ir.from_onnx_text(
        """
        <ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
        main (float[2] x) => (float[2] y) { y = com.microsoft.FastGelu(x) }
        """
    )
    assert check_problem(model, full=True) is None


def test_the_checker_takes_models_above_2_gb_and_reads_no_weight() -> None:
    def never() -> ir.TensorProtocol:
        raise AssertionError("the checker read a weight")

    model = chain()
    big = ir.LazyTensor(never, ir.DataType.FLOAT, ir.Shape([1 << 10, 1 << 20]), name="big")
    value = ir.Value(name="big", shape=ir.Shape([1 << 10, 1 << 20]), const_value=big)
    value.dtype = ir.DataType.FLOAT
    model.graph.register_initializer(value)
    assert big.nbytes == 4 << 30
    assert check_problem(model, full=True) is None


def test_a_model_that_fails_the_checker_before_is_not_the_passs_fault() -> None:
    model = chain()
    wrong_operator(model)
    with pytest.raises(CheckFailed, match=r"before any pass.*--no-verify") as caught:
        run(model, [DropIdentity()], instruments=[Checker()])
    assert not isinstance(caught.value, PassFailed)


def test_a_model_that_only_fails_inference_is_held_to_the_rest() -> None:
    model = chain()
    model.graph.outputs[0].dtype = ir.DataType.DOUBLE
    assert check_problem(model, full=True) is not None
    run(model, [DropIdentity()], instruments=[Checker()])
    with pytest.raises(PassFailed):
        run(model, [Edit(wrong_operator)], instruments=[Checker()])
