"""What watches a run, one file each; see `graphopt.pipeline.instrument` for the protocol."""

from graphopt.pipeline.instruments.checker import Checker
from graphopt.pipeline.instruments.compare import Compare
from graphopt.pipeline.instruments.dump import Dump
from graphopt.pipeline.instruments.guard import LatencyGuard, MetricGuard
from graphopt.pipeline.instruments.statistics import Statistics

__all__ = ["Checker", "Compare", "Dump", "LatencyGuard", "MetricGuard", "Statistics"]
