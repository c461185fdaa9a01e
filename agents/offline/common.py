"""What the offline learners share: data, batches, targets, state and their interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from agents import updates
from agents.learner import Metrics
from agents.networks import Activations
from agents.normalization import Normalizer as Normalizer
from agents.offline.networks import INITIALIZATIONS, Critic, applied
from agents.policies import NetworkPolicy
from agents.updates import LossAndAux as LossAndAux

Number = float | jax.Array
Params = dict[str, Any]


class Transitions(NamedTuple):
    """Transitions of a data set or a batch of them, each of shape (transitions, ...)."""

    observation: jax.Array  # shape=(n, observation_size)
    action: jax.Array  # shape=(n, action_size), in [-1, 1]
    reward: jax.Array  # shape=(n,)
    next_observation: jax.Array  # shape=(n, observation_size)
    terminated: jax.Array  # shape=(n,), dtype=bool; an episode that was cut off has not terminated
    next_action: jax.Array  # shape=(n, action_size); anything where the data hold none
    has_next_action: jax.Array  # shape=(n,), dtype=bool; False in an episode's last transition


class OfflineState(NamedTuple):
    """Everything that an offline run carries from one iteration to the next."""

    params: Params  # {"actor": ..., "critic": {"q0": ..., "q1": ...}}, IQL also "value"
    target_params: Params  # the subtrees of params that have a target network
    optimizer_state: dict[str, optax.OptState]  # one for each subtree of params
    key: jax.Array
    iteration: jax.Array  # shape=(), dtype=int32


class TemporalDifference(NamedTuple):
    """The two sides of the TD error on a batch of n, for `optim.diagnostics`.

    The rows are those of the first critic, then those of the second: 2 n. The loss is the sum over
    both critics of the mean of squares, so `loss_factor` is 2 / n.
    """

    values: Callable[[Params], jax.Array]
    """Of the critic's parameters: Q of both critics on the data, shape (2 n,)."""

    next_values: Callable[[Params], jax.Array]
    """Of the target critic's parameters: the smaller next Q, 0 after an end, shape (2 n,)."""

    loss_factor: float


class OfflineLearner(NamedTuple):
    """A learner from data without hidden state, `agents.learner.Learner` with the data passed in.

    The data are an argument so that a compiled program does not contain them, and so that one copy
    serves all seeds: `jax.vmap(learner.iterate, (0, None))`.
    """

    init: Callable[[jax.Array], OfflineState]
    """`init(key) -> state`."""

    iterate: Callable[[OfflineState, Transitions], tuple[OfflineState, Metrics]]
    """`iterate(state, transitions) -> (state, metrics)`: `critic_steps` updates of the critic, each
    on a batch drawn anew, and the other updates that go with them. Metrics are means over them."""

    policy: Callable[[OfflineState], NetworkPolicy]
    """`policy(state) -> act`, where `act(key, observation)` gives the actions, in [-1, 1] and
    without noise, for raw observations of any leading shape. The parameters are those to use, which
    an optimizer may tell from those that it trains; see `optim.evaluation_params`."""

    temporal_difference: Callable[[OfflineState, Transitions], TemporalDifference] | None = None
    """`temporal_difference(state, batch)`, without target smoothing. None where the critic's target
    is not its own target network's, or its loss has another term as well."""


@struct.dataclass
class OfflineConfig:
    """Settings that all offline learners have.

    Fields marked static shape the program. All others are numbers that may be traced, so that
    `jax.vmap` over a config tries many of them in one compiled program.

    Attributes:
        iterations: calls of `iterate` in a lifetime; sets the scale of `training_progress`.
        critic_steps: static; updates of the critic in one call of `iterate`.
        batch_size: static; transitions in a batch, drawn with replacement.
        discount: gamma in [0, 1].
        polyak: share of the online network that enters the target network at each averaging.
        actor_widths: static; units of the actor's hidden layers.
        critic_widths: static; units of each critic's (and value network's) hidden layers.
        initialization: static; see `agents.offline.networks.MultilayerPerceptron`.
    """

    iterations: int | jax.Array
    critic_steps: int = struct.field(pytree_node=False, default=1000)
    batch_size: int = struct.field(pytree_node=False, default=256)
    discount: Number = 0.99
    polyak: Number = 0.005
    actor_widths: tuple[int, ...] = struct.field(pytree_node=False, default=(256, 256))
    critic_widths: tuple[int, ...] = struct.field(pytree_node=False, default=(256, 256))
    initialization: str = struct.field(pytree_node=False, default="uniform")


def check(config: OfflineConfig, observation_size: int, action_size: int) -> None:
    """Refuses settings that make no sense.

    Raises:
        ValueError: naming the first of them.
    """
    counts = {
        "observation_size": observation_size,
        "action_size": action_size,
        "critic_steps": config.critic_steps,
        "batch_size": config.batch_size,
    }
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1; got {count}.")
    check_share("discount", config.discount)
    check_share("polyak", config.polyak)
    if config.initialization not in INITIALIZATIONS:
        raise ValueError(
            f"initialization must be one of {', '.join(INITIALIZATIONS)}; "
            f"got {config.initialization!r}."
        )


def check_share(name: str, value: Number) -> None:
    """Refuses a concrete number outside [0, 1]; tracers have no value yet and pass.

    Raises:
        ValueError: naming the argument.
    """
    if not isinstance(value, jax.core.Tracer) and not np.all(
        (np.asarray(value) >= 0) & (np.asarray(value) <= 1)
    ):
        raise ValueError(f"{name} must be in [0, 1]; got {value}.")


def observation_statistics(transitions: Transitions, epsilon: float = 1e-3) -> Normalizer:
    """Mean and standard deviation of a data set's observations, for a learner's `normalizer`.

    Args:
        transitions: the data; computed on the host in float64.
        epsilon: added to the standard deviation.

    Returns:
        The normalizer, in the observations' dtype.
    """
    observation = np.asarray(transitions.observation, np.float64)
    dtype = transitions.observation.dtype
    return Normalizer(
        jnp.asarray(observation.mean(0), dtype), jnp.asarray(observation.std(0) + epsilon, dtype)
    )


def collapse_line(transitions: Transitions, discount: float) -> float:
    """Mean |Q| above which a critic has collapsed: twice the most that a policy could be worth.

    Args:
        transitions: the data.
        discount: gamma, below 1.

    Returns:
        2 max |r| / (1 - gamma).

    Raises:
        ValueError: if the discount is not in [0, 1).
    """
    if not 0.0 <= discount < 1.0:
        raise ValueError(f"discount must be in [0, 1); got {discount}.")
    return 2.0 * float(np.abs(np.asarray(transitions.reward)).max()) / (1.0 - discount)


def sample(
    key: jax.Array, transitions: Transitions, size: int, normalizer: Normalizer | None
) -> Transitions:
    """Draws a batch with replacement and normalises its observations."""
    rows = jax.random.randint(key, (size,), 0, transitions.reward.shape[0])
    return normalized(jax.tree.map(lambda x: x[rows], transitions), normalizer)


def normalized(batch: Transitions, normalizer: Normalizer | None) -> Transitions:
    """Normalises a batch's observations."""
    if normalizer is None:
        return batch
    return batch._replace(
        observation=normalizer(batch.observation),
        next_observation=normalizer(batch.next_observation),
    )


def twin_values(
    critic: Critic, params: Params, observation: jax.Array, action: jax.Array
) -> tuple[jax.Array, Activations]:
    """Values of both critics, shape (2, batch), and the activations as a tree like `params`.

    The critics are separate subtrees, `q0` and `q1`, rather than one stack of them, so that an
    optimizer which looks at matrices sees matrices.
    """
    inputs = jnp.concatenate([observation, action], axis=-1)
    values, activations = zip(
        *(applied(critic, params[name], inputs) for name in ("q0", "q1")), strict=True
    )
    return jnp.stack(values), dict(zip(("q0", "q1"), activations, strict=True))


def smoothed(action: jax.Array, noise: jax.Array, scale: Number, clip: Number) -> jax.Array:
    """Adds clipped noise to actions and clips the result to [-1, 1]; `noise` is standard normal."""
    return jnp.clip(action + jnp.clip(scale * noise, -clip, clip), -1.0, 1.0)


def td_target(
    reward: jax.Array, terminated: jax.Array, discount: Number, next_value: jax.Array
) -> jax.Array:
    """Reward plus discounted next value, which is 0 after an end; no gradient passes through it."""
    target = reward + discount * jnp.where(terminated, 0.0, next_value)
    return jax.lax.stop_gradient(target)


def sum_of_mean_squares(errors: jax.Array) -> jax.Array:
    """Sum over critics of the mean over the batch of squared errors of shape (2, batch)."""
    return jnp.sum(jnp.mean(jnp.square(errors), axis=1))


def averaged(target: Any, online: Any, rate: Number) -> Any:
    """Polyak average of two trees, in the target's dtypes."""
    return jax.tree.map(
        lambda old, new: (old + jnp.asarray(rate, old.dtype) * (new - old)).astype(old.dtype),
        target,
        online,
    )


def descend(
    optimizer: optax.GradientTransformationExtraArgs,
    loss: Callable[[Any], LossAndAux],
    params: Any,
    optimizer_state: optax.OptState,
    progress: jax.Array,
    num_updates: int | jax.Array,
) -> tuple[Any, optax.OptState, Metrics, jax.Array]:
    """One update, as in `agents.updates.descend`, of an offline learner.

    A batch is used once, so `batch_progress` is 0. No objective is new: batches are drawn from the
    same data throughout, and targets move a little with every averaging. An optimizer that looks at
    `reset` therefore cannot be used.

    Args:
        optimizer: the transformation.
        loss: from parameters to the loss, and its activations and metrics.
        params: the parameters.
        optimizer_state: the optimizer's state.
        progress: `training_progress`.
        num_updates: those of these parameters in the whole lifetime.

    Returns:
        New parameters and state, the loss's metrics, and the norm of the gradient.

    Raises:
        ValueError: if the optimizer asks whether the objective is new.
    """
    return updates.descend(
        optimizer,
        loss,
        params,
        optimizer_state,
        training_progress=progress,
        batch_progress=jnp.zeros((), jnp.float32),
        num_updates=num_updates,
        reset=_NeverNew(),
    )


class _NeverNew:
    """What optimizers get as `reset` where no objective is ever new.

    `False` would be true of most updates and yet wrong: an optimizer that waits for a new objective
    would in silence be another one. So whatever looks at the value is refused.
    """

    def _refuse(self, *arguments: Any, **options: Any) -> Any:
        raise ValueError(
            "period must be set for an optimizer that waits for a new objective, as in "
            "adam_rel:period=1000, because offline learners change their objectives a little with "
            "every update; got none."
        )

    __jax_array__ = property(_refuse)
    __array__ = __bool__ = _refuse


def training_progress(iteration: jax.Array, iterations: int | jax.Array) -> jax.Array:
    """Share of the lifetime that is over, in [0, 1]: 0 where there is only one iteration."""
    last = jnp.maximum(jnp.asarray(iterations, jnp.int32) - 1, 1)
    return jnp.minimum(iteration.astype(jnp.float32) / last.astype(jnp.float32), 1.0)
