"""Trainers: linear, many-body, neural and parametric potentials, fitted to stored configurations."""
