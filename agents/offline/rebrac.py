"""ReBRAC: TD3+BC with a penalty in the critic as well, and a normalised critic."""

from __future__ import annotations

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
class ReBRACConfig(TD3Config):
    """Settings of ReBRAC; the defaults are the published ones for locomotion.

    Beside `agents.offline.common.OfflineConfig`'s and `agents.offline.td3.TD3Config`'s:

    Attributes:
        actor_penalty: weight of imitation in the actor's loss. Published: one for each data set,
            e.g. 0.001 for halfcheetah-medium, 0.01 for hopper-medium, 0.05 for pen-cloned.
        critic_penalty: weight of the distance of the next action in the target. Published, on the
            same data sets: 0.01, 0.01, 0.5.
    """

    batch_size: int = struct.field(pytree_node=False, default=1024)
    actor_widths: tuple[int, ...] = struct.field(pytree_node=False, default=(256, 256, 256))
    critic_widths: tuple[int, ...] = struct.field(pytree_node=False, default=(256, 256, 256))
    initialization: str = struct.field(pytree_node=False, default="edac")
    critic_layer_norm: bool = struct.field(pytree_node=False, default=True)
    actor_penalty: Number = 0.01
    critic_penalty: Number = 0.01


def critic_loss(
    networks: Networks,
    config: ReBRACConfig,
    critic_params: Params,
    target_params: Params,
    batch: Transitions,
    noise: jax.Array,
) -> LossAndAux:
    """The critic's loss; see `rebrac`."""
    action = next_actions(networks, config, target_params, batch, noise)
    distance = jnp.sum(jnp.square(action - batch.next_action), axis=-1)
    penalty = config.critic_penalty * jnp.where(batch.has_next_action, distance, 0.0)
    next_value = smaller_next_value(networks, target_params, batch, action) - penalty
    target = td_target(batch.reward, batch.terminated, config.discount, next_value)
    _, errors, activations, metrics = td_errors(networks, critic_params, batch, target)
    loss = sum_of_mean_squares(errors)
    return loss, (activations, metrics | {"critic_loss": loss})


def actor_loss(
    networks: Networks,
    config: ReBRACConfig,
    actor_params: Params,
    critic_params: Params,
    batch: Transitions,
) -> LossAndAux:
    """The actor's loss; see `rebrac`."""
    return behaviour_loss_sum(
        networks, actor_params, critic_params, batch, config.actor_penalty, 1.0
    )


def rebrac(
    observation_size: int,
    action_size: int,
    config: ReBRACConfig,
    actor_optimizer: optax.GradientTransformation,
    critic_optimizer: optax.GradientTransformation,
    normalizer: Normalizer | None = None,
) -> OfflineLearner:
    r"""Revisited behaviour-regularised actor-critic.

    As `agents.offline.td3_bc.td3_bc`, with :math:`a'_D` the next action in the data,

    .. math::
        L_Q &= \sum_i \overline{(Q_i(s, a) - y)^2}, \\
        y &= r + \gamma (1 - d) (\min_i \bar Q_i(s', a') - \beta_2 \lVert a' - a'_D \rVert^2), \\
        L_\pi &= \overline{\beta_1 \lVert \pi(s) - a \rVert^2 - \lambda \min_i Q_i(s, \pi(s))},
        \qquad \lambda = 1 / \overline{|\min_i Q_i(s, \pi(s))|}

    Conventions: the critic's loss is the sum of two means; squared distances are sums over action
    dimensions; no gradient passes through lambda. The critics have layer normalisation after each
    ReLU, the actor has none.

    Args:
        observation_size: length of an observation.
        action_size: length of an action; actions are in [-1, 1].
        config: settings.
        actor_optimizer: any optax transformation. Published: Adam at 1e-3 (locomotion), 3e-4
            (AntMaze, Adroit).
        critic_optimizer: the same, for the tree `{"q0": ..., "q1": ...}`. Published: Adam at 1e-3,
            5e-5, 3e-4.
        normalizer: of observations; None leaves them as they are, as published.

    Returns:
        The learner, with `td3_bc`'s metrics.

    Raises:
        ValueError: as `td3_bc`.

    References:
        Tarasov et al., Revisiting the Minimalist Approach to Offline Reinforcement Learning, 2023,
        `arXiv:2305.09836 <https://arxiv.org/abs/2305.09836>`_

    .. note::
        The last transition of an episode has no next action in the data. There is no penalty there.
        The authors take the first action of the next episode.

    .. note::
        Target networks average the parameters after the update of the same step. The authors'
        program averages the actor's from before it.

    Examples:
        >>> import optax
        >>> from agents.offline.rebrac import ReBRACConfig, rebrac
        >>> config = ReBRACConfig(iterations=1000, actor_penalty=0.001, critic_penalty=0.01)
        >>> learner = rebrac(11, 3, config, optax.adam(1e-3), optax.adam(1e-3))
        >>> state = jax.eval_shape(learner.init, jax.random.key(0))
        >>> sorted(state.params["critic"]["q0"])[:2]
        ['Dense_0', 'Dense_1']
    """
    losses = Losses(normal_noise, critic_loss, actor_loss, only_td=True)
    return td3_learner(
        observation_size,
        action_size,
        config,
        losses,
        actor_optimizer,
        critic_optimizer,
        normalizer,
    )
