"""Gradient clipping for trees that hold several networks."""

import math
from typing import Any

import jax
import optax

from optim._checks import check_range
from optim._paths import Path, leaf_paths, networks
from optim._trained import on_trained_leaves


@on_trained_leaves
def clip_by_network_norm(max_norm: jax.typing.ArrayLike) -> optax.GradientTransformationExtraArgs:
    r"""Clips the global norm of each network's gradient on its own.

    A network is a top-level entry of the gradient tree, as in `{"actor": ..., "critic": ...}`:
    a large gradient of the critic leaves the actor's alone. Only names count, so a dataclass, a
    module of flax nnx or equinox, and a tree below flax's `params` are all the same. With
    :math:`g_k` the gradient of network :math:`k` and :math:`\|g_k\|` its norm over all leaves,

    .. math::

      g_k \leftarrow g_k \min(1, \text{max\_norm} / \|g_k\|).

    A tree of two levels, such as `{"Dense_0": {"kernel": ..., "bias": ...}}`, is one network,
    unless its entries are called `actor`, `critic`, `policy` or `value`. `optim.explain` prints
    what is clipped together.

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
        A single network of three or more levels, such as a torso with modules inside, counts as
        several: `optax.clip_by_global_norm` clips it as one.

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
        leaves, treedef = jax.tree.flatten(updates)
        groups: dict[Path, list[int]] = {}
        for i, network in enumerate(networks(leaf_paths(updates))):
            groups.setdefault(network, []).append(i)
        for places in groups.values():
            clipped, _ = clip.update([leaves[i] for i in places], state)
            for i, leaf in zip(places, clipped, strict=True):
                leaves[i] = leaf
        return jax.tree.unflatten(treedef, leaves), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)
