"""Functions of members in one model: equal ones once, clashing ones renamed, circles refused."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from composing import CALLS, calls, composed, linear, rows, run, text

from graphopt.ensembles.compose.functions import Functions
from graphopt.errors import GraphoptError


def test_the_domain_of_onnx_spelled_out() -> None:
    spelled = onnx.parser.parse_model(
        CALLS.format(inner="Exp", name="n", version=1).replace('"" : 18', '"ai.onnx" : 18')
    )
    ensemble = composed({"a": ir.from_proto(spelled), "b": linear(20), "c": calls("Exp")})
    assert ensemble.opset_imports[""] == 20
    assert "ai.onnx" not in ensemble.opset_imports
    assert len(ensemble.functions) == 2
    expected = run(calls("Exp"), {"x": rows(2)})["y"]
    np.testing.assert_array_equal(run(ensemble, {"x": rows(2)})["a.y"], expected)


def test_equal_functions_are_shared_and_unused_ones_go() -> None:
    ensemble = composed({"a": calls("Exp"), "b": calls("Exp", name="other")})
    assert sorted(name for _, name, _ in ensemble.functions) == ["Inner", "Outer"]


def test_functions_that_clash_are_renamed_with_their_callers() -> None:
    members = {"a": calls("Exp"), "b": calls("Sin", version=2), "c": calls("Exp")}

    ensemble = composed(members)

    assert sorted(name for _, name, _ in ensemble.functions) == [
        *("Inner", "Inner_b", "Outer", "Outer_b")
    ]
    for name, member in members.items():
        np.testing.assert_array_equal(
            run(ensemble, {"x": rows(3)})[f"{name}.y"], run(member, {"x": rows(3)})["y"]
        )


def test_a_function_does_not_take_the_place_of_an_operator_of_the_runtime() -> None:
    call = (
        '<ir_version: 10, opset_import: ["" : 18, "com.microsoft" : 1]>'
        " g (float[N, 3] x) => (float[N, 3] y) { y = com.microsoft.Gelu (x) }"
    )
    own = (
        call + '<domain: "com.microsoft", opset_import: ["" : 18]> Gelu (x) => (y) { y = Neg (x) }'
    )
    members = {"own": text(own), "runtime": text(call)}

    together = run(composed(members), {"x": rows(3)})

    np.testing.assert_array_equal(together["own.y"], -rows(3))
    assert not np.array_equal(together["runtime.y"], -rows(3))


def test_overloads_are_functions_of_their_own() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18, "local" : 1]>'
        " g (float[N, 3] x) => (float[N, 3] y, float[N, 3] z)"
        "{ y = local.F (x) z = local.F (x) }"
        '<domain: "local", opset_import: ["" : 18]> F (x) => (y) { y = Neg (x) }'
        '<domain: "local", opset_import: ["" : 18]> F (x) => (y) { y = Abs (x) }'
    )
    proto.functions[1].overload = proto.graph.node[1].overload = "second"
    member = ir.from_proto(proto)

    together = run(composed({"a": member, "b": calls("Exp")}), {"x": rows(3)})

    np.testing.assert_array_equal(together["a.y"], -rows(3))
    np.testing.assert_array_equal(together["a.z"], np.abs(rows(3)))


def test_functions_that_differ_in_a_constant_or_an_attribute_are_not_equal() -> None:
    source = (
        '<ir_version: 10, opset_import: ["" : 18, "local" : 1]>'
        " g (float[N, 3] x) => (float[N, 3] y) {{ y = local.F (x) }}"
        '<domain: "local", opset_import: ["" : 18]>'
        " F (x) => (y) {{ c = Constant <value = float {{{number}}}> () y = Mul (x, c) }}"
    )
    members = {name: text(source.format(number=i + 2)) for i, name in enumerate("ab")}
    together = run(composed(members), {"x": rows(2)})
    np.testing.assert_array_equal(together["a.y"], rows(2) * 2)
    np.testing.assert_array_equal(together["b.y"], rows(2) * 3)


CIRCLE = """
<ir_version: 10, opset_import: ["" : 18, "local" : 1]>
g (float[N, 3] x) => (float[N, 3] y) { y = local.Entry (x) }
<domain: "local", opset_import: ["" : 18, "local" : 1]>
Entry (x) => (y) { y = local.Odd (x) }
<domain: "local", opset_import: ["" : 18, "local" : 1]>
Odd (x) => (y) { t = local.Even (x) y = local.Leaf (t) }
<domain: "local", opset_import: ["" : 18, "local" : 1]>
Even (x) => (y) { y = local.Odd (x) }
<domain: "local", opset_import: ["" : 18]>
Leaf (x) => (y) { y = Neg (x) }
"""


def test_functions_that_call_each_other_in_a_circle_are_refused() -> None:
    with pytest.raises(GraphoptError, match=r"member 'a': the function '(Odd|Even)' calls itself"):
        composed({"a": text(CIRCLE)})


def test_a_long_chain_of_functions() -> None:
    count = 3 * sys.getrecursionlimit()
    last = f"F{count}"
    parts = [
        '<ir_version: 10, opset_import: ["" : 18, "local" : 1]>'
        " g (float[N, 3] x) => (float[N, 3] y) { y = local.F1 (x) }"
    ]
    for number in range(1, count):
        parts.append(
            '<domain: "local", opset_import: ["" : 18, "local" : 1]>'
            f" F{number} (x) => (y) {{ y = local.F{number + 1} (x) }}"
        )
    parts.append(f'<domain: "local", opset_import: ["" : 18]> {last} (x) => (y) {{ y = Neg (x) }}')
    functions = Functions({"a": (member := text("\n".join(parts)))})
    assert functions.bring("a", member) == {}
    assert [name for _, name, _ in functions.found][:2] == [last, f"F{count - 1}"]
    assert len(functions.found) == count
