"""Statistics of activations: they stream batch by batch, and merge."""

from graphopt.calibration.observe import observe, runs
from graphopt.calibration.statistics import ChannelSquares, Statistic

__all__ = ["ChannelSquares", "Statistic", "observe", "runs"]
