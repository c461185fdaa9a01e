"""Compares optimizers over several tasks, by returns that are normalised so that they compare."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from experiments.reports import statistics
from experiments.reports.summary import by_task, estimate, title_of
from experiments.runs.reading import Run

Normalisers = Mapping[str, float] | Literal["min-max"]
"""What final returns are divided by, by task as tables call it; or each task's own range."""


@dataclasses.dataclass(frozen=True)
class AggregateRow:
    """One optimizer over all tasks with normalised returns; the columns of `aggregate.csv`."""

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


def aggregate(runs: Sequence[Run], normalisers: Normalisers | None = None) -> list[AggregateRow]:
    """Compares optimizers over all tasks whose returns can be normalised.

    Optimizers count if they finished on every such task, with the same number of seeds.

    Args:
        runs: as `load_runs` gives them.
        normalisers: what final returns are divided by, as `read_normalisers` gives it; by default,
            what is published.

    Returns:
        A row per optimizer; the probability of improvement is over the first of them. Empty where
        the returns of fewer than two tasks can be normalised, or no optimizer counts.

    Raises:
        ValueError: a task is named that no run has, or a return is not positive.
    """
    scored = normalised_scores(runs, normalisers)
    first = next(iter(scored.scores), "")
    unknown = (math.nan, math.nan, math.nan)

    def of(labels: tuple[str, ...], statistic: Any) -> tuple[float, float, float]:
        arrays = tuple(scored.scores[label] for label in labels)
        return estimate(arrays, statistic, bounded=not scored.diverged & set(labels))

    return [
        AggregateRow(
            label,
            tuple(scored.scales),
            len(array),
            *of((label,), statistics.iqm),
            *of((label,), statistics.optimality_gap),
            first,
            *(
                unknown  # over itself
                if label == first
                else of((label, first), statistics.probability_of_improvement)
            ),
        )
        for label, array in scored.scores.items()
    ]


def read_normalisers(texts: Sequence[str]) -> Normalisers | None:
    """Reads what `--normalisers` is given.

    Args:
        texts: `TASK=RETURN` each, with tasks as tables call them, or `min-max` alone.

    Returns:
        What `aggregate` takes; None if there are no texts.

    Raises:
        ValueError: if one is neither, or a task is given twice.

    Examples:
        >>> read_normalisers(["CartPole-v1=500", "ant (spring)=4000"])
        {'CartPole-v1': 500.0, 'ant (spring)': 4000.0}
        >>> read_normalisers(["min-max"])
        'min-max'
    """
    if list(texts) == ["min-max"]:
        return "min-max"
    found: dict[str, float] = {}
    for text in texts:
        task, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not task or math.isnan(value):
            raise ValueError(
                f"--normalisers must be TASK=RETURN for one task or more, or min-max alone; "
                f"got {text!r}."
            )
        if task in found:
            raise ValueError(f"--normalisers names {task!r} twice.")
        found[task] = value
    return found or None


def _check(normalisers: Mapping[str, float], tasks: Iterable[str]) -> None:
    for task, value in normalisers.items():
        if task not in tasks:
            raise ValueError(
                f"normalisers must name tasks of the runs, {', '.join(tasks)}; got {task!r}."
            )
        if not 0 < value < math.inf:
            raise ValueError(
                f"normalisers must be positive numbers, or min-max for all tasks; got {value!r} "
                f"for {task!r}."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Scored:
    """Scores on several tasks.

    Attributes:
        scales: by task, the returns whose scores are 0 and 1.
        scores: by optimizer, shape (seeds, tasks).
        diverged: optimizers all of whose seeds diverged on some task.
        notes: sentences on tasks and optimizers that are left out.
    """

    scales: Mapping[str, tuple[float, float]]
    scores: Mapping[str, NDArray[np.float64]]
    diverged: frozenset[str]
    notes: Sequence[str]


def normalised_scores(runs: Sequence[Run], normalisers: Normalisers | None = None) -> Scored:
    """Normalises the final returns of the optimizers that count; for the arguments see `aggregate`.

    Raises:
        ValueError: a task is named that no run has, or a return is not positive.
    """
    groups = {title_of(*task): group for task, group in by_task(runs).items()}
    if normalisers != "min-max":
        _check(normalisers or {}, groups)
    scales = {title: _scale(title, group, normalisers) for title, group in groups.items()}
    known = {title: scale for title, scale in scales.items() if scale is not None}
    found = _missing_scales(scales, normalisers)
    if len(known) < 2:
        return Scored({}, {}, frozenset(), found)
    by_label = {title: {run.label: run for run in groups[title]} for title in known}
    scores, diverged = {}, set()
    left_out: dict[str, list[str]] = {}  # optimizers by the reason
    for label in dict.fromkeys(label for group in by_label.values() for label in group):
        members = {title: group[label] for title, group in by_label.items() if label in group}
        finals = {title: run.final_returns() for title, run in members.items()}
        if len(members) < len(known):
            reason = "no run on some of the tasks"
        elif not all(run.finished for run in members.values()):
            reason = "unfinished"
        elif len({len(final) for final in finals.values()}) > 1:
            reason = "not the same number of seeds on all tasks"
        elif not all(np.isfinite(final).all() for final in finals.values()):
            reason = "seeds without a completed episode"
        else:
            columns = [(finals[title] - low) / (high - low) for title, (low, high) in known.items()]
            scores[label] = np.column_stack(columns)
            if any(run.diverged.all() for run in members.values()):
                diverged.add(label)
            continue
        left_out.setdefault(reason, []).append(label)
    found += [
        f"Not in the aggregate: {', '.join(labels)} ({reason})."
        for reason, labels in left_out.items()
    ]
    if not scores:
        found.append("There is no aggregate: no optimizer is left.")
    return Scored(known, scores, frozenset(diverged), found)


def _scale(
    title: str, group: Sequence[Run], normalisers: Normalisers | None
) -> tuple[float, float] | None:
    """The returns that count as 0 and as 1 on a task; None if they are unknown."""
    if normalisers == "min-max":
        finals = np.array([x for run in group if run.finished for x in run.final_returns()])
        finals = finals[np.isfinite(finals)]
        low, high = (finals.min(), finals.max()) if finals.size else (0.0, 0.0)
        return (float(low), float(high)) if high > low else None
    given = (normalisers or {}).get(title)
    published = [run.config["normaliser"] for run in group]
    if given is None and None in published:
        return None
    return 0.0, published[0] if given is None else given


def _missing_scales(
    scales: Mapping[str, tuple[float, float] | None], normalisers: Normalisers | None
) -> list[str]:
    """Says which of several tasks have no normalised returns, and what would give them."""
    missing = [title for title, scale in scales.items() if scale is None]
    if len(scales) < 2 or not missing:
        return []
    them = ", ".join(missing)
    if normalisers == "min-max":
        reason, cure = f"min-max needs final returns that differ from each other on {them}", ""
    else:
        reason = f"no return to divide by is published for {them}"
        texts = " ".join(f"'{title}=RETURN'" for title in missing)
        cure = f"; give --normalisers {texts}, or --normalisers min-max"
    left = len(scales) - len(missing)
    what = f"Not in the aggregate: {them}" if left > 1 else "There is no aggregate"
    return [f"{what}: {reason}{cure}."]
