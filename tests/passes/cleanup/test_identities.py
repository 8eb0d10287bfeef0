from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from before_after import apply, assert_equal_outputs, check, model_of, unchanged

from passes.cleanup import identities

X = "float[N,3,4] x"

WITHOUT_EFFECT = {
    "Identity": "t = Identity(a)",
    "Cast to its own type": "t = Cast<to = 1>(a)",
    "CastLike its own type": "t = CastLike(a, x)",
    "Dropout without training": "t = Dropout(a)",
    "Dropout with a ratio": "t = Dropout(a, half)",
    "Dropout, training off": "t = Dropout(a, half, no)",
    "Reshape to its shape": "t = Reshape(a, same)",
    "Reshape copying": "t = Reshape(a, copies)",
    "Reshape, rest left": "t = Reshape(a, rest)",
    "Reshape there and back": "u = Reshape(a, flat)\n t = Reshape(u, same)",
    "Unsqueeze, Squeeze": "u = Unsqueeze(a, axis)\n t = Squeeze(u, axis)",
    "Transpose in order": "t = Transpose<perm = [0, 1, 2]>(a)",
    "Pad by nothing": "t = Pad(a, no_pads)",
    "Slice of all": "t = Slice(a, zero, far, axis)",
    "Slice to a known end": "t = Slice(a, zero, three, axis)",
    "Concat of one": "t = Concat<axis = 0>(a)",
    "Concat with nothing": "t = Concat<axis = 1>(lead, nothing)",
    "Split into one": "t = Split<axis = 1>(a)",
    "Expand to its shape": "t = Expand(a, tail)",
    "Expand to ones": "t = Expand(a, axis)",
    "Tile once": "t = Tile(a, ones)",
    "Sum of one": "t = Sum(a)",
    "Max of one": "t = Max(a)",
    "Min of one": "t = Min(a)",
    "Mean of one": "t = Mean(a)",
    "Mul by 1": "t = Mul(a, one)",
    "Mul 1 by": "t = Mul(one, a)",
    "Mul by ones": "t = Mul(a, row)",
    "Div by 1": "t = Div(a, one)",
    "Add 0": "t = Add(a, nil)",
    "Add to 0": "t = Add(nil, a)",
    "Sub 0": "t = Sub(a, nil)",
    "Pow 1": "t = Pow(a, one)",
    "Where always": "t = Where(yes, a, x)",
    "Where never": "t = Where(no, x, a)",
    "Where either way": "t = Where(mask, a, a)",
    "Neg of Neg": "u = Neg(a)\n t = Neg(u)",
    "Clip without bounds": "t = Clip(a)",
    "ReduceMean over nothing": "t = ReduceMean<axes = [0], keepdims = 1>(lead)",
    "MaxPool of one": "t = MaxPool<kernel_shape = [1]>(a)",
    "DepthToSpace by 1": "u = Unsqueeze(a, axis)\n v = DepthToSpace<blocksize = 1>(u)\n"
    " t = Squeeze(v, axis)",
}
CONSTANTS = """<
  float half = {0.5}, bool no = {0}, bool yes = {1}, float one = {1}, float nil = {0},
  int64[3] same = {-1, 3, 4}, int64[3] copies = {0, 0, 4}, int64[3] rest = {0, -1, 4},
  int64[2] flat = {-1, 12}, int64[1] axis = {1}, int64[1] zero = {0}, int64[1] three = {3},
  int64[1] far = {9223372036854775807}, int64[6] no_pads = {0, 0, 0, 0, 0, 0},
  float[1,0,4] nothing = {}, int64[2] tail = {3, 4}, int64[3] ones = {1, 1, 1},
  float[4] row = {1, 1, 1, 1}, float[4] almost = {1, 1, 1, 1.5}, float[2,1,1] grown = {1, 1},
  float[1,1,1,1] deep = {1}, int64[3] swapped = {-1, 4, 3}, int64[1] two = {2},
  int64[1] minus = {-1}, int64[1] least = {-9223372036854775807}, int64[3] wide = {5, 3, 4},
  int64[3] twice = {1, 2, 1}, int64[6] some_pads = {0, 1, 0, 0, 0, 0}
>"""


def graph(body: str, source: str = "a") -> str:
    return (
        f"g ({X}, float[1,3,4] first, bool[N,1,1] mask) => (float[1,K] y)"
        f"{CONSTANTS} {{\n a = Relu(x)\n lead = Relu(first)\n {body}\n"
        f" z = Neg({source})\n y = Flatten<axis = 0>(z)\n}}"
    )


@pytest.mark.parametrize("body", WITHOUT_EFFECT.values(), ids=WITHOUT_EFFECT)
def test_a_node_without_effect_is_bypassed(body: str) -> None:
    assert source_of_output(graph(body, "t")) == ("lead" if "lead" in body else "a")


WITH_EFFECT = {
    "Cast to another type": "u = Cast<to = 11>(a)\n t = Cast<to = 1>(u)",
    "Dropout that trains": "d = Dropout(a, half, yes)\n t = Mul(d, nil)",
    "Reshape to another shape": "t = Reshape(a, flat)",
    "Reshape of the same rank": "t = Reshape(a, swapped)",
    "Squeeze of another axis": "u = Unsqueeze(lead, three)\n t = Squeeze(u, zero)",
    "Transpose": "t = Transpose<perm = [0, 2, 1]>(a)",
    "Pad": "t = Pad(a, some_pads)",
    "Slice from 1": "t = Slice(a, axis, far, axis)",
    "Slice before the end": "t = Slice(a, zero, two, axis)",
    "Slice backwards": "t = Slice(a, minus, least, axis, minus)",
    "Concat with itself": "t = Concat<axis = 0>(a, a)",
    "Expand": "t = Expand(lead, wide)",
    "Tile twice": "t = Tile(a, twice)",
    "Mul that grows": "t = Mul(lead, grown)",
    "Mul that adds a rank": "t = Mul(a, deep)",
    "1 divided by": "t = Div(one, a)",
    "0 minus": "t = Sub(nil, a)",
    "Pow of 1": "t = Pow(one, a)",
    "Where that broadcasts": "t = Where(yes, lead, x)",
    "Where by a mask": "t = Where(mask, a, x)",
    "Not quite ones": "t = Mul(a, almost)",
    "Clip with a bound": "t = Clip(a, one)",
    "ReduceMean over a batch": "t = ReduceMean<axes = [1], keepdims = 1>(a)",
    "ReduceMean that drops an axis": "t = ReduceMean<axes = [0], keepdims = 0>(lead)",
    "MaxPool with strides": "t = MaxPool<kernel_shape = [1], strides = [2]>(a)",
}


@pytest.mark.parametrize("body", WITH_EFFECT.values(), ids=WITH_EFFECT)
def test_a_node_with_an_effect_stays(body: str) -> None:
    assert source_of_output(graph(body, "t")) == "t"


def source_of_output(before: str) -> str:
    """Return what Neg reads after the rule, once the models are shown to be equal."""
    model = model_of(before)
    apply(identities.rewrites, model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert_equal_outputs(ir.to_proto(model_of(before)), ir.to_proto(model))
    source = model.graph[-2].inputs[0]
    assert source is not None
    return str(source.name)


def test_an_output_keeps_its_name() -> None:
    check(
        identities.rewrites,
        "g (float[N] x) => (float[N] y) { a = Relu(x)\n b = Identity(a)\n y = Identity(b) }",
        "g (float[N] x) => (float[N] y) { y = Relu(x) }",
    )


def test_a_node_around_the_identity_reads_the_renamed_output() -> None:
    check(
        identities.rewrites,
        "g (float[N] x) => (float[N] y, float[N] z){ a = Relu(x)\n y = Identity(a)\n z = Neg(a) }",
        "g (float[N] x) => (float[N] y, float[N] z) { y = Relu(x)\n z = Neg(y) }",
    )


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N] x) => (float[N] y) { y = Identity(x) }",
        "g () => (float[2] y) <float[2] w = {1, 2}> { y = Identity(w) }",
        "g (float[N] x) => (float[N] y, float[N] z) { y = Relu(x)\n z = Identity(y) }",
    ],
    ids=["input", "initializer", "another output"],
)
def test_what_cannot_take_over_a_name_keeps_its_identity(text: str) -> None:
    assert unchanged(identities.rewrites, text) == []


def test_a_mask_that_is_read_keeps_its_dropout() -> None:
    unchanged(
        identities.rewrites,
        "g (float[N] x) => (float[N] y, bool[N] m) { a = Relu(x)\n y, m = Dropout(a) }",
    )


def test_dropout_of_old_opsets_trains_unless_told_otherwise() -> None:
    header = '<ir_version: 3, opset_import: ["" : 6]>\n'
    training = "g (float[3] x) => (float[3] y) { a = Relu(x)\n t = Dropout(a)\n y = Neg(t) }"
    assert unchanged(identities.rewrites, header + training) == []
    check(
        identities.rewrites,
        header + training.replace("Dropout(", "Dropout<is_test = 1>("),
        header + "g (float[3] x) => (float[3] y) { a = Relu(x)\n y = Neg(a) }",
        run=False,  # ONNX Runtime starts with opset 7
    )


def test_a_body_reads_the_value_around_it() -> None:
    check(
        identities.rewrites,
        """g (float[N] x, bool c) => (float[N] y) {
          a = Relu(x)
          y = If(c) <
            then_branch = t () => (float[N] p) { q = Identity(a)\n p = Neg(q) },
            else_branch = e () => (float[N] r) { r = Identity(a) }
          >
        }""",
        """g (float[N] x, bool c) => (float[N] y) {
          a = Relu(x)
          y = If(c) <
            then_branch = t () => (float[N] p) { p = Neg(a) },
            else_branch = e () => (float[N] r) { r = Identity(a) }
          >
        }""",
    )


def test_functions_are_covered() -> None:
    header = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>\n'
    main = "g (float[N] x) => (float[N] y) { y = local.f(x) }\n"
    function = '<domain: "local", opset_import: ["" : 17]> f (a) => (b) '
    check(
        identities.rewrites,
        f"{header}{main}{function} {{ t = Relu(a)\n u = Identity(t)\n b = Neg(u) }}",
        f"{header}{main}{function} {{ t = Relu(a)\n b = Neg(t) }}",
    )


def test_a_cast_to_an_attribute_of_its_function_stays() -> None:
    header = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>\n'
    unchanged(
        identities.rewrites,
        f"{header}g (float[N] x) => (float[N] y) {{ y = local.f<to = 1>(x) }}\n"
        '<domain: "local", opset_import: ["" : 17]> f <to> (a) => (b) '
        "{ t = Relu(a)\n b = Cast<to: int = @to>(t) }",
    )


def test_what_a_file_claims_of_inner_shapes_is_not_believed() -> None:
    """The value_info of `a` says that the Reshape changes nothing."""
    model = model_of(
        "g (float[2,6] x) => (float[K,L] y) <int64[2] s = {3, 4}>"
        "{ a = Relu(x)\n b = Reshape(a, s)\n y = Neg(b) }"
    )
    model.graph[0].outputs[0].shape = ir.Shape([3, 4])
    assert apply(identities.rewrites, model) == []
