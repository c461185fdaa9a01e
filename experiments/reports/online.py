"""Reports runs of agents in environments: what each optimizer returned."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.text import Text

from experiments.reports import changing, figures, files, latex, plasticity, tables
from experiments.reports.aggregate import AggregateRow, Normalisers, aggregate, normalised_scores
from experiments.reports.collapse import collapse_notes
from experiments.reports.phases import has_phases
from experiments.reports.summary import (
    OPTIONAL,
    RULES,
    Row,
    by_task,
    by_title,
    label_notes,
    notes,
    provenance,
    setting_notes,
    summarise,
    title_of,
    training_notes,
)
from experiments.runs.reading import Run

CURVES_CAPTION = (
    "Training returns: the IQM over seeds with 95% bootstrap bands. A point is the mean over the "
    "episodes of a stretch; nothing is smoothed."
)
_PROFILES_CAPTION = (
    "Performance profiles: the share of all seeds and tasks that score above \u03c4."
)
# The steps after which the published returns were reached: on MinAtar, and on Brax.
_PUBLISHED_STEPS = {False: 10_000_000, True: 50_000_000}
R = TypeVar("R")


def print_report(
    runs: Sequence[Run], console: Console, normalisers: Normalisers | None = None
) -> None:
    """Prints a table per task, one of the aggregate, and notes, to be read at 80 columns.

    Args:
        runs: as `load_runs` gives them.
        console: where to print.
        normalisers: see `aggregate`.
    """
    rows = summarise(runs)
    print_rows(rows, console, aggregate(runs, normalisers))
    changing.print_tables(runs, console)
    _print_sentences(remarks(runs, rows, normalisers), console)


def print_rows(
    rows: Sequence[Row],
    console: Console,
    aggregates: Sequence[AggregateRow] = (),
    sentences: Sequence[str] = (),
) -> None:
    """Prints what `print_report` does.

    Args:
        rows: as `summarise` gives them.
        console: where to print.
        aggregates: as `aggregate` gives them.
        sentences: notes, as `remarks` gives them.
    """
    for title, group in by_title(rows):
        steps = {row.planned_steps_per_seed for row in group}
        if len(steps) == 1:
            title += f", {steps.pop():,} steps"
        hidden = _hidden(group) | {"P(better)", "P 95%"}
        tables.print_table(console, title, _lines(group), hidden)
    if aggregates:
        title = f"{len(aggregates[0].environments)} tasks, returns normalised"
        tables.print_table(console, title, _aggregate_lines(aggregates), {"Gap 95%"})
    _print_sentences(sentences, console)


def _hidden(group: Sequence[Row]) -> set[str]:
    """Columns that a table leaves out which is to be narrow."""
    hidden = {"Final mean", "AUC 95%", "Wall s"}
    if not any(row.diverged_seeds for row in group):
        hidden.add("Div.")
    if all(row.finished for row in group):
        hidden.add("Points")
    return hidden


def _print_sentences(sentences: Iterable[str], console: Console) -> None:
    for sentence in sentences:
        console.print(Text(sentence), style="dim")


def remarks(
    runs: Sequence[Run], rows: Sequence[Row], normalisers: Normalisers | None = None
) -> list[str]:
    """All that a reader must know before comparing.

    Args:
        runs: as `load_runs` gives them.
        rows: as `summarise` gives them.
        normalisers: see `aggregate`.
    """
    groups = by_task(runs).items()
    differences = [note for task, group in groups for note in setting_notes(title_of(*task), group)]
    return [
        *notes(rows),
        *collapse_notes([run for run in runs if not has_phases(run)]),  # others have a table
        *changing.notes(runs),
        *differences,
        *label_notes(runs),
        *training_notes(runs),
        *normalised_scores(runs, normalisers).notes,
    ]


def write_report(
    runs: Sequence[Run],
    out_dir: str | os.PathLike[str],
    normalisers: Normalisers | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Writes tables and figures, each file replaced whole or not at all.

    Args:
        runs: as `load_runs` gives them.
        out_dir: directory to write into; made where it is missing.
        normalisers: see `aggregate`.
        overwrite: replace whatever is there, see `check_free_for_report`.

    Returns:
        The files written: `summary.csv`, `summary.md`, `summary.tex`; the figure `curves` unless no
        run has returns yet; `aggregate.csv` and the figure `profiles` where `aggregate` has rows;
        `collapse.csv`, `phases.csv` and the figure `phases` of tasks that change; the figure
        `plasticity` where a run was diagnosed. Each figure is a `.png`, a `.svg` and a `.pdf`. The
        same runs give the same bytes.

    Raises:
        ValueError: there are no runs, or a file is in the way.
    """
    if not runs:
        raise ValueError("runs must hold at least one run, got none.")
    out = Path(out_dir)
    files.check_free_for_report(out, [d for run in runs for d in run.directories], overwrite)
    rows, aggregates = files.seen_from(out, summarise(runs)), aggregate(runs, normalisers)
    scored = normalised_scores(runs, normalisers)
    contents: dict[str, bytes] = {files.SUMMARY: tables.csv_bytes(rows, OPTIONAL)}
    panels = _panels(runs)
    if panels:
        contents |= tables.image_files("curves", figures.learning_curves(panels))
    if diagnosed := plasticity.panels_by_task(runs):
        contents |= tables.image_files("plasticity", figures.measures(diagnosed))
    if aggregates:
        contents["aggregate.csv"] = tables.csv_bytes(aggregates)
        contents |= tables.image_files("profiles", figures.performance_profiles(scored.scores))
    contents |= changing.contents(runs)
    sentences = [*remarks(runs, rows, normalisers), *provenance(runs)]
    scaling = _scaling(scored.scales, normalisers)
    changes = changing.markdown(runs, contents)
    text = _markdown(rows, aggregates, scaling, sentences, contents, changes)
    contents["summary.md"] = text.encode()
    contents["summary.tex"] = latex.document(_latex(runs, rows, aggregates, scaling, contents))
    return tables.write_files(out, contents)


def _panels(runs: Sequence[Run]) -> list[figures.Panel]:
    panels = []
    for (environment, backend), group in by_task(runs).items():
        drawn = [run for run in group if len(run.steps) and np.isfinite(run.curves()).all()]
        steps = _PUBLISHED_STEPS[backend is not None]
        published = [
            run.config["normaliser"]
            for run in drawn
            if run.config["normaliser"] is not None
            and abs(run.config["steps"] - steps) <= 0.01 * steps
        ]
        if drawn:
            curves = [figures.Curve(run.label, run.steps, run.curves()) for run in drawn]
            reference = published[0] if published else None
            panels.append(figures.Panel(title_of(environment, backend), curves, reference))
    return panels


def _lines(group: Sequence[Row]) -> list[tuple[dict[str, str], bool]]:
    """For each row of a task its cells by column, and whether it is the best."""
    best = _best([row for row in group if row.finished], "final_return_iqm")
    return [(_cells(row, group), row is best) for row in group]


def _cells(row: Row, group: Sequence[Row]) -> dict[str, str]:
    actions = {r.evaluation_actions for r in group}
    evaluation = f"{row.evaluation_actions.capitalize()} eval." if len(actions) == 1 else "Eval."
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
        "P(better)": tables.number(row.improvement_probability, 2),
        "P 95%": tables.interval(
            row.improvement_probability_low, row.improvement_probability_high, 2
        ),
        "AUC": number(row.auc_return_mean),
        "AUC 95%": tables.interval(row.auc_return_mean_low, row.auc_return_mean_high, places),
        evaluation: number(row.evaluation_return_mean),
        "First eval.": number(row.first_evaluation_return_mean),
        "Wall s": tables.number(row.wall_seconds),
        "Steps/s": tables.thousands(row.steps_per_second),
    }
    if all(math.isnan(r.first_evaluation_return_mean) for r in group):
        del cells["First eval."]
    if all(r.improvement_over is None for r in group):
        del cells["P(better)"], cells["P 95%"]
    return cells


def _aggregate_lines(group: Sequence[AggregateRow]) -> list[tuple[dict[str, str], bool]]:
    best = _best(group, "normalised_iqm")
    return [(_aggregate_cells(row), row is best) for row in group]


def _aggregate_cells(row: AggregateRow) -> dict[str, str]:
    return {
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


def _best(rows: Sequence[R], name: str) -> R | None:
    """The row whose value is above all others', if the others' lie below its interval as well."""
    ranked = sorted(rows, key=lambda row: getattr(row, name), reverse=True)
    ranked = [row for row in ranked if math.isfinite(getattr(row, name))]
    if len(ranked) < 2 or not getattr(ranked[0], f"{name}_low") > getattr(ranked[1], name):
        return None
    return ranked[0]


def _scaling(scales: Mapping[str, tuple[float, float]], normalisers: Normalisers | None) -> str:
    """How final returns were made into scores, in a sentence."""
    if normalisers == "min-max":
        ranges = ", ".join(f"{title} [{low:g}, {high:g}]" for title, (low, high) in scales.items())
        return f"Final returns as a share of the range of all runs: {ranges}."
    given = normalisers or {}
    published = [f"{task} {high:g}" for task, (_, high) in scales.items() if task not in given]
    others = [f"{task} {high:g}" for task, (_, high) in scales.items() if task in given]
    parts = [f"the return published for tuned Adam ({', '.join(published)})"] if published else []
    parts += [f"a given return ({', '.join(others)})"] if others else []
    return f"Final returns divided by {' or by '.join(parts)}."


def _markdown(
    rows: Sequence[Row],
    aggregates: Sequence[AggregateRow],
    scaling: str,
    sentences: Sequence[str],
    images: Iterable[str],
    changes: Sequence[str],
) -> str:
    sections = ["# Comparison of optimizers"]
    for title, group in by_title(rows):
        steps = sorted({row.planned_steps_per_seed for row in group})
        text = f"{' or '.join(f'{n:,}' for n in steps)} steps per seed."
        if len(group) > 1:
            text += f" P(better): over `{group[0].optimizer}`."
        sections.append(f"## {title}\n\n{text}")
        sections.append(tables.markdown_table(_lines(group)))
    if "curves.png" in images:
        sections += ["![Learning curves](curves.png)", f"*{CURVES_CAPTION}*"]
    if aggregates:
        title = f"## {len(aggregates[0].environments)} tasks together"
        over = f"`{aggregates[0].improvement_over}`"
        sections.append(f"{title}\n\n{_about_aggregate(scaling, over)}")
        sections.append(tables.markdown_table(_aggregate_lines(aggregates)))
        sections += ["![Performance profiles](profiles.png)", f"*{_PROFILES_CAPTION}*"]
    sections += changes
    if "plasticity.png" in images:
        sections.append("![Measures of plasticity](plasticity.png)")
    if sentences:
        sections.append("## Notes\n\n" + "\n".join(f"* {sentence}" for sentence in sentences))
    rules = (*RULES, plasticity.RULE) if "plasticity.png" in images else RULES
    sections.append("## Rules\n\n" + "\n".join(f"* {rule}" for rule in rules))
    return "\n\n".join(sections) + "\n"


def _about_aggregate(scaling: str, over: str) -> str:
    return (
        f"{scaling} Gap: optimality gap, the mean amount by which runs miss a score of 1. "
        f"P(better): probability of improvement over {over}."
    )


def _latex(
    runs: Sequence[Run],
    rows: Sequence[Row],
    aggregates: Sequence[AggregateRow],
    scaling: str,
    images: Iterable[str],
) -> list[str]:
    """Tables and figures in LaTeX, without what is of no use in a paper."""
    parts = []
    for title, group in by_title(rows):
        steps = sorted({row.planned_steps_per_seed for row in group})
        caption = (
            f"{title}, {' or '.join(f'{n:,}' for n in steps)} steps per seed: final returns, IQM "
            "over seeds with 95% bootstrap intervals; AUC: mean return over all steps."
        )
        if len(group) > 1:
            caption += (
                f" P(better): probability of improvement over {group[0].optimizer}. Bold: the best "
                "IQM, if its interval lies above the second best."
            )
        parts.append(latex.table(caption, _lines(group), _hidden(group) | {"Steps/s"}))
    if aggregates:
        caption = _about_aggregate(scaling, aggregates[0].improvement_over)
        parts.append(latex.table(caption, _aggregate_lines(aggregates)))
    for title, lines in changing.flat_tables(runs):
        parts.append(latex.table(f"{title}.", [(cells, False) for cells in lines]))
    for stem, caption in {
        "curves": CURVES_CAPTION,
        "profiles": _PROFILES_CAPTION.replace("\u03c4", "a threshold"),
        "phases": changing.CAPTION,
    }.items():
        if f"{stem}.pdf" in images:
            parts.append(latex.figure(f"{stem}.pdf", caption))
    return parts
