"""Reports offline runs: what became of the critic beside what the policy returns."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from experiments.reports import figures, files, latex, statistics, tables
from experiments.reports.summary import (
    by_task,
    directory_notes,
    estimate,
    provenance,
    setting_notes,
)
from experiments.runs.reading import Run, read_metric

_CAPTIONS = {  # by the figure's name
    "critic": "Critics: mean |Q| with the collapse line, and critic loss, IQM over seeds with 95% "
    "bootstrap bands. A point is the mean over the batches of a stretch; nothing is smoothed.",
    "curves": "Returns: IQM over seeds with 95% bootstrap bands. A point is an evaluation; nothing "
    "is smoothed.",
}
OFFLINE_RULES = (
    "Steps are updates of the critic. Mean |Q| and critic loss of a point are means over the "
    "batches of its stretch and over both critics; the tables have those of the last point.",
    "A seed has collapsed once mean |Q| lies above the collapse line, 2 max |r| / (1 - discount), "
    "twice what any policy could be worth, or is not finite. It counts as collapsed from then on.",
    "Returns are undiscounted means over the episodes of an evaluation, played with the policy's "
    "deterministic actions. The return is that of the last evaluation during training; where there "
    "was none, that of the evaluation after training, whose mean is called 'fresh'. Scores are "
    "100 (return - random) / (expert - random), with the reference returns of the data set.",
    "A seed has diverged once its parameters are no longer finite: it scores the lowest return "
    "that any seed of its run has.",
    "IQM is the interquartile mean over seeds. Intervals are 95% percentile intervals of the "
    "bootstrap over seeds, with 2000 resamples. A single seed has no interval, nor have the "
    "returns of a run all of whose seeds diverged.",
    "Run directories that differ only in their seeds, and have none in common, are pooled into one "
    "run; their seconds are added up.",
)


@dataclasses.dataclass(frozen=True)
class OfflineRow:
    """One run in numbers; the fields are the columns of `summary.csv`. NaN is unknown.

    `evaluations` counts those during training. In the file, `run_directory` is as seen from the
    file's folder.
    """

    dataset: str
    algorithm: str
    optimizer: str
    learning_rate: float | None
    seeds: int
    seed_list: tuple[int, ...]
    collapsed_seeds: int
    first_collapse_step: int | None
    collapse_line: float
    diverged_seeds: int
    steps_per_seed: int
    planned_steps_per_seed: int
    finished: bool
    evaluations: int
    mean_abs_q_iqm: float
    mean_abs_q_iqm_low: float
    mean_abs_q_iqm_high: float
    critic_loss_iqm: float
    return_iqm: float
    return_iqm_low: float
    return_iqm_high: float
    fresh_return_mean: float
    score_iqm: float
    score_iqm_low: float
    score_iqm_high: float
    wall_seconds: float
    steps_per_second: float
    run_directory: str


@dataclasses.dataclass(frozen=True, eq=False)
class Critic:
    """What a run logged of its critic."""

    mean_abs_q: NDArray[np.float64]  # shape=(seeds, points)
    loss: NDArray[np.float64]  # shape=(seeds, points)
    collapsed_from: NDArray[np.int64]  # shape=(seeds,), first collapsed point; points if none

    @property
    def collapsed(self) -> NDArray[np.bool_]:
        """Which seeds collapsed, shape (seeds,)."""
        return self.collapsed_from < self.mean_abs_q.shape[1]


def critic_of(run: Run) -> Critic:
    """Reads what an offline run logged of its critic.

    Raises:
        ValueError: if its metrics are not as documented.
    """
    mean_abs_q = read_metric(run, "mean_abs_q")
    is_above = ~(mean_abs_q <= run.config["collapse_line"])  # also where it is NaN
    ever = np.column_stack([is_above, np.ones(len(is_above), bool)])
    return Critic(mean_abs_q, read_metric(run, "critic_loss"), np.argmax(ever, axis=1))


def summarise_offline(runs: Sequence[Run]) -> list[OfflineRow]:
    """Turns each offline run into a row of numbers, by the rules in `OFFLINE_RULES`."""
    return [_row(run) for group in by_task(runs).values() for run in group]


def _row(run: Run) -> OfflineRow:
    critic, config = critic_of(run), run.config
    done = int(run.steps[-1]) if len(run.steps) else 0
    unknown = np.full(len(config["seeds"]), math.nan)
    final_q = critic.mean_abs_q[:, -1] if done else unknown
    final_loss = critic.loss[:, -1] if done else unknown
    evaluations = int((run.episodes > 0).all(axis=0).sum())
    returns = run.final_returns() if evaluations else run.evaluation_returns()
    bounded = not run.diverged.all()
    low, high = config["reference_returns"] or (math.nan, math.nan)
    collapsed = critic.collapsed_from[critic.collapsed]
    return OfflineRow(
        dataset=config["dataset"],
        algorithm=config["algorithm"],
        optimizer=run.label,
        learning_rate=config["learning_rate"],
        seeds=len(config["seeds"]),
        seed_list=tuple(config["seeds"]),
        collapsed_seeds=len(collapsed),
        first_collapse_step=int(run.steps[collapsed.min()]) if len(collapsed) else None,
        collapse_line=config["collapse_line"],
        diverged_seeds=int(run.diverged.sum()),
        steps_per_seed=done,
        planned_steps_per_seed=config["steps"],
        finished=run.finished,
        evaluations=evaluations,
        **_with_interval("mean_abs_q_iqm", final_q),
        critic_loss_iqm=_with_interval("x", final_loss)["x"],
        **_with_interval("return_iqm", returns, bounded),
        fresh_return_mean=float(run.evaluation_returns().mean()),
        **_with_interval("score_iqm", 100.0 * (returns - low) / (high - low), bounded),
        wall_seconds=run.seconds,
        steps_per_second=len(config["seeds"]) * done / run.seconds if run.seconds else math.nan,
        run_directory=files.names_of(run.directories),
    )


def _with_interval(
    name: str, values: NDArray[np.float64], bounded: bool = True
) -> dict[str, float]:
    names = (name, f"{name}_low", f"{name}_high")
    return dict(zip(names, estimate((values,), statistics.iqm, bounded), strict=True))


def print_report(runs: Sequence[Run], console: Console) -> None:
    """Prints a table for each data set and algorithm, and notes."""
    rows = summarise_offline(runs)
    for title, group in _groups(rows):
        hidden = {"Seeds", "Critic loss", "Wall s", "First at", "Q 95%"}
        if not any(row.diverged_seeds for row in group):
            hidden.add("Div.")
        if not all(math.isnan(row.return_iqm) for row in group):
            hidden.add("Steps/s")  # there is no room for all
        tables.print_table(console, title, _lines(group), hidden)
    for sentence in offline_remarks(runs, rows):
        console.print(Text(sentence), style="dim")


def offline_notes(rows: Sequence[OfflineRow]) -> list[str]:
    """Names collapsed, unfinished and diverged runs, and how they were evaluated."""
    found = []
    for row in rows:
        name = f"{row.optimizer} with {row.algorithm} on {row.dataset}"
        if row.collapsed_seeds:
            found.append(
                f"Collapsed: {name}, {row.collapsed_seeds} of {row.seeds} seeds, the first at step "
                f"{row.first_collapse_step:,}: mean |Q| above {row.collapse_line:.4g}."
            )
        if row.diverged_seeds == row.seeds:
            found.append(f"All seeds of {name} diverged: its returns have no interval.")
        if not row.finished:
            found.append(
                f"{name} is unfinished: {row.steps_per_seed:,} of "
                f"{row.planned_steps_per_seed:,} steps."
            )
        elif math.isnan(row.return_iqm):
            found.append(f"{name} was not evaluated in an environment: its returns are unknown.")
        elif not row.evaluations:
            found.append(
                f"{name} was evaluated only after training: its return is that of fresh episodes."
            )
        found += directory_notes(row.optimizer, name, row.run_directory)
    return found


def offline_remarks(runs: Sequence[Run], rows: Sequence[OfflineRow]) -> list[str]:
    """All that a reader must know before comparing.

    Args:
        runs: as `load_runs` gives them.
        rows: as `summarise_offline` gives them.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        title = _title(run.config["dataset"], run.config["algorithm"], run.config["steps"])
        groups.setdefault(title, []).append(run)
    differences = [note for title, group in groups.items() for note in setting_notes(title, group)]
    return [*offline_notes(rows), *differences]


def write_report(
    runs: Sequence[Run], out_dir: str | os.PathLike[str], overwrite: bool = False
) -> list[Path]:
    """Writes tables and figures, each file replaced whole or not at all.

    Args:
        runs: offline ones, as `load_runs` gives them.
        out_dir: directory to write into; made where it is missing.
        overwrite: replace whatever is there, see `check_free_for_report`.

    Returns:
        The files written: `summary.csv`, `summary.md`, `summary.tex`, the figure `critic` unless
        nothing is logged yet, and `curves` if there are returns, each as `.png`, `.svg` and `.pdf`.
        The same runs give the same bytes.

    Raises:
        ValueError: a file is in the way.
    """
    out = Path(out_dir)
    files.check_free_for_report(out, [d for run in runs for d in run.directories], overwrite)
    rows = files.seen_from(out, summarise_offline(runs))
    contents: dict[str, bytes] = {files.SUMMARY: tables.csv_bytes(rows)}
    if panels := critic_panels(runs):
        contents |= tables.image_files("critic", figures.learning_curves(panels))
    if panels := _return_panels(runs):
        contents |= tables.image_files("curves", figures.learning_curves(panels))
    sections = ["# Comparison of critic optimizers on data sets"]
    parts = []
    hidden = {"Critic loss", "Wall s", "Steps/s", "First at", "Div."}
    for title, group in _groups(rows):
        sections += [f"## {title}", tables.markdown_table(_lines(group))]
        caption = f"{title}: IQM over seeds with 95% bootstrap intervals."
        parts.append(latex.table(caption, _lines(group), hidden))
    for stem, caption in _CAPTIONS.items():
        if f"{stem}.png" in contents:
            sections += [f"![{caption.partition(':')[0]}]({stem}.png)", f"*{caption}*"]
            parts.append(latex.figure(f"{stem}.pdf", caption))
    sentences = [*offline_remarks(runs, rows), *provenance(runs)]
    sections.append("## Notes\n\n" + "\n".join(f"* {sentence}" for sentence in sentences))
    sections.append("## Rules\n\n" + "\n".join(f"* {rule}" for rule in OFFLINE_RULES))
    contents["summary.md"] = ("\n\n".join(sections) + "\n").encode()
    contents["summary.tex"] = latex.document(parts)

    return tables.write_files(out, contents)


def critic_panels(runs: Sequence[Run]) -> list[figures.Panel]:
    """Mean |Q| with the collapse line and critic loss, two panels for each group of runs."""
    panels = []
    for (title, _), group in by_task(runs).items():
        drawn = [(run, critic_of(run)) for run in group if len(run.steps)]
        if not drawn:
            continue
        for field, label, line in (
            ("mean_abs_q", "Mean |Q|", group[0].config["collapse_line"]),
            ("loss", "Critic loss", None),
        ):
            curves = [
                figures.Curve(_label(run, critic), run.steps, _drawable(getattr(critic, field)))
                for run, critic in drawn
            ]
            panels.append(
                figures.Panel(
                    title, curves, line, "collapse line", "Critic updates", label, logarithmic=True
                )
            )
    return panels


def _return_panels(runs: Sequence[Run]) -> list[figures.Panel]:
    panels = []
    for (title, _), group in by_task(runs).items():
        curves = []
        for run in group:
            at = (run.episodes > 0).all(axis=0)
            if at.any() and np.isfinite(run.curves()).all():
                label = _label(run, critic_of(run))
                curves.append(figures.Curve(label, run.steps[at], run.curves()[:, at]))
        if curves:
            panels.append(figures.Panel(title, curves, x_label="Critic updates"))
    return panels


def _label(run: Run, critic: Critic) -> str:
    """The optimizer, with a word on collapse."""
    count = int(critic.collapsed.sum())
    return f"{run.label} (collapsed {count} of {len(critic.collapsed)})" if count else run.label


def _drawable(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values that a logarithmic axis can show: the last finite one where one is not finite."""
    points = np.arange(values.shape[1])
    known = np.isfinite(values)
    last = np.maximum.accumulate(np.where(known, points, 0), axis=1)
    filled = np.take_along_axis(np.where(known, values, 1.0), last, axis=1)
    return np.maximum(filled, 1e-12)


def _title(dataset: str, algorithm: str, steps: int) -> str:
    """What a table is called."""
    return f"{dataset}, {algorithm}, {steps:,} critic updates"


def _groups(rows: Sequence[OfflineRow]) -> list[tuple[str, list[OfflineRow]]]:
    groups: dict[str, list[OfflineRow]] = {}
    for row in rows:
        title = _title(row.dataset, row.algorithm, row.planned_steps_per_seed)
        groups.setdefault(title, []).append(row)
    return list(groups.items())


def _lines(group: Sequence[OfflineRow]) -> list[tuple[dict[str, str], bool]]:
    """For each row of a table its cells by column. None is marked as the best."""
    return [(_cells(row, group), False) for row in group]


def _cells(row: OfflineRow, group: Sequence[OfflineRow]) -> dict[str, str]:
    places = tables.decimals_for(
        value for r in group for value in (r.return_iqm, r.fresh_return_mean)
    )
    return {
        "Optimizer": row.optimizer,
        "LR": tables.NONE if row.learning_rate is None else f"{row.learning_rate:g}",
        "Seeds": str(row.seeds),
        "Coll.": f"{row.collapsed_seeds}/{row.seeds}",
        "Div.": str(row.diverged_seeds),
        "First at": f"{row.first_collapse_step:,}" if row.first_collapse_step else tables.NONE,
        "Mean |Q|": "not finite"
        if row.steps_per_seed and math.isnan(row.mean_abs_q_iqm)
        else _short(row.mean_abs_q_iqm),
        "Q 95%": _short_interval(row.mean_abs_q_iqm_low, row.mean_abs_q_iqm_high),
        "Critic loss": _short(row.critic_loss_iqm),
        "Return": tables.number(row.return_iqm, places),
        "95%": tables.interval(row.return_iqm_low, row.return_iqm_high, places),
        "Fresh": tables.number(row.fresh_return_mean, places),
        "Score": tables.number(row.score_iqm, 1),
        "Wall s": tables.number(row.wall_seconds),
        "Steps/s": tables.thousands(row.steps_per_second),
    }


def _short(value: float) -> str:
    return tables.NONE if math.isnan(value) else f"{value:.3g}"


def _short_interval(low: float, high: float) -> str:
    return tables.NONE if math.isnan(low) else f"[{_short(low)}, {_short(high)}]"
