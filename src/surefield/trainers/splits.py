"""Splits of stored configurations into those that are fitted and those that are kept for validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from surefield.errors import ConfigError, DataError

__all__ = ["split_configurations"]


def split_configurations(
    ids: Sequence[str],
    frames: Sequence[Atoms],
    share: float,
    split: Mapping[str, Sequence[str]] | str | None,
    seed: int,
) -> tuple[list[int], list[int]]:
    """Indices of the training and of the validation configurations, both in stored order.

    Args:
        ids: of the configurations.
        frames: the configurations.
        share: of the configurations that is fitted, in (0, 1].
        split: {'train': ids, 'validation': ids} fixes it; a name keeps configurations with the same
            `info[name]` on one side.
        seed: of the draw.

    Raises:
        ConfigError: share outside (0, 1], or a split with other keys.
        DataError: an id that does not exist or stands twice; a missing `info[name]`.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ConfigError(f"training_split must be in (0, 1], got {share!r}")
    if isinstance(split, Mapping):
        return _given(ids, split)
    if split is not None and not isinstance(split, str):
        raise ConfigError(
            f"split must be a key of info or {{'train': ids, 'validation': ids}}, got {split!r}"
        )
    groups = [str(i) for i in range(len(ids))] if split is None else _groups(ids, frames, split)
    names = list(dict.fromkeys(groups))
    if share == 1:
        return list(range(len(ids))), []
    if len(names) < 2:
        what = "configuration" if split is None else f"value of {split!r}"
        raise DataError(f"training_split={share} needs two {what}s at least, got {len(names)}")
    wanted = min(max(round(len(ids) * share), 1), len(ids) - 1)
    order = np.random.default_rng(seed).permutation(len(names))
    sizes = Counter(groups)
    chosen: set[str] = set()
    taken = 0
    for place in order[:-1].tolist():
        if taken >= wanted:
            break
        chosen.add(names[place])
        taken += sizes[names[place]]
    train = [i for i, group in enumerate(groups) if group in chosen]
    return train, sorted(set(range(len(ids))) - set(train))


def _given(ids: Sequence[str], split: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    if not set(split) <= {"train", "validation"} or not split.get("train"):
        raise ConfigError(f"split needs the keys 'train' and 'validation', got {', '.join(split) or 'none'}")
    place = {name: i for i, name in enumerate(ids)}
    parts = [list(split.get(part, ())) for part in ("train", "validation")]
    unknown = [name for part in parts for name in part if name not in place]
    if unknown:
        raise DataError(f"split: no configuration has the id {unknown[0]!r}; ids are like {ids[0]!r}")
    named = [name for part in parts for name in part]
    (often, count), *_ = Counter(named).most_common(1)
    if count > 1:
        raise DataError(f"split: configuration {often!r} stands in it {count} times")
    left = sorted(set(ids) - set(named))
    if left:
        raise DataError(f"split: {len(left)} configurations are in neither part, the first is {left[0]!r}")
    train, validation = (sorted(place[name] for name in part) for part in parts)
    return train, validation


def _groups(ids: Sequence[str], frames: Sequence[Atoms], key: str) -> list[str]:
    for name, atoms in zip(ids, frames, strict=True):
        if key not in atoms.info:
            present = ", ".join(map(str, atoms.info)) or "none"
            raise DataError(f"split={key!r}: configuration {name} has no such info; present: {present}")
    return [str(atoms.info[key]) for atoms in frames]
