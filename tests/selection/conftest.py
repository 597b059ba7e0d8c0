import numpy as np
import pytest


def read(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="session")
def apax(shared):
    """Picks of apax 0.14.0."""
    return read(shared / "reference" / "selection" / "apax_maxdist_reference.npz")


@pytest.fixture(scope="session")
def bmdal(shared):
    """Picks of bmdal_reg 3.0.2 on the same features."""
    return read(shared / "reference" / "selection" / "bmdal_reference.npz")


@pytest.fixture(scope="session")
def split(bmdal):
    """Pool and train rows of the reference features."""
    n_train = int(bmdal["n_train"])
    return bmdal["g"][n_train:], bmdal["g"][:n_train]
