"""L2 Init, or regenerative regularisation: a penalty on the distance from the initial weights."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_params, check_range
from optim._leaves import safe_sqrt, widest_dtype, working_dtype
from optim._parameter_map import initial_copy
from optim._paths import match_tree
from optim._penalty import with_gradient, with_penalty
from optim._promotion import with_standard_promotion
from optim._trained import on_trained_leaves

Penalty = Literal["squared", "mean", "norm"]


class L2InitState(NamedTuple):
    """State of `l2_init`."""

    initial: optax.Params  # the parameters that `init` was given
    inner_state: optax.OptState


@on_trained_leaves
def l2_init(
    inner: optax.GradientTransformation,
    strength: jax.typing.ArrayLike = 1e-2,
    penalty: Penalty = "squared",
    mask: Any | Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Pulls the parameters to those that an optimizer began with, by a term of the gradient.

    With :math:`\Delta = \theta - \theta_0` the way from the initial parameters, :math:`\lambda` the
    strength and :math:`n` the number of entries of a leaf, the inner optimizer is given the
    gradient of the loss plus

    .. math::

      \begin{align*}
        \tfrac{\lambda}{2} \textstyle\sum \Delta^2 &: \quad
          g \leftarrow g + \lambda \Delta && \text{penalty "squared"} \\
        \lambda \textstyle\sum_\text{leaves} \overline{\Delta^2} &: \quad
          g \leftarrow g + 2 \lambda \Delta / n && \text{penalty "mean"} \\
        \lambda \|\Delta\| &: \quad
          g \leftarrow g + \lambda \Delta / \|\Delta\| && \text{penalty "norm"}
      \end{align*}

    where the last norm is over all selected leaves together and its term is 0 at
    :math:`\Delta = 0`.

    Args:
        inner: a whole optimizer, learning rate included, for example `optax.adam(1e-3)`.
        strength: :math:`\lambda`, at least 0. With 0, this is the inner optimizer. The penalties'
            strengths cannot be compared. For "squared" the authors try 1e-5 to 1e-2 in supervised
            learning, where 1e-2 does best. In PPO others use "mean" with 1e-3 or 1e-2 and "norm"
            with 1e-2.
        penalty: "squared" is what the authors' code has; their paper leaves out the factor of one
            half. "mean" and "norm" are found in code of others for PPO.
        mask: booleans that select the leaves: a pytree that mirrors the parameters or is a prefix
            of them, matched by names, or a function from parameters to one. `None` selects all; the
            authors leave out the leaves of normalisation layers.

    Returns:
        The optimizer. `update` needs the parameters; extra arguments go to the inner optimizer, and
        `value`, `grad`, `value_fn` and `obj_fn` are those of the loss with the penalty.

    Raises:
        ValueError: if `strength` is outside its range or `penalty` is unknown; from `init` or
            `update`, if a selected leaf is complex; from `update`, if `params` is missing or an
            extra argument is given that cannot be changed with the loss.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = l2_init(optax.sgd(0.1), strength=0.1)
        >>> state = optimizer.init(jnp.array([1.0, -2.0]))
        >>> updates, _ = optimizer.update(jnp.zeros(2), state, jnp.array([1.5, -1.0]))
        >>> print(updates.round(4))
        [-0.005 -0.01 ]

    References:
        Kumar et al., `Maintaining Plasticity in Continual Learning via Regenerative Regularization
        <https://arxiv.org/abs/2308.11958>`_, 2023, arXiv 2308.11958.

    .. note::
      The penalty passes through the inner optimizer, as in all sources: under Adam its pull is
      rescaled with the gradient. For the decoupled pull see `shrink_perturb` with
      `noise="initial"`.

    .. note::
      In all sources the penalty is part of the loss, before the gradient is clipped. Where a
      learner clips gradients before the optimizer, as the PPO of this project does, only the
      gradient of the loss is clipped.

    .. note::
      Initial weights that are drawn anew at every step, the first power and the Wasserstein
      distance, which the authors also try, are not offered.
    """
    check_range("strength", strength, 0.0)
    if penalty not in get_args(Penalty):
        raise ValueError(f"penalty must be one of {', '.join(get_args(Penalty))}, got {penalty!r}.")
    inner = with_standard_promotion(inner)

    def distances(params: Any, initial: Any) -> list[jax.Array | None]:
        selected = match_tree("mask", True if mask is None else mask, params)
        leaves = zip(*map(jax.tree.leaves, (params, initial, selected)), strict=True)
        return [
            leaf.astype(working_dtype(leaf)) - start.astype(working_dtype(leaf)) if chosen else None
            for leaf, start, chosen in leaves
        ]

    def init_fn(params: optax.Params) -> L2InitState:
        selected = match_tree("mask", True if mask is None else mask, params)
        return L2InitState(
            initial=jax.tree.map(
                lambda leaf, chosen: initial_copy(leaf) if chosen else jnp.zeros(0),
                params,
                selected,
            ),
            inner_state=inner.init(params),
        )

    def update_fn(
        updates: optax.Updates,
        state: L2InitState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, L2InitState]:
        check_params("L2 Init", params)
        terms = _gradient(distances(params, state.initial), strength, penalty)
        value = lambda at: _value(distances(at, state.initial), strength, penalty)  # noqa: E731
        extra_args = with_penalty(extra_args, params, value, terms, "L2 Init")
        updates, inner_state = inner.update(
            with_gradient(updates, terms), state.inner_state, params, **extra_args
        )
        return updates, L2InitState(state.initial, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _gradient(
    distances: Sequence[jax.Array | None], strength: jax.typing.ArrayLike, penalty: Penalty
) -> list[jax.Array | None]:
    norm = safe_sqrt(_sum_of_squares(distances))

    def term(distance: jax.Array) -> jax.Array:
        factor = jnp.asarray(strength, distance.dtype)
        if penalty == "mean":
            factor = 2 * factor / max(distance.size, 1)
        elif penalty == "norm":
            factor = factor / jnp.where(norm > 0, norm, 1).astype(distance.dtype)
        return factor * distance

    return [None if distance is None else term(distance) for distance in distances]


def _value(
    distances: Sequence[jax.Array | None], strength: jax.typing.ArrayLike, penalty: Penalty
) -> jax.Array:
    if penalty == "mean":
        means = [d / max(d.size, 1) ** 0.5 for d in distances if d is not None]
        total = _sum_of_squares(means)
    else:
        total = _sum_of_squares(distances)
        total = total / 2 if penalty == "squared" else safe_sqrt(total)
    return jnp.asarray(strength, total.dtype) * total


def _sum_of_squares(distances: Sequence[jax.Array | None]) -> jax.Array:
    dtype = widest_dtype(distances)
    squares = [jnp.sum(jnp.square(d.astype(dtype))) for d in distances if d is not None]
    return sum(squares, start=jnp.zeros([], dtype))
