"""The parameters to use, where an optimizer trains others."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib


def evaluation_params(state: optax.OptState, params: optax.Params) -> optax.Params:
    r"""The parameters to evaluate and to use, given those that an optimizer trains.

    They are the same for all optimizers but a few. Schedule-free ones train :math:`y`, at which
    gradients are taken, and are to be used at the average :math:`x`, with

    .. math::

      y = (1 - \beta_1)\, z + \beta_1\, x, \qquad x = (y - (1 - \beta_1)\, z) / \beta_1.

    Their state is found wherever it is: in a chain, and under wrappers such as `optax.masked`,
    `optax.partition`, `optax.MultiSteps` or `optax.inject_hyperparams`.

    Another optimizer of this kind, one that averages for example, takes part if its state is of a
    class with a method `evaluation_params`, from the trained parameters to those to use.

    Args:
        state: the optimizer's state.
        params: the parameters that it trains. Both may have leading axes, as `jax.vmap` gives them.

    Returns:
        The parameters to use, in the dtypes of `params`; `params` itself if they are the same.

    Raises:
        ValueError: if the state is not one of an optimizer of these parameters.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> import optim
        >>> optimizer = optax.chain(optax.clip(1.0), optim.make("schedule_free_sgd", 1.0))
        >>> params = jnp.zeros(1)
        >>> state = optimizer.init(params)
        >>> for _ in range(2):
        ...     updates, state = optimizer.update(jnp.ones(1), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> used = evaluation_params(state, params)
        >>> round(float(params[0]), 4), round(float(used[0]), 4)
        (-1.55, -1.5)

    References:
        Defazio et al., `The Road Less Scheduled <https://arxiv.org/abs/2405.15682>`_, 2024,
        arXiv 2405.15682.
    """
    for node in jax.tree.leaves(state, is_leaf=_has_other_params):
        if isinstance(node, optax.contrib.ScheduleFreeState):
            params = _schedule_free_params(node, params)
        elif _has_other_params(node):
            params = node.evaluation_params(params)
    return params


def _has_other_params(node: Any) -> bool:
    return isinstance(node, optax.contrib.ScheduleFreeState) or hasattr(
        type(node), "evaluation_params"
    )


def _schedule_free_params(
    state: optax.contrib.ScheduleFreeState, params: optax.Params
) -> optax.Params:
    def average(z: Any, y: Any) -> Any:
        if _is_masked(z):
            return y
        b1 = jnp.asarray(state.b1, y.dtype)
        b1 = b1.reshape(b1.shape + (1,) * (y.ndim - b1.ndim))
        return (y - (1 - b1) * z.astype(y.dtype)) / b1

    try:
        return jax.tree.map(average, state.z, params, is_leaf=_is_masked)
    except ValueError:
        found, given = jax.tree.structure(state.z), jax.tree.structure(params)
        raise ValueError(
            f"state must be that of an optimizer of params, {given}; got one of {found}."
        ) from None


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
