"""Configuration of potentials: one model a kind, told apart by `kind:`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from surefield.config import Config

__all__ = [
    "Activation",
    "AtomicNetworkConfig",
    "DropoutNetworkConfig",
    "ForeignConfig",
    "MessageNetworkConfig",
    "MomentNetworkConfig",
    "SnapConfig",
]

Activation = Literal["tanh", "sigmoid", "linear"]


class MomentNetworkConfig(Config):
    """Shape of a `MomentNetwork`; the fields are its arguments."""

    kind: Literal["moment_network"] = "moment_network"
    species: tuple[str, ...] | None = Field(
        default=None, description="elements; null takes those of the data"
    )
    cutoff: float = Field(default=5.5, gt=0, description="range of the neighbour density, Å")
    n_basis: int = Field(default=8, ge=2, le=32, description="Bessel functions")
    n_channels: int = Field(
        default=8, ge=1, le=32, description="learned radial functions per pair of species"
    )
    n_triple: int = Field(default=5, ge=0, le=16, description="channels that enter products of three tensors")
    hidden: tuple[int, ...] = Field(default=(64, 64), description="hidden layers of the network")
    seed: int = Field(default=0, ge=0, description="of the initial weights")
    dtype: Literal["float32", "float64"] = Field(
        default="float32", description="of the parameters and the arithmetic"
    )


class MessageNetworkConfig(Config):
    """Shape of a `MessageNetwork`; the fields are its arguments."""

    #: Settings of a training that suit it, where the training names none.
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 240,
        "max_steps": 20_000,
        "batch_size": 5,
        "learning_rate": 7e-3,
        "radial_factor": 1.0,
        "ema": 0.999,
        "patience": 150,
        "energy_ramp": (0.1, 10.0),
        "fit_offsets": True,
    }

    kind: Literal["message_network"] = "message_network"
    species: tuple[str, ...] | None = Field(
        default=None, description="elements; null takes those of the data"
    )
    cutoff: float = Field(default=5.0, gt=0, description="range of the neighbour list, Å")
    n_layers: int = Field(default=2, ge=1, le=4, description="1: an atom sees its neighbours; 2: theirs too")
    n_channels: int = Field(default=128, ge=1, le=512, description="moments of each rank in a layer")
    n_basis: int = Field(default=8, ge=2, le=32, description="Bessel functions")
    n_senders: int = Field(default=16, ge=1, le=256, description="scalars that a neighbour sends")
    n_vectors: int = Field(default=8, ge=0, le=64, description="vectors that a neighbour sends")
    hidden: tuple[int, ...] = Field(default=(64, 64), description="hidden layers of the network on top")
    seed: int = Field(default=0, ge=0, description="of the initial weights")
    dtype: Literal["float32", "float64"] = Field(
        default="float32", description="of the parameters and the arithmetic"
    )


class AutoPotentialConfig(Config):
    """The potential that suits the elements of the data; its other settings are the defaults of that kind.

    Of one element a `MomentNetwork` is as accurate and faster; of several it learns too little of which
    element is where. Crystals have a `MessageNetwork` of one layer and half the channels: with their many
    neighbours more of both is slow, and this one ran on alloys that its data lacked
    (benchmarks/stability.py).
    """

    kind: Literal["auto"] = "auto"
    species: tuple[str, ...] | None = Field(
        default=None, description="elements; null takes those of the data"
    )
    cutoff: float = Field(default=5.0, gt=0, description="range of the neighbour list, Å")
    repulsion: bool = Field(
        default=True,
        description="add ZBL, pair by pair up to the shortest distance of the structures, unless the section "
        "repulsion says where it ends",
    )
    seed: int = Field(default=0, ge=0, description="of the initial weights")
    dtype: Literal["float32", "float64"] = Field(
        default="float32", description="of the parameters and the arithmetic"
    )

    def chosen(self, n_elements: int, periodic: bool) -> MomentNetworkConfig | MessageNetworkConfig:
        """Configuration of the kind for so many elements, in structures that are all periodic or not."""
        shared = self.model_dump(exclude={"kind", "repulsion"})
        if n_elements == 1:
            return MomentNetworkConfig(**shared)
        size = {"n_layers": 1, "n_channels": 64} if periodic else {"n_layers": 2}
        return MessageNetworkConfig(**size, **shared)


class AtomicNetworkConfig(Config):
    """Atom-centred networks on the default symmetry functions."""

    kind: Literal["atomic_network", "neural_network"] = "atomic_network"
    species: tuple[str, ...] | None = Field(
        default=None, description="elements; null takes those of the data"
    )
    cutoff: float = Field(default=6.5, gt=0, description="of the symmetry functions, Å")
    hiddenlayers: tuple[int, ...] = Field(default=(5, 5), description="hidden layers of every element")
    activation: Activation = Field(default="tanh", description="of the hidden nodes")
    output_activation: Literal["linear", "activation"] = Field(
        default="linear", description="of the output node; activation bounds the energy of an atom"
    )
    seed: int = Field(default=0, ge=0, description="of the initial weights")
    dtype: Literal["float32", "float64"] = Field(
        default="float64", description="of the parameters and the arithmetic"
    )


class DropoutNetworkConfig(Config):
    """Dropout networks on the symmetry functions of KLIFF and KIM's DUNN driver.

    `train` fits the full network. For cells of copper its ensembles had lower errors and a better likelihood
    than those of a network trained with fresh masks in every step, as `DUNNTrainer` does.
    """

    kind: Literal["dropout_network"] = "dropout_network"
    species: tuple[str, ...] | None = Field(
        default=None, description="elements; null takes those of the data"
    )
    cutoff: float = Field(default=5.0, gt=0, description="of the symmetry functions, Å")
    hyperparams: str | dict[str, list[dict[str, float]]] = Field(
        default="set51", description="symmetry functions: set51, set30 or lists under g2 and g4"
    )
    neurons: tuple[int, ...] = Field(default=(10, 10), description="widths of the hidden layers")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="rate; 0 for none")
    norm: bool = Field(default=True, description="standardise each feature over the training atoms")
    seed: int = Field(default=0, ge=0, description="of the initial weights")


class ForeignConfig(Config):
    """A published model of another package; its body stays as it is, its last layer is solved for."""

    kind: Literal["foreign"] = "foreign"
    model: Literal["chgnet", "nequix", "sevennet"] = Field(description="whose package is installed")
    variant: str | None = Field(
        default=None, description="chgnet: 0.3.0 or r2scan; sevennet: 7net-0 or 7net-l3i5; null: the first"
    )
    file: str | None = Field(default=None, description="nequix: file of its weights, .nqx")
    species: tuple[str, ...] | None = Field(default=None, description="null: the model knows its own")
    cutoff: float = Field(
        default=6.0, gt=0, description="of the neighbours that structures are checked by, Å"
    )

    @model_validator(mode="after")
    def _weights(self) -> Self:
        if (self.model == "nequix") != (self.file is not None):
            raise ValueError(f"file names the weights of nequix; {self.model} has {self.file or 'none'}")
        return self


class SnapConfig(Config):
    """SNAP with the same radius and weight for every element."""

    kind: Literal["snap"] = "snap"
    species: tuple[str, ...] | None = Field(
        default=None, description="elements; null takes those of the data"
    )
    cutoff: float = Field(default=4.7, gt=0, description="of the bispectrum, Å")
    twojmax: int = Field(default=6, ge=0, description="largest doubled index: 6 for 30 components, 8 for 55")
    quadratic: bool = Field(default=False, description="products of components too")
    rfac0: float = Field(default=0.99363, gt=0, description="part of the sphere that distances cover")
    rmin0: float = Field(default=0.0, ge=0, description="distance that maps to its pole, Å")
