import functools

import jax
import jax.numpy as jnp
import numpy as np
import probes
from quick import quick_jit

from agents.evaluation import evaluate

KEY = jax.random.key(0)


def one_action(action):
    """A policy that looks at nothing."""
    return lambda key, observation: jnp.full(observation.shape[:1], action, jnp.int32)


def test_one_episode_each_with_its_own_return():
    """An episode of length n from start s returns n s + 0 + 1 + 4 + ... + (n - 1)^2."""
    environment = probes.Countdown()
    returns, lengths = quick_jit(
        functools.partial(evaluate, environment, one_action(0), episodes=200)
    )(KEY)
    assert (returns.shape, returns.dtype) == ((200,), jnp.float32)
    assert (lengths.shape, lengths.dtype) == ((200,), jnp.int32)
    assert set(np.unique(lengths)) == {1, 2, 3, 4, 5}  # odd ones terminated, even ones truncated
    returns, lengths = np.asarray(returns), np.asarray(lengths)
    squares = np.array([0, 0, 1, 5, 14, 30])[lengths]
    starts = (returns - squares) / lengths
    assert (starts > -1e-4).all()
    assert (starts < 1.0).all()
    assert len(np.unique(np.round(starts, 4))) > 150


def test_truncation_ends_an_episode():
    returns, lengths = evaluate(probes.Endless(limit=3), one_action(0), KEY, episodes=2)
    np.testing.assert_array_equal(returns, 3.0)
    np.testing.assert_array_equal(lengths, 3)


def test_policy_is_asked_with_fresh_keys_and_observations():
    environment = probes.ObservationAction()

    def by_observation(key, observation):
        return (observation[:, 0] > 0).astype(jnp.int32)

    def by_chance(key, observation):
        return jax.random.randint(key, observation.shape[:1], 0, 2)

    returns, _ = evaluate(environment, by_observation, KEY, episodes=50)
    np.testing.assert_array_equal(returns, 1.0)
    returns, _ = evaluate(environment, by_chance, KEY, episodes=400)
    assert abs(returns.mean()) < 0.2


def test_same_key_same_episodes():
    play = quick_jit(functools.partial(evaluate, probes.Countdown(), one_action(0), episodes=8))
    jax.tree.map(np.testing.assert_array_equal, play(KEY), play(KEY))
    assert not np.array_equal(play(KEY)[0], play(jax.random.key(1))[0])
