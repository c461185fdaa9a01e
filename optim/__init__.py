"""Optimizers for reinforcement learning, as optax gradient transformations.

Example:
  >>> import jax.numpy as jnp
  >>> import optax
  >>> import optim
  >>> optimizer = optax.chain(optax.clip_by_global_norm(0.5), optim.adamo(3e-4, kappa=1.0))
  >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
  >>> updates, state = optimizer.update(params, optimizer.init(params), params)
"""

from optim._checks import nearest as nearest
from optim.adamo import adamo as adamo
from optim.adamo import scale_by_adamo as scale_by_adamo
from optim.clipping import clip_by_network_norm as clip_by_network_norm
from optim.registry import OptimizerDetails as OptimizerDetails
from optim.registry import OptimizerSpec as OptimizerSpec
from optim.registry import accepts_schedule as accepts_schedule
from optim.registry import describe as describe
from optim.registry import details as details
from optim.registry import make as make
from optim.registry import optimizer_names as optimizer_names

__all__ = [
    "OptimizerDetails",
    "OptimizerSpec",
    "accepts_schedule",
    "adamo",
    "clip_by_network_norm",
    "describe",
    "details",
    "make",
    "nearest",
    "optimizer_names",
    "scale_by_adamo",
]
