from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor

import numpy as np
import pytest
from ase.build import bulk, molecule

from surefield.errors import ConfigError, PotentialError
from surefield.execution.local_executor import LocalExecutor
from surefield.execution.worker_process import WorkerDied
from surefield.exploration.config import (
    DynamicsConfig,
    PoolFilesConfig,
    RattleConfig,
    RelaxationConfig,
    SigmaBiasConfig,
    SigmaWindowConfig,
    StrainConfig,
    SurfacesConfig,
)
from surefield.exploration.explore import explore, read_walkers, write_walkers
from surefield.structures.read import write_frames
from surefield.uncertainty import LLPR, ConstantUncertainty

WIDE = SigmaWindowConfig(lower=0.0, limit=1e9)
SHORT = DynamicsConfig(n_walkers=2, steps=12, check_every=4, window=WIDE, temperatures=(300.0, 500.0))


@pytest.fixture(scope="module")
def llpr(copper_network, copper):
    return LLPR.fit(copper_network, copper[:4], copper[4:], progress=False)


def same(a, b):
    assert len(a.frames) == len(b.frames)
    for one, other in zip(a.frames, b.frames, strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)
        np.testing.assert_array_equal(one.cell.array, other.cell.array)
        assert one.info["config_type"] == other.info["config_type"]
        # A plugin that imports NumPy before conftest.py leaves this process with other kernels than workers.
        assert one.info["sigma"] == pytest.approx(other.info["sigma"], rel=1e-12)
    assert [w.ended for w in a.walkers] == [w.ended for w in b.walkers]
    assert [w.looked_at for w in a.walkers] == [w.looked_at for w in b.walkers]


def test_dynamics_collect_and_say_what_they_did(llpr, copper):
    before = copper[0].copy()
    result = explore(llpr, copper[:2], [SHORT], seed=3)
    assert [(w.start, w.temperature) for w in result.walkers] == [(0, 300.0), (1, 500.0)]
    for walker in result.walkers:
        assert walker.looked_at == (0, 4, 8, 12)
        assert walker.times_fs == (0.0, 8.0, 16.0, 24.0)
        assert walker.ended == "finished"
        assert walker.n_frames == 4
        assert walker.quantity == "forces"
    frames = [frame for frame in result.frames if frame.info["walker"] == 1]
    assert [frame.info["step"] for frame in frames] == [0, 4, 8, 12]
    assert frames[1].info["config_type"] == "nvt_500K"
    assert frames[1].info["temperature_K"] == 500.0
    assert "momenta" not in frames[1].arrays
    assert frames[1].calc is None
    (again,) = llpr.predict([frames[1]], forces=True)
    sigma = np.linalg.norm(again.forces_uncertainty, axis=1).max()
    assert frames[1].info["sigma"] == pytest.approx(sigma)
    assert result.walkers[1].sigma[1] == frames[1].info["sigma"]
    np.testing.assert_allclose(frames[1].arrays["surefield_forces_uncertainty"], again.forces_uncertainty)
    np.testing.assert_array_equal(copper[0].positions, before.positions)


def test_a_seed_decides_all(llpr, copper):
    kinds = [SHORT, RattleConfig(n_structures=3), StrainConfig(n_structures=2)]
    first, second, third = (explore(llpr, copper[:2], kinds, seed=seed) for seed in (3, 3, 4))
    same(first, second)
    assert not np.array_equal(first.frames[1].positions, third.frames[1].positions)
    fewer = explore(llpr, copper[:2], kinds, seed=3, n_frames=5)
    assert len(fewer.frames) == 5
    np.testing.assert_array_equal(fewer.frames[-1].positions, first.frames[-1].positions)


@pytest.mark.slow
def test_workers_change_nothing(llpr, copper, tmp_path):
    kinds = [SHORT, RattleConfig(n_structures=3)]
    (tmp_path / "exploring-killed").mkdir()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        apart = explore(llpr, copper[:2], kinds, seed=3, executor=executor, folder=tmp_path)
    same(apart, explore(llpr, copper[:2], kinds, seed=3))
    assert list(tmp_path.iterdir()) == []


class Deadly(Executor):
    """Runs calls here, but for those of one walker, whose worker dies so many times."""

    in_flight = 2

    def __init__(self, walker: int, deaths: int) -> None:
        self.walker, self.deaths = walker, deaths

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        if args[0].options.get("walker") == self.walker and self.deaths:
            self.deaths -= 1
            future.set_exception(WorkerDied("was killed by signal 9 (SIGKILL)"))
        else:
            future.set_result(fn(*args, **kwargs))
        return future


def test_a_walker_whose_worker_dies_is_run_again_and_ends_no_run(llpr, copper, tmp_path, caplog):
    undisturbed = explore(llpr, copper[:2], [SHORT], seed=3)
    options = {"seed": 3, "folder": tmp_path}
    same(explore(llpr, copper[:2], [SHORT], executor=Deadly(1, 4), **options), undisturbed)
    left = explore(llpr, copper[:2], [SHORT], executor=Deadly(1, 99), **options)
    assert left.walkers[0] == undisturbed.walkers[0]
    lost = left.walkers[1]
    assert lost.ended == "its worker was killed by signal 9 (SIGKILL), at every attempt"
    assert (lost.start, lost.temperature, lost.timestep_fs, lost.n_frames) == (1, 500.0, 2.0, 0)
    assert {frame.info["walker"] for frame in left.frames} == {0}
    assert "walker 1 from start 1: its worker was killed" in caplog.text
    write_walkers(tmp_path / "walkers.json", left.walkers)
    assert read_walkers(tmp_path / "walkers.json") == left.walkers


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True])
def test_a_killed_worker_changes_nothing(llpr, copper, tmp_path, plain):
    undisturbed = explore(llpr, copper[:2], [SHORT], seed=3)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) if plain else LocalExecutor(1) as executor:
        pid = executor.submit(os.getpid).result()
        threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()  # it still imports what it needs
        apart = explore(llpr, copper[:2], [SHORT], seed=3, executor=executor, folder=tmp_path)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    same(apart, undisturbed)


def test_a_walker_stops_at_the_limit_and_gives_its_last_sane_structure(llpr, copper):
    free = explore(llpr, [copper[0]], [SHORT.model_copy(update={"n_walkers": 1, "steps": 40})], seed=3)
    (walker,) = free.walkers
    steps = {frame.info["step"]: frame.info["sigma"] for frame in free.frames}
    limit = 0.5 * (max(walker.sigma[1:]) + walker.sigma[0])
    window = SigmaWindowConfig(lower=0.0, limit=limit)
    config = SHORT.model_copy(update={"n_walkers": 1, "steps": 40, "window": window})
    stopped = explore(llpr, [copper[0]], [config], seed=3)
    (record,) = stopped.walkers
    assert record.ended.startswith("sigma limit: sigma of the forces is")
    assert record.sigma[-1] > limit
    assert record.steps < 40
    last = stopped.frames[-1]
    # All looks before the last were within; the one that counts lies between the last two.
    assert record.looked_at[-2] <= last.info["step"] < record.looked_at[-1]
    assert last.info["sigma"] <= limit
    assert steps


def test_a_walker_that_leaves_at_once_gives_its_start(llpr, copper):
    window = SigmaWindowConfig(lower=0.0, limit=1e-9)
    result = explore(llpr, [copper[0]], [SHORT.model_copy(update={"window": window})], seed=3)
    assert [walker.steps for walker in result.walkers] == [0, 0]
    assert all(walker.ended.startswith("sigma limit") for walker in result.walkers)
    assert [frame.info["step"] for frame in result.frames] == [0, 0]
    np.testing.assert_array_equal(result.frames[0].positions, copper[0].positions)


def test_a_walker_that_breaks_says_how(llpr, copper):
    hot = SHORT.model_copy(update={"timestep_fs": 200.0, "n_walkers": 1, "steps": 60})
    result = explore(llpr, [copper[0]], [hot], seed=3)
    (walker,) = result.walkers
    assert walker.ended.startswith("structure broke: ")
    assert walker.steps < 60
    assert result.frames
    assert result.frames[-1].info["step"] <= walker.steps


def test_the_window_comes_from_the_calibration_set(llpr, copper):
    config = DynamicsConfig(n_walkers=1, steps=4, check_every=4)
    largest = [
        float(np.linalg.norm(p.forces_uncertainty, axis=1).max())
        for p in llpr.predict(copper[4:], forces=True)
    ]
    start = copper[4 + int(np.argmin(largest))]
    (near,) = explore(llpr, [start], [config], seed=0).walkers
    assert near.lower == pytest.approx(np.median(largest))
    force = np.median([np.linalg.norm(atoms.get_forces(), axis=1).max() for atoms in copper[4:]])
    assert near.limit == pytest.approx(min(2 * max(largest), max(0.25 * force, 2 * np.median(largest))))
    energies = config.model_copy(update={"window": SigmaWindowConfig(quantity="energies")})
    (walker,) = explore(llpr, [start], [energies], seed=0).walkers
    assert walker.quantity == "energies"
    assert walker.limit == pytest.approx(2 * llpr.statistics["largest_sigma"]["energies"])
    # A start that is farther out than all of these is left all the same.
    (far,) = explore(llpr, [copper[0]], [config], seed=0).walkers
    assert far.sigma[0] > near.limit
    assert far.limit == pytest.approx(2 * far.sigma[0], rel=1e-5)
    assert far.steps > 0


def test_nve_npt_and_relaxation(llpr, copper):
    kinds = [
        SHORT.model_copy(update={"ensemble": "nve", "n_walkers": 1}),
        SHORT.model_copy(update={"ensemble": "npt", "n_walkers": 1, "pressure_gpa": 5.0}),
        RelaxationConfig(n_walkers=2, steps=6, check_every=3, window=WIDE),
        RelaxationConfig(n_walkers=1, steps=3, check_every=3, window=WIDE, optimizer="fire", relax_cell=True),
    ]
    result = explore(llpr, [copper[0]], kinds, seed=3)
    nve, npt, *relaxed = ([f for f in result.frames if f.info["walker"] == i] for i in range(5))
    assert nve[-1].cell.volume == copper[0].cell.volume
    assert npt[-1].cell.volume != copper[0].cell.volume
    assert [walker.ensemble for walker in result.walkers] == ["nve", "npt", "bfgs", "bfgs", "fire"]
    assert "time_fs" not in relaxed[0][-1].info
    np.testing.assert_array_equal(relaxed[0][0].positions, copper[0].positions)
    assert not np.array_equal(relaxed[1][0].positions, copper[0].positions)
    energies = [llpr.predict([frame])[0].energy for frame in relaxed[0]]
    assert energies[-1] < energies[0]
    assert not np.allclose(relaxed[2][-1].cell.array, copper[0].cell.array)


def test_biased_dynamics_go_elsewhere(llpr, copper):
    bias = SigmaBiasConfig(strength=50.0, saturation=10.0)
    plain, biased = (
        explore(llpr, [copper[0]], [SHORT.model_copy(update={"bias": b, "n_walkers": 1})], seed=3)
        for b in (None, bias)
    )
    assert biased.walkers[0].biased
    np.testing.assert_array_equal(plain.frames[0].positions, biased.frames[0].positions)
    assert not np.allclose(plain.frames[-1].positions, biased.frames[-1].positions)


def test_surfaces_and_files(llpr, copper, tmp_path):
    write_frames(tmp_path / "pool.xyz", copper)
    kinds = [
        SurfacesConfig(layers=2, n_structures=3, rattle=0.0),
        PoolFilesConfig(files=(str(tmp_path / "pool.xyz"),), n_structures=3),
    ]
    result = explore(llpr, [bulk("Cu")], kinds, seed=3)
    names = [frame.info["config_type"] for frame in result.frames]
    assert names[0].startswith("surface_")
    assert names[-1] == "file"
    kept = [frame for frame in result.frames if "origin" in frame.info]
    assert len(kept) == 3
    assert all("energy" not in frame.info and frame.calc is None for frame in kept)
    assert all(frame.info["sigma_quantity"] == "energies" for frame in kept)
    assert result.walkers == ()


def test_records_survive_a_file(llpr, copper, tmp_path):
    walkers = explore(llpr, copper[:2], [SHORT], seed=3).walkers
    write_walkers(tmp_path / "walkers.json", walkers, round=2)
    assert read_walkers(tmp_path / "walkers.json") == walkers


def test_mistakes_are_told_before_anything_runs(llpr, copper, copper_network):
    with pytest.raises(ConfigError, match="dynamics needs at least one start"):
        explore(llpr, [], [SHORT], seed=0)
    with pytest.raises(PotentialError, match="does not know"):
        explore(llpr, [molecule("H2O")], [SHORT], seed=0)
    cluster = copper[0].copy()
    cluster.pbc = False
    with pytest.raises(ConfigError, match="npt needs periodic structures; got start 0"):
        explore(llpr, [cluster], [SHORT.model_copy(update={"ensemble": "npt"})], seed=0)
    constant = ConstantUncertainty.fit(copper_network, copper[4:])
    biased = SHORT.model_copy(update={"bias": SigmaBiasConfig()})
    with pytest.raises(ConfigError, match="no slope to bias dynamics"):
        explore(constant, [copper[0]], [biased], seed=0)
    old = llpr._replaced(statistics={})
    with pytest.raises(ConfigError, match=r"give window\.lower and window\.limit"):
        explore(old, [copper[0]], [DynamicsConfig()], seed=0)
    with pytest.raises(ValueError, match="must be below limit"):
        SigmaWindowConfig(lower=1.0, limit=0.5)
