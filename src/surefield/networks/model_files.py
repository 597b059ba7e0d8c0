"""Trained models as files: arrays with a header, or JSON text; files of the older program are imported."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from surefield.errors import DataError, PotentialError
from surefield.formats.amp import AmpFile, read_amp
from surefield.networks.charge_neural_network import ChargeNeuralNetwork
from surefield.networks.fingerprinter import Fingerprinter
from surefield.networks.fingerprints import Gaussian, ImageCentred, Zernike
from surefield.networks.model import KIND, Model
from surefield.networks.neural_network import NeuralNetwork
from surefield.potentials.potential import DescriptorPotential
from surefield.potentials.saving import build, load_arrays, unpack

__all__ = ["descriptor_of", "load_model"]


def load_model(source: str | Path) -> Model:
    """Model from a file of `save_model`, from its text, or from a .amp file; no code in it is run.

    The name may have the suffix .amp or not.

    Raises:
        PotentialError: no such file, damaged, or of another kind.
        DataError: a .amp file that is not what such files are, with line and column.
    """
    text = str(source)
    if text.lstrip().startswith("{"):
        return _from_text(text)
    # Files of Amp always end in .amp, those of trainings here have the bare label.
    paths = [Path(source), Path(f"{source}.amp"), Path(text.removesuffix(".amp"))]
    path = next((path for path in paths if path.is_file()), paths[0])
    if not path.is_file():
        raise PotentialError(f"there is no saved model at {path.resolve()}")
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK":
        header, arrays = load_arrays(path, KIND)
        return _rebuilt(header, arrays)
    if start[:1] == b"{":
        return _from_text(path.read_text("utf-8"))
    return _imported(read_amp(path), path)


def _from_text(text: str) -> Model:
    try:
        content = json.loads(text)
        if content["surefield"] != KIND:
            raise KeyError("surefield")
        arrays = {
            name: np.frombuffer(base64.b64decode(entry["data"]), entry["dtype"]).reshape(entry["shape"])
            for name, entry in content["arrays"].items()
        }
        return _rebuilt(content["header"], arrays)
    except (ValueError, KeyError, TypeError) as error:
        raise PotentialError(f"the text is cut short or not a saved model: {error}") from None


def _rebuilt(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Model:
    potential = unpack(build(header["potential"]), arrays)
    known: dict[str, Any] = {"NeuralNetwork": NeuralNetwork, "ChargeNeuralNetwork": ChargeNeuralNetwork}
    if header["model"] not in known:
        raise PotentialError(f"the file holds a {header['model']!r}, which this version does not know")
    return known[header["model"]].of_potential(potential, status=header["status"], **header["settings"])


def descriptor_of(model: Model) -> Fingerprinter:
    """Descriptor handle with the functions of a model."""
    potential = model.potential
    if not isinstance(potential, DescriptorPotential):
        return ImageCentred()
    descriptor = potential.descriptor
    config = descriptor.config()
    symbols = list(descriptor.symbols)
    if config["kind"] == "gaussian":
        return Gaussian(cutoff=config["cutoff"], Gs=config["functions"], elements=symbols)
    if config["kind"] == "zernike":
        return Zernike(cutoff=config["cutoff"], Gs=config["weights"], nmax=config["nmax"], elements=symbols)
    raise PotentialError(f"there is no handle for a descriptor of kind {config['kind']!r}")


def _imported(file: AmpFile, path: Path) -> Model:
    """Model of an older program's file: the activation is on the output node too."""
    descriptor, model = dict(file.descriptor), dict(file.model)
    name = descriptor.pop("importname")
    cutoff = descriptor.pop("cutoff")
    handle: Gaussian | Zernike
    settings = {k: descriptor.pop(k, None) for k in ("Gs", "elements", "version")}
    mode = descriptor.pop("mode", "atom-centered")
    for ignored in ("fortran", "dblabel", "parallel"):
        descriptor.pop(ignored, None)
    if name.endswith("Gaussian"):
        handle = Gaussian(cutoff=cutoff, mode=mode, **settings)
    else:
        handle = Zernike(cutoff=cutoff, mode=mode, nmax=descriptor.pop("nmax", 5), **settings)
    _refuse_unknown(descriptor, "descriptor", path)
    kind = model.pop("importname")
    for ignored in ("fortran", "checkpoints", "parallel", "regressor", "lossfunction"):
        model.pop(ignored, None)
    if kind.endswith("ChargeNeuralNetwork"):
        return ChargeNeuralNetwork.imported(handle, model, path)
    wanted = ("hiddenlayers", "activation", "weights", "scalings", "fprange", "mode", "version")
    arguments = {k: model.pop(k, None) for k in wanted}
    arguments["activation"] = arguments["activation"] or "tanh"
    _refuse_unknown({k: v for k, v in model.items() if v is not None}, "model", path)
    network = NeuralNetwork(**arguments, output_activation="activation")
    network.set_up_without_images(handle)
    return network


def _refuse_unknown(left: Mapping[str, Any], part: str, path: Path) -> None:
    if left:
        raise DataError(f"unknown keys in the {part} of the file", where=path, got=sorted(left))
