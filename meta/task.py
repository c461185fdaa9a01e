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
from meta.trainer import Build, MetaParams

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


def lifetimes(task: Task, build: Build, stretches: int = 1) -> Lifetimes:
    r"""Lifetimes of PPO on a task, under the optimizer that meta-parameters define.

    The fitness is the mean return of the set E of episodes that ended in the last 5 % of the
    lifetime's rollouts (in at least one rollout) or, if lifetimes are cut into stretches, in the
    stretch, divided by the task's normaliser n,

    .. math:: f = \frac{1}{n\, |E|} \sum_{e \in E} R_e .

    If no episode ended there, R is each environment's last return so far, or 0 if it has none, and
    the mean is over the environments. The fitness is NaN if the learner's parameters are no longer
    finite.

    Args:
        task: what is learned, how and for how long.
        build: from meta-parameters to the chain that PPO is given.
        stretches: equal parts that a lifetime is cut into; 1 for trainers that play whole
            lifetimes.

    Returns:
        Functions of one lifetime, to be mapped with `jax.vmap`. `fitness` is a float32 scalar.

    Raises:
        ValueError: if the lifetime cannot be cut into that many equal stretches.

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
    length = iterations // stretches
    counted = length if stretches > 1 else math.ceil(_FINAL_SHARE * length)

    def init(meta_params: MetaParams, key: jax.Array) -> Any:
        return ppo(task.environment, task.config, build(meta_params)).init(key)

    def advance(meta_params: MetaParams, life: Any) -> tuple[Any, jax.Array]:
        learner = ppo(task.environment, task.config, build(meta_params))
        life, metrics = jax.lax.scan(lambda life, _: learner.iterate(life), life, length=length)
        episodes = jnp.sum(metrics["episodes"][-counted:])
        total = jnp.sum(metrics["episode_return_sum"][-counted:])
        mean = total / jnp.maximum(episodes, 1).astype(total.dtype)
        final_return = jnp.where(episodes > 0, mean, metrics["last_return"][-1])
        finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(life.params)]
        return life, jnp.where(
            jnp.all(jnp.stack(finite)), final_return / task.normaliser, jnp.float32(jnp.nan)
        )

    return Lifetimes(init, advance, stretches)
