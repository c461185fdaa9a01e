"""ReGraMa: units whose incoming weights have almost no gradient are renewed now and then."""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from optim import _renewal, _units
from optim._checks import check_params, check_period, check_range, check_real
from optim._leaves import key_of_seed, working_dtype
from optim._promotion import with_standard_promotion
from optim._trained import on_trained_leaves

Score = Literal["kernel_grad"]

_RENEWAL = _renewal.Renewal(renews_bias_state=True, in_turn=False)


class RegramaState(NamedTuple):
    """State of `regrama`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32
    key: jax.Array
    inner_state: optax.OptState


@on_trained_leaves
def regrama(
    inner: optax.GradientTransformation,
    period: int | jax.Array | None = 1000,
    tau: jax.typing.ArrayLike = 0.01,
    initializer: _renewal.Initializer = "he_uniform",
    score: Score = "kernel_grad",
    links: _units.Links | None = None,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""ReGraMa by the gradients of kernels, around any optimizer.

    With :math:`g_{lj}` the gradient of the loss by the :math:`l`-th incoming weight of unit
    :math:`j` of a hidden layer, as it is given to this wrapper, after every `period` updates of the
    inner optimizer the units with

    .. math::

      G_j = \operatorname{mean}_l |g_{lj}|, \qquad
      \frac{G_j}{\operatorname{mean}_k G_k + 10^{-8}} \le \tau

    get a bias of 0 and incoming weights drawn anew, and then their outgoing weights become 0. In
    the inner optimizer's state, all that mirrors the parameters (the moments) is put back to its
    beginning for these weights and biases, and for nothing else.

    Args:
        inner: a whole optimizer, learning rate included. Give `adam_gnt` instead of `optax.adam`,
            whose step count goes on for renewed weights: their first steps would be too long.
        period: updates between two renewals, a whole number of at least 1. With `None` there are
            none, and this is the inner optimizer, bit for bit.
        tau: the largest score of a unit to be renewed. With a negative one, this is the inner
            optimizer.
        initializer: of the incoming weights: uniform within the bound of "he_uniform",
            "xavier_uniform", "lecun_uniform" or "torch_uniform", the inverse root of the inputs.
            The paper draws from each layer's own distribution.
        score: "kernel_grad", the equation above. The paper's own score, which is of the gradients
            by activations, example by example, cannot be had from the gradients of parameters.
        links: for each hidden layer the layers that it feeds, or `None` to find them by names and
            shapes, see `redo`.
        key: seed or key of the draws; may be traced. `init` mixes it with the initial parameters,
            so that seeds under `vmap` draw numbers of their own.

    Returns:
        The optimizer. `update` needs the parameters; extra arguments go to the inner optimizer.

    Raises:
        ValueError: if a number is outside its range, or `initializer` or `score` is unknown; from
            `init` and `update`, if it cannot be told which layer feeds which, or a mask hides a
            part of a network; from `update`, if `params` is missing, or a gradient is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = regrama(optax.sgd(0.1), period=1)
        >>> params = {
        ...     "Dense_0": {"kernel": jnp.ones((1, 2)), "bias": jnp.ones(2)},
        ...     "Dense_1": {"kernel": jnp.ones((2, 1)), "bias": jnp.ones(1)},
        ... }
        >>> grads = jax.tree.map(jnp.zeros_like, params)
        >>> grads["Dense_0"]["kernel"] = jnp.array([[0.0, 1.0]])  # None reaches the first unit.
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> params = optax.apply_updates(params, updates)
        >>> print(params["Dense_0"]["bias"], params["Dense_1"]["kernel"].ravel())
        [0. 1.] [0. 1.]

    References:
        Liu et al., `Measure gradients, not activations! Enhancing neuronal activity in deep
        reinforcement learning <https://arxiv.org/abs/2505.24061>`_, NeurIPS 2025, arXiv 2505.24061.

    .. note::
      It differs from the paper where gradients of examples cancel: with +1 and -1 the paper's score
      is 1, and this one 0. It also counts a unit as inactive whose inputs are all near 0.

    .. note::
      A unit whose outgoing weights are 0 has no gradient, so one that has just been renewed would
      be so again with a period of 1. The paper's reset of normalisation layers, whose rule is not
      known, and its limit on the share of units, are not here.

    .. note::
      What comes after this wrapper in a chain must leave the updates as they are. An inner
      optimizer that works out the parameters from copies of its own, as `trac`, undoes renewals.
    """
    check_period(period)
    check_range("tau", tau, -float("inf"))
    _renewal.check_initializer(initializer)
    if score not in get_args(Score):
        raise ValueError(f"score must be one of {', '.join(get_args(Score))}, got {score!r}.")
    inner = with_standard_promotion(inner)

    def init_fn(params: optax.Params) -> RegramaState:
        _units.find_links(params, links)
        return RegramaState(jnp.zeros([], jnp.int32), key_of_seed(key, params), inner.init(params))

    def update_fn(
        updates: optax.Updates,
        state: RegramaState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, RegramaState]:
        check_params("ReGraMa", params)
        check_real("ReGraMa", updates)
        found = _units.find_links(params, links)
        grads = jax.tree.leaves(updates)
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        count = optax.safe_increment(state.count)
        if found and period is not None:
            updates, inner_state = _renewal.renew_dormant(
                inner,
                _RENEWAL,
                initializer,
                found,
                [_units.relative(_mean_of_columns(grads[link.kernel]), 1e-8) for link in found],
                tau,
                count % jnp.asarray(period, count.dtype) == 0,
                params,
                updates,
                inner_state,
                jax.random.fold_in(state.key, count),
            )
        return updates, RegramaState(count, state.key, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _mean_of_columns(grad: jax.Array) -> jax.Array:
    """Mean absolute gradient of each unit's incoming weights."""
    wide = grad.astype(working_dtype(grad))
    return jnp.mean(jnp.abs(wide), axis=tuple(range(grad.ndim - 1)))
