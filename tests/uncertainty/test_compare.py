"""Several uncertainties side by side: one table, files, a sentence."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

import surefield as sf
from surefield.errors import ConfigError, PotentialError
from surefield.potentials import ZBL
from surefield.report import load_run, write_report
from surefield.uncertainty import ConstantUncertainty, uq_metrics
from surefield.uncertainty.compare import METRICS, EstimatorScores, EstimatorTable, _structure_values
from surefield.uncertainty.evaluation import Comparison


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def table(copper_network, copper, folder):
    shaken = [atoms.copy() for atoms in copper[:3]]
    for k, atoms in enumerate(shaken):
        atoms.rattle(0.3, seed=k)
    return sf.uq_compare(
        copper_network,
        copper[:4],
        copper[4:6],
        copper[2:],
        ["constant", "distance"],
        ood=shaken,
        n_bootstrap=20,
        folder=folder,
        progress=False,
    )


def test_numbers_are_those_of_the_metrics(table, copper_network, copper):
    sure = ConstantUncertainty.fit(copper_network, copper[4:6])
    residuals, sigmas = [], []
    for atoms, p in zip(copper[2:], sure.predict(copper[2:], forces=True), strict=True):
        assert p.forces is not None
        assert p.forces_uncertainty is not None
        residuals.append(p.forces - atoms.get_forces())
        sigmas.append(p.forces_uncertainty)
    expected = uq_metrics(np.array(residuals), np.array(sigmas))
    found = table.scores["constant"].metrics["forces"]
    for metric in ("nll", "crps", "miscalibration_area", "ence"):
        assert found[metric][0] == pytest.approx(expected[metric], rel=1e-9)
        assert found[metric][1] <= found[metric][0] * (1 + 1e-9) or found[metric][0] < 0
    assert found["coverage_68"][0] == pytest.approx(expected["coverage"]["0.68"])
    assert np.isnan(found["spearman"][0])  # a constant has no ranks
    assert found["auroc_ood"][0] == pytest.approx(0.5)
    assert table.scores["distance"].metrics["energy"]["auroc_ood"][0] > 0.7
    assert table.scores["distance"].atom_seconds > 0


def test_equal_sigmas_of_structures_of_any_size_are_equal():
    """They differed in the last digit, by which every structure of one set was below all of another."""
    sizes = np.arange(1, 300)
    values = _structure_values(np.full(sizes.sum(), 0.137), np.repeat(np.arange(299), sizes), 299)
    assert set(values) == {0.137}


def test_files_and_page(table, folder):
    content = json.loads((folder / "comparison.json").read_text())
    assert content["recommendation"] == table.recommendation
    rows = list(csv.DictReader((folder / "comparison.csv").read_text().splitlines()))
    assert [(row["quantity"], row["estimator"]) for row in rows] == [
        (name, estimator) for name in ("energy", "forces", "stress") for estimator in ("constant", "distance")
    ]
    assert float(rows[0]["nll"]) == table.scores["constant"].metrics["energy"]["nll"][0]
    text = (folder / "comparison.txt").read_text()
    assert text == f"{table}\n"
    assert table.recommendation in text
    run = load_run(folder)
    assert set(run.compared) >= {"distance:forces:sigma", "constant:energy:residuals"}
    page = write_report(folder).read_text()
    assert "Uncertainties compared" in page
    assert "Error against σ: force component, distance" in page


def test_recommendation_is_the_cheapest_of_the_best():
    def scores(nll: float, seconds: float) -> EstimatorScores:
        metrics = {"forces": dict.fromkeys(METRICS, (nll, nll - 0.1, nll + 0.1))}
        return EstimatorScores(metrics, 1.0, seconds, Comparison({}))

    every = {"constant": scores(1.0, 1e-6), "llpr": scores(0.2, 9e-5), "distance": scores(0.25, 1e-5)}
    levels = {"forces": 0.1}
    gaps = {"constant": (0.5, 1.0), "llpr": (0.0, 0.0), "distance": (-0.1, 0.2)}
    assert EstimatorTable(every, levels, {"forces": gaps}, 9).recommendation.startswith("Use distance:")
    clear = gaps | {"distance": (0.01, 0.2)}
    assert EstimatorTable(every, levels, {"forces": clear}, 9).recommendation.startswith("Use llpr:")
    none = gaps | {"constant": (-0.1, 1.0)}
    assert EstimatorTable(every, levels, {"forces": none}, 9).recommendation.startswith(
        "Use constant: no other"
    )


def test_refusals(copper_network, copper):
    sets = copper[:4], copper[4:6], copper[6:]
    with pytest.raises(ConfigError, match="llpq"):
        sf.uq_compare(copper_network, *sets, ["llpq"])
    with pytest.raises(ConfigError, match="nothing to compare"):
        sf.uq_compare(copper_network, *sets, [])
    with pytest.raises(ConfigError, match="LTAU needs the force errors"):
        sf.uq_compare(copper_network, *sets, ["ltau"], progress=False)
    with pytest.raises(PotentialError, match="no linear last layer"):
        sf.uq_compare(ZBL(["Cu"], 1.0, 2.0), *sets, ["distance"], progress=False)
