"""What thresholds cost: accuracy by score and sparsity, and seconds and memory at 1 GB of weights.

    python benchmarks/threshold.py accuracy
    python benchmarks/threshold.py speed --rounds 3

Accuracy: top-1 of the digits networks in fixtures/ (500 test images) and, where ../shared is, of
two CIFAR-10 networks (2,000 test images). No fine-tuning. Only `wanda` sees data.

Speed: 1,000 MatMul weights, 1 GB; each run loads the model, zeroes a share of all weights together
and saves, in a process of its own; rounds are interleaved. `numpy` partitions one copy of all
magnitudes; `torch` is torch.nn.utils.prune.global_unstructured. All three read and write through
graphopt.model, so that only the choice of weights differs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import Peak, measure
from model_io import make_model

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
RESULTS = Path(__file__).parent / "results"

METHODS: dict[str, dict[str, Any]] = {
    "magnitude": {"score": "magnitude"},
    "magnitude, by layer": {"score": "magnitude", "scope": "layer"},
    "layer_normalized": {"score": "layer_normalized"},
    "channel_normalized": {"score": "channel_normalized"},
    "lamp": {"score": "lamp"},
    "balanced_lamp (the default)": {},
    "balanced_lamp, by layer": {"scope": "layer"},
    "magnitude, by channel": {"score": "magnitude", "scope": "channel"},
    "wanda (with data)": {"score": "wanda"},
}
SPARSITIES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
USABLE = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Beyond, every score leaves all networks broken, and figures are chance."""
TOOLS = ("graphopt", "graphopt, magnitude", "numpy", "torch")


@dataclass(frozen=True)
class Task:
    """A model with its test data and calibration samples."""

    name: str
    model: Path
    inputs: Any
    labels: Any
    samples: Any


def tasks() -> Iterator[Task]:
    import numpy as np

    fixtures = ROOT / "fixtures"
    with np.load(fixtures / "digits_test.npz") as test:
        inputs, labels = test["image"], test["labels"]
    with np.load(fixtures / "digits_calibration.npz") as calibration:
        samples = calibration["image"][:128]
    for path in sorted(fixtures.glob("digits_*.onnx")):
        yield Task(path.stem, path, inputs, labels, samples)
    if not SHARED.is_dir():
        print("skipped: cifar10_resnet20, cifar10_resnet32 (no ../shared)", file=sys.stderr)
        return
    with np.load(SHARED / "data/cifar10_test2k.npz") as test:
        inputs, labels = _cifar(test["images"]), test["labels"]
    with np.load(SHARED / "data/cifar10_train15k.npz") as train:
        samples = _cifar(train["images"][:128])
    for name in ("cifar10_resnet20", "cifar10_resnet32"):
        yield Task(name, SHARED / f"models/{name}.onnx", inputs, labels, samples)


def _cifar(images: Any) -> Any:
    import numpy as np

    mean = np.array([0.485, 0.456, 0.406], np.float32)
    deviation = np.array([0.229, 0.224, 0.225], np.float32)
    scaled = (images.astype(np.float32) / 255 - mean) / deviation
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def accuracy(task: Task, parameters: dict[str, Any] | None) -> float:
    """Top-1 of a model, behind the pass where it has parameters."""
    import numpy as np

    from graphopt.model import load
    from graphopt.pipeline import manager
    from graphopt.pipeline.contract import Context
    from graphopt.runtime.feeds import Feeds
    from graphopt.runtime.session import Session
    from passes.threshold import Threshold

    model = load(task.model)
    name = str(model.graph.inputs[0].name)
    if parameters is not None:
        context = Context(feeds=Feeds({name: task.samples}))
        model = manager.run(model, [Threshold(**parameters)], context).model
    session = Session(model)
    right = 0
    for start in range(0, len(task.labels), 250):
        (logits,) = session.run({name: task.inputs[start : start + 250]}).values()
        right += int(np.sum(logits.argmax(axis=1) == task.labels[start : start + 250]))
    return right / len(task.labels)


def accuracy_tables() -> list[dict[str, Any]]:
    """Measure all; the last table is the mean over models."""
    tables = []
    for task in tasks():
        rows = []
        for method, parameters in METHODS.items():
            row: dict[str, Any] = {"score": method}
            for sparsity in SPARSITIES:
                figure = accuracy(task, {**parameters, "sparsity": sparsity})
                row[f"{sparsity:.0%}"] = round(figure, 3)
            rows.append(row)
            print(task.name, row, file=sys.stderr)
        title = f"{task.name}: top-1, {accuracy(task, None):.3f} before"
        tables.append({"title": title, "rows": rows})
    return [*tables, {"title": f"mean over {len(tables)} models", "rows": _means(tables)}]


def _means(tables: list[dict[str, Any]]) -> list[dict[str, Any]]:
    means = []
    for position, method in enumerate(METHODS):
        rows = [table["rows"][position] for table in tables]
        figures = {
            column: round(statistics.mean(row[column] for row in rows), 3)
            for column in rows[0]
            if column != "score"
        }
        usable = statistics.mean(figures[f"{sparsity:.0%}"] for sparsity in USABLE)
        means.append({"score": method, **figures, "mean to 70%": round(usable, 3)})
    return means


def prune_graphopt(model: Any, sparsity: float, score: str | None = None) -> Any:
    from graphopt.pipeline import manager
    from passes.threshold import Threshold

    parameters: dict[str, Any] = {} if score is None else {"score": score}
    return manager.run(model, [Threshold(sparsity=sparsity, **parameters)]).model


def prune_numpy(model: Any, sparsity: float) -> Any:
    import numpy as np
    import onnx_ir as ir

    values = list(model.graph.initializers.values())
    scores = np.concatenate([np.abs(value.const_value.numpy()).ravel() for value in values])
    scores.partition(round(sparsity * scores.size))
    threshold = scores[round(sparsity * scores.size)]
    del scores
    for value in values:
        array = value.const_value.numpy()
        kept = np.where(np.abs(array) < threshold, np.float32(0), array)
        value.const_value = ir.Tensor(kept, name=value.name)
    return model


def prune_torch(model: Any, sparsity: float) -> Any:
    import onnx_ir as ir
    import torch
    from torch.nn.utils import prune

    layers = []
    for value in model.graph.initializers.values():
        layer = torch.nn.Module()
        layer.weight = torch.nn.Parameter(torch.from_numpy(value.const_value.numpy().copy()))
        layers.append(layer)
    prune.global_unstructured(
        [(layer, "weight") for layer in layers], prune.L1Unstructured, amount=sparsity
    )
    for layer, value in zip(layers, model.graph.initializers.values(), strict=True):
        prune.remove(layer, "weight")
        value.const_value = ir.Tensor(layer.weight.detach().numpy(), name=value.name)
    return model


WORKERS: dict[str, Callable[[Any, float], Any]] = {
    "graphopt": prune_graphopt,
    "graphopt, magnitude": lambda model, sparsity: prune_graphopt(model, sparsity, "magnitude"),
    "numpy": prune_numpy,
    "torch": prune_torch,
}


def work(tool: str, source: Path, target: Path, sparsity: float) -> None:
    from graphopt.model import load, save

    save(WORKERS[tool](load(source), sparsity), target, external_data=True)


def speed_table(gigabytes: float, rounds: int, tools: list[str], folder: Path | None) -> Any:
    """Measure in interleaved rounds, each run on a settled disk."""
    runs: dict[tuple[str, float], list[Peak]] = {}
    with tempfile.TemporaryDirectory(dir=folder) as name:
        source = make_model(Path(name), gigabytes)
        out = Path(name) / "out"
        for _ in range(rounds):
            for sparsity in (0.5, 0.9):
                for tool in tools:
                    shutil.rmtree(out, ignore_errors=True)
                    out.mkdir()
                    os.sync()
                    target = str(out / "target.onnx")
                    command = [sys.executable, __file__, "work", tool, str(source), target]
                    peak = measure([*command, str(sparsity)])
                    runs.setdefault((tool, sparsity), []).append(peak)
                    print(f"{tool}, {sparsity}: {peak}", file=sys.stderr)
    rows = [_speed_row(tool, sparsity, peaks) for (tool, sparsity), peaks in runs.items()]
    return {"title": f"load, zero, save: {gigabytes:g} GB of weights", "rows": rows}


def _speed_row(tool: str, sparsity: float, peaks: list[Peak]) -> dict[str, Any]:
    seconds = [peak.seconds for peak in peaks]
    return {
        "tool": tool,
        "sparsity": f"{sparsity:.0%}",
        "rounds": len(peaks),
        "seconds": round(statistics.median(seconds), 2),
        "spread": f"{min(seconds):.2f} to {max(seconds):.2f}",
        "CPU seconds": round(statistics.median(peak.cpu for peak in peaks), 2),
        "anonymous MB": round(max(peak.anonymous for peak in peaks) / 1e6),
        "resident MB": round(max(peak.resident for peak in peaks) / 1e6),
    }


def report(key: str, tables: list[Any], path: Path) -> None:
    """Print tables, and keep them beside those of the other run."""
    from rich.console import Console
    from rich.table import Table

    for table in tables:
        shown = Table(*table["rows"][0], title=table["title"])
        for row in table["rows"]:
            shown.add_row(*(str(cell) for cell in row.values()))
        Console(width=120).print(shown)
    path.parent.mkdir(exist_ok=True)
    known = json.loads(path.read_text()) if path.exists() else {}
    if key.startswith("speed") and key in known:
        _keep_other_tools(tables[0]["rows"], known[key]["tables"][0]["rows"])
    known[key] = {
        "machine": f"{os.cpu_count()} x {platform.machine()}, Linux {platform.release()}",
        "python": platform.python_version(),
        "tables": tables,
    }
    path.write_text(json.dumps(known, indent=1) + "\n")
    path.with_suffix(".md").write_text(_markdown(known))


def _keep_other_tools(rows: list[dict[str, Any]], before: list[dict[str, Any]]) -> None:
    """Keep the rows of tools that were not measured this time: torch takes minutes a round."""
    measured = {row["tool"] for row in rows}
    rows += [row for row in before if row["tool"] not in measured]


def _markdown(known: dict[str, Any]) -> str:
    lines = ["# threshold", ""]
    for part in known.values():
        lines += [f"Python {part['python']}, {part['machine']}.", ""]
        for table in part["tables"]:
            columns = list(table["rows"][0])
            lines += [f"## {table['title']}", "", "| " + " | ".join(columns) + " |"]
            lines.append("|" + " --- |" * len(columns))
            lines += ["| " + " | ".join(map(str, row.values())) + " |" for row in table["rows"]]
            lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS / "threshold.json")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("accuracy")
    speed = commands.add_parser("speed")
    speed.add_argument("--gigabytes", type=float, default=1.0)
    speed.add_argument("--rounds", type=int, default=3)
    speed.add_argument("--tools", nargs="*", choices=TOOLS, default=list(TOOLS))
    speed.add_argument("--folder", type=Path, help="where the models are written")
    worker = commands.add_parser("work")
    for name, kind in (("tool", str), ("source", Path), ("target", Path), ("sparsity", float)):
        worker.add_argument(name, type=kind)
    options = parser.parse_args()
    if options.command == "work":
        work(options.tool, options.source, options.target, options.sparsity)
    elif options.command == "accuracy":
        report("accuracy", accuracy_tables(), options.results)
    else:
        table = speed_table(options.gigabytes, options.rounds, options.tools, options.folder)
        report(f"speed, {options.gigabytes:g} GB", [table], options.results)


if __name__ == "__main__":
    main()
