"""proto"""
from __future__ import annotations
import equinox as eqx, jax, jax.numpy as jnp, numpy as np
from surefield.descriptors.moments import angular_basis, invariants, moments, n_invariants
from surefield.descriptors.radial import bessel_basis
from surefield.structures.graph import Graph
from surefield.potentials.potential import Potential

class MomentNetwork(Potential):
    species: tuple = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    n_basis: int = eqx.field(static=True)
    n_triple: int = eqx.field(static=True)
    radial: jax.Array
    shift: jax.Array
    scale: jax.Array
    hidden: list
    readout: jax.Array
    bias: jax.Array

    def __init__(self, species, cutoff=5.0, n_basis=8, n_channels=8, n_triple=5, hidden=(64, 64), seed=0, dtype=np.float32):
        rng = np.random.default_rng(seed)
        S = len(species)
        self.species, self.cutoff, self.n_basis, self.n_triple = tuple(species), cutoff, n_basis, n_triple
        if S == 1:
            r = np.zeros((1, 1, n_channels, n_basis)); 
            r[0, 0, :, :] = np.eye(n_channels, n_basis)
        else:
            q = rng.normal(size=(S*n_basis, S*n_basis)); q = np.linalg.qr(q)[0][:n_channels] if n_channels <= S*n_basis else rng.normal(size=(n_channels, S*n_basis))
            r = np.broadcast_to(q.reshape(1, n_channels, S, n_basis).transpose(0, 2, 1, 3), (S, S, n_channels, n_basis))
        self.radial = jnp.asarray(r, dtype)
        d = invariants(jnp.zeros((1, n_channels, 20)), n_triple).shape[1]
        self.shift = jnp.zeros((S, d), dtype); self.scale = jnp.ones((S, d), dtype)
        sizes = [d, *hidden]
        self.hidden = [(jnp.asarray(rng.normal(size=(a, b)) / np.sqrt(a), dtype), jnp.zeros((S, b), dtype)) for a, b in zip(sizes, sizes[1:])]
        self.readout = jnp.zeros((S, d + (hidden[-1] if hidden else 0)), dtype)
        self.bias = jnp.zeros(S, dtype)

    def species_index(self, graph):
        table = np.zeros(120, np.int32)
        for k, z in enumerate(self.species): table[z] = k
        return jnp.asarray(table)[graph.numbers]

    def invariants(self, graph):
        s = self.species_index(graph)
        dtype = self.radial.dtype
        v = graph.vectors.astype(dtype)
        r = jnp.sqrt(jnp.sum(v * v, -1))
        basis = bessel_basis(r, self.cutoff, self.n_basis)
        if len(self.species) == 1:
            radial = basis @ self.radial[0, 0].T
        else:
            S = len(self.species)
            sj = s[graph.neighbors]
            pair = jax.nn.one_hot(sj, S, dtype=dtype)  # n k S
            # basis x species -> n k (S b); per centre weights (n, S*b, c)
            big = (pair[..., :, None] * basis[..., None, :]).reshape(*r.shape, -1)
            w = jnp.swapaxes(self.radial, 2, 3).reshape(S, -1, self.radial.shape[2])  # S, S*b, c
            radial = big @ w[s]
        m = moments(radial, angular_basis(v / r[..., None]))
        return (invariants(m, self.n_triple) - jax.lax.stop_gradient(self.shift)[s]) / jax.lax.stop_gradient(self.scale)[s], s

    def features(self, graph):
        x, s = self.invariants(graph)
        h = x
        for w, b in self.hidden:
            h = jax.nn.silu(h @ w + b[s])
        return jnp.concatenate([x, h] if self.hidden else [x], -1), s

    def site_energies(self, graph):
        f, s = self.features(graph)
        e = jnp.sum(f * self.readout[s], -1) + self.bias[s]
        return jnp.where(graph.atom_mask, e, 0.0)
