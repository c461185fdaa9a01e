"""Quantities over the learner's clock, against their equations in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.changes import TABLE_ROWS, Schedule, parse_span, phase_of, phase_table, span_text


def test_phases_are_drawn_log_uniformly_and_differ_between_seeds() -> None:
    schedule = Schedule((0.02, 2.0), steps=10)
    table = schedule.table()[:, 0]
    assert table.dtype == np.float32
    assert table.min() >= np.float32(0.02)
    assert table.max() <= np.float32(2.0)
    # The logarithm is uniform: quarters of its range hold a quarter of the draws each.
    counts, _ = np.histogram(np.log(table), bins=4, range=(math.log(0.02), math.log(2.0)))
    assert np.all(np.abs(counts - 250) < 60)  # more than four standard deviations
    np.testing.assert_array_equal(table, Schedule((2.0, 0.02), steps=7).table()[:, 0])
    assert not np.array_equal(table, Schedule((0.02, 2.0), steps=10, seed=1).table()[:, 0])


def test_phases_begin_where_the_clock_says() -> None:
    schedule = Schedule((0.02, 2.0), steps=10)
    table = schedule.table()[:, 0]
    clocks = np.array([0, 9, 10, 19, 20, 10 * TABLE_ROWS - 1, 10 * TABLE_ROWS, 2**31 - 1])
    values = jax.jit(jax.vmap(schedule.value))(jnp.asarray(clocks, jnp.int32))
    np.testing.assert_array_equal(values, table[(clocks // 10) % TABLE_ROWS])
    assert phase_of(np.int32(25), 10) == 2


def test_worn_parts_never_recover() -> None:
    schedule = Schedule((0.1, 1.0), steps=10, seed=3)
    clocks = jnp.arange(0, 300, 10, dtype=jnp.int32)
    strengths = np.asarray(jax.vmap(lambda clock: schedule.worn(clock, 4))(clocks))
    draws = schedule.table(4)
    expected = np.array([draws[: k + 1].min(axis=0) for k in range(30)])
    np.testing.assert_array_equal(strengths, expected)
    assert np.all(np.diff(strengths, axis=0) <= 0)
    assert np.any(np.diff(strengths, axis=0) < 0)
    assert len(np.unique(strengths[0])) == 4  # each by itself
    linear = Schedule((1.0, 0.5), steps=10, kind="linear")
    np.testing.assert_array_equal(linear.worn(5, 3), [0.75] * 3)


@pytest.mark.parametrize("kind", ["linear", "sinusoidal"])
def test_continuous_changes(kind: str) -> None:
    schedule = Schedule((2.0, 0.5), steps=1000, kind=kind)
    clocks = np.array([0, 1, 250, 500, 999, 1000, 1500, 2**24 + 1, 2**31 - 1])
    values = jax.vmap(schedule.value)(jnp.asarray(clocks, jnp.int32))
    if kind == "linear":
        expected = 2.0 - 1.5 * np.minimum(clocks / 1000, 1.0)
    else:
        expected = 2.0 - 1.5 * (1.0 - np.cos(2.0 * np.pi * clocks / 1000)) / 2.0
    np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["phases", "linear", "sinusoidal"])
def test_equal_ends_are_that_number(kind: str) -> None:
    schedule = Schedule((0.3, 0.3), steps=7, kind=kind)
    assert schedule.is_constant
    for clock in (0, 3, 7, 12345):
        assert schedule.value(clock) == np.float32(0.3)
        np.testing.assert_array_equal(schedule.worn(clock, 2), np.float32([0.3, 0.3]))


def test_tables_differ_from_phase_to_phase() -> None:
    table = phase_table(lambda rng: rng.permutation(2), np.arange(2), seed=0)
    assert table.shape == (TABLE_ROWS, 2)
    np.testing.assert_array_equal(table[:4], [[0, 1], [1, 0], [0, 1], [1, 0]])


def test_spans() -> None:
    assert parse_span("wear", [0.3, 1]) == (0.3, 1.0)
    assert span_text(parse_span("wear", "1e0..0.30")) == "1..0.3"
    for value in ("0..1", "1..2..3", "low..high", "..", "1..inf", "nan", -1, (1, 2, 3), None, True):
        if value is True:
            continue
        with pytest.raises(ValueError, match=r"option 'wear' must be two numbers above 0") as error:
            parse_span("wear", value)
        assert str(error.value).endswith(f"got {value!r}.")
