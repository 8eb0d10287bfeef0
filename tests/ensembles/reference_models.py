"""What the tests of the reference share: members, inputs for them, and what they compute."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir
import scipy.special

from graphopt.ensembles.reference import Sessions
from graphopt.runtime.session import Session

softmax = partial(scipy.special.softmax, axis=-1)

BATCHES = (1, 7, 32)
Arrays = dict[str, np.ndarray]


def model_of(text: str) -> ir.Model:
    return ir.from_onnx_text(f'<ir_version: 8, opset_import: ["" : 17]> {text}')


def scorer(seed: int, kind: str = "float", name: str = "x") -> ir.Model:
    """Four numbers to three scores."""
    weights = np.random.default_rng(seed).normal(size=12).round(3)
    body = ", ".join(map(str, weights))
    return model_of(f"""
        m (float[N, 4] {name}) => ({kind}[N, 3] y) <float[4, 3] w = {{{body}}}> {{
            f = MatMul({name}, w)
            y = Cast<to = {ir.DataType[{"float": "FLOAT"}.get(kind, kind.upper())].value}>(f)
        }}""")


A, B, C = scorer(1), scorer(2), scorer(3)
MEMBERS = {"a": A, "b": B, "c": C}


def drawn(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32)


def own_outputs(x: np.ndarray, **members: ir.Model) -> list[np.ndarray]:
    return [Session(model).run({"x": x})["y"] for model in (members or MEMBERS).values()]


class Counting(Sessions):
    runs = 0

    def run(self, *given: object, **named: object) -> Arrays:
        type(self).runs += 1
        return super().run(*given, **named)  # type: ignore[arg-type]  # handed on as it came
