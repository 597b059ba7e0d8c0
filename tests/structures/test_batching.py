from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, molecule

from surefield.structures.batching import chunks, padded_batches, plan_blocks, plan_shapes, streamed_batches
from surefield.structures.neighbors import neighborhood


@pytest.fixture(scope="module")
def structures():
    frames = [bulk("Cu").repeat((n, 1, 1)) for n in (1, 2, 3, 4, 2, 1, 5)]
    frames += [molecule(name) for name in ("H2O", "CH4", "C2H6", "H2")]
    return [neighborhood(atoms, 4.0) for atoms in frames]


@pytest.mark.parametrize("buckets", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_every_structure_once_and_it_fits(structures, buckets, batch_size):
    shapes = plan_shapes(structures, batch_size, buckets=buckets)
    seen = []
    for shape, members in shapes:
        for chunk in chunks(structures, members, shape):
            assert chunk
            assert sum(structures[i].n_atoms for i in chunk) <= shape.n_atoms
            assert max(structures[i].n_neighbors for i in chunk) <= shape.n_neighbors
            assert len(chunk) <= shape.n_structures
            seen += chunk
    assert sorted(seen) == list(range(len(structures)))
    assert len(shapes) <= 3


def test_at_most_a_third_of_the_row_is_padding(structures):
    for _, members in plan_shapes(structures, 4):
        widths = [max(structures[i].n_neighbors, 4) for i in members]
        assert 3 * min(widths) >= 2 * max(widths)


def test_any_order_fits_the_plan(structures):
    rng = np.random.default_rng(0)
    for shape, members in plan_shapes(structures, 3):
        for _ in range(20):
            order = rng.permutation(members)
            visited = [i for chunk in chunks(structures, order, shape) for i in chunk]
            assert visited == order.tolist()


def test_padded_batches_hold_the_structures(structures):
    for chunk, graph in padded_batches(structures, 3, np.float32):
        expected = np.concatenate([structures[i].numbers for i in chunk])
        np.testing.assert_array_equal(graph.numbers[graph.atom_mask], expected)
        assert graph.vectors.dtype == np.float32
        assert graph.n_atoms[: len(chunk)].tolist() == [structures[i].n_atoms for i in chunk]


def test_streamed_batches_are_few_shapes_nearly_in_order(structures):
    many = structures * 6
    seen, shapes = [], set()
    for chunk, graph in streamed_batches(many, 4, np.float32):
        expected = np.concatenate([many[i].numbers for i in chunk])
        np.testing.assert_array_equal(graph.numbers[graph.atom_mask], expected)
        shapes.add((*graph.mask.shape, graph.n_structures))
        seen += chunk
    assert sorted(seen) == list(range(len(many)))
    assert len(shapes) == len(plan_blocks(many, 4)) <= 4
    assert np.abs(np.array(seen) - np.arange(len(many))).max() < 16


def test_single_structures_have_a_block_of_their_size(structures):
    ((shape, _),) = plan_blocks(structures[2:3], 128)
    assert (shape.n_atoms, shape.n_structures) == (4, 1)
