r"""What became of an agent's own best: how far it fell from it, for how long, and if it came back.

Of a seed's returns :math:`x_i` at the points where it completed episodes, smoothed by a median over
five points (fewer at the ends), and of the best so far,

.. math::
    y_i = \operatorname{median}(x_{i-2}, \dots, x_{i+2}), \qquad b_i = \max_{j \le i} y_j

these are the largest drop, with the point where it ends, and its share of the whole range:

.. math::
    D = \max_i (b_i - y_i), \qquad i^* = \arg\max_i (b_i - y_i), \qquad
    \text{share} = \frac{D}{\max_i y_i - \min_i y_i}

A seed is below half where less than half of its way up from its start is left, and after its
largest drop it regains a part of that way, which has recovered from nine tenths on:

.. math::
    y_i < y_1 + \tfrac12 (b_i - y_1), \qquad
    \max_{i \ge i^*} y_i \ge y_1 + \tfrac{9}{10} (b_{i^*} - y_1)

A drop of half of the range or more is a dip if the seed has recovered from it, a collapse if it was
below half ever after, and a loss in between.

These numbers measure a seed by its own best. One that never learned has nothing to lose, and where
a task changes every change costs something, or makes the task harder for good. They do not say
which agent is the better one.

No sign of the returns is assumed: only differences of returns count. No drop, and no time below
half, counts within four times the scatter of single points, taken from successive differences:

.. math::
    \sigma = \frac{\operatorname{median}_i |x_{i+1} - x_i|}{0.6745 \sqrt 2}
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from experiments.reports.summary import by_task, title_of
from experiments.runs.reading import Run

Outcome = Literal["collapse", "loss", "dip", "none"]

_REACH = 2  # points on each side of one that is smoothed
_SCATTERS = 4.0  # a drop of so many is noise: medians of 400 normal numbers span some 3.5
_NORMAL = 0.6745 * math.sqrt(2.0)  # median of |difference| of normal numbers by their deviation


@dataclasses.dataclass(frozen=True)
class Fall:
    """One seed's largest drop; see the module. NaN and None are unknown.

    Attributes:
        largest_drop: below the best so far, in returns.
        largest_drop_share: of the range between the seed's lowest and highest return.
        drop_from_step: where the seed was at its best for the last time before.
        drop_to_step: where it was lowest.
        steps_below_half: spent below half of the way between start and best so far.
        scatter: of single points.
        recovered: None where the drop is within four times the scatter.
        outcome: of a drop of half of the range or more: "dip", "loss" or "collapse"; "none" if
            there was none; None if no episode was completed.
    """

    largest_drop: float
    largest_drop_share: float
    drop_from_step: int | None
    drop_to_step: int | None
    steps_below_half: int | None
    scatter: float
    recovered: bool | None
    outcome: Outcome | None


@dataclasses.dataclass(frozen=True)
class SeedRow:
    """Which seed of which run a row is about."""

    environment: str  # with its options, NAME[:key=value,...]
    backend: str | None
    optimizer: str
    seed: int


@dataclasses.dataclass(frozen=True)
class CollapseRow(Fall, SeedRow):
    """One seed's fall; the columns of `collapse.csv`, where those of `SeedRow` come first."""


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median of each value and the two on each side of it, of fewer at the ends.

    Args:
        values: shape (points,), finite; there may be none.

    Examples:
        >>> smooth(np.array([0.0, 9.0, 1.0, 2.0, 3.0])).tolist()
        [1.0, 1.5, 2.0, 2.5, 2.0]
    """
    if not len(values):
        return values
    padded = np.pad(values, _REACH, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * _REACH + 1)
    return np.nanmedian(windows, axis=-1)


def fall(steps: NDArray[np.int64], returns: NDArray[np.float64]) -> Fall:
    """Measures a seed's largest drop, by the equations of the module.

    Args:
        steps: shape (points,), at the end of each stretch.
        returns: shape (points,), NaN where no episode was completed.

    Returns:
        The fall. Stretches without an episode count as the one before them.

    Examples:
        >>> steps = 100 * np.arange(1, 31)
        >>> up = np.concatenate([np.linspace(-200.0, 0.0, 7), np.zeros(3)])
        >>> collapsed = fall(steps, np.concatenate([up, np.full(20, -150.0)]))
        >>> collapsed.outcome, collapsed.largest_drop, collapsed.steps_below_half
        ('collapse', 150.0, 2000)
        >>> fall(steps, np.concatenate([up, np.full(5, -150.0), np.zeros(15)])).outcome
        'dip'
    """
    known = np.isfinite(returns)
    if not known.any():
        return Fall(math.nan, math.nan, None, None, None, math.nan, None, None)
    raw, ends = returns[known], steps[known]
    level = smooth(raw)
    scatter = float(np.median(np.abs(np.diff(raw)))) / _NORMAL if len(raw) > 1 else 0.0
    best = np.maximum.accumulate(level)
    way = best - level[0]
    lowest = int(np.argmax(best - level))
    at_best = int(np.flatnonzero(level[: lowest + 1] == best[lowest])[-1])
    drop, span = float(best[lowest] - level[lowest]), float(np.ptp(level))
    share = drop / span if span else 0.0
    counts = drop > _SCATTERS * scatter
    after = float(level[lowest:].max())
    recovered = after >= level[0] + 0.9 * way[lowest]
    outcome: Outcome = "none"
    if counts and share >= 0.5:
        is_half = after >= level[0] + 0.5 * way[lowest]
        outcome = "dip" if recovered else "loss" if is_half else "collapse"
    below = (best - level > _SCATTERS * scatter) & (level < level[0] + way / 2)
    # Each of these points stands for the stretches up to the next, which have no episode.
    stretches = np.diff(steps, prepend=0)
    lengths = np.bincount(np.cumsum(known)[known.argmax() :] - 1, stretches[known.argmax() :])
    return Fall(
        largest_drop=drop,
        largest_drop_share=share,
        drop_from_step=int(ends[at_best]) if counts else None,
        drop_to_step=int(ends[lowest]) if counts else None,
        steps_below_half=int(lengths[below].sum()),
        scatter=scatter,
        recovered=bool(recovered) if counts else None,
        outcome=outcome,
    )


def falls(run: Run) -> list[Fall]:
    """The falls of a run's seeds. A diverged one stays where it falls, at the run's lowest."""
    return [fall(run.steps, returns) for returns in run.known_returns()]


def collapse_rows(runs: Iterable[Run]) -> list[CollapseRow]:
    """A row for each seed of each run.

    Args:
        runs: as `load_runs` gives them.
    """
    return [
        CollapseRow(
            environment=run.task[0],
            backend=run.task[1],
            optimizer=run.label,
            seed=seed,
            **dataclasses.asdict(one),
        )
        for run in runs
        for seed, one in zip(run.config["seeds"], falls(run), strict=True)
    ]


def collapse_notes(runs: Sequence[Run]) -> list[str]:
    """Says which runs hold seeds that collapsed, a sentence for each task.

    Seeds that diverged are left out: tables count them.

    Args:
        runs: as `load_runs` gives them.
    """
    found = []
    for task, group in by_task(runs).items():
        parts = []
        for run in group:
            outcomes = zip(falls(run), run.diverged, strict=True)
            count = sum(one.outcome == "collapse" and not diverged for one, diverged in outcomes)
            if count:
                parts.append(f"{run.label} in {count} of {len(run.diverged)} seeds")
        if parts:
            found.append(
                f"Collapsed on {title_of(*task)}: {', '.join(parts)}. The return fell by half of "
                "its range or more, and by the end had not come back half of the way from its "
                "start to its best."
            )
    return found
