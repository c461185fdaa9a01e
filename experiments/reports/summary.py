"""Turns runs into numbers, by rules that are said once.

How a number is made where episodes are missing, seeds diverge or runs are unfinished is said in
`RULES`, which ends every Markdown report.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from experiments.reports import statistics
from experiments.runs.reading import Run

RULES = (
    "Training return of a point: the mean over the episodes that the training policy completed in "
    "that stretch. A stretch without a completed episode carries the last value forward; before "
    "the first completed episode, the first value is carried back.",
    "Final return of a seed: the mean over the episodes completed in the last 5% of the steps "
    "(the stretches that start there, at least the last one), each episode weighing the same; if "
    "there is none, the last value carried forward.",
    "AUC of a seed: its training return averaged over all steps, each stretch weighing its length.",
    "A seed has diverged once its parameters or its logged return stop being finite. From that "
    "stretch on, in its final return and in its evaluation, it scores the lowest return that any "
    "seed of the same run logged in training: it is counted, never dropped.",
    "IQM is the interquartile mean over seeds (in the aggregate: over seeds and environments). "
    "Intervals are 95% percentile intervals of the stratified bootstrap, 2000 resamples of the "
    "seeds within each environment. A single seed has no interval.",
    "Evaluation is the mean return over fresh episodes after training. Steps are environment steps "
    "per seed. Seconds are wall time, compilation included; steps per second count all seeds.",
    "Unfinished runs are reported up to their last complete point, and are neither marked best nor "
    "part of the aggregate.",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One run in numbers; the fields are the columns of `summary.csv`. NaN is unknown."""

    environment: str
    backend: str | None
    optimizer: str
    learning_rate: float | None
    seeds: int
    seed_list: tuple[int, ...]
    diverged_seeds: int
    steps_per_seed: int
    planned_steps_per_seed: int
    points: int
    planned_points: int
    finished: bool
    final_return_mean: float
    final_return_iqm: float
    final_return_iqm_low: float
    final_return_iqm_high: float
    auc_return_mean: float
    auc_return_mean_low: float
    auc_return_mean_high: float
    evaluation_return_mean: float
    wall_seconds: float
    steps_per_second: float
    run_directory: str


@dataclasses.dataclass(frozen=True)
class AggregateRow:
    """One optimizer over all normalised environments; the columns of `aggregate.csv`."""

    optimizer: str
    environments: tuple[str, ...]
    seeds: int
    normalised_iqm: float
    normalised_iqm_low: float
    normalised_iqm_high: float
    optimality_gap: float
    optimality_gap_low: float
    optimality_gap_high: float
    improvement_over: str
    improvement_probability: float
    improvement_probability_low: float
    improvement_probability_high: float


def summarise(runs: Sequence[Run]) -> list[Row]:
    """Turns each run into a row of numbers, by the rules in `RULES`.

    Args:
        runs: as `load_runs` gives them.

    Returns:
        Rows in the order of the runs, grouped by environment and backend.

    Examples:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from experiments.runs.reading import Run
        >>> config = {"environment": "Catch", "backend": None, "learning_rate": 0.1,
        ...           "seeds": [0, 1], "steps": 200, "iterations": 2, "normaliser": None}
        >>> run = Run(Path("runs/catch"), config, "adam", steps=np.array([100, 200]),
        ...           returns=np.array([[0.0, 1.0], [1.0, np.nan]]),
        ...           episodes=np.array([[9, 9], [9, 0]]), diverged_from=np.array([2, 2]),
        ...           evaluation=None, seconds=4.0)
        >>> (row,) = summarise([run])
        >>> row.final_return_mean, row.auc_return_mean, row.steps_per_second
        (1.0, 0.75, 100.0)
    """
    return [_row(run) for group in by_task(runs).values() for run in group]


def aggregate(runs: Sequence[Run]) -> list[AggregateRow]:
    """Compares optimizers over all environments that have a normaliser.

    A score is the final return divided by the environment's normaliser. Optimizers count if they
    finished on every such environment, with the same number of seeds.

    Args:
        runs: as `load_runs` gives them.

    Returns:
        A row per optimizer; the probability of improvement is over the first of them. Empty where
        fewer than two environments have a normaliser, or no optimizer counts.
    """
    environments, scores, _ = normalised_scores(runs)
    first = next(iter(scores), "")
    unknown = (math.nan, math.nan, math.nan)
    return [
        AggregateRow(
            label,
            environments,
            len(array),
            *estimate((array,), statistics.iqm),
            *estimate((array,), statistics.optimality_gap),
            first,
            *(
                unknown  # over itself
                if label == first
                else estimate((array, scores[first]), statistics.probability_of_improvement)
            ),
        )
        for label, array in scores.items()
    ]


def notes(rows: Sequence[Row]) -> list[str]:
    """Says what a reader must know before comparing rows.

    Args:
        rows: as `summarise` gives them.

    Returns:
        Sentences on unfinished runs, on seeds without an episode, on runs that share a name, and
        on optimizers of one environment that differ in seeds or steps.
    """
    found = []
    for title, group in by_title(rows):
        for row in group:
            if not row.finished:
                progress = f"{row.points} of {row.planned_points} points"
                progress = progress if row.points else "nothing is logged yet"
                found.append(f"{row.optimizer} on {title} is unfinished: {progress}.")
            if row.points and math.isnan(row.final_return_mean):
                found.append(
                    f"{row.optimizer} on {title} has seeds that completed no episode: its returns "
                    "are unknown."
                )
            if re.search(r" \(\d+\)$", row.optimizer):  # numbered by load_runs
                found.append(f"{row.optimizer} on {title} is the run in {row.run_directory}.")
        if len({row.seed_list for row in group}) > 1:
            seeds = (f"{row.optimizer} {' '.join(map(str, row.seed_list))}" for row in group)
            found.append(f"Seeds differ on {title}: {'; '.join(seeds)}.")
        if len({row.planned_steps_per_seed for row in group}) > 1:
            steps = (f"{row.optimizer} {row.planned_steps_per_seed:,}" for row in group)
            found.append(f"Steps differ on {title}: {'; '.join(steps)}.")
    return found


def provenance(runs: Sequence[Run]) -> list[str]:
    """Versions and revisions, or a warning that they differ between runs."""
    found = []
    for key, name in (("versions", "Versions"), ("git_revision", "Revision")):
        values = {json.dumps(run.config.get(key), sort_keys=True) for run in runs}
        if len(values) > 1:
            found.append(f"{name} differ between runs: see each config.json.")
        elif isinstance(value := runs[0].config.get(key), dict):
            found.append(f"{name}: {', '.join(f'{k} {v}' for k, v in sorted(value.items()))}.")
        elif value:
            found.append(f"{name}: {value}.")
    if len({json.dumps(run.config.get("machine"), sort_keys=True) for run in runs}) > 1:
        found.append("Machines differ between runs: their steps per second do not compare.")
    return found


def normalised_scores(
    runs: Sequence[Run],
) -> tuple[tuple[str, ...], dict[str, NDArray[np.float64]], list[str]]:
    """Environments, final returns over normalisers (seeds, environments), and who is left out."""
    groups = {
        task: {run.label: run for run in group}
        for task, group in by_task(runs).items()
        if all(run.config["normaliser"] is not None for run in group)
    }
    if len(groups) < 2:
        return (), {}, []
    scores, left_out = {}, []
    for label in dict.fromkeys(label for group in groups.values() for label in group):
        members = [group[label] for group in groups.values() if label in group]
        if len(members) < len(groups):
            reason = "not every normalised environment has it"
        elif not all(run.finished for run in members):
            reason = "it is unfinished"
        elif len({len(run.returns) for run in members}) > 1:
            reason = "its number of seeds differs between environments"
        elif not all(np.isfinite(run.final_returns()).all() for run in members):
            reason = "seeds of it completed no episode"
        else:
            columns = [run.final_returns() / run.config["normaliser"] for run in members]
            scores[label] = np.column_stack(columns)
            continue
        left_out.append(f"{label} is left out of the aggregate: {reason}.")
    return tuple(title_of(*task) for task in groups), scores, left_out


def by_task(runs: Sequence[Run]) -> dict[tuple[str, str | None], list[Run]]:
    """Groups runs whose returns compare, in the order of their first ones."""
    groups: dict[tuple[str, str | None], list[Run]] = {}
    for run in runs:
        groups.setdefault(run.task, []).append(run)
    return groups


def title_of(environment: str, backend: str | None) -> str:
    """What a group of runs is called, e.g. `ant (spring)`."""
    return environment if backend is None else f"{environment} ({backend})"


def by_title(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Groups rows as `by_task` groups runs, with a title for each group."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(title_of(row.environment, row.backend), []).append(row)
    return list(groups.items())


def _row(run: Run) -> Row:
    final, auc = run.final_returns(), run.mean_returns()
    iqm, iqm_low, iqm_high = estimate((final,), statistics.iqm)
    auc_mean, auc_low, auc_high = estimate((auc,), statistics.mean)
    done = int(run.steps[-1]) if len(run.steps) else 0
    seeds = run.config["seeds"]
    return Row(
        environment=run.config["environment"],
        backend=run.config["backend"],
        optimizer=run.label,
        learning_rate=run.config["learning_rate"],
        seeds=len(seeds),
        seed_list=tuple(seeds),
        diverged_seeds=int(run.diverged.sum()),
        steps_per_seed=done,
        planned_steps_per_seed=run.config["steps"],
        points=len(run.steps),
        planned_points=run.planned_points,
        finished=run.finished,
        final_return_mean=float(final.mean()),
        final_return_iqm=iqm,
        final_return_iqm_low=iqm_low,
        final_return_iqm_high=iqm_high,
        auc_return_mean=auc_mean,
        auc_return_mean_low=auc_low,
        auc_return_mean_high=auc_high,
        evaluation_return_mean=float(run.evaluation_returns().mean()),
        wall_seconds=run.seconds,
        steps_per_second=len(seeds) * done / run.seconds if run.seconds else math.nan,
        run_directory=run.path.as_posix(),
    )


def estimate(
    arrays: tuple[NDArray[np.float64], ...], statistic: Callable[..., statistics.Array]
) -> tuple[float, float, float]:
    """Value and interval of a statistic; NaN where a score is unknown."""
    if not all(np.isfinite(array).all() for array in arrays):
        return math.nan, math.nan, math.nan
    low, high = statistics.stratified_bootstrap(arrays, statistic)
    return float(statistic(*arrays)), float(low), float(high)
