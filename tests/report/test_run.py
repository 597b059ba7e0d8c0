from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from surefield.errors import DataError
from surefield.report import load_run
from surefield.selection import Reason


def test_everything_of_a_finished_loop_is_read(run_folder: Path) -> None:
    run = load_run(run_folder)
    assert (run.verb, run.name, run.error, run.notes) == ("loop", "ethanol-loop-test-data", "", ())
    assert run.config["selection"] == {"method": "lcmd", "n": 20}
    assert run.versions["jax"] == "0.8.0"
    assert run.start["n_pool"] == 2000
    assert [(curve.method, curve.seed) for curve in run.curves[:3]] == [
        ("lcmd", 0),
        ("random", 0),
        ("lcmd", 1),
    ]
    curve = run.curves[0]
    assert curve.finished
    assert curve.n_labels.tolist() == [20 * k for k in range(1, 9)]
    assert curve.test["forces_mae"][-1] < curve.test["forces_mae"][0]
    assert set(curve.calibration) == {"forces"}
    assert len(run.picks) == 6 * 9 * 20
    assert run.predictions["forces"].shape == run.predictions["forces_reference"].shape == (5400,)


def test_picks_know_their_round_gain_and_reason(run_folder: Path) -> None:
    picks = [pick for pick in load_run(run_folder).picks if (pick.method, pick.seed) == ("lcmd", 1)]
    assert [pick.reason for pick in picks[:20]] == ["initial set"] * 20
    assert np.isnan(picks[0].gain)
    assert (picks[20].round, picks[20].n_labels, picks[20].order) == (1, 20, 0)
    assert picks[20].reason == "farthest from the 20 structures before it"
    assert picks[20].gain > picks[39].gain > 0


def test_reasons_are_words_whatever_form_they_were_written_in(tmp_path: Path) -> None:
    reasons = [Reason("lcmd", 0.25, "sigma", 1.5).to_dict(), Reason("random", None).to_dict(), "by hand"]
    (tmp_path / "selection.json").write_text(json.dumps({"picks": [4, 2, 7], "reasons": reasons}))
    picks = load_run(tmp_path).picks
    assert [pick.reason for pick in picks] == [
        "farthest member of the largest cluster around a structure that is labelled or picked before, "
        "weighted by its sigma of 1.5",
        "drawn at random",
        "by hand",
    ]


def test_the_journal_of_a_broken_run_is_read_up_to_its_torn_line(tmp_path: Path) -> None:
    rounds = [
        {
            "event": "round",
            "method": "lcmd",
            "seed": 0,
            "round": 2,
            "n_labels": 20,
            "test": {"forces_mae": 0.2},
        },
        {
            "event": "round",
            "method": "lcmd",
            "seed": 0,
            "round": 1,
            "n_labels": 10,
            "test": {"forces_mae": None},
        },
        {
            "event": "round",
            "method": "lcmd",
            "seed": 0,
            "round": 2,
            "n_labels": 20,
            "test": {"forces_mae": 0.1},
        },
    ]
    text = "".join(json.dumps(event) + "\n" for event in rounds)
    (tmp_path / "journal.jsonl").write_text(text + '{"event": "round", "meth')
    run = load_run(tmp_path)
    assert run.notes == ()
    assert run.verb == "loop"
    assert not run.curves[0].finished
    assert run.curves[0].rounds.tolist() == [1, 2]
    np.testing.assert_array_equal(run.curves[0].test["forces_mae"], [np.nan, 0.1])  # the later event counts


def test_resumed_training_counts_the_later_row_and_empty_cells_are_nan(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "step,epoch,loss,valid_forces_mae\n1,1,5,\n2,2,4,0.3\n3,3,9,\n3,3,3,0.2\n4,4,2"
    )
    metrics = load_run(tmp_path).metrics
    assert metrics["loss"].tolist() == [5, 4, 3]
    np.testing.assert_array_equal(metrics["valid_forces_mae"], [np.nan, 0.3, 0.2])


def test_damaged_pieces_are_named_and_the_rest_is_read(run_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(run_folder, folder, ignore=shutil.ignore_patterns("*.html"))
    (folder / "summary.json").write_text('{"verb": "lo')
    (folder / "predictions.npz").write_bytes((folder / "predictions.npz").read_bytes()[:500])
    (folder / "config.yaml").write_text("a: [1")
    lines = (folder / "journal.jsonl").read_text().splitlines()
    (folder / "journal.jsonl").write_text("\n".join([lines[0], "torn", *lines[1:]]))
    run = load_run(folder)
    assert [note.split()[0] for note in run.notes] == [
        "summary.json",
        "journal.jsonl",
        "predictions.npz",
        "config.yaml",
    ]
    assert "line 2 is not JSON" in run.notes[1]
    assert run.verb == "train"
    assert run.config_text == "a: [1"
    assert len(run.metrics["loss"]) == 100


def test_predictions_that_do_not_fit_their_reference_are_left_out(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "predictions.npz",
        energy=np.ones(3),
        energy_reference=np.ones(2),
        forces=np.ones(6),
        forces_reference=np.ones(6),
    )
    run = load_run(tmp_path)
    assert set(run.predictions) == {"forces", "forces_reference"}
    assert "energy (3,)" in run.notes[0]


def test_a_pickle_in_the_predictions_is_not_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "predictions.npz", forces=np.array([{"a": 1}], dtype=object))
    run = load_run(tmp_path)
    assert run.predictions == {}
    assert "allow_pickle" in run.notes[0]


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no run folder in .*nowhere"):
        load_run(tmp_path / "nowhere")
