from __future__ import annotations

import pytest
from before_after import apply, check, clean, model_of, text_of, unchanged

from passes.cleanup import initializers, subexpressions


def test_equal_nodes_become_one() -> None:
    check(
        subexpressions.rewrites,
        """g (float[N] x, float[N] z) => (float[N] y) {
          a = Add(x, z)
          b = Add(z, x)
          c = Exp(a)
          d = Exp(b)
          y = Sub(c, d)
        }""",
        """g (float[N] x, float[N] z) => (float[N] y) {
          a = Add(x, z)\n c = Exp(a)\n y = Sub(c, c)
        }""",
    )


def test_a_body_reads_what_was_computed_before_its_owner() -> None:
    check(
        subexpressions.rewrites,
        """g (float[N] x, bool c) => (float[N] y) {
          a = Exp(x)
          z = If(c) <
            then_branch = t () => (float[N] p) { q = Exp(x)\n p = Neg(q) },
            else_branch = e () => (float[N] r) { s = Sin(x)\n r = Neg(s) }
          >
          b = Sin(x)
          w = Add(z, b)
          y = Add(w, a)
        }""",
        """g (float[N] x, bool c) => (float[N] y) {
          a = Exp(x)
          z = If(c) <
            then_branch = t () => (float[N] p) { p = Neg(a) },
            else_branch = e () => (float[N] r) { s = Sin(x)\n r = Neg(s) }
          >
          b = Sin(x)
          w = Add(z, b)
          y = Add(w, a)
        }""",
    )


def test_two_outputs_that_are_equal_keep_their_names() -> None:
    check(
        subexpressions.rewrites,
        "g (float[N] x) => (float[N] y, float[N] z) { y = Exp(x)\n z = Exp(x) }",
        "g (float[N] x) => (float[N] y, float[N] z) { y = Exp(x)\n z = Identity(y) }",
    )


@pytest.mark.parametrize(
    "body",
    [
        "a = RandomNormalLike(x)\n b = RandomNormalLike(x)",
        "a = Bernoulli(x)\n b = Bernoulli(x)",
        "a = Dropout(x, r, yes)\n b = Dropout(x, r, yes)",
        "a = LeakyRelu<alpha = 0.1>(x)\n b = LeakyRelu<alpha = 0.2>(x)",
        "a = Sub(x, r)\n b = Sub(r, x)",
        "a = unknown.Op(x)\n b = unknown.Op(x)",
        "a = local.noise(x)\n b = local.noise(x)",
    ],
)
def test_nodes_that_differ_or_draw_stay(body: str) -> None:
    header = '<ir_version: 8, opset_import: ["" : 17, "local" : 1, "unknown" : 1]>\n'
    unchanged(
        subexpressions.rewrites,
        f"{header}g (float[N] x) => (float[N] y) <float r = {{0.5}}, bool yes = {{1}}> "
        f"{{ {body}\n y = Add(a, b) }}\n"
        '<domain: "local", opset_import: ["" : 17]> noise (a) => (b) { b = RandomNormalLike(a) }',
    )


def test_equal_calls_of_a_function_become_one_there_and_inside() -> None:
    header = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>\n'
    function = '<domain: "local", opset_import: ["" : 17]> f (a) => (b) '
    check(
        subexpressions.rewrites,
        f"{header}g (float[N] x) => (float[N] y) {{ a = local.f(x)\n b = local.f(x)\n"
        f"y = Add(a, b) }}\n{function} {{ c = Exp(a)\n d = Exp(a)\n b = Add(c, d) }}",
        f"{header}g (float[N] x) => (float[N] y) {{ a = local.f(x)\n y = Add(a, a) }}\n"
        f"{function} {{ c = Exp(a)\n b = Add(c, c) }}",
    )


def test_equal_initializers_are_kept_once_across_scopes() -> None:
    check(
        initializers.rewrites,
        """g (float[2] x, bool c) => (float[2] y)
          <float[2] v = {1, 2}, float[2] w = {1, 2}, float[2] u = {1, 3}, int32[2] i = {1, 2}> {
          a = Mul(x, v)
          b = Mul(a, w)
          d = Mul(b, u)
          k = Constant<value = float[2] {1, 2}>()
          f = Cast<to = 1>(i)
          e = Add(k, f)
          y = If(c) <
            then_branch = t () => (float[2] p) <float[2] m = {1, 2}> { p = Mul(d, m) },
            else_branch = s () => (float[2] r) { r = Add(d, e) }
          >
        }""",
        """g (float[2] x, bool c) => (float[2] y)
          <float[2] v = {1, 2}, float[2] u = {1, 3}, int32[2] i = {1, 2}> {
          a = Mul(x, v)
          b = Mul(a, v)
          d = Mul(b, u)
          f = Cast<to = 1>(i)
          e = Add(v, f)
          y = If(c) <
            then_branch = t () => (float[2] p) { p = Mul(d, v) },
            else_branch = s () => (float[2] r) { r = Add(d, e) }
          >
        }""",
    )


def test_zeros_of_either_sign_are_two_weights() -> None:
    unchanged(
        initializers.rewrites,
        "g (float[1] x) => (float[1] y) <float[1] v = {0}, float[1] w = {-0.0}>"
        "{ a = Div(x, v)\n y = Div(a, w) }",
    )


def test_defaults_and_returned_constants_are_not_shared() -> None:
    unchanged(
        initializers.rewrites,
        "g (float[1] x, float[1] v = {1}) => (float[1] y, float[1] c) <float[1] w = {1}>"
        "{ a = Mul(x, v)\n y = Mul(a, w)\n c = Constant<value = float[1] {1}>() }",
    )


def test_strings_are_compared_to_the_last_byte() -> None:
    model = model_of(
        'g (string[1] x) => (bool[1] y) <string[1] v = {"a"}, string[1] w = {"ab"},'
        'string[1] u = {"a"}> { a = Equal(x, v)\n b = Equal(x, w)\n c = Equal(x, u)\n'
        "d = Or(a, b)\n y = Or(c, d) }"
    )
    apply(initializers.rewrites, model)
    assert list(model.graph.initializers) == ["v", "w"]


def test_the_result_does_not_depend_on_who_runs_first() -> None:
    text = """g (float[N,4] x) => (float[N,4] y)
      <float[4] w = {1, 1, 1, 1}, float[4] v = {0, 0, 0, 0}> {
      a = Mul(x, w)\n b = Add(a, v)\n c = Add(x, v)\n d = Exp(b)\n e = Exp(c)\n y = Add(d, e)
    }"""
    first, second = model_of(text), model_of(text)
    clean(first)
    clean(second)
    clean(second)
    assert text_of(first) == text_of(second)
    assert [node.op_type for node in first.graph] == ["Exp", "Add"]
