"""Friction and wear in Brax: that they act on every backend, and cost no compilation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import environments
from agents._promotion import plain_types
from agents.brax_environment import BACKENDS, ON_FEET, BraxEnvironment
from agents.changes import Schedule
from agents.wrappers import AutoReset, Batch

KEY = jax.random.key(0)
PHASE = 8
slow_backends = [
    pytest.param(name, marks=() if name == "spring" else pytest.mark.slow) for name in BACKENDS
]


@functools.cache
def ant(backend, **options):
    return environments.make("ant", backend=backend, **options)


@functools.cache
def runner(backend, what, ends, steps):
    """Plays from a push to the side, or a twist of the joints, at a time of the clock."""
    environment = ant(backend, phase=PHASE, **{what: ends})

    @jax.jit
    def run(clock, state, action):
        now = environment.at(clock)
        return jax.lax.scan(
            lambda state, _: (now.step(KEY, state, action)[1], state.brax.pipeline_state.qd),
            state,
            length=steps,
        )

    return environment, run


def pushed(environment, speed):
    _, state = environment.reset(KEY)
    inner = environment._environment
    q = inner.sys.init_q
    qd = jnp.zeros((inner.sys.qd_size(),), jnp.float32).at[0].set(speed)
    with plain_types():
        start = inner.pipeline_init(q, qd)
    return state._replace(brax=state.brax.replace(pipeline_state=start))


@pytest.mark.parametrize("backend", slow_backends)
def test_a_push_travels_farther_on_slippery_ground(backend):
    environment, run = runner(backend, "friction", (0.02, 2.0), 40)
    values = environment._friction.table()[:, 0]
    state, action = pushed(environment, 3.0), jnp.zeros((8,), jnp.float32)
    travelled = {}
    for phase in (int(values.argmin()), int(values.argmax())):
        end, _ = run(jnp.int32(phase * PHASE), state, action)
        travelled[values[phase]] = float(end.brax.pipeline_state.q[0])
    assert run._cache_size() == 1
    slippery, rough = travelled[values.min()], travelled[values.max()]
    assert slippery > 3.0 * max(rough, 0.0), travelled


@pytest.mark.parametrize("backend", slow_backends)
def test_a_worn_actuator_turns_slower(backend):
    environment, run = runner(backend, "wear", (0.01, 1.0), 4)
    strengths = np.array([environment._wear.worn(PHASE * k, 8) for k in (0, 40)])
    assert np.all(strengths[1] < 0.5 * strengths[0].max())
    _, state = environment.reset(KEY)
    action = jnp.ones((8,), jnp.float32)
    fastest = [
        float(jnp.abs(run(jnp.int32(PHASE * k), state, action)[1][..., 6:]).max()) for k in (0, 40)
    ]
    assert fastest[1] < 0.7 * fastest[0], (fastest, strengths)
    assert run._cache_size() == 1


@pytest.mark.parametrize("backend", slow_backends)
def test_zero_change_is_the_stationary_task_bit_for_bit(backend):
    options = {"solver_iterations": 4} if backend == "mjx" else {}
    changed = ant(backend, friction=(1.0, 1.0), wear=(1.0, 1.0), phase=PHASE, **options)
    assert not changed.changes
    assert changed.at(5) is changed
    assert changed.phase_steps == PHASE
    stationary = ant(backend, **options)
    plays = []
    for environment in (changed, stationary):

        @jax.jit
        def play(key, environment=environment):
            _, state = environment.reset(key)
            action = jnp.linspace(-1.0, 1.0, 8)
            return jax.lax.scan(
                lambda state, _: environment.step(key, state, action)[1::-1], state, length=6
            )[1]

        plays.append(play(KEY))
    np.testing.assert_array_equal(*plays)


def test_the_floor_has_the_friction_too_and_nothing_else_changes():
    environment = ant("spring", friction=(0.02, 2.0), phase=PHASE)
    friction = np.asarray(environment.at(PHASE)._environment.sys.geom_friction)
    np.testing.assert_array_equal(friction[:, 0], environment._friction.value(PHASE))
    np.testing.assert_array_equal(friction[:, 1:], environment._model.geom_friction[:, 1:])
    # Another time is another environment; the first is as it was.
    before = np.asarray(environment._environment.sys.geom_friction)
    assert before[0, 0] == environment._friction.value(0) != friction[0, 0]


def test_one_number_is_a_model_without_phases():
    environment = ant("spring", friction=0.3, wear=0.5)
    assert environment.phase_steps is None
    assert not environment.changes
    model, plain = environment._environment.sys, environment._model
    np.testing.assert_array_equal(model.geom_friction[:, 0], np.float32(0.3))
    np.testing.assert_array_equal(model.actuator.gear, 0.5 * plain.actuator.gear)


def test_mjx_gets_the_iterations_that_friction_needs():
    options = {"friction": Schedule((0.1, 1.0), PHASE)}
    for given, expected in (({}, 1), (options, 4), (options | {"solver_iterations": 6}, 6)):
        model = BraxEnvironment("ant", "mjx", **given)._environment.sys
        assert model.opt.iterations == expected
        assert model.opt.ls_iterations == (4 if expected == 1 else 2 * expected)


@pytest.mark.parametrize("cached", [False, True])
def test_the_clock_goes_on_over_resets(cached):
    environment = ant("spring", friction=(0.02, 2.0), wear=(0.3, 1.0), phase=PHASE)
    batch = Batch(AutoReset(environment, cached), 2)
    assert batch.phase_steps == PHASE
    assert not batch.resets_change
    _, state = batch.reset(KEY)
    action = jnp.ones((2, 8), jnp.float32)
    step = jax.jit(lambda clock: batch.at(clock).step(KEY, state, action)[0])
    same_phase, first, other = step(PHASE + 3), step(PHASE), step(5 * PHASE)
    np.testing.assert_array_equal(same_phase, first)
    assert not np.array_equal(first, other)
    assert step._cache_size() == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_FEET)
def test_friction_acts_on_all_that_walk(name):
    """Within a few steps on the ground, on the spring pipeline."""
    environment = environments.make(name, backend="spring", friction=(0.02, 2.0), phase=PHASE)
    values = environment._friction.table()[:, 0]
    _, state = environment.reset(KEY)
    action = jnp.linspace(-1.0, 1.0, environment.action_space.size)

    @jax.jit
    def run(clock):
        now = environment.at(clock)
        return jax.lax.scan(
            lambda state, _: (now.step(KEY, state, action)[1], ()), state, length=40
        )[0].brax.pipeline_state.q

    slippery, rough = (run(jnp.int32(PHASE * int(i))) for i in (values.argmin(), values.argmax()))
    assert float(jnp.abs(slippery - rough).max()) > 1e-2
