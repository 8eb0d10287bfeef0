"""What quantization does to the outputs of a model, and how much of that is bearable."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from graphopt.errors import CheckFailed, GraphoptError
from graphopt.runtime.difference import as_tensors
from graphopt.runtime.feeds import Batch, Feeds
from graphopt.runtime.metrics import Collector, Metric, Outputs
from passes.quantize.plan.output_damage import OutputDamage, are_shares, meant

_SCALE = 20.0
"""What SQNR stands for a load of 1, where no bound on it says so."""

_ROUNDING = 1e-9
"""Two shares of 1 that differ by 0.005 do not quite."""


@dataclass(frozen=True)
class Damage:
    """How far outputs are from those of the float model.

    Args:
        sqnr_db: Signal to quantization noise ratio of the worst output, in dB.
        agreement: Share of rows of scores with the same winner, or of integers that are equal, of
            the worst output; None where there are neither.
        drop: How much worse the metric is; None where there is none.
        order: Rank correlation (Spearman) of outputs of one number a sample, of the worst one;
            None where there are none.
        failure: Why the model cannot be run; the rest means nothing then.
    """

    sqnr_db: float = math.inf
    agreement: float | None = None
    drop: float | None = None
    failure: str | None = None
    order: float | None = None

    @property
    def noise(self) -> float:
        """Power of the noise, as a share of that of the signal."""
        return math.inf if self.failure is not None else float(10 ** (-self.sqnr_db / 10))

    def __str__(self) -> str:
        if self.failure is not None:
            return self.failure
        parts = [f"SQNR {self.sqnr_db:.1f} dB"]
        if self.agreement is not None:
            parts.append(f"agreement {self.agreement:.4f}")
        if self.order is not None:
            parts.append(f"order {self.order:.4f}")
        if self.drop is not None:
            parts.append(f"drop {self.drop:.4f}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Bounds:
    """What damage is bearable. What is None is not looked at.

    Args:
        min_sqnr: In dB.
        min_agreement: A share of 1.
        max_drop: In the unit of the metric.
        rows: On so many rows the metric was measured, and chance may move it: by the root of the
            rows that another class wins now, up or down. None: `max_drop` is strict.
        min_order: A rank correlation.
    """

    min_sqnr: float | None = None
    min_agreement: float | None = None
    max_drop: float | None = None
    rows: int | None = None
    min_order: float | None = None

    def load(self, damage: Damage) -> float:
        """How much of what is bearable damage takes up; the loads of independent layers add up."""
        least = _SCALE if self.min_sqnr is None else self.min_sqnr
        load = damage.noise * 10 ** (least / 10)
        if self.min_order is not None and damage.order is not None:
            load += (1 - damage.order) / (1 - self.min_order)
        return math.inf if math.isnan(load) else load

    def objection(self, damage: Damage) -> str | None:
        """Why damage is not bearable; None: it is."""
        if damage.failure is not None:
            return damage.failure
        # Each is written so that a NaN objects.
        if not _reaches(damage.sqnr_db, self.min_sqnr):
            return f"SQNR {damage.sqnr_db:.1f} dB is under {self.min_sqnr:g}"
        if not _reaches(damage.agreement, self.min_agreement):
            return f"agreement {damage.agreement:.4f} is under {self.min_agreement:g}"
        if not _reaches(damage.order, self.min_order):
            return f"rank correlation {damage.order:.4f} is under {self.min_order:g}"
        if self.max_drop is not None and damage.drop is not None:
            allowed = max(self.max_drop, self._chance(damage))
            if not damage.drop <= allowed + _ROUNDING:
                return f"the metric drops by {damage.drop:.4f}, over {allowed:.4g}"
        return None

    def _chance(self, damage: Damage) -> float:
        """One standard deviation of the drop where each row that changes is as likely a gain."""
        if self.rows is None or damage.agreement is None:
            return 0.0
        return math.sqrt((1 - damage.agreement) / self.rows)


def _reaches(value: float | None, least: float | None) -> bool:
    return value is None or least is None or value >= least


Run = Callable[[Batch], Mapping[str, object]]


@dataclass
class Gauge:
    """Measures models against the outputs of the float model, which are kept.

    Args:
        run: The float model.
        outputs: Names of its outputs.
        scores: Those of them whose rows are scores; so are rows of shares that add up to 1.
        feeds: Laid out for the model.
        batch: Samples per run.
        metric: The task's; the feeds have labels then.
        memory: The most bytes of outputs that are kept: samples beyond are not looked at.
        samples: The most samples that are looked at.
        optional: Whether to do without the metric where it does not fit the outputs.
    """

    run: Run
    outputs: Sequence[str]
    scores: Collection[str]
    feeds: Feeds
    batch: int = 32
    metric: Metric | None = None
    memory: int = 256 << 20
    samples: int = 1024
    optional: bool = False
    _expected: list[tuple[Batch, Mapping[str, object]]] = field(default_factory=list)
    _like: Outputs | None = None
    _rating: float = 0.0
    count: int = 0

    def __post_init__(self) -> None:
        """Run the float model."""
        feeds = self.feeds.take(self.samples)
        held, seen, total = 0, 0, feeds.count
        for samples in feeds.batches(self.batch):
            found = self.run(samples)
            held += sum(t.nbytes for value in found.values() for t in as_tensors(value))
            if self._expected and held > self.memory:
                break
            self._expected.append((samples, found))
            seen += self.feeds.layout.batch or self.batch
        self.count = min(seen, total)
        shares = (name for name in self.outputs if self._holds_shares(name))
        self.scores = frozenset([*self.scores, *shares])
        if self.metric is not None and self.feeds.labels is not None:
            try:
                self._like = self._collected(found for _, found in self._expected)
                self._rating = self._rate(self._like)
            except GraphoptError:
                if not self.optional:
                    raise
                self._like = None

    def damage(self, run: Run, *, batches: int | None = None) -> Damage:
        """Measure a model.

        Args:
            run: The model.
            batches: Only on so many batches, and without the metric; None: all.
        """
        chosen = self._expected[:batches]
        differences = {name: OutputDamage(name in self.scores) for name in self.outputs}
        actual: list[Mapping[str, object]] = []
        try:
            for samples, expected in chosen:
                found = run(samples)
                for name, difference in differences.items():
                    difference.add(*meant(samples, expected[name], found[name]))
                if self._like is not None and batches is None:
                    actual.append(found)
        except CheckFailed as error:
            return Damage(-math.inf, failure=str(error))
        agreements = [d.agreement for d in differences.values() if d.agreement is not None]
        return Damage(
            min((d.sqnr_db for d in differences.values()), default=math.inf),
            min(agreements, default=None),
            self._drop(actual) if actual else None,
            order=min((d.order for d in differences.values() if d.order is not None), default=None),
        )

    def _holds_shares(self, name: str) -> bool:
        return all(are_shares(found[name]) for _, found in self._expected)

    def _collected(self, found: Iterator[Mapping[str, object]]) -> Outputs:
        assert self.metric is not None
        collector = Collector(self.metric.outputs(self.outputs))
        for outputs in found:
            collector.add(outputs)
        return collector.outputs()

    def _rate(self, outputs: Outputs) -> float:
        assert self.metric is not None
        assert self.feeds.labels is not None
        assert self._like is not None
        return self.metric.score(outputs, self.feeds.labels[: self.count], self._like)

    def _drop(self, found: Sequence[Mapping[str, object]]) -> float:
        assert self.metric is not None
        try:
            return self.metric.drop(self._rating, self._rate(self._collected(iter(found))))
        except GraphoptError:
            # The reference's was defined on the same labels: these outputs are beyond use.
            return math.inf
