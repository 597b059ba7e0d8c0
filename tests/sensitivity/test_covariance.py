from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surefield.errors import ConfigError, DataError, PotentialError
from surefield.sensitivity.covariance import RowCovariance

D = 7


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(53, D)) * np.logspace(0, 3, D)


@pytest.mark.parametrize("case", ["ethanol", "si"])
def test_matrix_of_energy_rows_is_the_peers_covariance(shared: Path, case: str) -> None:
    data = np.load(shared / "reference" / "uncertainty" / f"metatrain_{case}.npz")
    rows, expected = data["F_train_mean"], data["covariance"]
    covariance = RowCovariance(rows.shape[1]).add(rows)
    np.testing.assert_allclose(covariance.matrix, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("case", ["ethanol", "si"])
def test_streamed_force_rows_give_the_gram_matrix_of_all(shared: Path, case: str) -> None:
    data = np.load(shared / "reference" / "uncertainty" / f"metatrain_{case}_forces.npz")
    rows, expected = data["train_G"], data["train_GtG"]
    if "train_G_frames" in data:
        # the file keeps the rows of 12 of 174 frames; what is missing in the sum must be a Gram matrix too
        part = RowCovariance(rows.shape[1]).add(rows, "forces").matrix
        assert np.linalg.eigvalsh(expected - part)[0] > -1e-10 * np.abs(expected).max()
        return
    covariance = RowCovariance(rows.shape[1])
    for chunk in np.array_split(rows, len(data["train_nat"])):
        covariance.add(chunk, kind="forces")
    np.testing.assert_allclose(covariance.matrix, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("size", [1, 8, 1000])
def test_chunking_order_and_merging_change_nothing(rows: np.ndarray, size: int) -> None:
    whole = RowCovariance(D).add(rows)
    shuffled = rows[np.random.default_rng(2).permutation(len(rows))]
    halves = RowCovariance(D), RowCovariance(D)
    for i in range(0, len(rows), size):
        halves[(i // size) % 2].add(shuffled[i : i + size])
    merged = halves[0].merge(halves[1])
    assert merged.n_rows == whole.n_rows == {"energy": 53}
    np.testing.assert_allclose(merged.matrix, whole.matrix, rtol=0, atol=1e-12 * np.abs(whole.matrix).max())


def test_kinds_stay_apart_until_they_are_weighted(rows: np.ndarray) -> None:
    energy, forces = rows[:20], rows[20:]
    covariance = RowCovariance(D).add(energy).add(forces, "forces")
    expected = 4.0 * energy.T @ energy + 0.5 * forces.T @ forces
    np.testing.assert_allclose(covariance.combined({"energy": 4.0, "forces": 0.5}), expected, rtol=1e-13)
    np.testing.assert_allclose(
        covariance.combined({"energy": 1.0, "forces": 0}), energy.T @ energy, rtol=1e-13
    )
    np.testing.assert_allclose(covariance.matrix, rows.T @ rows, rtol=1e-12)
    assert np.array_equal(covariance.matrix, covariance.matrix.T)


def test_row_weights_multiply_rows_and_squares(rows: np.ndarray) -> None:
    weights = np.linspace(0, 3, len(rows))
    residuals = rows[:, 0]
    covariance = RowCovariance(D).add(rows, weight=weights, residuals=residuals)
    np.testing.assert_allclose(covariance.matrix, (rows * weights[:, None]).T @ rows, rtol=1e-12)
    assert covariance.sum_squared_residuals["energy"] == pytest.approx(
        np.sum(weights * residuals**2), rel=1e-13
    )


def test_rows_without_a_label_are_masked_and_counted(rows: np.ndarray) -> None:
    residuals = np.random.default_rng(3).normal(size=(len(rows), 2))
    residuals[4] = np.nan
    residuals[5, 1] = np.nan
    covariance = RowCovariance(D).add(rows, "forces", residuals=residuals)
    kept = np.delete(rows, 4, axis=0)
    np.testing.assert_allclose(covariance.matrix, kept.T @ kept, rtol=1e-12)
    covariance.count_masked("forces", "symmetry", 3)
    assert covariance.n_rows == {"forces": 52}
    assert covariance.masked == {"forces": {"nan_label": 1, "symmetry": 3}}
    squares = np.nanmean(np.delete(residuals, 4, axis=0) ** 2, axis=1).sum()
    assert covariance.sum_squared_residuals["forces"] == pytest.approx(squares, rel=1e-13)


def test_sums_of_squares_are_reported_only_when_complete(rows: np.ndarray) -> None:
    covariance = RowCovariance(D).add(rows, residuals=np.ones(53)).add(rows, "forces", residuals=np.ones(53))
    covariance.add(rows, "forces")
    assert covariance.sum_squared_residuals == {"energy": 53.0}


def test_rows_are_cast_before_any_product() -> None:
    single = np.float32([[3000.123, 1e-3], [2999.877, 2e-3]])
    covariance = RowCovariance(2).add(single)
    double = single.astype(np.float64)
    assert np.array_equal(covariance.matrix, double.T @ double)
    assert covariance.single_precision
    assert covariance.regularizer_floor == 1e-6
    assert RowCovariance(2).add(double).regularizer_floor == 1e-9


def test_remove_undoes_add(rows: np.ndarray) -> None:
    residuals = np.random.default_rng(4).normal(size=53)
    residuals[50] = np.nan
    covariance = RowCovariance(D).add(rows[:40], residuals=residuals[:40])
    before = covariance.matrix
    covariance.add(rows[40:], weight=2.0, residuals=residuals[40:])
    covariance.remove(rows[40:], weight=2.0, residuals=residuals[40:])
    np.testing.assert_allclose(covariance.matrix, before, rtol=0, atol=1e-12 * np.abs(before).max())
    assert covariance.n_rows == {"energy": 40}
    assert covariance.masked["energy"]["nan_label"] == 0
    expected = np.sum(residuals[:40] ** 2)
    assert covariance.sum_squared_residuals["energy"] == pytest.approx(expected, rel=1e-12)
    covariance.remove(rows[:40], residuals=residuals[:40])
    assert covariance.n_rows == {}
    assert not covariance.matrix.any()


@pytest.mark.parametrize("kind", ["energy", "forces"])
def test_removing_what_was_never_added_fails_and_changes_nothing(rows: np.ndarray, kind: str) -> None:
    covariance = RowCovariance(D).add(rows)
    before = covariance.matrix
    with pytest.raises(DataError, match=f"these rows were not added before.*{kind}"):
        covariance.remove(3 * rows[::-1], kind)
    assert np.array_equal(covariance.matrix, before)
    assert covariance.n_rows == {"energy": 53}


def test_removing_as_many_but_other_rows_fails(rows: np.ndarray) -> None:
    with pytest.raises(DataError, match="these rows were not added before"):
        RowCovariance(D).add(rows).remove(0.5 * rows)


def test_merge_refuses_another_model(rows: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"fingerprint.*'b'.*'a'"):
        RowCovariance(D, "a").merge(RowCovariance(D, "b"))
    with pytest.raises(DataError, match=r"n_features.*8.*7"):
        RowCovariance(D).merge(RowCovariance(8))


def test_merge_adds_everything_and_leaves_the_other_alone(rows: np.ndarray) -> None:
    a = RowCovariance(D, "m").add(rows[:5], residuals=np.ones(5))
    b = RowCovariance(D, "m").add(np.float32(rows[5:8]), "forces", residuals=[1, np.nan, 2])
    before = b.matrix
    a.merge(b)
    a.add(rows, "forces")
    assert np.array_equal(b.matrix, before)
    assert a.n_rows == {"energy": 5, "forces": 55}
    assert a.masked == {"forces": {"nan_label": 1}}
    assert a.single_precision


def test_saved_and_loaded_is_the_same(rows: np.ndarray, tmp_path: Path) -> None:
    covariance = RowCovariance(D, "model-1").add(rows, residuals=rows[:, 1]).add(np.float32(rows), "forces")
    covariance.count_masked("forces", "symmetry", 12)
    path = tmp_path / "rows.cov"
    covariance.save(path)
    loaded = RowCovariance.load(path)
    for name in (
        "n_features",
        "fingerprint",
        "n_rows",
        "sum_squared_residuals",
        "masked",
        "single_precision",
    ):
        assert getattr(loaded, name) == getattr(covariance, name)
    weights = {"energy": 0.3, "forces": 7.0}
    assert np.array_equal(loaded.combined(weights), covariance.combined(weights))
    assert [p.name for p in tmp_path.iterdir()] == ["rows.cov"]


def test_empty_accumulator_survives_saving(tmp_path: Path) -> None:
    RowCovariance(3).save(tmp_path / "empty.npz")
    loaded = RowCovariance.load(tmp_path / "empty.npz")
    assert loaded.n_rows == {}
    assert np.array_equal(loaded.matrix, np.zeros((3, 3)))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "missing"])
def test_damaged_files_are_refused(rows: np.ndarray, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "rows.npz"
    RowCovariance(D).add(rows).save(path)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "missing":
        path.unlink()
    else:
        where = content.index(np.float64(rows.T @ rows)[0, 0].tobytes())
        content[where] ^= 1
        path.write_bytes(content)
    with pytest.raises(PotentialError, match=r"cannot read.*rows\.npz"):
        RowCovariance.load(path)


def test_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, format_version=99)
    with pytest.raises(PotentialError, match=r"newer format.*rows\.npz.*99"):
        RowCovariance.load(path)


def test_failed_save_keeps_the_old_file(
    rows: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.npz"
    RowCovariance(D).add(rows).save(path)
    old = path.read_bytes()

    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="no space"):
        RowCovariance(D).save(path)
    assert path.read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 1


def test_bad_rows_weights_and_residuals_name_the_offender(rows: np.ndarray) -> None:
    covariance = RowCovariance(D)
    broken = rows.copy()
    broken[3, 2] = np.inf
    with pytest.raises(PotentialError, match=r"feature 2 in forces row 3.*inf"):
        covariance.add(broken, "forces")
    with pytest.raises(PotentialError, match="6 features; expected 7"):
        covariance.add(rows[:, :6])
    with pytest.raises(DataError, match=r"\(7,\)"):
        covariance.add(rows[0])
    with pytest.raises(DataError, match=r"energy row 1.*-2.0"):
        covariance.add(rows[:2], weight=[1, -2])
    with pytest.raises(DataError, match=r"\(3,\).*\(2,\)"):
        covariance.add(rows[:2], weight=[1, 2, 3])
    with pytest.raises(DataError, match="infinite residual in energy row 1"):
        covariance.add(rows[:2], residuals=[1, np.inf])
    with pytest.raises(DataError, match=r"\(3,\)"):
        covariance.add(rows[:2], residuals=[1, 2, 3])
    assert covariance.n_rows == {}


def test_bad_kind_weights_are_refused(rows: np.ndarray) -> None:
    covariance = RowCovariance(D).add(rows).add(rows, "forces")
    with pytest.raises(ConfigError, match=r"'force'.*did you mean 'forces'"):
        covariance.combined({"energy": 1, "force": 1})
    with pytest.raises(ConfigError, match="no weight for kind 'forces'"):
        covariance.combined({"energy": 1})
    with pytest.raises(ConfigError, match=r"'forces'.*-1"):
        covariance.combined({"energy": 1, "forces": -1})
    with pytest.raises(ConfigError, match=r"n_features.*0"):
        RowCovariance(0)
