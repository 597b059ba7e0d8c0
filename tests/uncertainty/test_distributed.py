"""Several processes that share the rows of an LLPR: the same as one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import surefield as sf
from surefield.execution.process_group import ProcessGroup
from surefield.structures.read import write_frames
from surefield.uncertainty import LLPR, llpr

#: A small condition number and maps in closed form: what differs by rounding is not magnified on the way.
KEYS = {
    "regularizer": 3.0,
    "calibration_map": {"forces": "alpha", "stress": "alpha"},
    "row_weights": "unit",
    "num_ensemble_members": {"energy": 3},
}


@pytest.fixture
def port():
    with socket.create_server(("", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def one(copper_network, copper):
    return LLPR.fit(copper_network, copper[:5], copper[5:], progress=False, **KEYS)


def check_same(found, one, copper):
    """Covariance and calibration to 1e-12."""
    expected = one.posterior.covariance
    np.testing.assert_allclose(found.posterior.covariance, expected, atol=1e-12 * np.abs(expected).max())
    assert found.statistics["rows"] == one.statistics["rows"]
    assert found.statistics["calibration_rows"] == one.statistics["calibration_rows"]
    for name, calibration in one.maps.items():
        assert found.maps[name].sigma(1.0) == pytest.approx(calibration.sigma(1.0), rel=1e-12)
    for name, threshold in one.thresholds.items():
        assert found.thresholds[name] == pytest.approx(threshold, rel=1e-12)
    (p,), (q,) = found.predict(copper[:1], forces=True), one.predict(copper[:1], forces=True)
    np.testing.assert_allclose(p.forces_uncertainty, q.forces_uncertainty, rtol=1e-9)


def test_shared_rows(one, copper_network, copper, port, monkeypatch, tmp_path):
    """Three shares of five and of three structures, in threads of this process."""
    numbers = iter(range(3))

    def launched(port_of_settings, key):
        assert port_of_settings == 39591
        return ProcessGroup(next(numbers), 3, "127.0.0.1", port, key, timeout=60.0)

    def run(_):
        options = {"distributed": True, "folder": tmp_path, "progress": False, **KEYS}
        return LLPR.fit(copper_network, copper[:5], copper[5:], **options)

    monkeypatch.setattr(llpr, "n_processes", lambda: 3)
    monkeypatch.setattr(ProcessGroup, "of_launcher", launched)
    with ThreadPoolExecutor(3) as pool:
        every = list(pool.map(run, range(3)))
    for found in every:
        check_same(found, one, copper)
        np.testing.assert_array_equal(found.displacements["energy"], every[0].displacements["energy"])
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import sys
import surefield as sf
if __name__ == "__main__":
    folder, port, out = sys.argv[1:]
    fitted = sf.LLPR.fit(
        None, f"{folder}/train.xyz", f"{folder}/valid.xyz", model_checkpoint=f"{folder}/copper.npz",
        distributed=True, distributed_port=int(port), progress=False, **KEYS,
    )
    fitted.save(out)
"""


@pytest.mark.slow
def test_two_processes(one, copper_network, copper, port, tmp_path):
    sf.save_potential(tmp_path / "copper.npz", copper_network)
    write_frames(tmp_path / "train.xyz", copper[:5])
    write_frames(tmp_path / "valid.xyz", copper[5:])
    (tmp_path / "fit.py").write_text(f"KEYS = {KEYS}\n{SCRIPT}")
    outs = [tmp_path / f"llpr-{rank}.npz" for rank in range(2)]
    jobs = []
    for rank, out in enumerate(outs):
        environment = {**os.environ, "WORLD_SIZE": "2", "RANK": str(rank)}
        command = [sys.executable, str(tmp_path / "fit.py"), str(tmp_path), str(port), str(out)]
        jobs.append(subprocess.Popen(command, env=environment))
    assert [job.wait(timeout=300) for job in jobs] == [0, 0]
    every = [sf.load(out) for out in outs]
    for found in every:
        check_same(found, one, copper)
        np.testing.assert_array_equal(found.displacements["energy"], every[0].displacements["energy"])
