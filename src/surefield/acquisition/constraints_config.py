"""Constraints on a batch by configuration: labels of groups are read from the structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from surefield.config import Config
from surefield.errors import ConfigError, DataError, nearest
from surefield.selection.constraints import Constraints

if TYPE_CHECKING:
    from surefield.structures.read import Frames

__all__ = ["ConstraintsConfig"]

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
    cost: Literal["uniform", "n_atoms", "n_atoms^3"] | None = Field(
        default=None, description="of a label; picks are made by gain per cost"
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
            self._with(None if self.groups is None else ())
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    def of(self, pool: Frames) -> Constraints:
        """Constraints on picks from a pool.

        Raises:
            DataError: a structure that does not name its group.
        """
        return self._with(None if self.groups is None else _groups(pool, self.groups))

    def _with(self, groups: Sequence[str] | None) -> Constraints:
        values = {name: getattr(self, name) for name in type(self).model_fields if name != "groups"}
        return Constraints(**values, groups=groups)


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
