"""Torch models by the name of their last layer: a made-up module with the distances of neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list

import surefield as sf
from surefield.acquisition.select import default_selection
from surefield.errors import ConfigError, DataError, ExecutionError, PotentialError
from surefield.foreign import TorchLastLayer, TorchPotential, register_model
from surefield.scores import FIMPropertyScore, FIMTrainingSetScore
from surefield.selection import compute_features, create_feature_fn
from surefield.sensitivity import structure_rows
from surefield.testing import check_potential

torch = pytest.importorskip(
    "torch",
    reason="torch is missing: pip install torch (or pip install 'surefield[torch]')",
    exc_type=ImportError,
)

CUTOFF = 3.2


class Toy(torch.nn.Module):
    """Two rounds of messages over distances; `kind` spoils the readout in one way or another."""

    def __init__(self, kind="linear", width=6):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.kind = kind
        self.embed = torch.nn.Parameter(torch.zeros(20, width, dtype=torch.float64))
        self.mix = torch.nn.Linear(width, width, dtype=torch.float64)
        self.readout = torch.nn.Linear(width, 1, dtype=torch.float64)
        self.gate = torch.nn.Linear(width, 1, dtype=torch.float64)
        self.wide = torch.nn.Linear(width, width, dtype=torch.float64)
        self.unused = torch.nn.Linear(width, 1, dtype=torch.float64)
        for parameter in self.parameters():
            parameter.data = 0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)

    def forward(self, numbers, vectors, first, second):
        r = vectors.norm(dim=1, keepdim=True)
        centers = torch.linspace(1.0, CUTOFF, self.embed.shape[1], dtype=torch.float64)
        waves = torch.exp(-3.0 * (r - centers) ** 2) * (1 - (r / CUTOFF) ** 2).clamp(min=0) ** 3
        start = hidden = self.embed[numbers % 20]
        for _ in range(2):
            message = torch.zeros_like(hidden).index_add(0, first, hidden[second] * waves)
            hidden = torch.tanh(self.mix(message)) + 0.3 * start
        if self.kind == "nan":
            hidden = hidden / (hidden - hidden)
        out = self.readout(self.wide(hidden))
        if self.kind == "twice":
            out = out + self.readout(2.0 * self.wide(hidden))
        if self.kind == "gated":
            out = out * torch.sigmoid(self.gate(hidden))
        if self.kind == "bent":
            out = torch.nn.functional.silu(out)
        return (1.7 * out + self.embed[numbers % 20, :1]).sum()


def run(model):
    def energy(numbers, positions, cell):
        atoms = Atoms(numbers, positions.detach().numpy())
        if cell is not None:
            atoms.set_cell(cell.detach().numpy())
            atoms.pbc = True
        first, second, shifts = neighbor_list("ijS", atoms, CUTOFF)
        vectors = positions[second] - positions[first]
        if cell is not None:
            vectors = vectors + torch.as_tensor(shifts, dtype=cell.dtype) @ cell
        return model(torch.as_tensor(numbers), vectors, torch.as_tensor(first), torch.as_tensor(second))

    return energy


def toy(kind="linear", layer="readout", **options):
    model = Toy(kind)
    return TorchPotential(model, run(model), ["H", "C", "O", "Si"], CUTOFF, layer=layer, **options)


register_model("toy", lambda: toy(name="toy"))


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(1)
    cells = [bulk("Si"), molecule("H2O")]
    for atoms in cells:
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
    return cells


@pytest.fixture(scope="module")
def silicon_cells(silicon):
    """Cells of eight atoms with labels of a toy with other last weights: an exact answer exists."""
    truth = toy()
    weights = truth.readout + 0.3 * np.random.default_rng(0).normal(size=truth.readout.shape)
    truth = solved_with(truth, weights, -3.0)
    return labelled(silicon, truth.predict(silicon))


def labelled(cells, predictions, noise=0.0):
    """Copies of structures with predictions as labels."""
    copies = []
    for atoms, prediction in zip(cells, predictions, strict=True):
        copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        copy.info["REF_energy"] = prediction.energy + noise * np.sin(9 * atoms.positions.sum())
        copy.arrays["REF_forces"] = prediction.forces + noise * np.cos(9 * atoms.positions)
        copies.append(copy)
    return copies


def solved_with(potential, weights, offset):
    import equinox as eqx
    import jax.numpy as jnp

    return eqx.tree_at(
        lambda p: (p.readout, p.bias), potential, (jnp.asarray(weights), jnp.full(1, offset, jnp.float64))
    )


def test_contract_with_other_weights(frames):
    potential = toy(name="toy")
    check_potential(solved_with(potential, potential.readout + 0.5, 1.0), frames)


@pytest.mark.parametrize("kind", ["linear", "gated"])
def test_rows_are_derivatives_of_the_results_by_the_weights(kind, frames):
    potential = toy(kind)
    names = ("energy", "forces", "stress", "energies")
    rows = list(structure_rows(potential, [potential.neighborhood(f) for f in frames], names))
    step = np.random.default_rng(3).normal(size=potential.readout.shape)
    plain = potential.predict(frames)
    moved = solved_with(potential, potential.readout + step, 0.0).predict(frames)
    for row, before, after in zip(rows, plain, moved, strict=True):
        for name in row.values:
            change = (row[name] @ step[0]).reshape(np.shape(before[name]))
            np.testing.assert_allclose(after[name] - before[name], change, atol=1e-9)


def test_last_layer_is_solved_exactly_and_the_body_left_alone(silicon_cells):
    potential = toy()
    fit = sf.train(potential, silicon_cells, validation=0.25, progress=False)
    assert fit.validation_errors is not None
    assert isinstance(fit.potential, TorchPotential)
    assert fit.validation_errors.forces_rmse < 1e-4 < fit.train_errors.n_structures
    assert fit.history == ()
    assert fit.potential.engine is potential.engine


def test_fewer_labels_than_weights_are_told(silicon_cells, caplog):
    energies = [atoms.copy() for atoms in silicon_cells[:2]]
    for atoms in energies:
        del atoms.arrays["REF_forces"]
    fit = sf.train(toy(), energies, validation=0, progress=False)
    assert "2 labels for 6 weights of the last layer: at least 4 combinations" in caplog.text
    assert fit.train_errors.energy_rmse < 1e-4


def test_sigmas_select_and_calculator(silicon_cells):
    fit = sf.train(toy(), silicon_cells, validation=0.5, progress=False)
    noisy = labelled(silicon_cells, fit.potential.predict(silicon_cells), noise=0.01)
    sure = sf.LLPR.fit(fit.potential, noisy[:5], noisy[5:], progress=False)
    atoms = silicon_cells[0].copy()
    atoms.calc = sure.calculator(forces=True)
    assert np.isfinite(atoms.get_forces()).all()
    assert atoms.calc.results["forces_uncertainty"].shape == (len(atoms), 3)
    picks = sf.select(sure, silicon_cells[:2], silicon_cells[2:], n=3)
    assert len(set(picks)) == 3
    wild = atoms.copy()
    wild.rattle(0.3, seed=1)
    (known,), (far,) = (sure.predict([a]) for a in (atoms, wild))
    assert far.energy_uncertainty > known.energy_uncertainty


def test_hooks_alone_and_what_they_restore(frames):
    model = Toy().train()
    with TorchLastLayer(model, "auto") as layer:
        energy = run(model)(frames[1].numbers, torch.tensor(frames[1].positions), None)
        features = layer.features(len(frames[1]))
        assert not model.training
    assert layer.names() == ("readout",)
    assert model.training
    assert not model.readout._forward_hooks
    constant = len(features) * model.readout.bias.item() * 1.7
    own = model.embed[frames[1].numbers % 20, 0].sum().item()
    assert energy.item() == pytest.approx(1.7 * features.sum(0) @ layer.weights() + constant + own, abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "layer", "message"),
    [
        ("linear", "redout", r"no layer 'redout' with weights; did you mean 'readout'"),
        ("linear", "wide", "'wide' has several outputs"),
        ("linear", "unused", "'unused' was called not at all"),
        ("twice", "readout", "'readout' was called 2 times .* calls='concat'"),
        ("bent", "readout", "not linear in the layer readout"),
        ("nan", "readout", r"not finite in a structure of 2 atoms \(SiSi\)"),
    ],
)
def test_layers_that_cannot_serve(kind, layer, message):
    with pytest.raises(PotentialError, match=message):
        toy(kind, layer)


def test_structures_that_cannot_be_computed():
    slab = bulk("Si")
    slab.pbc = (True, True, False)
    with pytest.raises(DataError, match="three periodic directions"):
        toy().predict([slab])
    with pytest.raises(DataError, match="three periodic directions"):
        toy(molecules=False, probe=bulk("Si")).predict([molecule("H2O")])


def test_an_error_of_a_later_pass_comes_out_as_it_is(frames):
    potential = toy()
    potential.engine.model.kind = "nan"
    with pytest.raises(PotentialError, match="features of Toy are not finite"):
        potential.predict(frames[:1])


def test_a_file_knows_its_model_by_name_and_hash(tmp_path):
    potential = toy(name="toy")
    sf.save_potential(tmp_path / "p.npz", potential)
    assert isinstance(sf.load(tmp_path / "p.npz"), TorchPotential)
    with torch.no_grad():
        potential.engine.model.mix.weight[0, 0] += 1.0
    sf.save_potential(tmp_path / "q.npz", potential)
    with pytest.raises(PotentialError, match="not those that the file was made with"):
        sf.load(tmp_path / "q.npz")
    with pytest.raises(PotentialError, match="without a name"):
        sf.save_potential(tmp_path / "r.npz", toy())


def test_feature_maps(frames):
    """What is selected by: rows of the last layer, of energies and of forces."""
    potential = toy("gated")
    around = [potential.neighborhood(atoms) for atoms in frames]
    rows = list(structure_rows(potential, around))
    features = compute_features(create_feature_fn(potential, None, {}), frames)
    np.testing.assert_allclose(features[:, :-1], [row.energy for row in rows], rtol=1e-10)
    np.testing.assert_array_equal(features[:, -1], [len(atoms) for atoms in frames])
    gram = compute_features(
        create_feature_fn(potential, None, {"name": "ll_force_feat", "strategy": "gram"}), frames
    )
    upper = np.triu_indices(features.shape[1] - 1)
    factor = np.where(upper[0] == upper[1], 1.0, np.sqrt(2))
    expected = [(row.forces.T @ row.forces)[upper] * factor for row in rows]
    np.testing.assert_allclose(gram, expected, rtol=1e-9, atol=1e-12)
    # Rows of forces take a pass back for each weight: they are there when asked for, and no default.
    assert default_selection(potential) == ("lcmd", "full_grad_rp")


def test_gradients_by_all_parameters(frames):
    model = Toy()
    potential = TorchPotential(model, run(model), ["H", "C", "O", "Si"], CUTOFF, layer="readout")
    options = {"name": "full_grad_rp", "sketch": "none"}
    rows = compute_features(create_feature_fn(potential, None, options), frames)
    named = sorted(model.named_parameters())
    assert rows.shape == (2, sum(parameter.numel() for _, parameter in named))
    direction = np.random.default_rng(0).normal(size=rows.shape[1])

    def cell_of(atoms):
        return torch.as_tensor(atoms.cell.array) if atoms.pbc.all() else None

    def energies(step):
        moved = Toy()
        start = 0
        for _, parameter in sorted(moved.named_parameters()):
            part = direction[start : start + parameter.numel()].reshape(parameter.shape)
            parameter.data += step * torch.as_tensor(part)
            start += parameter.numel()
        energy = run(moved)
        values = [energy(a.numbers, torch.as_tensor(a.positions), cell_of(a)) for a in frames]
        return np.array([float(value.detach()) for value in values])

    np.testing.assert_allclose(rows @ direction, (energies(1e-5) - energies(-1e-5)) / 2e-5, rtol=1e-6)
    again = compute_features(create_feature_fn(potential, None, options), frames[::-1])
    np.testing.assert_allclose(again, rows[::-1], rtol=1e-12)


@pytest.mark.parametrize("kind", ["linear", "gated"])
@pytest.mark.parametrize("name", ["energy", "forces"])
def test_information_about_the_last_layer(kind, name, frames):
    """The general route of rows: exact, as by differences, about weights alone or with the constant."""
    potential, score = toy(kind), FIMTrainingSetScore()
    asked = {"compute_energy": name == "energy", "compute_forces": name == "forces"}
    rows = structure_rows(potential, [potential.neighborhood(f) for f in frames], (name,))
    expected = [np.atleast_2d(row[name]).T @ np.atleast_2d(row[name]) for row in rows]
    options = {"evaluate_kwargs": asked, "parameters_optimize": "last_layer"}
    exact = score.compute_batch(frames, score.quantity, potential, **options)
    np.testing.assert_allclose(exact, expected, rtol=1e-12, atol=1e-14)
    assert [entry["parameter"] for entry in score.fim_index_to_parameter.values()] == ["last_layer"] * 6
    steps = score.compute_batch(
        frames, score.quantity, potential, derivative_kwargs={"method": "central"}, **options
    )
    np.testing.assert_allclose(steps, exact, rtol=1e-8, atol=1e-10)
    whole = score.compute_batch(frames, score.quantity, potential, evaluate_kwargs=asked)
    np.testing.assert_allclose([fim[:6, :6] for fim in whole], exact, rtol=1e-12, atol=1e-14)
    sizes = [len(atoms) ** 2 if name == "energy" else 0 for atoms in frames]
    np.testing.assert_allclose([fim[6, 6] for fim in whole], sizes)


def test_information_of_properties_and_what_cannot_be(frames):
    potential, score = toy(), FIMPropertyScore()

    def energy(changed):
        return changed.predict([frames[1]])[0].energy

    options = {"cov": np.eye(1), "potential": potential, "parameters_optimize": "last_layer"}
    fim = score.compute(energy, score.quantity, **options)
    (row,) = structure_rows(potential, [potential.neighborhood(frames[1])], ("energy",))
    np.testing.assert_allclose(fim, np.outer(row.energy, row.energy), rtol=1e-7, atol=1e-9)
    with pytest.raises(ConfigError, match=r"cannot be differentiated by JAX: .*'method': 'CD'"):
        score.compute(energy, score.quantity, derivative_kwargs={"method": "autodiff"}, **options)
    training = FIMTrainingSetScore()
    with pytest.raises(ExecutionError, match=r"cannot be sent to another process: .*nprocs=1"):
        training.compute_batch(frames, training.quantity, potential, nprocs=2)
