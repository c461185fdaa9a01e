"""Reports runs: a table on the console, tables and figures in files."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.reports import figures
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
from experiments.runs.directory import write_atomically
from experiments.runs.reading import Run, is_offline, load_runs

_PUBLISHED_STEPS = 10_000_000  # the steps after which the published returns were reached
_NONE = "\N{EN DASH}"


def report(directories: Sequence[Path], out: Path | None = None) -> None:
    """Prints the table, writes tables and figures, and says where.

    Of pipeline training, there is a figure of return against age, `returns_by_age.png` and `.svg`.

    Args:
        directories: where run directories are looked for, at any depth.
        out: where to write; by default the first of the directories.

    Raises:
        ValueError: if there are no run directories, or one cannot be read.
    """
    if not directories:
        raise ValueError("at least one directory must be given.")
    console = Console()
    panels = age_panels(directories)
    if panels:
        out_dir = out or directories[0]
        for name, content in _images("returns_by_age", figures.returns_by_age(panels)).items():
            out_dir.mkdir(parents=True, exist_ok=True)
            write_atomically(out_dir / name, content)
            console.print(f"Written: {out_dir / name}", soft_wrap=True)
        if not any(True for top in directories for _ in top.rglob("metrics.csv")):
            return  # there is nothing but meta-training
    runs = load_runs(directories)
    offline = [run for run in runs if is_offline(run)]
    if offline and len(offline) < len(runs):
        raise ValueError(
            "runs with an environment and runs from data sets cannot share a report; got "
            f"{runs[0].path} and {len(runs) - 1} more."
        )
    if offline:
        from experiments.reports.offline import print_offline_table, write_offline_report

        print_offline_table(offline, console)
        paths = write_offline_report(offline, out or directories[0])
        console.print("Written: " + ", ".join(str(path) for path in paths), soft_wrap=True)
        return
    print_table(summarise(runs), console, aggregate(runs))
    paths = write_report(runs, out or directories[0])
    console.print("Written: " + ", ".join(str(path) for path in paths), soft_wrap=True)


def age_panels(directories: Sequence[Path]) -> list[figures.AgePanel]:
    """What agents of each age reached in every pipeline training at or below the directories.

    Args:
        directories: where `returns_by_age.csv` is looked for, at any depth.

    Returns:
        A panel for each task of each run, in alphabetical order of the runs.

    Raises:
        ValueError: if a file is not as pipeline training writes it; the sentence names it.
    """
    files = {path.resolve() for top in directories for path in top.rglob("returns_by_age.csv")}
    panels = []
    for path in sorted(files):
        try:
            optimizer = json.loads((path.parent / "config.json").read_text())["optimizer"]
            tasks: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    part = f"{row['first_generation']} to {row['last_generation']}"
                    age = (float(row["age_from"]) + float(row["age_to"])) / 2
                    points = tasks.setdefault((row["task"], row["environment"]), {}).setdefault(
                        part, []
                    )
                    points.append((age, float(row["return_mean"] or "nan")))
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(f"{path} or its config.json is damaged.") from None
        for (_, environment), parts in tasks.items():
            ages = np.array([age for age, _ in next(iter(parts.values()))])
            returns = {part: np.array([y for _, y in points]) for part, points in parts.items()}
            panels.append(figures.AgePanel(f"{optimizer} on {environment}", ages, returns))
    return panels


def print_table(
    rows: Sequence[Row], console: Console, aggregates: Sequence[AggregateRow] = ()
) -> None:
    """Prints a table per environment and the notes, to be read at 80 columns.

    Args:
        rows: as `summarise` gives them.
        console: where to print.
        aggregates: as `aggregate` gives them; printed as a table of their own.
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
        _print(console, title, [_cells(row, group) for row in group], hidden)
    if aggregates:
        title = f"{len(aggregates[0].environments)} environments, returns normalised"
        _print(
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
    contents: dict[str, bytes] = {"summary.csv": _csv(rows)}
    panels = _panels(runs)
    if panels:
        contents |= _images("curves", figures.learning_curves(panels))
    if aggregates:
        contents["aggregate.csv"] = _csv(aggregates)
        contents |= _images("profiles", figures.performance_profiles(scores))
    markdown = _markdown(rows, aggregates, [*notes(rows), *left_out, *provenance(runs)], contents)
    contents["summary.md"] = markdown.encode()

    directory = Path(out_dir)
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(directory / name, content)
    return [directory / name for name in contents]


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
    places = _decimals(
        value
        for r in group
        for value in (r.final_return_mean, r.final_return_iqm, r.auc_return_mean)
    )
    number = functools.partial(_number, decimals=places)
    cells = {
        "Optimizer": row.optimizer,
        "LR": _NONE if row.learning_rate is None else f"{row.learning_rate:g}",
        "Seeds": str(row.seeds),
        "Div.": str(row.diverged_seeds),
        "Points": f"{row.points}/{row.planned_points or '?'}",
        "Final mean": number(row.final_return_mean),
        "Final IQM": number(row.final_return_iqm),
        "IQM 95%": _interval(row.final_return_iqm_low, row.final_return_iqm_high, places),
        "AUC": number(row.auc_return_mean),
        "AUC 95%": _interval(row.auc_return_mean_low, row.auc_return_mean_high, places),
        "Eval.": number(row.evaluation_return_mean),
        "Wall s": _number(row.wall_seconds),
        "Steps/s": _thousands(row.steps_per_second),
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
        "Final IQM": _number(row.normalised_iqm, 2),
        "IQM 95%": _interval(row.normalised_iqm_low, row.normalised_iqm_high, 2),
        "Gap": _number(row.optimality_gap, 2),
        "Gap 95%": _interval(row.optimality_gap_low, row.optimality_gap_high, 2),
        "P(better)": _number(row.improvement_probability, 2),
        "P 95%": _interval(row.improvement_probability_low, row.improvement_probability_high, 2),
    }
    return cells, _best(row.normalised_iqm, (r.normalised_iqm for r in group))


def _best(value: float, values: Iterable[float]) -> bool:
    return value == max((v for v in values if math.isfinite(v)), default=math.nan)


def _decimals(values: Iterable[float]) -> int:
    """Decimals that leave a column of numbers some four digits."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return 0 if largest >= 1000 else 1 if largest >= 100 else 2 if largest >= 1 else 3


def _number(value: float | None, decimals: int = 0) -> str:
    return _NONE if value is None or math.isnan(value) else f"{value:.{decimals}f}"


def _thousands(value: float) -> str:
    """Three digits, as in 850, 1.23k, 229k, 2.5M."""
    for unit, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * unit:  # what rounds to the unit
            return f"{value / unit:.3g}{suffix}"
    return _number(value)


def _interval(low: float, high: float, decimals: int) -> str:
    if math.isnan(low):
        return _NONE
    return f"[{_number(low, decimals)}, {_number(high, decimals)}]"


def _print(
    console: Console, title: str, lines: Sequence[tuple[dict[str, str], bool]], hidden: set[str]
) -> None:
    columns = [column for column in lines[0][0] if column not in hidden]
    table = Table(
        title=Text(title), title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for column in columns:
        if column == "Optimizer":
            table.add_column(column, overflow="fold", vertical="bottom")
        else:
            heading = column.replace("Final ", "Final\n")
            table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    label_width = max(20, console.width - 60)
    for cells, best in lines:
        cells = cells | {"Optimizer": figures.wrap_label(cells["Optimizer"], label_width)}
        table.add_row(
            *(
                Text(cells[column], style="bold" if best and column == "Final IQM" else "")
                for column in columns
            )
        )
    console.print(table)
    console.print()


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
        sections.append(_markdown_table([_cells(row, group) for row in group]))
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
        sections.append(_markdown_table([_aggregate_cells(row, aggregates) for row in aggregates]))
        sections.append("![Performance profiles](profiles.png)")
    if remarks:
        sections.append("## Notes\n\n" + "\n".join(f"* {remark}" for remark in remarks))
    sections.append("## Rules\n\n" + "\n".join(f"* {rule}" for rule in RULES))
    return "\n\n".join(sections) + "\n"


def _markdown_table(lines: Sequence[tuple[dict[str, str], bool]]) -> str:
    columns = list(lines[0][0])
    headings = [column.replace("|", "\\|") for column in columns]
    text = [f"| {' | '.join(headings)} |", f"|:---|{'---:|' * (len(columns) - 1)}"]
    for cells, best in lines:
        shown = {column: cell.replace("|", "\\|") for column, cell in cells.items()}
        shown["Optimizer"] = f"`{shown['Optimizer']}`"
        if best:
            shown["Final IQM"] = f"**{shown['Final IQM']}**"
        text.append(f"| {' | '.join(shown.values())} |")
    return "\n".join(text)


def _csv(rows: Sequence[Any]) -> bytes:
    def cell(value: Any) -> Any:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        if isinstance(value, tuple):
            return "; ".join(map(str, value))
        return int(value) if isinstance(value, bool) else value

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in dataclasses.fields(rows[0]))
    writer.writerows([cell(value) for value in dataclasses.astuple(row)] for row in rows)
    return text.getvalue().encode()


def _images(stem: str, figure: figures.Figure) -> dict[str, bytes]:
    return {
        f"{stem}.png": figures.render(figure, "png"),
        f"{stem}.svg": figures.render(figure, "svg"),
    }
