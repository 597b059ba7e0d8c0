"""Fixtures shared by all tests: where the real data sets are, and how they are read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
SHARED = PROJECT.parent / "shared"


@pytest.fixture(scope="session")
def project() -> Path:
    return PROJECT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the real DFT sets and reference numbers; its absence is a failure in CI."""
    if not SHARED.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"CI must have the shared data sets at {SHARED}")
        pytest.skip("needs the real DFT sets in ../shared, which this machine does not have")
    return SHARED
