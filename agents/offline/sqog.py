"""SQOG: TD3+BC whose critic is also smooth around the actions of the data."""

from __future__ import annotations

from typing import NamedTuple

import jax
import optax
from flax import struct

from agents.offline.common import (
    LossAndAux,
    Normalizer,
    Number,
    OfflineLearner,
    Params,
    Transitions,
    smoothed,
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
class SQOGConfig(TD3Config):
    """Settings of SQOG; the defaults are the authors' program's.

    Beside `agents.offline.common.OfflineConfig`'s and `agents.offline.td3.TD3Config`'s:

    Attributes:
        alpha: weight of the value against imitation in the actor's loss. The authors ship 150, with
            beta 0.5, and 25, with beta 2.5.
        beta: weight of smoothness in the critic's loss.
        neighbour_noise: standard deviation of the noise that leads from an action to a neighbour.
        neighbour_clip: that noise is clipped to within this.
    """

    actor_widths: tuple[int, ...] = struct.field(pytree_node=False, default=(256,) * 4)
    critic_widths: tuple[int, ...] = struct.field(pytree_node=False, default=(256,) * 4)
    initialization: str = struct.field(pytree_node=False, default="orthogonal")
    policy_noise: Number = 0.6
    alpha: Number = 150.0
    beta: Number = 0.5
    neighbour_noise: Number = 0.6
    neighbour_clip: Number = 0.5


class SQOGNoise(NamedTuple):
    """Standard normal noise of one critic update, each of shape (batch, action_size)."""

    policy: jax.Array
    neighbour: jax.Array


def draw_noise(key: jax.Array, action: jax.Array) -> SQOGNoise:
    """Noise for the target's actions and, independent of it, for the neighbours."""
    return SQOGNoise(*(normal_noise(key, action) for key in jax.random.split(key)))


def critic_loss(
    networks: Networks,
    config: SQOGConfig,
    critic_params: Params,
    target_params: Params,
    batch: Transitions,
    noise: SQOGNoise,
) -> LossAndAux:
    """The critic's loss; see `sqog`."""
    action = next_actions(networks, config, target_params, batch, noise.policy)
    next_value = smaller_next_value(networks, target_params, batch, action)
    target = td_target(batch.reward, batch.terminated, config.discount, next_value)
    values, errors, activations, metrics = td_errors(networks, critic_params, batch, target)
    neighbour = smoothed(
        batch.action, noise.neighbour, config.neighbour_noise, config.neighbour_clip
    )
    near, _ = twin_values(networks.critic, critic_params, batch.observation, neighbour)
    roughness = sum_of_mean_squares(near - jax.lax.stop_gradient(values))
    loss = sum_of_mean_squares(errors) + config.beta * roughness
    return loss, (activations, metrics | {"critic_loss": loss, "roughness": roughness})


def actor_loss(
    networks: Networks,
    config: SQOGConfig,
    actor_params: Params,
    critic_params: Params,
    batch: Transitions,
) -> LossAndAux:
    """The actor's loss; see `sqog`."""
    return behaviour_loss_sum(networks, actor_params, critic_params, batch, 1.0, config.alpha)


def sqog(
    observation_size: int,
    action_size: int,
    config: SQOGConfig,
    actor_optimizer: optax.GradientTransformation,
    critic_optimizer: optax.GradientTransformation,
    normalizer: Normalizer | None = None,
) -> OfflineLearner:
    r"""Smooth Q-function out-of-distribution generalisation.

    As `agents.offline.td3_bc.td3_bc`, with neighbours
    :math:`\tilde a = \operatorname{clip}(a + \operatorname{clip}(\sigma_n z, \pm c_n), \pm 1)` of
    the data's actions and no gradient through :math:`\operatorname{sg}`,

    .. math::
        L_Q &= \sum_i \overline{(Q_i(s, a) - y)^2}
               + \beta \sum_i \overline{(Q_i(s, \tilde a) - \operatorname{sg} Q_i(s, a))^2}, \\
        L_\pi &= \overline{\lVert \pi(s) - a \rVert^2 - \lambda \min_i Q_i(s, \pi(s))}, \qquad
        \lambda = \alpha / \overline{|\min_i Q_i(s, \pi(s))|}

    Conventions: sums over critics of means over the batch; the squared distance is a sum over
    action dimensions; no gradient passes through lambda.

    Args:
        observation_size: length of an observation.
        action_size: length of an action; actions are in [-1, 1].
        config: settings.
        actor_optimizer: any optax transformation. Published: Adam at 3e-4.
        critic_optimizer: the same, for the tree `{"q0": ..., "q1": ...}`.
        normalizer: of observations; None leaves them as they are, as published.

    Returns:
        The learner, with `td3_bc`'s metrics and `roughness`, the sum that beta multiplies.

    Raises:
        ValueError: as `td3_bc`.

    References:
        Yao et al., Offline RL with Smooth OOD Generalization in Convex Hull and its Neighborhood,
        ICLR 2025, `arXiv:2506.08417 <https://arxiv.org/abs/2506.08417>`_

    .. note::
        This is the method by its equations, checked by finite differences and not against runs of
        the authors' program, which differs in these points. It smooths the target's action and then
        overwrites it with the plain one of the online actor; `policy_noise=0` comes near to that.
        It draws the same noise at every step between two evaluations, and the same one for target
        and neighbours. Its critic-only step goes on using the actor that it was compiled with. On
        every second batch the critic takes two steps, the second one after the actor's.

    Examples:
        >>> import optax
        >>> from agents.offline.sqog import SQOGConfig, sqog
        >>> config = SQOGConfig(iterations=1000, alpha=25.0, beta=2.5)
        >>> learner = sqog(11, 3, config, optax.adam(3e-4), optax.adam(3e-4))
        >>> learner.temporal_difference is None  # the critic follows the smoothness term too
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
