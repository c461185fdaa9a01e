"""PARS: TD3+BC with large rewards, a normalised critic and low values at impossible actions.

The details here could not be checked against the paper; see the note of `pars`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from agents.offline.common import (
    LossAndAux,
    Normalizer,
    Number,
    OfflineLearner,
    Params,
    Transitions,
    sum_of_mean_squares,
    td_target,
    twin_values,
)
from agents.offline.td3 import (
    Losses,
    Networks,
    TD3Config,
    behaviour_loss_sum,
    next_actions,
    normal_noise,
    smaller_next_value,
    td3_learner,
    td_errors,
)


@struct.dataclass
class PARSConfig(TD3Config):
    """Settings of PARS; the defaults are a third party's, not checked against the paper.

    Beside `agents.offline.common.OfflineConfig`'s and `agents.offline.td3.TD3Config`'s:

    Attributes:
        reward_scale: c; rewards are multiplied by it.
        min_reward: the smallest reward of the task, before scaling. The value at impossible actions
            is pulled to reward_scale * min_reward / (1 - discount).
        infeasible_weight: weight of that pull in the critic's loss.
        infeasible_distance: L; impossible actions have each component in [L, 2 L] or [-2 L, -L].
        behaviour_weight: weight of imitation in the actor's loss.
    """

    discount: Number = 0.995
    actor_widths: tuple[int, ...] = struct.field(pytree_node=False, default=(256, 256, 256))
    critic_widths: tuple[int, ...] = struct.field(pytree_node=False, default=(256, 256, 256))
    critic_layer_norm: bool = struct.field(pytree_node=False, default=True)
    reward_scale: Number = 100.0
    min_reward: Number = 0.0
    infeasible_weight: Number = 0.001
    infeasible_distance: Number = 1000.0
    behaviour_weight: Number = 0.01


class PARSNoise(NamedTuple):
    """Noise of one critic update, each of shape (batch, action_size)."""

    policy: jax.Array  # standard normal
    infeasible: jax.Array  # uniform in [-1, 1]


def draw_noise(key: jax.Array, action: jax.Array) -> PARSNoise:
    """Noise for the target's actions, and what picks the impossible ones."""
    policy_key, infeasible_key = jax.random.split(key)
    uniform = jax.random.uniform(infeasible_key, action.shape, action.dtype, -1.0, 1.0)
    return PARSNoise(normal_noise(policy_key, action), uniform)


def infeasible_actions(uniform: jax.Array, distance: Number) -> jax.Array:
    """Maps [0, 1] to [L, 2 L] and [-1, 0) to [-2 L, -L), component by component.

    Examples:
        >>> import jax.numpy as jnp
        >>> print(infeasible_actions(jnp.asarray([-1.0, -0.5, 0.0, 1.0]), 10.0))
        [-20. -15.  10.  20.]
    """
    return distance * jnp.where(uniform < 0.0, uniform - 1.0, uniform + 1.0)


def critic_loss(
    networks: Networks,
    config: PARSConfig,
    critic_params: Params,
    target_params: Params,
    batch: Transitions,
    noise: PARSNoise,
) -> LossAndAux:
    """The critic's loss; see `pars`."""
    action = next_actions(networks, config, target_params, batch, noise.policy)
    next_value = smaller_next_value(networks, target_params, batch, action)
    reward = config.reward_scale * batch.reward
    target = td_target(reward, batch.terminated, config.discount, next_value)
    _, errors, activations, metrics = td_errors(networks, critic_params, batch, target)
    outside, _ = twin_values(
        networks.critic,
        critic_params,
        batch.observation,
        infeasible_actions(noise.infeasible, config.infeasible_distance),
    )
    lowest = config.reward_scale * config.min_reward / (1.0 - config.discount)
    excess = sum_of_mean_squares(outside - lowest)
    loss = sum_of_mean_squares(errors) + config.infeasible_weight * excess
    return loss, (activations, metrics | {"critic_loss": loss, "infeasible_loss": excess})


def actor_loss(
    networks: Networks,
    config: PARSConfig,
    actor_params: Params,
    critic_params: Params,
    batch: Transitions,
) -> LossAndAux:
    """The actor's loss; see `pars`."""
    return behaviour_loss_sum(
        networks, actor_params, critic_params, batch, config.behaviour_weight, 1.0
    )


def pars(
    observation_size: int,
    action_size: int,
    config: PARSConfig,
    actor_optimizer: optax.GradientTransformation,
    critic_optimizer: optax.GradientTransformation,
    normalizer: Normalizer | None = None,
) -> OfflineLearner:
    r"""Penalising infeasible actions and reward scaling.

    As `agents.offline.td3_bc.td3_bc`, with actions :math:`\hat a` far outside [-1, 1] in every
    dimension,

    .. math::
        L_Q &= \sum_i \overline{(Q_i(s, a) - y)^2}
               + w_i \sum_i \overline{(Q_i(s, \hat a) - Q_{min})^2}, \qquad
        y = c\, r + \gamma (1 - d) \min_i \bar Q_i(s', a'), \\
        Q_{min} &= c\, r_{min} / (1 - \gamma), \\
        L_\pi &= \overline{w_b \lVert \pi(s) - a \rVert^2 - \lambda \min_i Q_i(s, \pi(s))}, \qquad
        \lambda = 1 / \overline{|\min_i Q_i(s, \pi(s))|}

    Conventions: sums over critics of means over the batch; the squared distance is a sum over
    action dimensions; no gradient passes through lambda. The critics have layer normalisation after
    each ReLU, the actor has none. Metrics of values are in scaled rewards, and so is
    `reward_scale` times `agents.offline.common.collapse_line`.

    Args:
        observation_size: length of an observation.
        action_size: length of an action; actions are in [-1, 1].
        config: settings. Set `min_reward` to the task's.
        actor_optimizer: any optax transformation, e.g. Adam at 3e-4.
        critic_optimizer: the same, for the tree `{"q0": ..., "q1": ...}`.
        normalizer: of observations; None leaves them as they are.

    Returns:
        The learner, with `td3_bc`'s metrics and `infeasible_loss`, the sum that w_i multiplies.

    Raises:
        ValueError: as `td3_bc`.

    References:
        Kim et al., Penalizing Infeasible Actions and Reward Scaling in Reinforcement Learning with
        Offline Data, ICML 2025, `arXiv:2507.08761 <https://arxiv.org/abs/2507.08761>`_

    .. note::
        Not checked against the paper: only its abstract was at hand. The shape of the losses and
        every default follow one third-party port, which is not the authors' and says of itself that
        its penalty is one-sided, which it is not. Do not take results of this learner for PARS's.

    Examples:
        >>> import optax
        >>> from agents.offline.pars import PARSConfig, pars
        >>> config = PARSConfig(iterations=1000, min_reward=-1.0)
        >>> learner = pars(11, 3, config, optax.adam(3e-4), optax.adam(3e-4))
        >>> learner.temporal_difference is None  # the critic follows the penalty too
        True
    """
    losses = Losses(draw_noise, critic_loss, actor_loss, only_td=False)
    return td3_learner(
        observation_size,
        action_size,
        config,
        losses,
        actor_optimizer,
        critic_optimizer,
        normalizer,
    )
