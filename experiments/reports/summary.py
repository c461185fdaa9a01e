"""Turns runs into numbers, by rules that are stated once.

How a number is made where episodes are missing, seeds diverge or runs are unfinished is stated in
`RULES`, with which every Markdown report ends.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from experiments.reports import files, statistics
from experiments.runs.reading import CIRCUMSTANCES, Run

RULES = (
    "Training return of a point: the mean over the episodes that the training policy completed in "
    "that stretch. A stretch without a completed episode takes the value of the one before it; "
    "stretches before the first completed episode take the first value.",
    "Final return of a seed: the mean over the episodes completed in the last 5% of the steps (in "
    "the stretches that start there, or in the last one), each episode weighing the same. If there "
    "are none, it is the last training return.",
    "AUC of a seed: its training return averaged over all steps, each stretch weighted by its "
    "length.",
    "A seed has diverged once its parameters or its logged return are no longer finite. From that "
    "stretch on, in its final return and in its evaluation, it scores the lowest return that any "
    "seed of the same run logged in training (in the evaluation, if none was logged): it is "
    "counted, never dropped.",
    "IQM is the interquartile mean over seeds (in the aggregate: over seeds and tasks). Intervals "
    "are 95% percentile intervals of the stratified bootstrap, with 2000 resamples of the seeds "
    "within each task. A single seed has no interval, nor has a run all of whose seeds diverged.",
    "Bold is the largest final IQM of a table, among finished runs, if its interval lies above the "
    "second largest. Otherwise nothing is bold.",
    "P(better): the probability that a seed of the optimizer has a higher final return than one of "
    "the first optimizer of the table, ties counting half; 0.5 is no difference. It is given "
    "between finished runs of as many steps.",
    "Evaluation: the mean return over fresh episodes after training. 'Sampled' means that actions "
    "are drawn from the policy, as they are in training; 'greedy' that the most probable action is "
    "taken, which is the mean where actions are continuous.",
    "Aggregate: a score is a final return divided by the return that is published for tuned Adam "
    "on that task, or by the one that was given. With min-max it is (return - lowest) / (highest - "
    "lowest) instead, over the final returns of all seeds of the finished runs reported here.",
    "Steps are environment steps per seed. Seconds are wall time, compilation included; steps per "
    "second count all seeds. Run directories that differ only in their seeds, and have none in "
    "common, are pooled into one run; their seconds are added up.",
    "Unfinished runs are reported up to their last complete point. They are neither set in bold "
    "nor part of the aggregate.",
)

# Keys of config.json that say what is compared, that have notes of their own, or that follow.
_WEIGHTS_KEYS = ("weights_sha256", "actor_weights_sha256", "critic_weights_sha256")
_OPTIMIZER_KEYS = ("resolved_optimizer", "learning_rate", *_WEIGHTS_KEYS)
_OTHER_KEYS = (
    *(
        "format",
        "environment",
        "environment_options",
        "backend",
        "normaliser",
        "optimizer",
        "label",
    ),
    *("steps", "iterations", "seeds"),
    *CIRCUMSTANCES,
)


# Columns of summary.csv that are only there where one of the runs has a value.
OPTIONAL = (
    "improvement_over",
    "improvement_probability",
    "improvement_probability_low",
    "improvement_probability_high",
    "first_evaluation_return_mean",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One run in numbers; the fields are the columns of `summary.csv`. NaN is unknown.

    In the file, `run_directory` is as seen from the file's folder.
    """

    environment: str  # with its options, NAME[:key=value,...]
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
    improvement_over: str | None  # the first of the table; None of that itself
    improvement_probability: float
    improvement_probability_low: float
    improvement_probability_high: float
    evaluation_return_mean: float
    first_evaluation_return_mean: float  # of a changing task, in the dynamics it began with
    evaluation_actions: str
    wall_seconds: float
    steps_per_second: float
    run_directory: str


def summarise(runs: Sequence[Run]) -> list[Row]:
    """Turns each run into a row of numbers, by the rules in `RULES`.

    Args:
        runs: as `load_runs` gives them.

    Returns:
        Rows in the order of the runs, grouped by task.

    Examples:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from experiments.runs.reading import Run
        >>> config = {"environment": "Catch", "environment_options": {}, "backend": None,
        ...           "learning_rate": 0.1, "seeds": [0, 1], "steps": 200, "iterations": 2,
        ...           "evaluation_actions": "sampled", "normaliser": None}
        >>> run = Run(Path("runs/catch"), config, "adam", steps=np.array([100, 200]),
        ...           returns=np.array([[0.0, 1.0], [1.0, np.nan]]),
        ...           episodes=np.array([[9, 9], [9, 0]]), diverged_from=np.array([2, 2]),
        ...           evaluation=None, seconds=4.0)
        >>> (row,) = summarise([run])
        >>> row.final_return_mean, row.auc_return_mean, row.steps_per_second
        (1.0, 0.75, 100.0)
    """
    return [_row(run, group[0]) for group in by_task(runs).values() for run in group]


def notes(rows: Sequence[Row]) -> list[str]:
    """Says what a reader must know before comparing rows.

    Args:
        rows: as `summarise` gives them.

    Returns:
        Sentences on unfinished runs, on seeds without an episode or all diverged, on runs that
        share a name, and on optimizers of one task that differ in seeds or steps.
    """
    found = []
    for title, group in by_title(rows):
        for row in group:
            if not row.finished:
                progress = f"{row.points} of {row.planned_points} points"
                progress = progress if row.points else "nothing is logged yet"
                found.append(f"{row.optimizer} on {title} is unfinished: {progress}.")
            if row.points and math.isnan(row.final_return_mean):
                evaluated = not math.isnan(row.evaluation_return_mean)
                found.append(
                    f"{row.optimizer} on {title} has seeds that completed no episode in training: "
                    "its training returns are unknown"
                    + (", only its evaluation is known." if evaluated else ".")
                )
            if row.diverged_seeds == row.seeds:
                found.append(
                    f"All seeds of {row.optimizer} on {title} diverged: it has no intervals."
                )
            found += directory_notes(
                row.optimizer, f"{row.optimizer} on {title}", row.run_directory
            )
        if len({row.seed_list for row in group}) > 1:
            seeds = (f"{row.optimizer} {' '.join(map(str, row.seed_list))}" for row in group)
            found.append(f"Seeds differ on {title}: {'; '.join(seeds)}.")
        if len({row.planned_steps_per_seed for row in group}) > 1:
            steps = (f"{row.optimizer} {row.planned_steps_per_seed:,}" for row in group)
            found.append(f"Steps differ on {title}: {'; '.join(steps)}.")
    return found


def directory_notes(label: str, name: str, directory: str) -> list[str]:
    """Says where a row comes from, if it is pooled or if `load_runs` had to number it.

    Args:
        label: of the optimizer.
        name: of the row in a sentence.
        directory: the row's.
    """
    if files.is_pooled(directory):
        return [f"{name} is pooled from the runs in {directory}."]
    if re.search(r" \(\d+\)$", label):
        return [f"{name} is the run in {directory}."]
    return []


def label_notes(runs: Sequence[Run]) -> list[str]:
    """Says which optimizers the users' own names stand for.

    Args:
        runs: in the report.
    """
    named = (run for run in runs if run.config["label"] is not None)
    return list(dict.fromkeys(f"{run.label} is {run.config['optimizer']}." for run in named))


def training_notes(runs: Sequence[Run]) -> list[str]:
    """Says on which tasks the weights of learned optimizers were meta-trained, where they say it.

    Args:
        runs: in the report.
    """
    found: dict[str, None] = {}
    for run in runs:
        try:
            with safe_open(run.directories[0] / "weights.safetensors", framework="numpy") as file:
                tasks = (file.metadata() or {}).get("training_tasks", "").split()
        except (OSError, SafetensorError):
            continue  # it is not learned, or the file is not there or damaged
        if tasks:
            found[f"{run.label} was meta-trained on {', '.join(tasks)}."] = None
    return list(found)


def setting_notes(title: str, runs: Sequence[Run]) -> list[str]:
    """Says in what the runs of one table differ, apart from what is compared.

    What the optimizers' names stand for counts only between runs that share a name.

    Args:
        title: of the table.
        runs: in the table.

    Returns:
        A sentence for each key of `config.json` that differs.
    """
    found = []
    configs = {run.label: _flat(run.config) for run in runs}
    for key in dict.fromkeys(key for config in configs.values() for key in config):
        if key not in _OPTIMIZER_KEYS:
            found += _difference(title, key, configs)
    for name in dict.fromkeys(run.config["optimizer"] for run in runs):
        namesakes = {run.label: run.config for run in runs if run.config["optimizer"] == name}
        for key in _OPTIMIZER_KEYS:
            found += _difference(title, key, namesakes)
    return found


def _difference(title: str, key: str, configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence on the values of a key, if they differ; the most frequent one comes last."""
    labels: dict[str, list[str]] = {}
    for label, config in configs.items():
        text = json.dumps(config[key]) if key in config else "not recorded"
        labels.setdefault(text, []).append(label)
    if len(labels) < 2:
        return []
    *rare, (text, most) = sorted(labels.items(), key=lambda item: len(item[1]))
    parts = ", ".join(f"{text} for {', '.join(those)}" for text, those in rare)
    rest = "all others" if len(most) > 1 else most[0]
    return [f"On {title}, {key} is {parts} and {text} for {rest}."]


def provenance(runs: Sequence[Run]) -> list[str]:
    """Versions and revisions, or a warning that they differ between runs."""
    found = []
    parts = [part for run in runs for part in run.parts or (run,)]
    for key, one, several in (
        ("versions", "Versions", "Versions"),
        ("git_revision", "Revision", "Revisions"),
    ):
        values = {json.dumps(part.config.get(key), sort_keys=True) for part in parts}
        if len(values) > 1:
            found.append(f"{several} differ between runs: see each config.json.")
        elif isinstance(value := parts[0].config.get(key), dict):
            found.append(f"{one}: {', '.join(f'{k} {v}' for k, v in sorted(value.items()))}.")
        elif value:
            found.append(f"{one}: {value}.")
    if len({json.dumps(part.config.get("machine"), sort_keys=True) for part in parts}) > 1:
        found.append("Machines differ between runs: their steps per second cannot be compared.")
    return found


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


def _row(run: Run, first: Run) -> Row:
    final, auc = run.final_returns(), run.mean_returns()
    bounded = not run.diverged.all()
    iqm, iqm_low, iqm_high = estimate((final,), statistics.iqm, bounded)
    auc_mean, auc_low, auc_high = estimate((auc,), statistics.mean, bounded)
    better, better_low, better_high = _improvement(run, first)
    done = int(run.steps[-1]) if len(run.steps) else 0
    seeds = run.config["seeds"]
    return Row(
        environment=run.task[0],
        backend=run.task[1],
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
        improvement_over=None if run is first else first.label,
        improvement_probability=better,
        improvement_probability_low=better_low,
        improvement_probability_high=better_high,
        evaluation_return_mean=float(run.evaluation_returns().mean()),
        first_evaluation_return_mean=float(run.first_evaluation_returns().mean()),
        evaluation_actions=run.config["evaluation_actions"],
        wall_seconds=run.seconds,
        steps_per_second=len(seeds) * done / run.seconds if run.seconds else math.nan,
        run_directory=files.names_of(run.directories),
    )


def _improvement(run: Run, first: Run) -> tuple[float, float, float]:
    """Probability that a run beats the first one of its table, with the ends of its interval."""
    equal = run.config["steps"] == first.config["steps"]
    if run is first or not (equal and run.finished and first.finished):
        return math.nan, math.nan, math.nan
    scores = run.final_returns(), first.final_returns()
    bounded = not (run.diverged.all() or first.diverged.all())
    return estimate(scores, statistics.probability_of_improvement, bounded)


def estimate(
    arrays: tuple[NDArray[np.float64], ...],
    statistic: Callable[..., statistics.Array],
    bounded: bool = True,
) -> tuple[float, float, float]:
    """Value and interval of a statistic; NaN where a score is unknown.

    Args:
        arrays: scores, see `statistics.stratified_bootstrap`.
        statistic: of them.
        bounded: whether there is an interval. Where all seeds have diverged there is none: they all
            score the same, which says nothing of their spread.
    """
    if not all(np.isfinite(array).all() for array in arrays):
        return math.nan, math.nan, math.nan
    value = float(statistic(*arrays))
    if not bounded:
        return value, math.nan, math.nan
    low, high = statistics.stratified_bootstrap(arrays, statistic)
    return value, float(low), float(high)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the keys of mappings in it joined by dots, but for what has a note."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if key in _OTHER_KEYS:
            continue
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": leaf for inner, leaf in value.items()}
        else:
            flat[key] = value
    return flat
