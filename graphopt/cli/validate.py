"""`graphopt validate`: candidates against a reference."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli.runtime_options import RuntimeOptions, runtime_options
from graphopt.cli.written_files import check_written_files
from graphopt.errors import CheckFailed, GraphoptError

if TYPE_CHECKING:
    from graphopt.runtime.budget import Budget
    from graphopt.runtime.difference import Tolerance
    from graphopt.runtime.validation import Subject

_MADE_UP = 16
"""Samples that are made up where there is no data."""


@click.command("validate")
@click.argument("reference", type=click.Path(path_type=Path))
@click.argument("candidates", type=click.Path(path_type=Path), nargs=-1, required=True)
@runtime_options
@click.option(
    "--require-provider",
    is_flag=True,
    help="Fail where a provider is absent, or nodes that it should run ran elsewhere.",
)
@click.option(
    "--metric",
    metavar="NAME",
    help="accuracy, top-K, f1-macro, f1-micro, auc, mae, rmse, spearman (by scikit-learn and "
    "scipy), or module:function of (outputs by name, labels). The data must have 'labels'.",
)
@click.option(
    "--output", metavar="NAME", help="What the metric reads.  [default: the first output]"
)
@click.option("--max-drop", type=float, metavar="X", help="What the metric may lose, in its unit.")
@click.option("--min-sqnr", type=float, metavar="DB", help="The least SQNR of each output, in dB.")
@click.option(
    "--rtol",
    "rtols",
    multiple=True,
    metavar="[OUTPUT=]X",
    help="Relative tolerance, of all outputs or of one; repeatable.",
)
@click.option(
    "--atol",
    "atols",
    multiple=True,
    metavar="[OUTPUT=]X",
    help="Absolute tolerance, of all outputs or of one; repeatable. An element passes when "
    "|difference| <= atol + rtol * |reference|.",
)
@click.option("--by-node", is_flag=True, help="Name the first node where two models part.")
@click.option(
    "--batch", type=click.IntRange(min=1), default=32, show_default=True, help="Samples per run."
)
@click.option(
    "--limit-samples", type=click.IntRange(min=1), metavar="N", help="The first N samples only."
)
@click.option(
    "--rounds",
    type=click.IntRange(min=0),
    default=15,
    show_default=True,
    help="Interleaved measurements of latency; 0: none.",
)
@click.option("--json", "json_target", metavar="FILE", help="Write all of it as JSON; - is stdout.")
def command(
    reference: Path,
    candidates: tuple[Path, ...],
    require_provider: bool,
    metric: str | None,
    output: str | None,
    max_drop: float | None,
    min_sqnr: float | None,
    rtols: tuple[str, ...],
    atols: tuple[str, ...],
    by_node: bool,
    batch: int,
    limit_samples: int | None,
    rounds: int,
    json_target: str | None,
    **shared: Any,
) -> None:
    """Compare the outputs of CANDIDATES with those of REFERENCE, on each provider.

    Without a budget, outputs must be equal up to the rounding of reassociated sums. With
    --max-drop, --min-sqnr, --rtol or --atol, those decide. The reference's outputs are the CPU's.
    On CUDA, TF32 is off, and what it would change is shown apart. A provider that is not there is
    shown as absent, never as passed; it fails with --require-provider, or when no other was asked
    for.

    Latencies are measured in turn, reference, candidate, reference, ..., with spinning off: threads
    of one session that wait in a busy loop would slow the other's.
    """
    from graphopt.cli.progress import shown_progress
    from graphopt.cli.validation_tables import print_validation, record_of
    from graphopt.report.json_file import write_json
    from graphopt.runtime.budget import Budget
    from graphopt.runtime.metrics import open_metric
    from graphopt.runtime.validation import Options, validate

    common = RuntimeOptions(**shared)
    providers = common.parsed_providers()
    budget = Budget(
        _number("--max-drop", max_drop),
        _number("--min-sqnr", min_sqnr),
        _tolerances(rtols, atols),
    )
    task = None if metric is None else open_metric(metric, output)
    check_written_files({"--json": json_target}, [reference, *candidates, common.data])
    subjects = [common.subject(path) for path in (reference, *candidates)]
    _check_outputs(budget, subjects[0])
    feeds = common.feeds(subjects[0], made_up=_MADE_UP, limit=limit_samples)
    with shown_progress() as show:
        options = Options(
            providers,
            budget,
            task,
            require_provider,
            batch,
            rounds,
            by_node,
            common.threads,
            lambda text: show(text, 0, None),
        )
        found = validate(subjects[0], subjects[1:], feeds, options)
    if json_target is not None:
        write_json(record_of(found, subjects, feeds), json_target)
    if json_target != "-":
        print_validation(found, subjects, feeds)
    if found.failures:
        raise CheckFailed(found.failures[0])


def _number(option: str, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise GraphoptError(f"{option} {value} is no bound", fix="give a finite number")
    return value


def _check_outputs(budget: Budget, reference: Subject) -> None:
    names = [str(value.name) for value in reference.model.graph.outputs]
    for name in budget.tolerances:
        if name != "*" and name not in names:
            raise GraphoptError(
                f"there is no output {name!r} to have a tolerance",
                file=reference.name,
                fix=f"use one of {', '.join(names)}",
            )


def _tolerances(rtols: tuple[str, ...], atols: tuple[str, ...]) -> dict[str, Tolerance]:
    from graphopt.runtime.difference import Tolerance

    relative = _by_output("--rtol", rtols)
    absolute = _by_output("--atol", atols)
    everywhere = (relative.get("*", 0.0), absolute.get("*", 0.0))
    return {
        name: Tolerance(relative.get(name, everywhere[0]), absolute.get(name, everywhere[1]))
        for name in dict.fromkeys((*relative, *absolute))
    }


def _by_output(option: str, texts: tuple[str, ...]) -> dict[str, float]:
    values = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        # A comparison with NaN, or with infinity, would say yes to everything.
        if not 0 <= value < math.inf or bool(equals) != bool(name):
            raise GraphoptError(
                f"{option} {text!r} is no tolerance", fix="write 1e-4 or logits=1e-4"
            )
        values[name or "*"] = value
    return values
