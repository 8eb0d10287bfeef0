"""Compare calibration: seconds and peak memory, graphopt and onnxruntime.quantization.

    python benchmarks/calibration.py run [--rounds 3] [--models NAME ...]

Each measurement is a process of its own; rounds are interleaved, and medians reported. All tools
watch every value of the main graph, on the same seeded samples, with as many threads for operators
as ONNX Runtime chooses.
`seconds` is that of calibration alone: from the model in a file and samples in memory to all
ranges. The memory of a process that only imports and loads is in the first row.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measure import measure

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "calibration.json"
METHODS = ("minmax", "percentile", "entropy", "mse")
PEERS = ("minmax", "percentile", "entropy")


@dataclass(frozen=True)
class Task:
    name: str
    model: Path
    shape: tuple[int, ...]
    counts: tuple[int, ...] = (100, 1000)


def tasks() -> list[Task]:
    found = [Task("digits_resnet", ROOT / "fixtures" / "digits_resnet.onnx", (1, 8, 8))]
    cifar = ROOT.parent / "shared" / "models" / "cifar10_resnet20.onnx"
    if cifar.exists():
        found.append(Task("cifar10_resnet20", cifar, (3, 32, 32)))
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    if spec is not None and spec.origin is not None:
        models = Path(spec.origin).parent / "models"
        rec = models / "ch_PP-OCRv4_rec_infer.onnx"
        if rec.exists():
            # On 20 samples of it, onnxruntime's histogram methods take 4.6 GB.
            found.append(Task("rapidocr_rec", rec, (3, 48, 320), (10,)))
    return [task for task in found if task.model.exists()]


def samples_of(task: Task, count: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).standard_normal((count, *task.shape)).astype(np.float32)


def run_graphopt(task: Task, method: str, count: int) -> dict[str, Any]:
    from graphopt.calibration import Rule, ranges
    from graphopt.model import load
    from graphopt.pipeline.contract import Context
    from graphopt.runtime.feeds import Feeds

    samples = samples_of(task, count)
    start = time.perf_counter()
    model = load(task.model)
    name = str(model.graph.inputs[0].name)
    names = [name] + [
        str(value.name)
        for node in model.graph
        if node.op_type != "Constant"
        for value in node.outputs
        if value.name
    ]
    found = ranges(model, names, Context(feeds=Feeds({name: samples})), Rule(method))  # type: ignore[arg-type]
    return {"seconds": time.perf_counter() - start, "ranges": len(found)}


def run_onnxruntime(task: Task, method: str, count: int) -> dict[str, Any]:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    samples = samples_of(task, count)

    class Reader(CalibrationDataReader):  # type: ignore[misc] # the package has no types
        def __init__(self, name: str) -> None:
            self._left: Iterator[Any] = ({name: samples[i : i + 1]} for i in range(count))

        def get_next(self) -> Any:
            return next(self._left, None)

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        model = onnx.load(task.model)
        calibrator = create_calibrator(
            task.model,
            [],
            augmented_model_path=f"{folder}/augmented.onnx",
            calibrate_method=methods[method],
        )
        calibrator.collect_data(Reader(model.graph.input[0].name))
        found = calibrator.compute_data()
        return {"seconds": time.perf_counter() - start, "ranges": len(found.data)}


def run_nothing(task: Task, method: str, count: int) -> dict[str, Any]:
    import onnxruntime

    from graphopt.model import load

    del method
    load(task.model)
    onnxruntime.InferenceSession(str(task.model), providers=["CPUExecutionProvider"])
    samples_of(task, count)
    return {"seconds": 0.0, "ranges": 0}


TOOLS = {"graphopt": run_graphopt, "onnxruntime": run_onnxruntime, "nothing": run_nothing}


def work(tool: str, name: str, method: str, count: int) -> None:
    import contextlib

    task = next(task for task in tasks() if task.name == name)
    import onnxruntime

    import graphopt.calibration  # noqa: F401 - imports are not what is measured

    del onnxruntime
    before = time.process_time()
    with contextlib.redirect_stdout(sys.stderr):
        found = TOOLS[tool](task, method, count)
    print(json.dumps({**found, "cpu": time.process_time() - before}))


@dataclass
class Row:
    model: str
    samples: int
    method: str
    tool: str
    seconds: float | None
    spread: str
    cpu_seconds: float | None
    peak_mb: int | None
    ranges: int | None
    error: str = ""


def one(tool: str, task: Task, method: str, count: int) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile("r", suffix=".json") as out:
        command = [sys.executable, __file__, "work", tool, task.name, method, str(count)]
        shell = ["sh", "-c", 'exec "$@" >"$0" 2>"$0.err"', out.name, *command]
        try:
            peak = measure(shell)
        except subprocess.CalledProcessError as error:
            text = Path(f"{out.name}.err").read_text().strip().splitlines()
            last = text[-1] if text else f"exit code {error.returncode}"
            return {"error": last[:200]}
        finally:
            Path(f"{out.name}.err").unlink(missing_ok=True)
        return {**json.loads(out.read()), "peak": peak.resident}


def measured(rounds: int, only: list[str] | None) -> Iterator[list[Row]]:
    """Yield the table as it is behind each round."""
    cases = [
        (task, count, method, tool)
        for task in tasks()
        if not only or task.name in only
        for count in task.counts
        for method, tool in [
            ("-", "nothing"),
            *((m, t) for m in METHODS for t in ("graphopt", "onnxruntime")),
        ]
        if tool != "onnxruntime" or method in PEERS
    ]
    runs: dict[int, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for index, (task, count, method, tool) in enumerate(cases):
            found = one(tool, task, method, count)
            runs.setdefault(index, []).append(found)
            print(task.name, count, method, tool, found, file=sys.stderr)
        yield [_row(*case, runs[index]) for index, case in enumerate(cases)]


def _row(task: Task, count: int, method: str, tool: str, found: list[dict[str, Any]]) -> Row:
    errors = [run["error"] for run in found if "error" in run]
    if errors:
        return Row(task.name, count, method, tool, None, "", None, None, None, errors[0])
    seconds = [run["seconds"] for run in found]
    return Row(
        task.name,
        count,
        method,
        tool,
        round(statistics.median(seconds), 2),
        f"{min(seconds):.2f} to {max(seconds):.2f}",
        round(statistics.median(run["cpu"] for run in found), 2),
        round(max(run["peak"] for run in found) / 1e6),
        found[0]["ranges"],
    )


def ratios(rows: list[Row]) -> list[dict[str, Any]]:
    """How graphopt compares with the other tool for the same method."""
    by_case = {(row.model, row.samples, row.method, row.tool): row for row in rows}
    found = []
    for (model, samples, method, tool), peer in by_case.items():
        mine = by_case.get((model, samples, method, "graphopt"))
        if tool != "onnxruntime" or mine is None or not mine.seconds or not mine.peak_mb:
            continue
        if peer.seconds is None or peer.peak_mb is None:
            continue
        found.append(
            {
                "model": model,
                "samples": samples,
                "method": method,
                "times as fast": round(peer.seconds / mine.seconds, 2),
                "by CPU seconds": round((peer.cpu_seconds or 0) / (mine.cpu_seconds or 1), 2),
                "memory of its": f"{mine.peak_mb / peer.peak_mb:.0%}",
            }
        )
    return found


def report(rows: list[Row], rounds: int, path: Path) -> None:
    import onnxruntime

    record = {
        "machine": f"{os.cpu_count()} x {platform.machine()}, Linux {platform.release()}",
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "rounds": rounds,
        "load": round(os.getloadavg()[2], 1),
        "rows": [asdict(row) for row in rows],
        "ratios": ratios(rows),
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    lines = [
        "# calibration",
        "",
        f"Python {record['python']}, onnxruntime {record['onnxruntime']}, {record['machine']};"
        f" medians of {rounds} interleaved rounds, all values of the main graph watched.",
        f"Over the last 15 minutes {record['load']} processes wanted to run on average: where that"
        " is more than there are processors, seconds tell little, and CPU seconds more.",
        "",
    ]
    for part in (record["rows"], record["ratios"]):
        if not part:
            continue
        columns = list(part[0])
        lines += ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
        for row in part:
            cells = ("" if cell is None else str(cell) for cell in row.values())
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    path.with_suffix(".md").write_text("\n".join(lines))
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--rounds", type=int, default=3)
    run.add_argument("--models", nargs="*", help="names of models; all that are here")
    run.add_argument("--results", type=Path, default=RESULTS)
    worker = commands.add_parser("work")
    for name, kind in (("tool", str), ("model", str), ("method", str), ("samples", int)):
        worker.add_argument(name, type=kind)
    options = parser.parse_args()
    if options.command == "work":
        work(options.tool, options.model, options.method, options.samples)
    else:
        for done, rows in enumerate(measured(options.rounds, options.models), 1):
            report(rows, done, options.results)


if __name__ == "__main__":
    main()
