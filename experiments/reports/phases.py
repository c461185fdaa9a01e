r"""What agents do on tasks that change in phases: how well they end each, and what a change costs.

Of a phase of :math:`P` steps and a seed's return :math:`x(t)` at step :math:`t` of the phase, the
mean over a window is weighted by steps:

.. math::
    \bar x(u, v) = \frac{1}{v - u} \int_u^v x(t) \, dt

The end of a phase is :math:`\bar x(0.9 P, P)`, its mean :math:`\bar x(0, P)`, its start
:math:`\bar x(0, 0.1 P)`; the drop after a change is the end of the phase before minus the start.

Runs that start afresh in each phase (`restart` in their settings) say what could be reached in it.
The level is nine tenths of their way up, with bars for means over their seeds,

.. math::
    \ell = \bar x_1 + \tfrac{9}{10} (\bar x_\mathrm{end} - \bar x_1)

and is unknown where they did not get better in the phase. A seed has reached it once the median
over five points does, see `experiments.reports.collapse.smooth`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from experiments.reports import statistics
from experiments.reports.collapse import SeedRow, smooth
from experiments.reports.summary import by_task, estimate
from experiments.runs.parsing import is_restarted
from experiments.runs.reading import Run, without_gaps

Estimate = tuple[float, float, float]  # value, and its interval; NaN where they are unknown
Array = NDArray[np.float64]

UNKNOWN: Estimate = (math.nan, math.nan, math.nan)
_PART = 0.1  # of a phase: its start and its end
_OF_THE_WAY = 0.9

# Columns of phases.csv that need a run that restarts.
RESTART_COLUMNS = (
    *("restart", "restart_gap", "restart_gap_low", "restart_gap_high"),
    *("restart_level", "reached_level", "steps_to_level"),
)


@dataclasses.dataclass(frozen=True)
class PhaseRow(SeedRow):
    """One seed in one phase; the columns of `phases.csv`. NaN and None are unknown.

    Attributes:
        phase: counted from 1.
        drop: after the change that began the phase.
        restart: the run that starts afresh in each phase, with which this one is compared.
        restart_gap: end of the phase, of all seeds together, minus that of the run that restarts:
            the difference of the IQMs over seeds. The same for all seeds of a phase.
        restart_level: what that run reaches.
        reached_level: whether this seed did.
        steps_to_level: since the change; None where it was not reached within the phase.
    """

    phase: int
    end_return: float
    mean_return: float
    drop: float
    restart: str | None
    restart_gap: float
    restart_gap_low: float
    restart_gap_high: float
    restart_level: float
    reached_level: bool | None
    steps_to_level: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class Phases:
    """A run, phase by phase; only phases that it went through to their end.

    There are none where points are too far apart to tell them.

    Attributes:
        run: the run.
        firsts: shape (seeds, phases), the return of the first point of each phase.
        starts: shape (seeds, phases), NaN where no episode was completed in a phase, as below.
        ends: shape (seeds, phases).
        means: shape (seeds, phases).
    """

    run: Run
    firsts: Array
    starts: Array
    ends: Array
    means: Array

    @property
    def count(self) -> int:
        """Number of phases."""
        return self.ends.shape[1]

    @property
    def drops(self) -> Array:
        """After each change, shape (seeds, phases); the first phase has none."""
        before = np.pad(self.ends, ((0, 0), (1, 0)), constant_values=np.nan)[:, : self.count]
        return before - self.starts


def has_phases(run: Run) -> bool:
    """Whether the run's task changes in phases."""
    return run.config.get("phase_steps") is not None


def is_changing(run: Run) -> bool:
    """Whether the run's task changes, in phases or continuously."""
    return has_phases(run) or "evaluation_dynamics" in run.config


def is_resolved(run: Run) -> bool:
    """Whether a run on a changing task has logged at least as many points as phases."""
    return _phases_so_far(run) <= len(run.steps)


def changing_tasks(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs of each task that changes in phases."""
    return list(by_task([run for run in runs if has_phases(run)]).values())


def measure(run: Run) -> Phases:
    """Takes a run apart into phases.

    A stretch belongs to the phase in which most of it lies, and the first and last one of a phase
    reach to its boundaries. A stretch without an episode takes the value of the one before it in
    the same phase, at the beginning of a phase that of the first one with an episode.

    Args:
        run: on a task that changes.
    """
    length = run.config["phase_steps"]
    shape = (len(run.returns), _phases_so_far(run) if is_resolved(run) else 0)
    firsts, starts, ends, means = (np.full(shape, np.nan) for _ in range(4))
    known = run.known_returns()
    for phase in range(shape[1]):
        at, edges = _stretches(run, phase)
        if not len(at):
            continue  # the whole phase lies within a stretch
        returns = without_gaps(known[:, at])
        firsts[:, phase] = returns[:, 0]
        for values, start, end in (
            (starts, 0.0, _PART),
            (ends, 1.0 - _PART, 1.0),
            (means, 0.0, 1.0),
        ):
            bounds = np.clip(edges, start * length, end * length)
            values[:, phase] = returns @ np.diff(bounds) / (bounds[-1] - bounds[0])
    return Phases(run, firsts, starts, ends, means)


def restart_levels(phases: Phases) -> Array:
    """The level that a run sets which starts afresh in each phase; see the module.

    Returns:
        Shape (phases,), NaN where it did not get better.
    """
    first, end = phases.firsts.mean(axis=0), phases.ends.mean(axis=0)
    return np.where(end > first, first + _OF_THE_WAY * (end - first), np.nan)


def steps_to(run: Run, levels: Array) -> Array:
    """After how many steps of each phase the seeds of a run reach a level.

    Args:
        run: on a task that changes.
        levels: shape (phases,), NaN where there is none.

    Returns:
        Shape (seeds, phases): infinite where the level was not reached within the phase, NaN where
        there is none.
    """
    known = run.known_returns()
    steps = np.full((len(known), len(levels)), np.inf)
    for phase, level in enumerate(levels):
        at, edges = _stretches(run, phase)
        for seed, returns in enumerate(known[:, at]):
            seen = np.isfinite(returns)
            reached = smooth(returns[seen]) >= level
            if reached.any():
                steps[seed, phase] = edges[1:][seen][reached.argmax()]
    return np.where(np.isfinite(levels), steps, np.nan)


def restarted_run(run: Run, group: Sequence[Run]) -> Run | None:
    """The run with which another of the same task is compared.

    Args:
        run: on a task that changes.
        group: all runs on the task.

    Returns:
        Of the runs that start afresh in each phase, the first of those that share most with it:
        the other settings before the optimizer; None if there is none.
    """
    length = run.config["phase_steps"]
    alike = [other for other in group if other.config["phase_steps"] == length]
    arms = [other for other in alike if is_restarted(other.config)]
    if not arms or run in arms:
        return run if arms else None

    def shared(arm: Run) -> tuple[bool, bool]:
        same_settings = _but_for_restarts(arm) == _but_for_restarts(run)
        return same_settings, arm.config["optimizer"] == run.config["optimizer"]

    return max(arms, key=shared)


def _but_for_restarts(run: Run) -> dict[str, object]:
    return {**(run.config.get("settings") or {}), "restart": None}


def gap(phases: Phases, restarted: Phases | None, taken: slice) -> Estimate:
    """How much higher a run ends its phases than the one that restarts, with its interval.

    Args:
        phases: of the run.
        restarted: of the run that starts afresh in each phase.
        taken: phases over which each seed's ends are averaged.
    """
    if restarted is None or restarted.run is phases.run:
        return UNKNOWN
    common = slice(None, min(phases.count, restarted.count))
    means = [each.ends[:, common][:, taken] for each in (phases, restarted)]
    if not means[0].size:
        return UNKNOWN
    bounded = not any(each.run.diverged.all() for each in (phases, restarted))
    return estimate(
        (means[0].mean(axis=1), means[1].mean(axis=1)),
        lambda mine, theirs: statistics.iqm(mine) - statistics.iqm(theirs),
        bounded,
    )


def phase_rows(runs: Sequence[Run]) -> list[PhaseRow]:
    """A row for each seed in each phase of each run.

    Args:
        runs: as `load_runs` gives them; those whose tasks do not change have no rows.
    """
    return [row for group in changing_tasks(runs) for run in group for row in _rows(run, group)]


def _rows(run: Run, group: Sequence[Run]) -> Iterable[PhaseRow]:
    phases, arm = measure(run), restarted_run(run, group)
    restarted = None if arm is None else measure(arm)
    levels = levels_for(phases, restarted)
    steps, drops = steps_to(run, levels), phases.drops
    for phase in range(phases.count):
        gaps = gap(phases, restarted, slice(phase, phase + 1))
        for index, seed in enumerate(run.config["seeds"]):
            time = float(steps[index, phase])
            yield PhaseRow(
                environment=run.task[0],
                backend=run.task[1],
                optimizer=run.label,
                seed=seed,
                phase=phase + 1,
                end_return=float(phases.ends[index, phase]),
                mean_return=float(phases.means[index, phase]),
                drop=float(drops[index, phase]),
                restart=None if arm is None else arm.label,
                restart_gap=gaps[0],
                restart_gap_low=gaps[1],
                restart_gap_high=gaps[2],
                restart_level=float(levels[phase]),
                reached_level=None if math.isnan(time) else math.isfinite(time),
                steps_to_level=int(time) if math.isfinite(time) else None,
            )


def levels_for(phases: Phases, restarted: Phases | None) -> Array:
    """The level of each of a run's phases, NaN where there is none; shape (phases,)."""
    levels = np.full(phases.count, np.nan)
    if restarted is not None:
        known = restart_levels(restarted)[: phases.count]
        levels[: len(known)] = known
    return levels


def _phases_so_far(run: Run) -> int:
    """Phases of which less than one learner iteration is missing."""
    if not len(run.steps):
        return 0
    steps, iterations = run.config["steps"], run.config["iterations"]
    return (int(run.steps[-1]) * iterations + steps - 1) // (run.config["phase_steps"] * iterations)


def _stretches(run: Run, phase: int) -> tuple[NDArray[np.int64], Array]:
    """The points of a phase, and the boundaries of their stretches as steps of the phase."""
    length = run.config["phase_steps"]
    edges = np.concatenate([[0], run.steps])
    at = np.flatnonzero((edges[:-1] + edges[1:]) // (2 * length) == phase)
    if not len(at):
        return at, np.zeros(0)
    bounds = edges[at[0] : at[-1] + 2].astype(np.float64) - phase * length
    bounds[0], bounds[-1] = 0.0, length
    return at, bounds
