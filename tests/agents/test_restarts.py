"""Agents that start from scratch where their environment changes."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import probes
import pytest
from quick import quick_jit

from agents import environments
from agents.ppo import PPOConfig, PPOState, ppo
from agents.restarts import phase_iterations, with_progress_of_phase, with_restarts

CONFIG = PPOConfig(
    iterations=10,
    num_envs=4,
    num_steps=5,
    epochs=2,
    minibatches=1,
    widths=(4,),
    normalize_observations=True,
    normalize_rewards=True,
)
ITERATION = CONFIG.steps_per_iteration
UNBATCHED = PPOState(0, 0, 0, 0, 0, None)  # axes of seeds that share their clock


class Changing(probes.ObservationReward):
    """Pays something else in every other phase."""

    changes = True

    def __init__(self, phase_steps, clock=0):
        super().__init__()
        self.phase_steps = phase_steps
        self.clock = clock

    def at(self, clock):
        return Changing(self.phase_steps, clock)

    def pay(self, state, action):
        sign = jnp.where((self.clock // self.phase_steps) % 2 == 1, -1.0, 1.0)
        return super().pay(state, action) * sign


@functools.cache
def made(phase_steps):
    """The learner, the one that restarts, and its jitted `iterate`."""
    environment = Changing(phase_steps)
    learner = ppo(environment, CONFIG, optax.adam(1e-2))
    restarting = with_restarts(learner, environment, ITERATION)
    return learner, restarting, quick_jit(restarting.iterate)


def values(state):
    def value(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return jax.tree.map(value, state)


def assert_close(one, other):
    """The same but for what programs round differently."""

    def check(a, b):
        exact = not np.issubdtype(a.dtype, np.floating)
        np.testing.assert_allclose(a, b, rtol=0 if exact else 1e-4, atol=0 if exact else 1e-5)

    jax.tree.map(check, values(one), values(other))


@pytest.mark.parametrize("phase_steps", [3 * ITERATION, 5 * ITERATION // 2, 7, ITERATION])
def test_all_is_drawn_anew_in_the_first_iteration_of_a_phase(phase_steps):
    """Also where phases are no whole iterations, or shorter than one."""
    learner, _, restarting = made(phase_steps)
    iterate = quick_jit(learner.iterate)
    anew = quick_jit(lambda state: learner.init(jax.random.fold_in(state.key, 1), state.iteration))
    state = quick_jit(learner.init)(jax.random.key(0))
    phases = [i * ITERATION // phase_steps for i in range(9)]
    drawn = []
    for i, phase in enumerate(phases):
        is_first = i > 0 and phase != phases[i - 1]
        start = anew(state) if is_first else state
        if is_first:
            drawn.append(np.asarray(start.params["actor"]["Dense_0"]["kernel"]))
            assert int(start.optimizer_state[0].count) == 0
        after, _ = restarting(state)
        assert_close(after, iterate(start)[0])
        assert int(after.iteration) == i + 1
        state = after
    assert len(drawn) == len(set(phases)) - 1 > 1
    assert len({array.tobytes() for array in drawn}) == len(drawn)  # another agent each time


def test_a_batched_clock_restarts_each_on_its_own():
    learner, _, restarting = made(3 * ITERATION)
    init = quick_jit(learner.init)
    states = [init(jax.random.key(i), i + 1) for i in range(3)]  # the last of them restarts
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    after = quick_jit(jax.vmap(made(3 * ITERATION)[1].iterate))(together)[0]
    for i, state in enumerate(states):
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], after), restarting(state)[0])


def conditionals(jaxpr):
    """How many branches of a program may not be taken."""
    count = 0
    for equation in jaxpr.eqns:
        count += equation.primitive.name == "cond"
        count += sum(map(conditionals, jax.extend.core.jaxprs_in_params(equation.params)))
    return count


def conditionals_of(axes):
    _, restarting, _ = made(3 * ITERATION)
    state = jax.eval_shape(jax.vmap(restarting.init), jax.random.split(jax.random.key(0), 2))
    if axes is UNBATCHED:
        state = state._replace(iteration=jax.ShapeDtypeStruct((), jnp.int32))
    program = jax.vmap(restarting.iterate, in_axes=(axes,), out_axes=(axes, 0))
    return conditionals(jax.make_jaxpr(program)(state).jaxpr)


def test_nothing_is_drawn_between_changes_where_the_clock_is_shared():
    assert conditionals_of(UNBATCHED) == conditionals_of(0) + 1


def test_seeds_that_share_their_clock_are_those_that_do_not():
    learner, restarting, _ = made(3 * ITERATION)
    states = quick_jit(jax.vmap(learner.init))(jax.random.split(jax.random.key(0), 2))
    states = states._replace(iteration=jnp.full(2, 3, jnp.int32))
    shared = quick_jit(jax.vmap(restarting.iterate, in_axes=(UNBATCHED,), out_axes=(UNBATCHED, 0)))(
        states._replace(iteration=jnp.int32(3))
    )[0]
    apart = quick_jit(jax.vmap(restarting.iterate))(states)[0]
    assert_close(shared.params, apart.params)


def test_environments_without_phases_are_refused():
    for environment in (probes.ObservationReward(), Changing(None)):
        learner = ppo(environment, CONFIG, optax.sgd(1.0))
        message = f"restarts need an environment that changes in phases; '{environment.name}' does"
        with pytest.raises(ValueError, match=message):
            with_restarts(learner, environment, ITERATION)
        with pytest.raises(ValueError, match=message):
            phase_iterations(environment, ITERATION)


@pytest.mark.parametrize(("steps", "iterations"), [(60, 3), (61, 4), (59, 3), (7, 1)])
def test_iterations_of_a_phase(steps, iterations):
    assert phase_iterations(Changing(steps), ITERATION) == iterations


def test_progress_of_the_phase():
    """It runs from 0 to 1 from the optimizer's first update on, whatever the learner says."""

    def update(updates, state, params=None, *, training_progress, num_updates, **extra_args):
        assert num_updates == 6
        return jax.tree.map(lambda x: jnp.full_like(x, training_progress), updates), state

    spy = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    optimizer = with_progress_of_phase(spy, updates_per_iteration=2, iterations=3)
    params = jnp.zeros(())
    state, seen = optimizer.init(params), []
    for _ in range(8):
        updates, state = optimizer.update(params, state, params, training_progress=jnp.float32(0.9))
        seen.append(float(updates))
    assert seen == [0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0]


def test_a_new_agent_begins_in_the_environment_of_its_time():
    sequence = environments.make("Sequence-MinAtar", games="Breakout+Asterix", phase=ITERATION)
    config = CONFIG.replace(normalize_observations=False, normalize_rewards=False)
    learner = ppo(sequence, config, optax.sgd(1e-2))
    for iteration, game in ((0, 0), (1, 1), (2, 0)):
        state = quick_jit(learner.init)(jax.random.key(0), jnp.int32(iteration))
        started = state.environment_state.inner.inner.game  # below the resets and the statistics
        np.testing.assert_array_equal(started, np.full(4, game, np.int32))
