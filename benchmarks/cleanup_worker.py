"""One measurement of `cleanup.py`, in a process of its own; the answer goes to a JSON file.

cleanup_worker.py ANSWER simplify TOOL MODEL OUT
cleanup_worker.py ANSWER count MODEL
cleanup_worker.py ANSWER compare NAME MODEL
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Answer = dict[str, Any]


def simplify(tool: str, source: str, out: str) -> Answer:
    """Simplify a file into another; measure seconds without imports, and the peak memory."""
    job = _TOOLS[tool]()
    import_mib = _peak_mib()
    start = time.perf_counter()
    job(source, out)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mib": _peak_mib(), "import_mib": import_mib}


def count(path: str) -> Answer:
    """Count nodes, bodies included and functions inlined, and bytes with external data."""
    import onnx
    import onnx.inliner

    model = onnx.load(path, load_external_data=False)
    size = Path(path).stat().st_size
    for location in {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }:
        size += (Path(path).parent / location).stat().st_size
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    nodes, constants = _count_nodes(model.graph)
    return {"nodes": nodes, "constants": constants, "bytes": size}


def compare(name: str, candidate: str) -> Answer:
    """Run a model of the corpus and its candidate without optimizations on the same feeds.

    Outputs are equal when no element is apart by more than 1e-4 of the output's largest magnitude
    (1e-2 in float16): what reassociation costs in practice over tens of layers. Integers, strings
    and booleans must be identical, shapes too.
    """
    import numpy as np
    from corpus import corpus, feeds

    entry = next(entry for entry in corpus()[0] if entry.name == name)
    before, after = _session(str(entry.path)), _session(candidate)
    names = [value.name for value in before.get_outputs()]
    same_interface = names == [value.name for value in after.get_outputs()]
    equal, worst = same_interface, 0.0
    for case in feeds(entry) if same_interface else ():
        for old, new in zip(before.run(names, case), after.run(names, case), strict=True):
            if old.shape != new.shape or old.dtype != new.dtype:
                equal = False
            elif np.issubdtype(old.dtype, np.floating):
                finite = bool((np.isnan(old) == np.isnan(new)).all())
                scale = float(np.nanmax(np.abs(old), initial=1e-6))
                wide = old.astype(np.float64) - new.astype(np.float64)
                error = float(np.nanmax(np.abs(wide), initial=0.0)) / scale
                worst = max(worst, error)
                equal = equal and finite and error <= (1e-2 if old.dtype == np.float16 else 1e-4)
            else:
                equal = equal and bool(np.array_equal(old, new))
    return {"equal": equal, "max_error": worst}


def _count_nodes(graph: Any) -> tuple[int, int]:
    nodes = constants = 0
    for node in graph.node:
        constants += node.op_type == "Constant"
        nodes += node.op_type != "Constant"
        for attribute in node.attribute:
            bodies = [attribute.g] if attribute.HasField("g") else []
            for body in [*bodies, *attribute.graphs]:
                inner = _count_nodes(body)
                nodes, constants = nodes + inner[0], constants + inner[1]
    return nodes, constants


def _session(path: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _peak_mib() -> float:
    """Return this program's peak resident memory; the parent's does not count where Linux tells."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1024


def _graphopt() -> Callable[[str, str], object]:
    from graphopt.model import load, save
    from graphopt.pipeline.contract import Context, Rewrite
    from passes.cleanup import Cleanup

    def job(source: str, out: str) -> None:
        model = load(source)
        for event in Cleanup().rewrites(model, Context()):
            if isinstance(event, Rewrite):
                event.apply()
        save(model, out)

    return job


def _onnxslim() -> Callable[[str, str], object]:
    import onnx
    import onnxslim

    return lambda source, out: onnx.save(onnxslim.slim(onnx.load(source)), out)


def _onnxsim() -> Callable[[str, str], object]:
    import onnx
    import onnxsim

    return lambda source, out: onnx.save(onnxsim.simplify(onnx.load(source))[0], out)


def _onnxscript() -> Callable[[str, str], object]:
    import onnx
    from onnxscript import optimizer

    return lambda source, out: onnx.save(optimizer.optimize(onnx.load(source)), out)


def _ort_basic() -> Callable[[str, str], object]:
    import onnxruntime

    def job(source: str, out: str) -> None:
        options = onnxruntime.SessionOptions()
        level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.graph_optimization_level = level
        options.optimized_model_filepath = out
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    return job


_TOOLS = {
    "graphopt": _graphopt,
    "onnxslim": _onnxslim,
    "onnxsim": _onnxsim,
    "onnxscript": _onnxscript,
    "ort-basic": _ort_basic,
}
_JOBS: dict[str, Callable[..., Answer]] = {"simplify": simplify, "count": count, "compare": compare}

if __name__ == "__main__":
    answer = _JOBS[sys.argv[2]](*sys.argv[3:])
    Path(sys.argv[1]).write_text(json.dumps(answer))
