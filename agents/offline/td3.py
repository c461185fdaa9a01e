"""The loop of the learners with a deterministic actor: TD3+BC, ReBRAC, SQOG and PARS.

They differ in two losses and in the noise that the critic's loss needs; see `Losses`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from agents._promotion import relaxed_promotion
from agents.environment import Box
from agents.learner import Metrics
from agents.networks import Activations
from agents.offline.common import (
    LossAndAux,
    Normalizer,
    Number,
    OfflineConfig,
    OfflineLearner,
    OfflineState,
    Params,
    TemporalDifference,
    Transitions,
    averaged,
    check,
    descend,
    normalized,
    sample,
    smoothed,
    sum_of_mean_squares,
    td_target,
    training_progress,
    twin_values,
)
from agents.offline.networks import Critic, DeterministicActor, applied
from agents.policies import NetworkPolicy, network_policy
from optim.evaluation import evaluation_params


@struct.dataclass
class TD3Config(OfflineConfig):
    """Settings of the learners with a deterministic actor, beside `OfflineConfig`'s.

    Attributes:
        actor_period: static; critic updates from one update of the actor and of the target
            networks to the next. Divides critic_steps.
        policy_noise: standard deviation of the noise on the target's actions.
        noise_clip: that noise is clipped to within this.
        critic_layer_norm: static; layer normalisation in the critics.
        actor_layer_norm: static; and in the actor.
    """

    actor_period: int = struct.field(pytree_node=False, default=2)
    policy_noise: Number = 0.2
    noise_clip: Number = 0.5
    critic_layer_norm: bool = struct.field(pytree_node=False, default=False)
    actor_layer_norm: bool = struct.field(pytree_node=False, default=False)


class Networks(NamedTuple):
    """The modules; both critics have the same."""

    actor: DeterministicActor
    critic: Critic


class Losses(NamedTuple):
    """What these learners differ in.

    `draw_noise(key, action)` gives the noise of a critic update;
    `critic_loss(networks, config, critic_params, target_params, batch, noise)` and
    `actor_loss(networks, config, actor_params, critic_params, batch)` give the loss, and the
    activations and metrics. `target_params` is `{"actor": ..., "critic": ...}`.
    """

    draw_noise: Callable[[jax.Array, jax.Array], Any]
    critic_loss: Callable[..., LossAndAux]
    actor_loss: Callable[..., LossAndAux]
    only_td: bool
    """Whether the critic's loss is the squared TD error and nothing else."""


def make_networks(config: TD3Config, action_size: int) -> Networks:
    """The modules that a config describes."""
    return Networks(
        DeterministicActor(
            config.actor_widths,
            action_size,
            config.actor_layer_norm,
            config.initialization,
            output_bound=1e-3,
        ),
        Critic(
            config.critic_widths,
            layer_norm=config.critic_layer_norm,
            initialization=config.initialization,
        ),
    )


def normal_noise(key: jax.Array, action: jax.Array) -> jax.Array:
    """Standard normal noise like a batch of actions."""
    return jax.random.normal(key, action.shape, action.dtype)


def next_actions(
    networks: Networks,
    config: TD3Config,
    target_params: Params,
    batch: Transitions,
    noise: jax.Array,
) -> jax.Array:
    """The target actor's next actions, smoothed."""
    action, _ = applied(networks.actor, target_params["actor"], batch.next_observation)
    return smoothed(action, noise, config.policy_noise, config.noise_clip)


def smaller_next_value(
    networks: Networks, target_params: Params, batch: Transitions, action: jax.Array
) -> jax.Array:
    """The smaller of the target critics' values of the next observations and these actions."""
    values, _ = twin_values(
        networks.critic, target_params["critic"], batch.next_observation, action
    )
    return jnp.min(values, axis=0)


def td_errors(
    networks: Networks, critic_params: Params, batch: Transitions, target: jax.Array
) -> tuple[jax.Array, jax.Array, Activations, Metrics]:
    """Values and errors of both critics, shape (2, batch), activations and metrics."""
    values, activations = twin_values(
        networks.critic, critic_params, batch.observation, batch.action
    )
    errors = values - target[None]
    metrics = {
        "td_loss": sum_of_mean_squares(errors),
        "mean_abs_q": jnp.mean(jnp.abs(values)),
    }
    return values, errors, activations, metrics


def actor_values(
    networks: Networks, actor_params: Params, critic_params: Params, batch: Transitions
) -> tuple[jax.Array, jax.Array, Activations]:
    """The actor's actions, both critics' values of them, shape (2, batch), and activations."""
    action, activations = applied(networks.actor, actor_params, batch.observation)
    values, _ = twin_values(networks.critic, critic_params, batch.observation, action)
    return action, values, activations


def behaviour_loss_sum(
    networks: Networks,
    actor_params: Params,
    critic_params: Params,
    batch: Transitions,
    behaviour_weight: Number,
    value_weight: Number,
) -> LossAndAux:
    r"""The actor's loss of ReBRAC, SQOG and PARS, with Q the smaller critic.

    .. math::
        \overline{w_b \lVert \pi(s) - a \rVert^2 - \lambda Q(s, \pi(s))}, \qquad
        \lambda = w_Q / \overline{|Q|}

    The square is summed over action dimensions; no gradient passes through lambda.
    """
    action, values, activations = actor_values(networks, actor_params, critic_params, batch)
    value = jnp.min(values, axis=0)
    scale = jax.lax.stop_gradient(value_weight / jnp.mean(jnp.abs(value)))
    distance = jnp.sum(jnp.square(action - batch.action), axis=-1)
    loss = jnp.mean(behaviour_weight * distance - scale * value)
    return loss, (activations, {"actor_loss": loss, "behaviour_distance": jnp.mean(distance)})


def td3_learner(
    observation_size: int,
    action_size: int,
    config: TD3Config,
    losses: Losses,
    actor_optimizer: optax.GradientTransformation,
    critic_optimizer: optax.GradientTransformation,
    normalizer: Normalizer | None,
) -> OfflineLearner:
    """Builds a learner from its losses; see `agents.offline.td3_bc.td3_bc` for the arguments."""
    check(config, observation_size, action_size)
    if config.actor_period < 1 or config.critic_steps % config.actor_period:
        raise ValueError(
            f"actor_period must be at least 1 and divide critic_steps = {config.critic_steps}; "
            f"got {config.actor_period}."
        )
    networks = make_networks(config, action_size)
    optimizers = {
        "actor": optax.with_extra_args_support(actor_optimizer),
        "critic": optax.with_extra_args_support(critic_optimizer),
    }
    critic_loss = functools.partial(losses.critic_loss, networks, config)
    actor_loss = functools.partial(losses.actor_loss, networks, config)

    def init(key: jax.Array) -> OfflineState:
        key, actor_key, *critic_keys = jax.random.split(key, 4)
        observation = jnp.zeros((observation_size,), jnp.float32)
        inputs = jnp.zeros((observation_size + action_size,), jnp.float32)
        params: Params = {
            "actor": networks.actor.init(actor_key, observation)["params"],
            "critic": {
                name: networks.critic.init(critic_key, inputs)["params"]
                for name, critic_key in zip(("q0", "q1"), critic_keys, strict=True)
            },
        }
        with relaxed_promotion():
            optimizer_state = {name: optimizers[name].init(params[name]) for name in params}
        return OfflineState(
            params=params,
            target_params=jax.tree.map(jnp.copy, params),
            optimizer_state=optimizer_state,
            key=key,
            iteration=jnp.zeros((), jnp.int32),
        )

    def iterate(state: OfflineState, transitions: Transitions) -> tuple[OfflineState, Metrics]:
        progress = training_progress(state.iteration, config.iterations)

        def update(
            state: OfflineState, name: str, loss: Callable[[Any], LossAndAux]
        ) -> tuple[OfflineState, Metrics]:
            steps = config.critic_steps // (config.actor_period if name == "actor" else 1)
            params, optimizer_state, metrics, norm = descend(
                optimizers[name],
                loss,
                state.params[name],
                state.optimizer_state[name],
                progress,
                config.iterations * steps,
            )
            state = state._replace(
                params=state.params | {name: params},
                optimizer_state=state.optimizer_state | {name: optimizer_state},
            )
            return state, metrics | {f"{name}_gradient_norm": norm}

        def critic_step(
            state: OfflineState, key: jax.Array
        ) -> tuple[OfflineState, Metrics, Transitions]:
            batch_key, noise_key = jax.random.split(key)
            batch = sample(batch_key, transitions, config.batch_size, normalizer)
            noise = losses.draw_noise(noise_key, batch.action)
            state, metrics = update(
                state,
                "critic",
                lambda params: critic_loss(params, state.target_params, batch, noise),
            )
            return state, metrics, batch

        # The critic's steps of one period are written out rather than put under a condition, of
        # which vmap would run both branches at every step.
        def period(state: OfflineState, keys: jax.Array) -> tuple[OfflineState, Metrics]:
            critic_metrics = []
            for key in keys:
                state, metrics, batch = critic_step(state, key)
                critic_metrics.append(metrics)
            critic_params = state.params["critic"]
            state, metrics = update(
                state, "actor", lambda params: actor_loss(params, critic_params, batch)
            )
            state = state._replace(
                target_params=averaged(state.target_params, state.params, config.polyak)
            )
            mean = jax.tree.map(lambda *x: sum(x) / len(x), *critic_metrics)
            return state, mean | metrics

        key, step_key = jax.random.split(state.key)
        keys = jax.random.split(step_key, (config.critic_steps // config.actor_period,))
        keys = jax.vmap(lambda key: jax.random.split(key, config.actor_period))(keys)
        state, metrics = jax.lax.scan(period, state._replace(key=key), keys)
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

    def temporal_difference(state: OfflineState, batch: Transitions) -> TemporalDifference:
        batch = normalized(batch, normalizer)
        action, _ = applied(networks.actor, state.target_params["actor"], batch.next_observation)

        def values(params: Params) -> jax.Array:
            return twin_values(networks.critic, params, batch.observation, batch.action)[0].ravel()

        def next_values(params: Params) -> jax.Array:
            value = smaller_next_value(networks, {"critic": params}, batch, action)
            return jnp.tile(jnp.where(batch.terminated, 0.0, value), 2)

        return TemporalDifference(values, next_values, 2.0 / batch.reward.shape[0])

    return OfflineLearner(init, iterate, policy, temporal_difference if losses.only_td else None)


def td_loss(
    networks: Networks,
    config: TD3Config,
    critic_params: Params,
    target_params: Params,
    batch: Transitions,
    noise: jax.Array,
) -> LossAndAux:
    r"""The critic's loss of TD3, a sum over both critics of means over the batch.

    .. math::
        \sum_i \overline{(Q_i(s, a) - y)^2}, \qquad
        y = r + \gamma (1 - d) \min_i \bar Q_i(s', a'), \qquad
        a' = \operatorname{clip}(\bar\pi(s') + \operatorname{clip}(\sigma z, \pm c), \pm 1)
    """
    action = next_actions(networks, config, target_params, batch, noise)
    next_value = smaller_next_value(networks, target_params, batch, action)
    target = td_target(batch.reward, batch.terminated, config.discount, next_value)
    _, errors, activations, metrics = td_errors(networks, critic_params, batch, target)
    loss = sum_of_mean_squares(errors)
    return loss, (activations, metrics | {"critic_loss": loss})
