"""One measurement of `quantize.py`, in a process of its own; the answer goes to a JSON file.

quantize_worker.py ANSWER PLACES quantize TASK TOOL OUT
quantize_worker.py ANSWER PLACES metric TASK MODEL
quantize_worker.py ANSWER PLACES latency TASK MODEL ROUNDS THREADS

PLACES is two folders, joined by a colon: `--shared` and `--cache`.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from quantize_corpus import MAKERS
from quantize_task import Places, Run, Task
from quantize_tools import PEERS

Answer = dict[str, Any]

FLOAT = {
    "Conv": "Conv",
    "FusedConv": "Conv",
    "ConvTranspose": "ConvTranspose",
    "MatMul": "MatMul",
    "FusedMatMul": "MatMul",
    "Gemm": "Gemm",
    "FusedGemm": "Gemm",
    "LSTM": "LSTM",
    "GRU": "GRU",
    "Attention": "Attention",
    "MultiHeadAttention": "Attention",
}
"""Operators that compute in float, and what they are counted as."""
INTEGER = {
    "QLinearConv",
    "ConvInteger",
    "QLinearMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QGemm",
    "DynamicQuantizeLSTM",
    "QAttention",
    "MatMulNBits",
}


def quantize(task: Task, tool: str, out: str) -> Answer:
    """Quantize the task's model with a peer; imports and reading of samples are no part of it."""
    logging.disable(logging.WARNING)
    arrays = task.calibration()
    samples = [task.cut(arrays, place, place + 1) for place in range(task.count(arrays))]
    importlib.import_module(PEERS[tool].module)
    start, cpu = time.perf_counter(), time.process_time()
    PEERS[tool].job(str(task.model), out, samples, task)
    return {
        "inner_seconds": time.perf_counter() - start,
        "inner_cpu_seconds": time.process_time() - cpu,
    }


def metric(task: Task, path: str) -> Answer:
    """The task's metric, and the operators of the optimized graph."""
    answer = {"metric": task.evaluate(_run(path, 1))}
    with tempfile.TemporaryDirectory() as folder:
        optimized = str(Path(folder) / "optimized.onnx")
        _session(path, 1, optimized)
        return answer | _operators(optimized)


def latency(task: Task, path: str, rounds: str, threads: str) -> Answer:
    """Time to the float model's at each batch size: the medians and quartiles of paired rounds.

    On one thread it is the CPU's time, which others on the machine do not lengthen.
    """
    from graphopt.runtime.latency import interleave, ratio

    arrays = task.calibration()
    answer: Answer = {}
    for batch in task.batches:
        feeds = task.cut(arrays, 0, batch)
        runs = [_run(str(task.model), int(threads)), _run(path, int(threads))]
        base, candidate = interleave(
            [partial(run, feeds) for run in runs],
            rounds=int(rounds),
            clock=time.process_time if int(threads) == 1 else time.perf_counter,
        )
        against = ratio(candidate, base)
        answer[str(batch)] = {
            "ratio": against.median,
            "low": against.low,
            "high": against.high,
            "float_ms": 1000 * base.median,
        }
    return {"latency": answer}


def _operators(path: str) -> Answer:
    import onnx

    counts: Counter[str] = Counter()
    _count(onnx.load(path, load_external_data=False).graph, counts)
    floats: Counter[str] = Counter()
    for name, count in counts.items():
        if name in FLOAT:
            floats[FLOAT[name]] += count
    integers = {name: counts[name] for name in sorted(INTEGER & counts.keys())}
    pairs = counts["QuantizeLinear"] + counts["DequantizeLinear"]
    return {"float_operators": dict(floats), "integer_operators": integers, "qdq_left": pairs}


def _count(graph: Any, counts: Counter[str]) -> None:
    for node in graph.node:
        counts[node.op_type] += 1
        for attribute in node.attribute:
            bodies = [attribute.g] if attribute.HasField("g") else []
            for body in [*bodies, *attribute.graphs]:
                _count(body, counts)


def _session(path: str, threads: int, optimized: str | None = None) -> Any:
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if optimized is not None:
        options.optimized_model_filepath = optimized
        key = "session.optimized_model_external_initializers_file_name"
        options.add_session_config_entry(key, "optimized.data")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _run(path: str, threads: int) -> Run:
    session = _session(path, threads)
    wanted = {value.name for value in session.get_inputs()}
    return lambda feeds: session.run(
        None, {name: array for name, array in feeds.items() if name in wanted}
    )


_JOBS = {"quantize": quantize, "metric": metric, "latency": latency}

if __name__ == "__main__":
    os.environ["TQDM_DISABLE"] = "1"
    np.seterr(all="ignore")
    target, folders, job, name = sys.argv[1:5]
    shared, cache = folders.split(":")
    found = _JOBS[job](MAKERS[name](Places(Path(shared), Path(cache))), *sys.argv[5:])
    Path(target).write_text(json.dumps(found))
