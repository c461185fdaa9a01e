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

from experiments.reports import figures, statistics, tables
from experiments.reports.summary import by_task, estimate, provenance
from experiments.runs.reading import Run, read_metric

OFFLINE_RULES = (
    "Steps are updates of the critic. Mean |Q| and critic loss of a point are means over the "
    "batches of its stretch and over both critics.",
    "A seed has collapsed once mean |Q| lies above the collapse line, 2 max |r| / (1 - discount), "
    "twice what any policy could be worth, or is not finite; it counts as collapsed from then on.",
    "Final mean |Q| is that of the last point. Returns are undiscounted means over the episodes of "
    "an evaluation with the deterministic policy, the last one during training; 'fresh' ones are "
    "played after it. Scores are 100 (return - random) / (expert - random), with the reference "
    "returns of the data set.",
    "A seed whose parameters stop being finite has diverged: it scores the lowest return that any "
    "seed of its run logged.",
    "IQM is the interquartile mean over seeds; intervals are 95% percentile intervals of the "
    "bootstrap over seeds, 2000 resamples. A single seed has no interval.",
)


@dataclasses.dataclass(frozen=True)
class OfflineRow:
    """One run in numbers; the fields are the columns of `summary.csv`. NaN is unknown."""

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
    returns = run.final_returns()
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
        **_with_interval("mean_abs_q_iqm", final_q),
        critic_loss_iqm=_with_interval("x", final_loss)["x"],
        **_with_interval("return_iqm", returns),
        fresh_return_mean=float(run.evaluation_returns().mean()),
        **_with_interval("score_iqm", 100.0 * (returns - low) / (high - low)),
        wall_seconds=run.seconds,
        steps_per_second=len(config["seeds"]) * done / run.seconds if run.seconds else math.nan,
        run_directory=run.path.as_posix(),
    )


def _with_interval(name: str, values: NDArray[np.float64]) -> dict[str, float]:
    names = (name, f"{name}_low", f"{name}_high")
    return dict(zip(names, estimate((values,), statistics.iqm), strict=True))


def print_report(runs: Sequence[Run], console: Console) -> None:
    """Prints a table for each data set and algorithm, and notes."""
    rows = summarise_offline(runs)
    for title, group in _groups(rows):
        known = [row for row in group if not math.isnan(row.return_iqm)]
        hidden = {"Critic loss", "Wall s", "First at", "Q 95%"} | (
            {"Score", "Steps/s"} if known else {"Return", "95%", "Fresh", "Score"}
        )
        tables.print_table(console, title, [(_cells(row, group), False) for row in group], hidden)
    for note in offline_notes(rows):
        console.print(Text(note), style="dim")


def offline_notes(rows: Sequence[OfflineRow]) -> list[str]:
    """Names collapsed and unfinished runs."""
    found = []
    for row in rows:
        if row.collapsed_seeds:
            found.append(
                f"Collapsed: {row.optimizer} with {row.algorithm} on {row.dataset}, "
                f"{row.collapsed_seeds} of {row.seeds} seeds, the first at step "
                f"{row.first_collapse_step:,}: mean |Q| above {row.collapse_line:.4g}."
            )
        if not row.finished:
            found.append(
                f"{row.optimizer} with {row.algorithm} on {row.dataset} is unfinished: "
                f"{row.steps_per_seed:,} of {row.planned_steps_per_seed:,} steps."
            )
        if row.finished and math.isnan(row.return_iqm):
            found.append(
                f"{row.optimizer} with {row.algorithm} on {row.dataset} was not evaluated in an "
                "environment: its returns are unknown."
            )
    return found


def write_report(runs: Sequence[Run], out_dir: str | os.PathLike[str]) -> list[Path]:
    """Writes tables and figures, each file replaced whole or not at all.

    Args:
        runs: offline ones, as `load_runs` gives them.
        out_dir: directory to write into; made where it is missing.

    Returns:
        The files written: `summary.csv`, `summary.md`, `critic.png` and `critic.svg` unless nothing
        is logged yet, `curves.png` and `curves.svg` if there are returns. The same runs give the
        same bytes.
    """
    rows = summarise_offline(runs)
    contents: dict[str, bytes] = {"summary.csv": tables.csv_bytes(rows)}
    if panels := critic_panels(runs):
        contents |= tables.image_files("critic", figures.learning_curves(panels))
    if panels := _return_panels(runs):
        contents |= tables.image_files("curves", figures.learning_curves(panels))
    sections = ["# Comparison of critic optimizers on data sets"]
    for title, group in _groups(rows):
        sections.append(f"## {title}")
        sections.append(tables.markdown_table([(_cells(row, group), False) for row in group]))
    if "critic.png" in contents:
        sections.append("![Mean |Q| with the collapse line, and critic loss](critic.png)")
    if "curves.png" in contents:
        sections.append("![Returns, IQM over seeds with 95% bootstrap bands](curves.png)")
    remarks = [*offline_notes(rows), *provenance(runs)]
    sections.append("## Notes\n\n" + "\n".join(f"* {remark}" for remark in remarks))
    sections.append("## Rules\n\n" + "\n".join(f"* {rule}" for rule in OFFLINE_RULES))
    contents["summary.md"] = ("\n\n".join(sections) + "\n").encode()

    return tables.write_files(out_dir, contents)


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


def _groups(rows: Sequence[OfflineRow]) -> list[tuple[str, list[OfflineRow]]]:
    groups: dict[str, list[OfflineRow]] = {}
    for row in rows:
        title = f"{row.dataset}, {row.algorithm}, {row.planned_steps_per_seed:,} critic updates"
        groups.setdefault(title, []).append(row)
    return list(groups.items())


def _cells(row: OfflineRow, group: Sequence[OfflineRow]) -> dict[str, str]:
    places = tables.decimals_for(
        value for r in group for value in (r.return_iqm, r.fresh_return_mean)
    )
    return {
        "Optimizer": row.optimizer,
        "LR": tables.NONE if row.learning_rate is None else f"{row.learning_rate:g}",
        "Seeds": str(row.seeds),
        "Coll.": str(row.collapsed_seeds) if row.collapsed_seeds else "no",
        "First at": f"{row.first_collapse_step:,}" if row.first_collapse_step else tables.NONE,
        "Mean |Q|": _short(row.mean_abs_q_iqm) if row.diverged_seeds == 0 else "not finite",
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
