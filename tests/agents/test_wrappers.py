import functools

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from quick import quick_jit

from agents.wrappers import (
    AutoReset,
    Batch,
    EpisodeStatistics,
    NormalizeObservation,
    NormalizeReward,
    RunningMoments,
)

STEPS = 30
KEY = jax.random.key(0)


def play(environment, key=KEY, steps=STEPS, action_shape=()):
    """First observation, first state and every later (observation, state, reward, ...)."""
    first, state = environment.reset(key)

    def step(state, key):
        result = environment.step(key, state, jnp.zeros(action_shape, jnp.int32))
        return result[1], result

    keys = jax.random.split(jax.random.fold_in(key, 1), steps)
    return first, state, jax.lax.scan(step, state, keys)[1]


@functools.cache
def single(cached):
    """Countdown for 30 steps, as NumPy arrays."""
    environment = EpisodeStatistics(AutoReset(probes.Countdown(), cached=cached))
    result = quick_jit(lambda: play(environment))()
    return jax.tree.map(np.asarray, result)


def episodes(terminated, truncated):
    """Slices of the steps of each whole episode."""
    ends = np.flatnonzero(terminated | truncated) + 1
    return [slice(*pair) for pair in zip([0, *ends[:-1]], ends, strict=True)]


@pytest.mark.parametrize("cached", [False, True], ids=["fresh", "cached"])
def test_auto_reset_starts_over(cached):
    first, _, (observation, state, _, terminated, truncated, info) = single(cached)
    done = terminated | truncated
    assert done.sum() >= 5
    time = observation[:, 1] / 10.0
    np.testing.assert_array_equal(time[done], 0.0)
    np.testing.assert_array_equal(time, state.inner.inner.time)
    assert (time[~done] > 0).all()
    # Where nothing ended, the final observation is the observation.
    np.testing.assert_array_equal(info["final_observation"][~done], observation[~done])
    starts = observation[done, 0]
    if cached:
        np.testing.assert_array_equal(starts, first[0])
        assert len({piece.stop - piece.start for piece in episodes(terminated, truncated)}) == 1
    else:
        assert len(np.unique([first[0], *starts])) == 1 + done.sum()


@pytest.mark.parametrize("cached", [False, True], ids=["fresh", "cached"])
def test_final_observation_is_kept(cached):
    first, _, (observation, _, _, terminated, truncated, info) = single(cached)
    before = np.concatenate([first[None], observation[:-1]])
    for piece in episodes(terminated, truncated):
        last = piece.stop - 1
        length = piece.stop - piece.start
        expected = [before[piece.start, 0] + length, 10.0 * length]
        np.testing.assert_allclose(info["final_observation"][last], expected, rtol=1e-6)
        assert terminated[last] == (length % 2 == 1)
        assert truncated[last] == (length % 2 == 0)


def test_fresh_resets_see_all_kinds_of_ends():
    _, _, (_, _, _, terminated, truncated, _) = single(False)
    assert terminated.any()
    assert truncated.any()
    assert not (terminated & truncated).any()


@pytest.mark.parametrize("cached", [False, True], ids=["fresh", "cached"])
def test_episode_statistics_are_exact(cached):
    _, first_state, (_, state, reward, terminated, truncated, info) = single(cached)
    np.testing.assert_array_equal(info["done"], terminated | truncated)
    assert first_state.episode_return == first_state.episode_length == 0
    for piece in episodes(terminated, truncated):
        np.testing.assert_allclose(
            info["episode_return"][piece], np.cumsum(reward[piece]), rtol=1e-6
        )
        np.testing.assert_array_equal(
            info["episode_length"][piece], np.arange(1, 1 + piece.stop - piece.start)
        )
    done = info["done"]
    np.testing.assert_array_equal(state.episode_return[done], 0.0)
    np.testing.assert_array_equal(state.episode_length[done], 0)
    np.testing.assert_array_equal(state.episode_return[~done], info["episode_return"][~done])


def test_statistics_do_not_let_nan_over_a_reset():
    environment = EpisodeStatistics(AutoReset(probes.Endless(limit=1)))
    _, state = environment.reset(KEY)
    state = state._replace(episode_return=jnp.float32(jnp.nan))
    _, state, *_ = environment.step(KEY, state, jnp.int32(0))
    assert state.episode_return == 0.0


SIZE = 4


def batch():
    return Batch(EpisodeStatistics(AutoReset(probes.Countdown())), SIZE)


@functools.cache
def batched():
    result = quick_jit(lambda: play(batch(), action_shape=(SIZE,)))()
    return jax.tree.map(np.asarray, result)


def test_batch_adds_a_leading_axis():
    environment = batch()
    assert environment.observation_shape == (2,)  # of one observation, as everywhere
    assert environment.size == SIZE
    alone = jax.eval_shape(lambda: environment.environment.reset(KEY))
    together = jax.eval_shape(lambda: environment.reset(KEY))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), together) == jax.tree.map(
        lambda x: ((SIZE, *x.shape), x.dtype), alone
    )
    _, _, (observation, _, reward, terminated, truncated, info) = batched()
    assert observation.shape == info["final_observation"].shape == (STEPS, SIZE, 2)
    for x in (reward, terminated, truncated, *map(info.get, ("done", "episode_return"))):
        assert x.shape == (STEPS, SIZE)


def test_batch_runs_independent_copies():
    first, _, (observation, *_) = batched()
    assert len(np.unique(first[:, 0])) == SIZE
    assert len(np.unique(observation[:, :, 0], axis=1).T) == SIZE


def test_copies_restart_independently():
    """Two copies that end in the same step draw different starts."""
    environment = Batch(AutoReset(probes.ObservationReward()), 64)
    _, state = environment.reset(KEY)
    observation, *_ = environment.step(KEY, state, jnp.zeros((64,), jnp.int32))
    assert len(np.unique(observation)) == 2


def moments_of(samples):
    """Mean and variance of all samples and of 1e-4 imagined ones with mean 0 and variance 1."""
    samples = np.asarray(samples, np.float64)
    count = 1e-4 + len(samples)
    mean = samples.sum(axis=0) / count
    return mean, (np.square(samples).sum(axis=0) + 1e-4) / count - np.square(mean)


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_running_moments_are_those_of_all_samples(shape):
    rng = np.random.default_rng(0)
    moments, seen = RunningMoments.zeros(shape), []
    for size in (1, 5, 2, 40):
        samples = rng.normal(3.0, 2.0, size=(size, *shape)).astype(np.float32)
        seen.extend(samples)
        moments = moments.update(jnp.asarray(samples))
        mean, variance = moments_of(seen)
        np.testing.assert_allclose(moments.mean, mean, rtol=1e-4)
        np.testing.assert_allclose(moments.variance, variance, rtol=1e-4, atol=1e-5)
    assert moments.mean.shape == moments.variance.shape == shape
    np.testing.assert_allclose(moments.weight, 48.0001, rtol=1e-6)


def test_running_moments_of_large_offsets():
    """A sum of squares would lose a variance of 1 at a mean of 10,000 in float32."""
    rng = np.random.default_rng(0)
    moments = RunningMoments.zeros(())
    for _ in range(50):
        moments = moments.update(jnp.asarray(rng.normal(1e4, 1.0, 200).astype(np.float32)))
    # The imagined samples are 1e-8 of all, ten thousand deviations away: they add 1.
    np.testing.assert_allclose(moments.variance, 2.0, rtol=0.05)


@functools.cache
def normalized():
    environment = NormalizeReward(NormalizeObservation(batch()), 0.9)
    result = quick_jit(lambda: play(environment, action_shape=(SIZE,)))()
    return environment, jax.tree.map(np.asarray, result)


def test_observations_are_normalised_by_what_was_seen():
    first, _, (observation, _, _, _, _, info) = batched()
    _, (first_normal, _, (normal, state, _, _, _, normal_info)) = normalized()
    seen = [*first]
    mean, variance = moments_of(seen)
    np.testing.assert_allclose(
        first_normal, (first - mean) / np.sqrt(variance + 1e-8), rtol=1e-2, atol=1e-2
    )
    for t in range(STEPS):
        seen.extend(observation[t])
        mean, variance = moments_of(seen)
        deviation = np.sqrt(variance + 1e-8)
        np.testing.assert_allclose(
            normal[t], (observation[t] - mean) / deviation, rtol=1e-3, atol=1e-3
        )
        # The same numbers for the observation an episode ended with.
        np.testing.assert_allclose(
            normal_info["final_observation"][t],
            (info["final_observation"][t] - mean) / deviation,
            rtol=1e-3,
            atol=1e-3,
        )
        np.testing.assert_allclose(state.inner.moments.mean[t], mean, rtol=1e-4)
    done = info["done"]
    difference = np.abs(normal_info["final_observation"] - normal).max(axis=-1)
    assert (difference[done] > 0.1).all()
    assert (difference[~done] == 0.0).all()


def test_rewards_are_divided_by_the_deviation_of_discounted_returns():
    _, _, (_, _, reward, terminated, truncated, info) = batched()
    _, (_, _, (_, state, scaled, _, _, scaled_info)) = normalized()
    returns, seen = np.zeros(SIZE), []
    for t in range(STEPS):
        returns = 0.9 * returns + reward[t]
        seen.extend(returns)
        _, variance = moments_of(seen)
        np.testing.assert_allclose(scaled[t], reward[t] / np.sqrt(variance), rtol=1e-3, atol=1e-6)
        returns = np.where(terminated[t] | truncated[t], 0.0, returns)
        np.testing.assert_allclose(state.discounted_return[t], returns, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(scaled_info["episode_return"], info["episode_return"])


def test_reward_normalisation_takes_a_traced_discount():
    def run(discount):
        environment = NormalizeReward(batch(), discount)
        return play(environment, steps=5, action_shape=(SIZE,))[2][2]

    together = quick_jit(jax.vmap(run))(jnp.array([0.0, 0.9]))
    np.testing.assert_allclose(together[1], run(0.9), rtol=1e-4)
    assert np.abs(together[0] - together[1]).max() > 0.01


def test_raw_observations_can_be_normalised_alone():
    environment, (_, _, (_, state, *_)) = normalized()
    last = jax.tree.map(lambda x: jnp.asarray(x[-1]), state)
    raw = jax.random.normal(KEY, (3, 5, 2))
    mean, variance = last.inner.moments.mean, last.inner.moments.variance
    expected = (np.asarray(raw) - np.asarray(mean)) / np.sqrt(variance + 1e-8)
    for lead in ((3, 5), (15,)):
        actual = environment.normalize_observation(last, raw.reshape(*lead, 2))
        np.testing.assert_allclose(actual, expected.reshape(*lead, 2), rtol=1e-4, atol=1e-5)
    one = environment.normalize_observation(last, raw[0, 0])
    np.testing.assert_allclose(one, expected[0, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rewards", [False, True])
def test_without_normalisation_observations_pass_through(rewards):
    environment = NormalizeReward(batch(), 0.9) if rewards else batch()
    _, state = environment.reset(KEY)
    raw = jax.random.normal(KEY, (3, 2))
    np.testing.assert_array_equal(environment.normalize_observation(state, raw), raw)


def test_wrappers_describe_the_environment_inside():
    inner = probes.Countdown()
    environment = NormalizeReward(NormalizeObservation(batch()), 0.9)
    for field in ("name", "observation_shape", "action_space", "max_episode_steps"):
        assert getattr(environment, field) == getattr(inner, field)
