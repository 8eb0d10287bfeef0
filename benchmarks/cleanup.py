"""Compare `cleanup` with other ONNX simplifiers on every model in reach.

    python benchmarks/cleanup.py [--rounds 3] [--model GLOB] [--tool NAME ...]

Every tool runs in a process of its own, from file to file, in interleaved rounds on one thread.
Reported are the nodes left (bodies included, functions inlined first, Constant nodes not counted),
the median seconds (imports excluded; of CPU time too, for busy machines), the peak resident memory,
and whether ONNX Runtime, with its own optimizations off, computes the same outputs as before.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click
from cleanup_report import summarize, write_markdown
from corpus import Entry, corpus
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
TOOLS = ("graphopt", "onnxslim", "onnxsim", "onnxscript", "ort-basic")
"""The pass as it is, and without its limit on what folding a constant may add to a file: the other
tools have none (onnxscript has one of its own)."""
TIMEOUT_S = 300.0

Result = dict[str, Any]


@click.command()
@click.option("--rounds", default=3, show_default=True, help="Interleaved rounds per model.")
@click.option("--model", "pattern", default="*", help="Only models whose name matches this glob.")
@click.option("--tool", "tools", multiple=True, type=click.Choice(TOOLS), default=TOOLS)
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the tools' models here.")
@click.option("--write/--no-write", default=True, help="Write benchmarks/results/cleanup.*")
def main(rounds: int, pattern: str, tools: tuple[str, ...], keep: Path | None, write: bool) -> None:
    """Run all tools on all models, print the table, and write it down."""
    entries, absent = corpus()
    progress = Console(stderr=True)
    for name in absent:
        progress.print(f"absent, skipped: {name}")
    chosen = [entry for entry in entries if fnmatch(entry.name, pattern)]
    rows = []
    for entry in chosen:
        with contextlib.ExitStack() as stack:
            folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            rows.append(measure(entry, tools, rounds, folder))
        left = {tool: result.get("nodes", "crash") for tool, result in rows[-1]["tools"].items()}
        progress.print(f"{entry.name}: {rows[-1]['nodes']} -> {left}")
    report = {"rounds": rounds, "absent": absent, "tools": list(tools), "models": rows}
    report["summary"] = summarize(rows, tools)
    show(report)
    if write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "cleanup.json").write_text(json.dumps(report, indent=1) + "\n")
        write_markdown(RESULTS / "cleanup.md", report)


def measure(entry: Entry, tools: tuple[str, ...], rounds: int, folder: Path) -> Result:
    """Run every tool `rounds` times on one model, the tools taking turns."""
    outs = {tool: folder / tool / entry.name for tool in tools}
    runs: dict[str, list[Result]] = {tool: [] for tool in tools}
    for out in outs.values():
        out.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(rounds):
        for tool, out in outs.items():
            if not any("crash" in run for run in runs[tool]):
                runs[tool].append(_worker("simplify", tool, str(entry.path), str(out)))
    row = {"model": entry.name, **_worker("count", str(entry.path))}
    row["tools"] = {tool: _result(entry, runs[tool], out) for tool, out in outs.items()}
    return row


def _result(entry: Entry, runs: list[Result], out: Path) -> Result:
    crash = next((run["crash"] for run in runs if "crash" in run), None)
    if crash is not None:
        return {"crash": crash}
    return {
        "seconds": statistics.median(run["seconds"] for run in runs),
        "seconds_all": [run["seconds"] for run in runs],
        "cpu_seconds": statistics.median(run["cpu_seconds"] for run in runs),
        "peak_mib": statistics.median(run["peak_mib"] for run in runs),
        "import_mib": statistics.median(run["import_mib"] for run in runs),
        **_worker("count", str(out)),
        **_worker("compare", entry.name, str(out)),
    }


def _worker(*arguments: str) -> Result:
    """Run `cleanup_worker.py` and return what it found; {"crash": why} if it died."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, str(HERE / "cleanup_worker.py"), str(answer), *arguments]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return {"crash": f"took more than {TIMEOUT_S:.0f} s"}
        if done.returncode == 0 and answer.exists():
            result: Result = json.loads(answer.read_text())
            return result
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return {"crash": (lines[-1] if lines else f"exit code {done.returncode}")[:200]}


def show(report: Result) -> None:
    """Print the table and the summary to stdout."""
    tools = report["tools"]
    table = Table(title="nodes left (Constants not counted) and seconds, by tool")
    table.add_column("model", overflow="fold")
    table.add_column("before", justify="right")
    for tool in tools:
        table.add_column(tool, justify="right")
    for row in report["models"]:
        cells = [_cell(row["tools"][tool], row["nodes"]) for tool in tools]
        table.add_row(row["model"], str(row["nodes"]), *cells)
    console = Console(width=max(Console().width, 150))
    console.print(table)
    for line in report["summary"]["lines"]:
        console.print(line)


def _cell(result: Result, before: int) -> str:
    if "crash" in result:
        return "[red]crash[/red]"
    text = f"{result['nodes']}" + ("[red]^[/red]" if result["nodes"] > before else "")
    if not result.get("equal"):
        text += " [red]other inputs[/red]" if "why" in result else " [red]differs[/red]"
    return f"{text}\n{result['seconds']:.3f} s {result['peak_mib']:.0f} MiB"


if __name__ == "__main__":
    main()
