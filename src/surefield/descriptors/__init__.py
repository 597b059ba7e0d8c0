"""Descriptors: from the neighbours of an atom to its features."""
