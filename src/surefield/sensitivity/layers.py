"""Layers of potentials by name: the final linear map, or any other arrays that training changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from surefield.errors import PotentialError, nearest
from surefield.potentials.potential import LastLayerPotential, Potential, trainable

__all__ = ["LAST_LAYER", "NamedLayer", "extract_feature_params", "layer_of", "named_arrays"]

#: What apax calls the final linear map of its default network; here that of any potential.
LAST_LAYER: Final = "dense_2"
#: Where a potential keeps its final linear map.
_READOUT: Final = ("readout",)
_BIASES: Final = frozenset({"b", "bias", "biases"})

Path = tuple[str, ...]


class NamedLayer(eqx.Module):
    """Arrays of a potential in one vector, by which derivatives are taken as by those of its last layer.

    Attributes:
        potential: whose arrays they are.
        paths: where they are, in the order of the vector.
    """

    forward_only: ClassVar[bool] = False

    potential: Potential
    paths: tuple[Path, ...] = eqx.field(static=True)

    @property
    def readout(self) -> Float[Array, " n_parameters"]:
        """All of them."""
        arrays = named_arrays(self.potential)
        return jnp.concatenate([jnp.asarray(arrays[path]).ravel() for path in self.paths])

    def with_readout(self, readout: Float[Array, " n_parameters"]) -> Potential:
        """The potential with other values."""
        arrays, start, new = named_arrays(self.potential), 0, {}
        for path in self.paths:
            stop = start + arrays[path].size
            new[path] = readout[start:stop].reshape(arrays[path].shape).astype(arrays[path].dtype)
            start = stop
        return jax.tree_util.tree_map_with_path(
            lambda place, leaf: new.get(_path(place), leaf), self.potential
        )


def named_arrays(tree: Any) -> dict[Path, Any]:
    """Arrays of nested dictionaries, or of a potential, by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_path(place): leaf for place, leaf in leaves if hasattr(leaf, "shape")}


def extract_feature_params(
    params: Mapping[str, Any] | Potential, layer_name: str
) -> tuple[dict[Path, Any], dict[Path, Any]]:
    """Arrays of one layer, and all others.

    Args:
        params: nested dictionaries of arrays, or a potential.
        layer_name: one element of the paths of its arrays, or a whole path with dots; `dense_2`, where no
            array is called so, is the final linear map of a potential, with its biases.

    Returns:
        Two flat dictionaries by paths, disjoint, together everything.

    Raises:
        PotentialError: no arrays, no such layer, or a name that more than one layer has.
    """
    arrays = named_arrays(params)
    if not arrays:
        raise PotentialError("the parameters hold no arrays", got=type(params).__name__)
    chosen = _matching(arrays, layer_name)
    homes = {path[:-1] for path in arrays if path[-1:] == _READOUT}
    if not chosen and layer_name == LAST_LAYER and len(homes) == 1:
        [home] = homes
        chosen = [path for path in arrays if path in ((*home, *_READOUT), (*home, "bias"))]
    if not chosen:
        raise _no_layer(layer_name, arrays)
    rest = {path: array for path, array in arrays.items() if path not in chosen}
    return {path: arrays[path] for path in chosen}, rest


def layer_of(
    potential: Potential, name: str = LAST_LAYER, *, weights_only: bool = False
) -> tuple[LastLayerPotential | NamedLayer, str]:
    """The layer of a potential that a name means.

    Args:
        potential: any.
        name: as for `extract_feature_params`; `dense_2`, where no array is called so, and `readout` are the
            final linear map.
        weights_only: leave out the biases of a layer that is not the final linear map.

    Returns:
        What derivatives are taken by (of a final linear map without its biases, which it has too), and a line
        on what was chosen.

    Raises:
        PotentialError: no such layer, more than one, or no final linear map.
    """
    arrays = named_arrays(eqx.filter(potential, trainable(potential)))
    chosen = _matching(arrays, name)
    if (not chosen and name == LAST_LAYER) or name == _READOUT[0]:
        last = potential.last_layer()
        shape = " x ".join(map(str, last.readout.shape))
        note = f"layer {name!r} is the final linear map of {type(potential).__name__} ({shape} weights)"
        return last, note
    if not chosen:
        raise _no_layer(name, [*arrays, (LAST_LAYER,)])
    ordered = sorted(chosen, key=lambda path: (_is_bias(path), path))
    if weights_only:
        ordered = [path for path in ordered if not _is_bias(path)]
        if not ordered:
            raise PotentialError(f"the layer {name!r} of {type(potential).__name__} has no weights")
    size = sum(arrays[path].size for path in ordered)
    note = f"layer {name!r} of {type(potential).__name__}: {size} parameters"
    return NamedLayer(potential, tuple(ordered)), note


def _path(place: Any) -> Path:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in place)


def _is_bias(path: Path) -> bool:
    return any(part in _BIASES for part in path)


def _matching(arrays: Collection[Path], name: str) -> list[Path]:
    """Paths of the arrays of a layer; none where no array has the name."""
    chosen = _named(arrays, name)
    if not _is_layer(chosen, name):
        names = ", ".join(sorted(".".join(path) for path in chosen))
        raise PotentialError(
            f"the name {name!r} means more than one layer", got=names, fix="name one of these"
        )
    return chosen


def _named(paths: Collection[Path], name: str) -> list[Path]:
    whole = [path for path in paths if ".".join(path) == name]
    return whole or [path for path in paths if name in path]


def _is_layer(chosen: Collection[Path], name: str) -> bool:
    """Whether arrays belong together, such as weights and biases; what holds layers, or a list, is none."""
    if len(chosen) <= 1:
        return True
    places = [path.index(name) for path in chosen]
    homes = {path[: place + 1] for path, place in zip(chosen, places, strict=True)}
    inside = [path[place + 1 :] for path, place in zip(chosen, places, strict=True)]
    return len(homes) == 1 and all(len(part) == 1 and not part[0].isdigit() for part in inside)


def _no_layer(name: str, paths: Collection[Path]) -> PotentialError:
    names = {part for path in paths for part in path} | {".".join(path) for path in paths}
    known = sorted(n for n in names if _is_layer(_named(paths, n), n) and not n.isdigit())
    what = f"there is no layer {name!r}; {nearest(name, known)}"
    return PotentialError(what, expected=f"one of {', '.join(known)}")
