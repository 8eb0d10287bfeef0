"""Rounding with error feedback: what one weight loses, the others of its sum make good.

Source: Frantar et al., GPTQ, ICLR 2023 (arXiv:2210.17323), algorithm 1; with scales that are
fixed before, so that columns may be taken in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.rewrite.grid import Grid

Matrix = npt.NDArray[np.float64]

_COLUMNS = 128
"""Columns whose feedback is applied to the rest at once."""


@dataclass(frozen=True)
class Rounding:
    """How columns are rounded.

    Args:
        damping: What is added to the diagonal of H, as a share of its mean.
        ordered: Whether the columns whose inputs are largest are rounded first.
    """

    damping: float
    ordered: bool

    def round(self, matrix: Matrix, columns: Columns, moments: Matrix) -> Matrix:
        """Return a matrix of numbers on a grid, near to the given one in what it computes.

        Minimizes |(W - Q) X|^2 column by column: the error of column j, in units of the inverse of
        H = X X^T, is taken off the columns that are still to be rounded.

        Args:
            matrix: W, of shape (outputs, inputs).
            columns: The grid, of the same shape.
            moments: H, of shape (inputs, inputs).
        """
        factor, order = self._factor(moments)
        left = matrix[:, order].astype(np.float64)
        rounded = np.empty_like(left)
        count = left.shape[1]
        for start in range(0, count, _COLUMNS):
            stop = min(start + _COLUMNS, count)
            errors = np.empty((len(left), stop - start))
            for column in range(start, stop):
                rounded[:, column] = columns.nearest(left[:, column], int(order[column]))
                error = (left[:, column] - rounded[:, column]) / factor[column, column]
                left[:, column:stop] -= np.outer(error, factor[column, column:stop])
                errors[:, column - start] = error
            left[:, stop:] -= errors @ factor[start:stop, stop:]
        result = np.empty_like(rounded)
        result[:, order] = rounded
        return result

    def _factor(self, moments: Matrix) -> tuple[Matrix, npt.NDArray[np.intp]]:
        """Return U with inverse(H) = U^T U, and the order of columns that it is for."""
        diagonal = np.diag(moments).copy()
        dead = diagonal <= 0
        order = np.argsort(-diagonal, kind="stable") if self.ordered else np.arange(len(diagonal))
        damped = moments.copy()
        damped[dead, dead] = 1.0
        mean = float(diagonal[~dead].mean()) if (~dead).any() else 1.0
        damped = damped[np.ix_(order, order)]
        # With H = L L^T in reversed order, the inverse of L is what the forward order needs.
        lower = _cholesky(damped[::-1, ::-1], self.damping * mean)
        return np.ascontiguousarray(np.linalg.inv(lower)[::-1, ::-1]), order


def _cholesky(matrix: Matrix, damping: float) -> Matrix:
    """Factor a matrix, damped more where rounding has left it without a factor."""
    damping = max(damping, 1e-12 * float(np.trace(matrix)) / len(matrix))
    while True:
        damped = matrix.copy()
        damped[np.diag_indices_from(damped)] += damping
        try:
            return np.asarray(np.linalg.cholesky(damped), np.float64)
        except np.linalg.LinAlgError:
            damping *= 10


class Columns:
    """A grid for the columns of a matrix.

    Args:
        grid: Says how numbers are stored.
        scale: The step of each element, of the shape of the matrix.
        zero: What stands for 0, likewise; None: 0.
    """

    def __init__(self, grid: Grid, scale: npt.NDArray[Any], zero: npt.NDArray[Any] | None) -> None:
        self._grid, self._scale, self._zero = grid, scale, zero

    def nearest(self, column: Matrix, index: int) -> Matrix:
        """Return the numbers on the grid that are nearest to those of one column."""
        zero = None if self._zero is None else self._zero[:, index]
        grid = Grid(self._grid.dtype, self._scale[:, index], zero, axis=0)
        return grid.nearest(column).astype(np.float64)


def loss(difference: Matrix, moments: Matrix) -> float:
    """Return |(W - Q) X|^2, summed over outputs."""
    return float(np.einsum("ij,ij->", difference @ moments, difference))
