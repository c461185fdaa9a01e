"""The gridworlds against their table, a step-by-step reference in Python, and binomial bounds.

Frequencies are counted over fixed keys. A count passes if it lies between the quantiles of the
binomial distribution beyond which, on either side, less than 1e-6 of the probability remains.
"""

import functools
import itertools

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quick import quick_jit
from scipy.stats import binom

from agents import environments, gridworlds
from agents.environment import Discrete
from agents.ppo import PPOConfig, ppo

KEY = jax.random.key(0)
SAMPLES = 20_000

# rows and columns within the walls, objects as (reward, probability of the end, of coming back),
# time limit.
GOOD, BAD = (1.0, 0.0), (-1.0, 0.5)
TABLE = {
    "small_sparse_short": (3, 8, [(*GOOD, 0.05), (*BAD, 0.05)], 50),
    "small_sparse_long": (8, 3, [(*GOOD, 0.05), (*BAD, 0.05)], 500),
    "small_dense_short": (4, 6, [(*GOOD, 0.5), (*BAD, 0.5)], 50),
    "small_dense_long": (6, 4, [(*GOOD, 0.5), (*BAD, 0.5)], 500),
    "big_sparse_short": (10, 12, [(*GOOD, 0.05)] * 2 + [(*BAD, 0.05)] * 2, 50),
    "big_sparse_long": (12, 10, [(*GOOD, 0.05)] * 2 + [(*BAD, 0.05)] * 2, 500),
    "big_dense_short": (9, 13, [(*GOOD, 0.5)] * 2 + [(*BAD, 0.5)] * 2, 50),
    "big_dense_long": (13, 9, [(*GOOD, 0.5)] * 2 + [(*BAD, 0.5)] * 2, 500),
}
MOVES = [(0, 0), (-1, 0), (0, 1), (1, 0), (0, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]


@functools.cache
def made(name, **options):
    return environments.make(name, **options)


def state_of(agent, objects, present, time=0):
    return gridworlds.GridworldState(
        agent=jnp.asarray(agent, jnp.int32),
        objects=jnp.asarray(objects, jnp.int32),
        present=jnp.asarray(present, bool),
        time=jnp.int32(time),
    )


def assert_frequency(count, trials, probability, tail=1e-6):
    low, high = binom.ppf(tail, trials, probability), binom.isf(tail, trials, probability)
    assert low <= count <= high, (count, trials, probability)


def many_steps(environment, state, samples=SAMPLES):
    """The same step with many keys, in which the agent stays."""
    step = lambda key: environment.step(key, state, jnp.int32(0))  # noqa: E731
    return jax.vmap(step)(jax.random.split(KEY, samples))


def cell_numbers(cells, columns):
    return (cells[..., 0] - 1) * columns + cells[..., 1] - 1


# --- the table ----------------------------------------------------------------------------------


def test_names_are_those_of_the_table():
    assert list(environments.GRIDWORLDS) == list(gridworlds.LAYOUTS) == list(TABLE)
    assert set(TABLE) <= set(gymnax.registered_envs)


@pytest.mark.parametrize("name", TABLE)
def test_it_is_as_the_table_says(name):
    """Size, rewards, ends, comebacks and time limit, each as it shows in what a step does."""
    rows, columns, objects, limit = TABLE[name]
    environment = made(name)
    count = len(objects)
    assert environment.action_space == Discrete(9)
    assert environment.observation_shape == (count + 1, rows + 2, columns + 2)
    assert environment.max_episode_steps == limit

    # The agent waits in a corner where one object is at a time; then, in the last step, none.
    corner = state_of((1, 1), np.ones((count, 2)), np.zeros(count))
    samples = quick_jit(
        jax.vmap(
            lambda seen, time: many_steps(
                environment, corner.replace(present=seen, time=time), 4000
            )
        )
    )
    seen, time = jnp.eye(count + 1, count, dtype=bool), jnp.array([0] * count + [limit - 1])
    _, state, reward, terminated, truncated, _ = jax.tree.map(np.asarray, samples(seen, time))
    for i, (value, end, comeback) in enumerate(objects):
        np.testing.assert_array_equal(reward[i], value)
        assert_frequency(terminated[i].sum(), 4000, end)
        # It is absent in every case: it was collected in one and was not there in the others.
        for present, places in zip(state.present[:, :, i], state.objects[:, :, i], strict=True):
            assert_frequency(present.sum(), 4000, comeback)
            cells = cell_numbers(places[present], columns)
            assert (cells >= 0).all()
            assert (cells < rows * columns).all()
    assert not reward[-1].any()
    assert not terminated[-1].any()
    assert not truncated[:-1].any()
    assert truncated[-1].all()


# --- moves, collecting, observing ---------------------------------------------------------------


def reference_step(rows, columns, rewards, agent, objects, present, action):
    """A step in which nothing is left to chance: bad objects end the episode, none comes back."""
    row, column = agent[0] + MOVES[action][0], agent[1] + MOVES[action][1]
    if 1 <= row <= rows and 1 <= column <= columns:
        agent = (row, column)
    reward, terminated, after = 0.0, False, []
    for place, value, seen in zip(objects, rewards, present, strict=True):
        hit = seen and tuple(place) == tuple(agent)
        reward += value if hit else 0.0
        terminated = terminated or (hit and value < 0)
        after.append(bool(seen) and not hit)
    return agent, after, reward, terminated


def reference_observation(rows, columns, agent, objects, present):
    planes = np.zeros((len(objects) + 1, rows + 2, columns + 2), np.float32)
    for i, (place, seen) in enumerate(zip(objects, present, strict=True)):
        if seen:
            planes[(i, *place)] = 1
    planes[(-1, *agent)] = 1
    return planes


@pytest.mark.parametrize("name", ["small_sparse_short", "big_dense_long"])
def test_every_move_from_every_cell(name):
    """With random objects around, against the reference."""
    rows, columns, objects, _ = TABLE[name]
    rewards = [value for value, _, _ in objects]
    environment = made(name, respawn_probability=0.0, termination_probability=1.0)
    agents = list(itertools.product(range(1, rows + 1), range(1, columns + 1)))
    rng = np.random.default_rng(0)
    cases = [(agent, action) for agent in agents for action in range(9)]
    # Beside the agent, or where it is, half of them there.
    near = rng.integers(-1, 2, (len(cases), len(objects), 2)) + np.array(
        [agent for agent, _ in cases]
    ).reshape(-1, 1, 2)
    places = np.clip(near, 1, [rows, columns])
    present = rng.random((len(cases), len(objects))) < 0.7
    states = gridworlds.GridworldState(
        agent=jnp.array([agent for agent, _ in cases], jnp.int32),
        objects=jnp.asarray(places, jnp.int32),
        present=jnp.asarray(present),
        time=jnp.zeros(len(cases), jnp.int32),
    )
    actions = jnp.array([action for _, action in cases], jnp.int32)
    step = quick_jit(jax.vmap(environment.step, (None, 0, 0)))
    observation, after, reward, terminated, truncated, info = jax.tree.map(
        np.asarray, step(KEY, states, actions)
    )
    assert not truncated.any()
    np.testing.assert_array_equal(info["final_observation"], observation)
    collected = 0
    for i, (agent, action) in enumerate(cases):
        expected, seen, value, ends = reference_step(
            rows, columns, rewards, agent, places[i], present[i], action
        )
        assert tuple(after.agent[i]) == expected
        np.testing.assert_array_equal(after.present[i], seen)
        np.testing.assert_array_equal(after.objects[i], places[i])
        assert (reward[i], terminated[i]) == (value, ends)
        picture = reference_observation(rows, columns, expected, places[i], seen)
        np.testing.assert_array_equal(observation[i], picture)
        collected += value != 0
    assert collected > 20


def test_a_collected_object_may_come_back_under_the_agent_but_pays_only_in_the_next_step():
    environment = made("small_dense_short", respawn_probability=1.0, termination_probability=0.0)
    state = state_of((2, 2), [(2, 3), (4, 6)], [True, False])

    @quick_jit
    def twice(keys):
        _, after, reward, *_ = environment.step(keys[0], state, jnp.int32(2))
        _, _, next_reward, *_ = environment.step(keys[1], after, jnp.int32(0))
        return after, reward, next_reward

    after, reward, next_reward = jax.tree.map(
        np.asarray, jax.vmap(twice)(jax.random.split(KEY, (2000, 2)))
    )
    assert (reward == 1).all()
    assert after.present.all()
    here = (after.objects == after.agent[:, None]).all(axis=-1)
    assert here[:, 0].any()
    assert here[:, 1].any()
    np.testing.assert_array_equal(next_reward, here[:, 0] * 1.0 - here[:, 1] * 1.0)


# --- chance -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["small_sparse_long", "big_dense_short"])
def test_starts_are_different_cells_drawn_uniformly(name):
    rows, columns, objects, _ = TABLE[name]
    environment = made(name)
    observation, state = jax.tree.map(
        np.asarray, quick_jit(jax.vmap(environment.reset))(jax.random.split(KEY, SAMPLES))
    )
    assert state.present.all()
    assert not state.time.any()
    cells = np.concatenate([state.agent[:, None], state.objects], axis=1)
    numbers = cell_numbers(cells, columns)
    assert (np.diff(np.sort(numbers, axis=1), axis=1) > 0).all()
    room = rows * columns
    for i in range(len(objects) + 1):
        counts = np.bincount(numbers[:, i], minlength=room)
        assert len(counts) == room
        for count in counts:
            assert_frequency(count, SAMPLES, 1 / room, tail=1e-7)
    # Of two together: those that touch are as many as there are ordered neighbours.
    touching = np.abs(numbers[:, 0] - numbers[:, -1]) == columns
    assert_frequency(touching.sum(), SAMPLES, 2 * (rows - 1) * columns / (room * (room - 1)))
    assert observation[:, :, 1:-1, 1:-1].sum(axis=(2, 3)).all()
    np.testing.assert_array_equal(observation.sum(axis=(1, 2, 3)), len(objects) + 1)


def test_objects_come_back_anywhere():
    """The agent's and the other object's cell are as likely as any, and each object its own."""
    environment = made("small_dense_long")
    state = state_of((3, 2), [(1, 1), (6, 4)], [False, False])
    _, after, *_ = quick_jit(lambda: many_steps(environment, state))()
    numbers = cell_numbers(np.asarray(after.objects), 4)
    present = np.asarray(after.present)
    for i in range(2):
        counts = np.bincount(numbers[present[:, i], i], minlength=24)
        for count in counts:
            assert_frequency(count, SAMPLES, 0.5 / 24, tail=1e-7)
    both = present.all(axis=1)
    assert_frequency(both.sum(), SAMPLES, 0.25)
    assert_frequency((numbers[both, 0] == numbers[both, 1]).sum(), both.sum(), 1 / 24)


def test_the_end_and_the_comeback_are_independent_for_each_object():
    environment = made("big_dense_long")
    state = state_of((5, 5), [(5, 5)] * 4, [True] * 4)
    _, after, reward, terminated, truncated, _ = jax.tree.map(
        np.asarray, quick_jit(lambda: many_steps(environment, state))()
    )
    assert not reward.any()  # two good, two bad
    assert not truncated.any()
    assert_frequency(terminated.sum(), SAMPLES, 0.75)
    assert_frequency(after.present.all(axis=1).sum(), SAMPLES, 1 / 16)
    assert_frequency((terminated & after.present[:, 2]).sum(), SAMPLES, 0.75 / 2)


# --- time ---------------------------------------------------------------------------------------


def test_a_time_limit_truncates_unless_the_episode_ends_there():
    environment = made("small_sparse_short", termination_probability=1.0)
    times, actions = jnp.array([48, 49, 48, 49]), jnp.array([0, 0, 4, 4])

    @quick_jit
    @jax.vmap
    def step(time, action):
        # The agent stays, or goes left to where a bad object is.
        state = state_of((2, 3), [(1, 1), (2, 2)], [True, True]).replace(time=time)
        _, after, _, terminated, truncated, _ = environment.step(KEY, state, action)
        return after.time, terminated, truncated

    time, terminated, truncated = step(times, actions)
    np.testing.assert_array_equal(time, times + 1)
    np.testing.assert_array_equal(terminated, [False, False, True, True])
    np.testing.assert_array_equal(truncated, [False, True, False, False])


def test_numbers_may_be_traced():
    """Gymnax's own face: the parameters are an argument."""
    gridworld, params = gymnax.make("small_dense_short")
    state = state_of((2, 2), [(1, 1), (1, 2)], [False, False])

    def present(probability):
        changed = params.replace(respawn_probability=probability)
        keys = jax.random.split(KEY, 500)
        step = lambda key: gridworld.step(key, state, jnp.int32(0), changed)[1]  # noqa: E731
        return jax.vmap(step)(keys).present.mean()

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        never, always = quick_jit(jax.vmap(present))(jnp.array([0.0, 1.0]))
    assert (never, always) == (0.0, 1.0)


@pytest.mark.parametrize("name", ["respawn_probability", "termination_probability"])
def test_probabilities_are_checked(name):
    with pytest.raises(ValueError, match=rf"^{name} must be in \[0, 1\]; got -0.5.$"):
        environments.make("big_dense_long", **{name: -0.5})


# --- learning -----------------------------------------------------------------------------------


def test_ppo_runs():
    config = PPOConfig(
        iterations=3, num_envs=8, num_steps=20, epochs=2, minibatches=2, widths=(16,)
    )
    learner = ppo(made("small_dense_short"), config, optax.adam(1e-3))
    state, metrics = quick_jit(
        lambda key: jax.lax.scan(lambda s, _: learner.iterate(s), learner.init(key), length=3)
    )(KEY)
    assert int(state.iteration) == 3
    assert np.isfinite(metrics["loss"]).all()
    # Three rollouts of 20 steps reach the limit of 50 in those that did not end before.
    assert metrics["episodes"].sum() >= 8
