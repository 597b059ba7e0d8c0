"""Datasets with versions and provenance, and the registry of trained potentials."""

from surefield.storage.database_storage import LocalStorage as LocalStorage
from surefield.storage.dataset import Dataset as Dataset
from surefield.storage.dataset import StorageWarning as StorageWarning
from surefield.storage.folder_storage import FolderStorage as FolderStorage
from surefield.storage.open import open_storage as open_storage
from surefield.storage.potential_registry import PotentialRegistry as PotentialRegistry
from surefield.storage.potential_registry import RegisteredPotential as RegisteredPotential
from surefield.storage.storage import Storage as Storage

__all__ = [
    "Dataset",
    "FolderStorage",
    "LocalStorage",
    "PotentialRegistry",
    "RegisteredPotential",
    "Storage",
    "StorageWarning",
    "open_storage",
]
