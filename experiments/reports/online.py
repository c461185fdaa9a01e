"""Reports runs of agents in environments: what each optimizer returned."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from experiments.reports import figures, tables
from experiments.reports.summary import (
    RULES,
    AggregateRow,
    Row,
    aggregate,
    by_task,
    by_title,
    normalised_scores,
    notes,
    provenance,
    summarise,
    title_of,
)
from experiments.runs.reading import Run

_PUBLISHED_STEPS = 10_000_000  # the steps after which the published returns were reached


def print_report(runs: Sequence[Run], console: Console) -> None:
    """Prints a table per environment, one of the aggregate, and notes, to be read at 80 columns.

    Args:
        runs: as `load_runs` gives them.
        console: where to print.
    """
    print_rows(summarise(runs), console, aggregate(runs))


def print_rows(
    rows: Sequence[Row], console: Console, aggregates: Sequence[AggregateRow] = ()
) -> None:
    """Prints what `print_report` does.

    Args:
        rows: as `summarise` gives them.
        console: where to print.
        aggregates: as `aggregate` gives them.
    """
    for title, group in by_title(rows):
        steps = {row.planned_steps_per_seed for row in group}
        if len(steps) == 1:
            title += f", {steps.pop():,} steps"
        hidden = {"Final mean", "AUC 95%", "Wall s"}
        if not any(row.diverged_seeds for row in group):
            hidden.add("Div.")
        if all(row.finished for row in group):
            hidden.add("Points")
        tables.print_table(console, title, [_cells(row, group) for row in group], hidden)
    if aggregates:
        title = f"{len(aggregates[0].environments)} environments, returns normalised"
        tables.print_table(
            console, title, [_aggregate_cells(row, aggregates) for row in aggregates], {"Gap 95%"}
        )
    for note in notes(rows):
        console.print(Text(note), style="dim")


def write_report(runs: Sequence[Run], out_dir: str | os.PathLike[str]) -> list[Path]:
    """Writes tables and figures, each file replaced whole or not at all.

    Args:
        runs: as `load_runs` gives them.
        out_dir: directory to write into; made where it is missing.

    Returns:
        The files written: `summary.csv`, `summary.md`; `curves.png` and `curves.svg` unless no
        run has returns yet; `aggregate.csv`, `profiles.png` and `profiles.svg` where `aggregate`
        has rows. The same runs give the same bytes.

    Raises:
        ValueError: there are no runs.
    """
    if not runs:
        raise ValueError("runs must hold at least one run, got none.")
    rows, aggregates = summarise(runs), aggregate(runs)
    _, scores, left_out = normalised_scores(runs)
    contents: dict[str, bytes] = {"summary.csv": tables.csv_bytes(rows)}
    panels = _panels(runs)
    if panels:
        contents |= tables.image_files("curves", figures.learning_curves(panels))
    if aggregates:
        contents["aggregate.csv"] = tables.csv_bytes(aggregates)
        contents |= tables.image_files("profiles", figures.performance_profiles(scores))
    markdown = _markdown(rows, aggregates, [*notes(rows), *left_out, *provenance(runs)], contents)
    contents["summary.md"] = markdown.encode()

    return tables.write_files(out_dir, contents)


def _panels(runs: Sequence[Run]) -> list[figures.Panel]:
    panels = []
    for (environment, backend), group in by_task(runs).items():
        drawn = [run for run in group if len(run.steps) and np.isfinite(run.curves()).all()]
        published = [
            run.config["normaliser"]
            for run in drawn
            if run.config["normaliser"] is not None
            and abs(run.config["steps"] - _PUBLISHED_STEPS) <= 0.01 * _PUBLISHED_STEPS
        ]
        if drawn:
            curves = [figures.Curve(run.label, run.steps, run.curves()) for run in drawn]
            reference = published[0] if published else None
            panels.append(figures.Panel(title_of(environment, backend), curves, reference))
    return panels


def _cells(row: Row, group: Sequence[Row]) -> tuple[dict[str, str], bool]:
    """A row's cells by column, and whether it is the best of its environment."""
    places = tables.decimals_for(
        value
        for r in group
        for value in (r.final_return_mean, r.final_return_iqm, r.auc_return_mean)
    )
    number = functools.partial(tables.number, decimals=places)
    cells = {
        "Optimizer": row.optimizer,
        "LR": tables.NONE if row.learning_rate is None else f"{row.learning_rate:g}",
        "Seeds": str(row.seeds),
        "Div.": str(row.diverged_seeds),
        "Points": f"{row.points}/{row.planned_points or '?'}",
        "Final mean": number(row.final_return_mean),
        "Final IQM": number(row.final_return_iqm),
        "IQM 95%": tables.interval(row.final_return_iqm_low, row.final_return_iqm_high, places),
        "AUC": number(row.auc_return_mean),
        "AUC 95%": tables.interval(row.auc_return_mean_low, row.auc_return_mean_high, places),
        "Eval.": number(row.evaluation_return_mean),
        "Wall s": tables.number(row.wall_seconds),
        "Steps/s": tables.thousands(row.steps_per_second),
    }
    return cells, row.finished and _best(
        row.final_return_iqm, (r.final_return_iqm for r in group if r.finished)
    )


def _aggregate_cells(
    row: AggregateRow, group: Sequence[AggregateRow]
) -> tuple[dict[str, str], bool]:
    cells = {
        "Optimizer": row.optimizer,
        "Seeds": str(row.seeds),
        "Final IQM": tables.number(row.normalised_iqm, 2),
        "IQM 95%": tables.interval(row.normalised_iqm_low, row.normalised_iqm_high, 2),
        "Gap": tables.number(row.optimality_gap, 2),
        "Gap 95%": tables.interval(row.optimality_gap_low, row.optimality_gap_high, 2),
        "P(better)": tables.number(row.improvement_probability, 2),
        "P 95%": tables.interval(
            row.improvement_probability_low, row.improvement_probability_high, 2
        ),
    }
    return cells, _best(row.normalised_iqm, (r.normalised_iqm for r in group))


def _best(value: float, values: Iterable[float]) -> bool:
    return value == max((v for v in values if math.isfinite(v)), default=math.nan)


def _markdown(
    rows: Sequence[Row],
    aggregates: Sequence[AggregateRow],
    remarks: Sequence[str],
    images: Iterable[str],
) -> str:
    sections = ["# Comparison of optimizers"]
    for title, group in by_title(rows):
        steps = sorted({row.planned_steps_per_seed for row in group})
        sections.append(f"## {title}\n\n{' or '.join(f'{n:,}' for n in steps)} steps per seed.")
        sections.append(tables.markdown_table([_cells(row, group) for row in group]))
    if "curves.png" in images:
        sections.append("![IQM over seeds with 95% bootstrap bands](curves.png)")
    if aggregates:
        sections.append(
            f"## {len(aggregates[0].environments)} environments together\n\n"
            f"{', '.join(aggregates[0].environments)}: final returns divided by the published "
            "return of tuned Adam. Gap: optimality gap, the mean amount by which runs miss a score "
            "of 1. P(better): probability of improvement over "
            f"`{aggregates[0].improvement_over}`."
        )
        sections.append(
            tables.markdown_table([_aggregate_cells(row, aggregates) for row in aggregates])
        )
        sections.append("![Performance profiles](profiles.png)")
    if remarks:
        sections.append("## Notes\n\n" + "\n".join(f"* {remark}" for remark in remarks))
    sections.append("## Rules\n\n" + "\n".join(f"* {rule}" for rule in RULES))
    return "\n\n".join(sections) + "\n"
