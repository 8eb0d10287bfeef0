from __future__ import annotations

from before_after import check
from seeded import check_ops, check_stays

from graphopt.pipeline.contract import Context
from passes.cleanup import Cleanup, impossible_branches

RECURRENT = """g (float[1,3,4] x, float[1,8,4] w, float[1,8,2] r, bool in_c)
  => (float[A,C,D,E] y) <int64[1] axis = {0}> {
  z = If (in_c) <
    then_branch = a () => (float[A,C] p) { p = Squeeze(x, axis) },
    else_branch = b () => (float[A,C,D] q) { q = Identity(x) }
  >
  u = Unsqueeze(z, axis)
  y, h, c = LSTM<hidden_size = 2>(u, w, r)
}"""


def test_a_branch_of_a_rank_that_an_lstm_cannot_take_goes() -> None:
    # ONNX Runtime only gets to run the branch that can run.
    text = RECURRENT.replace(", bool in_c)", ")")
    text = text.replace("z = If", "in_c = Constant<value = bool {1}>()\n  z = If")
    check_ops(impossible_branches.rewrites, text, ["Squeeze", "Unsqueeze", "LSTM"])


def test_both_branches_may_run() -> None:
    body = RECURRENT.replace("p = Squeeze(x, axis)", "p = Relu(x)")
    body = body.replace("u = Unsqueeze(z, axis)", "u = Relu(z)").replace(
        "float[A,C] p", "float[A,C,D] p"
    )
    assert check_stays(impossible_branches.rewrites, body) == []


def test_what_a_body_needs_is_no_proof() -> None:
    """The LSTM runs only where the condition lets it."""
    body = """g (float[1,3,4] x, bool in_c, float[1,8,4] w, float[1,8,2] r) => (float[A] y)
    <int64[1] axis = {0}, int64[1] flat = {-1}> {
      z = If (in_c) <
        then_branch = a () => (float[A,C] p) { p = Squeeze(x, axis) },
        else_branch = b () => (float[A,C,D] q) { q = Identity(x) }
      >
      y = If (in_c) <
        then_branch = c () => (float[A] s) {
          u = Unsqueeze(z, axis)
          v, h, k = LSTM<hidden_size = 2>(u, w, r)
          s = Reshape(v, flat)
        },
        else_branch = d () => (float[A] t) { t = Reshape(z, flat) }
      >
    }"""
    assert check_stays(impossible_branches.rewrites, body) == []


def test_a_test_of_the_rank_goes_with_it() -> None:
    check(
        lambda model: Cleanup().rewrites(model, Context()),
        """g (float[1,3,T] x, float[6,3] w) => (float[A,B] y)
        <int64[1] last = {-1}, int64[1] one = {1}, int64 two = {2}> {
          shape = Shape(x)
          size = Gather(shape, last)
          is_one = Equal(size, one)
          z = If (is_one) <
            then_branch = a () => (float[A,C] p) { p = Squeeze(x, last) },
            else_branch = b () => (float[A,C,D] q) { q = Identity(x) }
          >
          shape_z = Shape(z)
          rank = Size(shape_z)
          is_matrix = Equal(rank, two)
          v = If (is_matrix) <
            then_branch = e () => (float[A,C] s) { s = Relu(z) },
            else_branch = f () => (float[A,C,D] t) { t = Unsqueeze(z, last) }
          >
          y = Gemm<transB = 1>(v, w)
        }""",
        """g (float[1,3,T] x, float[6,3] w) => (float[A,B] y) <int64[1] last = {-1}> {
          p = Squeeze(x, last)
          s = Relu(p)
          y = Gemm<transB = 1>(s, w)
        }""",
        run=False,
    )
