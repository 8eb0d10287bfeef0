"""Quantize every model in reach with graphopt and its peers, and measure what that does.

    python benchmarks/quantize.py [--models GLOB ...] [--tools GLOB ...] [--stages latency]
    python benchmarks/quantize.py --report-only --summary

Per model and tool: the task's metric on held-out data, seconds of the tool (without imports) and
its peak memory, the size of the file, the float operators that ONNX Runtime's optimized graph
still has, and the latency relative to the float model's at two batch sizes (medians of interleaved
rounds, both sessions in one process, one thread).

What is measured is kept as it is made, and not measured again unless `--again` says so; failures
too. A model, peer or data set that this machine lacks is named and skipped. `--shared` is a folder
with the models and data of the development machines; two models are trained on first use.
"""

from __future__ import annotations

import fnmatch
import sys
from pathlib import Path

import click
from quantize_corpus import MAKERS, find
from quantize_measure import FLOAT, STAGES, Bench, Records
from quantize_report import markdown, summary, terse
from quantize_task import Places, Task
from quantize_tools import PEERS, TOOLS, versions

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"


@click.command()
@click.option("--models", multiple=True, default=["*"], help="Globs.  [default: all]")
@click.option("--tools", multiple=True, default=["*"], help="Globs.  [default: all]")
@click.option("--stages", multiple=True, type=click.Choice(STAGES), default=STAGES)
@click.option("--again", is_flag=True, help="Measure again what is known.")
@click.option("--retry", is_flag=True, help="Measure again what failed.")
@click.option("--shared", type=click.Path(path_type=Path), default=ROOT.parent / "shared")
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path.home() / ".cache" / "graphopt-benchmarks" / "quantize",
    help="Where trained and quantized models are kept.",
)
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS / "quantize.jsonl")
@click.option("--timeout", default=600.0, show_default=True, help="Seconds per process.")
@click.option("--rounds", default=15, show_default=True, help="Rounds of a latency.")
@click.option("--threads", default=1, show_default=True)
@click.option("--report-only", is_flag=True, help="Measure nothing.")
@click.option("--summary", "summed", is_flag=True, help="Only counts and missed targets.")
def main(
    models: tuple[str, ...],
    tools: tuple[str, ...],
    stages: tuple[str, ...],
    again: bool,
    retry: bool,
    shared: Path,
    work: Path,
    results: Path,
    timeout: float,
    rounds: int,
    threads: int,
    report_only: bool,
    summed: bool,
) -> None:
    """Measure what is asked for and not known, then print the tables as Markdown."""
    cache = work / "made"
    cache.mkdir(parents=True, exist_ok=True)
    places = Places(shared.resolve(), cache.resolve())
    records = Records(results)
    tasks, absent = find(_chosen(MAKERS, models), places)
    for name, why in absent.items():
        print(f"absent, skipped: {name}: {why}", file=sys.stderr)
    if not report_only:
        bench = Bench(places, work.resolve(), timeout, rounds, threads)
        for task in tasks:
            measure(task, bench, records, _chosen(TOOLS, tools), stages, again, retry)
        records.add({"model": "", "tool": "", "stage": "versions", **versions()})
    records.compact()
    if not summed:
        print(markdown(records.known, tasks, absent))
    print(summary(records.known, tasks))


def measure(
    task: Task,
    bench: Bench,
    records: Records,
    tools: list[str],
    stages: tuple[str, ...],
    again: bool,
    retry: bool,
) -> None:
    """Run the stages of one model, each tool's one behind the other."""
    for tool in (FLOAT, *tools):
        if tool in PEERS and not _applies(task, tool):
            continue
        for stage in stages:
            if tool == FLOAT and stage == "latency":
                continue
            known = records.known.get((task.name, tool, stage))
            wanted = known is None or again or (retry and "error" in known)
            if wanted and (tool == FLOAT or _possible(task, tool, stage, records)):
                record = bench.measure(task, tool, stage)
                records.add(record)
                print(terse(record), file=sys.stderr, flush=True)


def _possible(task: Task, tool: str, stage: str, records: Records) -> bool:
    """Whether the stages before this one gave a model that runs."""
    before = STAGES[: STAGES.index(stage)]
    found = [records.known.get((task.name, tool, name)) for name in before]
    return all(record is not None and "error" not in record for record in found)


def _applies(task: Task, tool: str) -> bool:
    peer = PEERS[tool]
    return not peer.absent and (task.transformer or not peer.transformers)


def _chosen(names: object, patterns: tuple[str, ...]) -> list[str]:
    assert isinstance(names, dict | tuple)
    return [name for name in names if any(fnmatch.fnmatch(name, p) for p in patterns)]


if __name__ == "__main__":
    main()
