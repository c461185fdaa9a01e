"""Statistics of a few seeds on a few tasks, with honest intervals.

Scores are arrays of shape (seeds, tasks, ...). A statistic reduces the first two axes and keeps
all others, so that one definition serves a final score, a learning curve (points behind) and the
bootstrap (resamples behind). A vector of shape (seeds,) counts as one task.

Everything here follows 'Deep Reinforcement Learning at the Edge of the Statistical Precipice'
(Agarwal et al., NeurIPS 2021, arXiv 2108.13264) and agrees with its library, rliable.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_BLOCK = 2**22  # numbers resampled at once: bounds the bootstrap's memory to some 100 MB


def mean(scores: ArrayLike) -> Array:
    """Mean over all runs and tasks.

    Args:
        scores: shape (seeds, tasks, ...) or (seeds,).

    Returns:
        Shape (...): a scalar for scores of shape (seeds, tasks).

    Raises:
        ValueError: scores are empty or not all finite.

    Examples:
        >>> float(mean([[1.0, 3.0], [5.0, 7.0]]))
        4.0
    """
    return _scores(scores).mean(axis=(0, 1))


def iqm(scores: ArrayLike) -> Array:
    r"""Interquartile mean: the mean of the middle half of all runs x tasks.

    .. math:: \frac{1}{N - 2k} \sum_{i=k+1}^{N-k} x_{(i)}, \quad k = \lfloor N / 4 \rfloor

    for the N = seeds x tasks sorted scores. Where N is no multiple of four, fewer than a quarter is
    cut on each side and nothing is weighted, as in ``scipy.stats.trim_mean(scores, 0.25, None)``,
    which rliable uses; below four scores it is the mean.

    Args:
        scores: shape (seeds, tasks, ...) or (seeds,).

    Returns:
        Shape (...): a scalar for scores of shape (seeds, tasks).

    Raises:
        ValueError: scores are empty or not all finite.

    Examples:
        >>> float(iqm([-100.0, 2.0, 4.0, 90.0]))
        3.0

    References:
        Agarwal et al., arXiv 2108.13264, section 4.3.
    """
    scores = _scores(scores)
    flat = scores.reshape(-1, *scores.shape[2:])
    cut = len(flat) // 4
    return np.sort(flat, axis=0)[cut : len(flat) - cut].mean(axis=0)


def optimality_gap(scores: ArrayLike, target: float = 1.0) -> Array:
    r"""Mean amount by which runs miss a target score; smaller is better.

    .. math:: \gamma - \operatorname{mean}(\min(x, \gamma))

    Args:
        scores: shape (seeds, tasks, ...) or (seeds,), normalised.
        target: the score above which more does not count.

    Returns:
        Shape (...): a scalar for scores of shape (seeds, tasks).

    Raises:
        ValueError: scores are empty or not all finite.

    Examples:
        >>> float(optimality_gap([[0.5, 3.0], [1.0, 0.5]]))
        0.25

    References:
        Agarwal et al., arXiv 2108.13264, section 4.3.
    """
    return target - np.minimum(_scores(scores), target).mean(axis=(0, 1))


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> Array:
    r"""Fraction of runs that score above each threshold, averaged over the tasks.

    .. math:: \hat F(\tau) = \frac{1}{M} \sum_m \frac{1}{N} \sum_n \mathbb{1}[x_{n,m} > \tau]

    Args:
        scores: shape (seeds, tasks, ...) or (seeds,).
        thresholds: shape (thresholds,).

    Returns:
        Shape (thresholds, ...).

    Raises:
        ValueError: scores are empty or not all finite.

    Examples:
        >>> performance_profile([[0.2, 0.8], [0.6, 1.0]], [0.0, 0.6, 1.0]).tolist()
        [1.0, 0.5, 0.0]

    References:
        Agarwal et al., arXiv 2108.13264, section 4.2.
    """
    scores = _scores(scores)
    return np.stack([(scores > tau).mean(axis=(0, 1)) for tau in np.asarray(thresholds)])


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> Array:
    r"""Probability that a run of X beats a run of Y on a task, averaged over the tasks.

    .. math:: \frac{1}{M} \sum_m P(X_m > Y_m) + \tfrac12 P(X_m = Y_m)

    Each term is the Mann-Whitney U statistic divided by the number of pairs. The runs are not
    paired: the numbers of seeds may differ.

    Args:
        x: scores of X, shape (seeds, tasks, ...) or (seeds,).
        y: scores of Y, shape (other seeds, tasks, ...) or (other seeds,).

    Returns:
        Shape (...): a scalar for scores of shape (seeds, tasks).

    Raises:
        ValueError: x or y are empty or not all finite, or their tasks differ in number.

    Examples:
        >>> float(probability_of_improvement([1.0, 3.0], [1.0, 2.0]))
        0.625

    References:
        Agarwal et al., arXiv 2108.13264, section 4.3.
    """
    x, y = _scores(x, "x"), _scores(y, "y")
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"x and y must agree in all axes but the first (seeds), got {x.shape} and {y.shape}."
        )
    wins = np.zeros(x.shape[1:])
    for run in x:  # a loop over one side's seeds keeps the pairs out of memory
        wins += (run > y).mean(axis=0) + 0.5 * (run == y).mean(axis=0)
    return wins.mean(axis=0) / len(x)


def stratified_bootstrap(
    scores: ArrayLike | tuple[ArrayLike, ...],
    statistic: Callable[..., Array],
    repetitions: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[Array, Array]:
    """Percentile interval of a statistic, by resampling seeds within each task.

    Each resample draws, for every task on its own, as many seeds as there are, with replacement.
    Axes behind (seeds, tasks) are never resampled apart: a seed's whole curve is drawn.

    Args:
        scores: shape (seeds, tasks, ...) or (seeds,); or a tuple of such arrays, each resampled on
            its own and given to the statistic in order.
        statistic: maps scores to an array, keeping the axes behind (seeds, tasks) last, as every
            statistic in this module does. Resamples are one more such axis.
        repetitions: number of resamples.
        confidence: probability that the interval is to cover, between 0 and 1.
        seed: of the resampling; the same arguments give the same interval, bit for bit.

    Returns:
        (low, high), each of the statistic's shape. Both are NaN if every array holds a single
        seed, which says nothing about the spread between seeds.

    Raises:
        ValueError: scores are empty or not all finite; repetitions or confidence are out of range.

    Examples:
        >>> low, high = stratified_bootstrap([1.0, 2.0, 3.0, 4.0], iqm)
        >>> bool(1.0 <= low < 2.5 < high <= 4.0)
        True
        >>> curves = np.random.default_rng(0).normal(size=(5, 1, 64))  # seeds, tasks, points
        >>> stratified_bootstrap(curves, iqm)[0].shape
        (64,)

    References:
        Agarwal et al., arXiv 2108.13264, section 4.1.
    """
    if repetitions < 1:
        raise ValueError(f"repetitions must be at least 1, got {repetitions}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")
    arrays = [_scores(array) for array in (scores if isinstance(scores, tuple) else (scores,))]
    if all(len(array) == 1 for array in arrays):
        undefined = np.full_like(statistic(*arrays), np.nan)
        return undefined, undefined.copy()

    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // max(array.size for array in arrays))
    draws = []
    for start in range(0, repetitions, block):
        count = min(block, repetitions - start)
        draws.append(statistic(*(_resample(array, count, rng) for array in arrays)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(draws, axis=-1), [tail, 1 - tail], axis=-1)
    return low, high


def _resample(scores: Array, count: int, rng: np.random.Generator) -> Array:
    """Draws seeds within each task: (seeds, tasks, ...) to (seeds, tasks, ..., count)."""
    seeds, tasks = scores.shape[:2]
    drawn = rng.integers(seeds, size=(seeds, tasks, count))
    return np.moveaxis(scores[drawn, np.arange(tasks)[:, None]], 2, -1)


def _scores(scores: ArrayLike, name: str = "scores") -> Array:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim < 2 or array.size == 0:
        raise ValueError(
            f"{name} must have shape (seeds, tasks, ...) or (seeds,) and not be empty, "
            f"got shape {array.shape}."
        )
    if not np.isfinite(array).all():
        bad = int(np.count_nonzero(~np.isfinite(array)))
        raise ValueError(
            f"{name} must be finite, got {bad} of {array.size} values NaN or infinite."
        )
    return array
