"""Run the stages of `quantize.py` in processes of their own, and keep what they say.

Records are lines of JSON, appended as they are made: {"model", "tool", "stage", ...}. The last one
of a model, tool and stage counts. A record with "error" is a failure, and stands as one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from measure import Peak, measure
from quantize_task import Places, Task
from quantize_tools import PIPELINES

HERE = Path(__file__).resolve().parent
FLOAT = "float"
"""The tool's name in the records of the model as it was."""
STAGES = ("quantize", "metric", "latency")

Record = dict[str, Any]
Key = tuple[str, str, str]


@dataclass
class Records:
    """The file of records."""

    path: Path
    known: dict[Key, Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.read()

    def read(self) -> None:
        """Take what the file has, from another run at the same time, too."""
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                record = json.loads(line)
                self.known[_key(record)] = record

    def add(self, record: Record) -> None:
        """Append a record; one of the same key before it no longer counts."""
        self.known[_key(record)] = record
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def compact(self) -> None:
        """Drop from the file what no longer counts."""
        self.read()
        part = self.path.with_suffix(".part")
        part.write_text("".join(json.dumps(self.known[key]) + "\n" for key in sorted(self.known)))
        part.replace(self.path)


def _key(record: Record) -> Key:
    return record["model"], record["tool"], record["stage"]


@dataclass(frozen=True)
class Bench:
    """How measurements are made.

    Args:
        places: Where things lie.
        work: Where quantized models are kept.
        timeout: Seconds that a process may take.
        rounds: Rounds of a latency.
        threads: Threads of a session that is timed.
    """

    places: Places
    work: Path
    timeout: float
    rounds: int
    threads: int

    def out(self, task: Task, tool: str) -> Path:
        """Where a tool's model lies."""
        return task.model if tool == FLOAT else self.work / task.name / f"{tool}.onnx"

    def measure(self, task: Task, tool: str, stage: str) -> Record:
        """Run one stage; failures are told, not raised."""
        record: Record = {"model": task.name, "tool": tool, "stage": stage}
        record["load"] = round(os.getloadavg()[0], 1)
        try:
            return record | self._stages(task, tool, stage)
        except _FailedError as error:
            return record | {"error": str(error)}

    def _stages(self, task: Task, tool: str, stage: str) -> Record:
        out = str(self.out(task, tool))
        if stage == "metric":
            return self._worker("metric", task.name, out)[0]
        if stage == "latency":
            return self._worker("latency", task.name, out, str(self.rounds), str(self.threads))[0]
        if tool == FLOAT:
            return {"bytes": stored_bytes(task.model)}
        return self._quantize(task, tool)

    def _quantize(self, task: Task, tool: str) -> Record:
        out = self.out(task, tool)
        out.parent.mkdir(parents=True, exist_ok=True)
        for old in (out, *out.parent.glob(f"{out.name}?*")):
            old.unlink(missing_ok=True)
        if tool in PIPELINES:
            answer, peak = self._graphopt(task, tool, out)
        else:
            answer, peak = self._worker("quantize", task.name, tool, str(out))
        if not out.exists():
            raise _FailedError("wrote no model")
        return {
            "seconds": peak.seconds,
            "cpu_seconds": peak.cpu,
            "peak_mib": peak.resident / (1 << 20),
            "bytes": stored_bytes(out),
            **answer,
        }

    def _graphopt(self, task: Task, tool: str, out: Path) -> tuple[Record, Peak]:
        """Verification is no option here, and counts: it is what users get."""
        told = out.with_suffix(".json")
        command = [sys.executable, "-m", "graphopt", "run", str(task.model), "-o", str(out)]
        command += ["-p", PIPELINES[tool], "--data", str(self._samples(task))]
        peak = self._process([*command, "--json", str(told)])
        timing = json.loads(told.read_text())["timing"]
        return {"inner_seconds": timing["seconds"]}, peak

    def _samples(self, task: Task) -> Path:
        data = self.work / task.name / "calibration.npz"
        if not data.exists():
            np.savez(data, **task.calibration())
        return data

    def _worker(self, *arguments: str) -> tuple[Record, Peak]:
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder) / "answer.json"
            places = f"{self.places.shared}:{self.places.cache}"
            command = [sys.executable, str(HERE / "quantize_worker.py"), str(answer), places]
            peak = self._process([*command, *arguments])
            found: Record = json.loads(answer.read_text())
            return found, peak

    def _process(self, command: list[str]) -> Peak:
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads), "TQDM_DISABLE": "1"}
        with tempfile.TemporaryFile() as errors:
            try:
                return measure(
                    command,
                    timeout=self.timeout,
                    environment=environment,
                    stdout=errors,
                    stderr=errors,
                )
            except subprocess.TimeoutExpired:
                raise _FailedError(f"took more than {self.timeout:.0f} s") from None
            except subprocess.CalledProcessError as error:
                errors.seek(0)
                text = errors.read().decode(errors="replace")
                raise _FailedError(_reason(text) or f"exit code {error.returncode}") from None


class _FailedError(Exception):
    """A tool failed; the text says why in one line."""


def _reason(text: str) -> str:
    """The line of an exception, or the last one, without paths and colours."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    lines = [line for line in lines if line]
    told = [
        line for line in lines if re.match(r"^(graphopt|[\w.]*(Error|Exception|Fail)\w*):", line)
    ]
    chosen = (told or lines or [""])[-1]
    return re.sub(r"(/[\w.+-]+){2,}/", "", chosen)[:240]


def stored_bytes(path: Path) -> int:
    """The size of a model with its external data."""
    import onnx
    from onnx.external_data_helper import uses_external_data

    model = onnx.load(path, load_external_data=False)
    locations = {
        entry.value
        for tensor in _tensors(model.graph)
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return path.stat().st_size + sum((path.parent / name).stat().st_size for name in locations)


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            for body in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _tensors(body)
