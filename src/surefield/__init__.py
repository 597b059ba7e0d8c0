"""surefield: machine-learned interatomic potentials that know when they are sure."""

import jax

jax.config.update("jax_enable_x64", True)
