"""Put the integers of a weight into a model, and serve all its readers from them."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.rewrite.grid import Grid
from graphopt.rewrite.uses import is_unused, remove_unread
from passes.quantize.weights import folded, packed, rows, tied
from passes.quantize.weights import products as fused
from passes.quantize.weights.candidates import Candidate
from passes.quantize.weights.readers import Products, products
from passes.quantize.weights.sharing import is_table


def store(model: ir.Model, candidate: Candidate, grid: Grid) -> None:
    """Store a weight in the form that was chosen."""
    weight = candidate.weight
    found = products(weight)
    if is_table(weight):
        if candidate.form == "matmulnbits" and isinstance(found, Products):
            tied.store(model, weight, grid, found, candidate.packing)
        else:
            rows.store(model, weight, grid, every_time=candidate.form == "dequantize")
        return
    if candidate.form == "folded" or not weight.uses:
        folded.store(model, weight, grid)
    elif candidate.form == "matmulnbits" and isinstance(found, Products):
        packed.store(model, weight, grid, found, candidate.packing)
    elif isinstance(found, Products):
        fused.store(model, weight, grid, found)
    else:
        fused.store_in_place(model, weight, grid)
    if is_unused(weight.value):
        remove_unread([weight.value])
