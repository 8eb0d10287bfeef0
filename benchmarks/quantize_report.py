"""Tables and counts from the records of `quantize.py`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantize_measure import FLOAT, Key, Record
from quantize_task import Task
from quantize_tools import DEFAULT, PEERS, PIPELINES, TOOLS

SLACK = 0.03
"""What a ratio of latencies may be off by chance: a tie within it is one."""
WELL_DROP, WELL_FILE = 1.0, 0.5
TARGET_DROP, TARGET_FILE = 0.5, 0.30
HISTOGRAMS = ("entropy", "percentile")

Known = Mapping[Key, Record]


@dataclass(frozen=True)
class Row:
    """What one tool did to one model.

    Args:
        tool: Its name.
        error: Why there is no model, or why it does not run.
        metric: On held-out data.
        drop: Points lost to float.
        ratios: Latency to float's, with quartiles, by batch size.
        size: Bytes to the float model's.
        left: Float operators of the optimized graph.
        integers: Integer operators of it.
    """

    tool: str
    record: Record
    error: str | None
    metric: float | None = None
    drop: float = math.inf
    ratios: Mapping[str, Record] | None = None
    size: float = math.inf
    left: int | None = None
    integers: int | None = None

    @property
    def latency(self) -> float:
        """The geometric mean over batch sizes; infinite where unknown."""
        if not self.ratios:
            return math.inf
        logs = [math.log(found["ratio"]) for found in self.ratios.values()]
        return math.exp(sum(logs) / len(logs))

    @property
    def never_slower(self) -> bool:
        return bool(self.ratios) and all(
            found["ratio"] <= 1 + SLACK for found in (self.ratios or {}).values()
        )

    @property
    def done_well(self) -> bool:
        return self.drop <= WELL_DROP and self.never_slower and self.size < WELL_FILE


def rows(known: Known, task: Task) -> Iterator[Row]:
    """One row per tool that was tried, in the order of the tools."""
    size = known.get((task.name, FLOAT, "quantize"), {}).get("bytes")
    base = known.get((task.name, FLOAT, "metric"), {}).get("metric")
    for tool in TOOLS:
        found = [known.get((task.name, tool, stage), {}) for stage in _STAGES]
        if found[0]:
            yield _row(task, tool, found, size, base)


_STAGES = ("quantize", "metric", "latency")


def _row(
    task: Task, tool: str, found: Sequence[Record], size: int | None, base: float | None
) -> Row:
    made, ran, timed = found
    error = next((record["error"] for record in found if "error" in record), None)
    metric = ran.get("metric")
    floats = ran.get("float_operators")
    integers = ran.get("integer_operators")
    return Row(
        tool,
        made,
        error,
        metric,
        math.inf if metric is None or base is None else task.drop(base, metric),
        timed.get("latency"),
        made["bytes"] / size if size and "bytes" in made else math.inf,
        None if floats is None else sum(floats.values()),
        None if integers is None else sum(integers.values()),
    )


def terse(record: Record) -> str:
    """A line of progress."""
    name = f"{record['model']} {record['tool']} {record['stage']}"
    if "error" in record:
        return f"{name}: {record['error']}"
    if record["stage"] == "metric":
        return f"{name}: {record['metric']:.4f}, float operators {record['float_operators']}"
    if record["stage"] == "latency":
        ratios = {batch: round(found["ratio"], 2) for batch, found in record["latency"].items()}
        return f"{name}: {ratios}"
    seconds = f", {record['seconds']:.1f} s" if "seconds" in record else ""
    return f"{name}: {record['bytes']:,} bytes{seconds}"


def markdown(known: Known, tasks: Sequence[Task], absent: Mapping[str, str]) -> str:
    """One table per model."""
    lines = ["# quantize beside other quantizers", ""]
    versions = known.get(("", "", "versions"), {})
    shown = [f"{name} {version}" for name, version in versions.items() if name not in _KEYS]
    lines += [", ".join(shown) + ".", ""] if shown else []
    lines += [
        "Latency: time to the float model's (below 1 is faster), medians of interleaved rounds,"
        " quartiles in brackets. File: size to the float model's. Left: float operators"
        " (convolutions, matrix products, recurrences) in ONNX Runtime's optimized graph, and"
        " integer ones beside them. Seconds: from file to file, without imports; of the CPU, by the"
        " whole process; MiB: its peak. **Bold**: at most"
        f" {WELL_DROP:g} point lost, no batch size slower than float, file under {WELL_FILE:g}."
        " A point is a hundredth of the metric; of a perplexity, a percent.",
        "",
    ]
    for task in tasks:
        lines += [*_table(known, task), ""]
    lines += [f"- absent, skipped: {name}: {why}" for name, why in absent.items()]
    lines += [f"- absent peer: {module}" for module in _absent_peers()]
    return "\n".join(lines)


_KEYS = ("model", "tool", "stage")


def _absent_peers() -> list[str]:
    return sorted({peer.module for peer in PEERS.values() if peer.absent})


def _table(known: Known, task: Task) -> Iterator[str]:
    base = known.get((task.name, FLOAT, "metric"), {})
    size = known.get((task.name, FLOAT, "quantize"), {})
    if "metric" not in base:
        yield f"## {task.name}: not measured"
        return
    floats = sum(base["float_operators"].values())
    yield (
        f"## {task.name}: {task.metric} {base['metric']:.4f}, {size['bytes'] / 1e6:.2f} MB,"
        f" {floats} float operators"
    )
    yield ""
    times = " | ".join(f"latency, batch {batch}" for batch in task.batches)
    yield f"| tool | {task.metric} | lost | {times} | file | left / integer | s | CPU s | MiB |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    for row in rows(known, task):
        yield _line(row, task)


def _line(row: Row, task: Task) -> str:
    name = f"**{row.tool}**" if row.done_well else row.tool
    if "bytes" not in row.record:
        return f"| {name} | {_escaped(row.error)} | | | | | | | | |"
    made = row.record
    cells = [name]
    if row.metric is None:
        cells += [_escaped(row.error), "", "", ""]
    else:
        cells += [f"{row.metric:.4f}", f"{row.drop:.2f}"]
        cells += [_ratio((row.ratios or {}).get(str(batch))) for batch in task.batches]
    left = "" if row.left is None else f"{row.left} / {row.integers}"
    cells += [f"{row.size:.2f}", left]
    cells += [
        f"{made['inner_seconds']:.1f}" if "inner_seconds" in made else "",
        f"{made['cpu_seconds']:.1f}",
        f"{made['peak_mib']:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _ratio(found: Record | None) -> str:
    if found is None:
        return ""
    return f"{found['ratio']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def _escaped(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


def summary(known: Known, tasks: Sequence[Task]) -> str:
    """Models done well per tool, and the targets that graphopt's default misses."""
    by_task = {task.name: list(rows(known, task)) for task in tasks}
    lines = ["## Done well", "", "| tool | done well | tried | failed |", "|---|---:|---:|---:|"]
    for tool in TOOLS:
        found = [row for all_rows in by_task.values() for row in all_rows if row.tool == tool]
        if found:
            well = sum(row.done_well for row in found)
            failed = sum(row.error is not None for row in found)
            lines.append(f"| {tool} | {well} | {len(found)} | {failed} |")
    lines.append(_best_by_hand(by_task))
    lines += ["", f"## Targets of `{PIPELINES[DEFAULT]}`", ""]
    lines += [f"- {name}: {_targets(known, found)}" for name, found in by_task.items()]
    return "\n".join(lines)


def _best_by_hand(by_task: Mapping[str, Sequence[Row]]) -> str:
    tried = [found for found in by_task.values() if any(row.tool in PEERS for row in found)]
    well = sum(any(row.done_well for row in found if row.tool in PEERS) for found in tried)
    return f"| the best peer, chosen by hand for each model | {well} | {len(tried)} | |"


def _targets(known: Known, found: Sequence[Row]) -> str:
    by_tool = {row.tool: row for row in found}
    ours = by_tool.get(DEFAULT)
    if ours is None:
        return "not measured"
    if ours.error is not None:
        return f"fails: {ours.error}"
    missed = [*_missed_of(ours, found), *_missed_cost(by_tool)]
    return "; ".join(missed) if missed else "all reached"


def _missed_of(ours: Row, found: Sequence[Row]) -> Iterator[str]:
    if ours.drop > TARGET_DROP:
        yield f"loses {ours.drop:.2f} points"
    if not ours.never_slower:
        worst = max((r["ratio"] for r in (ours.ratios or {}).values()), default=math.inf)
        yield f"slower than float ({worst:.2f})"
    if ours.size > TARGET_FILE:
        yield f"file {ours.size:.2f}"
    keeping = [row for row in found if row.tool in PEERS and row.drop <= TARGET_DROP]
    best = min(keeping, key=lambda row: row.latency, default=None)
    if best is not None and ours.latency > best.latency * (1 + SLACK):
        yield f"latency {ours.latency:.2f}, {best.tool} {best.latency:.2f}"


def _missed_cost(by_tool: Mapping[str, Row]) -> Iterator[str]:
    """Calibration against ONNX Runtime's with the same method: seconds without imports, peaks."""
    pairs = [("minmax", 1.2), *((method, 1 / 3) for method in HISTOGRAMS)]
    for method, most in pairs:
        ours = _cost(by_tool.get(f"graphopt-{method}"))
        theirs = _cost(by_tool.get(f"ort-u8s8-{method}"))
        if ours is None or theirs is None:
            continue
        if ours[0] > most * theirs[0]:
            yield f"{method} takes {ours[0]:.1f} s, ONNX Runtime's {theirs[0]:.1f}"
        if ours[1] > 600 or (method != "minmax" and ours[1] > theirs[1] / 10):
            yield f"{method} peaks at {ours[1]:.0f} MiB, ONNX Runtime's at {theirs[1]:.0f}"


def _cost(row: Row | None) -> tuple[Any, Any] | None:
    if row is None or "inner_seconds" not in row.record:
        return None
    return row.record["inner_seconds"], row.record["peak_mib"]
