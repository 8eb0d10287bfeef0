"""Channels that can be scaled without changing what a model computes.

A linear layer's output channels can be divided by positive numbers where everything that reads
them multiplies by the same numbers again, and all between is positively homogeneous: f(x / s) =
f(x) / s. `Scaling` finds all that has to go together; `Part` says what becomes of each constant.
"""

from graphopt.rewrite.scaling.group import Group, Reader, Scaling, Source
from graphopt.rewrite.scaling.parts import Part, Refused

__all__ = ["Group", "Part", "Reader", "Refused", "Scaling", "Source"]
