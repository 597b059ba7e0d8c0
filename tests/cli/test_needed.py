"""What is missing is told at once: nothing heavy is imported for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from surefield.cli.config import read_config
from surefield.cli.needed import check_needed
from surefield.errors import ConfigError

CRYSTAL = {"lattice_param": 5.43, "lattice_type": "diamond", "elements": ["Si"]}


@pytest.mark.parametrize(
    ("verb", "entries", "words"),
    [
        ("score", {}, "needs the section score"),
        ("score", {"score": {"kind": "ltau"}}, r"needs the trained .*si-train/potential.npz"),
        ("score", {"score": {"kind": "quests_diversity"}}, "needs the key data.pool"),
        ("properties", {}, "needs the section properties"),
        ("properties", {"properties": [{"kind": "lattice_constant", **CRYSTAL}]}, r"si-train/llpr.npz"),
        ("eval", {}, r"si-train/potential.npz: run 'surefield train' with this configuration first"),
        ("uq", {}, r"si-train/llpr.npz"),
        ("select", {"uncertainty": {"kind": "distance"}}, r"si-train/uncertainty.npz"),
    ],
)
def test_what_is_missing(tmp_path: Path, verb: str, entries: dict, words: str) -> None:
    path = tmp_path / "si.yaml"
    path.write_text(yaml.safe_dump({"name": "si", "root": str(tmp_path / "runs"), **entries}))
    with pytest.raises(ConfigError, match=words):
        check_needed(verb, read_config(path, []))


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, surefield.cli.needed; print(*{'jax', 'equinox', 'optax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
