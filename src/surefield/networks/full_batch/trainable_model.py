"""What full-batch training needs of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from numpy.typing import ArrayLike

__all__ = ["TrainableModel"]


class TrainableModel(Protocol):
    """What loss function and regressor need of a model.

    A model may also have `parallel` (number of shards), `fortran` (False: the plain path), `observer`, called
    as observer(model, vector, loss) after every evaluation, `checkpoint_files()`, which gives the
    `Checkpoints` of a fit or None, `start_settings()`, what the start values follow from, with `drawn_start`
    where nobody has chosen them, and `shape`, its potential with whatever vector costs nothing.
    """

    vector: Any
    lossfunction: Any

    @property
    def potential(self) -> Any:
        """The potential whose vector is trained."""
        ...

    @property
    def log(self) -> Callable[[str], Any] | None:
        """Called with lines of text."""
        ...

    def get_loss(self, vector: ArrayLike, lossprime: bool) -> Any:
        """Loss, or loss and gradient, of `lossfunction`."""
        ...
