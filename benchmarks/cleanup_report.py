"""Sum up what `cleanup.py` measured, as text and as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OURS = "graphopt"

Row = dict[str, Any]


def summarize(rows: Sequence[Row], tools: Sequence[str]) -> Row:
    """Count the models on which each tool leaves the fewest nodes, differs, grows or crashes."""
    per_tool = {tool: _tool_summary(rows, tool) for tool in tools}
    lines = [_tool_line(tool, per_tool[tool], len(rows)) for tool in tools]
    if OURS in tools:
        lines += [_speed_line(rows, OURS, other) for other in tools if other != OURS]
        lines += _lost_lines(rows, OURS)
    return {"tools": per_tool, "lines": lines}


def fewest(row: Row) -> int | None:
    """Return the fewest nodes that any tool left, with unchanged outputs."""
    counts = [result["nodes"] for result in row["tools"].values() if _valid(result)]
    return min(counts, default=None)


def write_markdown(path: Path, report: Row) -> None:
    """Write the table: nodes left, seconds and peak MiB of every tool on every model."""
    tools = report["tools"]
    text = ["# cleanup beside other simplifiers", ""]
    text += [
        f"Nodes left (Constants not counted), median seconds of {report['rounds']} interleaved "
        "rounds (file to file, imports excluded), peak resident MiB. `^`: more nodes than before; "
        "`other inputs`: the result wants inputs that the model before did not.",
        "",
        "| model | before | " + " | ".join(tools) + " |",
        "|---|---:|" + "---:|" * len(tools),
    ]
    for row in report["models"]:
        cells = [_cell(row, tool) for tool in tools]
        text.append(f"| {row['model']} | {row['nodes']} | " + " | ".join(cells) + " |")
    text += ["", *(f"- {line}" for line in report["summary"]["lines"])]
    text += [f"- absent, skipped: {name}" for name in report["absent"]]
    path.write_text("\n".join(text) + "\n")


def _valid(result: Row) -> bool:
    return "crash" not in result and bool(result.get("equal"))


def _tool_summary(rows: Sequence[Row], tool: str) -> Row:
    results = [(row, row["tools"][tool]) for row in rows]
    ran = [(row, result) for row, result in results if "crash" not in result]
    return {
        "fewest_or_tied": sum(_valid(r) and r["nodes"] == fewest(row) for row, r in ran),
        "changed_outputs": [row["model"] for row, r in ran if not r.get("equal")],
        "grown": [row["model"] for row, r in ran if r["nodes"] > row["nodes"]],
        "crashed": [row["model"] for row, r in results if "crash" in r],
    }


def _tool_line(tool: str, summary: Row, total: int) -> str:
    return (
        f"{tool}: fewest nodes or tied on {summary['fewest_or_tied']} of {total}; "
        f"changed outputs on {len(summary['changed_outputs'])}; "
        f"grew the graph on {len(summary['grown'])}; crashed on {len(summary['crashed'])}"
    )


def _speed_line(rows: Sequence[Row], mine: str, other: str) -> str:
    pairs = [(row["tools"][mine], row["tools"][other]) for row in rows]
    pairs = [pair for pair in pairs if not any("crash" in result for result in pair)]
    if not pairs:
        return f"{mine} against {other}: nothing to compare"
    parts = []
    for key, label in (("seconds", "time"), ("cpu_seconds", "CPU time"), ("peak_mib", "memory")):
        ratios = [ours[key] / theirs[key] for ours, theirs in pairs]
        less = sum(ratio < 1 for ratio in ratios)
        parts.append(
            f"{label} less on {less} of {len(ratios)}, median ratio "
            f"{statistics.median(ratios):.2f} (worst {max(ratios):.2f})"
        )
    return f"{mine} against {other}: " + "; ".join(parts)


def _lost_lines(rows: Sequence[Row], mine: str) -> list[str]:
    lines = []
    for row in rows:
        ours, best = row["tools"][mine], fewest(row)
        if best is not None and (not _valid(ours) or ours["nodes"] > best):
            winners = [
                tool
                for tool, result in row["tools"].items()
                if tool != mine and _valid(result) and result["nodes"] == best
            ]
            left = ours.get("nodes", "crash")
            lines.append(
                f"{mine} lost: {row['model']}: {left} nodes, {', '.join(winners)} leave {best}"
            )
    return lines


def _cell(row: Row, tool: str) -> str:
    result = row["tools"][tool]
    if "crash" in result:
        return "crash"
    nodes = f"{result['nodes']}"
    if _valid(result) and result["nodes"] == fewest(row):
        nodes = f"**{nodes}**"
    if result["nodes"] > row["nodes"]:
        nodes += "^"
    if not result.get("equal"):
        nodes += " other inputs" if "why" in result else " differs"
    return f"{nodes}, {result['seconds']:.3f} s, {result['peak_mib']:.0f}"
