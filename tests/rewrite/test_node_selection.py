from __future__ import annotations

from fnmatch import fnmatchcase

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.model.scopes import scopes
from graphopt.rewrite.selection import _matches, address, exactly, selects

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
main (float[1, 4] x) => (float[1, 4] y)
<float[4, 4] weight = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1}>
{
    [layer_1] h = MatMul (x, weight)
    y = Relu (h)
}
"""
LETTERS = st.text("ab*?[]!-", max_size=6)


def nodes():
    model = ir.from_onnx_text(MODEL)
    return [(node, scope) for scope in scopes(model) for node in scope.graph]


@pytest.mark.parametrize("glob", ["layer_1", "layer_*", "h", "weight", "w?ight", "[l]ayer_1"])
def test_matches_the_node_what_it_writes_and_its_constants(glob):
    (matmul, relu) = nodes()
    assert selects(*matmul, include=glob)
    assert not selects(*relu, include=glob)
    assert not selects(*matmul, include="*", exclude=glob)


def test_a_node_without_a_name_is_called_by_what_it_writes():
    assert [address(*one) for one in nodes()] == ["layer_1", "y"]


@given(LETTERS, st.lists(LETTERS, max_size=4))
def test_matches_as_globs_do(name, globs):
    assert _matches([name], tuple(globs)) == any(fnmatchcase(name, glob) for glob in globs)


@given(LETTERS, LETTERS)
def test_exactly_matches_one_name_only(name, other):
    assert _matches([name], exactly(name))
    assert _matches([other], exactly(name)) == (name == other)
