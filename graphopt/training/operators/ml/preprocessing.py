"""The operators of ai.onnx.ml that prepare features, as ONNX Runtime computes them."""

from __future__ import annotations

import math
from typing import Any

import torch

from graphopt.training.call import Call
from graphopt.training.operators.registry import ML, operator


@operator("Scaler", domain=ML)
def scaler(call: Call, features: torch.Tensor) -> Any:
    """Subtract the offset and multiply by the scale of each feature."""
    offset, scale = (
        torch.tensor(call.reals(name, []), device=features.device) for name in ("offset", "scale")
    )
    return (features.to(torch.float32) - offset) * scale


@operator("Normalizer", domain=ML)
def normalizer(call: Call, features: torch.Tensor) -> Any:
    """Divide each row by its norm; MAX is the largest number, not its size."""
    kind = call.text("norm", "MAX")
    rows = features.to(torch.float32)
    if kind == "MAX":
        norm = rows.amax(-1, keepdim=True)
    elif kind == "L1":
        norm = rows.abs().sum(-1, keepdim=True)
    elif kind == "L2":
        norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    else:
        raise call.refused(f"norm {kind!r} is not known")
    return rows / torch.where(norm == 0, 1, norm)


@operator("Binarizer", domain=ML)
def binarizer(call: Call, features: torch.Tensor) -> Any:
    """Return 1 where a feature is above the threshold, else 0."""
    return (features > call.real("threshold", 0.0)).to(features.dtype)


@operator("Imputer", domain=ML)
def imputer(call: Call, features: torch.Tensor) -> Any:
    """Put other values in the place of missing ones."""
    if features.is_floating_point():
        values: list[Any] = list(call.reals("imputed_value_floats", []))
        missing: float = call.real("replaced_value_float", 0.0)
    else:
        values = list(call.integers("imputed_value_int64s", []))
        missing = call.integer("replaced_value_int64", 0)
    if not values:
        raise call.refused(f"it has no values for {features.dtype} in the place of missing ones")
    columns = features.shape[-1]
    if len(values) != columns:
        values = values[:1]
    found = torch.isnan(features) if math.isnan(missing) else features == missing
    return torch.where(
        found, torch.tensor(values, dtype=features.dtype, device=features.device), features
    )


@operator("OneHotEncoder", domain=ML)
def one_hot_encoder(call: Call, values: torch.Tensor) -> Any:
    """Return a 1 for the category that a value is of, behind all axes; none for unknown ones."""
    if call.texts("cats_strings", []):
        raise call.refused(
            "its categories are strings, and PyTorch has no tensors of them",
            "encode them as integers outside of the graph",
        )
    categories = torch.tensor(call.integers("cats_int64s"), device=values.device)
    return (values.to(torch.int64).unsqueeze(-1) == categories).to(torch.float32)


_KINDS = ("int64s", "floats", "tensor", "strings")


@operator("LabelEncoder", domain=ML)
def label_encoder(call: Call, values: torch.Tensor) -> Any:
    """Replace each key by its value, and others by the default."""
    keys = _listed(call, "keys").to(values.dtype)
    found = _listed(call, "values")
    if len(keys) != len(found):
        raise call.refused(f"it has {len(keys)} keys and {len(found)} values")
    # The first of equal keys counts, and NaN, which is sorted behind all others, is one too.
    order = torch.argsort(keys, stable=True)
    ordered = keys[order].contiguous()
    places = torch.searchsorted(ordered, values.contiguous()).clamp(max=len(keys) - 1)
    equal = ordered[places] == values
    if values.is_floating_point():
        equal = equal | (torch.isnan(ordered[places]) & torch.isnan(values))
    return torch.where(equal, found[order][places], _default(call, found))


def _listed(call: Call, what: str) -> torch.Tensor:
    kind = next((each for each in _KINDS if call.has(f"{what}_{each}")), "strings")
    if kind == "strings":
        raise call.refused(
            f"its {what} are strings, and PyTorch has no tensors of them",
            "encode them as integers outside of the graph",
        )
    if kind == "tensor":
        return call.tensor(f"{what}_tensor").reshape(-1)
    read = call.integers if kind == "int64s" else call.reals
    return torch.tensor(read(f"{what}_{kind}"), device=call.device)


def _default(call: Call, values: torch.Tensor) -> torch.Tensor:
    if call.has("default_tensor"):
        return call.tensor("default_tensor").reshape(()).to(values)
    whole = not values.is_floating_point()
    number = call.integer("default_int64", -1) if whole else call.real("default_float", -0.0)
    return torch.tensor(number, dtype=values.dtype, device=values.device)


@operator("FeatureVectorizer", domain=ML)
def feature_vectorizer(call: Call, *features: torch.Tensor) -> Any:
    """Put features side by side, (rows, all features), each as wide as its dimension says."""
    widths = call.integers("inputdimensions")
    if len(widths) != len(features):
        raise call.refused(f"it has {len(features)} inputs and {len(widths)} widths")
    columns = []
    for width, each in zip(widths, features, strict=True):
        rows = each.unsqueeze(0) if each.ndim == 1 else each.flatten(1)
        padding = (0, width - rows.shape[1])
        columns.append(torch.nn.functional.pad(rows.to(torch.float32), padding))
    return torch.cat(columns, 1)


@operator("ArrayFeatureExtractor", domain=ML)
def array_feature_extractor(_: Call, features: torch.Tensor, places: torch.Tensor) -> Any:
    """Choose features by place, (…, chosen); what has no rows gets one."""
    rows = features.unsqueeze(0) if features.ndim == 1 else features
    return rows.index_select(-1, places.reshape(-1))


@operator("ZipMap", domain=ML)
def zip_map(call: Call, *_: Any) -> Any:
    """Refuse: it makes dictionaries."""
    scores = call.node.inputs[0]
    raise call.refused(
        "it makes a list of dictionaries, which is no tensor",
        f"make {scores.name if scores else 'its input'} the output of the model in its place",
    )
