"""The result of a selection: the picks, why they were picked, and what was left out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

import numpy as np
from jaxtyping import Float, Int

from surefield.errors import ConfigError, DataError
from surefield.files import read_arrays, write_arrays
from surefield.selection.reason_words import in_words

__all__ = ["Dropped", "Reason", "Selection"]

FORMAT = "surefield-selection-1"


@dataclass(frozen=True)
class Reason:
    """Why a structure was picked.

    Attributes:
        rule: name of the method.
        value: value of its rule; None for a rule without values.
        score: name of the score that was used, if any.
        score_value: its value.
    """

    rule: str
    value: float | None
    score: str | None = None
    score_value: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """What is known, fit for JSON; `Reason(**entries)` is the reason again."""
        return {name: value for name, value in asdict(self).items() if value is not None or name == "value"}

    def __str__(self) -> str:
        """A sentence, with the value of the rule."""
        score = "" if self.score_value is None else f"{self.score_value:.4g}"
        words = in_words(self.rule, self.score, score)
        return words if self.value is None else f"{words} ({self.rule} {self.value:.3g})"


@dataclass(frozen=True)
class Dropped:
    """A structure of the pool that was not considered.

    Attributes:
        index: its index in the pool.
        reason: why.
        kept: for a duplicate, the index of the structure that stays.
        kept_in: `pool`, `train` or `held-out set`, where `kept` is counted.
    """

    index: int
    reason: str
    kept: int | None = None
    kept_in: str | None = None


@dataclass(frozen=True, eq=False)
class Selection(Sequence[int]):
    """Pool indices in pick order; length, iteration and indexing are those of a list of int.

    Attributes:
        indices: (n_picks,) pool indices, none twice.
        gains: (n_picks,) value of the rule per pick, NaN for `random`.
        squared_distances: (n_picks,) d² to the nearest of train and earlier picks; ‖φ‖² where there is
            neither.
        n_requested: picks asked for.
        stopped: why there are fewer: `exhausted`, `duplicates`, `zero_scores`, `rank_exhausted` (`max_det`
            without noise), `zero_features` (`frank_wolfe`), `quota`, `min_distance`, `budget`; else None.
        reasons: one per pick.
        dropped: structures that were not considered.
        notes: what a reader should know: fallbacks, recommendations.
        config: method and arguments.
        g_train: (n_train, n_features) features the selection was made with, if kept.
        g_pool: (n_pool, n_features) the same of the pool.
    """

    indices: Int[np.ndarray, " n_picks"]
    gains: Float[np.ndarray, " n_picks"]
    squared_distances: Float[np.ndarray, " n_picks"]
    n_requested: int
    stopped: str | None = None
    reasons: tuple[Reason, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    notes: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    g_train: Float[np.ndarray, "n_train n_features"] | None = field(default=None, repr=False)
    g_pool: Float[np.ndarray, "n_pool n_features"] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name, kind in {"indices": np.int64, "gains": np.float64, "squared_distances": np.float64}.items():
            values = np.array(getattr(self, name), dtype=kind)
            if values.shape != (len(self.indices),):
                raise DataError(
                    f"{name} must have one entry per pick", got=values.shape, expected=(len(self.indices),)
                )
            values.flags.writeable = False
            object.__setattr__(self, name, values)
        if len(np.unique(self.indices)) != len(self.indices) or np.any(self.indices < 0):
            raise DataError("picks must be different indices from 0", got=self.indices.tolist())
        if len(self.indices) < self.n_requested and self.stopped is None:
            raise DataError(f"{len(self.indices)} of {self.n_requested} picks without a reason for stopping")
        for name in ("reasons", "dropped", "notes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "config", MappingProxyType(dict(self.config)))

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        if isinstance(index, slice):
            return self.indices[index].tolist()
        return int(self.indices[index])

    def save(self, path: str | Path, *, features: bool = False) -> None:
        """Write one npz file (arrays, and a JSON header in UTF-8 bytes), by a temporary file and a rename.

        Args:
            path: file to write or replace; used as given.
            features: also store `g_train` and `g_pool`.

        Raises:
            ExecutionError: disk full, no permission, no such folder.
        """
        header = {
            "format": FORMAT,
            "n_requested": self.n_requested,
            "stopped": self.stopped,
            "reasons": [astuple(reason) for reason in self.reasons],
            "dropped": [astuple(entry) for entry in self.dropped],
            "notes": self.notes,
            "config": dict(self.config),
        }
        arrays = {name: getattr(self, name) for name in ("indices", "gains", "squared_distances")}
        if features:
            arrays |= {
                name: getattr(self, name) for name in ("g_train", "g_pool") if getattr(self, name) is not None
            }
        text = json.dumps(header, ensure_ascii=False, allow_nan=False).encode()
        write_arrays(path, {"header": np.frombuffer(text, dtype=np.uint8), **arrays})

    def to_dataframe(self) -> Any:
        """One row per pick: index, gain, squared_distance, rule, score and score_value, as pandas' DataFrame.

        Raises:
            ConfigError: pandas is not installed.
        """
        try:
            frame = import_module("pandas").DataFrame
        except ImportError as error:
            raise ConfigError("a data frame needs pandas", got=str(error), fix="pip install pandas") from None
        columns: dict[str, Any] = {
            "index": self.indices,
            "gain": self.gains,
            "squared_distance": self.squared_distances,
        }
        for name in ("rule", "score", "score_value") if self.reasons else ():
            columns[name] = [getattr(reason, name) for reason in self.reasons]
        return frame(columns)

    @classmethod
    def load(cls, path: str | Path) -> Selection:
        """Read what `save` wrote; runs no code from the file.

        Raises:
            DataError: no such file, damaged, or not a selection.
        """
        path = Path(path)
        if not path.is_file():
            raise DataError(f"no selection file at {path.resolve()}")
        try:
            arrays = read_arrays(path)
            header = json.loads(arrays.pop("header").tobytes().decode())
            if header.pop("format") != FORMAT:
                raise ValueError
            header["reasons"] = [Reason(*entry) for entry in header["reasons"]]
            header["dropped"] = [Dropped(*entry) for entry in header["dropped"]]
            return cls(**arrays, **header)
        except (ValueError, KeyError, TypeError, AttributeError, DataError):
            raise DataError(f"{path} is not a selection file of this version, or it is damaged") from None
