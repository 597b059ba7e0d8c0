"""What a label will cost, from the times that earlier labels took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np
from numpy.typing import ArrayLike

from surefield.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["LabelCost", "fit_label_cost"]

#: Exponent where times say nothing of it: what a density-functional code does to a large cell.
CUBIC: Final = 3.0
#: Labels with a time, and spread of ln(electrons) among them, that an exponent takes.
_FEWEST: Final = 5
_SPREAD: Final = 0.1
#: Exponents outside are those of noise.
_LARGEST: Final = 7.0


@final
@dataclass(frozen=True)
class LabelCost:
    """Seconds of a label, a·nᵖ with n the electrons of a structure, all of them; a function of `Atoms`.

    Attributes:
        factor: a, in seconds.
        exponent: p.
        n_labels: labels that it was fitted to.
        fitted: whether p follows from them; else it is 3, because they were too few or all of one size.
    """

    factor: float
    exponent: float
    n_labels: int
    fitted: bool

    def __call__(self, atoms: Atoms) -> float:
        """Seconds that the label of a structure will take."""
        return self.factor * float(_electrons(atoms)) ** self.exponent

    def __str__(self) -> str:
        said = "fitted to" if self.fitted else "assumed, scaled by"
        exponent = f"{self.exponent:.2f}" if self.fitted else f"{self.exponent:g}"
        return f"a label takes {self.factor:.3g} s times electrons^{exponent}, {said} {self.n_labels} labels"


def fit_label_cost(frames: Sequence[Atoms], seconds: ArrayLike) -> LabelCost:
    """Least squares of ln(seconds) on ln(electrons), without times of 0, which labels have that were kept.

    Args:
        frames: labelled structures.
        seconds: (n_frames,) what each label took.

    Raises:
        DataError: another number of times, or negative ones.
    """
    times = np.asarray(seconds, dtype=np.float64)
    if times.shape != (len(frames),):
        raise DataError("one time per label is needed", got=f"shape {times.shape}", expected=(len(frames),))
    if not np.all(times >= 0):
        raise DataError("times of labels must not be negative", got=times[~(times >= 0)][0])
    known = np.flatnonzero((times > 0) & np.isfinite(times)).tolist()
    if not known:
        return LabelCost(1.0, CUBIC, 0, False)
    x = np.log([_electrons(frames[i]) for i in known])
    y = np.log(times[known])
    exponent, fitted = CUBIC, False
    if len(known) >= _FEWEST and x.std() > _SPREAD:
        slope = float(np.mean((x - x.mean()) * (y - y.mean())) / x.var())
        exponent, fitted = float(np.clip(slope, 0.0, _LARGEST)), True
    return LabelCost(float(np.exp(y.mean() - exponent * x.mean())), exponent, len(known), fitted)


def _electrons(atoms: Atoms) -> int:
    return max(int(atoms.numbers.sum()), 1)
