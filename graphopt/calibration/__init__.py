"""Statistics of activations that stream and merge, and the ranges that follow from them."""

from graphopt.calibration.collect import collect
from graphopt.calibration.extrema import ChannelRange, MinMax, MovingAverage
from graphopt.calibration.histogram import Histogram
from graphopt.calibration.moments import Moments
from graphopt.calibration.ranges import Ranges, ranges, statistics
from graphopt.calibration.rules import Range, Rule
from graphopt.calibration.second_moments import Patches, Rows, SecondMoments
from graphopt.calibration.statistics import NotANumberError, Statistic
from graphopt.calibration.sums import ChannelMean, ChannelSquares

__all__ = [
    "ChannelMean",
    "ChannelRange",
    "ChannelSquares",
    "Histogram",
    "MinMax",
    "Moments",
    "MovingAverage",
    "NotANumberError",
    "Patches",
    "Range",
    "Ranges",
    "Rows",
    "Rule",
    "SecondMoments",
    "Statistic",
    "collect",
    "ranges",
    "statistics",
]
