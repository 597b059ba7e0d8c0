"""Time of one force-training step, JAX against eager PyTorch: `python benchmarks/train_step.py`.

8 rattled supercells of 48 Cu atoms with energies and forces of EMT, defaults of `MomentNetwork` and
`TrainConfig`, float32. Both sides do the same arithmetic from the same weights, which is checked before
anything is timed: loss on energies and forces, its gradient with respect to all parameters, clipping, AdamW,
average of the weights. The two are timed in turn, so that other load on the machine meets both. Without
PyTorch only JAX is timed.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import statistics
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT

from surefield.potentials import MomentNetwork
from surefield.potentials.evaluate import evaluate_jit
from surefield.potentials.potential import TrainingData, trainable
from surefield.structures.batching import plan_shapes
from surefield.training.config import TrainConfig
from surefield.training.dataset import Batch, make_batch, prepare
from surefield.training.gradient import initial_state, step_settings, train_step

try:
    import torch
except ImportError:
    torch = None

N_STRUCTURES, SUPERCELL, RATTLE, CUTOFF = 8, (2, 2, 3), 0.1, 5.0
RATE = 1e-3
#: Largest difference that counts as rounding of float32, relative to the largest value.
TOLERANCE = 1e-4
CHECKED_STEPS = 3
#: Steps of one side in a row: the first ones are not timed.
WARM_STEPS, TURN = 3, 5


def make_problem() -> tuple[MomentNetwork, Batch]:
    """Standardised potential with a readout that lets every weight matter, and the batch."""
    frames = []
    for seed in range(N_STRUCTURES):
        atoms = bulk("Cu", cubic=True) * SUPERCELL
        atoms.rattle(RATTLE, seed=seed)
        atoms.calc = EMT()
        atoms.get_forces()
        frames.append(atoms)
    potential = MomentNetwork(species=["Cu"], cutoff=CUTOFF)
    data = prepare(frames, potential.cutoff)
    rng = np.random.default_rng(0)
    energies = [s.labels.energy for s in data.samples]
    mean = float(np.mean([s.labels.energy / s.structure.n_atoms for s in data.samples]))
    potential = potential.prepared(TrainingData(data.structures, energies, {potential.species[0]: mean}))
    readout = jnp.asarray(0.02 * rng.standard_normal(potential.readout.shape), potential.dtype)
    potential = eqx.tree_at(lambda p: p.readout, potential, readout)
    ((shape, _),) = plan_shapes(data.structures, N_STRUCTURES)  # structures of one size: no padding atoms
    return potential, jax.device_put(make_batch(data.samples, shape, potential.dtype))


class JaxSide:
    """The step that `train` takes."""

    name = "surefield (JAX)"

    def __init__(self, potential: MomentNetwork, batch: Batch, config: TrainConfig) -> None:
        state = initial_state(potential, config)
        self.moving = (state.parameters, state.optimizer, state.average)
        self.fixed = eqx.filter(potential, trainable(potential), inverse=True)
        self.batch, self.settings = batch, step_settings(config, potential)

    def step(self) -> float:
        """One step; the loss before it."""
        *self.moving, value = train_step(
            self.batch, *self.moving, self.fixed, jnp.asarray(RATE), jnp.asarray(0.99), self.settings
        )
        jax.block_until_ready(self.moving)
        return float(value)


if torch is not None:
    INDICES = [list(itertools.combinations_with_replacement(range(3), rank)) for rank in range(4)]
    COUNTS = [
        [math.factorial(len(i)) / math.prod(math.factorial(i.count(axis)) for axis in range(3)) for i in rank]
        for rank in INDICES
    ]
    RANKS = [slice(0, 1), slice(1, 4), slice(4, 10), slice(10, 20)]

    class EdgeForces(torch.autograd.Function):
        """Forces from dE/d(vectors), by look-up both forwards and backwards, as in the package."""

        @staticmethod
        def forward(ctx, gradient, neighbors, reverse):
            ctx.save_for_backward(neighbors)
            back = gradient.flatten(1).index_select(1, reverse).view_as(gradient)
            return (gradient - back).sum(-1)

        @staticmethod
        def backward(ctx, forces):
            (neighbors,) = ctx.saved_tensors
            back = forces.index_select(1, neighbors.flatten()).view(3, *neighbors.shape)
            return forces[..., None] - back, None, None

    class Stack(torch.autograd.Function):
        """Stack on axis 1; the second backward pass of `torch.stack` fills many arrays with zeros."""

        @staticmethod
        def forward(ctx, *parts):
            return torch.stack(parts, 1)

        @staticmethod
        def backward(ctx, gradient):
            return Unstack.apply(gradient)

    class Unstack(torch.autograd.Function):
        """Inverse of `Stack`."""

        @staticmethod
        def forward(ctx, stacked):
            return tuple(part.clone() for part in stacked.unbind(1))

        @staticmethod
        def backward(ctx, *gradients):
            return Stack.apply(*gradients)

    class BesselBasis(torch.autograd.Function):
        """Bessel functions (n_atoms, n_basis, n_neighbors) whose slope is made once, in closed form."""

        @staticmethod
        def forward(ctx, r, cutoff, n_basis):
            order = (math.pi / cutoff) * torch.arange(1, n_basis + 1, dtype=r.dtype)[:, None]
            x = (r / cutoff).clamp(max=1.0)
            x2 = x * x
            cut = 1 + x2 * x2 * (-15 + x * (24 - 10 * x))
            cut_slope = x2 * x * (-60 + x * (120 - 60 * x)) / cutoff
            envelope = math.sqrt(2 / cutoff) * cut / r
            slope = (math.sqrt(2 / cutoff) * cut_slope - envelope) / r
            argument = order * (x * cutoff)[:, None]
            sine = torch.sin(argument)
            ctx.save_for_backward(sine * slope[:, None] + order * torch.cos(argument) * envelope[:, None])
            return sine * envelope[:, None]

        @staticmethod
        def backward(ctx, gradient):
            (derivative,) = ctx.saved_tensors
            return (gradient * derivative).sum(1), None, None

    class TorchNetwork(torch.nn.Module):
        """`MomentNetwork` of one element; vectors are (3, n_atoms, n_neighbors): contiguous components.

        `tuned`: Bessel functions with closed slopes, mixed after the sum over neighbours, as in the package.
        """

        def __init__(self, potential: MomentNetwork, tuned: bool) -> None:
            super().__init__()
            self.tuned, self.stack = tuned, Stack.apply if tuned else lambda *parts: torch.stack(parts, 1)

            def parameter(array: jax.Array) -> torch.nn.Parameter:
                return torch.nn.Parameter(torch.tensor(np.asarray(array)))

            width = potential.n_invariants
            self.cutoff, self.n_basis, self.n_triple = potential.cutoff, potential.n_basis, potential.n_triple
            self.radial = parameter(potential.radial[0, 0])
            self.weights = torch.nn.ParameterList(parameter(w) for w in potential.weights)
            self.biases = torch.nn.ParameterList(parameter(b[0]) for b in potential.biases)
            self.solved = parameter(potential.readout[0, :width])
            self.readout = parameter(potential.readout[0, width:])
            self.bias = parameter(potential.bias)
            self.register_buffer("shift", torch.tensor(np.asarray(potential.shift[0])))
            self.register_buffer("scale", torch.tensor(np.asarray(potential.scale[0])))
            roots = torch.tensor([math.sqrt(c) for rank in COUNTS for c in rank], dtype=self.radial.dtype)
            self.register_buffer("roots", roots)
            n_channels = len(self.radial)
            self._pick("pairs", torch.triu_indices(n_channels, n_channels), n_channels)
            self._pick("few_pairs", torch.triu_indices(self.n_triple, self.n_triple), self.n_triple)
            triples = list(itertools.combinations_with_replacement(range(self.n_triple), 3))
            self._pick("triples", torch.tensor(triples).T, self.n_triple)
            for rank in (2, 3):
                full = itertools.product(range(3), repeat=rank)
                places = torch.tensor([INDICES[rank].index(tuple(sorted(index))) for index in full])
                self.register_buffer(f"places{rank}", places)

        def _pick(self, name: str, indices: torch.Tensor, size: int) -> None:
            flat = indices[0]
            for row in indices[1:]:
                flat = flat * size + row
            self.register_buffer(name, flat)

        def _basis(self, r: torch.Tensor) -> torch.Tensor:
            x = (r / self.cutoff).clamp(max=1.0)
            x2 = x * x
            cut = 1 + x2 * x2 * (-15 + x * (24 - 10 * x))
            sine, twice = torch.sin(math.pi * x), 2 * torch.cos(math.pi * x)
            terms = [sine, twice * sine]
            while len(terms) < self.n_basis:
                terms.append(twice * terms[-1] - terms[-2])
            return self.stack(*terms) * (math.sqrt(2 / self.cutoff) * cut / r)[:, None]

        def _angular(self, unit: torch.Tensor) -> torch.Tensor:
            x, y, z = unit
            xx, xy, xz, yy, yz, zz = x * x, x * y, x * z, y * y, y * z, z * z
            cubes = [xx * x, xx * y, xx * z, yy * x, xy * z, zz * x, yy * y, yy * z, zz * y, zz * z]
            parts = [torch.ones_like(x), x, y, z, xx, xy, xz, yy, yz, zz, *cubes]
            return self.stack(*parts)

        def _invariants(self, tensors: torch.Tensor) -> torch.Tensor:
            n = len(tensors)
            parts = [tensors[..., 0]]
            squares = [part @ part.mT for part in (tensors[..., rank] for rank in RANKS)]
            squares = torch.stack(squares, -1).flatten(1, 2).index_select(1, self.pairs)
            parts.append(squares.flatten(1))
            few = tensors[:, : self.n_triple]
            vector = few[..., RANKS[1]]
            matrix = (few[..., RANKS[2]] / self.roots[RANKS[2]]).index_select(-1, self.places2)
            cube = (few[..., RANKS[3]] / self.roots[RANKS[3]]).index_select(-1, self.places3)
            matrix, cube = matrix.unflatten(-1, (3, 3)), cube.unflatten(-1, (3, 9))
            mv = torch.einsum("nbij,ncj->nbci", matrix, vector)
            vmv = torch.einsum("nai,nbci->nacb", vector, mv).flatten(1, 2)
            parts.append(vmv.index_select(1, self.few_pairs).flatten(1))
            squares = torch.einsum("naij,nbjk->nabik", matrix, matrix)
            cubed = torch.einsum("nabik,ncki->nabc", squares, matrix)
            parts.append(cubed.flatten(1).index_select(1, self.triples))
            cm = torch.einsum("nbij,ncj->nbci", cube, matrix.flatten(-2))
            parts.append(torch.einsum("nai,nbci->nabc", vector, cm).reshape(n, -1))
            cc = torch.einsum("naik,nbjk->nabij", cube, cube).flatten(1, 2)
            ccm = torch.einsum("npij,ncij->npc", cc.index_select(1, self.few_pairs), matrix)
            parts.append(ccm.flatten(1))
            return torch.cat(parts, -1)

        def forward(self, vectors: torch.Tensor) -> torch.Tensor:
            r = vectors.square().sum(0).sqrt()
            angular = self._angular(vectors / r)
            if self.tuned:
                basis = BesselBasis.apply(r, self.cutoff, self.n_basis)
                tensors = self.radial @ ((basis @ angular.mT) * self.roots)
            else:
                radial = (self.radial @ self._basis(r)).mT
                tensors = ((angular @ radial) * self.roots[:, None]).mT
            x = (self._invariants(tensors) - self.shift) / self.scale
            h = x
            for weight, bias in zip(self.weights, self.biases, strict=True):
                h = torch.nn.functional.silu(h @ weight + bias)
            return x @ self.solved + h @ self.readout + self.bias

    class TorchSide:
        """The same step in eager PyTorch.

        `tuned` takes the care that the package takes: forces by look-up, no temporaries of zeros, closed
        slopes, few sums over neighbours. Without it, the step is written as one would: `torch.stack`, forces
        by `index_add`.
        """

        def __init__(
            self, potential: MomentNetwork, batch: Batch, config: TrainConfig, tuned: bool = True
        ) -> None:
            graph = batch.graph
            self.tuned, self.name = tuned, "PyTorch, eager, tuned" if tuned else "PyTorch, eager, plain"
            self.network, self.config = TorchNetwork(potential, tuned), config
            net = self.network
            self.vectors = torch.tensor(np.asarray(graph.vectors)).permute(2, 0, 1).contiguous()
            self.vectors.requires_grad_()
            self.neighbors = torch.tensor(np.asarray(graph.neighbors), dtype=torch.int64)
            self.reverse = torch.tensor(np.asarray(graph.reverse), dtype=torch.int64).flatten()
            self.structure = torch.tensor(np.asarray(graph.structure), dtype=torch.int64)
            self.n_atoms = torch.tensor(np.asarray(graph.n_atoms))
            self.offset = float(potential.offsets[0])
            self.labels = (
                torch.tensor(np.asarray(batch.labels["energy"])),
                torch.tensor(np.asarray(batch.labels["forces"])).T,
            )
            groups = [
                {"params": [net.radial], "lr": RATE * config.radial_factor},
                {"params": [net.solved], "lr": RATE * config.solved_factor},
                {
                    "params": [*net.weights, net.readout],
                    "weight_decay": step_settings(config, potential).weight_decay,
                },
                {"params": [*net.biases, net.bias]},
            ]
            self.optimizer = torch.optim.AdamW(groups, lr=RATE, weight_decay=0.0)
            self.parameters = list(self.network.parameters())
            self.average = [p.detach().clone() for p in self.parameters]

        def evaluate(self, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
            """Total energies (float64, eV) and forces (3, n_atoms), eV/Å."""
            energies = self.network(self.vectors)
            (gradient,) = torch.autograd.grad(energies.sum(), self.vectors, create_graph=training)
            if self.tuned:
                forces = EdgeForces.apply(gradient, self.neighbors, self.reverse)
            else:
                back = torch.zeros_like(gradient[..., 0])
                back = back.index_add(1, self.neighbors.flatten(), gradient.flatten(1))
                forces = gradient.sum(-1) - back
            total = torch.zeros(len(self.n_atoms), dtype=torch.float64)
            total = total.index_add(0, self.structure, energies.double())
            return total + self.offset * self.n_atoms, forces

        def step(self) -> float:
            """One step; the loss before it."""
            energy, forces = self.evaluate(training=True)
            residual = ((energy - self.labels[0]) / self.n_atoms).float()
            loss = self.config.energy_weight * residual.square().mean()
            loss = loss + self.config.forces_weight * (forces - self.labels[1]).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.gradient_clip)
            self.optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.parameters, 1 - self.config.ema)
            return loss.item()


def check_agreement(potential: MomentNetwork, batch: Batch, config: TrainConfig, tuned: bool) -> None:
    """Print how far energies, forces and losses of some steps differ; exit if more than rounding does."""
    one, other = JaxSide(potential, batch, config), TorchSide(potential, batch, config, tuned)
    results = evaluate_jit(potential, batch.graph)
    energy, forces = (x.detach().numpy() for x in other.evaluate(training=False))
    losses = np.array([[side.step() for _ in range(CHECKED_STEPS)] for side in (one, other)])
    count = np.asarray(batch.graph.n_atoms)
    offset = float(potential.offsets[0])
    rows = {
        "energies / eV/atom": (np.asarray(results.energy) / count - offset, energy / count - offset),
        "forces / eV/Å": (np.asarray(results.forces), forces.T),
        f"losses of {CHECKED_STEPS} steps": (losses[0], losses[1]),
    }
    print(f"{'agreement':<22}{'largest value':>14}{'largest difference':>20}")
    bad = []
    for name, (a, b) in rows.items():
        size, difference = float(np.abs(a).max()), float(np.abs(a - b).max())
        print(f"{name:<22}{size:>14.4g}{difference:>20.1e}")
        if not difference <= TOLERANCE * size:
            bad.append(name)
    if bad:
        raise SystemExit(f"JAX and PyTorch do not compute the same {', '.join(bad)}: nothing is timed")
    print()


def use_threads(number: int) -> None:
    """Keep this process on some processors, before XLA makes one thread for each it may use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:number])
    if torch is not None:
        torch.set_num_threads(number)


def timed(work: Callable[[], object]) -> float:
    """Wall time of one call in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=100, help="timed steps of each side")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    use_threads(arguments.threads)
    potential, batch = make_problem()
    config = TrainConfig()
    shape = "{} structures, {} atoms, {} neighbours".format(N_STRUCTURES, *batch.graph.mask.shape)
    print(f"{shape}, {potential.n_invariants} invariants, float32, {arguments.threads} threads")
    if torch is None:
        print("PyTorch is not installed (pip install torch): only JAX is timed\n")
    sides = [JaxSide(potential, batch, config)]
    if torch is not None:
        sides += [TorchSide(potential, batch, config, tuned) for tuned in (True, False)]
    # Before the check, whose steps would compile them.
    first = [timed(side.step) for side in sides]
    if torch is not None:
        for tuned in (True, False):
            check_agreement(potential, batch, config, tuned)
    columns: list[list[float]] = [[] for _ in sides]
    while len(columns[0]) < arguments.repeats:
        for side, column in zip(sides, columns, strict=True):
            # Threads of the side before still spin for a while after its last step.
            for _ in range(WARM_STEPS):
                side.step()
            column += [timed(side.step) for _ in range(TURN)]
    base = statistics.median(columns[0])
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if busy > arguments.threads + 1:
        print(f"the machine is busy (load {busy:.1f}): the ratio may not hold on an idle one")
    heads = ("median / ms", "quartiles / ms", "ratio", "first call / s")
    print("{:<24}{:>12}{:>18}{:>8}{:>16}".format("one training step", *heads))
    for side, once, column in zip(sides, first, columns, strict=True):
        low, middle, high = (1e3 * q for q in statistics.quantiles(column, n=4))
        spread, ratio = f"{low:.1f} to {high:.1f}", middle / (1e3 * base)
        print(f"{side.name:<24}{middle:>12.1f}{spread:>18}{ratio:>8.2f}{once:>16.2f}")


if __name__ == "__main__":
    main()
