from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from surefield.errors import ConfigError, DataError
from surefield.execution.identity import contents
from surefield.execution.run_folder import RunFolder

CONFIG = "train:\n  epochs: 10\n  members: [1, 2]\nseed: 0\n"


def test_a_new_run(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "runs", "ethanol", CONFIG) as run:
        assert not run.resumed
        logging.getLogger("surefield.loop").info("round %d", 1)
        run.write_json("summary.json", {"b": 0.1, "a": [1]})
    folder = tmp_path / "runs" / "ethanol"
    assert run.path("summary.json") == folder / "summary.json"
    assert sorted(entry.name for entry in folder.iterdir()) == [
        "config.yaml",
        "run.log",
        "summary.json",
        "versions.json",
    ]
    assert (folder / "config.yaml").read_text() == CONFIG
    assert json.loads((folder / "summary.json").read_text()) == {"a": [1], "b": 0.1}
    assert {"surefield", "python", "jax", "numpy"} <= set(json.loads((folder / "versions.json").read_text()))
    assert (folder / "run.log").read_text().endswith("INFO surefield.loop: round 1\n")
    logging.getLogger("surefield.loop").warning("afterwards")
    assert "afterwards" not in (folder / "run.log").read_text()
    assert logging.getLogger("surefield").level == logging.NOTSET


def test_the_same_configuration_is_resumed(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, "a", CONFIG):
        logging.getLogger("surefield").info("first")
    log = tmp_path / "a" / "run.log"
    with log.open("a") as file:
        file.write("2026-01-01 torn li")
    with RunFolder.create(tmp_path, "a", "seed: 0\ntrain: {members: [1, 2], epochs: 10}") as run:
        assert run.resumed
        logging.getLogger("surefield").info("second")
    first, second = log.read_text().splitlines()
    assert first.endswith("first")
    assert second.endswith("second")
    assert (tmp_path / "a" / "config.yaml").read_text() == CONFIG
    with pytest.raises(ConfigError, match="holds this run already"):
        RunFolder.create(tmp_path, "a", CONFIG, resume=False)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs: 10", "epochs: 20", r"got train\.epochs: 20; expected 10"),
        ("epochs: 10", "epochs: 10.0", r"train\.epochs: 10\.0; expected 10,"),
        ("[1, 2]", "[1, 3]", r"train\.members\[1\]: 3; expected 2"),
        ("[1, 2]", "[1]", r"train\.members: \[1\]; expected \[1, 2\]"),
        ("seed: 0", "tag: x", "seed: not there; expected 0"),
        ("seed: 0", "seed: 0\nextra: 1", "extra: 1; expected not there"),
    ],
)
def test_another_configuration_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    RunFolder.create(tmp_path, "a", CONFIG).close()
    with pytest.raises(ConfigError, match=message) as caught:
        RunFolder.create(tmp_path, "a", CONFIG.replace(old, new))
    assert "--overwrite" in str(caught.value)
    assert (tmp_path / "a" / "config.yaml").read_text() == CONFIG


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "a", CONFIG).close()
    (tmp_path / "a" / "config.yaml").write_text("seed: [")
    with pytest.raises(ConfigError, match=r"config.yaml is damaged: it is not valid YAML.*--overwrite"):
        RunFolder.create(tmp_path, "a", CONFIG)


def test_overwrite_starts_anew(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, "a", CONFIG) as run:
        run.write_json("summary.json", {})
    with RunFolder.create(tmp_path, "a", "seed: 1\n", overwrite=True) as run:
        assert not run.resumed
    assert not run.path("summary.json").exists()
    assert run.path("config.yaml").read_text() == "seed: 1\n"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    with pytest.raises(ConfigError, match="no run folder"):
        RunFolder.create(tmp_path, "thesis", CONFIG, overwrite=overwrite)
    with pytest.raises(ConfigError, match="is a file"):
        RunFolder.create(tmp_path / "thesis", "chapter.tex", CONFIG, overwrite=overwrite)
    assert [entry.name for entry in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_a_run_killed_at_its_start_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".config.yaml.0123.yaml").write_text("see")
    with RunFolder.create(tmp_path, "a", CONFIG) as run:
        assert not run.resumed
    assert run.path("config.yaml").read_text() == CONFIG


def test_a_run_that_was_refused_may_be_given_what_it_lacks(tmp_path: Path) -> None:
    """Another configuration or other data; but not once there is work in the folder."""

    def failing(config: str, cutoff: int, *, works: bool = False) -> None:
        with RunFolder.create(tmp_path, "a", config) as run:
            run.finished({"read": {"cutoff": cutoff}})
            if works:
                run.write_json("checkpoint.json", {})
            raise DataError("no energy")

    for config, cutoff in ((CONFIG, 1), ("seed: 1\n", 1), ("seed: 1\n", 2)):
        with pytest.raises(DataError, match="no energy"):
            failing(config, cutoff)
    assert (tmp_path / "a" / "config.yaml").read_text() == "seed: 1\n"
    with pytest.raises(DataError, match="no energy"):
        failing("seed: 1\n", 2, works=True)
    with pytest.raises(ConfigError, match="seed: 2; expected 1"):
        failing("seed: 2\n", 2)
    with pytest.raises(ConfigError, match="cutoff was 2, now 3"):
        failing("seed: 1\n", 3)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a"])
def test_wrong_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="one part of a path"):
        RunFolder.create(tmp_path, name, CONFIG)


def test_a_failure_is_written_down_until_the_next_start(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="bad"), RunFolder.create(tmp_path, "a", CONFIG):
        raise DataError("bad labels")
    trace = (tmp_path / "a" / "error.log").read_text()
    assert "Traceback" in trace
    assert "bad labels" in trace
    assert (tmp_path / "a" / "run.log").read_text().endswith("failed: DataError: bad labels\n")
    RunFolder.create(tmp_path, "a", CONFIG).close()
    assert not (tmp_path / "a" / "error.log").exists()


def test_an_interrupt_is_no_failure(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), RunFolder.create(tmp_path, "a", CONFIG) as run:
        raise KeyboardInterrupt
    assert not run.path("error.log").exists()
    assert "stopped by KeyboardInterrupt" in run.path("run.log").read_text()


def test_a_run_that_ended_is_known_by_what_entered_it(tmp_path: Path) -> None:
    table = {"trained potential": "a" * 32, "test set": contents([[("forces", [1.0]), ("cell", [2.0])]])}
    with RunFolder.create(tmp_path, "a", CONFIG) as run:
        assert run.finished(table) is None
        run.write_json("picks.json", {})
        run.finish({"verb": "uq"})
    with RunFolder.create(tmp_path, "a", CONFIG) as run:
        assert run.finished(table) == {"verb": "uq"}
    other = table | {"test set": contents([[("forces", [1.5]), ("cell", [2.0])]])}
    with (
        pytest.raises(ConfigError, match=r"got forces of the test set; .*--overwrite"),
        RunFolder.create(tmp_path, "a", CONFIG) as run,
    ):
        run.finished(other)
    with RunFolder.create(tmp_path, "a", CONFIG) as run:
        run.path("picks.json").unlink()
        assert run.finished(table) is None
