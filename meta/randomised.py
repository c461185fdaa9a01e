"""Lifetimes whose settings are drawn at birth, so that what is learned is not tied to one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from meta.task import Lifetimes, Task, lifetimes
from meta.trainer import Build, MetaParams

RANDOMISED = ("learning_rate", "reward_scale", "entropy_weight", "value_weight", "clip")
"""What can be drawn: the learned optimizer's learning rate, and numbers of `PPOConfig`."""


def randomised_lifetimes(
    task: Task,
    build: Callable[[Mapping[str, jax.Array]], Build],
    ranges: Mapping[str, tuple[float, float]],
    stretches: int = 1,
    fitness: str = "final",
) -> Lifetimes:
    r"""Lifetimes of PPO, each with settings of its own.

    At birth each setting with a range [a, b] is drawn from

    .. math:: \log x \sim U(\log a, \log b)

    by the lifetime's key. So all that share a seed share their settings: all members of a
    generation or, where each antithetic pair has seeds of its own, the two of a pair.

    Args:
        task: what is learned; its own settings are those that are not drawn.
        build: from what was drawn, float32 scalars by name, to the build of `lifetimes`.
        ranges: lowest and highest value by name, of `RANDOMISED`.
        stretches: see `lifetimes`.
        fitness: see `lifetimes`.

    Returns:
        Functions of one lifetime, as those of `lifetimes`. A life is a pair: what was drawn, and
        the learner's state.

    Raises:
        ValueError: if a name is not in `RANDOMISED`, a range is not 0 < a <= b < inf, or
            `lifetimes` refuses the rest.

    References:
        Tobin et al., Domain Randomization for Transferring Deep Neural Networks from Simulation to
        the Real World, 2017, `arXiv:1703.06907 <https://arxiv.org/abs/1703.06907>`_

    Examples:
        >>> import jax, optax
        >>> from agents import environments
        >>> from agents.ppo import PPOConfig
        >>> from meta.randomised import randomised_lifetimes
        >>> from meta.task import Task
        >>> config = PPOConfig(iterations=2, num_envs=4, num_steps=16, minibatches=2)
        >>> task = Task(environments.make("CartPole-v1"), config, normaliser=500.0)
        >>> build = lambda drawn: lambda meta_params: optax.sgd(drawn["learning_rate"])
        >>> lives = randomised_lifetimes(task, build, {"learning_rate": (1e-3, 1e-1)})
        >>> drawn, learner = jax.eval_shape(lives.init, {}, jax.random.key(0))
        >>> list(drawn), learner.observation.shape
        (['learning_rate'], (4, 4))
    """
    check_ranges(ranges)
    lifetimes(task, build({name: jnp.float32(low) for name, (low, _) in ranges.items()}), stretches)

    def lives(drawn: Mapping[str, jax.Array]) -> Lifetimes:
        numbers: dict[str, Any] = {name: x for name, x in drawn.items() if name != "learning_rate"}
        config = dataclasses.replace(task.config, **numbers)
        own = dataclasses.replace(task, config=config)
        return lifetimes(own, build(drawn), stretches, fitness)

    def init(meta_params: MetaParams, key: jax.Array) -> Any:
        key, settings_key = jax.random.split(key)
        drawn = draw(settings_key, ranges)
        return drawn, lives(drawn).init(meta_params, key)

    def advance(meta_params: MetaParams, life: Any) -> tuple[Any, jax.Array]:
        drawn, learner = life
        learner, found = lives(drawn).advance(meta_params, learner)
        return (drawn, learner), found

    return Lifetimes(init, advance, stretches)


def draw(key: jax.Array, ranges: Mapping[str, tuple[float, float]]) -> dict[str, jax.Array]:
    """Draws each setting, uniformly in its logarithm, apart from the others.

    Examples:
        >>> import jax
        >>> drawn = draw(jax.random.key(0), {"clip": (0.1, 0.4)})
        >>> bool(0.1 <= drawn["clip"] <= 0.4)
        True
    """
    keys = jax.random.split(key, len(RANDOMISED))
    return {
        name: jnp.exp(
            jax.random.uniform(keys[RANDOMISED.index(name)], (), jnp.float32, *np.log(ends))
        )
        for name, ends in ranges.items()
    }


def check_ranges(ranges: Mapping[str, tuple[float, float]]) -> None:
    """Refuses ranges that nothing can be drawn from.

    Raises:
        ValueError: see `randomised_lifetimes`.
    """
    for name, (low, high) in ranges.items():
        if name not in RANDOMISED:
            raise ValueError(
                f"what is randomised must be among {', '.join(RANDOMISED)}; got {name!r}."
            )
        if not 0.0 < low <= high < np.inf:
            raise ValueError(
                f"the range of {name} must be from above 0 to at least that; got {low:g}..{high:g}."
            )
