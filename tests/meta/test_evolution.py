"""Evolution on functions with known tops: every strategy, ranks, ties, pairs, devices, decay."""

import re

import evosax.algorithms  # noqa: F401  (before jax.jit is replaced)
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from evosax.core.fitness_shaping import (
    centered_rank_fitness_shaping_fn,
    weights_fitness_shaping_fn,
)
from hills import TOP, distance, hill, leaves, start, task
from jax.sharding import AxisType, Mesh
from probes import quick_jit

from agents._promotion import relaxed_promotion
from meta.evolution import evolution
from meta.population import MEMBERS, evaluation, population_mesh
from meta.strategies import STRATEGIES, EvolutionConfig, costs, make_strategy
from meta.task import Lifetimes

KEY = jax.random.key(0)
TRUNCATED = ("persistent_es", "noise_reuse_es")
QUICK = {"population": 32, "sigma": 0.3, "learning_rate": 0.1}


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """These programs take longer to compile than to run."""
    monkeypatch.setattr(jax, "jit", quick_jit)


def after(trainer, generations):
    """The state, and the metrics of every generation."""
    state, metrics = trainer.init(KEY), []
    for _ in range(generations):
        state, now = trainer.step(state)
        metrics.append(jax.device_get(now))
    return state, metrics


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    return all(map(np.array_equal, leaves(one), leaves(other)))


def on(devices):
    """A mesh of so many devices."""
    return Mesh(np.array(jax.devices()[:devices]), (MEMBERS,), axis_types=(AxisType.Auto,))


# Strategies and the sign


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_climbs(strategy):
    """By steps, and with a spread, that fall as they should."""
    kind = STRATEGIES[strategy]
    schedule = {"sigma_decay": 0.98} if kind.fixed_sigma else {}
    if kind.learning_rate == 0.03:  # by Adam
        schedule |= {"learning_rate": 0.1, "learning_rate_decay": 0.98}
    config = EvolutionConfig(strategy, population=32, sigma=0.3, **schedule)
    trainer = evolution(start, [hill(3 if kind.truncated else 1)], config)
    state, metrics = trainer.init(KEY), []
    means = [start(KEY)["a"]]
    for _ in range(80):
        state, now = trainer.step(state)
        metrics.append(jax.device_get(now))
        means.append(np.array(trainer.meta_params(state)["a"]))
    assert distance(start(KEY)) == 5.25
    assert distance(trainer.meta_params(state)) < 0.1
    assert metrics[-1]["fitness_mean"] > metrics[0]["fitness_mean"] + 3.0
    for now in metrics:
        assert now["fitness_worst"] < now["fitness_mean"] < now["fitness_best"] <= 0.0
    if kind.fixed_sigma:
        sigmas = [now["sigma"] for now in metrics]
        np.testing.assert_allclose(sigmas, 0.3 * 0.98 ** np.arange(80), rtol=1e-5)
    if kind.learning_rate == 0.03:  # Adam's first step is the learning rate
        steps = np.abs(np.diff(means, axis=0))
        if strategy != "pgpe":
            np.testing.assert_allclose(steps[0], 0.1, rtol=1e-3)
        assert (steps < 0.15 * 0.98 ** np.arange(80)[:, None]).all()
    # Neither types nor shapes change from one generation to the next.
    with compilations() as events:
        trainer.step(trainer.step(trainer.init(KEY))[0])
    assert events == []


def test_costs_turn_the_sign_and_put_failures_last():
    fitness = jnp.array([2.0, jnp.nan, jnp.nan, jnp.inf, 5.0, -jnp.inf])
    np.testing.assert_array_equal(costs(fitness), [-2, np.nan, np.nan, np.nan, -5, np.nan])
    np.testing.assert_array_equal(costs(fitness, "pairs"), [-1, 1, 0, 1, -1, 0])


def test_failed_members_have_the_worst_rank():
    """The higher the better, but beyond 0.2 lies ruin: the mean keeps away from there.

    Now and then a whole generation fails, and teaches nothing.
    """

    def cliff(meta_params, key):
        fails = (meta_params["a"][0] > 0.2) | jax.random.bernoulli(key, 0.2)
        return jnp.where(fails, jnp.nan, meta_params["a"][0])

    trainer = evolution(start, [task(cliff)], EvolutionConfig(**QUICK))
    state, metrics = after(trainer, 40)
    failed = np.array([now["failed"] for now in metrics])
    assert 2 < np.sum(failed == 32) < 16
    assert 0 < np.sum(failed[failed < 32]) < 32 * 10
    assert all(np.isnan(now["fitness_best"]) == (now["failed"] == 32) for now in metrics)
    assert all(now["fitness_best"] <= 0.2 for now in metrics if now["failed"] < 32)
    assert -1.0 < float(trainer.meta_params(state)["a"][0]) < 0.1


# Ties


def shaping(strategy):
    """What the strategy makes of the costs of 18 members, what evosax would, and the weights."""
    config = EvolutionConfig(strategy, population=18)
    with relaxed_promotion():
        made, parameters = make_strategy(TOP, config, 2)
    weights = getattr(parameters, "weights", None)
    theirs = centered_rank_fitness_shaping_fn if weights is None else weights_fitness_shaping_fn

    def compiled(function):
        @jax.jit
        def shape(cost):
            with relaxed_promotion():
                return function(None, cost, None, parameters)

        return lambda cost: np.array(shape(cost))

    return compiled(made.fitness_shaping_fn), compiled(theirs), weights


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_ties_costs_count_as_in_evosax(strategy):
    """Bit for bit, also if one member failed; if several did, they are tied."""
    shape, theirs, _ = shaping(strategy)
    for seed in range(5):
        cost = jax.random.normal(jax.random.key(seed), (18,))
        for given in (cost, cost.at[seed].set(jnp.nan)):
            np.testing.assert_array_equal(shape(given), theirs(given))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_members_that_tie_are_not_all_put_in_one_rank(strategy):
    """Few numbers for many members: what they weigh together is what it is without ties."""
    shape, _, weights = shaping(strategy)
    untied = shape(jnp.arange(18.0))
    patterns = [jnp.arange(18) < few for few in (1, 6, 9, 12, 17, 18)]
    patterns += [jax.random.randint(jax.random.key(i), (18,), 0, i) for i in range(2, 8)]
    for pattern in patterns:
        cost = jnp.asarray(jax.random.permutation(KEY, pattern), jnp.float32)
        shaped = shape(cost)
        places = np.argsort(cost, stable=True)
        if strategy == "sep_cma_es":
            np.testing.assert_array_equal(shaped[places], weights)
            continue
        assert abs(shaped.sum()) < 1e-6
        for value in np.unique(cost):
            mean = untied[np.sort(cost) == value].mean()
            np.testing.assert_allclose(shaped[cost == value], mean, atol=1e-6)


def test_failed_members_attract_nobody():
    """In Sep-CMA-ES, where only the better half has a weight, even if more than half failed."""
    shape, _, weights = shaping("sep_cma_es")
    cost = jnp.full((18,), jnp.nan).at[5].set(2.0).at[9].set(1.0)
    expected = np.zeros(18, np.float32)
    expected[[9, 5]] = weights[:2]
    np.testing.assert_array_equal(shape(cost), expected)
    np.testing.assert_array_equal(shape(jnp.full((18,), jnp.nan)), shape(jnp.zeros(18)))


@pytest.mark.parametrize("sigma", [1.0, 1e-3])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_plateau_teaches_nothing(strategy, sigma):
    """Where all members earn the same, sigma stays; and the mean, but for Sep-CMA-ES's noise."""
    stretches = 2 if STRATEGIES[strategy].truncated else 1
    flat = task(lambda meta_params, key: jnp.zeros(()), stretches)
    decay = {"sigma_decay": 1.0} if STRATEGIES[strategy].fixed_sigma else {}
    config = EvolutionConfig(strategy, population=32, sigma=sigma, **decay)
    trainer = evolution(lambda key: {"a": jnp.ones(20)}, [flat], config)
    state, metrics = after(trainer, 50)
    walked = np.abs(trainer.meta_params(state)["a"] - 1.0).max() / sigma
    if strategy == "sep_cma_es":
        assert 0.2 < metrics[-1]["sigma"] / sigma < 5.0
    else:
        assert metrics[-1]["sigma"] == pytest.approx(sigma, rel=1e-5)
        assert walked < 1e-3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_climbs_onto_a_step(strategy):
    """Half of the members earn 0 at first, and half 1: sigma does not vanish, nor do others walk.

    Steps of SNES along the 19 other parameters are of noise alone, and as small as it is without
    ties.
    """
    kind = STRATEGIES[strategy]
    step = task(
        lambda meta_params, key: jnp.where(meta_params["a"][0] > 0.0, 1.0, 0.0),
        2 if kind.truncated else 1,
    )
    config = EvolutionConfig(strategy, population=32, sigma=1.0)
    state, metrics = after(evolution(lambda key: {"a": jnp.zeros(20)}, [step], config), 50)
    mean = np.array(state.strategy.mean)
    assert metrics[-1]["fitness_mean"] > 0.8
    assert mean[0] > 0.8
    assert metrics[-1]["sigma"] > 0.2
    if strategy != "sep_cma_es":
        assert np.sqrt(np.mean(np.square(mean[1:]))) < 0.5


# Tasks and seeds


def luck(meta_params, key):
    return jax.random.normal(key)


@pytest.mark.parametrize("sampling", ["all", "pairs"])
def test_members_of_a_pair_share_task_and_seeds(sampling):
    """Where task and seeds decide everything, a pair is never unequal, and the mean stays."""
    config = EvolutionConfig(population=12, lives=2, task_sampling=sampling)
    tasks = [task(luck), task(lambda x, key: 100.0 + luck(x, key)), task(luck)]
    trainer = evolution(start, tasks, config)
    state, metrics = after(trainer, 3)
    assert distance(trainer.meta_params(state)) == pytest.approx(5.25)
    for now in metrics:
        # All with the same seeds; or every pair with its own.
        assert (now["fitness_best"] == now["fitness_worst"]) == (sampling == "all")
        assert 98.0 < now["task_fitness"][1] < 102.0
        assert abs(now["task_fitness"][0]) < 3.0
        assert now["task_fitness"][0] != now["task_fitness"][2]
    assert len({float(now["task_fitness"][0]) for now in metrics}) == 3


def test_pairs_are_judged_by_their_own_task_alone():
    """However much higher one task pays than the other; and however many devices there are."""

    def part(name, scale, offset):
        def fitness(meta_params, key):
            height = -jnp.sum(jnp.square(meta_params[name] - TOP[name]))
            return offset + scale * (height + 0.1 * luck(meta_params, key))

        return task(fitness)

    tasks = [part("a", 1e-3, 0.0), part("b", 1e3, 1e4)]
    config = EvolutionConfig(**QUICK, task_sampling="pairs", lives=2, members_at_once=1)
    trainer = evolution(start, tasks, config, on(8))
    state, metrics = after(trainer, 80)
    assert distance(trainer.meta_params(state)) < 0.2
    assert same((state, metrics), after(evolution(start, tasks, config, on(1)), 80))


def test_truncated_lives_go_on_until_they_are_over():
    """What only shows in a later stretch is put down to the perturbations of before."""

    def init(meta_params, key):
        return jnp.zeros(()), jnp.zeros((), jnp.int32), key

    def advance(meta_params, life):
        first, age, key = life
        first = jnp.where(age == 0, meta_params["a"][0], first)
        return (first, age + 1, key), jnp.where(age == 0, 0.0, first)

    tasks = [Lifetimes(init, advance, 2), hill(2)]
    config = EvolutionConfig("persistent_es", **QUICK, lives=2)
    trainer = evolution(start, tasks, config, on(8))
    state, seen = trainer.init(KEY), []
    for _ in range(40):
        state, _ = trainer.step(state)
        _, ages, keys = state.lives[0]
        assert keys.shape == ages.shape == (32, 2)
        assert len(ages.sharding.device_set) == 8
        assert (leaves(keys)[0] == leaves(keys)[0][0]).all()  # of all members the same
        seen.append((int(ages[0, 0]), leaves(keys)[0][0].tobytes()))
    assert [age for age, _ in seen] == [1, 2] * 20
    assert [key == seen[2][1] for _, key in seen[:6]] == [False, False, True, True, False, False]
    # The second task's top is at 1, from where the first one pulls on.
    assert float(trainer.meta_params(state)["a"][0]) > 1.05
    assert same(state, after(evolution(start, tasks, config, on(1)), 40)[0])


# Devices


def test_default_mesh_divides_the_members():
    assert population_mesh([64]).size == 8
    assert population_mesh([12]).size == 6
    assert population_mesh([7, 14]).size == 7
    assert population_mesh([9, 4]).size == 1


def test_evaluation_plays_the_same_seeds_each_time():
    tasks = [task(luck), hill()]
    evaluate = evaluation(tasks, seeds=6, at_once=1)
    first = evaluate(start(KEY), KEY)
    assert first.shape == (2, 6)
    assert len(np.unique(first[0])) == 6
    np.testing.assert_array_equal(first, evaluate(start(KEY), KEY))
    assert not np.array_equal(first[0], evaluate(start(KEY), jax.random.key(1))[0])
    np.testing.assert_allclose(first[1], -5.25)


# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategy": "cma"}, "strategy must be one of openai_es, snes, pgpe, sep_cma_es, "
         "persistent_es, noise_reuse_es, es_single; got 'cma'."),
        ({"population": 2}, "population must be a whole number, at least 4; got 2."),
        ({"population": 7}, "population must be even for openai_es; got 7."),
        ({"lives": 0}, "lives must be a whole number, at least 1; got 0."),
        ({"members_at_once": 1.5}, "members_at_once must be a whole number, at least 1; got 1.5."),
        ({"sigma": 0.0}, "sigma must be in (0, inf); got 0.0."),
        ({"learning_rate": float("nan")}, "learning_rate must be in (0, inf); got nan."),
        ({"sigma_decay": 1.1}, "sigma_decay must be in (0, 1]; got 1.1."),
        ({"strategy": "snes", "sigma_decay": 0.9},
         "sigma_decay must be left out for snes, which adapts sigma; got 0.9."),
        ({"strategy": "sep_cma_es", "learning_rate": 0.1},
         "learning_rate must be left out for sep_cma_es, which has no learning rate; got 0.1."),
        ({"task_sampling": "some"}, "task_sampling must be one of all, pairs; got 'some'."),
        ({"strategy": "snes", "task_sampling": "pairs"},
         "task_sampling must be 'all' for snes; got 'pairs'."),
        ({"shaping": "rank"}, "shaping must be one of ranks, seed_ranks, values; got 'rank'."),
        ({"strategy": "sep_cma_es", "shaping": "values"},
         "shaping must be ranks or seed_ranks for sep_cma_es; got 'values'."),
    ],
)  # fmt: skip
def test_configurations_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        EvolutionConfig(**change)


def test_numbers_that_do_not_fit_together():
    pairs = EvolutionConfig(population=8, task_sampling="pairs")
    for arguments, message in [
        (([hill(2)], EvolutionConfig()), "stretches of a lifetime must be 1 for openai_es; got 2"),
        (([hill()], EvolutionConfig("persistent_es")), "at least 2 for persistent_es; got 1"),
        (([hill(), hill(2)], EvolutionConfig()), r"the same number of stretches; got \[1, 2\]"),
        (([], EvolutionConfig()), r"not be empty, and all must have the same number .* got \[\]"),
        (([hill()] * 3, pairs), "population must be a multiple of 6, two for each task"),
        (([hill()], EvolutionConfig(), on(3)), "a multiple of the mesh's 3 devices; got 64"),
    ]:
        with pytest.raises(ValueError, match=message):
            evolution(start, *arguments)
    with pytest.raises(ValueError, match="whole, with 1 stretch each"):
        evaluation([hill(2)], 1)
    with pytest.raises(ValueError, match="seeds must be at least 1; got 0"):
        evaluation([hill()], 0)
