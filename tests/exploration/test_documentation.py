"""The example of docs/exploration.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from tests.copper import copper

from surefield.exploration.config import ExplorationConfig
from surefield.uncertainty import LLPR


@pytest.fixture(scope="module")
def text(project: Path) -> str:
    return (project / "docs" / "exploration.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_example_runs(text, copper_network, tmp_path, monkeypatch, capsys):
    frames = copper(6, strain=0.03)
    folder = tmp_path / "runs" / "copper-uq"
    folder.mkdir(parents=True)
    LLPR.fit(copper_network, frames[:4], frames[4:], progress=False).save(folder / "potential.npz")
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", text, re.S)
    exec(compile(example, "docs/exploration.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    walkers = [line for line in lines if " K: " in line]
    assert [line.split(":")[0] for line in walkers] == ["300 K", "900 K", "300 K", "900 K"]
    assert sum(line.startswith("rattle_") for line in lines) == 6
    assert sum(line.startswith("strain") for line in lines) == 6
    assert all(float(line.split()[-2]) >= 0 for line in lines if line.endswith("eV/Å"))


def test_its_configuration_is_one(text):
    from pydantic import TypeAdapter

    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    entries = yaml.safe_load(block)["loop"]["exploration"]
    read = [TypeAdapter(ExplorationConfig).validate_python(entry) for entry in entries]
    assert [entry.kind for entry in read] == ["dynamics", "rattle", "strain"]


def test_every_kind_is_in_its_table(text):
    from typing import get_args

    kinds = {config.model_fields["kind"].default for config in get_args(get_args(ExplorationConfig)[0])}
    assert kinds == set(re.findall(r"^\| `(\w+)` \|", text, re.M))
