"""The loop: every label is fitted, nothing is paid for twice, it goes on wherever it was stopped."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from tests.copper import copper

import surefield as sf
from surefield.descriptors.quests import QUESTSDescriptor
from surefield.errors import ConfigError, DataError, ExecutionError, PotentialError
from surefield.execution.worker_process import WorkerDied
from surefield.exploration.config import DynamicsConfig, RattleConfig
from surefield.loop import Loop, LoopConfig, trace
from surefield.loop.candidates import ExploredCandidates
from surefield.loop.journal import TIMES, Journal
from surefield.loop.oracles import CalculatorOracle
from surefield.loop.settings import with_selection
from surefield.potentials.snap.snap import Snap, SnapConfig
from surefield.scores import QUESTSDeltaEntropyScore
from surefield.structures.images import image_key
from surefield.structures.label_sources import without_labels
from surefield.training import TrainConfig
from surefield.uncertainty.config import DeepEnsembleConfig, LLPRConfig

SETTINGS: dict[str, Any] = {"n_initial": 4, "n_per_round": 2, "n_rounds": 2, "n_audit": 1, "validation": 0.34}


class Counted(EMT):
    """EMT that remembers what it computed, and fails where it is told to."""

    computed: list[bytes] = []  # noqa: RUF012
    bad: set[str] = set()  # noqa: RUF012

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = None, system_changes: Any = all_changes
    ) -> None:
        assert atoms is not None
        if image_key(atoms) in Counted.bad or "all" in Counted.bad:
            raise RuntimeError("no convergence")
        super().calculate(atoms, properties, system_changes)
        Counted.computed.append(atoms.positions.tobytes())


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    Counted.computed = []
    yield
    Counted.bad = set()  # fixtures of the module come before the next test's


def snap(twojmax: int = 2) -> Snap:
    return Snap.from_settings(SnapConfig(cutoff=3.6, twojmax=twojmax), ["Cu"])


def oracle() -> CalculatorOracle:
    return CalculatorOracle(Counted, "counted EMT", {"version": 1}, retries=0)


POOL = [without_labels(atoms) for atoms in copper(14, 0, rattle=0.15)]


def loop(folder: Path, *, candidates: Any = None, potential: Any = None, **settings: Any) -> Loop:
    folder.mkdir(exist_ok=True)
    given = {
        name: settings.pop(name)
        for name in ("test", "imported", "oracle", "executor", "uncertainty", "training")
        if name in settings
    }
    config = LoopConfig(**{**SETTINGS, **settings})
    labeller = given.pop("oracle", None) or oracle()
    pool = POOL if candidates is None else candidates
    training = given.pop("training", None) or TrainConfig()
    return Loop(folder, config, potential or snap(), training, labeller, pool, **given)


def events(folder: Path, **entries: Any) -> list[dict[str, Any]]:
    return Journal(folder / "journal.jsonl").find(**entries)


def content(folder: Path) -> list[dict[str, Any]]:
    """The journal without times."""
    return [{k: v for k, v in event.items() if k not in TIMES} for event in events(folder)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loop") / "run"
    loop(folder).run(progress=False)
    return folder


def test_every_label_is_fitted_in_the_end(finished: Path) -> None:
    labelled = events(finished, event="labelled")
    purposes = [(event["round"], event["purpose"]) for event in labelled]
    picks = [(0, "audit"), (0, "pick"), (0, "pick"), (1, "audit"), (1, "pick"), (1, "pick"), (2, "audit")]
    assert purposes == [*[(0, "initial")] * 4, *picks]
    assert [event["n_labels"] for event in events(finished, event="round")] == [4, 7, 10]
    (final,) = events(finished, event="final")
    assert final["n_labels"] == 11
    frames = sf.read_frames(finished / "labelled.xyz")
    assert [atoms.info["surefield_structure"] for atoms in frames] == [e["structure"] for e in labelled]
    whole = sf.load(finished / "potential.npz")
    assert whole.statistics["rows"]["energy"] == 11
    data = sf.train(snap(), finished / "labelled.xyz", validation=0.2, progress=False)
    assert len(data.train_set) + len(data.validation_set) == 11
    reference = frames[0].copy()
    reference.calc = EMT()
    np.testing.assert_allclose(frames[0].get_forces(), reference.get_forces(), atol=1e-12)


def test_what_is_left_open_is_as_select_has_it(finished: Path) -> None:
    (start,) = events(finished, event="start")
    assert (start["settings"]["loop"]["methods"], start["settings"]["loop"]["features"]) == (
        ["bait_f"],
        "ll_force",
    )
    (picked,) = events(finished, event="picked", round=0)
    known = sf.read_frames(finished / "labelled.xyz")[:5]
    left = [atoms for atoms in POOL if image_key(atoms) not in {image_key(one) for one in known}]
    picks = sf.select(sf.load(finished / "rounds" / "000" / "potential.npz"), known, left, n=2)
    assert [image_key(left[i]) for i in picks] == picked["structures"]
    assert picks.gains.tolist() == pytest.approx(picked["gains"])


@pytest.mark.parametrize(
    ("settings", "uncertainty", "expected"),
    [
        ({"methods": ("lcmd",)}, LLPRConfig(), ("lcmd", "full_grad_rp")),
        ({"features": "ll_posterior"}, LLPRConfig(), ("lcmd", "ll_posterior")),
        ({"transforms": [{"kind": "l2"}]}, LLPRConfig(), ("lcmd", "full_grad_rp")),
        ({"stop": {"least_gain": 0.1}}, LLPRConfig(), ("lcmd", "full_grad_rp")),
        ({}, DeepEnsembleConfig(), ("lcmd", "full_grad_rp")),
        ({"seeds": (0, 1)}, LLPRConfig(), ("bait_f", "ll_force")),
    ],
)
def test_what_suits_the_potential(settings: Any, uncertainty: Any, expected: tuple[str, str]) -> None:
    config, features = with_selection(LoopConfig(**settings), snap(), uncertainty)
    assert (*config.methods, config.features) == expected
    assert features == config.features


def test_an_audit_is_the_error_of_a_potential_that_has_not_seen_it(finished: Path) -> None:
    (audited,) = events(finished, event="audited", round=1)
    (drawn,) = events(finished, event="drawn", round=1)
    (atoms,) = [a for a in sf.read_frames(finished / "labelled.xyz") if image_key(a) in drawn["structures"]]
    potential = sf.load(finished / "rounds" / "001" / "potential.npz")
    (prediction,) = potential.predict([atoms])
    error = np.abs(prediction.forces - atoms.get_forces()).mean()
    assert audited["test"]["forces_mae"] == pytest.approx(error, rel=1e-6)
    assert audited["n_labels"] == 7
    assert not set(drawn["structures"]) & {
        e["structure"] for e in events(finished, event="labelled", round=0)
    }


def test_a_finished_loop_has_nothing_left_to_do(finished: Path, tmp_path: Path) -> None:
    before = (finished / "journal.jsonl").read_bytes()
    summary = loop(finished).run(progress=False)
    assert (finished / "journal.jsonl").read_bytes() == before
    assert Counted.computed == []
    assert summary["n_labels"] == 11
    assert "11 labels (11 paid for here)" in summary["verdict"]


def test_why_a_structure_was_labelled(finished: Path) -> None:
    picked = events(finished, event="picked", round=1)[0]
    lines = "\n".join(trace(picked["structures"][0][:10], finished))
    for words in ("in round 1, picked by bait_f, 1. of 2", picked["potential"], "by counted EMT (version 1)"):
        assert words in lines
    for words in ("fitted to 7 labels", "sigma of the forces then", "core hours", "the final potential"):
        assert words in lines
    assert trace(f"{finished / 'labelled.xyz'}@8") == trace("8", finished)
    assert "drawn at random" in "\n".join(trace("0", finished))
    with pytest.raises(DataError, match="no single structure 'xyz'"):
        trace("xyz", finished)
    with pytest.raises(DataError, match=r"no folder of a loop.*surefield trace RUN FRAME"):
        trace("12", finished / "labels")


class Killed(BaseException):
    """As a kill: nothing catches it."""


@pytest.mark.parametrize("after", [0, 1, 3, 6, 7, 8, 9, 11])
def test_killed_after_any_event_it_ends_the_same(
    after: int, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kind of event; what is on the disk by then is not computed again."""
    append = Journal.append

    def dying(self: Journal, event: Any, once: Any = ()) -> bool:
        if len(self.events) == after:
            raise Killed
        return append(self, event, once)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", dying)
        with pytest.raises(Killed):
            loop(tmp_path).run(progress=False)
    loop(tmp_path).run(progress=False)
    assert content(tmp_path) == content(finished)
    assert len(Counted.computed) == len(set(Counted.computed)) == 11


@pytest.mark.parametrize("write", [2, 9, 17, 26])
def test_a_full_disk_is_said_and_nothing_is_lost(
    write: int, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whichever of its writes: labels, potentials, picks, journal."""
    rename, n = os.replace, 0

    def full(source: Any, target: Any) -> None:
        nonlocal n
        n += 1
        if n >= write:
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(ExecutionError, match="disk"):
            loop(tmp_path).run(progress=False)
    assert n >= write
    loop(tmp_path).run(progress=False)
    assert content(tmp_path) == content(finished)


def test_damaged_files_are_made_again_or_named(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    folder = tmp_path / "run"
    lines = (folder / "journal.jsonl").read_text().splitlines(keepends=True)
    explored_last = max(i for i, line in enumerate(lines) if '"event": "explored"' in line)
    (folder / "journal.jsonl").write_text("".join(lines[: explored_last + 1]))
    used = folder / "rounds" / "002" / "potential.npz"
    used.write_bytes(used.read_bytes()[:-200])
    (folder / "potential.npz").write_bytes(b"no potential")
    loop(folder).run(progress=False)
    assert content(folder) == content(finished)
    assert "002/potential.npz is damaged or gone: fitted again" in caplog.text
    assert sf.load(folder / "potential.npz").statistics["rows"]["energy"] == 11
    (folder / "journal.jsonl").write_text("".join(["{]\n", *lines[1:]]))
    with pytest.raises(DataError, match=r"journal\.jsonl"):
        loop(folder)
    (folder / "journal.jsonl").write_text("".join(lines))
    (folder / "initial.xyz").write_text("3\nno structure\nCu 0 0\n")
    with pytest.raises(DataError, match=r"initial\.xyz"):
        loop(folder).run(progress=False)


def test_picks_none_of_which_can_be_labelled_end_the_run_and_can_be_tried_again(
    finished: Path, tmp_path: Path
) -> None:
    Counted.bad = set(events(finished, event="picked", round=1)[0]["structures"])
    with pytest.raises(ExecutionError, match=r"not label any of 2 structures of round 1.*no convergence"):
        loop(tmp_path).run(progress=False)
    Counted.bad = set()
    loop(tmp_path).run(progress=False)
    assert [event for event in content(tmp_path) if event["event"] != "failed"] == content(finished)


def test_the_same_picks_wherever_labels_are_computed(finished: Path, tmp_path: Path) -> None:
    """Labels that are done in another order are told in the order in which they were asked for."""
    with ThreadPoolExecutor(3) as executor:
        loop(tmp_path, executor=executor).run(progress=False)
    assert content(tmp_path) == content(finished)


class Recording(Executor):
    """Runs calls here and remembers what they were."""

    in_flight = 4

    def __init__(self) -> None:
        self.names: list[str] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.names.append(getattr(fn, "__name__", type(fn).__name__))
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def test_walkers_members_features_and_labels_are_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surefield.loop.candidate_features._SHARD", 2)
    settings: dict[str, Any] = {
        "n_rounds": 1,
        "n_audit": 0,
        "uncertainty": DeepEnsembleConfig(M=3, bootstrap=True),
        "features": "full_grad_rp",
        "score": "forces_variance",
    }
    plain, executor = tmp_path / "plain", Recording()
    loop(plain, candidates=explored(), **settings).run(progress=False)
    tasks = explored(executor=executor)
    loop(tmp_path / "tasks", candidates=tasks, executor=executor, **settings).run(progress=False)
    assert content(tmp_path / "tasks") == content(plain)
    (explored_by,) = events(plain, event="explored")
    counts = Counter(executor.names)
    # Two rounds and two fits in the end, each with three members; a walker and one chunk of displacements.
    assert counts["_train_member"] == 4 * 3
    assert counts["_run"] == 2
    assert counts["_KeptTask"] == 4 + 2
    assert counts["_features_of"] == -(-explored_by["n_candidates"] // 2)


def test_it_goes_on_with_other_settings_and_says_so(finished: Path, tmp_path: Path) -> None:
    loop(tmp_path).run(progress=False)
    loop(tmp_path, n_rounds=3, methods=("max_dist",), stop={"budget_labels": 13}).run(progress=False)
    (changed,) = events(tmp_path, event="changed")
    assert changed["changes"] == {
        "loop.n_rounds": [2, 3],
        "loop.methods": [["bait_f"], ["max_dist"]],
        "loop.features": ["ll_force", "full_grad_rp"],
        "loop.stop.budget_labels": [None, 13],
    }
    assert content(tmp_path)[: len(content(finished))] == content(finished)
    assert [e["method"] for e in events(tmp_path, event="picked")] == ["bait_f", "bait_f", "max_dist"]
    assert [e["n_labels"] for e in events(tmp_path, event="final")] == [11, 13]
    reasons = [event["reason"] for event in events(tmp_path, event="end")]
    assert reasons[0] == "rounds: 2 are done"
    assert reasons[1].startswith("budget: 13 labels")
    assert len(Counted.computed) == len(set(Counted.computed)) == 13
    loop(tmp_path, n_rounds=3, methods=("max_dist",), stop={"budget_labels": 13}).run(progress=False)
    assert len(events(tmp_path, event="changed")) == 1


@pytest.mark.slow  # a message network takes long to compile
def test_a_training_that_betters_nothing_is_said_and_goes_on_with_other_settings(tmp_path: Path) -> None:
    network = sf.MessageNetwork(["Cu"], n_layers=1, n_channels=2, n_basis=3, hidden=(), cutoff=3.0)

    def run(**training: Any) -> None:
        settings = TrainConfig(batch_size=2, **training)
        loop(tmp_path, potential=network, training=settings, n_rounds=1).run(progress=False)

    for _ in range(2):
        with pytest.raises(PotentialError, match=r"round 0.*no epoch.*MessageNetwork.*all 4 labels are kept"):
            run(epochs=2, learning_rate=1.0)
    (told,) = events(tmp_path, event="unfitted")
    assert (told["fit"], told["n_labels"]) == ("round 0", 4)
    run(epochs=40, learning_rate=0.01)
    (changed,) = events(tmp_path, event="changed")
    assert changed["changes"]["training.epochs"] == [2, 40]
    assert len(events(tmp_path, event="unfitted")) == 1
    assert events(tmp_path, event="final")[0]["n_labels"] == 8
    assert len(Counted.computed) == len(set(Counted.computed)) == 8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"potential": Snap.from_settings(SnapConfig(cutoff=3.6, twojmax=4), ["Cu"])},
            "twojmax was 2, now 4",
        ),
        ({"oracle": CalculatorOracle(Counted, "counted EMT", {"version": 2})}, "version was 1, now 2"),
        ({"candidates": POOL[:-1]}, "14 structures, now 13"),
        ({"seeds": (1,)}, "seed was 0, now 1"),
        ({"test": copper(3, 5)}, "another test set"),
    ],
)
def test_what_cannot_go_on_is_refused(change: dict[str, Any], words: str, finished: Path) -> None:
    before = (finished / "journal.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=words) as refused:
        loop(finished, **change).run(progress=False)
    assert "start another loop, with labelled: [labelled.xyz]" in str(refused.value)
    assert (finished / "journal.jsonl").read_bytes() == before


def test_labels_that_are_there_are_not_computed(finished: Path, tmp_path: Path) -> None:
    """A loop takes over all labels of another, and another one's when it goes on."""
    known = list(sf.read_frames(finished / "labelled.xyz"))
    summary = loop(tmp_path, imported=known[:6], n_rounds=1).run(progress=False)
    assert (summary["n_labels"], summary["n_paid"]) == (10, 4)
    assert events(tmp_path, event="initial") == []
    (imported,) = events(tmp_path, event="imported")
    assert imported["n"] == 6
    summary = loop(tmp_path, imported=known[6:], n_rounds=1).run(progress=False)
    new = {image_key(a) for a in known} - {image_key(a) for a in known[:6]}
    new -= {e["structure"] for e in events(tmp_path, event="labelled")}
    assert summary["n_labels"] == 10 + len(new)
    assert sf.load(tmp_path / "potential.npz").statistics["rows"]["energy"] == summary["n_labels"]


def test_with_a_test_set_there_is_no_audit_unless_asked_for(tmp_path: Path) -> None:
    summary = loop(tmp_path, test=copper(3, 5), n_audit=None, n_rounds=1).run(progress=False)
    assert events(tmp_path, event="audited") == []
    scores = [event["test"]["forces_mae"] for event in events(tmp_path, event="round")]
    assert len(scores) == 2
    with np.load(tmp_path / "predictions.npz") as arrays:
        error = np.abs(arrays["forces"] - arrays["forces_reference"]).mean()
    assert summary["test"]["forces_mae"] == pytest.approx(error)
    assert LoopConfig(n_per_round=10).audits(tested=False) == 2
    assert LoopConfig(n_per_round=20).audits(tested=False) == 4


@pytest.mark.parametrize(
    ("stop", "words", "n_labels"),
    [
        ({"target_force_mae": 100.0}, r"target: mean absolute force error .* in an audit of 1 structures", 5),
        ({"target_force_rmse": 100.0}, "target: force RMSE", 5),
        ({"budget_labels": 6}, "budget: 6 labels", 6),
        ({"budget_node_hours": 1e-12}, "budget: 4 labels", 4),
        ({"least_gain": 0.999}, "gain: the next batch reaches", 8),
    ],
)
def test_endings(stop: dict[str, Any], words: str, n_labels: int, tmp_path: Path) -> None:
    summary = loop(tmp_path, stop=stop, methods=("max_dist",)).run(progress=False)
    (end,) = events(tmp_path, event="end")
    assert end["reason"] == summary["reason"]
    assert re.match(words, end["reason"])
    assert summary["n_labels"] == n_labels


def test_it_ends_when_all_candidates_are_labelled(tmp_path: Path) -> None:
    summary = loop(tmp_path, candidates=POOL[:8], n_rounds=9).run(progress=False)
    assert summary["reason"].startswith("exhausted")
    assert summary["n_labels"] == 8


def test_a_budget_of_zero_is_refused() -> None:
    for name in ("budget_labels", "budget_node_hours"):
        with pytest.raises(ValueError, match="greater than"):
            LoopConfig(stop={name: 0})


def test_failures_are_told_and_block_nothing(tmp_path: Path) -> None:
    Counted.bad = {image_key(atoms) for atoms in POOL[1::5]}
    summary = loop(tmp_path).run(progress=False)
    failed = events(tmp_path, event="failed")
    assert {event["cause"] for event in failed} == {"RuntimeError: no convergence"}
    assert summary["n_failed"] == len(failed) > 0
    assert not {e["structure"] for e in failed} & {e["structure"] for e in events(tmp_path, event="labelled")}
    assert "failed: RuntimeError: no convergence" in "\n".join(trace(failed[0]["structure"], tmp_path))
    Counted.computed = []
    loop(tmp_path).run(progress=False)
    assert Counted.computed == []


class Deadly(Executor):
    """Runs calls here, but the workers of one structure die, so many times in all."""

    in_flight = 2

    def __init__(self, key: str, deaths: int) -> None:
        self.key, self.deaths = key, deaths

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if image_key(args[0]) == self.key and self.deaths:
            self.deaths -= 1
            future.set_exception(WorkerDied("was killed by signal 9 (SIGKILL)"))
        else:
            future.set_result(fn(*args, **kwargs))
        return future


@pytest.mark.parametrize(("deaths", "labelled"), [(5, True), (10, False)])
def test_a_structure_whose_process_was_killed_is_tried_once_more(
    finished: Path, tmp_path: Path, deaths: int, labelled: bool
) -> None:
    key = events(finished, event="picked", round=0)[0]["structures"][0]
    summary = loop(tmp_path, executor=Deadly(key, deaths)).run(progress=False)
    (again,) = events(tmp_path, event="again")
    assert (again["round"], again["structures"], again["why"]) == (1, [key], ["its process was killed"])
    failed = events(tmp_path, event="failed")
    assert [(e["purpose"], e["round"], e["killed"]) for e in failed] == [
        ("pick", 0, True),
        *([] if labelled else [("again", 1, True)]),
    ]
    assert summary["n_failed"] == (not labelled)
    told = "\n".join(trace(key, tmp_path))
    assert "tried again: in round 1, for its process was killed" in told
    assert ("fitted in: round 1, round 2, the final potential" in told) == labelled
    numbers = [event["n_labels"] for event in events(tmp_path, event="round")]
    assert numbers == ([4, 7, 10] if labelled else [4, 6, 9])
    before = (tmp_path / "journal.jsonl").read_bytes()
    for cut in ("again", "end"):  # killed after these events, it ends the same
        lines = before.decode().splitlines(keepends=True)
        last = max(i for i, line in enumerate(lines) if f'"event": "{cut}"' in line)
        (tmp_path / "journal.jsonl").write_text("".join(lines[: last + 1]))
        loop(tmp_path, executor=Deadly(key, 0 if labelled else 99)).run(progress=False)
        assert content(tmp_path) == [
            {k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines
        ]


def test_other_attempts_try_again_what_an_engine_had_refused(tmp_path: Path) -> None:
    Counted.bad = {image_key(atoms) for atoms in POOL[1::5]}
    loop(tmp_path).run(progress=False)
    failed = [event["structure"] for event in events(tmp_path, event="failed")]
    assert not events(tmp_path, event="again")
    Counted.bad = {failed[0]}
    patient = CalculatorOracle(Counted, "counted EMT", {"version": 1}, retries=0, time_limit=None)
    loop(tmp_path, oracle=patient).run(progress=False)
    assert not events(tmp_path, event="again")  # nothing has changed
    patient = CalculatorOracle(Counted, "counted EMT", {"version": 1}, retries=2)
    summary = loop(tmp_path, oracle=patient).run(progress=False)
    (changed,) = events(tmp_path, event="changed")
    assert changed["changes"] == {"attempts.retries": [[], [{}, {}]]}
    (again,) = events(tmp_path, event="again")
    assert again["structures"] == failed
    assert set(again["why"]) == {"its attempts have changed"}
    labelled = events(tmp_path, event="labelled", purpose="again")
    assert [event["structure"] for event in labelled] == failed[1:]
    assert summary["n_failed"] == 1
    assert len(events(tmp_path, event="failed", structure=failed[0])[-1]["attempts"]) == 3
    (_, final) = events(tmp_path, event="final")
    assert final["n_labels"] == summary["n_labels"] == len(events(tmp_path, event="labelled"))
    size = (tmp_path / "journal.jsonl").stat().st_size
    loop(tmp_path, oracle=patient).run(progress=False)
    assert (tmp_path / "journal.jsonl").stat().st_size == size


def test_a_round_without_any_label_says_why_and_can_be_tried_again(finished: Path, tmp_path: Path) -> None:
    Counted.bad = {"all"}
    with pytest.raises(ExecutionError, match=r"not label any of 4 structures.*; got .*no convergence"):
        loop(tmp_path).run(progress=False)
    Counted.bad = set()
    loop(tmp_path).run(progress=False)
    told = [event for event in content(tmp_path) if event["event"] != "failed"]
    assert told == content(finished)


def test_too_few_first_labels(tmp_path: Path) -> None:
    order = np.random.Generator(np.random.Philox(key=0)).permutation(len(POOL))
    Counted.bad = {image_key(POOL[i]) for i in order[1:4]}
    with pytest.raises(ExecutionError, match=r"1 label.*a fit needs two; got .*no convergence"):
        loop(tmp_path).run(progress=False)


def test_picks_keep_to_constraints_and_random_needs_no_score(tmp_path: Path) -> None:
    four = {"cost": "n_atoms", "budget": 4.0}
    loop(tmp_path, constraints=four, methods=("random",), score="forces_variance", n_rounds=1).run(
        progress=False
    )
    (picked,) = events(tmp_path, event="picked")
    assert len(picked["structures"]) == 1
    with pytest.raises(ValueError, match="stop is for a loop with one method"):
        LoopConfig(methods=("lcmd", "random"), stop={"budget_labels": 3})


def test_scores_by_name_rank_the_candidates(tmp_path: Path) -> None:
    novelty = {"kind": "quests_delta_entropy", "bandwidth": 0.2}
    settings: dict[str, Any] = {"methods": ("max_diag",), "score": novelty, "n_audit": 0, "n_rounds": 1}
    loop(tmp_path, **settings).run(progress=False)
    (picked,) = events(tmp_path, event="picked")
    (first,) = events(tmp_path, event="initial")
    left = [i for i in range(len(POOL)) if i not in first["picks"]]
    described = QUESTSDescriptor().described(POOL)
    score = QUESTSDeltaEntropyScore()
    new = score.compute_batch(
        [described[i] for i in left],
        score.quantity,
        [described[i] for i in first["picks"]],
        QUESTSDescriptor.key,
        bandwidth=0.2,
    )
    best = sorted(left, key=lambda i: -new[left.index(i)].max())[:2]
    assert picked["picks"] == best
    assert [reason["score"] for reason in picked["reasons"]] == ["quests_delta_entropy"] * 2
    loop(tmp_path, **settings | {"score": {**novelty, "bandwidth": 0.3}, "n_rounds": 2}).run(progress=False)
    (changed,) = events(tmp_path, event="changed")
    was, now = changed["changes"]["loop.score"]
    assert (was[0]["bandwidth"], now[0]["bandwidth"]) == (0.2, 0.3)
    with pytest.raises(ConfigError, match=r"loop.score ltau .* got llpr; set uncertainty.kind"):
        loop(tmp_path, score="ltau")


class Strange(Calculator):
    """Gives the forces of another structure than it was asked for."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = None, system_changes: Any = all_changes
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": np.zeros((len(self.atoms) + 1, 3))}


def test_labels_of_other_atoms_are_failures(tmp_path: Path) -> None:
    strange = CalculatorOracle(Strange, "strange", retries=0)
    with pytest.raises(ExecutionError, match=r"forces.*\(5, 3\)"):
        loop(tmp_path, oracle=strange).run(progress=False)


def explored(*, executor: Executor | None = None, **settings: Any) -> ExploredCandidates:
    walks = {"temperatures": (300.0,), "n_walkers": 1, "steps": 20, "check_every": 10, **settings}
    return ExploredCandidates(
        [bulk("Cu", cubic=True)], [DynamicsConfig(**walks), RattleConfig(n_structures=6)], executor=executor
    )


def test_candidates_are_explored_with_the_potential_of_the_round(tmp_path: Path) -> None:
    summary = loop(tmp_path, candidates=explored(), n_rounds=1).run(progress=False)
    assert summary["n_labels"] == 4 + 1 + 2 + 1
    assert [event["round"] for event in events(tmp_path, event="explored")] == [0, 1]
    (told,) = events(tmp_path, event="explored", round=0)
    assert told["walkers"][0]["ended"]
    assert (tmp_path / "rounds" / "000" / "walkers.json").exists()
    candidates = sf.read_frames(tmp_path / "rounds" / "000" / "candidates.xyz")
    assert len(candidates) == told["n_candidates"]
    keys = {image_key(atoms) for atoms in candidates}
    assert set(events(tmp_path, event="picked")[0]["structures"]) <= keys
    labelled = sf.read_frames(tmp_path / "labelled.xyz")
    assert not any(name.startswith("surefield_forces") for atoms in labelled for name in atoms.arrays)


def test_walkers_that_leave_at_once(tmp_path: Path) -> None:
    walks = explored(window={"lower": 0.0, "limit": 1e-12}, breakage={"contact": 0.99})
    walks.config = walks.config[:1]
    with pytest.raises(ExecutionError, match=r"no candidate in round 0; got walker 0 from start 0: .*loop\."):
        loop(tmp_path, candidates=walks).run(progress=False)


def test_nothing_to_start_from(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no start structure; name molecules.*loop\.starts"):
        ExploredCandidates([], [DynamicsConfig()])
    with pytest.raises(ConfigError, match=r"pool of the loop is empty; name candidates"):
        loop(tmp_path, candidates=[])
    with pytest.raises(ConfigError, match="compared by MethodComparison"):
        loop(tmp_path, methods=("lcmd", "random"), n_audit=None)


def test_the_journal_holds_no_paths_and_can_be_read_by_anyone(finished: Path) -> None:
    text = (finished / "journal.jsonl").read_text()
    assert str(finished) not in text
    assert [json.loads(line)["event"] for line in text.splitlines()][:2] == ["start", "initial"]
