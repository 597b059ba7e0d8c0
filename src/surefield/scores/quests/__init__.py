"""Entropy, efficiency and diversity of sets of environments, and what an environment adds to a set."""
