"""evosax's strategies: by name, with their settings, and which way is up."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax

# evosax is imported when it is needed: its import starts jax's devices.


def _centered_ranks(population: Any, cost: jax.Array, state: Any, parameters: Any) -> jax.Array:
    """Ranks from -1/2 to 1/2, averaged over ties."""
    from evosax.core.fitness_shaping import centered_rank_fitness_shaping_fn

    ranks = centered_rank_fitness_shaping_fn(population, cost, state, parameters)
    # Where all are equal, rounding leaves 1e-8 in place of 0, of which Adam can make whole steps.
    return jnp.where(jnp.max(ranks) > jnp.min(ranks), ranks, 0.0)


def _averaged_weights(population: Any, cost: jax.Array, state: Any, parameters: Any) -> jax.Array:
    """Weights by rank, averaged over ties: what members have in common does not move the mean.

    evosax gives all members of a tie the weight of their rounded mean rank. The weights then no
    longer sum to 0, and where all are equal the mean walks off.
    """
    del population, state
    cost = jnp.where(jnp.isnan(cost), jnp.inf, cost)
    weights = parameters.weights[_ranks(cost)]
    tied = cost[:, None] == cost
    return jnp.sum(jnp.where(tied, weights, 0.0), axis=1) / jnp.sum(tied, axis=1)


def _ordinal_weights(population: Any, cost: jax.Array, state: Any, parameters: Any) -> jax.Array:
    """Weights by rank, of equal members the first first; 0 for members that failed.

    The step size grows or falls with the length of the mean's step, so the weights must be the same
    numbers in every generation: with the weight of the rounded mean rank, which is evosax's, or
    with an average over ties, steps are shorter where there are ties, and sigma falls to nothing.
    Members are independent draws, so the order in which they stand is a random one already. If all
    failed, they are equal too.
    """
    del population, state
    failed = jnp.isnan(cost)
    return jnp.where(failed & ~jnp.all(failed), 0.0, parameters.weights[_ranks(cost)])


def _ranks(cost: jax.Array) -> jax.Array:
    """The members' places, 0 for the best; of equal ones the first comes first, NaN last."""
    return jnp.argsort(jnp.argsort(cost))


class Strategy(NamedTuple):
    """What there is to know about one of evosax's strategies."""

    name: str  # evosax's
    learning_rate: float | None  # the default; None where the mean's step size has no factor
    antithetic: bool  # whether members come in mirrored pairs, i and i + population / 2
    fixed_sigma: bool  # whether sigma follows a schedule; else it adapts
    truncated: bool = False  # whether lifetimes go on from one generation to the next
    shaping: Callable[[Any, jax.Array, Any, Any], jax.Array] = _centered_ranks  # of costs


STRATEGIES = {
    "openai_es": Strategy("Open_ES", 0.03, antithetic=True, fixed_sigma=True),
    "snes": Strategy("SNES", 1.0, False, fixed_sigma=False, shaping=_averaged_weights),
    "pgpe": Strategy("PGPE", 0.03, antithetic=True, fixed_sigma=False),
    "sep_cma_es": Strategy("Sep_CMA_ES", None, False, fixed_sigma=False, shaping=_ordinal_weights),
    "persistent_es": Strategy("PersistentES", 0.03, True, fixed_sigma=True, truncated=True),
    "noise_reuse_es": Strategy("NoiseReuseES", 0.03, True, fixed_sigma=True, truncated=True),
}
TASK_SAMPLING = ("all", "pairs")
_DECAY = 0.999
_LARGEST = sys.float_info.max


@dataclasses.dataclass(frozen=True)
class EvolutionConfig:
    """Settings of evolution; the defaults are those that OPEN's authors published.

    Attributes:
        strategy: a key of `STRATEGIES`.
        population: members of a generation, at least 4, and even where they come in pairs.
        sigma: initial standard deviation of the members around the mean.
        sigma_decay: sigma's factor from one generation to the next, in (0, 1]; None for 0.999.
            Strategies that adapt sigma take none.
        learning_rate: of the mean, which moves by Adam (in SNES by plain descent); None for the
            strategy's default. Sep-CMA-ES takes none.
        learning_rate_decay: as `sigma_decay`.
        task_sampling: 'all': every member plays all tasks, with the same seeds, and is ranked among
            all members by its mean fitness. 'pairs': every antithetic pair plays one task, with
            seeds of its own, and its two members are ranked against each other.
        lives: lifetimes of each member on each task that it plays, in each generation.
        members_at_once: members that a device computes side by side, the others after them; None
            for all. It bounds the memory.

    Raises:
        ValueError: on construction, if a value is not allowed.
    """

    strategy: str = "openai_es"
    population: int = 64
    sigma: float = 0.03
    sigma_decay: float | None = None
    learning_rate: float | None = None
    learning_rate_decay: float | None = None
    task_sampling: str = "all"
    lives: int = 1
    members_at_once: int | None = None

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            self._refuse("strategy", f"one of {', '.join(STRATEGIES)}")
        kind = self.kind
        for name, least in (("population", 4), ("lives", 1), ("members_at_once", 1)):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and value >= least):
                self._refuse(name, f"a whole number, at least {least}")
        for name, most, allowed in (
            ("sigma", _LARGEST, "in (0, inf)"),
            ("learning_rate", _LARGEST, "in (0, inf)"),
            ("sigma_decay", 1.0, "in (0, 1]"),
            ("learning_rate_decay", 1.0, "in (0, 1]"),
        ):
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (is_number and 0.0 < value <= most):
                self._refuse(name, allowed)
        if kind.antithetic and self.population % 2:
            self._refuse("population", f"even for {self.strategy}")
        if not kind.fixed_sigma and self.sigma_decay is not None:
            self._refuse("sigma_decay", f"left out for {self.strategy}, which adapts sigma")
        for name in ("learning_rate", "learning_rate_decay"):
            if kind.learning_rate is None and getattr(self, name) is not None:
                self._refuse(name, f"left out for {self.strategy}, which has no learning rate")
        if self.task_sampling not in TASK_SAMPLING:
            self._refuse("task_sampling", f"one of {', '.join(TASK_SAMPLING)}")
        if self.task_sampling == "pairs" and (not kind.antithetic or kind.truncated):
            self._refuse("task_sampling", f"'all' for {self.strategy}")

    def _refuse(self, name: str, allowed: str) -> NoReturn:
        raise ValueError(f"{name} must be {allowed}; got {getattr(self, name)!r}.")

    @property
    def kind(self) -> Strategy:
        """The strategy's properties."""
        return STRATEGIES[self.strategy]


def costs(fitness: jax.Array, task_sampling: str = "all") -> jax.Array:
    """What evosax minimises: the one place where the sign of the fitness turns.

    Args:
        fitness: of the members, higher is better, shape (population,). What is not finite is worse
            than anything that is.
        task_sampling: 'all': members are compared with all others. 'pairs': i only with
            i + population / 2.

    Returns:
        Numbers whose ranks are what counts, NaN (for evosax the worst) for members that failed.
        Within pairs: 1 for the worse, -1 for the better, 0 for both if they are equal.

    Examples:
        >>> import jax.numpy as jnp
        >>> from meta.strategies import costs
        >>> fitness = jnp.array([3.0, 1.0, jnp.nan, 2.0])
        >>> print(costs(fitness))
        [-3. -1. nan -2.]
        >>> print(costs(fitness, "pairs"))
        [-1.  1.  1. -1.]
    """
    cost = jnp.where(jnp.isfinite(fitness), -fitness, jnp.nan)
    if task_sampling == "all":
        return cost
    first, second = jnp.split(jnp.where(jnp.isnan(cost), jnp.inf, cost), 2)
    worse = jnp.where(first > second, 1.0, jnp.where(first < second, -1.0, 0.0))
    return jnp.concatenate([worse, -worse]).astype(fitness.dtype)


def decayed(start: float, decay: float | None) -> Callable[[jax.Array], jax.Array]:
    """A schedule that falls by a factor in each generation."""
    factor = jnp.float32(_DECAY if decay is None else decay)
    return lambda generation: start * factor ** generation.astype(jnp.float32)


def make_strategy(example: Any, config: EvolutionConfig, stretches: int) -> tuple[Any, Any]:
    """One of evosax's strategies, and its parameters."""
    from evosax import algorithms

    kind = config.kind
    options: dict[str, Any] = {"fitness_shaping_fn": kind.shaping}
    if kind.learning_rate is not None:
        start = kind.learning_rate if config.learning_rate is None else config.learning_rate
        rate = decayed(start, config.learning_rate_decay)
        options["optimizer"] = optax.sgd(rate) if config.strategy == "snes" else optax.adam(rate)
    if kind.fixed_sigma:
        options["std_schedule"] = lambda _: jnp.float32(config.sigma)
    solution = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), example)
    strategy = getattr(algorithms, kind.name)(config.population, solution, **options)
    parameters = strategy.default_params
    if not kind.fixed_sigma:
        parameters = parameters.replace(std_init=jnp.float32(config.sigma))
    if kind.truncated:  # counted in stretches
        parameters = parameters.replace(T=stretches, K=1)
    return strategy, parameters
