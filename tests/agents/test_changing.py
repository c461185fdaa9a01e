"""Tasks that change, against the stationary ones that they are in the first phase."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import environments
from agents.changing import FlippedActions, PermutedActions
from agents.environment import Discrete
from agents.wrappers import AutoReset, Batch, EpisodeStatistics

PHASE = 60
CHANGING = {
    "CartPole-v1": {"flip": True},
    "Acrobot-v1": {"offset": 2.0},
    "Pendulum-v1": {"flip": True, "offset": 1.0},
    "Breakout-MinAtar": {"permute": "both"},
    "small_dense_short": {"move": True},
    "big_dense_short": {"move": True},
}
KEY = jax.random.key(7)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def play(environment, steps=3 * PHASE, cached=False, start=0):
    """Observations, rewards, ends and final observations of two copies under random actions."""
    batch = Batch(EpisodeStatistics(AutoReset(environment, cached)), 2)
    space = environment.action_space

    def step(carry, clock):
        observation, state = carry
        key = jax.random.fold_in(KEY, clock)
        action = (
            jax.random.randint(key, (2,), 0, space.size)
            if isinstance(space, Discrete)
            else jax.random.uniform(key, (2, space.size), minval=-2.0, maxval=2.0)
        )
        observation, state, reward, terminated, truncated, info = batch.at(clock).step(
            key, state, action
        )
        seen = observation, reward, terminated, truncated, info["final_observation"]
        return (observation, state), seen

    clocks = start + jnp.arange(steps, dtype=jnp.int32)
    return jax.lax.scan(step, batch.at(start).reset(KEY), clocks)[1]


def same(first, second, until=None, atol=0.0):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(
            np.float32(one[:until]), np.float32(other[:until]), rtol=0.0, atol=atol
        )


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("name", CHANGING)
def test_the_first_phase_is_the_task_as_it_comes(name, cached):
    changing = play(environments.make(name, phase=PHASE, **CHANGING[name]), cached=cached)
    stationary = play(environments.make(name), cached=cached)
    same(changing, stationary, PHASE, atol=3e-6)  # two programs, which round as they like
    assert any(
        not np.array_equal(one[PHASE:], other[PHASE:])
        for one, other in zip(changing, stationary, strict=True)
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("CartPole-v1", {"flip": False, "offset": 0.0}),
        ("Breakout-MinAtar", {"permute": "none"}),
        ("small_dense_short", {"move": False}),
    ],
)
def test_a_change_of_size_zero_is_the_stationary_task(name, options):
    environment = environments.make(name, phase=PHASE, **options)
    assert environment.phase_steps == PHASE
    assert not environment.changes
    assert environment.at(PHASE) is environment
    same(play(environment), play(environments.make(name)))


def test_flipped_actions_turn_round_in_every_second_phase():
    cartpole = environments.make("CartPole-v1")
    flipped = environments.make("CartPole-v1", flip=True, phase=10)
    assert isinstance(flipped, FlippedActions)
    _, state = cartpole.reset(KEY)
    for clock, turned in ((0, False), (9, False), (10, True), (19, True), (20, False)):
        for action in (0, 1):
            moved = flipped.at(clock).step(KEY, state, jnp.int32(action))[0]
            meant = 1 - action if turned else action
            np.testing.assert_array_equal(moved, cartpole.step(KEY, state, jnp.int32(meant))[0])
    pendulum = environments.make("Pendulum-v1", flip=True, phase=10)
    _, state = pendulum.reset(KEY)
    torque = jnp.array([1.5], jnp.float32)
    np.testing.assert_array_equal(
        pendulum.at(10).step(KEY, state, torque)[0], pendulum.at(0).step(KEY, state, -torque)[0]
    )


def test_offsets_are_constant_within_a_phase_and_normal_over_phases():
    environment = environments.make("CartPole-v1", offset=2.0, phase=10)
    raw, _ = environments.make("CartPole-v1").reset(KEY)
    offsets = np.array([environment.at(10 * k).reset(KEY)[0] - raw for k in range(200)])
    np.testing.assert_array_equal(offsets[0], np.zeros(4))
    np.testing.assert_array_equal(environment.at(19).reset(KEY)[0] - raw, offsets[1])
    assert abs(offsets[1:].mean()) < 0.3
    assert abs(offsets[1:].std() - 2.0) < 0.2
    _, state = environment.reset(KEY)
    plain = environments.make("CartPole-v1").step(KEY, state, jnp.int32(0))[0]
    observation, *_, info = environment.at(10).step(KEY, state, jnp.int32(0))
    np.testing.assert_allclose(observation - plain, offsets[1], atol=1e-6)
    np.testing.assert_array_equal(observation, info["final_observation"])


def test_permutations_are_permutations_and_differ():
    channels = environments.make("Asterix-MinAtar", permute="channels", phase=10)
    _, state = channels.reset(KEY)
    plain = np.asarray(environments.make("Asterix-MinAtar").step(KEY, state, jnp.int32(0))[0])
    numbered = jnp.broadcast_to(jnp.arange(4), (10, 10, 4))
    orders = [channels.at(10 * k)._seen(numbered)[0, 0].tolist() for k in range(5)]
    assert orders[0] == list(range(4))
    assert all(sorted(order) == list(range(4)) for order in orders)
    assert all(one != other for one, other in itertools.pairwise(orders))
    for k, order in enumerate(orders):
        observation, *_, info = channels.at(10 * k).step(KEY, state, jnp.int32(0))
        np.testing.assert_array_equal(observation, plain[..., order])
        np.testing.assert_array_equal(info["final_observation"], observation)
    actions = environments.make("Seaquest-MinAtar", permute="actions", phase=10)
    assert isinstance(actions, PermutedActions)
    meant = [[int(actions.at(10 * k)._meant(jnp.int32(a))) for a in range(6)] for k in range(5)]
    assert meant[0] == list(range(6))
    assert all(sorted(row) == list(range(6)) for row in meant)
    assert all(one != other for one, other in itertools.pairwise(meant))


def test_rewards_move_among_objects():
    gridworld = environments.make("small_dense_short", move=True, phase=10)
    _, state = gridworld.reset(KEY)
    # The agent stays where both objects are in turn.
    for position in range(2):
        there = state.replace(
            agent=state.objects[position], present=jnp.arange(2) == position, objects=state.objects
        )
        paid = [float(gridworld.at(10 * k).step(KEY, there, jnp.int32(0))[2]) for k in range(3)]
        assert paid == [[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]][position]


@pytest.mark.parametrize("cached", [False, True])
def test_games_follow_each_other(cached):
    games = ("Breakout", "Seaquest", "Asterix")
    environment = environments.make("Sequence-MinAtar", games="+".join(games), phase=PHASE)
    observations, rewards, terminated, truncated, _ = play(environment, 4 * PHASE, cached=cached)
    # An episode is cut by each change, in its first step, and nothing else is cut.
    cuts = np.zeros((4 * PHASE, 2), bool)
    cuts[[PHASE, 2 * PHASE, 3 * PHASE]] = True
    np.testing.assert_array_equal(truncated, cuts)
    assert not np.any(rewards[cuts])
    assert not np.any(terminated[cuts])
    channels = np.any(observations, axis=(1, 2, 3))
    used = {"Breakout": 4, "Seaquest": 10, "Asterix": 4}
    for k, game in enumerate((*games, games[0])):
        present = channels[k * PHASE + 1 : (k + 1) * PHASE]
        assert not present[:, used[game] :].any(), game
    assert channels[PHASE + 1 : 2 * PHASE, 4:].any()


def test_a_game_of_the_sequence_is_the_game_with_all_actions():
    from agents.gymnax_environment import GymnaxEnvironment

    alone = GymnaxEnvironment("Breakout-MinAtar", arguments={"use_minimal_action_set": False})
    sequence = environments.make("Sequence-MinAtar", games="Asterix+Breakout", phase=PHASE)
    observation, reward, *ends, _ = play(alone, PHASE, False, PHASE)
    seen, paid, *theirs, _ = play(sequence, PHASE, False, PHASE)
    np.testing.assert_array_equal(seen, observation)  # both have four channels
    same((paid, *theirs), (reward, *ends))


def test_the_clock_of_vmapped_copies_decides_once():
    """Where the clock is one for all, only the game that is played is stepped."""
    sequence = environments.make("Sequence-MinAtar", games="Asterix+Breakout", phase=PHASE)
    batch = Batch(AutoReset(sequence), 3)

    def step(clock, state, action):
        return batch.at(clock).step(KEY, state, action)

    _, state = batch.reset(KEY)
    program = jax.make_jaxpr(step)(jnp.int32(0), state, jnp.zeros((3,), jnp.int32))
    assert "cond[" in str(program)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("CartPole-v1", {"flip": True}, "option 'flip' of CartPole-v1 needs a phase, in"),
        ("CartPole-v1", {"phase": 10}, "option 'phase' of CartPole-v1 needs a change: flip or"),
        ("CartPole-v1", {"flip": True, "phase": 0}, "option 'phase' must be in .* got 0"),
        ("CartPole-v1", {"permute": "both"}, "CartPole-v1 has no option 'permute'"),
        ("Breakout-MinAtar", {"permute": "all", "phase": 9}, "'permute' must be one of none, ch"),
        ("Sequence-MinAtar", {"games": "Breakout+Pong"}, "games must be among .* got 'Pong'"),
        ("Sequence-MinAtar", {"flip": True}, "Sequence-MinAtar has no option 'flip'"),
        ("ant", {"friction": (0.1, 1.0)}, "option 'friction' of ant needs a phase"),
        ("ant", {"friction": (0.1, 1), "phase": 9, "change": "often"}, "'change' must be one of"),
        ("ant", {"wear": "1..0", "phase": 9}, "option 'wear' must be two numbers above 0"),
        ("reacher", {"friction": (0.1, 1.0)}, "reacher has no option 'friction'"),
        ("ant", {"solver_iterations": 3}, "option 'solver_iterations' is for backend mjx"),
    ],
)
def test_what_is_not_allowed(name, options, words):
    with pytest.raises(ValueError, match=words):
        environments.make(name, **options)
