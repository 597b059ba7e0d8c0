"""Structures: reading, labels, neighbours, padded batches, offsets, splits, doctor."""
