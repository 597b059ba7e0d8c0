"""Evaluations of a loss that outlive the process, so that a killed minimisation takes no step twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, final

import numpy as np
from jaxtyping import Float

from surefield.training.checkpoint import PartialSums
from surefield.training.minimize import Objective, Vector

__all__ = ["KeptEvaluations"]

#: Of results that are kept; rows and Jacobians of many structures would fill the disk.
LARGEST: Final = 256 * 1024**2
Kind = Literal["loss", "gradient", "rows", "jacobian"]


@final
class KeptEvaluations:
    """An objective whose results are kept in a file, in the order in which they were asked for.

    Minimisers are deterministic: one that starts anew asks for the same points, has the results that are
    known at once, and ends as one that was not interrupted. From the first point that differs on, or beyond
    256 MiB of results, nothing is known.

    Args:
        objective: computes what is not known.
        files: where results are kept.
    """

    def __init__(self, objective: Objective, files: PartialSums) -> None:
        self.objective, self.files = objective, files
        self._kinds: list[str] = []
        self._points: list[Vector] = []
        self._results: list[np.ndarray] = []
        self._asked = self._size = 0
        if (known := files.load()) is not None:
            self._kinds = known["kinds"].tolist()
            self._points = list(known["points"])
            ends = np.cumsum(known["sizes"])[:-1]
            self._results = np.split(known["results"], ends)
            self._size = known["results"].nbytes

    @property
    def n_known(self) -> int:
        """Results that the file held, or that were computed since."""
        return len(self._kinds)

    def loss(self, x: Vector) -> float:
        """Loss at a point."""
        return float(self._result("loss", x, lambda: np.array([self.objective.loss(x)]))[0])

    def gradient(self, x: Vector) -> tuple[float, Vector]:
        """Loss and its derivatives."""

        def computed() -> np.ndarray:
            value, gradient = self.objective.gradient(x)
            return np.array([value, *gradient])

        both = self._result("gradient", x, computed)
        return float(both[0]), both[1:].copy()

    def rows(self, x: Vector) -> Float[np.ndarray, " n_rows"]:
        """Residuals whose squares add up to the loss."""
        return self._result("rows", x, lambda: self.objective.rows(x)).copy()

    def jacobian(self, x: Vector) -> Float[np.ndarray, "n_rows n_free"]:
        """Derivatives of the rows."""
        flat = self._result("jacobian", x, lambda: np.ravel(self.objective.jacobian(x)))
        return flat.reshape(-1, len(x)).copy()

    def _result(self, kind: Kind, x: Vector, compute: Callable[[], np.ndarray]) -> np.ndarray:
        place, self._asked = self._asked, self._asked + 1
        if place < len(self._kinds):
            if self._kinds[place] == kind and np.array_equal(self._points[place], x):
                return self._results[place]
            for known in (self._kinds, self._points, self._results):
                del known[place:]
            self._size = sum(result.nbytes for result in self._results)
        result = np.asarray(compute(), np.float64)
        if place == len(self._kinds) and self._size + result.nbytes <= LARGEST:
            self._kinds.append(kind)
            self._points.append(np.array(x))
            self._results.append(result)
            self._size += result.nbytes
            self.files.save(self._arrays)
        return result

    def _arrays(self) -> dict[str, np.ndarray]:
        return {
            "done": np.array(len(self._kinds)),
            "kinds": np.array(self._kinds),
            "points": np.array(self._points),
            "sizes": np.array([len(result) for result in self._results]),
            "results": np.concatenate(self._results),
        }
