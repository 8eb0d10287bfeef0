"""Load, edit and save big models: seconds and memory beside `cp`, onnx and onnx-graphsurgeon.

    python benchmarks/model_io.py --gigabytes 1 --rounds 3

Two tasks on a synthetic model of 1,000 MatMul nodes with external data: `one` replaces one weight,
`all` zeroes every element below a threshold. Every run is a process of its own, from its start to
its end, imports included; rounds are interleaved, and the disk is settled (`sync`) between runs.
Results go into another folder, which takes a copy of every weight; `graphopt, beside the source`
saves into the same one, where it writes only what is new.
`measure.py` samples RssAnon and VmHWM from /proc/PID/status.
`cp` copies the two files of the model and flushes nothing; `cp, flushed` also waits for the disk,
as every save of graphopt does; `dd, direct` writes the data file past the page cache, which is the
least that anything durable can take on this disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from measure import Peak, measure

if TYPE_CHECKING:
    import numpy as np

NODES = 1000
THRESHOLD = 0.01
EDITED = NODES // 2
BESIDE = "graphopt, beside the source"
TOOLS = ("cp", "cp, flushed", "dd, direct", "graphopt", BESIDE, "onnx", "onnx-graphsurgeon")


def make_model(folder: Path, gigabytes: float) -> Path:
    import numpy as np
    import onnx_ir as ir

    from graphopt.model import save

    side = round((gigabytes * 1e9 / NODES / 4) ** 0.5)

    def weight(seed: int) -> Callable[[], ir.Tensor]:
        def make() -> ir.Tensor:
            noise = np.random.default_rng(seed).standard_normal((side, side), np.float32)
            return ir.Tensor(noise / np.float32(side**0.5))

        return make

    shape, kind = ir.Shape([side, side]), ir.TensorType(ir.DataType.FLOAT)
    nodes: list[ir.Node] = []
    weights = []
    value = source = ir.Value(name="x", type=kind, shape=ir.Shape(["N", side]))
    for seed in range(NODES):
        tensor = ir.LazyTensor(weight(seed), ir.DataType.FLOAT, shape, name=f"w{seed}")
        weights.append(ir.Value(name=tensor.name, type=kind, shape=shape, const_value=tensor))
        nodes.append(ir.Node("", "MatMul", [value, weights[-1]], name=f"matmul{seed}"))
        value = nodes[-1].outputs[0]
        value.name = f"x{seed}"
    value.type, value.shape = kind, source.shape
    graph = ir.Graph([source], [value], nodes=nodes, initializers=weights, opset_imports={"": 18})
    model = ir.Model(graph, ir_version=10)
    path = folder / "source.onnx"
    save(model, path, external_data=True)
    return path


def cut(array: np.ndarray) -> np.ndarray:
    return array * (abs(array) >= THRESHOLD)


def graphopt_task(source: Path, target: Path, task: str) -> None:
    import onnx_ir as ir

    from graphopt.model import load, save

    model = load(source)

    for index, value in enumerate(model.graph.initializers.values()):
        if task == "all" or index == EDITED:
            tensor = value.const_value
            value.const_value = ir.LazyTensor(
                lambda tensor=tensor: ir.Tensor(cut(tensor.numpy())),
                tensor.dtype,
                tensor.shape,
                name=tensor.name,
            )
    save(model, target, external_data=True)


def onnx_task(source: Path, target: Path, task: str) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(source)
    for index, tensor in enumerate(model.graph.initializer):
        if task == "all" or index == EDITED:
            array = cut(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    _save_external(model, target)


def graphsurgeon_task(source: Path, target: Path, task: str) -> None:
    import onnx
    import onnx_graphsurgeon as gs

    graph = gs.import_onnx(onnx.load(source))
    constants = [t for t in graph.tensors().values() if isinstance(t, gs.Constant)]
    for index, tensor in enumerate(constants):
        if task == "all" or index == EDITED:
            tensor.values = cut(tensor.values)
    _save_external(gs.export_onnx(graph), target)


def _save_external(model: object, target: Path) -> None:
    import onnx

    location = f"{target.name}.data"
    onnx.save(model, target, save_as_external_data=True, location=location)


WORKERS = {
    "graphopt": graphopt_task,
    BESIDE: graphopt_task,
    "onnx": onnx_task,
    "onnx-graphsurgeon": graphsurgeon_task,
}


def command(tool: str, source: Path, target: Path, task: str) -> list[str]:
    """Return the command line that does a task with a tool."""
    if tool in WORKERS:
        return [sys.executable, __file__, "--work", tool, str(source), str(target), task]
    if tool == "dd, direct":
        return ["dd", f"if={source}.data", f"of={target}.data", "bs=16M", "oflag=direct"]
    files = [str(source), f"{source}.data"]
    copy = shlex.join(["cp", *files, str(target.parent)])
    flush = shlex.join(["sync", *(str(target.parent / Path(file).name) for file in files)])
    return ["sh", "-c", f"exec {copy}" if tool == "cp" else f"{copy} && {flush}"]


def rounds(source: Path, folder: Path, count: int, tools: list[str]) -> dict[str, list[Peak]]:
    results: dict[str, list[Peak]] = {}
    for turn in range(count):
        for task in ("one", "all"):
            for tool in tools:
                target = prepared(folder, source, tool)
                run = measure(command(tool, source, target, task))
                results.setdefault(f"{task}/{tool}", []).append(run)
                print(f"round {turn + 1}: {task}, {tool}: {run}", file=sys.stderr)
    shutil.rmtree(folder / "out", ignore_errors=True)
    return results


def prepared(folder: Path, source: Path, tool: str) -> Path:
    """Remove what the last run made, and let the disk settle; return where the next one saves."""
    beside = source.parent / "target.onnx"
    for path in source.parent.glob(f"{beside.name}*"):
        path.unlink()
    target = folder / "out" / "target.onnx"
    shutil.rmtree(target.parent, ignore_errors=True)
    target.parent.mkdir()
    os.sync()
    return beside if tool == BESIDE else target


def summary(results: dict[str, list[Peak]]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for key, runs in results.items():
        task, tool = key.split("/")
        seconds = [run.seconds for run in runs]
        copies = [run.seconds for run in results[f"{task}/cp"]]
        flushed = [run.seconds for run in results[f"{task}/cp, flushed"]]
        rows.append(
            {
                "task": task,
                "tool": tool,
                "seconds": round(statistics.median(seconds), 2),
                "spread": [round(min(seconds), 2), round(max(seconds), 2)],
                "times cp": round(statistics.median(map(ratio, seconds, copies)), 2),
                "times cp, flushed": round(statistics.median(map(ratio, seconds, flushed)), 2),
                "anonymous MB": round(max(run.anonymous for run in runs) / 1e6),
                "resident MB": round(max(run.resident for run in runs) / 1e6),
            }
        )
    return rows


def ratio(one: float, other: float) -> float:
    return one / other


def show(rows: list[dict[str, object]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(str(cell) for cell in row.values()))
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tools", nargs="*", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--folder", type=Path, help="where the models are written")
    parser.add_argument(
        "--json", type=Path, default=Path(__file__).parent / "results/model_io.json"
    )
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        tool, source, target, task = options.work
        WORKERS[tool](Path(source), Path(target), task)
        return
    tools = [tool for tool in TOOLS if tool in {*options.tools, "cp", "cp, flushed"}]
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        source = make_model(folder, options.gigabytes)
        size = sum(path.stat().st_size for path in folder.iterdir())
        rows = summary(rounds(source, folder, options.rounds, tools))
    show(rows, f"{NODES} MatMul nodes, {size / 1e9:.2f} GB, {options.rounds} rounds, medians")
    known = json.loads(options.json.read_text()) if options.json.exists() else {}
    known[f"{options.gigabytes:g} GB"] = {
        "bytes": size,
        "rounds": options.rounds,
        "machine": f"{os.cpu_count()} x {platform.machine()}, Linux {platform.release()}",
        "python": platform.python_version(),
        "rows": rows,
    }
    options.json.parent.mkdir(exist_ok=True)
    options.json.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
