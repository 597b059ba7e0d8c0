"""Exploration: where candidate structures come from, and whether a potential runs."""
