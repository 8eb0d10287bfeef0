"""The HTML report of a run: one file, without scripts, that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from os import PathLike

from graphopt.pipeline.result import RunResult
from graphopt.report import sections
from graphopt.report.histogram import Histogram
from graphopt.report.json_file import write_text
from graphopt.report.markup import Html, element

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def write_html(
    result: RunResult,
    path: str | PathLike[str],
    *,
    model: str = "model",
    histograms: Sequence[Histogram] = (),
    details: Mapping[str, str] | None = None,
) -> None:
    """Write the report of a run, whole or not at all.

    The same arguments give the same bytes; a date stands in it only if `details` says one.

    Args:
        result: What the run returned.
        path: The HTML file, or `-` for stdout.
        model: What the report calls the model.
        histograms: `WeightHistograms.found` of an instrument that watched the run; the largest
            weights are drawn.
        details: What else it says of the model's origin, such as the sha256 of the source, the
            size of files, a date.

    Raises:
        GraphoptError: The file cannot be written.
    """
    write_text(page(result, model=model, histograms=histograms, details=details), path)


def page(
    result: RunResult,
    *,
    model: str = "model",
    histograms: Sequence[Histogram] = (),
    details: Mapping[str, str] | None = None,
) -> Html:
    """Return the report as one HTML page; the arguments are those of `write_html`."""
    style = resources.files("graphopt.report").joinpath("report.css").read_text("utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{model} - graphopt"),
        element("style", Html(style)),
    )
    body = element(
        "body",
        sections.header(result, model),
        element(
            "main",
            sections.summary(result),
            sections.passes(result),
            sections.outputs(result),
            sections.weights(result, histograms),
            sections.notes("Rewrites", "What was done", result.steps, lambda step: step.rewrites),
            sections.notes(
                "Declined", "Where a pass left things", result.steps, lambda step: step.declined
            ),
            sections.notes(
                "Findings", "What passes found out", result.steps, lambda step: step.findings
            ),
            sections.timing(result.timing),
            sections.provenance(result, details or {}),
        ),
    )
    return Html("<!DOCTYPE html>\n" + element("html", head, body, lang="en") + "\n")
