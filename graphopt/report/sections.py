"""The sections of the HTML report. Each returns nothing where it has nothing to say."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata

from graphopt.model.facts import Facts
from graphopt.pipeline.result import Note, RunResult, StepRecord, Timing
from graphopt.report import rows
from graphopt.report.histogram import Histogram
from graphopt.report.markup import Html, element, join
from graphopt.report.numbers import count, error, seconds, share
from graphopt.report.svg import draw

_NOTHING = Html("")
_MOST_NOTES = 200
_MOST_WEIGHTS = 500
_MOST_DRAWN = 24
_PACKAGES = ("graphopt", "onnx", "onnx-ir", "onnxruntime", "numpy")


def header(result: RunResult, model: str) -> Html:
    """Say which model went through which pipeline, and how it ended."""
    limited = " The limit on rewrites ended the run early." if result.limited else ""
    return element(
        "header",
        element("p", "graphopt report", class_="kicker"),
        element("h1", model),
        element("pre", element("code", result.pipeline or "no pass ran")),
        element(
            "p",
            f"{_plural(result.kept_rewrites, 'rewrite')} in {_plural(len(result.steps), 'pass')}, "
            f"{seconds(result.timing.seconds)}.{limited}",
        ),
    )


def summary(result: RunResult) -> Html:
    """Show the model before and after, in large figures."""
    first, last = _ends(result)
    if first is None or last is None:
        return _NOTHING
    cards = [
        element(
            "div",
            element("dt", name),
            element("dd", after, class_="figure"),
            element(
                "dd", f"before {before}" if by or before != after else "unchanged", class_="before"
            ),
            element("dd", by, class_="change") if by else _NOTHING,
            class_="card",
        )
        for name, before, after, by in rows.summary_rows(first, last)
    ]
    return _section("Before and after", element("dl", *cards, class_="cards"))


def passes(result: RunResult) -> Html:
    """Show what each pass did."""
    remarks = [
        element("li", element("code", step.pass_text), f": {remark}")
        for step in result.steps
        for remark in _remarks(step)
    ]
    return _section(
        "Passes",
        table(
            "Each pass: what it did, and how far the outputs moved against the model before it",
            rows.PASS_COLUMNS,
            rows.pass_rows(result),
        ),
        element("ul", *remarks) if remarks else _NOTHING,
    )


def outputs(result: RunResult) -> Html:
    """Show the errors of each output."""
    compared = rows.output_rows(result)
    if not compared:
        return _NOTHING
    caption = "Each output after a pass, against the model before that pass"
    return _section("Output errors", table(caption, rows.OUTPUT_COLUMNS, compared))


def weights(result: RunResult, histograms: Sequence[Histogram]) -> Html:
    """Draw the histograms of the largest weights, and list all weights that passes edited."""
    edited = [
        (step, note)
        for step in result.steps
        if step.rolled_back is None
        for note in step.rewrites
        if "weight" in note.details
    ]
    if not edited:
        return _NOTHING
    largest = sorted(range(len(histograms)), key=lambda index: -histograms[index].elements)
    drawn = [histograms[index] for index in sorted(largest[:_MOST_DRAWN])]
    return _section(
        "Weights",
        _legend(len(drawn), len(edited)) if drawn else _NOTHING,
        *_figures(drawn),
        element(
            "details",
            element("summary", f"All {_plural(len(edited), 'edited weight')} as a table"),
            table(
                "Weights that passes edited",
                _WEIGHT_COLUMNS,
                [_weight_row(step, note) for step, note in edited[:_MOST_WEIGHTS]],
            ),
            _more(len(edited) - _MOST_WEIGHTS),
        ),
    )


def notes(
    heading: str,
    caption: str,
    steps: Iterable[StepRecord],
    pick: Callable[[StepRecord], Sequence[Note]],
) -> Html:
    """List rewrites or declines, folded away, pass by pass."""
    lists = [
        element(
            "details",
            element("summary", element("code", step.pass_text), f" {count(len(pick(step)))}"),
            table(caption, _NOTE_COLUMNS, [(n.at, n.why) for n in pick(step)[:_MOST_NOTES]]),
            _more(len(pick(step)) - _MOST_NOTES),
        )
        for step in steps
        if pick(step)
    ]
    return _section(heading, *lists) if lists else _NOTHING


def timing(watched: Timing) -> Html:
    """Show where the time went."""
    whole = watched.seconds or 1.0
    listed = [
        (f"{'  ' * depth}{part.name}", seconds(part.seconds), share(min(part.seconds / whole, 1)))
        for depth, part in _flat(watched, 0)
        if depth < 2 or part.seconds >= 0.001
    ]
    return _section(
        "Time",
        element(
            "details",
            element("summary", f"{seconds(watched.seconds)} in all"),
            table("Wall clock, as a tree", _TIMING_COLUMNS, listed),
        ),
    )


def provenance(result: RunResult, details: Mapping[str, str]) -> Html:
    """Say what the model was made from, by what, and how to make it again."""
    recipe = {
        key.removeprefix("graphopt."): text
        for key, text in result.model.metadata_props.items()
        if key.startswith("graphopt.")
    }
    facts = {
        **details,
        "seed": str(result.seed),
        **{f"recipe: {key}": text for key, text in recipe.items()},
        "versions": ", ".join(f"{name} {version}" for name, version in _versions()),
    }
    pairs = [join(element("dt", key), element("dd", text)) for key, text in facts.items()]
    return _section("Provenance", element("dl", *pairs, class_="pairs"))


def table(caption: str, columns: Sequence[rows.Column], content: Sequence[Sequence[str]]) -> Html:
    """Make a table that scrolls by itself where it is too wide; empty columns are left out."""
    shown = [index for index in range(len(columns)) if any(row[index].strip() for row in content)]
    heads = [
        element("th", columns[i].heading, scope="col", class_=_kind(columns[i])) for i in shown
    ]
    lines = [
        element("tr", *(_cell(row[index], columns[index], index == shown[0]) for index in shown))
        for row in content
    ]
    whole = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *heads)),
        element("tbody", *lines),
    )
    # A region that scrolls must be in reach of the keyboard.
    return element("div", whole, class_="wide", role="region", aria_label=caption, tabindex=0)


_WEIGHT_COLUMNS = (
    rows.Column("weight", number=False),
    rows.Column("pass", number=False),
    rows.Column("elements"),
    rows.Column("threshold"),
    rows.Column("sparsity"),
    rows.Column("reason", number=False),
)
_NOTE_COLUMNS = (rows.Column("where", number=False), rows.Column("why", number=False))
_TIMING_COLUMNS = (rows.Column("part", number=False), rows.Column("time"), rows.Column("share"))


def _section(heading: str, *content: Html) -> Html:
    return element("section", element("h2", heading), *content)


def _cell(text: str, column: rows.Column, is_first: bool) -> Html:
    if is_first:
        indent = (len(text) - len(text.lstrip())) // 2
        return element("th", text, scope="row", class_=f"{_kind(column)} indent{min(indent, 6)}")
    return element("td", text, class_=_kind(column))


def _kind(column: rows.Column) -> str:
    return "number" if column.number else "text"


def _remarks(step: StepRecord) -> Iterable[str]:
    """Say what guards measured, and why a pass was undone."""
    for name, value in step.measures.items():
        yield f"{name} {value:.4g}"
    if step.rolled_back is not None:
        yield f"rolled back: {step.rolled_back}"


def _figures(histograms: Sequence[Histogram]) -> Iterable[Html]:
    """Draw histograms under the passes they belong to, the passes in order."""
    by_pass: dict[str, list[Histogram]] = {}
    for histogram in histograms:
        by_pass.setdefault(histogram.pass_text, []).append(histogram)
    for text, group in by_pass.items():
        if len(by_pass) > 1:
            yield element("h3", element("code", text))
        yield element("div", *map(_figure, group), class_="figures")


def _figure(histogram: Histogram) -> Html:
    size = histogram.elements or 1
    shape = " x ".join(map(str, histogram.shape))
    zeros = f"{share(histogram.zeros_before / size)} to {share(histogram.zeros_after / size)} zero"
    limit = histogram.threshold
    where = _NOTHING if limit is None else join(", threshold ", element("b", error(limit)))
    caption = element(
        "figcaption",
        element("span", histogram.weight, class_="name"),
        element("span", f"{shape}: {zeros}", where),
    )
    return element("figure", caption, draw(histogram))


def _legend(drawn: int, edited: int) -> Html:
    part = f"the {drawn} largest of {count(edited)} weights" if drawn < edited else "each weight"
    return element(
        "p",
        f"The values of {part} before a pass: ",
        element("span", "kept", class_="key kept"),
        ", ",
        element("span", "made zero", class_="key zeroed"),
        ", and the threshold as a dashed line. Elements that were zero before are not drawn; "
        "outliers are counted in the outermost bars.",
        class_="legend",
    )


def _weight_row(step: StepRecord, note: Note) -> tuple[str, ...]:
    elements, limit = note.details.get("elements"), note.details.get("threshold")
    sparsity = note.details.get("sparsity")
    return (
        str(note.details["weight"]),
        step.pass_text,
        count(elements) if isinstance(elements, int) else "",
        error(limit) if isinstance(limit, int | float) else "",
        share(sparsity) if isinstance(sparsity, int | float) else "",
        note.why,
    )


def _more(hidden: int) -> Html:
    return element("p", f"and {count(hidden)} more") if hidden > 0 else _NOTHING


def _flat(part: Timing, depth: int) -> Iterable[tuple[int, Timing]]:
    yield depth, part
    for child in part.parts:
        yield from _flat(child, depth + 1)


def _ends(result: RunResult) -> tuple[Facts | None, Facts | None]:
    """Return the facts of the model that came in and of the one that came out."""
    if not result.steps:
        return None, None
    return result.steps[0].before, result.steps[-1].after


def _plural(number: int, noun: str) -> str:
    ending = "es" if noun.endswith("s") else "s"
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}{ending}"


def _versions() -> Iterable[tuple[str, str]]:
    yield "Python", platform.python_version()
    for name in _PACKAGES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            # ONNX Runtime goes by other names too, such as onnxruntime-gpu.
            continue
