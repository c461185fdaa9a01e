"""What a report says on tasks that change in phases: a table of each, its words, a figure."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.text import Text

from experiments.reports import figures, statistics, tables
from experiments.reports.collapse import collapse_rows, falls
from experiments.reports.phases import (
    RESTART_COLUMNS,
    UNKNOWN,
    Array,
    Estimate,
    Phases,
    changing_tasks,
    gap,
    is_changing,
    is_resolved,
    levels_for,
    measure,
    phase_rows,
    restarted_run,
    steps_to,
)
from experiments.reports.summary import estimate, title_of
from experiments.runs.parsing import is_restarted
from experiments.runs.reading import Run

# What makes a task change: its other options are those of the task without changes.
CHANGES = frozenset(
    ("flip", "offset", "permute", "games", "move", "friction", "wear", "change", "phase", "table")
)

WORDS = {
    "Phase ends": "the mean return in the last 10% of a phase, averaged over a seed's phases.",
    "First": "the end of the first phase.",
    "Last": "the end of the last phase.",
    "Change": "last minus first, seed by seed.",
    "Drop": "the end of a phase minus the mean return in the first 10% of the next.",
    "Gap": "the ends of the phases from the second on, minus those of the run that starts afresh "
    "in each phase (restart); below 0, what was learned before does harm.",
    "Steps to level": "from a change until the return, a median over five points, has come 90% of "
    "the way that the run which starts afresh makes in that phase; the median over seeds and "
    "phases from the second on, where > says that a phase was not enough.",
    "Reached": "the share of those phases in which a seed comes to that level.",
    "Largest drop": "how far the return, a median over five points, ever fell below its best.",
    "Recovered": "the share of seeds that came back from it, to 90% of the way from their start to "
    "that best; a seed without a drop beyond the scatter of its points does not count.",
    "Collapsed": "the seeds that fell by half of their range or more, and by the end had not come "
    "back half of that way.",
}
CAUTIONS = (
    "A final return is of the last 5% of the steps also here, where that can be a whole phase with "
    "the drop at its beginning: compare the ends of phases instead.",
    "Returns are IQMs over seeds, shares means over seeds, with 95% bootstrap intervals.",
    "Largest drop and recovery measure a run by its own best: what never learned has nothing to "
    "lose, and every change costs something. Phase ends and gap say what a run is worth.",
)
CAPTION = (
    "IQM over seeds with 95% bootstrap bands; nothing is smoothed. Changes are vertical lines, "
    "tasks without them dashed; on the right the ends of phases."
)
_Table = tuple[str, list[dict[str, str]]]  # title, and cells by column
_SHOWN_BESIDE = 4  # columns on the console, beside the optimizer


@dataclasses.dataclass(frozen=True)
class _Summary:
    """One run over all its phases."""

    label: str
    phases: int
    returns: Mapping[str, Estimate]  # by column
    steps: Estimate
    phase_steps: int
    shares: Mapping[str, Estimate]  # by column
    collapsed: str


def contents(runs: Sequence[Run]) -> dict[str, bytes]:
    """Files on the tasks that change, by name; none where there is no such task.

    Args:
        runs: as `load_runs` gives them.
    """
    changing = [run for run in runs if is_changing(run)]
    if not changing:
        return {}
    found = {"collapse.csv": tables.csv_bytes(collapse_rows(changing))}
    if rows := phase_rows(changing):
        found["phases.csv"] = tables.csv_bytes(rows, RESTART_COLUMNS)
    if shown := _in_parts(panels(runs)):
        ends = _in_parts(end_panels(runs))
        if len(ends) == len(shown):  # beside each other
            shown = list(itertools.chain.from_iterable(zip(shown, ends, strict=True)))
        found |= tables.image_files("phases", figures.learning_curves(shown))
    return found


def markdown(runs: Sequence[Run], files: Iterable[str]) -> list[str]:
    """Sections on the tasks that change; none where there is no such task.

    Args:
        runs: as `load_runs` gives them.
        files: names of the files written.
    """
    found = flat_tables(runs)
    if not found:
        return []
    sections = ["## Tasks that change"]
    for title, lines in found:
        sections += [f"### {title}", tables.markdown_table([(cells, False) for cells in lines])]
    if "phases.png" in files:
        sections += ["![Returns and ends of phases](phases.png)", f"*{CAPTION}*"]
    return [*sections, "\n".join(f"* {words}" for words in _words(found))]


def flat_tables(runs: Sequence[Run]) -> list[_Table]:
    """The tables, each cell in one line: a task's title, and for each run its cells by column.

    Args:
        runs: as `load_runs` gives them.
    """
    return [
        (title, [{column: cell.replace("\n", " ") for column, cell in c.items()} for c in lines])
        for title, lines in map(_table, changing_tasks(runs))
    ]


def print_tables(runs: Sequence[Run], console: Console) -> None:
    """Prints the tables, a few columns at a time, and what their words mean.

    Args:
        runs: as `load_runs` gives them.
        console: where to print.
    """
    found = [_table(group) for group in changing_tasks(runs)]
    for title, lines in found:
        columns = [column for column in lines[0] if column not in ("Optimizer", "Phases")]
        for start in range(0, len(columns), _SHOWN_BESIDE):
            shown = columns[start : start + _SHOWN_BESIDE]
            hidden = {"Phases", *columns} - set(shown)
            tables.print_table(console, title, [(line, False) for line in lines], hidden)
    for words in _words(found):
        console.print(Text(words), style="dim")


def panels(runs: Sequence[Run]) -> list[figures.Panel]:
    """A panel for each task that changes, with what the same optimizers do where it does not.

    Args:
        runs: as `load_runs` gives them.
    """
    found = []
    for group in changing_tasks(runs):
        drawn = [run for run in group if _is_drawable(run)]
        if not drawn:
            continue
        last, length = max(int(run.steps[-1]) for run in drawn), drawn[0].config["phase_steps"]
        stationary = []
        for run in drawn:
            if other := _without_changes(run, runs):
                until = other.steps <= last
                curve = figures.Curve(run.label, other.steps[until], other.curves()[:, until])
                stationary += [curve] if until.any() else []
        curves = [figures.Curve(run.label, run.steps, run.curves()) for run in drawn]
        changes = range(length, last, length) if all(map(is_resolved, drawn)) else ()
        title = title_of(*group[0].task)
        found.append(figures.Panel(title, curves, changes=changes, stationary=stationary))
    return found


def end_panels(runs: Sequence[Run]) -> list[figures.Panel]:
    """A panel for each task that changes, with the returns in the last 10 % of each phase.

    Args:
        runs: as `load_runs` gives them.

    Returns:
        The panels. A phase in which any seed completed no episode is left out of its curve, a task
        of which nothing is left altogether.
    """
    found = []
    for group in changing_tasks(runs):
        curves = []
        for run in filter(_is_drawable, group):
            ends = measure(run).ends
            known = np.isfinite(ends).all(axis=0)
            if known.any():
                steps = run.config["phase_steps"] * (1 + np.flatnonzero(known))
                curves.append(figures.Curve(run.label, steps, ends[:, known]))
        if curves:
            title, label = title_of(*group[0].task), "Return at phase ends"
            found.append(figures.Panel(title, curves, y_label=label))
    return found


def notes(runs: Sequence[Run]) -> list[str]:
    """Says what is compared with another optimizer's fresh start, and what has no phases.

    Args:
        runs: as `load_runs` gives them.
    """
    found = []
    for group in changing_tasks(runs):
        for run in group:
            if not is_resolved(run):
                found.append(
                    f"{run.label} on {title_of(*run.task)} has more phases than points: nothing "
                    "is said of its phases."
                )
            arm = restarted_run(run, group)
            if arm is not None and arm.config["optimizer"] != run.config["optimizer"]:
                found.append(
                    f"{run.label} on {title_of(*run.task)} has no run of its own that starts "
                    f"afresh: its gap and level are to {arm.label}."
                )
    return found


def _in_parts(whole: Iterable[figures.Panel]) -> list[figures.Panel]:
    return [part for panel in whole for part in figures.in_parts(panel)]


def _is_drawable(run: Run) -> bool:
    return bool(len(run.steps)) and bool(np.isfinite(run.curves()).all())


def _without_changes(run: Run, runs: Sequence[Run]) -> Run | None:
    """The run of the same optimizer on the same task without changes."""

    def task(of: Run) -> tuple[object, ...]:
        options = {k: v for k, v in of.config["environment_options"].items() if k not in CHANGES}
        return of.config["environment"], of.config["backend"], options, of.config["optimizer"]

    if is_restarted(run.config):
        return None
    found = (r for r in runs if not is_changing(r) and task(r) == task(run) and _is_drawable(r))
    return next(found, None)


def _summary(run: Run, group: Sequence[Run]) -> _Summary:
    phases, arm = measure(run), restarted_run(run, group)
    restarted = None if arm is None else measure(arm)
    bounded = not run.diverged.all()
    ends, drops = phases.ends, phases.drops[:, 1:]

    def of(values: Array) -> Estimate:
        return estimate((values,), statistics.iqm, bounded)

    returns = dict.fromkeys(("Phase ends", "First", "Last", "Change", "Drop", "Gap"), UNKNOWN)
    if phases.count:
        returns["Phase ends"] = of(ends.mean(axis=1))
        returns["First"] = of(ends[:, 0])
    if phases.count > 1:
        returns["Last"] = of(ends[:, -1])
        returns["Change"] = of(ends[:, -1] - ends[:, 0])
        returns["Drop"] = of(drops.mean(axis=1))
        returns["Gap"] = gap(phases, restarted, slice(1, None))
    fallen = falls(run)
    returns["Largest drop"] = of(np.array([one.largest_drop for one in fallen]))
    recovered = [float(one.recovered) for one in fallen if one.recovered is not None]
    steps, reached = _steps_to_level(phases, restarted, bounded)
    return _Summary(
        label=run.label,
        phases=phases.count,
        returns=returns,
        steps=steps,
        phase_steps=run.config["phase_steps"],
        shares={
            "Reached": reached,
            "Recovered": estimate((np.array(recovered),), statistics.mean, bounded)
            if recovered
            else UNKNOWN,
        },
        collapsed=f"{sum(one.outcome == 'collapse' for one in fallen)}/{len(fallen)}",
    )


def _steps_to_level(
    phases: Phases, restarted: Phases | None, bounded: bool
) -> tuple[Estimate, Estimate]:
    """The median steps to the level after a change, and in which share of phases it is reached."""
    steps = steps_to(phases.run, levels_for(phases, restarted))[:, 1:]
    steps = steps[:, ~np.isnan(steps).any(axis=0)]
    if not steps.size:
        return UNKNOWN, UNKNOWN
    longer = float(phases.run.config["phase_steps"] + 1)
    return (
        estimate((np.minimum(steps, longer)[:, None],), _median, bounded),
        estimate((np.isfinite(steps).mean(axis=1),), statistics.mean, bounded),
    )


def _median(scores: Array) -> Array:
    """Over seeds, tasks and phases; the higher of two in the middle, which may be censored."""
    flat = scores.reshape(-1, *scores.shape[3:])
    return np.asarray(np.quantile(flat, 0.5, axis=0, method="higher"))


def _table(group: Sequence[Run]) -> _Table:
    """A task's title, and for each run its cells: a value and below it its interval."""
    summaries = [_summary(run, group) for run in group]
    lengths = {summary.phase_steps for summary in summaries}
    count = max(summary.phases for summary in summaries)
    title = f"{title_of(*group[0].task)}, {count} phases of "
    title += f"{' or '.join(f'{length:,}' for length in sorted(lengths))} steps"
    values = [row[0] for summary in summaries for row in summary.returns.values()]
    places = max(0, tables.decimals_for(values) - 1)
    lines = [_cells(summary, places) for summary in summaries]
    empty = {c for c in lines[0] if all(line[c] == tables.NONE for line in lines)}
    return title, [{c: cell for c, cell in line.items() if c not in empty} for line in lines]


def _cells(summary: _Summary, places: int) -> dict[str, str]:
    number = functools.partial(_number, decimals=places)
    steps = functools.partial(_steps, longest=summary.phase_steps)
    share = functools.partial(_number, decimals=2)
    cells = {"Optimizer": summary.label, "Phases": str(summary.phases)}
    cells |= {column: _cell(value, number) for column, value in summary.returns.items()}
    cells["Steps to level"] = _cell(summary.steps, steps)
    cells |= {column: _cell(value, share) for column, value in summary.shares.items()}
    order = ("Optimizer", "Phases", *WORDS)
    return {c: (cells | {"Collapsed": summary.collapsed})[c] for c in order}


def _cell(value: Estimate, text: functools.partial[str]) -> str:
    middle, low, high = value
    if math.isnan(middle):
        return tables.NONE
    return text(middle) if math.isnan(low) else f"{text(middle)}\n[{text(low)}, {text(high)}]"


def _number(value: float, decimals: int) -> str:
    return f"{value:z.{decimals}f}"  # differences may round to 0: no minus there


def _steps(value: float, longest: int) -> str:
    return f">{tables.thousands(longest)}" if value > longest else tables.thousands(value)


def _words(found: Sequence[_Table]) -> list[str]:
    """What the columns that are there mean."""
    there = {column for _, lines in found for column in lines[0]}
    explained = [f"{column}: {words}" for column, words in WORDS.items() if column in there]
    return [*explained, *(CAUTIONS if explained else ())]
