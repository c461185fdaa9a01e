"""How fitness weighs: within seeds, by itself, unbiased; and what is common to all cancels."""

import evosax.algorithms  # noqa: F401  (before jax.jit is replaced)
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hills import TOP, distance, hill, leaves, start, task
from probes import quick_jit
from scipy.stats import rankdata

from meta.evolution import evolution
from meta.strategies import SHAPING, STRATEGIES, EvolutionConfig, costs
from meta.task import Lifetimes

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """These programs take longer to compile than to run."""
    monkeypatch.setattr(jax, "jit", quick_jit)


def height(meta_params):
    return -sum(jnp.sum(jnp.square(meta_params[name] - TOP[name])) for name in TOP)


def gradients(trainer, generations):
    """Adam's momentum tells the first estimate, later ones by what they add to it."""
    state, momentum, found = trainer.init(KEY), 0.0, []
    for _ in range(generations):
        state, _ = trainer.step(state)
        now = np.array(state.strategy.opt_state[0].mu)
        found.append((now - 0.9 * momentum) / 0.1)
        momentum = now
    return state, found


@pytest.mark.parametrize("shaping", SHAPING)
def test_costs_of_several_lives(shaping):
    """Against SciPy and plain sums, with one failed life; of all members and of pairs."""
    fitness = np.array(jax.random.normal(KEY, (6, 4)))
    fitness[3, 1], fitness[0, 2] = np.nan, fitness[4, 2]
    known = np.where(np.isnan(fitness), -np.inf, fitness)
    filled = np.where(np.isnan(fitness), np.nanmin(fitness), fitness)
    first, second = np.split(known, 2)
    if shaping == "ranks":
        everything = -fitness.mean(axis=1)
        pairs = np.sign(second.mean(axis=1) - first.mean(axis=1))
    elif shaping == "seed_ranks":
        everything = 0.5 - (rankdata(known, axis=0) - 1).mean(axis=1) / 5
        pairs = np.sign(second - first).mean(axis=1)
    else:
        everything = filled.mean() - filled.mean(axis=1)
        pairs = (filled[3:] - filled[:3]).mean(axis=1) / 2
    ours = costs(jnp.array(fitness), "all", shaping)
    np.testing.assert_allclose(ours, everything, rtol=1e-5, atol=1e-6)
    ours = costs(jnp.array(fitness), "pairs", shaping)
    np.testing.assert_allclose(ours, np.concatenate([pairs, -pairs]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sampling", ["all", "pairs"])
@pytest.mark.parametrize("shaping", SHAPING[1:])
def test_equal_members_cost_nothing(shaping, sampling):
    """Exactly, whatever the number, also if all failed: Adam would make full steps of rounding."""
    for value in (0.1, 7.3, jnp.nan):
        lives = jnp.array(np.full((6, 3), value, np.float32) + np.float32([0.0, 0.3, 1.7]))
        np.testing.assert_array_equal(costs(lives, sampling, shaping), np.zeros(6))


def test_within_seeds_a_wild_life_counts_as_any_other():
    """A member that is best in two lives of three is best, whatever it earns in the third."""
    fitness = jnp.array([[1.0, 1.0, -9.0], [0.0, 0.0, 9.0], [-1.0, -1.0, 0.0]])
    assert np.argmin(costs(fitness)) == 1
    assert np.argmin(costs(fitness, shaping="seed_ranks")) == 0


@pytest.mark.parametrize(
    ("strategy", "shaping", "sampling"),
    [
        *(("openai_es", shaping, "all") for shaping in SHAPING),
        ("openai_es", "values", "pairs"),
        ("persistent_es", "values", "all"),
    ],
)
def test_what_all_members_of_a_seed_share_cancels(strategy, shaping, sampling):
    """So the difference to a fixed optimizer on the same seeds teaches what fitness teaches."""
    stretches = 2 if STRATEGIES[strategy].truncated else 1

    def fitness(common):
        # Powers of 2, so that sums round little.
        luck = lambda key: jnp.round(8.0 * jax.random.normal(key)) / 2.0  # noqa: E731
        return task(lambda x, key: height(x) + common * luck(key), stretches)

    config = EvolutionConfig(
        strategy, population=16, sigma=0.3, learning_rate=0.1, lives=2, shaping=shaping,
        task_sampling=sampling,
    )  # fmt: skip
    ends, earned = [], []
    for common in (0.0, 1.0):
        trainer = evolution(start, [fitness(common)], config)
        state = trainer.init(KEY)
        for _ in range(6):
            state, metrics = trainer.step(state)
        ends.append(leaves(trainer.meta_params(state)))
        earned.append(float(metrics["fitness_mean"]))
    assert abs(earned[0] - earned[1]) > 0.1
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    assert distance(trainer.meta_params(state)) < 5.0


@pytest.mark.parametrize(
    ("strategy", "shaping"),
    [
        *((strategy, "seed_ranks") for strategy in ("openai_es", "snes", "sep_cma_es")),
        *((strategy, "values") for strategy in ("openai_es", "pgpe", "persistent_es")),
    ],
)
def test_every_shaping_climbs(strategy, shaping):
    kind = STRATEGIES[strategy]
    rate = {"learning_rate": 0.1} if kind.learning_rate == 0.03 else {}
    decay = {"learning_rate_decay": 0.97} if rate else {}
    config = EvolutionConfig(
        strategy, population=32, sigma=0.3, shaping=shaping, lives=2, **rate, **decay
    )
    trainer = evolution(start, [hill(2 if kind.truncated else 1)], config)
    state = trainer.init(KEY)
    for _ in range(60):
        state, metrics = trainer.step(state)
    assert distance(trainer.meta_params(state)) < 0.3
    assert int(metrics["failed"]) == 0


def late() -> Lifetimes:
    """What the first stretch does pays 1 there and 10 in the second, which pays 1 by itself."""

    def advance(meta_params, life):
        first, age = life
        now = meta_params["a"][0]
        first = jnp.where(age == 0, now, first)
        return (first, age + 1), jnp.where(age == 0, now, 10.0 * first + now)

    return Lifetimes(lambda x, key: (jnp.zeros(()), jnp.zeros((), jnp.int32)), advance, 2)


@pytest.mark.parametrize("strategy", ["persistent_es", "noise_reuse_es", "es_single"])
def test_by_values_estimates_of_truncated_strategies_are_unbiased(strategy):
    """Their sum over the stretches is the slope of the whole lifetime's fitness; ranks lose it."""
    totals = {}
    for shaping in ("values", "ranks"):
        config = EvolutionConfig(
            strategy, population=4096, sigma=0.1, learning_rate=1e-4, shaping=shaping
        )
        _, found = gradients(evolution(lambda key: {"a": jnp.zeros(1)}, [late()], config), 2)
        totals[shaping] = np.ravel(found)
    np.testing.assert_allclose(-totals["values"], [1.0, 11.0], rtol=0.1)
    assert totals["ranks"][1] / totals["ranks"][0] < 3.0


def test_es_single_is_noise_reuse_where_lifetimes_begin_together():
    ends = []
    for strategy in ("es_single", "noise_reuse_es"):
        config = EvolutionConfig(strategy, population=8, sigma=0.3, shaping="values")
        trainer = evolution(start, [hill(3)], config)
        state = trainer.init(KEY)
        for _ in range(4):
            state, _ = trainer.step(state)
        ends.append(leaves(state))
    for one, other in zip(*ends, strict=True):
        np.testing.assert_array_equal(one, other)
