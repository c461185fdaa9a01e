"""Proximal policy optimisation with the optimizer given from outside."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import struct

from agents._promotion import relaxed_promotion
from agents.advantages import generalized_advantages
from agents.environment import Environment
from agents.learner import Inspection, Learner, Metrics
from agents.networks import NONLINEARITIES, Actor, Critic, hidden_layers
from agents.policies import NetworkPolicy, network_policy
from agents.updates import LossAndAux, descend
from agents.wrappers import (
    AutoReset,
    Batch,
    EpisodeStatistics,
    NormalizeObservation,
    NormalizeReward,
)
from optim.evaluation import evaluation_params

Number = float | jax.Array
T = TypeVar("T")


@struct.dataclass
class PPOConfig:
    """Settings of PPO; the defaults are the published ones for MinAtar.

    Fields marked static shape the program. All others are numbers that may be traced, so that
    `jax.vmap` over a config tries many of them in one compiled program.

    Attributes:
        iterations: rollouts in a lifetime; sets the scale of `training_progress`.
        num_envs: static; environments run side by side.
        num_steps: static; environment steps of each of them in a rollout. num_envs * num_steps is
            below 2^31.
        epochs: static; passes over each rollout.
        minibatches: static; updates in each pass. Divides num_envs * num_steps.
        discount: gamma in [0, 1].
        trace_decay: lambda of generalised advantage estimation, in [0, 1].
        clip: the probability ratio and the value are clipped to within this distance of where they
            were on the rollout; infinity clips nothing.
        entropy_weight: weight of the policy's entropy (nats) in the loss.
        value_weight: weight of the value loss.
        widths: static; units of each network's hidden layers.
        nonlinearity: static; 'relu' or 'tanh'.
        normalize_observations: static; by running mean and standard deviation.
        normalize_rewards: static; by the running standard deviation of the discounted return.
        cached_resets: static; see `agents.wrappers.AutoReset`.
        normalize_advantages: static; whether they are centred and scaled within the minibatch.
        reward_scale: rewards are multiplied by it before anything is learned from them; returns in
            the metrics are not.
        constant_rollouts: static; whether rollouts count as constants where a lifetime is
            differentiated, as in `meta.pipeline`. Otherwise derivatives flow through them: the
            probabilities with which actions were drawn then depend on the parameters just as the
            new ones do, and the surrogate loss of the first update after a rollout has no
            derivative.
        rematerialise: static; where a lifetime is differentiated, whether the inside of each update
            is computed again on the way back instead of being kept. It saves most of the memory.
        value_clip: the distance of `clip` for the value alone; None for that of `clip`.
    """

    iterations: int | jax.Array
    num_envs: int = struct.field(pytree_node=False, default=64)
    num_steps: int = struct.field(pytree_node=False, default=128)
    epochs: int = struct.field(pytree_node=False, default=4)
    minibatches: int = struct.field(pytree_node=False, default=8)
    discount: Number = 0.99
    trace_decay: Number = 0.95
    clip: Number = 0.2
    entropy_weight: Number = 0.01
    value_weight: Number = 0.5
    widths: tuple[int, ...] = struct.field(pytree_node=False, default=(64, 64))
    nonlinearity: str = struct.field(pytree_node=False, default="relu")
    normalize_observations: bool = struct.field(pytree_node=False, default=False)
    normalize_rewards: bool = struct.field(pytree_node=False, default=False)
    cached_resets: bool = struct.field(pytree_node=False, default=False)
    normalize_advantages: bool = struct.field(pytree_node=False, default=True)
    reward_scale: Number = 1.0
    constant_rollouts: bool = struct.field(pytree_node=False, default=True)
    rematerialise: bool = struct.field(pytree_node=False, default=False)
    value_clip: Number | None = None

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps in one rollout, all environments together."""
        return self.num_envs * self.num_steps

    @property
    def updates_per_iteration(self) -> int:
        """Calls of the optimizer after each rollout."""
        return self.epochs * self.minibatches


class PPOState(NamedTuple):
    """Everything that a run of PPO carries from one iteration to the next."""

    params: dict[str, Any]  # {"actor": ..., "critic": ...}
    optimizer_state: optax.OptState
    environment_state: Any
    observation: jax.Array  # shape=(num_envs, *observation_shape), as the networks see it
    key: jax.Array
    iteration: jax.Array  # shape=(), dtype=int32


class Transition(NamedTuple):
    """One step of each environment; a rollout stacks `num_steps` of them."""

    observation: jax.Array
    action: jax.Array
    log_probability: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    final_observation: jax.Array
    episode_return: jax.Array
    episode_length: jax.Array
    last_episode_return: jax.Array


class Samples(NamedTuple):
    """What an update learns from, each of shape (samples, ...)."""

    observation: jax.Array
    action: jax.Array
    log_probability: jax.Array
    value: jax.Array
    advantage: jax.Array
    target: jax.Array


def ppo(
    environment: Environment,
    config: PPOConfig,
    optimizer: optax.GradientTransformation,
) -> Learner:
    r"""PPO on `config.num_envs` copies of an environment.

    With :math:`\rho` the ratio of the new to the old probability of an action, A the advantage
    (unless told otherwise, centred and scaled within the minibatch), V the value, :math:`\hat V`
    its target, H the entropy, c the clip and :math:`c_V` that of the value, which is c unless told
    otherwise, each update descends the gradient of

    .. math::
        -\overline{\min(\rho A,\; \operatorname{clip}(\rho, 1 \pm c) A)}
        + \tfrac{w_V}{2}\, \overline{\max\big((V - \hat V)^2, (V_c - \hat V)^2\big)} - w_H \bar H,
        \qquad V_c = V_{old} + \operatorname{clip}(V - V_{old}, \pm c_V)

    Every call of the optimizer's `update` gets the keyword arguments of `agents.updates.descend`.
    Here, `training_progress` is iteration / (iterations - 1), at most 1, and `batch_progress` is
    epoch / (epochs - 1); both are 0 where there is only one. `reset` is true in the first update on
    a new rollout. The learner clips no gradients: that is the chain's part.

    Args:
        environment: a single environment, as `agents.environments.make` gives it.
        config: settings.
        optimizer: any optax transformation, for the tree `{"actor": ..., "critic": ...}`.

    Returns:
        The learner. Its `policy(state, greedy=True)` takes the likeliest action, which for `Box`
        actions is the distribution's mean. Its metrics are, for one rollout: `episode_return_sum`,
        `episode_length_sum` and `episodes` over the episodes that ended in it; `last_return`, the
        mean over environments of the return of the last episode that each completed (0 before the
        first), which gives long episodes more weight and is what PureJaxRL and OPEN's authors plot;
        and, averaged over all updates, `loss`, `policy_loss`, `value_loss`, `entropy`, `kl` (to the
        rollout's policy) and `gradient_norm` (before any clipping).

    Raises:
        ValueError: if a count is below 1, a rollout has 2^31 steps or more or is not divided by the
            minibatches, or the nonlinearity is unknown.

    References:
        Schulman et al., Proximal Policy Optimization Algorithms, 2017,
        `arXiv:1707.06347 <https://arxiv.org/abs/1707.06347>`_

    .. note::
        OPEN's authors treat a time limit as a termination. Here an episode that was cut off is
        bootstrapped from the observation at which it was cut off.

    Examples:
        >>> import jax, optax
        >>> from agents import environments
        >>> from agents.ppo import PPOConfig, ppo
        >>> config = PPOConfig(iterations=2, num_envs=4, num_steps=16, minibatches=2)
        >>> learner = ppo(environments.make("CartPole-v1"), config, optax.adam(1e-3))
        >>> state, metrics = jax.jit(learner.iterate)(learner.init(jax.random.key(0)))
        >>> int(state.iteration), metrics["loss"].shape
        (1, ())
    """
    _check(config)
    optimizer = optax.with_extra_args_support(optimizer)
    environment = AutoReset(environment, cached=config.cached_resets)
    environment = Batch(EpisodeStatistics(environment), config.num_envs)
    if config.normalize_observations:
        environment = NormalizeObservation(environment)
    if config.normalize_rewards:
        environment = NormalizeReward(environment, config.discount)

    observation_ndim = len(environment.observation_shape)
    actor = Actor(environment.action_space, observation_ndim, config.widths, config.nonlinearity)
    critic = Critic(observation_ndim, config.widths, config.nonlinearity)
    value_clip = config.clip if config.value_clip is None else config.value_clip

    def init(key: jax.Array, iteration: int | jax.Array = 0) -> PPOState:
        key, actor_key, critic_key, environment_key = jax.random.split(key, 4)
        iteration = jnp.asarray(iteration, jnp.int32)
        now = environment.at(iteration * config.steps_per_iteration)
        observation, environment_state = now.reset(environment_key)
        params = {
            "actor": actor.init(actor_key, observation)["params"],
            "critic": critic.init(critic_key, observation)["params"],
        }
        with relaxed_promotion():
            optimizer_state = optimizer.init(params)
        return PPOState(
            params=params,
            optimizer_state=optimizer_state,
            environment_state=environment_state,
            observation=observation,
            key=key,
            iteration=iteration,
        )

    # Already on the way in, so that nothing of an environment is ever differentiated.
    constant = jax.lax.stop_gradient if config.constant_rollouts else _same

    def rollout(state: PPOState) -> tuple[PPOState, Transition]:
        actor_params = constant(state.params["actor"])

        def step(carry: Any, x: tuple[jax.Array, jax.Array]) -> tuple[Any, Transition]:
            observation, environment_state = carry
            key, clock = x
            action_key, environment_key = jax.random.split(key)
            distribution, _ = actor.apply({"params": actor_params}, observation)
            action = distribution.sample(action_key)
            next_observation, environment_state, reward, terminated, truncated, info = (
                environment.at(clock).step(environment_key, environment_state, action)
            )
            transition = Transition(
                observation,
                action,
                distribution.log_probability(action),
                reward,
                terminated,
                truncated,
                info["final_observation"],
                info["episode_return"],
                info["episode_length"],
                info["last_episode_return"],
            )
            return (next_observation, environment_state), transition

        clocks = state.iteration * config.steps_per_iteration + config.num_envs * jnp.arange(
            config.num_steps, dtype=jnp.int32
        )
        key, rollout_key = jax.random.split(state.key)
        played = jax.lax.scan(
            step,
            (state.observation, state.environment_state),
            (jax.random.split(rollout_key, config.num_steps), clocks),
        )
        (observation, environment_state), transitions = constant(played)
        state = state._replace(
            observation=observation, environment_state=environment_state, key=key
        )
        return state, transitions

    def samples_from(params: dict[str, Any], transitions: Transition) -> Samples:
        critic_params = constant(params["critic"])
        value, _ = critic.apply({"params": critic_params}, transitions.observation)
        next_value, _ = critic.apply({"params": critic_params}, transitions.final_observation)
        advantage = generalized_advantages(
            transitions.reward * config.reward_scale,
            value,
            next_value,
            transitions.terminated,
            transitions.truncated,
            config.discount,
            config.trace_decay,
        )
        samples = Samples(
            transitions.observation,
            transitions.action,
            transitions.log_probability,
            value,
            advantage,
            advantage + value,
        )
        return jax.tree.map(lambda x: x.reshape((-1, *x.shape[2:])), samples)

    def loss_of(params: dict[str, Any], samples: Samples) -> LossAndAux:
        distribution, actor_activations = actor.apply(
            {"params": params["actor"]}, samples.observation
        )
        value, critic_activations = critic.apply({"params": params["critic"]}, samples.observation)
        log_ratio = distribution.log_probability(samples.action) - samples.log_probability
        ratio = jnp.exp(log_ratio)
        advantage = samples.advantage
        if config.normalize_advantages:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        clipped_ratio = jnp.clip(ratio, 1.0 - config.clip, 1.0 + config.clip)
        policy_loss = -jnp.minimum(ratio * advantage, clipped_ratio * advantage).mean()
        clipped_value = samples.value + jnp.clip(value - samples.value, -value_clip, value_clip)
        value_loss = (
            0.5
            * jnp.maximum(
                jnp.square(value - samples.target), jnp.square(clipped_value - samples.target)
            ).mean()
        )
        entropy = distribution.entropy().mean()
        loss = policy_loss + config.value_weight * value_loss - config.entropy_weight * entropy
        metrics = {
            "loss": loss,
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "kl": (ratio - 1.0 - log_ratio).mean(),
        }
        return loss, ({"actor": actor_activations, "critic": critic_activations}, metrics)

    def learn(state: PPOState, all_samples: Samples) -> tuple[PPOState, Metrics]:
        training_progress = progress(state.iteration, config.iterations)

        def update(
            carry: Any, batch: jax.Array, batch_progress: jax.Array, reset: jax.Array
        ) -> tuple[Any, Metrics]:
            params, optimizer_state = carry
            samples = jax.tree.map(lambda leaf: leaf[batch], all_samples)

            params, optimizer_state, metrics, norm = descend(
                optimizer,
                lambda params: loss_of(params, samples),
                params,
                optimizer_state,
                training_progress=training_progress,
                batch_progress=batch_progress,
                num_updates=config.iterations * config.updates_per_iteration,
                reset=reset,
            )
            return (params, optimizer_state), metrics | {"gradient_norm": norm}

        if config.rematerialise:
            update = jax.checkpoint(update, prevent_cse=False)  # a scan's body is not merged

        def epoch(carry: Any, x: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Any, Metrics]:
            key, batch_progress, first_epoch = x
            order = jax.random.permutation(key, config.steps_per_iteration)
            first = first_epoch & (jnp.arange(config.minibatches) == 0)
            return jax.lax.scan(
                lambda carry, x: update(carry, x[0], batch_progress, x[1]),
                carry,
                (order.reshape(config.minibatches, -1), first),
            )

        key, shuffle_key = jax.random.split(state.key)
        (params, optimizer_state), losses = jax.lax.scan(
            epoch,
            (state.params, state.optimizer_state),
            (
                jax.random.split(shuffle_key, config.epochs),
                progress(jnp.arange(config.epochs), config.epochs),
                jnp.arange(config.epochs) == 0,
            ),
        )
        state = state._replace(
            params=params,
            optimizer_state=optimizer_state,
            key=key,
            iteration=state.iteration + 1,
        )
        return state, jax.tree.map(jnp.mean, losses)

    def iterate(state: PPOState) -> tuple[PPOState, Metrics]:
        state, transitions = rollout(state)
        state, losses = learn(state, samples_from(state.params, transitions))
        done = jnp.logical_or(transitions.terminated, transitions.truncated)
        return state, losses | {
            "episode_return_sum": jnp.sum(jnp.where(done, transitions.episode_return, 0.0)),
            "episode_length_sum": jnp.sum(jnp.where(done, transitions.episode_length, 0)),
            "episodes": jnp.sum(done, dtype=jnp.int32),
            "last_return": jnp.mean(transitions.last_episode_return[-1]),
        }

    def policy(state: PPOState, greedy: bool = False) -> NetworkPolicy:
        return network_policy(
            actor,
            evaluation_params(state.optimizer_state, state.params)["actor"],
            environment.observation_normalizer(state.environment_state),
            environment.observation_shape,
            environment.action_space,
            greedy,
        )

    def play(state: PPOState) -> tuple[PPOState, Samples]:
        state, transitions = rollout(state)
        return state, samples_from(state.params, transitions)

    def loss(params: Any, samples: Samples) -> tuple[jax.Array, Metrics]:
        value, (_, metrics) = loss_of(params, samples)
        return value, metrics

    def inspect(params: Any, samples: Samples) -> Inspection:
        distribution, _ = actor.apply({"params": params["actor"]}, samples.observation)
        value, _ = critic.apply({"params": params["critic"]}, samples.observation)
        return Inspection(
            {
                name: hidden_layers(network, params[name], samples.observation)
                for name, network in (("actor", actor), ("critic", critic))
            },
            distribution.log_probability(samples.action) - samples.log_probability,
            value - samples.target,
        )

    return Learner(init, iterate, policy, play, loss, learn, inspect)


def _same(x: T) -> T:
    return x


def progress(position: jax.Array, length: int | jax.Array) -> jax.Array:
    """Position 0, ..., length - 1 as a share in [0, 1].

    Args:
        position: of an iteration, or an epoch.
        length: how many there are.

    Returns:
        The share, float32: 0 where there is only one, 1 beyond the last.
    """
    last = jnp.maximum(jnp.asarray(length, jnp.int32) - 1, 1)
    return jnp.minimum(position.astype(jnp.float32) / last.astype(jnp.float32), 1.0)


def _check(config: PPOConfig) -> None:
    for name in ("num_envs", "num_steps", "epochs", "minibatches"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1; got {getattr(config, name)}.")
    if config.steps_per_iteration >= 2**31:  # samples are numbered in int32
        raise ValueError(
            f"num_envs * num_steps must be below 2147483648; got {config.steps_per_iteration}."
        )
    if config.steps_per_iteration % config.minibatches:
        raise ValueError(
            f"minibatches must divide num_envs * num_steps = {config.steps_per_iteration}; "
            f"got {config.minibatches}."
        )
    if config.nonlinearity not in NONLINEARITIES:
        raise ValueError(
            f"nonlinearity must be one of {', '.join(NONLINEARITIES)}; got {config.nonlinearity!r}."
        )
