import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.advantages import generalized_advantages

advantages_of = jax.jit(generalized_advantages)


def by_definition(rewards, values, next_values, terminated, truncated, discount, trace_decay):
    """The weighted sum of temporal differences until the episode's end, for each step anew."""
    steps = len(rewards)
    advantages = np.zeros(steps)
    for t in range(steps):
        weight = 1.0
        for k in range(t, steps):
            future = 0.0 if terminated[k] else discount * next_values[k]
            advantages[t] += weight * (rewards[k] + future - values[k])
            weight *= discount * trace_decay
            if terminated[k] or truncated[k]:
                break
    return advantages


def experience(seed, steps=40, end_probability=0.2):
    """Random rewards and values; where an episode goes on, V(s'_t) is V(s_{t+1})."""
    rng = np.random.default_rng(seed)
    rewards, values, next_values = rng.normal(size=(3, steps)).astype(np.float32)
    ends = rng.random(steps) < end_probability
    terminated = ends & (rng.random(steps) < 0.5)
    truncated = ends & ~terminated
    next_values[:-1] = np.where(ends[:-1], next_values[:-1], values[1:])
    return rewards, values, next_values, terminated, truncated


unit = st.floats(0, 1, width=32)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.1, 0.5, 1.0]), unit, unit)
def test_against_the_definition(seed, end_probability, discount, trace_decay):
    data = experience(seed, end_probability=end_probability)
    np.testing.assert_allclose(
        advantages_of(*data, discount, trace_decay),
        by_definition(*data, discount, trace_decay),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("steps", [1, 2, 15, 16, 17, 33])
def test_any_number_of_steps(steps):
    data = experience(steps, steps)
    np.testing.assert_allclose(
        advantages_of(*data, 0.99, 0.95), by_definition(*data, 0.99, 0.95), rtol=1e-4, atol=1e-5
    )


def test_without_trace_it_is_the_temporal_difference():
    rewards, values, next_values, terminated, _ = data = experience(0)
    expected = rewards + 0.9 * np.where(terminated, 0.0, next_values) - values
    np.testing.assert_allclose(advantages_of(*data, 0.9, 0.0), expected, rtol=1e-5, atol=1e-6)


def test_with_full_trace_the_target_is_the_discounted_return():
    rewards, values, next_values, terminated, truncated = data = experience(1)
    targets = advantages_of(*data, 0.9, 1.0) + values
    future = next_values[-1]
    for t in reversed(range(len(rewards))):
        if truncated[t]:
            future = next_values[t]
        if terminated[t]:
            future = 0.0
        future = rewards[t] + 0.9 * future
        np.testing.assert_allclose(targets[t], future, rtol=1e-4, atol=1e-5)


def test_nothing_flows_back_over_an_end():
    data = experience(2, steps=6, end_probability=0.0)
    for which in (3, 4):
        ended = list(data)
        ended[which] = np.arange(6) == 2
        changed = [*ended]
        changed[0] = ended[0] + 100.0 * (np.arange(6) > 2)
        np.testing.assert_array_equal(
            advantages_of(*ended, 0.9, 0.95)[:3], advantages_of(*changed, 0.9, 0.95)[:3]
        )


def test_infinite_value_of_a_terminal_state_is_ignored():
    """What follows a terminal state is masked, not multiplied by 0."""
    yes, no, one = jnp.array([True]), jnp.array([False]), jnp.array([1.0])
    advantage = generalized_advantages(one, one, jnp.array([jnp.nan]), yes, no, 0.9, 0.95)
    assert advantage[0] == 0.0


def test_trailing_axes_are_independent():
    columns = [experience(seed) for seed in range(3)]
    stacked = [np.stack(x, axis=1) for x in zip(*columns, strict=True)]
    together = advantages_of(*stacked, 0.99, 0.95)
    for i, data in enumerate(columns):
        np.testing.assert_allclose(
            together[:, i], advantages_of(*data, 0.99, 0.95), rtol=1e-5, atol=1e-6
        )


def test_grid_of_discounts_and_traces():
    data = experience(3)
    discounts, traces = np.float32([0.5, 0.9, 1.0]), np.float32([0.0, 0.95, 1.0])
    together = jax.vmap(functools.partial(generalized_advantages, *data))(discounts, traces)
    for row, discount, trace in zip(together, discounts, traces, strict=True):
        np.testing.assert_allclose(row, by_definition(*data, discount, trace), rtol=1e-4, atol=1e-4)
