"""Constraints on a batch by configuration: labels of groups are read from the structures."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal, Self

from pydantic import Field, model_validator

from surefield.acquisition.label_cost import LabelCost, fit_label_cost
from surefield.config import Config
from surefield.errors import ConfigError, DataError, nearest
from surefield.selection.constraints import Constraints

if TYPE_CHECKING:
    from ase import Atoms

    from surefield.structures.read import Frames

__all__ = ["ConstraintsConfig"]

_log = logging.getLogger(__name__)
_FITTED: Final = "fitted"
#: What `groups` may be besides an entry of info.
_FORMULA = "formula"


class ConstraintsConfig(Config):
    """What the picks must keep to, together."""

    exclude: tuple[int, ...] = Field(default=(), description="places in the pool that are never picked")
    drop: bool = Field(default=False, description="exclude them from what the pool is, too")
    groups: str | None = Field(
        default=None, description=f"entry of info that names a structure's group; {_FORMULA}: its formula"
    )
    quota: Literal["equal", "proportional"] | Mapping[str, int] | None = Field(
        default=None, description="most picks of a group, by its name; equal or proportional: shares"
    )
    strict_quota: bool = Field(default=False, description="a group that cannot fill its quota is an error")
    cost: Literal["uniform", "n_atoms", "n_atoms^3", "fitted"] | None = Field(
        default=None,
        description="of a label; picks are by gain per cost. fitted: seconds, by a power of the electrons "
        "that follows from the times of a loop's labels",
    )
    budget: float | None = Field(default=None, gt=0, description="most that the picks may cost together")
    min_distance: float | str | None = Field(
        default=None,
        description="of features, to training set and picks; 0.5x: of the pool's median to the training set",
    )
    deduplicate: Literal["exact", "features"] | None = Field(
        default="exact", description="copies that are dropped: equal structures, or also rows of features"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        try:
            self._with(None if self.groups is None else (), "uniform" if self.cost == _FITTED else self.cost)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    def of(self, pool: Frames, timed: tuple[Sequence[Atoms], Sequence[float]] | None = None) -> Constraints:
        """Constraints on picks from a pool; `timed` are labelled structures and the seconds of each label.

        Raises:
            ConfigError: a fitted cost without labels that have times.
            DataError: a structure that does not name its group.
        """
        cost: str | LabelCost | None = self.cost
        if cost == _FITTED:
            if timed is None:
                fix = "a loop has them; elsewhere cost: n_atoms^3"
                raise ConfigError("cost 'fitted' needs labels with times", fix=fix)
            cost = fit_label_cost(*timed)
            _log.info("%s", cost)
        return self._with(None if self.groups is None else _groups(pool, self.groups), cost)

    def _with(self, groups: Sequence[str] | None, cost: str | LabelCost | None) -> Constraints:
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return Constraints(**{**values, "groups": groups, "cost": cost})


def _groups(pool: Frames, key: str) -> list[str]:
    if key == _FORMULA:
        return [atoms.get_chemical_formula() for atoms in pool]
    labels = []
    for atoms, origin in zip(pool.atoms, pool.origins, strict=True):
        if key not in atoms.info:
            fix = f"{nearest(key, atoms.info)}; or groups: {_FORMULA}"
            raise DataError(f"no entry {key!r} of info, which names groups", where=origin, fix=fix)
        labels.append(str(atoms.info[key]))
    return labels
