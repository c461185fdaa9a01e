"""IQL: values by expectile regression within the data, a policy by weighted imitation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from agents._promotion import relaxed_promotion
from agents.environment import Box
from agents.learner import Metrics
from agents.offline.common import (
    LossAndAux,
    Normalizer,
    Number,
    OfflineConfig,
    OfflineLearner,
    OfflineState,
    Params,
    Transitions,
    averaged,
    check,
    check_share,
    descend,
    sample,
    sum_of_mean_squares,
    td_target,
    training_progress,
    twin_values,
)
from agents.offline.networks import Critic, GaussianActor, applied
from agents.policies import NetworkPolicy, network_policy
from optim.evaluation import evaluation_params


@struct.dataclass
class IQLConfig(OfflineConfig):
    """Settings of IQL; the defaults are the published ones for locomotion.

    Beside `agents.offline.common.OfflineConfig`'s:

    Attributes:
        expectile: tau in (0, 1). Published: 0.7, AntMaze 0.9, Adroit 0.8.
        inverse_temperature: beta. Published: 3, AntMaze 10.
        max_weight: bound of the imitation's weights.
        actor_dropout: static; rate of dropout in the actor while it is trained. Adroit: 0.1.
    """

    expectile: Number = 0.7
    inverse_temperature: Number = 3.0
    max_weight: Number = 100.0
    actor_dropout: float = struct.field(pytree_node=False, default=0.0)


class Networks(NamedTuple):
    """The modules; both critics have the same."""

    actor: GaussianActor
    critic: Critic
    value: Critic


def make_networks(config: IQLConfig, action_size: int) -> Networks:
    """The modules that a config describes."""
    critic = Critic(config.critic_widths, initialization=config.initialization)
    actor = GaussianActor(
        config.actor_widths,
        action_size,
        initialization=config.initialization,
        dropout=config.actor_dropout,
    )
    return Networks(actor, critic, critic)


def smaller_target_value(
    networks: Networks, target_params: Params, batch: Transitions
) -> jax.Array:
    """The smaller of the target critics' values of the data's actions, shape (batch,)."""
    values, _ = twin_values(
        networks.critic, target_params["critic"], batch.observation, batch.action
    )
    return jnp.min(values, axis=0)


def value_loss(
    networks: Networks,
    config: IQLConfig,
    value_params: Params,
    target_params: Params,
    batch: Transitions,
) -> LossAndAux:
    """The value network's loss; see `iql`."""
    target = smaller_target_value(networks, target_params, batch)
    value, activations = applied(networks.value, value_params, batch.observation)
    error = target - value
    weight = jnp.where(error < 0.0, 1.0 - config.expectile, config.expectile)
    loss = jnp.mean(weight * jnp.square(error))
    return loss, (activations, {"value_loss": loss})


def critic_loss(
    networks: Networks,
    config: IQLConfig,
    critic_params: Params,
    value_params: Params,
    batch: Transitions,
) -> LossAndAux:
    """The critic's loss; see `iql`."""
    next_value, _ = applied(networks.value, value_params, batch.next_observation)
    target = td_target(batch.reward, batch.terminated, config.discount, next_value)
    values, activations = twin_values(
        networks.critic, critic_params, batch.observation, batch.action
    )
    loss = 0.5 * sum_of_mean_squares(values - target[None])
    metrics = {"critic_loss": loss, "td_loss": loss, "mean_abs_q": jnp.mean(jnp.abs(values))}
    return loss, (activations, metrics)


def actor_loss(
    networks: Networks,
    config: IQLConfig,
    actor_params: Params,
    value_params: Params,
    target_params: Params,
    batch: Transitions,
    dropout_key: jax.Array | None = None,
) -> LossAndAux:
    """The actor's loss; see `iql`."""
    value, _ = applied(networks.value, value_params, batch.observation)
    advantage = smaller_target_value(networks, target_params, batch) - value
    weight = jnp.minimum(jnp.exp(config.inverse_temperature * advantage), config.max_weight)
    distribution, activations = applied(
        networks.actor, actor_params, batch.observation, dropout_key
    )
    loss = -jnp.mean(jax.lax.stop_gradient(weight) * distribution.log_probability(batch.action))
    distance = jnp.mean(jnp.sum(jnp.square(distribution.mean - batch.action), axis=-1))
    metrics = {
        "actor_loss": loss,
        "behaviour_distance": distance,
        "mean_weight": jnp.mean(weight),
    }
    return loss, (activations, metrics)


def iql(
    observation_size: int,
    action_size: int,
    config: IQLConfig,
    actor_optimizer: optax.GradientTransformation,
    critic_optimizer: optax.GradientTransformation,
    value_optimizer: optax.GradientTransformation,
    normalizer: Normalizer | None = None,
) -> OfflineLearner:
    r"""Implicit Q-learning.

    With :math:`u = \min_i \bar Q_i(s, a) - V(s)`, d = 1 after an end and the policy
    :math:`\pi = N(\tanh f(s), \sigma^2)`, the losses on a batch are

    .. math::
        L_V &= \overline{|\tau - 1(u < 0)|\, u^2}, \qquad
        L_Q = \tfrac{1}{2} \sum_i \overline{(Q_i(s, a) - r - \gamma (1 - d) V(s'))^2}, \\
        L_\pi &= -\overline{\min(e^{\beta u}, w_{max}) \log \pi(a | s)}

    Conventions: the critic's loss is the mean over both critics (half the sum); the logarithm of
    the density is summed over action dimensions; all three losses of a step see V from before it;
    no gradient passes through the weights.

    Every step updates value, critic and actor on the same batch and then averages the target
    critics. Optimizers get the extra arguments of `agents.updates.descend`; `batch_progress` is 0,
    and one that looks at `reset` is refused by `iterate`, see `agents.offline.common.descend`.

    Args:
        observation_size: length of an observation.
        action_size: length of an action; actions are in [-1, 1].
        config: settings.
        actor_optimizer: any optax transformation. Published: Adam at 3e-4 with cosine decay over
            the whole run.
        critic_optimizer: the same, for the tree `{"q0": ..., "q1": ...}`. Published: Adam at 3e-4.
        value_optimizer: the same, for the value network. Published: Adam at 3e-4.
        normalizer: of observations, see `agents.offline.common.observation_statistics`; None leaves
            them as they are.

    Returns:
        The learner. Its metrics are means over one iteration: `value_loss`, `critic_loss`,
        `td_loss` (the same), `mean_abs_q` (over both critics, on the data), `actor_loss`,
        `behaviour_distance` (mean squared Euclidean distance between the policy's mean and the
        data's actions), `mean_weight` (of the imitation), and the norm of each gradient.
        `policy(state)` acts by the mean.

    Raises:
        ValueError: if a count is below 1, the initialization is unknown, or the discount, the rate
            of averaging, the expectile or the dropout rate is out of its range.

    References:
        Kostrikov et al., Offline Reinforcement Learning with Implicit Q-Learning, 2021,
        `arXiv:2110.06169 <https://arxiv.org/abs/2110.06169>`_

    .. note::
        Rewards are used as they are. Published runs shift those of AntMaze by -1 and scale those of
        locomotion by 1000 / (largest - smallest return): do so to the data.

    Examples:
        >>> import jax, optax
        >>> from agents.offline.iql import IQLConfig, iql
        >>> config = IQLConfig(iterations=1000, expectile=0.9, inverse_temperature=10.0)
        >>> learner = iql(11, 3, config, *(optax.adam(3e-4) for _ in range(3)))
        >>> sorted(jax.eval_shape(learner.init, jax.random.key(0)).params)
        ['actor', 'critic', 'value']
    """
    check(config, observation_size, action_size)
    check_share("expectile", config.expectile)
    if not 0.0 <= config.actor_dropout < 1.0:
        raise ValueError(f"actor_dropout must be in [0, 1); got {config.actor_dropout}.")
    networks = make_networks(config, action_size)
    optimizers = {
        "actor": optax.with_extra_args_support(actor_optimizer),
        "critic": optax.with_extra_args_support(critic_optimizer),
        "value": optax.with_extra_args_support(value_optimizer),
    }

    def init(key: jax.Array) -> OfflineState:
        key, actor_key, value_key, *critic_keys = jax.random.split(key, 5)
        observation = jnp.zeros((observation_size,), jnp.float32)
        inputs = jnp.zeros((observation_size + action_size,), jnp.float32)
        params: Params = {
            "actor": networks.actor.init(actor_key, observation)["params"],
            "critic": {
                name: networks.critic.init(critic_key, inputs)["params"]
                for name, critic_key in zip(("q0", "q1"), critic_keys, strict=True)
            },
            "value": networks.value.init(value_key, observation)["params"],
        }
        with relaxed_promotion():
            optimizer_state = {name: optimizers[name].init(params[name]) for name in params}
        return OfflineState(
            params=params,
            target_params={"critic": jax.tree.map(jnp.copy, params["critic"])},
            optimizer_state=optimizer_state,
            key=key,
            iteration=jnp.zeros((), jnp.int32),
        )

    def iterate(state: OfflineState, transitions: Transitions) -> tuple[OfflineState, Metrics]:
        progress = training_progress(state.iteration, config.iterations)

        def step(state: OfflineState, key: jax.Array) -> tuple[OfflineState, Metrics]:
            batch_key, dropout_key = jax.random.split(key)
            batch = sample(batch_key, transitions, config.batch_size, normalizer)
            value, target = state.params["value"], state.target_params
            losses: dict[str, Callable[[Any], LossAndAux]] = {
                "value": lambda p: value_loss(networks, config, p, target, batch),
                "critic": lambda p: critic_loss(networks, config, p, value, batch),
                "actor": lambda p: actor_loss(
                    networks, config, p, value, target, batch, dropout_key
                ),
            }
            params: Params = {}
            optimizer_state: dict[str, optax.OptState] = {}
            metrics: Metrics = {}
            for name, loss in losses.items():
                params[name], optimizer_state[name], found, norm = descend(
                    optimizers[name],
                    loss,
                    state.params[name],
                    state.optimizer_state[name],
                    progress,
                    config.iterations * config.critic_steps,
                )
                metrics |= found | {f"{name}_gradient_norm": norm}
            state = state._replace(
                params=params,
                optimizer_state=optimizer_state,
                target_params=averaged(target, {"critic": params["critic"]}, config.polyak),
            )
            return state, metrics

        key, step_key = jax.random.split(state.key)
        state, metrics = jax.lax.scan(
            step, state._replace(key=key), jax.random.split(step_key, config.critic_steps)
        )
        state = state._replace(iteration=state.iteration + 1)
        return state, jax.tree.map(jnp.mean, metrics)

    def policy(state: OfflineState) -> NetworkPolicy:
        return network_policy(
            networks.actor,
            evaluation_params(state.optimizer_state["actor"], state.params["actor"]),
            normalizer,
            (observation_size,),
            Box(action_size, -1.0, 1.0),
            greedy=True,
        )

    return OfflineLearner(init, iterate, policy)
