"""`FIMMatchingScore`: which configurations a target property needs, and how precisely they must be known."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, NoReturn, final

from ase import Atoms

from surefield.errors import ConfigError, DataError
from surefield.files import read_json
from surefield.scores.fim.matching import MatchingResult, fim_match
from surefield.scores.fim.training_set import FIMTrainingSetScore
from surefield.scoring import ConfigurationScore, ScoreQuantity
from surefield.scoring.array_files import described_array, is_path, load_array
from surefield.scoring.results import METADATA

__all__ = ["FIMMatchingScore"]

#: Entries of structures with the FIM of a candidate, and of files with that of the target.
CANDIDATE: Final = FIMTrainingSetScore.key
TARGET: Final = "fim_property_score"
_INDEX: Final = "fim_index_to_parameter"


@final
class FIMMatchingScore(ConfigurationScore):
    """Weights of candidates whose Fisher information covers that of a target property; see `fim_match`.

    A weight w is an inverse variance: 1/sqrt(w) is the precision with which a configuration must be known,
    and 0 says that it is not needed.

    Attributes:
        result: of the last `compute_batch`, with what proves the weights.
    """

    key: ClassVar[str] = "fim_matching_weight_score"
    quantity: ClassVar[ScoreQuantity] = ScoreQuantity.IMPORTANCE
    array_arguments: ClassVar[tuple[str, ...]] = ("fim_property",)
    one_job: ClassVar[bool] = True

    def __init__(self) -> None:
        self.result: MatchingResult | None = None

    def settings(self) -> Mapping[str, Any]:
        """None."""
        return {}

    def compute(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not there: a single configuration has no weight beside others.

        Raises:
            ConfigError: always.
        """
        what = "FIMMatchingScore needs a set of candidates, so that there is no weight of a single one"
        raise ConfigError(what, fix="use compute_batch with all candidates")

    def compute_batch(
        self,
        list_of_atoms: Sequence[Atoms],
        fim_property: Any,
        score_quantity: Any,
        convexopt_init_kwargs: Mapping[str, Any] | None = None,
        fim_preconditioning_kwargs: Mapping[str, Any] | None = None,
        solver_kwargs: Mapping[str, Any] | None = None,
        weight_tolerance: Mapping[str, float] | None = None,
    ) -> list[float]:
        """Weights of all candidates, in their order.

        Args:
            list_of_atoms: candidates with `info['fim_training_set_score']`; they are not changed.
            fim_property: (P, P) information that the target needs; or a `.npy` file, or a `.json` file with
                `fim_property_score`.
            score_quantity: IMPORTANCE.
            convexopt_init_kwargs: `weight_upper_bound`: None, a number, or one per candidate.
            fim_preconditioning_kwargs: default `{'scale_type': 'max_frobenius'}`; 'frobenius' scales every
                candidate by its own norm, which changes what is minimised; `{}`: none.
            solver_kwargs: `solver` and what is passed on to it; default Clarabel, then CVXOPT; from 40
                parameters on CVXOPT, where it is installed, then Clarabel.
            weight_tolerance: `zero_tol` and `zero_tol_dual`, both 1e-4.

        Raises:
            DataError: a candidate without FIM, matrices that are none, other parameters than those of the
                target, or a target that no weights cover, with the direction that is missing.
            ConfigError: unknown arguments, or a solver that is not installed.
            ExecutionError: no solver gives an answer that holds.
        """
        self.check_quantity(score_quantity)
        frames = self.several(list_of_atoms)
        matrices = []
        for i, atoms in enumerate(frames):
            if CANDIDATE not in atoms.info:
                raise DataError(
                    f"a candidate has no info[{CANDIDATE!r}]",
                    where=f"configuration {i}",
                    got=f"keys {sorted(map(str, atoms.info))}",
                    fix="compute it with FIMTrainingSetScore, and save_results with the structures",
                )
            matrices.append(atoms.info[CANDIDATE])
        target = load_array(fim_property, "fim_property", json_key=TARGET)
        options = {
            "convexopt_init_kwargs": convexopt_init_kwargs,
            "fim_preconditioning_kwargs": fim_preconditioning_kwargs,
            "solver_kwargs": solver_kwargs,
            "weight_tolerance": weight_tolerance,
        }
        names = _names(frames, fim_property)
        self.result = fim_match(target, matrices, **options, names=names)
        notes = {
            "fim_property": described_array(fim_property, "fim_property", target),
            "result": _summary(self.result),
            "candidates": len(frames),
        }
        return self.recorded([float(w) for w in self.result.weights], options, notes=notes)


def _summary(result: MatchingResult) -> dict[str, Any]:
    """What metadata say of a result: all but what every candidate has of its own."""
    entries = dataclasses.asdict(result)
    del entries["weights"], entries["duals"]
    entries["scales"] = {"kind": result.scales.kind, "target": result.scales.target}
    return {**entries, "kept": result.kept.tolist()}


def _names(frames: Sequence[Atoms], fim_property: Any) -> list[str] | None:
    """Names of the parameters, as far as the metadata know them, which must agree."""
    known: list[tuple[str, int]] | None = None
    first = ""
    for where, index in _indices(frames, fim_property):
        if known is None:
            known, first = index, where
        elif index != known:
            raise DataError(
                "the Fisher information matrices are about different parameters",
                where=where,
                got=", ".join(f"{name}[{place}]" for name, place in index[:9]),
                expected=f"those of {first}: " + ", ".join(f"{name}[{place}]" for name, place in known[:9]),
                fix="compute all with the same parameters_optimize",
            )
    if known is None:
        return None
    several = {name for name, place in known if place > 0}
    return [f"{name}[{place}]" if name in several else name for name, place in known]


def _indices(frames: Sequence[Atoms], fim_property: Any) -> Any:
    """Index of every matrix that has one, and where."""
    for i, atoms in enumerate(frames):
        metadata = atoms.info.get(METADATA)
        of = metadata.get(CANDIDATE) if isinstance(metadata, Mapping) else None
        if isinstance(of, Mapping) and isinstance(of.get(_INDEX), Mapping):
            yield f"configuration {i}", _in_order(of[_INDEX])
    if is_path(fim_property) and Path(fim_property).suffix.lower() == ".json":
        of = read_json(Path(fim_property)).get(METADATA)
        if isinstance(of, Mapping) and isinstance(of.get(_INDEX), Mapping):
            yield "fim_property", _in_order(of[_INDEX])


def _in_order(index: Mapping[Any, Mapping[str, Any]]) -> list[tuple[str, int]]:
    entries = sorted((int(place), entry) for place, entry in index.items())
    return [(str(entry["parameter"]), int(entry["extent"])) for _, entry in entries]
