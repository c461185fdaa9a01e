"""Every named environment keeps the contract; a few are compared with their own libraries.

Shapes and types are checked by abstract evaluation. What Brax computes is compiled once, for the
smallest of its environments; --slow runs the others.
"""

import functools

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import quick_jit

from agents import environments
from agents.brax_environment import BACKENDS
from agents.environment import Box, Discrete
from agents.wrappers import AutoReset, EpisodeStatistics

KEY = jax.random.key(0)

# (observation shape, action space, time limit)
FACTS = {
    "Asterix-MinAtar": ((10, 10, 4), Discrete(5), None),
    "Breakout-MinAtar": ((10, 10, 4), Discrete(3), None),
    "Freeway-MinAtar": ((10, 10, 7), Discrete(3), None),
    "Seaquest-MinAtar": ((10, 10, 10), Discrete(6), None),
    "SpaceInvaders-MinAtar": ((10, 10, 6), Discrete(4), None),
    "CartPole-v1": ((4,), Discrete(2), 500),
    "Acrobot-v1": ((6,), Discrete(3), 500),
    "MountainCar-v0": ((2,), Discrete(3), 200),
    "MountainCarContinuous-v0": ((2,), Box(1, -1.0, 1.0), 999),
    "Pendulum-v1": ((3,), Box(1, -2.0, 2.0), 200),
    "Catch-bsuite": ((10, 5), Discrete(3), None),
    "Sequence-MinAtar": ((10, 10, 10), Discrete(6), 1000),
    "small_sparse_short": ((3, 5, 10), Discrete(9), 50),
    "small_sparse_long": ((3, 10, 5), Discrete(9), 500),
    "small_dense_short": ((3, 6, 8), Discrete(9), 50),
    "small_dense_long": ((3, 8, 6), Discrete(9), 500),
    "big_sparse_short": ((5, 12, 14), Discrete(9), 50),
    "big_sparse_long": ((5, 14, 12), Discrete(9), 500),
    "big_dense_short": ((5, 11, 15), Discrete(9), 50),
    "big_dense_long": ((5, 15, 11), Discrete(9), 500),
    "ant": (None, Box(8, -1.0, 1.0), 1000),
    "halfcheetah": ((17,), Box(6, -1.0, 1.0), 1000),
    "hopper": ((11,), Box(3, -1.0, 1.0), 1000),
    "humanoid": (None, Box(17, -1.0, 1.0), 1000),
    "inverted_pendulum": ((4,), Box(1, -1.0, 1.0), 1000),
    "reacher": ((11,), Box(2, -1.0, 1.0), 1000),
    "walker2d": ((17,), Box(6, -1.0, 1.0), 1000),
}


@functools.cache
def made(name, **options):
    return environments.make(name, **options)


def action_of(environment, key=KEY):
    space = environment.action_space
    if isinstance(space, Discrete):
        return jax.random.randint(key, (), 0, space.size)
    return jax.random.uniform(key, (space.size,), minval=space.low, maxval=space.high)


def assert_contract(environment):
    """By abstract evaluation: shapes, dtypes, and a state that keeps its types."""
    observation, state = jax.eval_shape(environment.reset, KEY)
    assert observation.shape == environment.observation_shape
    assert observation.dtype == jnp.float32
    action = jax.eval_shape(functools.partial(action_of, environment), KEY)
    after, next_state, reward, terminated, truncated, info = jax.eval_shape(
        environment.step, KEY, state, action
    )
    avals = functools.partial(jax.tree.map, lambda x: (x.shape, x.dtype, x.weak_type))
    assert avals(state) == avals(next_state)
    assert not any(x.weak_type for x in jax.tree.leaves((observation, state)))
    assert avals(after) == avals(observation) == avals(info["final_observation"])
    assert avals(reward) == ((), jnp.float32, False)
    assert avals(terminated) == avals(truncated) == ((), jnp.bool, False)


def test_every_name_is_known():
    assert environments.environment_names() == tuple(FACTS)
    groups = (environments.GYMNAX, environments.GRIDWORLDS, environments.BRAX)
    groups += ((environments.SEQUENCE,),)
    assert set().union(*groups) == set(FACTS)


def assert_facts(environment):
    shape, space, limit = FACTS[environment.name]
    assert environment.action_space == space
    if shape is not None:
        assert environment.observation_shape == shape
    if limit is not None:
        assert environment.max_episode_steps == limit
    assert isinstance(environment.max_episode_steps, int)


@pytest.mark.parametrize(
    "name", environments.GYMNAX + environments.GRIDWORLDS + (environments.SEQUENCE,)
)
def test_gymnax_contract(name):
    environment = made(name)
    assert environment.name == name
    assert_facts(environment)
    assert_contract(environment)


@pytest.mark.parametrize("name", environments.BRAX)
def test_brax_contract(name):
    environment = made(name)
    assert environment.name == name
    assert environment.backend == "positional"
    assert_facts(environment)
    assert_contract(environment)


QUICK_IN_X64 = (*environments.GYMNAX, "small_dense_short", "inverted_pendulum", "Hopper-v5")


@pytest.mark.filterwarnings("error:Explicitly requested dtype")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK_IN_X64 else pytest.mark.slow)
        for name in (*environments.environment_names(), "Hopper-v5")
    ],
)
def test_contract_where_x64_is_on(name):
    """Also by an environment that was made there."""
    needs_gymnasium(name)
    with jax.enable_x64(True):
        assert_contract(environments.make(name))


# One environment of each adapter and each kind of actions; of Brax, what is compiled fastest.
ADAPTERS = {
    "CartPole-v1": {},
    "Pendulum-v1": {},
    "small_dense_short": {},
    "inverted_pendulum": {"backend": "spring"},
    "Hopper-v5": {},
}


def needs_gymnasium(name):
    if name in environments.GYMNASIUM:
        pytest.importorskip("gymnasium.envs.mujoco")


def three_steps(environment, key):
    """What the first observation and three steps give."""
    size = environment.action_space.size
    # As NumPy's default types, which are float64 and int64 where x64 is on.
    if isinstance(environment.action_space, Discrete):
        actions = np.array([1, 0, size - 1])
    else:
        actions = np.array([0.5, -0.7, 2.0])[:, None] * np.ones((1, size))
    first, state = environment.reset(key)

    def step(state, action):
        observation, state, *rest = environment.step(key, state, action)
        return state, (observation, *rest)

    return first, jax.lax.scan(step, state, jnp.asarray(actions))[1]


@functools.cache
def alone(name):
    play = functools.partial(three_steps, made(name, **ADAPTERS[name]))
    return quick_jit(play)(jax.random.split(KEY, 2)[1])


def assert_close(found, expected):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), found, expected
    )


@pytest.mark.parametrize("name", ADAPTERS)
def test_alone_and_side_by_side(name):
    """Every adapter works without `vmap` and with it, and gives the same numbers."""
    needs_gymnasium(name)
    play = functools.partial(three_steps, made(name, **ADAPTERS[name]))
    together = quick_jit(jax.vmap(play))(jax.random.split(KEY, 2))
    assert_close(jax.tree.map(lambda x: x[1], together), alone(name))


@pytest.mark.parametrize("name", ADAPTERS)
def test_same_numbers_where_x64_is_on(name):
    needs_gymnasium(name)
    expected = alone(name)
    with jax.enable_x64(True):
        environment = environments.make(name, **ADAPTERS[name])
        found = quick_jit(functools.partial(three_steps, environment))(jax.random.split(KEY, 2)[1])
    assert_close(found, expected)


def play(environment, steps, key=KEY):
    """Random actions under automatic resets; every result of `step` but the states."""
    environment = EpisodeStatistics(AutoReset(environment))

    def step(state, key):
        action_key, step_key = jax.random.split(key)
        observation, state, *rest = environment.step(
            step_key, state, action_of(environment, action_key)
        )
        return state, (observation, *rest)

    state = environment.reset(key)[1]
    return jax.lax.scan(step, state, jax.random.split(key, steps))[1]


@pytest.mark.parametrize("name", environments.GYMNAX)
def test_time_limit_is_a_truncation(name):
    """Random play of 64 steps with a limit of 7."""
    environment = environments.make(name, max_steps_in_episode=7)
    assert environment.max_episode_steps == 7
    observation, reward, terminated, truncated, info = jax.tree.map(
        np.asarray, quick_jit(lambda: play(environment, 64))()
    )
    assert np.isfinite(observation).all()
    assert np.isfinite(reward).all()
    assert not (terminated & truncated).any()
    assert truncated.any()
    assert (info["episode_length"][truncated] == 7).all()
    assert (info["episode_length"] <= 7).all()
    assert (info["episode_length"][~(terminated | truncated)] < 7).all()


def push_right(limit):
    """Steps of a cart pushed to the right for 30 steps, which drops the pole."""
    environment = environments.make("CartPole-v1", max_steps_in_episode=limit)

    def step(state, key):
        _, state, _, terminated, truncated, _ = environment.step(key, state, jnp.int32(1))
        return state, (terminated, truncated)

    state = environment.reset(KEY)[1]
    return jax.tree.map(np.asarray, jax.lax.scan(step, state, jax.random.split(KEY, 30))[1])


def test_fall_is_a_termination_and_the_time_limit_is_not():
    terminated, truncated = push_right(500)
    assert terminated.any()
    assert not truncated.any()
    fall = int(np.argmax(terminated))
    assert 5 < fall < 15

    terminated, truncated = push_right(fall)  # one step before the pole falls
    assert truncated[fall - 1]
    assert not terminated[fall - 1]

    terminated, truncated = push_right(fall + 1)  # at the very step of the fall
    assert terminated[fall]
    assert not truncated[fall]


def test_catch_ends_when_the_ball_is_down():
    _, reward, terminated, truncated, info = quick_jit(lambda: play(made("Catch-bsuite"), 90))()
    assert terminated.sum() == 10
    assert not truncated.any()
    np.testing.assert_array_equal(info["episode_length"][terminated], 9)
    np.testing.assert_array_equal(np.abs(reward), terminated.astype(np.float32))


def test_breakout_steps_as_gymnax_does():
    environment = made("Breakout-MinAtar")
    reference, parameters = gymnax.make("Breakout-MinAtar")
    ours, theirs = quick_jit(environment.step), quick_jit(reference.step_env)
    observation, state = environment.reset(KEY)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected, reference_state = reference.reset_env(KEY, parameters)
        np.testing.assert_array_equal(observation, expected)
        ended = 0
        for key in jax.random.split(KEY, 60):
            action = jax.random.randint(key, (), 0, 3)
            observation, state, reward, terminated, truncated, info = ours(key, state, action)
            expected, reference_state, expected_reward, done, _ = theirs(
                key, reference_state, action, parameters
            )
            np.testing.assert_array_equal(observation, expected)
            np.testing.assert_array_equal(info["final_observation"], expected)
            jax.tree.map(np.testing.assert_array_equal, state, reference_state)
            assert (float(reward), bool(terminated)) == (float(expected_reward), bool(done))
            assert not truncated
            if terminated:
                ended += 1
                _, state = environment.reset(key)
                _, reference_state = reference.reset_env(key, parameters)
        assert ended > 0


def test_actions_outside_the_box_are_clipped():
    environment = made("Pendulum-v1")
    _, state = environment.reset(KEY)
    at_the_edge = environment.step(KEY, state, jnp.array([2.0]))
    beyond = environment.step(KEY, state, jnp.array([50.0]))
    jax.tree.map(np.testing.assert_array_equal, at_the_edge, beyond)
    inside = environment.step(KEY, state, jnp.array([1.0]))
    assert inside[2] != at_the_edge[2]


# --- Brax ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_brax_backends(backend):
    environment = made("inverted_pendulum", backend=backend)
    assert environment.backend == backend
    assert_contract(environment)


def assert_steps_as_brax(name, backend, steps):
    """The same numbers as Brax's own `reset` and `step`, and a time limit in the last step."""
    from brax import envs

    environment = environments.make(name, backend=backend, max_episode_steps=steps)
    reference = envs.get_environment(name, backend=backend)
    signs = jnp.where(jnp.arange(steps) % 2 == 0, 1.0, -1.0)[:, None]
    actions = jnp.broadcast_to(signs, (steps, environment.action_space.size))

    def our_step(state, action):
        observation, state, *rest = environment.step(KEY, state, 3.0 * action)  # which is clipped
        return state, (observation, state.step, *rest)

    def their_step(state, action):
        state = reference.step(state, action)
        return state, (state.obs, state.reward, state.done)

    def run(reset, step):
        return jax.lax.scan(step, reset(KEY), actions)[1]

    observation, time, reward, terminated, truncated, info = quick_jit(
        lambda: run(lambda key: environment.reset(key)[1], our_step)
    )()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected, expected_reward, done = quick_jit(lambda: run(reference.reset, their_step))()
    np.testing.assert_allclose(observation, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(observation, info["final_observation"])
    np.testing.assert_allclose(reward, expected_reward, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(terminated, done > 0.5)
    np.testing.assert_array_equal(time, np.arange(1, steps + 1))
    over = np.arange(1, steps + 1) == steps
    np.testing.assert_array_equal(truncated, over & ~np.asarray(terminated))


def test_inverted_pendulum_steps_as_brax_does():
    assert_steps_as_brax("inverted_pendulum", "spring", 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backend"),
    # Environments and pipelines know nothing of each other here.
    [("ant", backend) for backend in BACKENDS]
    + [(name, "spring") for name in environments.BRAX if name != "ant"],
)
def test_all_step_as_brax_does(name, backend):
    assert_steps_as_brax(name, backend, 5)


def test_a_fall_is_no_truncation_in_brax():
    """A pole that falls at the very time limit has terminated."""
    environment = environments.make("inverted_pendulum", backend="spring", max_episode_steps=1)
    _, state = quick_jit(environment.reset)(KEY)

    def fallen(state):
        # A step as Brax's own, which found the pole down.
        class Down:
            def step(self, brax_state, action):
                return brax_state.replace(done=jnp.ones(()), reward=1.0)

        environment._environment = Down()
        return environment.step(KEY, state, jnp.zeros((1,)))

    _, _, reward, terminated, truncated, _ = fallen(state)
    assert terminated
    assert not truncated
    assert reward.dtype == jnp.float32


def test_a_step_leaves_the_given_state_alone():
    """Brax writes its metrics into the state's own dictionary."""
    environment = made("ant")
    _, state = jax.eval_shape(environment.reset, KEY)
    before = dict(state.brax.metrics)
    jax.eval_shape(environment.step, KEY, state, jnp.zeros((8,)))

    def step_and_compare(state):
        metrics = dict(state.brax.metrics)
        environment.step(KEY, state, jnp.zeros((8,)))
        assert all(state.brax.metrics[name] is metrics[name] for name in metrics)
        return state.step

    jax.eval_shape(step_and_compare, state)
    assert before.keys() == state.brax.metrics.keys()


def test_loading_brax_leaves_nothing_behind(tmp_path, monkeypatch, recwarn):
    """MuJoCo logs its warnings into the present folder, and it has one about this model."""
    monkeypatch.chdir(tmp_path)
    environments.make("halfcheetah")
    assert not list(tmp_path.iterdir())
    assert not [warning for warning in recwarn if "maintained" in str(warning.message)]


# --- mistakes -----------------------------------------------------------------------------------


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown environment 'Pong-v5'.*Breakout-MinAtar.*ant"):
        environments.make("Pong-v5")


def test_unknown_backends_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"backend.*positional.*'mujoco'"):
        environments.make("ant", backend="mujoco")


@pytest.mark.parametrize("name", ["CartPole-v1", "inverted_pendulum"])
def test_unknown_options_are_refused(name):
    with pytest.raises(ValueError, match="gravitas"):
        environments.make(name, gravitas=1.0)
