from __future__ import annotations

from before_after import apply, check, check_clean, model_of, unchanged

from passes.cleanup import branches, dead_code, functions, known_shapes, legacy_inputs

LOCAL = '<ir_version: 8, opset_import: ["" : 17, "local" : 1, "other" : 3]>\n'


def test_dead_nodes_go_with_what_only_they_read() -> None:
    said = check(
        dead_code.rewrites,
        """g (float[N] x) => (float[N] y) <float[1] w = {1}, float[1] v = {2}> {
          a = Mul(x, w)
          b = Exp(a)
          c = Add(b, b)
          y = Neg(x)
        }""",
        "g (float[N] x) => (float[N] y) { y = Neg(x) }",
    )
    assert [step.at for step in said] == ["c", "v"]


def test_a_dead_if_frees_what_its_bodies_have_read() -> None:
    check(
        dead_code.rewrites,
        """g (float[N] x, bool c) => (float[N] y) <float[1] w = {1}> {
          a = Mul(x, w)
          b = If(c) <
            then_branch = t () => (float[N] p) { p = Neg(a) },
            else_branch = e () => (float[N] r) { r = Identity(a) }
          >
          y = Neg(x)
        }""",
        "g (float[N] x, bool c) => (float[N] y) { y = Neg(x) }",
    )


def test_dead_nodes_in_bodies_and_functions_go() -> None:
    function = '<domain: "local", opset_import: ["" : 17]> f (a) => (b) '
    check(
        dead_code.rewrites,
        f"""{LOCAL}g (float[N] x, bool c) => (float[N] y) {{
          z = local.f(x)
          y = If(c) <
            then_branch = t () => (float[N] p) {{ q = Exp(z)\n p = Neg(z) }},
            else_branch = e () => (float[N] r) {{ r = Neg(x) }}
          >
        }}
        {function} {{ d = Exp(a)\n b = Neg(a) }}""",
        f"""{LOCAL}g (float[N] x, bool c) => (float[N] y) {{
          z = local.f(x)
          y = If(c) <
            then_branch = t () => (float[N] p) {{ p = Neg(z) }},
            else_branch = e () => (float[N] r) {{ r = Neg(x) }}
          >
        }}
        {function} {{ b = Neg(a) }}""",
    )


def test_a_node_with_one_output_in_use_stays() -> None:
    unchanged(
        dead_code.rewrites,
        "g (float[4] x) => (float[2] y) { a, b = Split(x)\n y = Neg(b) }",
    )


def test_functions_and_operator_sets_that_nobody_uses_go() -> None:
    used = '<domain: "local", opset_import: ["" : 17]> f (a) => (b) { b = Neg(a) }\n'
    unused = (
        '<domain: "local", opset_import: ["" : 17, "other" : 3]> h (a) => (b) { b = local.f(a) }'
    )
    model = model_of(f"{LOCAL}g (float[N] x) => (float[N] y) {{ y = local.f(x) }}\n{used}{unused}")
    said = apply(functions.rewrites, model)
    assert [step.at for step in said] == ["local:h", "other"]
    assert list(model.functions) == [("local", "f", "")]
    assert model.opset_imports == {"": 17, "local": 1}


def test_a_constant_condition_leaves_one_branch() -> None:
    check(
        branches.rewrites,
        """g (float[2] x) => (float[2] y) <bool c = {1}, float[2] w = {1, 2}> {
          a = Neg(x)
          p = Exp(a)
          z = If(c) <
            then_branch = t () => (float[2] q) <float[2] v = {3, 4}> {
              s = Mul(a, v)\n q = Add(s, w)
            },
            else_branch = e () => (float[2] r) { r = Neg(p) }
          >
          y = Add(z, p)
        }""",
        """g (float[2] x) => (float[2] y) <float[2] w = {1, 2}, float[2] v = {3, 4}> {
          a = Neg(x)
          p = Exp(a)
          s = Mul(a, v)
          q = Add(s, w)
          y = Add(q, p)
        }""",
    )


def test_names_of_a_branch_give_way_to_those_around_it() -> None:
    model = model_of(
        """g (float[2] x) => (float[2] y) <bool c = {0}> {
          y = If(c) <
            then_branch = t () => (float[2] p) { q = Neg(x)\n p = Exp(q) },
            else_branch = e () => (float[2] r) { q = Exp(x)\n r = Neg(q) }
          >
        }"""
    )
    apply(branches.rewrites, model)
    assert [node.op_type for node in model.graph] == ["Exp", "Neg"]
    assert [node.outputs[0].name for node in model.graph] == ["q_1", "y"]


def test_a_branch_that_returns_an_outer_value_is_an_identity() -> None:
    check_clean(
        """g (float[2] x) => (float[2] y) <bool c = {1}> {
          y = If(c) <
            then_branch = t () => (float[2] p) { p = Identity(x) },
            else_branch = e () => (float[2] r) { r = Neg(x) }
          >
        }""",
        "g (float[2] x) => (float[2] y) { y = Identity(x) }",
    )


def test_a_condition_that_is_fed_keeps_both_branches() -> None:
    unchanged(
        branches.rewrites,
        """g (float[2] x, bool c) => (float[2] y) {
          y = If(c) <
            then_branch = t () => (float[2] p) { p = Exp(x) },
            else_branch = e () => (float[2] r) { r = Neg(x) }
          >
        }""",
    )


def test_a_computed_target_with_a_dynamic_batch_is_written_down() -> None:
    check(
        known_shapes.rewrites,
        """g (float[N,4,6] x) => (float[N,2,12] y)
          <int64 first = {0}, int64[1] axis = {0}, int64[2] rest = {2, 12}> {
          s = Shape(x)
          n = Gather<axis = 0>(s, first)
          m = Unsqueeze(n, axis)
          t = Concat<axis = 0>(m, rest)
          y = Reshape(x, t)
        }""",
        """g (float[N,4,6] x) => (float[N,2,12] y) <int64[3] y_shape = {0, 2, 12}> {
          y = Reshape(x, y_shape)
        }""",
    )


def test_a_target_that_depends_on_another_input_stays() -> None:
    unchanged(
        known_shapes.rewrites,
        """g (float[N,4] x, float[M,6] z) => (float[K,L,P] y) <int64[2] rest = {-1, 2},
          int64[1] zero = {0}, int64[1] one = {1}> {
          s = Shape(z)
          n = Slice(s, zero, one)
          t = Concat<axis = 0>(n, rest)
          y = Reshape(x, t)
        }""",
    )


def test_weights_of_old_files_leave_the_inputs() -> None:
    text = "g (float[2] x, float[2] w = {1, 2}) => (float[2] y) { y = Add(x, w) }"
    model = model_of(f'<ir_version: 3, opset_import: ["" : 8]>\n{text}')
    said = apply(legacy_inputs.rewrites, model)
    assert [step.why for step in said] == ["IR version 3 lists 1 fixed weights as inputs"]
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert list(model.graph.initializers) == ["w"]
    assert model.ir_version == 4
    newer = model_of(f'<ir_version: 4, opset_import: ["" : 8]>\n{text}')
    assert apply(legacy_inputs.rewrites, newer) == []
