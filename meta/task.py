"""Tasks that learned optimizers are meta-trained on, and the lifetimes lived on them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from agents.environment import Environment
from agents.ppo import PPOConfig, ppo
from meta.trainer import Build, MetaParams, Metrics

FITNESS = ("final", "area", "mean")
_FINAL_SHARE = 0.05  # of a lifetime, at its end: its episodes make up the final return


@dataclasses.dataclass(frozen=True)
class Task:
    """A reinforcement learning problem with a learner and an end.

    Attributes:
        environment: a single environment, as `agents.environments.make` gives it.
        config: PPO's settings; `config.iterations` is the length of a lifetime, in rollouts.
        normaliser: what returns are divided by, so that tasks count equally: the return of a good
            optimizer or, if returns are negative, the magnitude of a bad one.

    Raises:
        ValueError: on construction, if the length of a lifetime is not a whole number of at least
            1, or the normaliser is not a positive number.
    """

    environment: Environment
    config: PPOConfig
    normaliser: float = 1.0

    def __post_init__(self) -> None:
        iterations = self.config.iterations
        if not isinstance(iterations, int) or iterations < 1:
            raise ValueError(
                f"config.iterations must be a whole number, at least 1; got {iterations!r}."
            )
        # A negative one would make the best optimizer the worst.
        if not 0.0 < self.normaliser < math.inf:
            raise ValueError(f"normaliser must be in (0, inf); got {self.normaliser!r}.")


class Lifetimes(NamedTuple):
    """A learner's lifetimes under a learned optimizer, in stretches, for a trainer to play."""

    init: Callable[[MetaParams, jax.Array], Any]
    """`init(meta_params, key) -> life`: a newborn learner."""

    advance: Callable[[MetaParams, Any], tuple[Any, jax.Array]]
    """`advance(meta_params, life) -> (life, fitness)`: one stretch; a higher fitness is better."""

    stretches: int = 1
    """The number of stretches in a whole lifetime."""


def lifetimes(task: Task, build: Build, stretches: int = 1, fitness: str = "final") -> Lifetimes:
    r"""Lifetimes of PPO on a task, under the optimizer that meta-parameters define.

    The fitness is the final return, the area under the learning curve or the mean of these two, see
    `fitness_of`, divided by the task's normaliser. It is NaN if the learner's parameters are no
    longer finite.

    Args:
        task: what is learned, how and for how long.
        build: from meta-parameters to the chain that PPO is given.
        stretches: equal parts that a lifetime is cut into; 1 for trainers that play whole
            lifetimes.
        fitness: 'final': the final return is that of the last 5 % of the lifetime's rollouts (at
            least one) or, if lifetimes are cut into stretches, of the stretch. 'area': the area is
            that of the lifetime or, likewise, of the stretch. 'mean': the mean of the two.

    Returns:
        Functions of one lifetime, to be mapped with `jax.vmap`. `fitness` is a float32 scalar.

    Raises:
        ValueError: if the lifetime cannot be cut into that many equal stretches, or there is no
            such fitness.

    Examples:
        >>> import jax, optax
        >>> from agents import environments
        >>> from agents.ppo import PPOConfig
        >>> from meta.task import Task, lifetimes
        >>> config = PPOConfig(iterations=2, num_envs=4, num_steps=16, minibatches=2)
        >>> task = Task(environments.make("CartPole-v1"), config, normaliser=500.0)
        >>> sgd = lambda meta_params: optax.sgd(jax.numpy.exp(meta_params["log_rate"]))
        >>> lives = lifetimes(task, sgd)
        >>> meta_params = {"log_rate": jax.numpy.float32(-5.0)}
        >>> life = jax.eval_shape(lives.init, meta_params, jax.random.key(0))
        >>> jax.eval_shape(lives.advance, meta_params, life)[1]
        ShapeDtypeStruct(shape=(), dtype=float32)
    """
    iterations = int(task.config.iterations)
    if stretches < 1 or iterations % stretches:
        raise ValueError(
            f"stretches must divide the lifetime's {iterations} iterations; got {stretches}."
        )
    if fitness not in FITNESS:
        raise ValueError(f"fitness must be one of {', '.join(FITNESS)}; got {fitness!r}.")
    length = iterations // stretches
    counted = length if stretches > 1 else final_rollouts(length)

    def init(meta_params: MetaParams, key: jax.Array) -> Any:
        return ppo(task.environment, task.config, build(meta_params)).init(key)

    def advance(meta_params: MetaParams, life: Any) -> tuple[Any, jax.Array]:
        learner = ppo(task.environment, task.config, build(meta_params))
        life, metrics = jax.lax.scan(lambda life, _: learner.iterate(life), life, length=length)
        found = fitness_of(metrics, counted)[fitness]
        return life, jnp.where(
            is_finite(life.params), found / task.normaliser, jnp.float32(jnp.nan)
        )

    return Lifetimes(init, advance, stretches)


def final_rollouts(iterations: int) -> int:
    """How many rollouts at the end of a lifetime of so many its final return is of.

    Examples:
        >>> final_rollouts(49), final_rollouts(1)
        (3, 1)
    """
    return math.ceil(_FINAL_SHARE * iterations)


def is_finite(params: Any) -> jax.Array:
    """Whether all of a learner's parameters are, a boolean scalar."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))


def fitness_of(metrics: Metrics, last: int) -> dict[str, jax.Array]:
    r"""Each fitness of a lifetime, from what its T rollouts report.

    With :math:`E_t` the set of episodes that ended in rollout t, R their returns, and L the last
    rollouts that count as the end,

    .. math::
        f_{final} = \frac{\sum_{t > T - L} \sum_{e \in E_t} R_e}{\sum_{t > T - L} |E_t|}, \qquad
        f_{area} = \frac{1}{T} \sum_{t=1}^{T} \frac{1}{|E_t|} \sum_{e \in E_t} R_e, \qquad
        f_{mean} = \frac{f_{final} + f_{area}}{2} .

    If no episode ended where one should have, R is each environment's last return so far, or 0 if
    it has none, and the mean is over the environments.

    Args:
        metrics: of the learner, each of shape (T,): `episodes`, `episode_return_sum` and
            `last_return`.
        last: L, from 1 to T.

    Returns:
        A float32 scalar for each of `FITNESS`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from meta.task import fitness_of
        >>> metrics = {"episodes": jnp.array([0, 3, 1]), "last_return": jnp.array([0.0, 2.0, 6.0]),
        ...     "episode_return_sum": jnp.array([0.0, 6.0, 10.0])}
        >>> {name: float(value) for name, value in fitness_of(metrics, 2).items()}
        {'final': 4.0, 'area': 4.0, 'mean': 4.0}
        >>> float(fitness_of(metrics, 1)["final"])
        10.0
    """
    episodes, sums = metrics["episodes"], metrics["episode_return_sum"]
    so_far = metrics["last_return"]

    def mean(total: jax.Array, count: jax.Array, instead: jax.Array) -> jax.Array:
        known = total / jnp.maximum(count, 1).astype(total.dtype)
        return jnp.where(count > 0, known, instead)

    final = mean(jnp.sum(sums[-last:]), jnp.sum(episodes[-last:]), so_far[-1])
    area = jnp.mean(mean(sums, episodes, so_far))
    return {"final": final, "area": area, "mean": 0.5 * (final + area)}
