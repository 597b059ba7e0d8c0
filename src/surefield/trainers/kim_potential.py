"""The handle of physics models by their KIM ids: computed here where known, by KIM itself elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, final

import numpy as np

from surefield.errors import ConfigError, PotentialError
from surefield.formats.kim import driver_of, read_params, write_kim_model
from surefield.formats.kim_models import Driver, KnownModel, find_driver, find_model, suggestion
from surefield.potentials.parametric.kim_id import parse_id
from surefield.potentials.parametric.parameters import ParametricPotential
from surefield.potentials.potential import Potential
from surefield.trainers.handle import PotentialHandle, arguments_of, saved_model

__all__ = ["KIMPotential", "read_parameters"]


@final
class KIMPotential(PotentialHandle):
    """A physics model by its KIM id, computed here or, where this package has no such model, by KIM itself.

    Models of this package answer to every version of their id, full or short (`SW_StillingerWeber_1985_Si`,
    `MO_405512056662`). Of a driver's name the parameters come from `parameter_path`. With KIM a full id means
    that version, a short one the newest that is installed. Nothing is written when a handle is made.

    Args:
        kim_id: id of a model or driver, or the name of one of our classes, such as 'StillingerWeber'.
        species: symbols; None: those of the model.
        model_driver: driver, when `kim_id` is that of a model whose parameters stand in `parameter_path`.
        kim_api: stored; it has no effect, since KIM's own programs are not called.
        kim_item_type: stored; likewise without effect.
        parameter_path: parameter file of KIM's driver (`.params`), its folder, or a saved potential.
        backend: 'surefield' or 'kim'; None: this package where it has the model.
        model_name_prefix: first part of the ids that a registry gives.

    Attributes:
        kim_id: full id of the model that is used, later that of the registry.
        backend: the one really used.

    Raises:
        ConfigError: species that the model does not have, or a driver without parameters.
        PotentialError: a model that needs KIM where KIM is not installed, or is not installed there.
    """

    def __init__(
        self,
        kim_id: str,
        species: Sequence[str] | str | None = None,
        model_driver: str | None = None,
        kim_api: str | None = None,
        *,
        kim_item_type: str = "portable-model",
        parameter_path: str | Path | None = None,
        backend: Literal["surefield", "kim"] | None = None,
        model_name_prefix: str = "KIM_surefield",
    ) -> None:
        if backend not in (None, "surefield", "kim"):
            raise ConfigError(f"backend must be 'surefield', 'kim' or None, got {backend!r}")
        self.model_id, self.model_driver, self.kim_api = kim_id, model_driver, kim_api
        self.kim_item_type, self.asked_backend = kim_item_type, backend
        self._source = None if backend == "kim" else _find(kim_id, model_driver, parameter_path)
        self._opaque: ParametricPotential | None = None
        own = [species] if isinstance(species, str) else None if species is None else list(species)
        if isinstance(self._source, KnownModel):
            self.backend, version = "surefield", parse_id(kim_id).version or self._source.version
            full = f"{self._source.name}__{self._source.number}_{version}"
            known = list(self._source.species)
            if own is not None and set(own) != set(known):
                raise ConfigError(f"species of {kim_id}", got=own, expected=known)
            own = own or known
        elif isinstance(self._source, Driver):
            self.backend, full = "surefield", kim_id
            own = own or list(read_parameters(Path(cast(str, parameter_path)), self._source).symbols)
        else:
            self._opaque = _from_kim(kim_id, own, backend)
            self.backend, full = "kim", self._opaque.options()["model_id"]
            own = list(self._opaque.symbols)
        super().__init__(own, kim_id=full, parameter_path=parameter_path, model_name_prefix=model_name_prefix)

    def settings(self) -> dict[str, Any]:
        """Constructor arguments."""
        path = None if self.parameter_path is None else Path(self.parameter_path)
        return arguments_of(self, kim_id=self.model_id, parameter_path=path, backend=self.asked_backend)

    def make(self) -> ParametricPotential:
        """The model at the parameters of `parameter_path`, or at its published ones."""
        if self.parameter_path is not None:
            return read_parameters(Path(self.parameter_path), self._driver())
        if isinstance(self._source, KnownModel):
            return self._source.make()
        assert self._opaque is not None
        return self._opaque

    def get_params(self) -> dict[str, list[list[Any]]]:
        """All parameters as `{name: [[extent, ...], [value, ...]]}`."""
        parameters = {}
        for name, value in self._parametric().values.items():
            numbers = np.asarray(value).reshape(-1).tolist()
            parameters[name] = [list(range(len(numbers))), numbers]
        return parameters

    def set_params(self, parameters: Mapping[str, Sequence[Sequence[Any]]]) -> None:
        """Change parameters, given as `{name: [[extent, ...], [value, ...]]}`.

        Raises:
            ConfigError: an unknown name, an extent out of range, or a value that is no finite number.
        """
        model = self._parametric()
        changed = {}
        for name, entry in parameters.items():
            model.check_name(name)
            values = np.array(model.values[name])
            extents, numbers = _extents(name, entry, values.size)
            values.reshape(-1)[extents] = numbers
            changed[name] = values
        self.set_model(model.with_values(changed))

    def read(self, path: Path) -> ParametricPotential:
        """Parameters of the same model, of a saved potential, a folder with one, or a `.params` file."""
        return read_parameters(path, self._driver(), self.model)

    def export_files(self, folder: Path) -> list[Path]:
        """A KIM model folder with the present parameters; none where no driver of KIM computes them."""
        model = self._parametric()
        if driver_of(model) is None:
            return []
        return write_kim_model(folder, "_".join((self.model_name_prefix, *model.symbols)), model)  # type: ignore[arg-type]

    def _parametric(self) -> ParametricPotential:
        return cast(ParametricPotential, self.model)

    def _driver(self) -> Driver | None:
        if isinstance(self._source, Driver):
            return self._source
        return None if self._source is None else find_driver(self._source.driver)


def _find(kim_id: str, model_driver: str | None, path: str | Path | None) -> KnownModel | Driver | None:
    """Model or driver of this package behind an id; None: only KIM can know it."""
    known = find_model(kim_id)
    if known is not None:
        return known
    driver = find_driver(kim_id) or (None if model_driver is None else find_driver(model_driver))
    if driver is not None and path is None:
        raise ConfigError(f"{kim_id} is a form without parameters: give parameter_path, a .params file")
    return driver


def _from_kim(kim_id: str, species: Sequence[str] | None, backend: str | None) -> ParametricPotential:
    if backend == "surefield":
        raise ConfigError(f"this package has no model {kim_id!r}, {suggestion(kim_id)}")
    from surefield.foreign.opaque_kim import OpaqueKIM

    try:
        return OpaqueKIM(None, species, model_id=kim_id)
    except PotentialError as error:
        raise PotentialError(
            f"{kim_id!r} is no model of this package ({suggestion(kim_id)}); {error}"
        ) from error


def read_parameters(path: Path, driver: Driver | None, like: Potential | None = None) -> ParametricPotential:
    """Parameters of a `.params` file, of a folder that holds one, or of a saved potential.

    Args:
        path: of the file or folder.
        driver: of KIM's file.
        like: potential whose class they must have; None: any.

    Raises:
        PotentialError: nothing there, damaged, or parameters of another model.
    """
    inside = sorted(path.glob("*.params")) if path.is_dir() and not list(path.glob("*.npz")) else []
    if path.suffix == ".params" or inside:
        if driver is None:
            raise PotentialError(f"{path} holds parameters of a KIM driver, but the driver is not known")
        model = read_params(inside[0] if inside else path, driver)
    else:
        model = saved_model(path, ParametricPotential, "which has no named parameters")
    if like is not None and type(model) is not type(like):
        raise PotentialError(f"{path} holds a {type(model).__name__}, not a {type(like).__name__}")
    return model


def _extents(name: str, entry: Any, size: int) -> tuple[list[int], list[float]]:
    fine = isinstance(entry, Sequence) and len(entry) == 2
    extents, numbers = (np.atleast_1d(part) for part in entry) if fine else (np.zeros(0), np.zeros(1))
    fine = fine and len(extents) == len(numbers) and np.issubdtype(np.asarray(numbers).dtype, np.number)
    if not fine or not np.isfinite(numbers).all() or any(not 0 <= i < size for i in extents.tolist()):
        expected = f"[[extent, ...], [value, ...]] with extents below {size}"
        raise ConfigError(f"parameter {name}", got=repr(entry), expected=expected)
    return extents.astype(int).tolist(), numbers.astype(float).tolist()
