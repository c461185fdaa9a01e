"""Weight clipping: weights stay within a multiple of the bounds of a usual initialisation."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_params, check_range
from optim._kernels import kernel_axes, kernels_of_biases
from optim._leaves import working_dtype
from optim._parameter_map import mapped_update
from optim._promotion import with_standard_promotion
from optim._trained import on_trained_leaves


@on_trained_leaves
def weight_clipping(
    inner: optax.GradientTransformation,
    kappa: jax.typing.ArrayLike = 3.0,
    matrix_mask: Any | Callable[[optax.Params], Any] | None = None,
    ensemble_axes: int | Any | None = None,
    heads: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""Clips the weights of each layer after every update of an optimizer.

    With :math:`u` the update by the inner optimizer and :math:`n` the number of inputs of a
    layer, for its kernel and its bias,

    .. math::

      \theta \leftarrow \operatorname{clip}\!\Big(\theta + u,\; -\frac{\kappa}{\sqrt{n}},\;
        \frac{\kappa}{\sqrt{n}}\Big)

    For convolutions :math:`n` is height times width times input channels. The inner optimizer is
    not told: its moments may go on pushing a weight that is at its bound.

    Args:
        inner: a whole optimizer, learning rate included, for example `optax.adam(3e-4)`.
        kappa: width of the bounds, greater than 0. The larger it is, the more this is the inner
            optimizer, bit for bit where nothing is clipped. 3 is the authors' for PPO, which they
            run on networks of two tanh layers with 64 units; in supervised learning they try 1
            to 5.
        matrix_mask: booleans that select the clipped kernels: a pytree that mirrors the parameters
            or is a prefix of them, matched by names, or a function from parameters to one. `None`
            selects all, but see `heads`. A bias is clipped with the kernel beside it.
        ensemble_axes: number of leading axes that index the members of an ensemble, for all leaves
            or as a pytree like `matrix_mask`. `None` is 0.
        heads: whether a `matrix_mask` of `None` selects the last layer of each network too. Layers
            are ordered by their names; networks are the entries at the top of a tree of three or
            more levels.

    Returns:
        The optimizer. Its state is the inner one's. `update` needs the parameters; extra arguments
        go to the inner optimizer.

    Raises:
        ValueError: if `kappa` is not greater than 0; from `update`, if `params` is missing, a
            clipped leaf is complex or `ensemble_axes` is traced or negative.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = weight_clipping(optax.sgd(1.0), kappa=1.0)
        >>> params = {"kernel": jnp.full((4, 1), 0.25), "bias": jnp.zeros(1)}
        >>> grads = {"kernel": jnp.array([[-1.0], [0.0], [0.5], [1.0]]), "bias": jnp.zeros(1)}
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> print(optax.apply_updates(params, updates)["kernel"].ravel())
        [ 0.5   0.25 -0.25 -0.5 ]

    References:
        Elsayed et al., `Weight Clipping for Deep Continual and Reinforcement Learning
        <https://arxiv.org/abs/2407.01704>`_, RLJ 2024, arXiv 2407.01704.

    .. note::
      The bounds are those of PyTorch's default initialisation times `kappa`, whatever the real one:
      an orthogonal or He initialisation may lie beyond them, and the first update then moves many
      weights.

    .. note::
      Scales and offsets of normalisation layers and leaves beside the layers, such as `log_std`,
      are never clipped. The authors' code for PPO also clips `log_std`, to
      :math:`\kappa / \sqrt{\text{actions}}`, and its switch for the last layer spares the actor's
      alone.

    .. note::
      Whoever adds the update to the parameters rounds once more: a clipped weight may end one
      rounding beyond its bound. `clip_weights` is exact.
    """
    check_range("kappa", kappa, 0.0, open_low=True)
    inner = with_standard_promotion(inner)

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        check_params("weight clipping", params)
        updates, state = inner.update(updates, state, params, **extra_args)
        treedef: Any = jax.tree.structure(params)
        clipped = [
            update if fan_in is None else mapped_update(update, leaf, _clip(kappa, fan_in))
            for update, leaf, fan_in in zip(
                treedef.flatten_up_to(updates),
                jax.tree.leaves(params),
                _fan_ins(params, matrix_mask, ensemble_axes, heads),
                strict=True,
            )
        ]
        return treedef.unflatten(clipped), state

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def clip_weights(
    params: optax.Params,
    kappa: jax.typing.ArrayLike = 3.0,
    matrix_mask: Any | Callable[[optax.Params], Any] | None = None,
    ensemble_axes: int | Any | None = None,
    heads: bool = True,
) -> optax.Params:
    """Clips weights as `weight_clipping` does, exactly.

    Args:
        params: the parameters.
        kappa: width of the bounds, greater than 0.
        matrix_mask: see `weight_clipping`.
        ensemble_axes: see `weight_clipping`.
        heads: see `weight_clipping`.

    Returns:
        The parameters, within their bounds.

    Raises:
        ValueError: if an argument is wrong, as in `weight_clipping`.

    Examples:
        >>> import jax.numpy as jnp
        >>> print(clip_weights({"kernel": jnp.ones((4, 1))}, kappa=1.0)["kernel"].ravel())
        [0.5 0.5 0.5 0.5]
    """
    check_range("kappa", kappa, 0.0, open_low=True)
    treedef: Any = jax.tree.structure(params)
    fan_ins = _fan_ins(params, matrix_mask, ensemble_axes, heads)
    return treedef.unflatten(
        [
            leaf if fan_in is None else _clip(kappa, fan_in)(leaf)
            for leaf, fan_in in zip(jax.tree.leaves(params), fan_ins, strict=True)
        ]
    )


def _fan_ins(params: Any, mask: Any, ensemble_axes: Any, heads: bool) -> Sequence[int | None]:
    """Inputs of the layer of each leaf, in flatten order; None for what is not clipped."""
    leaves = jax.tree.leaves(params)
    axes = kernel_axes(params, mask, ensemble_axes, heads=heads)
    of_biases = kernels_of_biases(params, axes)
    owners = [of_biases[i] if number is None else i for i, number in enumerate(axes)]
    return [
        None if owner is None else math.prod(leaves[owner].shape[axes[owner] : -1])
        for owner in owners
    ]


def _clip(kappa: jax.typing.ArrayLike, fan_in: int) -> Callable[[jax.Array], jax.Array]:
    def clip(leaf: jax.Array) -> jax.Array:
        bound = jnp.asarray(kappa, working_dtype(leaf)) / math.sqrt(fan_in)
        return jnp.clip(leaf, -bound.astype(leaf.dtype), bound.astype(leaf.dtype))

    return clip
