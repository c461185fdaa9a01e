"""TD3+BC: TD3 whose actor also imitates the data."""

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
)
from agents.offline.td3 import (
    Losses,
    Networks,
    TD3Config,
    actor_values,
    normal_noise,
    td3_learner,
    td_loss,
)


@struct.dataclass
class TD3BCConfig(TD3Config):
    """Settings of TD3+BC; the defaults are the published ones.

    Beside `agents.offline.common.OfflineConfig`'s and `agents.offline.td3.TD3Config`'s:

    Attributes:
        alpha: weight of the value against imitation in the actor's loss.
    """

    alpha: Number = 2.5


def actor_loss(
    networks: Networks,
    config: TD3BCConfig,
    actor_params: Params,
    critic_params: Params,
    batch: Transitions,
) -> LossAndAux:
    """The actor's loss; see `td3_bc`."""
    action, values, activations = actor_values(networks, actor_params, critic_params, batch)
    value = values[0]
    scale = jax.lax.stop_gradient(config.alpha / jnp.mean(jnp.abs(value)))
    square = jnp.square(action - batch.action)
    loss = jnp.mean(square) - scale * jnp.mean(value)
    distance = jnp.mean(jnp.sum(square, axis=-1))
    return loss, (activations, {"actor_loss": loss, "behaviour_distance": distance})


def td3_bc(
    observation_size: int,
    action_size: int,
    config: TD3BCConfig,
    actor_optimizer: optax.GradientTransformation,
    critic_optimizer: optax.GradientTransformation,
    normalizer: Normalizer | None = None,
) -> OfflineLearner:
    r"""TD3 with behaviour cloning.

    With two critics :math:`Q_1, Q_2`, target networks :math:`\bar Q_i, \bar\pi`, d = 1 after an
    end, and z standard normal, the losses on a batch are

    .. math::
        L_Q &= \sum_i \overline{(Q_i(s, a) - y)^2}, \qquad
        y = r + \gamma (1 - d) \min_i \bar Q_i(s', a'), \\
        a' &= \operatorname{clip}(\bar\pi(s') + \operatorname{clip}(\sigma z, \pm c), \pm 1), \\
        L_\pi &= -\lambda\, \overline{Q_1(s, \pi(s))} + \overline{(\pi(s) - a)^2}, \qquad
        \lambda = \alpha / \overline{|Q_1(s, \pi(s))|}

    Conventions: the critic's loss is the sum of two means (not their mean, which halves the
    gradient and matters to Adam through epsilon); the imitation term is a mean over the batch and
    over action dimensions; no gradient passes through lambda, and nothing is added to its
    denominator.

    Each update of the actor follows `actor_period` updates of the critic, uses the last of their
    batches, and is followed by the averaging of all target networks. Optimizers get the extra
    arguments of `agents.updates.descend`; `batch_progress` is 0, and one that looks at `reset` is
    refused by `iterate`, see `agents.offline.common.descend`.

    Args:
        observation_size: length of an observation.
        action_size: length of an action; actions are in [-1, 1].
        config: settings.
        actor_optimizer: any optax transformation. Published: Adam at 3e-4.
        critic_optimizer: the same, for the tree `{"q0": ..., "q1": ...}`.
        normalizer: of observations, see `agents.offline.common.observation_statistics`; None leaves
            them as they are. Published runs on locomotion normalise.

    Returns:
        The learner. Its metrics are means over one iteration: `critic_loss`, `td_loss` (the part of
        it that is squared TD error), `mean_abs_q` (over both critics, on the data),
        `critic_gradient_norm`, `actor_loss`, `actor_gradient_norm` and `behaviour_distance` (mean
        squared Euclidean distance between the actor's actions and the data's).

    Raises:
        ValueError: if a count is below 1, actor_period does not divide critic_steps, the discount
            or the rate of averaging is not in [0, 1], or the initialization is unknown.

    References:
        Fujimoto and Gu, A Minimalist Approach to Offline Reinforcement Learning, 2021,
        `arXiv:2106.06860 <https://arxiv.org/abs/2106.06860>`_

    .. note::
        Batches are drawn with replacement, as the authors do.

    Examples:
        >>> import jax, optax
        >>> import jax.numpy as jnp
        >>> from agents.offline.common import Transitions
        >>> from agents.offline.td3_bc import TD3BCConfig, td3_bc
        >>> config = TD3BCConfig(
        ...     iterations=1, critic_steps=2, batch_size=8, actor_widths=(8,), critic_widths=(8,)
        ... )
        >>> learner = td3_bc(3, 2, config, optax.adam(3e-4), optax.adam(3e-4))
        >>> n = 16
        >>> data = Transitions(
        ...     jnp.ones((n, 3)), jnp.zeros((n, 2)), jnp.ones(n), jnp.ones((n, 3)),
        ...     jnp.ones(n, bool), jnp.zeros((n, 2)), jnp.zeros(n, bool),
        ... )
        >>> state = jax.jit(learner.init)(jax.random.key(0))
        >>> state, metrics = jax.jit(learner.iterate)(state, data)
        >>> learner.policy(state)(jax.random.key(1), jnp.ones((5, 3))).shape
        (5, 2)
    """
    losses = Losses(normal_noise, td_loss, actor_loss, only_td=True)
    return td3_learner(
        observation_size,
        action_size,
        config,
        losses,
        actor_optimizer,
        critic_optimizer,
        normalizer,
    )
