"""Statistics against hand-computed values, SciPy, rliable and their own mathematics."""

import doctest
import functools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from experiments.reports import statistics

SCORES = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=7),
    elements=st.floats(-1e3, 1e3).map(lambda value: round(value, 3)),
)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_iqm_by_hand() -> None:
    scores = np.array([[0.0, 10.0], [1.0, 2.0], [3.0, -50.0], [4.0, 5.0]])
    # Sorted: -50 0 | 1 2 3 4 | 5 10.
    assert statistics.iqm(scores) == 2.5


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([7.0], 7.0), ([1.0, 3.0], 2.0), ([0.0, 0.0, 9.0], 3.0), ([0.0, 1.0, 2.0, 6.0, 90.0], 3.0)],
)
def test_iqm_of_other_than_multiples_of_four(scores: list[float], expected: float) -> None:
    assert statistics.iqm(scores) == expected


@given(SCORES)
def test_iqm_is_scipys_trimmed_mean_within_the_range(scores: np.ndarray) -> None:
    value = statistics.iqm(scores)
    np.testing.assert_allclose(
        value, scipy.stats.trim_mean(scores, 0.25, axis=None), rtol=1e-12, atol=1e-9
    )
    assert scores.min() - 1e-9 <= value <= scores.max() + 1e-9


@given(SCORES, st.floats(0.125, 8), st.floats(-100, 100))
def test_iqm_follows_units_and_ignores_order(
    scores: np.ndarray, scale: float, shift: float
) -> None:
    value = statistics.iqm(scores)
    np.testing.assert_allclose(
        statistics.iqm(scale * scores + shift), scale * value + shift, rtol=1e-9, atol=1e-6
    )
    np.testing.assert_allclose(statistics.iqm(scores[::-1, ::-1]), value, rtol=1e-12, atol=1e-9)


def test_statistics_keep_further_axes() -> None:
    curves = normal(5, 3, 4)
    for statistic in (statistics.mean, statistics.iqm, statistics.optimality_gap):
        expected = [statistic(curves[..., i]) for i in range(4)]
        np.testing.assert_allclose(statistic(curves), expected, rtol=1e-12)
    other = normal(2, 3, 4, seed=1)
    expected = [
        statistics.probability_of_improvement(curves[..., i], other[..., i]) for i in range(4)
    ]
    np.testing.assert_allclose(
        statistics.probability_of_improvement(curves, other), expected, rtol=1e-12
    )
    assert statistics.performance_profile(curves, [0.0, 1.0]).shape == (2, 4)


def test_optimality_gap_by_hand() -> None:
    assert statistics.optimality_gap([[0.25, 2.0], [0.75, 1.0]]) == 0.25
    assert statistics.optimality_gap([[0.25, 2.0], [0.75, 1.0]], target=2.0) == 1.0


def test_performance_profile_by_hand() -> None:
    profile = statistics.performance_profile([[0.0, 1.0], [0.5, 2.0]], [-1.0, 0.0, 0.5, 1.5, 2.0])
    assert profile.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]


@given(SCORES)
def test_performance_profile_falls_from_one_to_zero(scores: np.ndarray) -> None:
    thresholds = np.sort(np.concatenate([[-2e3, 2e3], scores.ravel()]))
    profile = statistics.performance_profile(scores, thresholds)
    assert profile[0] == 1.0
    assert profile[-1] == 0.0
    assert (np.diff(profile) <= 0).all()


def test_probability_of_improvement_by_hand() -> None:
    x = [[1.0, 0.0], [3.0, 0.0]]
    y = [[1.0, 5.0], [2.0, 5.0]]
    # Task 1: 1=1, 1<2, 3>1, 3>2, that is 2.5 of 4; task 2: always worse.
    assert statistics.probability_of_improvement(x, y) == 0.3125


@given(hnp.arrays(np.int64, (5, 1), elements=st.integers(0, 4)), st.integers(1, 6), st.integers(0))
def test_probability_of_improvement_is_mann_whitneys(x: np.ndarray, n: int, seed: int) -> None:
    y = np.random.default_rng(seed).integers(0, 5, size=(n, 1))
    value = statistics.probability_of_improvement(x, y)
    u = scipy.stats.mannwhitneyu(x[:, 0], y[:, 0], method="asymptotic").statistic
    np.testing.assert_allclose(value, u / (5 * n), rtol=1e-12)
    np.testing.assert_allclose(value + statistics.probability_of_improvement(y, x), 1.0, rtol=1e-12)


def test_bootstrap_is_deterministic_and_follows_its_seed() -> None:
    scores = normal(8, 3)
    first = statistics.stratified_bootstrap(scores, statistics.iqm)
    assert first == statistics.stratified_bootstrap(scores, statistics.iqm)
    assert first != statistics.stratified_bootstrap(scores, statistics.iqm, seed=1)


def test_bootstrap_interval_of_the_mean_covers_the_truth() -> None:
    samples = normal(20, 1, 1000)  # a thousand experiments of twenty seeds, as points of a curve
    low, high = statistics.stratified_bootstrap(samples, statistics.mean, repetitions=1000)
    coverage = np.mean((low <= 0) & (high >= 0))
    # The percentile interval of twenty normal numbers covers a little less than its nominal 95%.
    assert 0.90 <= coverage <= 0.955
    width = np.mean(high - low)
    assert width == pytest.approx(2 * 1.96 * np.sqrt(19 / 20 / 20), rel=0.05)


def test_bootstrap_widens_with_confidence() -> None:
    intervals = [
        statistics.stratified_bootstrap(normal(10), statistics.mean, confidence=confidence)
        for confidence in (0.5, 0.9, 0.99)
    ]
    widths = [float(high - low) for low, high in intervals]
    assert widths == sorted(widths)
    assert widths[0] < widths[1] < widths[2]


def test_bootstrap_resamples_within_tasks_only() -> None:
    scores = np.tile([[0.0, 100.0]], (6, 1))  # tasks differ, seeds do not
    assert statistics.stratified_bootstrap(scores, statistics.mean) == (50.0, 50.0)


def test_bootstrap_resamples_tasks_independently() -> None:
    column = normal(12)
    one = statistics.stratified_bootstrap(column[:, None], statistics.mean)
    four = statistics.stratified_bootstrap(np.tile(column[:, None], (1, 4)), statistics.mean)
    # Four independent strata halve the spread; resampled together they would keep it.
    assert (four[1] - four[0]) / (one[1] - one[0]) == pytest.approx(0.5, abs=0.05)


def test_bootstrap_draws_whole_curves() -> None:
    curve = normal(7)
    curves = np.stack([curve, curve + 10.0], axis=-1)[:, None]
    low, high = statistics.stratified_bootstrap(curves, statistics.iqm)
    np.testing.assert_allclose(np.diff(low), 10.0, rtol=1e-12)
    np.testing.assert_allclose(np.diff(high), 10.0, rtol=1e-12)


def test_bootstrap_serves_profiles_and_pairs() -> None:
    x, y = normal(6, 2), normal(9, 2, seed=1)
    profile = functools.partial(statistics.performance_profile, thresholds=[-1.0, 0.0, 1.0])
    low, high = statistics.stratified_bootstrap(x, profile)
    assert low.shape == high.shape == (3,)
    assert (low <= profile(x)).all()
    assert (profile(x) <= high).all()
    low, high = statistics.stratified_bootstrap((x, y), statistics.probability_of_improvement)
    assert 0 <= low < statistics.probability_of_improvement(x, y) < high <= 1


def test_bootstrap_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = statistics.stratified_bootstrap(normal(10), statistics.mean, repetitions=5000)
    monkeypatch.setattr(statistics, "_BLOCK", 70)
    sizes = []

    def watched(scores: np.ndarray) -> np.ndarray:
        sizes.append(scores.shape[-1])
        return statistics.mean(scores)

    blocks = statistics.stratified_bootstrap(normal(10), watched, repetitions=5000)
    assert sum(sizes) == 5000
    assert max(sizes) == 7
    np.testing.assert_allclose(blocks, whole, atol=0.05)


def test_one_seed_has_no_interval() -> None:
    low, high = statistics.stratified_bootstrap([[1.0, 2.0]], statistics.iqm)
    assert np.isnan(low)
    assert np.isnan(high)
    low, _ = statistics.stratified_bootstrap(normal(1, 1, 5), statistics.iqm)
    assert low.shape == (5,)
    assert np.isnan(low).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    scores = [[1.0, bad], [2.0, 3.0]]
    message = "scores must be finite, got 1 of 4 values NaN or infinite"
    for statistic in (statistics.mean, statistics.iqm, statistics.optimality_gap):
        with pytest.raises(ValueError, match=message):
            statistic(scores)
    with pytest.raises(ValueError, match=message):
        statistics.performance_profile(scores, [0.0])
    with pytest.raises(ValueError, match=message):
        statistics.stratified_bootstrap(scores, statistics.iqm)
    with pytest.raises(ValueError, match="y must be finite"):
        statistics.probability_of_improvement([[1.0, 2.0]], scores)


def test_other_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"not be empty, got shape \(0, 1\)"):
        statistics.iqm([])
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(2, 1\)"):
        statistics.probability_of_improvement(np.ones((2, 3)), np.ones(2))
    with pytest.raises(ValueError, match="repetitions must be at least 1, got 0"):
        statistics.stratified_bootstrap([1.0, 2.0], statistics.iqm, repetitions=0)
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1, got 95"):
        statistics.stratified_bootstrap([1.0, 2.0], statistics.iqm, confidence=95)


def test_agrees_with_rliable() -> None:
    pytest.importorskip("rliable", exc_type=ImportError)
    from rliable import library, metrics

    x, y = normal(10, 4), normal(7, 4, seed=1) + 0.3
    np.testing.assert_allclose(statistics.iqm(x), metrics.aggregate_iqm(x), rtol=1e-12)
    np.testing.assert_allclose(
        statistics.optimality_gap(x), metrics.aggregate_optimality_gap(x), rtol=1e-12
    )
    np.testing.assert_allclose(
        statistics.probability_of_improvement(x, y),
        metrics.probability_of_improvement(x, y),
        rtol=1e-12,
    )
    thresholds = np.linspace(-2, 2, 9)
    profiles, _ = library.create_performance_profile({"x": x}, thresholds, reps=10)
    np.testing.assert_allclose(
        statistics.performance_profile(x, thresholds), profiles["x"], rtol=1e-12
    )
    _, intervals = library.get_interval_estimates(
        {"x": x},
        lambda scores: np.array([metrics.aggregate_iqm(scores)]),
        reps=5000,
        random_state=np.random.RandomState(0),
    )
    ours = statistics.stratified_bootstrap(x, statistics.iqm, repetitions=5000)
    np.testing.assert_allclose(ours, intervals["x"][:, 0], atol=0.03)
    _, intervals = library.get_interval_estimates(
        {"x,y": (x, y)},
        lambda x, y: np.array([metrics.probability_of_improvement(x, y)]),
        reps=2000,
        random_state=np.random.RandomState(0),
    )
    ours = statistics.stratified_bootstrap((x, y), statistics.probability_of_improvement)
    np.testing.assert_allclose(ours, intervals["x,y"][:, 0], atol=0.03)


def test_doctests() -> None:
    results = doctest.testmod(statistics)
    assert results.attempted > 0
    assert results.failed == 0
