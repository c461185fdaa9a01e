"""Tasks one after the other: the same as each alone from where the one before it ended."""

import re

import evosax.algorithms  # noqa: F401  (before jax.jit is replaced)
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hills import distance, height, leaves, start, task
from jax.sharding import AxisType, Mesh
from probes import quick_jit

from meta.curriculum import check_curriculum, current_tasks, steps_of_each
from meta.evolution import evolution
from meta.pipeline import PipelineConfig, pipeline, reset_offsets
from meta.population import MEMBERS
from meta.strategies import EvolutionConfig
from meta.task import Lifetimes
from meta.windows import Windows

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """These programs take longer to compile than to run."""
    monkeypatch.setattr(jax, "jit", quick_jit)


def on(devices):
    """A mesh of so many devices."""
    return Mesh(np.array(jax.devices()[:devices]), (MEMBERS,), axis_types=(AxisType.Auto,))


def lives(number, shape, factor=1.0):
    """Lives that count their windows, and hold an observation of some shape."""

    def init(meta_params, key):
        return {"age": jnp.zeros(()), "observation": jax.random.normal(key, shape)}

    def grow(meta_params, life):
        return life | {"age": life["age"] + 1.0}

    def loss(meta_params, life):
        luck = jnp.mean(life["observation"])
        metrics = {"episodes": jnp.ones((), jnp.int32), "return_sum": life["age"]}
        return -factor * height(meta_params) * (1.0 + 0.1 * luck), (
            grow(meta_params, life),
            metrics,
        )

    return Windows(init, grow, loss, number)


def test_each_task_has_its_time():
    assert [current_tasks((3, 5), 3, step) for step in (0, 2, 3, 4, 5, 9)] == [
        (0,), (0,), (1,), (1,), (2,), (2,)
    ]  # fmt: skip
    for steps in range(12):
        counts = [0, 0, 0]
        for step in range(steps):
            counts[current_tasks((3, 5), 3, step)[0]] += 1
        assert steps_of_each((3, 5), 3, steps) == counts
        assert steps_of_each((), 2, steps) == [steps, steps]


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("schedule", ["staggered", "newborn"])
def test_pipeline_takes_one_task_after_the_other(schedule, devices):
    """Of any shapes; ages are as they are at the start, whenever a task's time comes."""
    tasks = [lives(5, (3,)), lives(3, (2, 4), 10.0), lives(4, ())]
    config = PipelineConfig(
        agents=4, schedule=schedule, age_bins=2, optimizer="adam:learning_rate=0.1"
    )
    trainer = pipeline(start, tasks, config, on(devices), curriculum=(3, 7))
    states, logged = [trainer.init(KEY)], []
    assert len(states[0].lives) == 3
    for _ in range(10):
        state, metrics = trainer.step(states[-1])
        states.append(state)
        logged.append(jax.device_get(metrics))
    for step, (before, after, metrics) in enumerate(
        zip(states[:-1], states[1:], logged, strict=True)
    ):
        (now,) = current_tasks((3, 7), 3, step)
        for name in ("task_loss", "task_gradient_norm", "task_gradient_snr"):
            assert np.isfinite(metrics[name]).tolist() == [t == now for t in range(3)]
        assert metrics["meta_loss"] == metrics["task_loss"][now]
        assert metrics["gradient_snr"] == metrics["task_gradient_snr"][now]
        assert metrics["episodes_by_age"].sum(axis=1).tolist() == [4 * (t == now) for t in range(3)]
        assert not any("cosine" in name or "over_tasks" in name for name in metrics)
        # The others stay as they are.
        for other in {0, 1, 2} - {now}:
            for x, y in zip(leaves(before.lives[other]), leaves(after.lives[other]), strict=True):
                np.testing.assert_array_equal(x, y)
        first, number = [(0, 5), (3, 3), (7, 4)][now]
        ages = (step - reset_offsets(number, 4)) % number
        if schedule == "newborn":
            ages = np.minimum(ages, step - first)
        np.testing.assert_array_equal(after.lives[now]["age"], ages + 1)
    assert distance(trainer.meta_params(states[-1])) < distance(start(KEY))


def test_pipeline_of_a_curriculum_steps_as_on_the_task_alone():
    """From the same meta-parameters, optimizer and lives, bit for bit."""
    tasks = [lives(5, (3,)), lives(3, (2, 4), 10.0)]
    config = PipelineConfig(agents=4, schedule="newborn", optimizer="sgd:learning_rate=0.1")
    whole = pipeline(start, tasks, config, on(1), curriculum=(2,))
    alone = pipeline(start, tasks[:1], config, on(1))
    state, single = whole.init(KEY), alone.init(KEY)
    for _ in range(2):
        (state, metrics), (single, theirs) = whole.step(state), alone.step(single)
        for x, y in zip(
            leaves(whole.meta_params(state)), leaves(alone.meta_params(single)), strict=True
        ):
            np.testing.assert_array_equal(x, y)
        assert metrics["gradient_norm"] == theirs["gradient_norm"]
    a, b = (np.array(whole.meta_params(state)[name]).ravel() for name in "ab")
    state, metrics = whole.step(state)
    luck = [np.mean(y) for y in state.lives[1]["observation"]]
    size = 10.0 * (1.0 + 0.1 * np.mean(luck)) * 2.0
    gradient = np.concatenate([a - [1.0, -2.0], b - 0.5]) * size
    np.testing.assert_allclose(metrics["gradient_norm"], np.linalg.norm(gradient), rtol=1e-4)


def fitness(target, shape):
    """Lifetimes that hold an observation of some shape, and have one best answer."""

    def init(meta_params, key):
        return {"age": jnp.zeros((), jnp.int32), "observation": jax.random.normal(key, shape)}

    def advance(meta_params, life):
        value = -jnp.sum(jnp.square(meta_params["a"] - target))
        return life | {"age": life["age"] + 1}, value

    return lambda stretches: Lifetimes(init, advance, stretches)


@pytest.mark.parametrize(
    ("strategy", "sampling", "stretches"),
    [("openai_es", "all", 1), ("openai_es", "pairs", 1), ("persistent_es", "all", 2)],
)
def test_evolution_takes_one_task_after_the_other(strategy, sampling, stretches):
    """Of any shapes; the mean goes to where the first pays, then to where the second does."""
    config = EvolutionConfig(
        strategy, population=16, sigma=0.3, learning_rate=0.1, task_sampling=sampling
    )
    tasks = [fitness(1.0, (3,))(stretches), fitness(-1.0, (2, 2))(stretches)]
    begin = lambda key: {"a": jnp.zeros(2)}  # noqa: E731
    trainer = evolution(begin, tasks, config, on(4), curriculum=(40,))
    alone = evolution(begin, tasks[:1], config, on(4))
    state, single = trainer.init(KEY), alone.init(KEY)
    assert len(state.lives) == (2 if stretches > 1 else 0)
    for generation in range(100):
        state, metrics = trainer.step(state)
        now = int(generation >= 40)
        assert np.isfinite(metrics["task_fitness"]).tolist() == [now == 0, now == 1]
        if stretches > 1:
            ages = state.lives[now]["age"]
            assert (ages == generation % stretches + 1).all()
        if generation < 3 and stretches == 1:
            # As on the task alone, where the keys do not depend on the number of tasks.
            single, theirs = alone.step(single)
            np.testing.assert_array_equal(
                trainer.meta_params(state)["a"], alone.meta_params(single)["a"]
            )
            assert metrics["fitness_mean"] == theirs["fitness_mean"]
        if generation == 39:
            np.testing.assert_allclose(trainer.meta_params(state)["a"], 1.0, atol=0.3)
    np.testing.assert_allclose(trainer.meta_params(state)["a"], -1.0, atol=0.3)


@pytest.mark.parametrize("curriculum", [(1,), (1, 2, 3), (2, 2), (0, 2), (3, 2), (-1, 4)])
def test_wrong_counts_and_orders(curriculum):
    message = (
        "curriculum must be one number for each of the 3 tasks but the first, rising from at least "
        f"1; got {' '.join(map(str, curriculum))}."
    )
    tasks = [task(lambda meta_params, key: height(meta_params))] * 3
    for make in (
        lambda: check_curriculum(curriculum, 3),
        lambda: evolution(start, tasks, EvolutionConfig(), curriculum=curriculum),
        lambda: pipeline(start, [lives(2, ())] * 3, PipelineConfig(), curriculum=curriculum),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            make()


def test_tasks_change_between_lifetimes():
    tasks = [task(lambda meta_params, key: height(meta_params), 3)] * 2
    message = (
        "curriculum must be multiples of the 3 stretches of a lifetime for persistent_es; got 4."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        evolution(start, tasks, EvolutionConfig("persistent_es"), curriculum=(4,))
