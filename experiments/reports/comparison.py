"""Optimizers against baselines on the same seeds: paired differences and how likely they win."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.reports import statistics
from experiments.reports.summary import estimate
from experiments.reports.tables import interval

ALL, ALL_SETTINGS = "all tasks", "all settings"


@dataclasses.dataclass(frozen=True)
class Returns:
    """What was lived on one task in one setting.

    Attributes:
        setting: how agents lived.
        task: the environment.
        chosen: by baseline, what was chosen for it.
        returns: by optimizer, shape (seeds,), the same seeds for all; NaN where a life diverged.
        scale: what returns are divided by where tasks are put together: what the first baseline
            earned while it was tuned.
    """

    setting: str
    task: str
    chosen: Mapping[str, str]
    returns: Mapping[str, np.ndarray]
    scale: float


@dataclasses.dataclass(frozen=True)
class Row:
    """An optimizer against a baseline, with 95 % bootstrap intervals.

    Attributes:
        setting: how agents lived, or `ALL_SETTINGS`.
        task: the environment, or `ALL`: returns are then divided by each task's scale.
        optimizer: what is compared.
        baseline: with what.
        chosen: what was chosen for the baseline; empty for several tasks.
        mean: of the optimizer's returns.
        iqm: their interquartile mean.
        baseline_mean: of the baseline's.
        baseline_iqm: likewise.
        difference: mean of the optimizer's return minus the baseline's on the same seed.
        improvement: probability that a run of the optimizer is better than one of the baseline.
        diverged: lives of the optimizer that diverged, and count as the worst return of their task.
        verdict: 'better' or 'worse' where the difference's interval excludes 0.
    """

    setting: str
    task: str
    optimizer: str
    baseline: str
    chosen: str
    mean: float
    mean_low: float
    mean_high: float
    iqm: float
    iqm_low: float
    iqm_high: float
    baseline_mean: float
    baseline_mean_low: float
    baseline_mean_high: float
    baseline_iqm: float
    baseline_iqm_low: float
    baseline_iqm_high: float
    difference: float
    difference_low: float
    difference_high: float
    improvement: float
    improvement_low: float
    improvement_high: float
    diverged: int
    verdict: str


def comparison(found: Sequence[Returns]) -> list[Row]:
    """Every optimizer against every baseline, and every later baseline against the earlier ones.

    Args:
        found: of all tasks in all settings.

    Returns:
        For each setting, optimizer and baseline a row for each task and, if there are several
        tasks, one for all; then, if there are several settings, one for all tasks in all of them.
    """
    names, baselines = list(found[0].returns), list(found[0].chosen)
    # Baselines stand before all others.
    pairs = [(name, other) for place, name in enumerate(names) for other in baselines[:place]]
    settings = {each.setting: [x for x in found if x.setting == each.setting] for each in found}
    rows = []
    for of_setting in settings.values():
        for pair in pairs:
            rows += [_row([each], *pair) for each in of_setting]
            if len(of_setting) > 1:
                rows.append(_row(of_setting, *pair))
    return rows + [_row(found, *pair) for pair in pairs if len(settings) > 1]


def _row(found: Sequence[Returns], name: str, baseline: str) -> Row:
    several = len(found) > 1
    ours: list[np.ndarray] = []
    theirs: list[np.ndarray] = []
    diverged = 0
    for each in found:
        known = np.concatenate(list(each.returns.values()))
        known = known[np.isfinite(known)]
        worst = float(known.min()) if len(known) else 0.0
        scale = each.scale if several and each.scale > 0.0 else 1.0
        for columns, returns in ((ours, each.returns[name]), (theirs, each.returns[baseline])):
            columns.append(np.where(np.isfinite(returns), returns, worst) / scale)
        diverged += int(np.count_nonzero(~np.isfinite(each.returns[name])))
    x, y = np.stack(ours, axis=1), np.stack(theirs, axis=1)
    difference = estimate((x - y,), statistics.mean)
    return Row(
        found[0].setting if len({each.setting for each in found}) == 1 else ALL_SETTINGS,
        ALL if several else found[0].task,
        name,
        baseline,
        "" if several else found[0].chosen[baseline],
        *estimate((x,), statistics.mean),
        *estimate((x,), statistics.iqm),
        *estimate((y,), statistics.mean),
        *estimate((y,), statistics.iqm),
        *difference,
        *estimate((x, y), statistics.probability_of_improvement),
        diverged,
        "better" if difference[1] > 0.0 else "worse" if difference[2] < 0.0 else "",
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| setting | task | optimizer | mean [95 %] | IQM [95 %] | baseline | mean [95 %] "
        "| IQM [95 %] | paired difference [95 %] | probability of improvement [95 %] | |",
        "|---|---|---|---:|---:|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        largest = max(abs(row.mean), abs(row.baseline_mean))
        places = 0 if largest >= 100.0 else 1 if largest >= 20.0 else 2
        ours, iqm, theirs, their_iqm, difference = (
            _cell(value, low, high, places)
            for value, low, high in (
                (row.mean, row.mean_low, row.mean_high),
                (row.iqm, row.iqm_low, row.iqm_high),
                (row.baseline_mean, row.baseline_mean_low, row.baseline_mean_high),
                (row.baseline_iqm, row.baseline_iqm_low, row.baseline_iqm_high),
                (row.difference, row.difference_low, row.difference_high),
            )
        )
        likely = _cell(row.improvement, row.improvement_low, row.improvement_high, 2)
        diverged = f", {row.diverged} diverged" if row.diverged else ""
        chosen = f", `{row.chosen}`" if row.chosen else ""
        lines.append(
            f"| {row.setting} | {row.task} | {row.optimizer}{diverged} | {ours} | {iqm} "
            f"| {row.baseline}{chosen} | {theirs} | {their_iqm} | {difference} | {likely} "
            f"| {row.verdict} |"
        )
    return "\n".join(lines) + "\n"


def _cell(value: float, low: float, high: float, places: int) -> str:
    return "" if math.isnan(value) else f"{value:.{places}f} {interval(low, high, places)}"
