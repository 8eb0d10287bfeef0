"""What `graphopt ensemble` finds on data: greedy soups, weights, meta-models."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.cli.ensemble_tables import Finding
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphopt.cli.pipeline_options import PipelineOptions
    from graphopt.cli.progress import Progress
    from graphopt.ensembles.build import Prepared
    from graphopt.ensembles.expression import Expression, Program
    from graphopt.ensembles.fit.fitted import Fitted
    from graphopt.ensembles.fit.meta import FittedMeta
    from graphopt.ensembles.soups.greedy import GreedySoup
    from graphopt.model import Limits
    from graphopt.runtime.feeds import Feeds


@dataclass
class Fitting:
    """Fits an ensemble on the samples of `--data`.

    Args:
        expression: What it computes, as text.
        members: Their files.
        limits: What those may ask for.
        mapping: `member.input` with the name of the ensemble's input that it is.
        options: Of the command.
        progress: Shows how far it is.
        files: The models that are loaded, by their paths.
    """

    expression: str
    members: dict[str, ir.Model | Path]
    limits: Limits
    mapping: Mapping[str, str]
    options: PipelineOptions
    progress: Progress
    files: MutableMapping[str, ir.Model]

    def run(
        self, *, metric: str, greedy: bool, meta: str | None, weights: bool, method: str | None
    ) -> tuple[Prepared, tuple[Finding, ...]]:
        """Do what is asked for: soups first, then the meta-model, then weights.

        Args:
            metric: What is wanted.
            greedy: Whether soups choose their members.
            meta: The kind of meta-model to fit; None: none.
            weights: Whether to fit the outermost weights.
            method: How to.
        """
        from graphopt.ensembles.build import prepare
        from graphopt.ensembles.text import parse
        from graphopt.runtime.feeds import open_feeds

        feeds = open_feeds(str(self.options.data))
        program, findings = parse(self.expression), list[Finding]()
        if greedy:
            program = self._greedy(program, feeds, metric, findings)
        prepared = prepare(program, self.members, limits=self.limits, files=self.files)
        if meta is not None:
            prepared = self._meta(prepared, feeds, metric, meta, findings)
        if weights:
            prepared = self._weights(prepared, feeds, metric, method, findings)
        return prepared, tuple(findings)

    def _greedy(
        self, program: Program, feeds: Feeds, metric: str, findings: list[Finding]
    ) -> Program:
        """Let each soup keep the members that do not lower the metric."""
        from graphopt.ensembles.expression import Member, Soup
        from graphopt.ensembles.names import rebuilt
        from graphopt.ensembles.soups.greedy import greedy
        from graphopt.ensembles.unparse import title

        def cooked(expression: Expression) -> Expression:
            if not isinstance(expression, Soup):
                return rebuilt(expression, cooked)
            names = [of.name for of in expression.of if isinstance(of, Member)]
            if expression.method != "mean" or expression.weights or len(names) < len(expression.of):
                raise GraphoptError(
                    f"{title(expression)} says what is averaged", fix="write soup(a, b, c)"
                )
            for name in names:
                self._check_member(name)
            models = {name: self._model(name) for name in names}
            found = greedy(
                models,
                feeds,
                metric,
                providers=self.options.providers or ("cpu",),
                progress=self.progress,
            )
            findings.append(_soup_finding(found))
            kept = {of.name for of in found.soup.of if isinstance(of, Member)}
            for name in set(names) - kept:
                dropped.add(name)
            return found.soup

        dropped: set[str] = set()
        statements = tuple((name, cooked(of)) for name, of in program.statements)
        if not findings:
            raise GraphoptError("there is no soup to cook greedily", fix="write soup(a, b, c)")
        left = replace(program, statements=statements)
        used = {part.name for part in left.walk() if isinstance(part, Member)}
        for name in dropped - used:
            del self.members[name]
        return left

    def _model(self, name: str) -> ir.Model:
        from graphopt.model import load

        path = str(self.members[name])
        if path not in self.files:
            self.files[path] = load(path, self.limits)
        return self.files[path]

    def _check_member(self, name: str) -> None:
        from graphopt.pipeline.registry import nearest

        if name not in self.members:
            cause = f"there is no member {name!r}"
            raise GraphoptError(cause, fix=nearest(name, self.members))

    def _meta(
        self,
        prepared: Prepared,
        feeds: Feeds,
        metric: str,
        kind: str,
        findings: list[Finding],
    ) -> Prepared:
        """Find the meta-model of the outermost stack."""
        from graphopt.ensembles.fit.meta import fit_meta

        found = fit_meta(
            prepared.program,
            prepared.members,
            feeds,
            metric,
            kind=kind,
            seed=self.options.seed or 0,
            mapping=self.mapping,
            providers=self.options.providers or ("cpu",),
            progress=self.progress,
        )
        findings.append(_meta_finding(found))
        members = {**prepared.members, found.name: found.model}
        return replace(prepared, members=members).with_program(found.program)

    def _weights(
        self,
        prepared: Prepared,
        feeds: Feeds,
        metric: str,
        method: str | None,
        findings: list[Finding],
    ) -> Prepared:
        """Find the outermost weights."""
        from graphopt.ensembles.fit.weights import fit_weights

        found = fit_weights(
            prepared.program,
            prepared.members,
            feeds,
            metric,
            method=method,
            seed=self.options.seed or 0,
            mapping=self.mapping,
            providers=self.options.providers or ("cpu",),
            progress=self.progress,
        )
        findings.append(_weights_finding(found))
        return prepared.with_program(found.program)


_META_FACTS = (
    "name",
    "kind",
    "metric",
    "features",
    "samples",
    "folds",
    "after",
    "held_out",
    "error",
)


def _soup_finding(found: GreedySoup) -> Finding:
    rows = [
        (step.member, f"{found.scores[step.member]:.4f}", f"{step.score:.4f}", _kept(step.kept))
        for step in found.steps
    ]
    return Finding(
        title=f"Greedy soup by {found.metric}",
        headings=("member", "alone", "soup with it", "verdict"),
        rows=rows,
        lines=[*found.notes, f"{found.metric} of the soup: {found.score:.4f}, chosen on this data"],
        details={
            "soup": [step.member for step in found.steps if step.kept],
            "metric": found.metric,
            "steps": [asdict(step) for step in found.steps],
            "score": found.score,
        },
    )


def _kept(kept: bool) -> str:
    return "kept" if kept else "left out"


def _meta_finding(found: FittedMeta) -> Finding:
    return Finding(
        title=f"Meta-model by {found.kind} regression",
        headings=("features", "samples", found.metric, "held out"),
        rows=[
            (
                str(found.features),
                f"{found.samples:,}",
                f"{found.after:.4f}",
                f"{found.held_out:.4f}",
            )
        ],
        lines=[
            f"{found.folds} folds; largest difference from scikit-learn {found.error:.3g}",
            *found.notes,
        ],
        details={
            **{key: getattr(found, key) for key in _META_FACTS},
            "expression": found.text,
        },
    )


def _weights_finding(found: Fitted) -> Finding:
    share = f"{found.folds} folds" if found.folds > 1 else "no folds"
    return Finding(
        title=f"Weights by {found.method} search for {found.metric}",
        headings=("operand", "weight", f"{found.metric} alone"),
        rows=[(one.operand, f"{one.weight:g}", f"{one.score:.4f}") for one in found.shares],
        lines=[
            f"{found.metric}: {found.before:.4f} as given, {found.equal:.4f} with equal weights, "
            f"{found.after:.4f} fitted, {found.held_out:.4f} held out ({share}, "
            f"{found.samples:,} samples)",
            *found.notes,
        ],
        details={
            **{field.name: getattr(found, field.name) for field in fields(found)[1:]},
            "expression": found.text,
        },
    )
