"""What do sigmas cost beside the prediction? `python benchmarks/sigma_cost.py [--structures 500]`.

Moment networks with all defaults around which an LLPR was fitted: rattled icosahedra of 13 copper atoms, 64
silicon atoms, and molecules of 27 atoms of four elements (3BPA, where ../shared has it). Processor time per
structure, warm, one thread: energies and forces alone, with the sigma of the energy and of every atom, with
those of the forces too; the rows of the forces; and their bare products with the factor of the posterior,
without which no exact sigma of a force can be had. Then single steps of the ASE calculator with new
positions. Fails where force sigmas of 5,000 copper clusters would take more than 30 s.

Then what rows cost that a posterior is made of: those of the energies of 10,000 copper atoms with 128
features, summed into the covariance, beyond the forward passes (fails above 1 s); and those of the forces of
one structure in passes back through the potential (fails above 1.5 for each feature). A pass back is what
forces take beyond energies.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}

import equinox as eqx
import jax
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.cluster import Icosahedron
from jaxtyping import Array

from surefield import LLPR, MessageNetwork, MomentNetwork
from surefield.formats.kim_models import MODELS
from surefield.potentials.parametric import StillingerWeber
from surefield.potentials.potential import Potential
from surefield.sensitivity.covariance import RowCovariance
from surefield.sensitivity.rows import ATOMS_AT_ONCE, structure_rows
from surefield.structures.batching import streamed_batches
from surefield.structures.graph import Graph, collate, edge_forces
from surefield.structures.read import read_frames
from surefield.training.train import train

MOLECULES = Path(__file__).resolve().parents[2] / "shared" / "data" / "3bpa" / "train_300K.xyz.xz"
#: Seconds for the force sigmas of so many clusters.
MOST, CLUSTERS = 30.0, 5000
#: Seconds for the covariance of the energies of so many atoms; passes back for each feature of force rows.
MOST_COVARIANCE, ATOMS, MOST_PASSES = 1.0, 10_000, 1.5


def rattled(base: Atoms, n: int, amplitude: float, label: Callable[[Atoms], Atoms]) -> list[Atoms]:
    """Copies with Gaussian displacements, labelled."""
    frames = []
    for seed in range(n):
        atoms = base.copy()
        atoms.rattle(amplitude, seed=seed)
        frames.append(label(atoms))
    return frames


def by_emt(atoms: Atoms) -> Atoms:
    """With energy and forces of effective medium theory."""
    worker = atoms.copy()
    worker.calc = EMT()
    labels = {"energy": worker.get_potential_energy(), "forces": worker.get_forces()}
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def by_stillinger_weber(atoms: Atoms) -> Atoms:
    """With energy and forces of Stillinger and Weber's silicon."""
    values = MODELS["SW_StillingerWeber_1985_Si"].values
    potential = StillingerWeber(values, ["Si"])  # type: ignore[call-arg]
    prediction = potential.predict([atoms])[0]
    atoms.calc = SinglePointCalculator(atoms, energy=prediction.energy, forces=prediction.forces)
    return atoms


def spent(call: Callable[[], object], repeats: int = 3) -> float:
    """Least processor seconds of some calls after the first."""
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def measure(name: str, frames: list[Atoms], n: int) -> float:
    """Print the row of a data set; the milliseconds of its force sigmas."""
    species = sorted({symbol for atoms in frames for symbol in atoms.get_chemical_symbols()})
    fit = train(MomentNetwork(species), frames[:48], frames[48:64], epochs=0, progress=False)
    sure = LLPR.fit(fit.potential, frames[:48], frames[48:64], row_kinds=("energy", "forces"), progress=False)
    pool = [atoms.copy() for atoms in (frames * (n // len(frames) + 1))[:n]]
    layer = sure.last_layer()
    structures = [layer.neighborhood(atoms) for atoms in pool]
    rows = [g.forces for g in structure_rows(layer, structures[:16], ("forces",))]
    times = {
        "alone": spent(lambda: fit.potential.predict(pool)),
        "atoms": spent(lambda: sure.predict(pool, per_atom=True)),
        "forces": spent(lambda: sure.predict(pool, forces=True)),
        "rows": spent(lambda: list(structure_rows(layer, structures, ("forces",)))),
        "products": spent(lambda: [g @ sure.posterior.factor for g in rows if g is not None]) * n / len(rows),
    }
    calculators = {
        "step alone": fit.potential.calculator(extrapolation="ignore"),
        "step, atoms": sure.calculator(max_sigma=None, extrapolation="ignore"),
        "step, forces": sure.calculator(max_sigma=None, forces_every=1, extrapolation="ignore"),
    }
    for step, calculator in calculators.items():

        def steps(calculator=calculator) -> None:
            for atoms in pool[:16]:
                calculator.calculate(atoms, ["energy", "forces"])

        times[step] = spent(steps) * n / len(pool[:16])
    each = {key: 1e3 * value / n for key, value in times.items()}
    print(f"| {name}, {layer.n_features} features | " + " | ".join(f"{x:.2f}" for x in each.values()) + " |")
    return each["forces"]


@eqx.filter_jit
def energies(potential: Potential, graph: Graph) -> Array:
    """Energies of atoms: a forward pass."""
    return potential.site_energies(graph)


@eqx.filter_jit
def forces(potential: Potential, graph: Graph) -> Array:
    """Forces: a forward pass, and one back."""

    def energy(vectors: Array) -> Array:
        return potential.site_energies(eqx.tree_at(lambda g: g.vectors, graph, vectors)).sum()

    return edge_forces(jax.grad(energy)(graph.vectors), graph)


def covariance(clusters: list[Atoms]) -> float:
    """Seconds for the covariance of the energies of many atoms beyond their forward passes."""
    network = MomentNetwork(["Cu"], n_channels=4, n_triple=2, hidden=(64, 60))
    fit = train(network, clusters[:48], clusters[48:64], epochs=0, progress=False)
    potential = fit.potential.last_layer()
    d, n = potential.n_features, ATOMS // len(clusters[0]) + 1
    structures = [potential.neighborhood(clusters[i % len(clusters)]) for i in range(n)]

    def summed() -> None:
        sums = RowCovariance(d)
        for rows in structure_rows(potential, structures, ("energy",)):
            sums.add(rows.energy[None] / rows.n_atoms, "energy")

    def forward() -> None:
        for _, graph in streamed_batches(structures, ATOMS_AT_ONCE, potential.dtype):
            energies(potential, graph).block_until_ready()

    alone, whole = spent(forward), spent(summed)
    print(f"| {n} copper clusters, {d} features | {alone:.3f} | {whole:.3f} | {whole - alone:.3f} |")
    return whole - alone


def passes(name: str, network: Potential, frames: list[Atoms]) -> float:
    """Passes back, for each feature, that the force rows of a structure take."""
    fit = train(network, frames[:24], frames[24:32], epochs=0, progress=False)
    potential = fit.potential.last_layer()
    structure = potential.neighborhood(frames[0])
    graph = jax.device_put(collate([structure], dtype=potential.dtype))
    alone, both = (spent(lambda f=f: f(potential, graph).block_until_ready(), 50) for f in (energies, forces))
    rows = spent(lambda: list(structure_rows(potential, [structure], ("forces",))), 5)
    share = rows / (both - alone) / potential.n_features
    each = " | ".join(f"{1e3 * x:.2f}" for x in (alone, both - alone, rows))
    print(f"| {name}, {potential.n_features} features | {each} | {share:.2f} |")
    return share


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--structures", type=int, default=500, help="copper clusters; of others a tenth")
    n = parser.parse_args().structures
    print("| ms | alone | + energy, atoms | + forces | rows | products | step | + atoms | + forces |")
    print("|---|---|---|---|---|---|---|---|---|")
    cluster = Icosahedron("Cu", 2)
    cluster.pbc = False
    of_clusters = measure("13 copper atoms", rattled(cluster, 80, 0.1, by_emt), n)
    silicon = bulk("Si", cubic=True).repeat(2)
    measure("64 silicon atoms", rattled(silicon, 64, 0.1, by_stillinger_weber), max(n // 10, 16))
    if MOLECULES.exists():
        measure("27 atoms, 4 elements", list(read_frames(MOLECULES)[:80]), max(n // 10, 16))
    seconds = of_clusters * CLUSTERS / 1e3
    print(f"force sigmas of {CLUSTERS} clusters: {seconds:.1f} s, bar {MOST:.0f} s")
    print("| s | forward | rows and covariance | beyond |\n|---|---|---|---|")
    beyond = covariance(rattled(cluster, 80, 0.1, by_emt))
    print("| ms | forward | back | force rows | passes for each feature |\n|---|---|---|---|---|")
    cells = rattled(silicon, 32, 0.1, by_stillinger_weber)
    networks = {"moment": MomentNetwork(["Si"]), "message": MessageNetwork(["Si"])}
    shares = [passes(f"64 silicon atoms, {kind} network", own, cells) for kind, own in networks.items()]
    print(f"bars: {MOST_COVARIANCE} s, {MOST_PASSES} passes")
    sys.exit(seconds > MOST or beyond > MOST_COVARIANCE or max(shares) > MOST_PASSES)


if __name__ == "__main__":
    main()
