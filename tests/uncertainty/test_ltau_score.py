"""LTAU as a score: reference numbers, the formula written out, outputs, index types, bad input."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

import surefield as sf
from surefield.errors import ConfigError, DataError
from surefield.structures.read import read_frames
from surefield.testing.frames import Snapshot
from surefield.uncertainty import LTAU, LTAUDetails, LTAUForcesUQScore

N, D, T = 40, 3, 12


@pytest.fixture
def descriptors() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((N, D))


@pytest.fixture
def log() -> np.ndarray:
    return np.random.default_rng(1).lognormal(-2.0, 1.0, (T, N))


@pytest.fixture
def frames() -> list[Atoms]:
    rng = np.random.default_rng(2)
    frames = []
    for n in (2, 5, 3):
        atoms = Atoms(f"Cu{n}", rng.uniform(0, 5, (n, 3)))
        atoms.arrays["descriptors"] = 0.5 * rng.standard_normal((n, D))
        frames.append(atoms)
    return frames


def quiet(call: Any, *args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "\\d+ of \\d+ atoms are unlike")
        return call(*args, **kwargs)


@pytest.mark.parametrize(
    ("compat", "expected", "atol"),
    [("ltau-ff", "ltau_01_score.npy", 1e-8), (None, "ltau_01_score_closed_edge.npy", 1e-12)],
)
def test_reference(shared: Path, compat: Any, expected: str, atol: float) -> None:
    folder = shared / "reference" / "scores"
    inputs = folder / "inputs"
    files = inputs / "train_descriptors.npy", inputs / "error_traj.npy"
    score = sf.LTAUForcesUQScore(*files, from_error_logs=True, nbins=100, compat=compat)
    np.testing.assert_allclose(score.bins, np.load(folder / "expected" / "ltau_01_bins.npy"), rtol=1e-14)
    configs = list(read_frames(inputs / "query_configs.extxyz"))
    results = quiet(score.compute_batch, configs, sf.ScoreQuantity.UNCERTAINTY)
    np.testing.assert_allclose(
        np.concatenate(results), np.load(folder / "expected" / expected), rtol=0, atol=atol
    )


def test_formula(descriptors: np.ndarray, log: np.ndarray, frames: list[Atoms]) -> None:
    score = LTAUForcesUQScore(descriptors, log, from_error_logs=True, nbins=7)
    edges = np.logspace(np.log10(log.min()), np.log10(log.max()), 8)
    edges[[0, -1]] = log.min(), log.max()
    widths = np.diff(edges)
    pdf = np.array([np.histogram(own, edges)[0] / T / widths for own in log.T])
    before = Snapshot(frames)
    for atoms, result in zip(
        frames, quiet(score.compute_batch, frames, num_nearest_neighbors=3), strict=True
    ):
        apart = np.linalg.norm(atoms.arrays["descriptors"][:, None] - descriptors[None], axis=2)
        nearest = np.argsort(apart, axis=1, kind="stable")[:, :3]
        mean = pdf[nearest].mean(axis=1)
        np.testing.assert_allclose(result, mean @ (widths * np.sqrt(edges[1:] * edges[:-1])), rtol=1e-12)
        alone = quiet(score.compute, atoms, "uncertainty", "descriptors", 3)
        np.testing.assert_allclose(alone, result, rtol=1e-12)
        details = quiet(score.compute_details, atoms, num_nearest_neighbors=3)
        np.testing.assert_allclose(details.pdf, mean, rtol=1e-12)
        np.testing.assert_array_equal(details.neighbors, nearest)
        squared = np.take_along_axis(apart, nearest, axis=1) ** 2
        np.testing.assert_allclose(details.mean_sq_distance, squared.mean(axis=1), rtol=1e-12)
    assert before.changed() is None


def test_ties_go_to_the_lower_index(log: np.ndarray) -> None:
    score = LTAUForcesUQScore(np.repeat([[0.0], [1.0]], N // 2, axis=0), log, from_error_logs=True)
    details = quiet(score.predict, np.array([[0.5], [0.9]]), 2, details=True)
    assert details.neighbors.tolist() == [[0, 1], [N // 2, N // 2 + 1]]


def test_densities_are_what_logs_become(descriptors: np.ndarray, log: np.ndarray, tmp_path: Path) -> None:
    of_logs = LTAUForcesUQScore(descriptors, [log[:5], log[5:]], from_error_logs=True, bin_spacing="linear")
    joined = LTAUForcesUQScore(descriptors, log, from_error_logs=True, bin_spacing="linear")
    np.testing.assert_array_equal(of_logs.expected_errors, joined.expected_errors)
    settings = of_logs.settings()
    for name in ("train_descriptors", "error_pdfs", "bins"):
        np.save(tmp_path / f"{name}.npy", settings[name])
        settings = {**settings, name: str(tmp_path / f"{name}.npy")}
    again = LTAUForcesUQScore(**settings)
    np.testing.assert_allclose(again.expected_errors, of_logs.expected_errors, rtol=1e-14)
    assert again.described_settings()["bins"]["path"] == str(tmp_path / "bins.npy")


def test_midpoints_of_given_bins(descriptors: np.ndarray) -> None:
    bins = [0.0, 1.0, 4.0]
    pdf = np.tile([0.25, 0.25], (N, 1))
    assert LTAUForcesUQScore(descriptors, pdf, bins).expected_errors[0] == pytest.approx(0.125 + 1.875)
    bins = [1.0, 2.0, 4.0]
    pdf = np.tile([0.5, 0.25], (N, 1))
    geometric, arithmetic = (0.5 * 2**0.5 + 0.5 * 8**0.5), (0.75 + 1.5)
    assert LTAUForcesUQScore(descriptors, pdf, bins).expected_errors[0] == pytest.approx(geometric)
    linear = LTAUForcesUQScore(descriptors, pdf, bins, bin_spacing="linear")
    assert linear.expected_errors[0] == pytest.approx(arithmetic)
    compat = LTAUForcesUQScore(descriptors, pdf, bins, bin_spacing="linear", compat="ltau-ff")
    assert compat.expected_errors[0] == pytest.approx(geometric)


def test_vectors_have_their_norms_taken_once(descriptors: np.ndarray) -> None:
    vectors = np.random.default_rng(5).standard_normal((T, N, 3))
    norms = np.linalg.norm(vectors, axis=2)
    score = LTAUForcesUQScore(descriptors, vectors, from_error_logs=True, error_logs_norm=True)
    of_norms = LTAUForcesUQScore(descriptors, norms, from_error_logs=True)
    np.testing.assert_array_equal(score.expected_errors, of_norms.expected_errors)


def test_logs_are_read_in_blocks(
    descriptors: np.ndarray, log: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = LTAUForcesUQScore(descriptors, log, from_error_logs=True)
    monkeypatch.setattr("surefield.uncertainty.loss_trajectories._BLOCK", 777)  # 7 atoms, 2 epochs
    np.save(tmp_path / "log.npy", log)
    blocks = LTAUForcesUQScore(descriptors, tmp_path / "log.npy", from_error_logs=True)
    np.testing.assert_allclose(blocks.expected_errors, whole.expected_errors, rtol=1e-14)


def test_levels(descriptors: np.ndarray, log: np.ndarray) -> None:
    score = LTAUForcesUQScore(descriptors, log, from_error_logs=True, nbins=9)
    details = quiet(score.predict, descriptors[:6], 4, details=True)
    assert isinstance(details, LTAUDetails)
    levels = np.linspace(0.0, 1.1 * log.max(), 50)
    cdf = np.array([details.cdf(a) for a in levels])
    assert np.all(np.diff(cdf, axis=0) >= 0)
    assert np.all(cdf[0] == 0)
    np.testing.assert_allclose(cdf[-1], 1.0, rtol=1e-12)
    np.testing.assert_array_equal(details.exceedance(0.3), 1.0 - details.cdf(0.3))
    for p in (0.1, 0.5, 0.93):
        np.testing.assert_allclose(details.cdf(details.quantile(p)), p, rtol=1e-12)
    each = np.linspace(0.1, 0.9, 6)
    np.testing.assert_allclose(details.cdf(details.quantile(each)), each, rtol=1e-12)
    assert np.all(details.quantile(0.0) <= details.quantile(1.0))
    np.testing.assert_allclose(details.cdf(details.quantile(1.0)), 1.0, rtol=1e-12)
    with pytest.raises(ConfigError, match=r"probability must lie in \[0, 1\]"):
        details.quantile(1.5)
    with pytest.raises(ConfigError, match="level"):
        details.cdf(np.nan)


def test_outliers(descriptors: np.ndarray, log: np.ndarray, frames: list[Atoms]) -> None:
    score = LTAUForcesUQScore(descriptors, log, from_error_logs=True)
    apart = np.linalg.norm(descriptors[:, None] - descriptors[None], axis=2) ** 2
    np.fill_diagonal(apart, np.inf)
    limit = np.quantile(np.sort(apart, axis=1)[:, :2].mean(axis=1), 0.99)
    frames[1].arrays["descriptors"][3] = 50.0
    with pytest.warns(UserWarning, match="1 of 10 atoms are unlike all training atoms"):
        results = score.compute_batch(frames, num_nearest_neighbors=2)
    labelled = score.labelled(results, frames)
    distances = [a.arrays["ltau_forces_uq_mean_sq_distance"] for a in labelled]
    outliers = [a.arrays["ltau_forces_uq_outlier"] for a in labelled]
    assert [o.tolist() for o in outliers] == [(d > limit).tolist() for d in distances]
    assert np.concatenate(outliers).sum() == 1
    metadata = labelled[2].info["_metadata"]["ltau_forces_uq_score"]
    assert metadata["num_nearest_neighbors"] == 2
    assert metadata["index_type"] == "IndexFlatL2"
    assert metadata["nbins"] == 100
    assert metadata["error_pdfs"]["shape"] == [T, N]


def test_zero_errors(descriptors: np.ndarray, log: np.ndarray) -> None:
    log[3, 7] = log[4, 8] = 0.0
    with pytest.warns(UserWarning, match="2 force errors are zero and count to the first bin"):
        score = LTAUForcesUQScore(descriptors, log, from_error_logs=True)
    assert score.bins[0] == log[log > 0].min()
    linear = LTAUForcesUQScore(descriptors, log, from_error_logs=True, bin_spacing="linear")
    assert linear.bins[0] == 0.0
    with pytest.raises(DataError, match=r"all force errors are zero.*linear"):
        LTAUForcesUQScore(descriptors, 0 * log, from_error_logs=True)


def test_values_outside(descriptors: np.ndarray) -> None:
    log = np.full((T, N), 0.5)
    log[0] = 2.0
    log[:, 4] = 3.0
    limits = {"range_limits": (0.1, 1.0), "from_error_logs": True}
    with pytest.warns(UserWarning, match=r"51 of 480 force errors \(10\.6 %\) .*0 below, 51 above"):
        clipped = LTAUForcesUQScore(descriptors, log, **limits)
    assert clipped.expected_errors[4] == pytest.approx(1.0, rel=0.02)
    with pytest.raises(DataError, match=r"51 of 480 .*widen range_limits"):
        LTAUForcesUQScore(descriptors, log, out_of_range="error", **limits)
    with pytest.raises(DataError, match="nothing is left of it in atom 4"):
        LTAUForcesUQScore(descriptors, log, out_of_range="drop", **limits)
    log[1, 4] = 0.5
    dropped = LTAUForcesUQScore(descriptors, log, out_of_range="drop", **limits)
    np.testing.assert_allclose(dropped.expected_errors, dropped.expected_errors[0], rtol=1e-12)
    assert dropped.expected_errors[0] == pytest.approx(0.5, rel=0.03)


def test_the_last_bin_is_closed_but_for_compat(descriptors: np.ndarray) -> None:
    log = np.full((T, N), 0.1)
    log[0] = 1.0
    closed = LTAUForcesUQScore(descriptors, log, from_error_logs=True)
    half_open = LTAUForcesUQScore(descriptors, log, from_error_logs=True, compat="ltau-ff")
    assert closed.expected_errors[0] == pytest.approx((11 * 0.1 + 1.0) / 12, rel=0.02)
    assert half_open.expected_errors[0] == pytest.approx(0.1, rel=0.02)
    log[:, 9] = 1.0
    with pytest.raises(DataError, match="nothing is left of it in atom 9"):
        LTAUForcesUQScore(descriptors, log, from_error_logs=True, compat="ltau-ff")


def test_equal_errors_widen_the_bins(descriptors: np.ndarray) -> None:
    with pytest.warns(UserWarning, match=r"all force errors are 0\.7 eV/Å; the bins are widened"):
        score = LTAUForcesUQScore(descriptors, np.full((T, N), 0.7), from_error_logs=True)
    np.testing.assert_allclose(score.expected_errors, 0.7, rtol=1e-6)


def bad_cases(descriptors: np.ndarray, log: np.ndarray) -> list[tuple[dict[str, Any], type, str]]:
    logs = {"from_error_logs": True}
    pdf = np.full((N, 2), 0.5)
    nan, negative, infinite = descriptors.copy(), log.copy(), log.copy()
    nan[3, 1], negative[2, 5], infinite[1, 4] = np.nan, -1e-3, np.inf
    vectors = np.ones((T, N, 3))
    return [
        (
            {"error_pdfs": log.T, **logs},
            DataError,
            r"another shape.*\(40, 12\).*epochs come first.*transpose",
        ),
        ({"error_pdfs": log[:, 1:], **logs}, DataError, r"got \(12, 39\).*n_train = 40"),
        ({"error_pdfs": vectors, **logs}, DataError, "error_logs_norm=True takes the norms"),
        (
            {"error_pdfs": log, "error_logs_norm": True, **logs},
            DataError,
            r"expected \(n_epochs, n_train, 3\)",
        ),
        ({"error_pdfs": [log, log[:, 1:]], **logs}, DataError, "log 1 of error_pdfs"),
        ({"error_pdfs": negative, **logs}, DataError, "epoch 2, atom 5"),
        ({"error_pdfs": infinite, **logs}, DataError, "epoch 1, atom 4"),
        ({"error_pdfs": "gone.npy", **logs}, DataError, "no file for error_pdfs; got .*gone.npy"),
        ({"error_pdfs": pdf}, ConfigError, "densities of errors need their bins"),
        (
            {"error_pdfs": pdf, "bins": [0, 1]},
            DataError,
            r"one column per bin; got \(40, 2\); expected \(40, 1\)",
        ),
        ({"error_pdfs": pdf, "bins": [0, 1, 4]}, DataError, "integrate to 1.*row 0.*got 2"),
        ({"error_pdfs": [[1.5, -0.5]] * N, "bins": [0, 1, 2]}, DataError, "not be negative in row 0"),
        ({"error_pdfs": pdf, "bins": [0, 2, 1]}, ConfigError, "unusable bins.*strictly increasing"),
        ({"error_pdfs": log, "bins": [0, 1], "nbins": 3, **logs}, ConfigError, "bins and nbins cannot be"),
        ({"error_pdfs": log, "nbins": 0, **logs}, ConfigError, "nbins is too small"),
        ({"error_pdfs": log, "range_limits": (1, 0.1), **logs}, ConfigError, "unusable range_limits"),
        ({"error_pdfs": log, "range_limits": (0, 1), **logs}, ConfigError, "expected 0 < lo < hi"),
        ({"error_pdfs": log, "bin_spacing": "logs", **logs}, ConfigError, "unknown bin_spacing.*'log'"),
        ({"error_pdfs": log, "out_of_range": "keep", **logs}, ConfigError, "expected clip, drop, error"),
        ({"error_pdfs": log, "compat": "ff", **logs}, ConfigError, "unknown compat"),
        ({"error_pdfs": log, "index_type": "Flat", **logs}, ConfigError, "IndexFlatL2, IndexHNSWFlat, HNSW"),
        (
            {"error_pdfs": log, "index_args": {"M": 3}, **logs},
            ConfigError,
            "'M' of IndexFlatL2; it takes none",
        ),
        ({"error_pdfs": pdf, "bins": [0, 1, 2], "error_logs_norm": True}, ConfigError, "is about logs"),
        ({"error_pdfs": log, "train_descriptors": nan, **logs}, DataError, "finite in row 3"),
        (
            {"error_pdfs": log, "train_descriptors": nan[0], **logs},
            DataError,
            r"\(n_train, n_features\); got \(3,\)",
        ),
    ]


@pytest.mark.parametrize("case", range(25))
def test_bad_arguments(descriptors: np.ndarray, log: np.ndarray, case: int) -> None:
    arguments, error, message = bad_cases(descriptors, log)[case]
    with pytest.raises(error, match=message):
        LTAUForcesUQScore(**{"train_descriptors": descriptors, **arguments})


def test_bad_queries(descriptors: np.ndarray, log: np.ndarray, frames: list[Atoms]) -> None:
    score = LTAUForcesUQScore(descriptors, log, from_error_logs=True)
    with pytest.raises(ConfigError, match=r"number of training atoms; got 41; expected at most 40"):
        score.compute_batch(frames, num_nearest_neighbors=41)
    with pytest.raises(ConfigError, match="too small"):
        score.compute(frames[0], num_nearest_neighbors=0)
    with pytest.raises(ConfigError, match="does not compute this score_quantity; got DIVERSITY"):
        score.compute(frames[0], "diversity")
    with pytest.raises(
        DataError, match=r"arrays\['soap'\].*configuration 0.*keys descriptors, numbers, positions"
    ):
        score.compute_batch(frames, descriptors_key="soap")
    with pytest.raises(DataError, match=r"got \(1, 4\); expected \(n_atoms, 3\)"):
        score.predict(np.zeros((1, 4)))
    frames[1].arrays["descriptors"] = np.zeros((5, 4))
    with pytest.raises(DataError, match=r"another length in configuration 1; got 4; expected 3"):
        score.compute_batch(frames)
    frames[1].arrays["descriptors"] = np.zeros((5, 3))
    frames[1].arrays["descriptors"][2, 0] = np.inf
    with pytest.raises(DataError, match="configuration 1, atom 2; got inf"):
        score.compute_batch(frames)


def test_log_of_a_training_is_taken_as_it_is(copper_network: Any, copper: Any, tmp_path: Path) -> None:
    fit = sf.train(
        copper_network, copper[:5], copper[5:7], epochs=2, force_error_log=tmp_path, progress=False
    )
    files = tmp_path / "descriptors.npy", tmp_path / "errors.npy"
    score = LTAUForcesUQScore(*map(str, files), from_error_logs=True)
    of_folder = LTAUForcesUQScore(tmp_path, tmp_path, from_error_logs=True)
    np.testing.assert_array_equal(score.expected_errors, of_folder.expected_errors)
    assert of_folder.described_settings()["error_pdfs"]["path"] == str(files[1])
    # the same object as an uncertainty: one element, so the same neighbours and sqrt(pi/8) times the errors
    sure = score.as_uncertainty(fit.potential, fit.train_set, fit.validation_set, k=3)
    assert isinstance(sure, LTAU)
    query = fit.potential.neighborhood(copper[7])
    features = np.concatenate([f for _, f in sf.sensitivity.site_features(fit.potential, [query])])
    ((_, spreads),) = sure.spreads([query], ("forces",), batch_size=1)
    expected = np.sqrt(np.pi / 8) * quiet(score.predict, features, 3)
    np.testing.assert_allclose(spreads["forces"].u[:, 0], expected, rtol=1e-6)
    of_log = LTAU.fit(fit.potential, fit.train_set, fit.validation_set, tmp_path, k=3)
    np.testing.assert_array_equal(of_log.errors, sure.errors)
    with pytest.raises(DataError, match="expected force errors of other atoms"):
        score.as_uncertainty(fit.potential, fit.validation_set, fit.train_set, k=3)


def test_log_of_counts(tmp_path: Path, descriptors: np.ndarray, log: np.ndarray) -> None:
    edges = np.linspace(0, log.max(), 6)
    counts = np.array([np.histogram(own, edges)[0] for own in log.T])
    np.save(tmp_path / "histogram.npy", counts)
    np.save(tmp_path / "edges.npy", edges)
    np.save(tmp_path / "descriptors.npy", descriptors)
    score = LTAUForcesUQScore(tmp_path, tmp_path, from_error_logs=True, bin_spacing="linear")
    of_log = LTAUForcesUQScore(descriptors, log, edges, from_error_logs=True, bin_spacing="linear")
    np.testing.assert_array_equal(score.expected_errors, of_log.expected_errors)
    with pytest.raises(ConfigError, match="a log of counts has bins of its own"):
        LTAUForcesUQScore(tmp_path, tmp_path, [0.0, 9.0], from_error_logs=True)
    with pytest.raises(DataError, match="the log is of other atoms"):
        LTAUForcesUQScore(descriptors[1:], tmp_path, from_error_logs=True)


def test_without_faiss(descriptors: np.ndarray, log: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    for kind in ("IndexHNSWFlat", "HNSW+IVFPQ"):
        with pytest.raises(
            ConfigError, match=r"cannot be built.*surefield\[ann\].*IndexFlatL2, IndexHNSWFlat, HNSW"
        ):
            LTAUForcesUQScore(descriptors, log, from_error_logs=True, index_type=kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "arguments", "least"),
    [
        ("IndexHNSWFlat", {"M": 16, "efConstruction": 100, "efSearch": 64}, 0.95),
        ("IndexHNSWFlat", {}, 0.95),
        ("HNSW+IVFPQ", {"nlist": 16, "M": 4, "nbits": 6, "hnsw_m": 16}, 0.5),
    ],
)
def test_recall_of_approximate_indices(kind: Any, arguments: dict[str, int], least: float) -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    rows, queries = rng.standard_normal((4000, 8)), rng.standard_normal((100, 8))
    log = rng.lognormal(-2, 1, (3, 4000))
    exact = LTAUForcesUQScore(rows, log, from_error_logs=True)
    near = LTAUForcesUQScore(rows, log, from_error_logs=True, index_type=kind, index_args=arguments)
    true = quiet(exact.predict, queries, 5, details=True).neighbors
    got = quiet(near.predict, queries, 5, details=True).neighbors
    assert np.mean([len({*a} & {*b}) / 5 for a, b in zip(true, got, strict=True)]) >= least
    with pytest.raises(ConfigError, match=r"'nprobe' of .*it takes"):
        LTAUForcesUQScore(rows, log, from_error_logs=True, index_type=kind, index_args={"nprobe": 1})
