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
    start, cpu = time.perf_counter(), time.process_time()
    job(source, out)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_mib": _peak_mib(),
        "import_mib": import_mib,
    }


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

    Floating-point outputs are equal when no element is apart by more than 1e-4 of the output's
    largest magnitude (1e-2 in float16) and 1e-6: what reassociation costs over tens of layers, and
    what ONNX Runtime's sigmoid costs near 0. Integers, strings, booleans and shapes must be
    identical. A candidate that wants other inputs or gives other outputs has changed.
    """
    from corpus import corpus, feeds

    entry = next(entry for entry in corpus()[0] if entry.name == name)
    before, after = _session(str(entry.path)), _session(candidate)
    names = [value.name for value in before.get_outputs()]
    wanted = {value.name for value in before.get_inputs()}
    extra = [value.name for value in after.get_inputs() if value.name not in wanted]
    if extra or names != [value.name for value in after.get_outputs()]:
        return {"equal": False, "why": f"other interface, such as {extra[:1] or names[:1]}"}
    differences = [
        _difference(old, new)
        for case in feeds(entry)
        for old, new in zip(before.run(names, case), after.run(names, case), strict=True)
    ]
    return {
        "equal": all(equal for equal, _ in differences),
        "max_error": max(error for _, error in differences),
    }


def _difference(old: Any, new: Any) -> tuple[bool, float]:
    """Return whether two outputs are equal, and their largest difference over the largest value."""
    import numpy as np

    if old.shape != new.shape or old.dtype != new.dtype:
        return False, float("inf")
    if not np.issubdtype(old.dtype, np.floating):
        return bool(np.array_equal(old, new)), 0.0
    scale = float(np.nanmax(np.abs(old.astype(np.float64)), initial=0.0))
    wide = old.astype(np.float64) - new.astype(np.float64)
    error = float(np.nanmax(np.abs(wide), initial=0.0))
    allowed = (1e-2 if old.dtype == np.float16 else 1e-4) * scale + 1e-6
    same_nans = bool((np.isnan(old) == np.isnan(new)).all())
    return same_nans and error <= allowed, error / max(scale, 1e-2)


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
    # What the pass imports on first use is no part of its time.
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401

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
        if any(Path(source).parent.glob(f"{Path(source).name}*data")):
            # Without this, the result points at weights that do not lie beside it.
            key = "session.optimized_model_external_initializers_file_name"
            options.add_session_config_entry(key, f"{Path(out).name}.data")
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    return job


_TOOLS: dict[str, Callable[[], Callable[[str, str], object]]] = {
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
