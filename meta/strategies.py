"""evosax's strategies by name, their settings, and how fitness becomes what they minimise."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rl_optim import require_extra

# evosax is imported when it is needed: its import starts jax's devices.


def _centered_ranks(population: Any, cost: jax.Array, state: Any, parameters: Any) -> jax.Array:
    """Ranks from -1/2, the best, to 1/2, averaged over ties."""
    from evosax.core.fitness_shaping import centered_rank_fitness_shaping_fn

    ranks = centered_rank_fitness_shaping_fn(population, cost, state, parameters)
    # If all are equal, rounding may leave 1e-8 in place of 0, which Adam can turn into full steps.
    cost = jnp.where(jnp.isnan(cost), jnp.inf, cost)
    return jnp.where(jnp.all(cost == cost[:1]), 0.0, ranks)


def _unchanged(population: Any, cost: jax.Array, state: Any, parameters: Any) -> jax.Array:
    """Costs that are already what the members are to weigh."""
    del population, state, parameters
    return cost


def _averaged_weights(population: Any, cost: jax.Array, state: Any, parameters: Any) -> jax.Array:
    """Weights by rank, averaged over ties.

    evosax gives all members of a tie the weight at their rounded average rank. The weights then no
    longer sum to 0, so that the mean drifts even if all members are equal.
    """
    del population, state
    cost = jnp.where(jnp.isnan(cost), jnp.inf, cost)
    weights = parameters.weights[_ranks(cost)]
    tied = cost[:, None] == cost[None]
    return jnp.sum(jnp.where(tied, weights[None], 0.0), axis=1) / jnp.sum(tied, axis=1)


def _ordinal_weights(population: Any, cost: jax.Array, state: Any, parameters: Any) -> jax.Array:
    """Weights by rank, with equal members in the order in which they stand; 0 for failed members.

    Sigma adapts to the length of the mean's steps, measured against steps with all the weights.
    With ties, both evosax's weight at the rounded average rank and an average of weights give
    shorter steps, which shrink sigma to nothing. Members are independent draws, so the order in
    which they stand is random and breaks ties without bias. If all failed, all are equal.
    """
    del population, state
    failed = jnp.isnan(cost)
    return jnp.where(failed & ~jnp.all(failed), 0.0, parameters.weights[_ranks(cost)])


def _ranks(cost: jax.Array) -> jax.Array:
    """Each member's place from 0, the lowest cost; ties in the order given, NaN last."""
    return jnp.argsort(jnp.argsort(cost))


class Strategy(NamedTuple):
    """What the trainer needs to know about one of evosax's strategies."""

    name: str  # in evosax
    learning_rate: float | None  # the default; None if the strategy takes none
    antithetic: bool  # whether members come in mirrored pairs, i and i + population / 2
    fixed_sigma: bool  # whether sigma follows a schedule; otherwise the strategy adapts it
    truncated: bool = False  # whether lifetimes continue from one generation to the next
    shaping: Callable[[Any, jax.Array, Any, Any], jax.Array] = _centered_ranks  # of ranked costs

    @property
    def ranks_alone(self) -> bool:
        """Whether nothing but the order of costs can count."""
        return self.shaping is not _centered_ranks


STRATEGIES = {
    "openai_es": Strategy("Open_ES", 0.03, antithetic=True, fixed_sigma=True),
    "snes": Strategy("SNES", 1.0, False, fixed_sigma=False, shaping=_averaged_weights),
    "pgpe": Strategy("PGPE", 0.03, antithetic=True, fixed_sigma=False),
    "sep_cma_es": Strategy("Sep_CMA_ES", None, False, fixed_sigma=False, shaping=_ordinal_weights),
    "persistent_es": Strategy("PersistentES", 0.03, True, fixed_sigma=True, truncated=True),
    "noise_reuse_es": Strategy("NoiseReuseES", 0.03, True, fixed_sigma=True, truncated=True),
    # With lifetimes that all begin together, as here, it is the same algorithm.
    "es_single": Strategy("NoiseReuseES", 0.03, True, fixed_sigma=True, truncated=True),
}
TASK_SAMPLING = ("all", "pairs")
SHAPING = ("ranks", "seed_ranks", "values")
_DECAY = 0.999
_LARGEST = sys.float_info.max


@dataclasses.dataclass(frozen=True)
class EvolutionConfig:
    """Settings for evolution; the defaults are those that OPEN's authors published.

    Attributes:
        strategy: a key of `STRATEGIES`.
        population: members per generation, at least 4, and even if they come in antithetic pairs.
        sigma: initial standard deviation of the members around the mean.
        sigma_decay: what sigma is multiplied by after each generation, in (0, 1]; None for 0.999.
            Not allowed for strategies that adapt sigma.
        learning_rate: for the mean, which moves by Adam (in SNES by plain gradient descent); None
            for the strategy's default. Not allowed for Sep-CMA-ES.
        learning_rate_decay: what the learning rate is multiplied by after each generation, in
            (0, 1]; None for 0.999. Not allowed for Sep-CMA-ES.
        task_sampling: 'all': every member plays all tasks, with the same seeds, and is ranked among
            all members by its mean fitness. 'pairs': every antithetic pair plays one task, with its
            own seeds, and its two members are ranked against each other.
        shaping: how fitness is weighed, see `costs`. 'ranks': by the rank of a member's mean
            fitness. 'seed_ranks': by the mean of its ranks in each life. 'values': by the fitness
            itself; not allowed for SNES and Sep-CMA-ES, in which only the order counts.
        lives: lifetimes of each member per generation, on each task that it plays.
        members_at_once: members that a device runs in parallel; the rest follow in further batches.
            None for all at once. A smaller number needs less memory.

    Raises:
        ValueError: on construction, if a value is not allowed.
        ImportError: likewise, without evosax.
    """

    strategy: str = "openai_es"
    population: int = 64
    sigma: float = 0.03
    sigma_decay: float | None = None
    learning_rate: float | None = None
    learning_rate_decay: float | None = None
    task_sampling: str = "all"
    shaping: str = "ranks"
    lives: int = 1
    members_at_once: int | None = None

    def __post_init__(self) -> None:
        require_extra("meta", "evosax")  # which is imported when training is about to begin
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
        if self.shaping not in SHAPING:
            self._refuse("shaping", f"one of {', '.join(SHAPING)}")
        if self.shaping == "values" and kind.ranks_alone:
            self._refuse("shaping", f"ranks or seed_ranks for {self.strategy}")

    def _refuse(self, name: str, allowed: str) -> NoReturn:
        raise ValueError(f"{name} must be {allowed}; got {getattr(self, name)!r}.")

    @property
    def kind(self) -> Strategy:
        """The strategy's entry in `STRATEGIES`."""
        return STRATEGIES[self.strategy]


def costs(fitness: jax.Array, task_sampling: str = "all", shaping: str = "ranks") -> jax.Array:
    r"""Turns fitness, of which more is better, into costs, which evosax minimises.

    Nothing else changes the sign. With :math:`f_{il}` the fitness of member i in its life l of L,
    :math:`f_i` its mean over the lives and i' the other member of its antithetic pair, the costs of
    P members are

    .. math::
        \begin{aligned}
        \text{ranks}: &\quad -f_i \text{, of which only the order matters, or in pairs }
            \operatorname{sign}(f_{i'} - f_i) \\
        \text{seed\_ranks}: &\quad \frac{1}{L} \sum_l \frac{|\{j : f_{jl} > f_{il}\}| -
            |\{j : f_{jl} < f_{il}\}|}{2 (P - 1)} \text{, or } \frac{1}{L} \sum_l
            \operatorname{sign}(f_{i'l} - f_{il}) \\
        \text{values}: &\quad \frac{1}{P} \sum_j f_j - f_i \text{, or }
            \tfrac{1}{2} (f_{i'} - f_i)
        \end{aligned}

    Only values leave the estimates of evolution strategies unbiased. With ranks within lives, a
    life counts as much as any other, however far apart its members are.

    Args:
        fitness: of the members, shape (population,) or (population, lives): life l has the same
            task and seed for all members or, with 'pairs', for both of a pair. A life whose fitness
            is not finite is a failed one, worse than any that is finite.
        task_sampling: 'all': members are compared with all others. 'pairs': member i only with
            member i + population / 2.
        shaping: see above. Where values count, a failed life has the lowest of all that are finite.

    Returns:
        Costs, shape (population,). With 'ranks' and 'all' NaN, the worst, for members of which a
        life failed. Where all members are equal, all costs are.

    Examples:
        >>> import jax.numpy as jnp
        >>> from meta.strategies import costs
        >>> fitness = jnp.array([3.0, 1.0, jnp.nan, 2.0])
        >>> print(costs(fitness))
        [-3. -1. nan -2.]
        >>> print(costs(fitness, "pairs"))
        [-1.  1.  1. -1.]
        >>> print(costs(fitness, shaping="values"))  # those of the failed one are the lowest
        [-1.25  0.75  0.75 -0.25]
        >>> lives = jnp.array([[3.0, 0.0], [1.0, 0.1], [2.0, 0.2]])
        >>> print(costs(lives, shaping="seed_ranks"))
        [ 0.    0.25 -0.25]
    """
    lives = fitness if fitness.ndim == 2 else fitness[:, None]
    cost = jnp.where(jnp.isfinite(lives), -lives, jnp.nan)
    if shaping == "values":
        highest = jnp.max(jnp.where(jnp.isnan(cost), -jnp.inf, cost))
        cost = jnp.where(jnp.isnan(cost), jnp.where(jnp.isfinite(highest), highest, 0.0), cost)
    if shaping != "seed_ranks":
        cost = jnp.mean(cost, axis=1, keepdims=True)
    if task_sampling == "pairs":
        first, second = jnp.split(jnp.where(jnp.isnan(cost), jnp.inf, cost), 2)
        if shaping == "values":
            worse = 0.5 * (first - second)
        else:
            worse = jnp.where(first > second, 1.0, jnp.where(first < second, -1.0, 0.0))
        cost = jnp.concatenate([worse, -worse])
    elif shaping == "seed_ranks":
        ranks = jax.scipy.stats.rankdata(jnp.where(jnp.isnan(cost), jnp.inf, cost), axis=0)
        cost = (ranks - 0.5 * (len(cost) + 1)) / (len(cost) - 1)
    elif shaping == "values":
        # Rounding may leave equal ones 1e-8 from their mean, which Adam can turn into full steps.
        cost = jnp.where(jnp.all(cost == cost[:1]), 0.0, cost - jnp.mean(cost))
    return jnp.mean(cost, axis=1).astype(fitness.dtype)


def decayed(start: float, decay: float | None) -> Callable[[jax.Array], jax.Array]:
    """A schedule that is multiplied by `decay` after each generation."""
    factor = jnp.float32(_DECAY if decay is None else decay)
    return lambda generation: start * factor ** generation.astype(jnp.float32)


def make_strategy(example: Any, config: EvolutionConfig, stretches: int) -> tuple[Any, Any]:
    """Builds one of evosax's strategies, and its parameters."""
    from evosax import algorithms

    kind = config.kind
    is_ranked = config.shaping == "ranks" or kind.ranks_alone
    options: dict[str, Any] = {"fitness_shaping_fn": kind.shaping if is_ranked else _unchanged}
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
    if kind.truncated:  # both are counted in stretches
        parameters = parameters.replace(T=stretches, K=1)
    return strategy, parameters
