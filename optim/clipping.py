"""Gradient clipping for trees that hold several networks."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import optax

from optim._checks import check_range
from optim._trained import on_trained_leaves


@on_trained_leaves
def clip_by_network_norm(max_norm: jax.typing.ArrayLike) -> optax.GradientTransformationExtraArgs:
    r"""Clips the global norm of each network's gradient on its own.

    A network is a top-level entry of the gradient tree, as in `{"actor": ..., "critic": ...}`:
    a large gradient of the critic leaves the actor's alone. With :math:`g_k` the gradient of
    network :math:`k` and :math:`\|g_k\|` its norm over all leaves,

    .. math::

      g_k \leftarrow g_k \min(1, \text{max\_norm} / \|g_k\|).

    A tree that is not a mapping is clipped as one network.

    Args:
        max_norm: largest norm of a network's gradient, greater than 0; infinity, unless it is a
            tracer, leaves all gradients as they are.

    Returns:
        The transformation, without state. Each network is clipped as by
        `optax.clip_by_global_norm`.

    Raises:
        ValueError: if `max_norm` is not greater than 0.

    Examples:
        >>> import jax.numpy as jnp
        >>> clip = clip_by_network_norm(1.0)
        >>> grads = {"actor": jnp.array([3.0, 4.0]), "critic": jnp.array([0.5])}
        >>> clipped, _ = clip.update(grads, clip.init(grads))
        >>> print(clipped["actor"].round(1), clipped["critic"])
        [0.6 0.8] [0.5]

    References:
        Pascanu et al., `On the difficulty of training recurrent neural networks
        <https://arxiv.org/abs/1211.5063>`_, 2012, arXiv 1211.5063.

    .. note::
        Flax's `{"params": ...}` is one network. In a tree without that level, as
        `{"kernel": ..., "bias": ...}`, each entry counts as a network.

    .. note::
        As under optax, a finite gradient whose squared norm overflows (in float32, a norm above
        1.8e19) is clipped to zero.
    """
    if not isinstance(max_norm, jax.core.Tracer) and max_norm == math.inf:
        return optax.with_extra_args_support(optax.identity())
    check_range("max_norm", max_norm, 0.0, open_low=True)
    clip = optax.clip_by_global_norm(max_norm)

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        del params, extra_args
        if not isinstance(updates, Mapping):
            return clip.update(updates, state)
        networks, treedef = jax.tree.flatten(updates, is_leaf=lambda node: node is not updates)
        clipped = [clip.update(network, state)[0] for network in networks]
        return jax.tree.unflatten(treedef, clipped), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)
