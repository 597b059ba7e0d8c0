"""Models of other packages as potentials: JAX, torch, foundation models, models of the KIM API."""

from typing import TYPE_CHECKING

from surefield.lazy import import_on_first_use

if TYPE_CHECKING:
    from surefield.foreign.jax_potential import EdgeList, JaxPotential
    from surefield.foreign.known import register_model
    from surefield.foreign.published import chgnet, mace, nequix, sevennet
    from surefield.foreign.torch_last_layer import TorchLastLayer
    from surefield.foreign.torch_potential import TorchPotential

__all__ = [
    "EdgeList",
    "JaxPotential",
    "TorchLastLayer",
    "TorchPotential",
    "chgnet",
    "mace",
    "nequix",
    "register_model",
    "sevennet",
]

import_on_first_use(
    __name__,
    {
        "surefield.foreign.jax_potential": ("EdgeList", "JaxPotential"),
        "surefield.foreign.known": ("register_model",),
        "surefield.foreign.published": ("chgnet", "mace", "nequix", "sevennet"),
        "surefield.foreign.torch_last_layer": ("TorchLastLayer",),
        "surefield.foreign.torch_potential": ("TorchPotential",),
    },
)
