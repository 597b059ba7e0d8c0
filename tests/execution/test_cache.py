from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import pytest

from surefield.execution import cache

SOURCE = str(Path(__file__).parents[2] / "src")

# The threshold is lowered so that a small program is worth storing.
PROGRAM = """
import json, sys
import surefield
import jax, jax.numpy as jnp
from surefield.execution import cache
cache.MIN_COMPILE_SECONDS = 0.0
folder = cache.enable_compilation_cache(*sys.argv[1:])
again = cache.enable_compilation_cache(*sys.argv[1:])
assert folder == again
assert float(jax.jit(lambda x: jnp.sin(x @ x.T).sum())(jnp.zeros((3, 3)))) == 0.0
s = cache.cache_statistics()
print(json.dumps([str(folder), s.hits, s.misses]))
"""


# What a script of a user does: nothing about a cache.
PREDICTION = """
import json
from ase.build import bulk
from surefield.execution import cache
from surefield.potentials.snap.snap import Snap, SnapConfig
cache.MIN_COMPILE_SECONDS = 0.0
atoms = bulk("Cu")
atoms.calc = Snap.from_settings(SnapConfig(cutoff=3.0, twojmax=2), ["Cu"]).calculator()
atoms.get_forces()
s = cache.cache_statistics()
print(json.dumps(["", s.hits, s.misses]))
"""


def run(environment: dict[str, str], *arguments: str, program: str = PROGRAM) -> tuple[str, int, int]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "SUREFIELD", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        env={**clean, "PYTHONPATH": SOURCE, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def test_a_second_process_compiles_nothing_again(tmp_path: Path) -> None:
    where = {"SUREFIELD_CACHE": str(tmp_path)}
    folder, hits, misses = run(where)
    assert Path(folder).is_relative_to(tmp_path / "jax")
    assert hits == 0
    assert misses > 0
    assert list(Path(folder).glob("*-cache"))
    # a folder that the user gave to JAX is kept
    assert run({"JAX_COMPILATION_CACHE_DIR": folder}) == (folder, misses, 0)


def test_predictions_use_it_unasked(tmp_path: Path) -> None:
    where = {"SUREFIELD_CACHE": str(tmp_path)}
    _, hits, misses = run(where, program=PREDICTION)
    assert (hits, misses > 0) == (0, True)
    assert run(where, program=PREDICTION) == ("", misses, 0)


def test_half_written_programs_are_dropped(tmp_path: Path) -> None:
    whole = zlib.compress(b"program" * 1000)
    contents = {"whole": whole, "torn": whole[:-3], "empty": b"", "young": whole[:-3], "other": b"(\xb5/\xfd"}
    for name, data in contents.items():
        path = tmp_path / f"{name}-cache"
        path.write_bytes(data)
        if name != "young":
            os.utime(path, (path.stat().st_mtime - 1000,) * 2)
    cache._drop_torn_entries(tmp_path)
    assert {path.name for path in tmp_path.glob("*-cache")} == {"whole-cache", "young-cache", "other-cache"}
    os.utime(tmp_path / ".checked", (0, 0))
    os.utime(tmp_path / "young-cache", (1, 1))
    cache._drop_torn_entries(tmp_path)
    assert not (tmp_path / "young-cache").exists()


def test_a_folder_that_cannot_be_written_turns_it_off(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = jax.config.jax_compilation_cache_dir
    assert cache.enable_compilation_cache(tmp_path / "file" / "cache") is None
    assert jax.config.jax_compilation_cache_dir == before


def test_the_folder_is_chosen_by_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("SUREFIELD_CACHE", raising=False)
    assert cache._default_folder() == tmp_path / "home" / ".cache" / "surefield" / "jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache._default_folder() == tmp_path / "xdg" / "surefield" / "jax"
    monkeypatch.setenv("SUREFIELD_CACHE", str(tmp_path / "own"))
    assert cache._default_folder() == tmp_path / "own" / "jax"
