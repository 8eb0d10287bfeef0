from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest

from graphopt.errors import CheckFailed
from graphopt.runtime.session import Session

SMALLEST = {"int32": -(2**31), "int64": -(2**63)}


def model(
    op: str, dividend: int, divisor: int, kind: str = "int64", node: str = ""
) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g ({kind}[1] x) => ({kind}[1] y) '
        f"<{kind}[2] a = {{7, {dividend}}}, {kind}[1] b = {{{divisor}}}>"
        f"{{ {node} t = {op}(a, b) first = Constant<value_ints = [0]>() s = Gather(t, first)"
        " y = Add(s, x) }"
    )


@pytest.mark.parametrize("kind", ["int32", "int64"])
@pytest.mark.parametrize("op", ["Div", "Mod"])
def test_a_division_that_kills_is_refused(op: str, kind: str) -> None:
    """Without, this process dies here, of SIGFPE."""
    proto = model(op, SMALLEST[kind], -1, kind)
    with pytest.raises(CheckFailed, match=f"the {op} node .*divides the smallest integer by -1"):
        Session(ir.from_proto(proto))


def test_constant_nodes_count_too() -> None:
    proto = model("Div", SMALLEST["int64"], 1, node="b1 = Constant<value_int = -1>()")
    proto.graph.node[1].input[1] = "b1"
    with pytest.raises(CheckFailed, match="smallest integer"):
        Session(ir.from_proto(proto))


@pytest.mark.parametrize(("dividend", "divisor"), [(SMALLEST["int64"], 2), (-5, -1)])
def test_other_divisions_run(dividend: int, divisor: int) -> None:
    Session(ir.from_proto(model("Div", dividend, divisor)))


def test_validate_says_which_model(graphopt: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "deadly.onnx"
    onnx.save(model("Div", SMALLEST["int64"], -1), path)
    ran = graphopt("validate", path, path)
    assert ran.code == 1
    assert ran.err.startswith(f"graphopt: {path}: the Div node")
