"""`surefield loop` and `surefield trace`: one loop from a configuration, in a run folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase.build import bulk
from tests.copper import copper

from surefield.cli import main
from surefield.cli.jobs import run_verb
from surefield.errors import ConfigError, DataError, ExecutionError, SurefieldError
from surefield.files import read_json
from surefield.loop import oracles
from surefield.loop.journal import Journal
from surefield.storage import PotentialRegistry
from surefield.structures.label_sources import without_labels
from surefield.structures.read import read_frames, write_frames

LOOP: dict[str, Any] = {
    **{"n_initial": 4, "n_per_round": 2, "n_rounds": 1, "n_audit": 1, "validation": 0.34},
    "oracle": {"kind": "emt"},
}


def configured(folder: Path, **loop: Any) -> Path:
    write_frames(folder / "pool.xyz", [without_labels(atoms) for atoms in copper(14, 0, rattle=0.15)])
    found = {
        "name": "x",
        "root": str(folder / "runs"),
        "data": {"pool": "pool.xyz"},
        "potential": {"kind": "snap", "cutoff": 3.6, "twojmax": 2},
        "loop": {**LOOP, **loop},
    }
    path = folder / "x.yaml"
    path.write_text(yaml.safe_dump(found))
    return path


def run(config: Path, *overrides: str) -> dict[str, Any]:
    report = run_verb("loop", config, list(overrides), dry_run=False, overwrite=False)
    assert report is not None
    return read_json(report.parent / "summary.json")


def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["surefield", *words])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_a_loop_that_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = configured(tmp_path), tmp_path / "runs" / "x-loop"
    first = run(config)
    assert (first["n_labels"], first["evaluated"]) == (4 + 1 + 2 + 1, "audit")
    registry = PotentialRegistry(tmp_path / "runs" / "potentials")
    manifest = registry.manifest(first["registered"])
    assert manifest["loop"]["n_paid"] == 8
    assert manifest["loop"]["oracle"]["name"] == "EMT"
    assert manifest["loop"]["potential"] == first["potential"]
    assert run(config)["registered"] == first["registered"]
    assert "nothing has changed" in capsys.readouterr().out
    second = run(config, "loop.n_rounds=+2", "loop.methods=[max_dist]")
    assert second["n_labels"] == 8 + 2 * (2 + 1)
    journal = Journal(folder / "journal.jsonl")
    (changed,) = journal.find(event="changed")
    assert changed["changes"]["loop.n_rounds"] == [1, 3]
    assert registry.manifest(second["registered"])["parent"]["kim_id"] == first["registered"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["loop"]["n_rounds"] == 3
    with pytest.raises(ConfigError, match=r"loop\.n_initial: 5; expected 4"):
        run(config, "loop.n_initial=5")
    with pytest.raises(ConfigError, match=r"twojmax: 4; expected 2"):
        run(config, "potential.twojmax=4")
    with pytest.raises(ConfigError, match=r"another loop; got settings oracle\.name"):
        run(config, "loop.oracle={kind: ase, calculator: 'ase.calculators.lj:LennardJones'}")
    lines = told(capsys, monkeypatch, "trace", str(folder), "5")
    assert "picked by bait_f" in lines
    assert lines == told(capsys, monkeypatch, "trace", f"{folder / 'labelled.xyz'}@5")
    assert "Rounds" in (folder / "report.html").read_text("utf-8")
    assert len(read_frames(folder / "labelled.xyz")) == 14


def test_more_rounds_are_counted_from_the_last_end(tmp_path: Path) -> None:
    """A command that was killed and is given again does not add its rounds twice."""
    from surefield.cli.config import read_config
    from surefield.cli.loop_job import relative_settings

    config = read_config(configured(tmp_path))
    assert relative_settings(["loop.n_rounds=+4", "training.epochs=1"], config) == [
        "loop.n_rounds=5",
        "training.epochs=1",
    ]
    folder = tmp_path / "runs" / "x-loop"
    folder.mkdir(parents=True)
    journal = Journal(folder / "journal.jsonl")
    journal.append({"event": "end", "round": 7})
    journal.append({"event": "round", "round": 9})
    assert relative_settings(["loop.n_rounds=+4"], config) == ["loop.n_rounds=11"]
    several = read_config(configured(tmp_path, methods=["lcmd", "random"], n_audit=None))
    with pytest.raises(ConfigError, match="cannot be given more rounds"):
        relative_settings(["loop.n_rounds=+4"], several)


def test_a_rehearsal_lists_the_tasks_and_tries_the_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_frames(tmp_path / "start.xyz", [bulk("Cu", cubic=True)])
    walk = {"kind": "dynamics", "temperatures": [300, 900], "n_walkers": 3}
    config = configured(tmp_path, starts=["start.xyz"], exploration=[walk])
    run_verb("loop", config, [], dry_run=True, overwrite=False)
    shown = capsys.readouterr().out
    assert "tried: one label by EMT on executor serial" in shown
    assert "8 labels by EMT (0 are there, 4 to begin with, then 1 rounds of 2 picks and 1 audits)" in shown
    assert "3 walkers of dynamics at 300, 900 K" in shown
    assert "node hours" in shown
    assert not (tmp_path / "runs").exists()
    (tmp_path / "broken_engine.py").write_text(
        "from ase.calculators.emt import EMT\n"
        "class Broken(EMT):\n"
        "    def calculate(self, *args, **options):\n"
        "        raise RuntimeError('no licence')\n"
    )
    broken = "loop.oracle={kind: ase, calculator: 'broken_engine:Broken', retries: 0}"
    with pytest.raises(ExecutionError, match=r"cannot label the first structure \(Cu4\).*no licence"):
        run_verb("loop", config, [broken], dry_run=True, overwrite=False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["data.pool=null"], r"no start structure and no pool.*loop\.starts"),
        (["loop.starts=[nowhere.xyz]"], "nowhere.xyz"),
        (["loop.oracle={kind: ase, calculator: 'no_such_module:Engine'}"], "no_such_module"),
        (["loop.stop.budget_labels=0"], r"budget_labels.*greater than or equal to 1"),
        (["loop.methods=[lcdm]"], "did you mean 'lcmd'"),
        (["loop.starts=[CH4]", "loop.oracle={kind: replay}"], "labels no explored structures"),
        (["loop.starts=[CH4]", "loop.methods=[lcmd, random]"], "compared on one pool"),
    ],
)
def test_what_cannot_begin_says_why(changes: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(SurefieldError, match=words):
        run(configured(tmp_path), *changes)


def test_labels_of_another_loop_are_taken_over(tmp_path: Path) -> None:
    config = configured(tmp_path)
    first = run(config)
    taken = f"loop.labelled=[{tmp_path / 'runs' / 'x-loop' / 'labelled.xyz'}]"
    second = run(config, "name=y", taken)
    assert second["n_labels"] == first["n_labels"] + 1 + 2 + 1
    assert second["n_paid"] == 1 + 2 + 1


def test_a_loop_that_has_ended_sees_new_labels_and_another_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = tmp_path / "engine.py"
    engine.write_text("from ase.calculators.emt import EMT\n")
    (known,) = oracles.emt().label(copper(1, 77, rattle=0.15))
    write_frames(tmp_path / "known.xyz", [known])
    loop = {"n_per_round": 1, "n_audit": 0, "labelled": ["known.xyz"]}
    config = configured(tmp_path, oracle={"kind": "ase", "calculator": "engine.py:EMT"}, **loop)
    assert run(config)["n_labels"] == 5
    assert run(config)["n_labels"] == 5
    assert "nothing has changed" in capsys.readouterr().out
    (another,) = oracles.emt().label(copper(1, 78, rattle=0.15))
    write_frames(tmp_path / "known.xyz", [known, another])
    assert run(config)["n_labels"] == 6
    engine.write_text("from ase.calculators.emt import EMT as _EMT\nclass EMT(_EMT):\n    pass\n")
    with pytest.raises(ConfigError, match=r"another settings oracle\.code"):
        run(config)


def test_starts_that_cannot_be_computed_are_named_with_file_and_frame(tmp_path: Path) -> None:
    frames = copper(2, 0, rattle=0.15)
    frames[1].positions[0, 0] = np.nan
    write_frames(tmp_path / "begin.xyz", frames)
    with pytest.raises(DataError, match=r"atom 0 is not finite in frame 1 of \S*begin\.xyz"):
        run(configured(tmp_path, starts=["begin.xyz"]))
