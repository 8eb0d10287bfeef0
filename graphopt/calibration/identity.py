"""Hashes of what statistics depend on: the same model and the same data have the same."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.model.serialize import to_skeleton
from graphopt.runtime.feeds import Feeds

_KEY = "graphopt.calibration.digest"
_CHUNK = 1 << 22


def model_digest(model: ir.Model) -> str:
    """Hash a model: its graphs and its weights, but not the properties that describe it.

    The hash of each weight is kept with the tensor, which never changes.
    """
    skeleton = to_skeleton(model)
    digests: dict[int, str] = {}

    def place(index: int, proto: onnx.TensorProto) -> None:
        tensor = skeleton.tensors[index]
        if index not in digests:
            digests[index] = _tensor_digest(tensor)
        proto.ClearField("external_data")
        proto.external_data.add(key="location", value=digests[index])

    skeleton.fill(place)
    skeleton.proto.ClearField("metadata_props")
    return hashlib.sha256(skeleton.proto.SerializeToString(deterministic=True)).hexdigest()


def _tensor_digest(tensor: ir.TensorProtocol) -> str:
    found = tensor.meta.get(_KEY)
    if isinstance(found, str):
        return found
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    if tensor.dtype == ir.DataType.STRING:
        digest.update(repr(tensor.numpy().tolist()).encode())
    else:
        _add(digest, np.asarray(tensor.numpy()))
    name = tensor.meta[_KEY] = digest.hexdigest()
    return name


def data_digest(feeds: Feeds) -> str:
    """Hash all samples, in their order."""
    digest = hashlib.sha256(repr((feeds.limit, feeds.layout)).encode())
    for batch in feeds.batches(256):
        for name in sorted(batch):
            array = batch[name]
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            if array.dtype.hasobject:
                digest.update(repr(array.tolist()).encode())
            else:
                _add(digest, array)
    return digest.hexdigest()


def _add(digest: Any, array: np.ndarray[Any, Any]) -> None:
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, data.size, _CHUNK):
        digest.update(data[start : start + _CHUNK].data)
