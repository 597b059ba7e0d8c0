"""The contract of a score, as a check that any score can be put through."""

from __future__ import annotations

import copy
import inspect
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from surefield.errors import ConfigError, SurefieldError
from surefield.scoring import AtomCenteredScore, DatasetScore, ModelScore, ScoreQuantity
from surefield.scoring.contract import Score
from surefield.scoring.descriptions import picked
from surefield.scoring.results import METADATA, read_labelled, read_value
from surefield.testing.frames import Snapshot

__all__ = ["check_score"]

#: Results of single structures, of batches and of jobs are the same to this.
_SAME = 1e-12


def check_score(score: Score, data: Sequence[Any], arguments: Mapping[str, Any]) -> None:
    """Check what every score must do.

    Inputs stay as they are; a second call gives the same numbers; `score_quantity` is a member or its name in
    any case, and any other is refused; a list of structures is refused by `compute` and one structure by
    `compute_batch`; the numbers of a structure do not depend on the others, unless the score needs all;
    results come back from their file bit by bit, with all that the structures had and what determined them.

    Args:
        score: to be checked.
        data: structures, three or more; of a score of a potential, what its `compute_batch` takes.
        arguments: of `compute_batch` (of a data set: `compute`), without the quantity.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    name = type(score).__name__
    frames = [entry for entry in data if isinstance(entry, Atoms)]
    before, known = Snapshot(frames), _frozen(arguments)
    call = score.compute if isinstance(score, DatasetScore) else score.compute_batch

    def compute(part: Sequence[Any], quantity: Any, given: Mapping[str, Any] = arguments) -> Any:
        return call(part, **{"score_quantity": quantity, **given})

    result = compute(data, score.quantity)
    for quantity in (score.quantity.name, score.quantity.name.lower(), score.quantity):
        _assert_same(compute(data, quantity), result, f"{name}: the numbers of a second call, {quantity}")
    for other in ScoreQuantity:
        if other is not score.quantity:
            _refused(lambda q=other: compute(data, q), ConfigError, name, score.quantity.name)
    if not isinstance(score, ModelScore):
        _check_kinds_of_input(score, frames, arguments)
    if not isinstance(score, DatasetScore | ModelScore):
        if not score.one_job:
            _check_batches(score, frames, arguments, result, compute)
        _check_file(score, frames, result)
    else:
        _check_value(score, result)
    assert before.changed() is None, f"{name} has changed structure {before.changed()}"
    assert _frozen(arguments) == known, f"{name} has changed its arguments"
    assert inspect.isabstract(type(score)) is False


def _check_kinds_of_input(score: Score, frames: Sequence[Atoms], arguments: Mapping[str, Any]) -> None:
    name, given = type(score).__name__, {"score_quantity": score.quantity, **arguments}
    if isinstance(score, DatasetScore):
        _refused(lambda: score.compute(frames[0], **given), ConfigError, name)
        _refused(lambda: score.compute_batch(list(frames), **given), ConfigError, name)
        _refused(lambda: score.compute([], **given), SurefieldError, name)
        return
    _refused(lambda: score.compute_batch(frames[0], **given), ConfigError, name)
    _refused(lambda: score.compute_batch([], **given), SurefieldError, name)
    divided = {entry.partition(".")[0] for entry in score.per_configuration}
    alone = {key: value for key, value in given.items() if key not in divided}
    _refused(lambda: score.compute(list(frames), **alone), ConfigError, "compute_batch")


def _check_batches(
    score: Score,
    frames: Sequence[Atoms],
    arguments: Mapping[str, Any],
    result: Sequence[Any],
    compute: Callable[..., Any],
) -> None:
    """Every structure alone, and all from the last to the first."""
    name, n = type(score).__name__, len(frames)
    for which in (*[[i] for i in range(n)], list(range(n))[::-1]):
        part = picked(arguments, score.per_configuration, which, n)
        numbers = compute([frames[i] for i in which], score.quantity, part)
        _assert_same(numbers, [result[i] for i in which], f"{name}: the numbers of configurations {which}")


def _check_file(score: Any, frames: Sequence[Atoms], result: Sequence[Any]) -> None:
    name, atomic = type(score).__name__, isinstance(score, AtomCenteredScore)
    with tempfile.TemporaryDirectory() as folder:
        score.save_results(result, folder, frames)
        read = read_labelled(Path(folder))
    assert len(read) == len(frames), f"{name}: {len(read)} of {len(frames)} structures in the file"
    for atoms, back, own in zip(frames, read, result, strict=True):
        stored = np.asarray((back.arrays if atomic else back.info)[score.key])
        assert stored.dtype == np.float64, f"{name}: {stored.dtype} in the file"
        assert np.array_equal(stored, own, equal_nan=True), f"{name}: the file has other numbers"
        about = back.info[METADATA][score.key]
        assert about["score"] == name, f"{name}: metadata of {about['score']}"
        assert "package_version" in about, f"{name}: metadata without a version"
        lost = {*atoms.arrays, *atoms.info} - {*back.arrays, *back.info}
        assert not lost, f"{name}: the file has lost {sorted(map(str, lost))}"


def _check_value(score: Any, result: Any) -> None:
    name = type(score).__name__
    with tempfile.TemporaryDirectory() as folder:
        score.save_results(result, folder)
        content = read_value(Path(folder), score.key)
    assert np.array_equal(content[score.key], result), f"{name}: the file has other numbers"
    assert content[METADATA]["score"] == name, f"{name}: the file does not say what it is of"


def _assert_same(got: Any, wanted: Any, what: str) -> None:
    pairs = zip(got, wanted, strict=True) if isinstance(wanted, list) else [(got, wanted)]
    for one, other in pairs:
        a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
        scale = np.abs(b[np.isfinite(b)]).max(initial=0.0)
        same = a.shape == b.shape and np.allclose(a, b, rtol=_SAME, atol=_SAME * scale, equal_nan=True)
        assert same, f"{what} differ"


def _refused(call: Callable[[], Any], error: type[Exception], *words: str) -> None:
    refusal = ""
    try:
        call()
    except error as raised:
        refusal = str(raised)
    assert refusal, f"not refused, though {' of '.join(words)} is asked for something it does not do"
    missing = [word for word in words if word not in refusal]
    assert not missing, f"a refusal does not name {', '.join(missing)}: {refusal}"


def _frozen(arguments: Mapping[str, Any]) -> str:
    """Text of arguments that differs where they do; potentials are immutable."""
    return repr({key: copy.deepcopy(value) for key, value in arguments.items() if _is_plain(value)})


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | bool | int | float | list | tuple | dict | np.ndarray) or value is None
