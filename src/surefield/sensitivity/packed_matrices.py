"""Symmetric matrices as rows: products of rows are traces of products."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from surefield.errors import DataError

__all__ = ["packed", "unpacked"]


def packed(matrices: Float[np.ndarray, "*n k k"]) -> Float[np.ndarray, "*n n_packed"]:
    """Upper triangles of symmetric matrices, off the diagonal times √2: products are traces of products."""
    upper = np.triu_indices(matrices.shape[-1])
    return matrices[..., upper[0], upper[1]] * np.where(upper[0] == upper[1], 1.0, np.sqrt(2.0))


def unpacked(rows: Float[np.ndarray, "n n_packed"]) -> Float[np.ndarray, "n k k"]:
    """Symmetric matrices from what `packed` gives.

    Raises:
        DataError: the width is that of no triangle.
    """
    size = round((np.sqrt(8 * rows.shape[1] + 1) - 1) / 2)
    if size * (size + 1) // 2 != rows.shape[1]:
        raise DataError("rows are no packed matrices", got=f"{rows.shape[1]} columns", expected="k(k + 1)/2")
    i, j = np.triu_indices(size)
    matrices = np.empty((len(rows), size, size))
    matrices[:, i, j] = matrices[:, j, i] = rows / np.where(i == j, 1.0, np.sqrt(2.0))
    return matrices
