"""Replays on made-up data whose outcome is known, and on two public sets."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from tests.copper import copper

import surefield as sf
from surefield.acquisition.replay import replay, ridge_errors
from surefield.errors import ConfigError, DataError
from surefield.potentials.snap.snap import Snap, SnapConfig
from surefield.selection.replay_result import Replay, error_summary


@pytest.fixture(scope="module")
def crowd():
    """Dimers, most of one length and a few far from it, with the energy (r − 1)² r."""
    rng = np.random.default_rng(0)
    lengths = np.concatenate([1.0 + 0.01 * rng.normal(size=100), np.linspace(0.7, 2.0, 30)])
    rng.shuffle(lengths)
    frames = []
    for length in lengths:
        atoms = Atoms("H2", positions=[[0, 0, 0], [length, 0, 0]])
        atoms.calc = SinglePointCalculator(atoms, energy=2 * (length - 1) ** 2 * length)
        atoms.info["config_type"] = "rare" if abs(length - 1) > 0.05 else "common"
        frames.append(atoms)
    return frames


def powers(frames):
    lengths = np.array([atoms.get_distance(0, 1) for atoms in frames])
    return 2 * lengths[:, None] ** np.arange(1, 6)


PLAN = {"n_init": 5, "batch_size": 4, "n_rounds": 3, "features": powers}


def nearest_energy(train, test, seed):
    """A learner that knows its neighbours only: far ones are needed."""
    known = np.array([atoms.get_distance(0, 1) for atoms in train])
    energies = np.array([atoms.get_potential_energy() for atoms in train]) / 2
    errors = []
    for atoms in test:
        place = np.argmin(np.abs(known - atoms.get_distance(0, 1)))
        errors.append(energies[place] - atoms.get_potential_energy() / 2)
    return {"energy": errors, "forces": [np.full(6, error) for error in errors]}


def test_structures_of_their_own_to_test_on(crowd):
    seen, held = [], crowd[100:]
    lengths_held = np.array([atoms.get_distance(0, 1) for atoms in held])
    pool = [a for a in crowd[:100] if np.abs(lengths_held - a.get_distance(0, 1)).min() > 1e-4]

    def learner(train, test, seed):
        seen.append([atoms.get_distance(0, 1) for atoms in test])
        assert not {atoms.get_distance(0, 1) for atoms in train} & {*seen[-1]}
        return nearest_energy(train, test, seed)

    result = replay(pool, ["max_dist"], learner=learner, test=held, **PLAN)
    expected = [atoms.get_distance(0, 1) for atoms in held]
    assert all(lengths == expected for lengths in seen)
    assert all(index < len(pool) for picks in result.picks["max_dist"] for index in picks)
    assert len({tuple(picks) for picks in result.picks["random"]}) == 5
    assert result.config["test_fraction"] is None
    shared = [*pool, held[3].copy()]
    shared[-1].calc = held[3].calc
    with pytest.raises(DataError, match=r"1 structures are copies of test structures.*a copy of frame 3"):
        replay(shared, ["max_dist"], learner=learner, test=held, **PLAN)


def test_methods_share_test_set_and_first_labels_and_random_takes_part(crowd):
    result = replay(crowd, ["max_dist", "lcmd"], learner=nearest_energy, groups="config_type", **PLAN)
    assert result.methods == ("max_dist", "lcmd", "random")
    assert result.labels["lcmd"].tolist() == [[5, 9, 13, 17]] * 5
    for error in ("mae", "rmse", "q95", "q99", "max"):
        first = [result.errors["energy"][error][name][:, 0] for name in result.methods]
        np.testing.assert_array_equal(first[0], first[2])
    again = replay(crowd, ["lcmd"], learner=nearest_energy, groups="config_type", **PLAN)
    np.testing.assert_array_equal(
        again.errors["energy"]["mae"]["lcmd"], result.errors["energy"]["mae"]["lcmd"]
    )
    assert again.picks["random"] == result.picks["random"]


def test_what_is_clearly_better_is_called_so(crowd):
    result = replay(crowd, ["max_dist", "max_diag"], learner=nearest_energy, seeds=6, **PLAN)
    far = result.verdict("max_dist", "energy", "max")
    assert far.words == "better than random"
    assert far.interval[0] <= far.difference <= far.interval[1] < 0
    assert far.labels_of_random > far.labels
    assert "better than random" in str(far)
    assert "forces" in result.errors
    table = str(result)
    assert table.count("\n") == 2 * 6 * 2 + 2 * 2  # verdicts, and a headline of each method and quantity
    share = result.share("max_dist", "energy", "max")
    assert share.fraction < 1
    assert len(share.per_seed) == 6
    headline = result.headlines()["energy, max_dist"]
    assert headline.startswith("max_dist ")
    assert "energy MAE" in headline
    assert headline in table
    assert headline == result.to_dict()["headlines"]["energy, max_dist"]
    with pytest.raises(ConfigError, match="'max_dust' was not replayed: did you mean 'max_dist'"):
        result.share("max_dust")
    assert json.loads(json.dumps(result.to_dict()))["verdicts"][0]["method"] == "max_dist"
    overlap = result.overlap()
    assert set(overlap["methods"]) == {"max_dist, max_diag", "max_dist, random", "max_diag, random"}
    assert 0 <= overlap["seeds"]["max_dist"] <= 1


def made(differences, n_rounds=3):
    """A replay whose method has given log errors relative to random."""
    seeds = len(differences)
    random = np.ones((seeds, n_rounds + 1)) * np.linspace(1.0, 0.4, n_rounds + 1)
    ours = random * np.exp(
        np.c_[np.zeros(seeds), np.repeat(np.array(differences)[:, None], n_rounds, axis=1)]
    )
    labels = np.tile([10, 20, 30, 40][: n_rounds + 1], (seeds, 1))
    return Replay(
        ("new", "random"),
        tuple(range(seeds)),
        {"new": labels, "random": labels},
        {"new": labels * 1.0, "random": labels * 1.0},
        {"energy": {"mae": {"new": ours, "random": random}}},
        {},
        {"new": [[1, 2]] * seeds, "random": [[2, 3]] * seeds},
    )


def test_verdicts_follow_the_interval():
    better = made([-0.1, -0.2, -0.3]).verdict("new", "energy", "mae")
    assert better.difference == pytest.approx(-0.2)
    # With three seeds the extreme resamples, all the same seed, have a chance of 1/27 each.
    assert better.interval == pytest.approx((-0.3, -0.1))
    assert better.words == "better than random"
    assert better.labels_of_random == float("inf")
    worse = made([0.1, 0.2, 0.3]).verdict("new", "energy", "mae")
    assert worse.words == "worse than random"
    assert worse.labels_of_random == pytest.approx(30 + 10 * (0.6 - 0.4 * np.exp(0.2)) / 0.2)
    assert made([-0.1, 0.1, -0.3]).verdict("new", "energy", "mae").words == "no difference shown"
    assert made([-0.1, 0.1, -0.3]).overlap()["methods"]["new, random"] == pytest.approx(1 / 3)
    mean, error = made([-0.1, -0.2, -0.3]).curve("energy", "mae", "new")
    np.testing.assert_allclose(mean[0], 0.0, atol=1e-15)
    assert error[1] == pytest.approx(0.1 / np.sqrt(3))
    with pytest.raises(ConfigError, match="'ne' was not replayed: did you mean 'new'"):
        made([0.0, 0.0, 0.0]).verdict("ne", "energy", "mae")
    with pytest.raises(ConfigError, match="unknown error 'rms'"):
        made([0.0, 0.0, 0.0]).verdict("new", "energy", "rms")
    with pytest.raises(ConfigError, match="no errors of 'force'"):
        made([0.0, 0.0, 0.0]).verdict("new", "force", "mae")


def test_errors_of_residuals():
    errors = error_summary([np.arange(-100, 0) / 100, [[0.0]], np.arange(1, 101) / 100])
    assert errors["max"] == 1.0
    assert errors["worst"] == pytest.approx(np.sqrt(np.mean(np.square(np.arange(1, 101)))) / 100)
    assert errors["mae"] == pytest.approx(np.mean(np.abs(np.arange(-100, 101))) / 100)
    assert 0.94 < errors["q95"] < 0.96
    assert 0.98 < errors["q99"] <= 1.0


def test_groups_are_not_split(crowd):
    groups = np.arange(130) // 13
    group_of = {atoms.get_distance(0, 1): group for atoms, group in zip(crowd, groups, strict=True)}
    seen = []

    def learner(train, test, seed):
        of = [{group_of[atoms.get_distance(0, 1)] for atoms in frames} for frames in (train, test)]
        seen.append(of)
        return {"energy": np.ones(len(test))}

    result = replay(crowd, [], learner=learner, groups=groups, **PLAN)
    assert all(not train & test for train, test in seen)
    assert all(len(test) == 2 for _, test in seen)
    tested = {str(group) for _, test in seen for group in test}
    assert set(result.group_errors["energy"]) == tested
    for errors in result.group_errors["energy"].values():
        assert set(errors) == {"mae", "rmse", "q95", "worst"}
        values = errors["worst"]["random"]
        assert values.shape == (5,)
        assert np.all(np.isnan(values) | (values == 1.0))  # NaN in seeds that do not test the group


def test_cost_adds_up(crowd):
    result = replay(crowd, ["lcmd"], cost=lambda atoms: 2.5, **PLAN)
    np.testing.assert_allclose(result.costs["lcmd"], 2.5 * result.labels["lcmd"])


def test_ridge_regression_finds_what_is_linear():
    rng = np.random.default_rng(1)
    rows, share = rng.normal(size=(80, 6)), rng.uniform(size=80)
    composition = np.stack([share, 1 - share], axis=1)
    energies = composition @ [-3.0, -7.0] + 0.3 * rows @ rng.normal(size=6)
    known, test = np.arange(50), np.arange(50, 80)
    errors = ridge_errors(rows, composition, energies, known, test)
    assert np.abs(errors).max() < 1e-8
    # Pure noise is not fitted: the ridge is large.
    noise = rng.normal(size=80)
    errors = ridge_errors(
        rng.normal(size=(80, 40)), np.ones((80, 1)), noise, np.arange(50), np.arange(50, 80)
    )
    assert np.std(errors) < 1.4 * np.std(noise[50:])
    constant = ridge_errors(np.ones((80, 2)), np.ones((80, 1)), noise, known, test)
    np.testing.assert_allclose(constant, noise[50:] - noise[:50].mean())


@pytest.mark.parametrize("name", ["Ta/train.xyz.xz", "mlearn/Si_train.xyz.xz"])
def test_public_sets(shared, name, capsys):
    """The verdicts are printed, not asserted: the order of methods is not settled."""
    frames = sf.read_frames(shared / "data" / name)
    result = sf.replay(frames, ["lcmd", "max_dist"], n_init=20, batch_size=20, n_rounds=4, seeds=3)
    with capsys.disabled():
        print(f"\n{name}\n{result}")
    assert result.labels["random"][0].tolist() == [20, 40, 60, 80, 100]
    assert {v.words for v in result.verdicts()} <= {
        "better than random",
        "worse than random",
        "no difference shown",
    }
    assert all(np.isfinite(result.errors["energy"]["mae"][m]).all() for m in result.methods)
    # The learner learns.
    curve = result.errors["energy"]["mae"]["random"].mean(axis=0)
    assert curve[-1] < curve[0]


def test_a_potential_can_be_the_learner():
    """SNAP is solved exactly in every round, and has errors of forces, too."""
    plan = {"n_init": 5, "batch_size": 3, "n_rounds": 1, "seeds": 3, "groups": [*"aaabbbcccdddeeee"]}
    potential = Snap.from_settings(SnapConfig(cutoff=3.6, twojmax=2), ["Cu"])
    result = replay(
        copper(16, strain=0.03),
        ["max_dist"],
        learner="train",
        potential=potential,
        test_fraction=0.25,
        **plan,
    )
    assert set(result.errors) == {"energy", "forces"}
    assert result.errors["forces"]["rmse"]["max_dist"].shape == (3, 2)
    assert 0 < result.errors["forces"]["rmse"]["random"].max() < 1.0
    assert set(result.group_errors["forces"]) <= set("abcde")


def test_features_from_a_file_or_an_array(crowd, tmp_path):
    plan = {**PLAN, "seeds": 3}
    expected = replay(crowd, ["lcmd"], **plan)
    np.save(tmp_path / "rows.npy", powers(crowd))
    np.savez(tmp_path / "rows.npz", rows=powers(crowd))
    for features in (powers(crowd), tmp_path / "rows.npy", str(tmp_path / "rows.npz")):
        result = replay(crowd, ["lcmd"], **{**plan, "features": features})
        assert result.picks == expected.picks


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"seeds": 2}, ConfigError, "cannot tell a gain from chance; got seeds=2; expected at least 3"),
        ({"methods": ["lcdm"]}, ConfigError, "unknown selection method 'lcdm': did you mean 'lcmd'"),
        ({"learner": "rigde"}, ConfigError, "unknown learner 'rigde': did you mean 'ridge'"),
        ({"n_rounds": 40}, ConfigError, "the replay wants more labels than there are"),
        ({"test_fraction": 1.0}, ConfigError, "test_fraction out of range"),
        ({"features": "ll_gard"}, ConfigError, "unknown features 'll_gard'"),
        ({"features": np.ones((3, 2))}, DataError, "one row per structure; got 3; expected 130"),
        ({"features": "rows.npy"}, DataError, "no file of features"),
        ({"groups": "phase"}, DataError, "no entry 'phase' in info"),
        ({"groups": [0]}, DataError, "one label per structure; got 1"),
        ({"groups": [0] * 130}, DataError, "no pool is left beside test set"),
        ({"cost": [1.0]}, DataError, "one value per pool row"),
    ],
)
def test_bad_input(crowd, change, error, message):
    with pytest.raises(error, match=message):
        replay(**{"frames": crowd, "methods": ["lcmd"], **PLAN, **change})
