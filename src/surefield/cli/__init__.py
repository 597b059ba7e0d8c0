"""Command line: one verb per task, each reads a configuration and writes a run folder."""

from surefield.cli.main import main

__all__ = ["main"]
