"""Tasks on images: CIFAR-10, and the digits of fixtures/."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from quantize_task import Arrays, Places, Run, Task, require

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
SAMPLES = 128


def tasks() -> dict[str, Callable[[Places], Task]]:
    found: dict[str, Callable[[Places], Task]] = {}
    for name in ("cifar10_resnet20", "cifar10_resnet32", "cifar10_resnet20_bn"):
        found[name] = partial(_cifar, name)
    found["cifar10_resnet20_fp16"] = _half
    found["cifar10_mobile"] = _mobile
    for name in ("digits_cnn", "digits_resnet", "digits_separable", "digits_mlp"):
        found[name] = partial(_digits, name)
    return found


def normalized(images: Any) -> Any:
    """Images of [N, 32, 32, 3] in bytes as CIFAR networks want them: float32 [N, 3, 32, 32]."""
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    deviation = np.array([0.229, 0.224, 0.225], np.float32)
    scaled = (images.astype(np.float32) / 255 - mean) / deviation
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def top1(run: Run, name: str, images: Any, labels: Any, batch: int = 50) -> float:
    right = 0
    for start in range(0, len(labels), batch):
        logits = run({name: images[start : start + batch]})[0]
        right += int(np.sum(logits.argmax(axis=1) == labels[start : start + batch]))
    return right / len(labels)


def _cifar(name: str, places: Places) -> Task:
    return _cifar_task(name, places.shared_file(f"models/{name}.onnx"), places)


def _cifar_task(name: str, model: Path, places: Places, dtype: Any = np.float32) -> Task:
    train = places.shared_file("data/cifar10_train15k.npz")
    test = places.shared_file("data/cifar10_test2k.npz")

    def calibration() -> Arrays:
        with np.load(train) as data:
            return {"image": normalized(data["images"][:SAMPLES]).astype(dtype)}

    def evaluate(run: Run) -> float:
        with np.load(test) as data:
            images, labels = normalized(data["images"]).astype(dtype), data["labels"]
        return top1(run, "image", images, labels)

    return Task(name, model, "top-1", calibration, evaluate)


def _half(places: Places) -> Task:
    """ResNet-20 in float16 throughout, inputs and outputs too, by ONNX Runtime's own converter."""
    name = "cifar10_resnet20_fp16"
    model = places.cache / f"{name}.onnx"
    source = places.shared_file("models/cifar10_resnet20.onnx")
    if not model.exists():
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        onnx.save(convert_float_to_float16(onnx.load(source)), model)
    return _cifar_task(name, model, places, np.float16)


def _mobile(places: Places) -> Task:
    model = places.cache / "mobile.onnx"
    data = places.shared_file("data/cifar10_train15k.npz").parent
    train_if_absent("mobile", model, "--cifar", str(data))
    return _cifar_task("cifar10_mobile", model, places)


def train_if_absent(name: str, model: Path, *options: str) -> None:
    """Train one of `quantize_train.py`'s models, in a process of its own."""
    if model.exists():
        return
    require("torch")
    print(f"training {name} (minutes, once)", file=sys.stderr)
    script = str(Path(__file__).with_name("quantize_train.py"))
    subprocess.run([sys.executable, script, name, str(model), *options], check=True)


def _digits(name: str, places: Places) -> Task:
    def calibration() -> Arrays:
        with np.load(FIXTURES / "digits_calibration.npz") as data:
            return {"image": data["image"][:SAMPLES]}

    def evaluate(run: Run) -> float:
        with np.load(FIXTURES / "digits_test.npz") as data:
            return top1(run, "image", data["image"], data["labels"])

    return Task(name, FIXTURES / f"{name}.onnx", "top-1", calibration, evaluate)
