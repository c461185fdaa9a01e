"""Reads run directories and reports them: tables, figures, and the rules behind the numbers.

A run is one environment, one optimizer and several seeds. Its directory holds `config.json`,
`metrics.csv` (a row per logged point and seed) and, once there, `evaluation.csv` (episodes after
training) and `timing.csv` (seconds since the start). Nothing else is read, nothing is trained.

How a number is made where episodes are missing, seeds diverge or runs are unfinished is said once,
in `RULES`, which ends every Markdown report.
"""

import csv
import dataclasses
import functools
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments import figures, statistics

FORMAT = 1  # of the run directory, as config.json states it

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

_PUBLISHED_STEPS = 10_000_000  # the steps after which the published returns were reached
_NONE = "\N{EN DASH}"


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One environment, one optimizer, several seeds: what was configured and what was logged."""

    path: Path
    config: Mapping[str, Any]  # config.json
    label: str  # the optimizer's specification, numbered where another run has the same
    steps: NDArray[np.int64]  # shape=(points,), environment steps per seed at the stretch's end
    returns: NDArray[np.float64]  # shape=(seeds, points), NaN where no episode was completed
    episodes: NDArray[np.int64]  # shape=(seeds, points), completed in the stretch
    diverged_from: NDArray[np.int64]  # shape=(seeds,), first diverged point; points if none
    evaluation: NDArray[np.float64] | None  # shape=(seeds,), None before the evaluation
    seconds: float  # wall seconds up to the last point, NaN where not logged

    @property
    def task(self) -> tuple[str, str | None]:
        """Environment and backend: what makes returns comparable."""
        return self.config["environment"], self.config["backend"]

    @property
    def diverged(self) -> NDArray[np.bool_]:
        """Which seeds diverged, shape (seeds,)."""
        return self.diverged_from < len(self.steps)

    @property
    def planned_points(self) -> int:
        """Number of points once finished; 0 as long as nothing is logged."""
        if not len(self.steps):
            return 0
        # The stretch is counted in learner iterations, because the configured steps need not be a
        # multiple of what one iteration takes.
        stretch = np.diff(self.steps, prepend=0).max() / self.config["steps"]
        iterations = self.config["iterations"]
        return max(len(self.steps), math.ceil(iterations / max(1, round(iterations * stretch))))

    @property
    def finished(self) -> bool:
        """Whether less than one learner iteration is missing."""
        missing = self.config["steps"] - (self.steps[-1] if len(self.steps) else 0)
        return bool(missing * self.config["iterations"] < self.config["steps"])

    def curves(self) -> NDArray[np.float64]:
        """Training returns without gaps, and with the lowest return from a divergence on.

        Returns:
            Shape (seeds, points). A seed that neither completed an episode nor diverged is NaN.
        """
        points = np.arange(len(self.steps))
        curves = np.where(points >= self.diverged_from[:, None], self._lowest(), self.returns)
        known = np.isfinite(curves)
        if not known.size:
            return curves
        last_known = np.maximum.accumulate(np.where(known, points, -1), axis=1)
        first_known = known.argmax(axis=1)[:, None]
        return np.take_along_axis(curves, np.maximum(last_known, first_known), axis=1)

    def final_returns(self) -> NDArray[np.float64]:
        """Mean over the episodes of the last 5% of the steps, shape (seeds,); see `RULES`."""
        if not len(self.steps):
            return np.full(len(self.returns), np.nan)
        starts = np.concatenate([[0], self.steps[:-1]])
        window = 20 * starts >= 19 * self.steps[-1]  # empty where no stretch is that short
        completed = np.where(np.isfinite(self.returns), self.episodes, 0)[:, window]
        total = (np.nan_to_num(self.returns[:, window]) * completed).sum(axis=1)
        count = completed.sum(axis=1)
        final = np.where(count > 0, total / np.maximum(count, 1), self.curves()[:, -1])
        return np.where(self.diverged, self._lowest(), final)

    def mean_returns(self) -> NDArray[np.float64]:
        """Area under the training curve divided by the steps, shape (seeds,); see `RULES`."""
        if not len(self.steps):
            return np.full(len(self.returns), np.nan)
        return self.curves() @ (np.diff(self.steps, prepend=0) / self.steps[-1])

    def evaluation_returns(self) -> NDArray[np.float64]:
        """Mean returns of the final evaluation, shape (seeds,); NaN where there is none."""
        if self.evaluation is None:
            return np.full(len(self.returns), np.nan)
        return np.where(self.diverged, self._lowest(), self.evaluation)

    def _lowest(self) -> float:
        logged = self.returns[np.isfinite(self.returns)]
        return float(logged.min()) if logged.size else math.nan


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


def load_runs(paths: Iterable[str | os.PathLike[str]]) -> list[Run]:
    """Reads every run directory at or below the given ones.

    Args:
        paths: directories, in the order in which optimizers are to be listed; below each of them
            the order is alphabetical. A directory reached twice is read once.

    Returns:
        The runs. Points that not every seed has reached (the process was killed while it wrote
        them) are left off, and so is a last line without its line break.

    Raises:
        ValueError: a path is no directory, no run directory is found, or a file is not as
            documented; the sentence names the file.

    Examples:
        >>> load_runs(["no/such/runs"])
        Traceback (most recent call last):
        ValueError: paths must be directories, got 'no/such/runs'.
    """
    tops = [Path(path) for path in paths]
    found: dict[Path, Path] = {}
    for top in tops:
        if not top.is_dir():
            raise ValueError(f"paths must be directories, got {str(top)!r}.")
        for directory in _run_directories(top):
            found.setdefault(directory.resolve(), directory)
    if not found:
        raise ValueError(
            "paths must hold run directories (with config.json and metrics.csv), found none below "
            f"{', '.join(repr(str(top)) for top in tops) or 'no path at all'}."
        )
    runs = [_read_run(directory) for directory in found.values()]
    seen: dict[tuple[Any, ...], int] = {}
    for index, run in enumerate(runs):
        key = (run.task, run.label)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] > 1:
            runs[index] = dataclasses.replace(run, label=f"{run.label} ({seen[key]})")
    return runs


def summarise(runs: Sequence[Run]) -> list[Row]:
    """Turns each run into a row of numbers, by the rules in `RULES`.

    Args:
        runs: as `load_runs` gives them.

    Returns:
        Rows in the order of the runs, grouped by environment and backend.

    Examples:
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
    return [_row(run) for group in _by_task(runs).values() for run in group]


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
    environments, scores, _ = _normalised_scores(runs)
    first = next(iter(scores), "")
    unknown = (math.nan, math.nan, math.nan)
    return [
        AggregateRow(
            label,
            environments,
            len(array),
            *_estimate((array,), statistics.iqm),
            *_estimate((array,), statistics.optimality_gap),
            first,
            *(
                unknown  # over itself
                if label == first
                else _estimate((array, scores[first]), statistics.probability_of_improvement)
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
    for title, group in _titled(rows):
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


def print_table(
    rows: Sequence[Row], console: Console, aggregates: Sequence[AggregateRow] = ()
) -> None:
    """Prints a table per environment and the notes, to be read at 80 columns.

    Args:
        rows: as `summarise` gives them.
        console: where to print.
        aggregates: as `aggregate` gives them; printed as a table of their own.
    """
    for title, group in _titled(rows):
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
    _, scores, left_out = _normalised_scores(runs)
    contents: dict[str, bytes] = {"summary.csv": _csv(rows)}
    panels = _panels(runs)
    if panels:
        contents |= _images("curves", figures.learning_curves(panels))
    if aggregates:
        contents["aggregate.csv"] = _csv(aggregates)
        contents |= _images("profiles", figures.performance_profiles(scores))
    markdown = _markdown(rows, aggregates, [*notes(rows), *left_out, *_provenance(runs)], contents)
    contents["summary.md"] = markdown.encode()

    directory = Path(out_dir)
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        _replace(directory / name, content)
    return [directory / name for name in contents]


# Reading


def _run_directories(path: Path) -> Iterator[Path]:
    for directory, subdirectories, files in os.walk(path):
        subdirectories.sort()
        if {"config.json", "metrics.csv"} <= set(files):
            subdirectories.clear()  # what lies below (checkpoints, figures) belongs to this run
            yield Path(directory)


def _read_run(path: Path) -> Run:
    config = _read_config(path / "config.json")
    seeds = config["seeds"]
    points, logged = _read_metrics(path / "metrics.csv", seeds)
    table = np.array([logged[point, seed] for seed in seeds for point in points], dtype=np.float64)
    table = table.reshape(len(seeds), len(points), 4)
    steps, returns, episodes, diverged = np.moveaxis(table, -1, 0)

    # A return of NaN counts as a gap only where no episode was completed.
    broken = (diverged != 0) | (~np.isfinite(returns) & (episodes > 0))
    first_broken = np.argmax(np.column_stack([broken, np.ones(len(seeds))]) > 0, axis=1)
    evaluation = None
    if (path / "evaluation.csv").is_file():
        by_seed = {
            line.integer("seed"): line.number("episode_return", empty=math.nan)
            for line in _read_lines(path / "evaluation.csv", ("seed", "episode_return"))
        }
        evaluation = np.array([by_seed.get(seed, math.nan) for seed in seeds])
    seconds = math.nan
    if points and (path / "timing.csv").is_file():
        lines = _read_lines(path / "timing.csv", ("point", "seconds"))
        by_point = {line.integer("point"): line.number("seconds") for line in lines}
        seconds = by_point.get(points[-1], math.nan)
    return Run(
        path=path,
        config=config,
        label=config["optimizer"],
        steps=steps[0].astype(np.int64),
        returns=np.where(np.isfinite(returns), returns, np.nan),
        episodes=episodes.astype(np.int64),
        diverged_from=first_broken,
        evaluation=evaluation,
        seconds=seconds,
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


_CONFIG_KEYS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "environment": ("a name", lambda v: isinstance(v, str) and v != ""),
    "backend": ("a name or null", lambda v: v is None or isinstance(v, str)),
    "optimizer": ("a specification", lambda v: isinstance(v, str) and v != ""),
    "learning_rate": ("a number or null", lambda v: v is None or _is_number(v)),
    "steps": ("a positive whole number", _is_count),
    "iterations": ("a positive whole number", _is_count),
    "seeds": (
        "a list of different whole numbers",
        lambda v: (
            isinstance(v, list)
            and len(v) > 0
            and all(type(seed) is int for seed in v)
            and len(set(v)) == len(v)
        ),
    ),
    "normaliser": ("a positive number or null", lambda v: v is None or (_is_number(v) and v > 0)),
}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of the JSON or of its encoding
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object, got a {type(config).__name__}.")
    if config.get("format") != FORMAT:
        raise ValueError(f"{path}: format must be {FORMAT}, got {config.get('format')!r}.")
    for key, (allowed, is_valid) in _CONFIG_KEYS.items():
        if key not in config:
            raise ValueError(f"{path}: {key} is missing; it must be {allowed}.")
        if not is_valid(config[key]):
            raise ValueError(f"{path}: {key} must be {allowed}, got {config[key]!r}.")
    return config


def _read_metrics(
    path: Path, seeds: Sequence[int]
) -> tuple[list[int], dict[tuple[int, int], tuple[int, float, int, int]]]:
    """Reads the complete points and, by point and seed, (step, return, episodes, diverged)."""
    logged = {}
    columns = ("point", "step", "seed", "episode_return", "episodes", "diverged")
    for line in _read_lines(path, columns):
        seed = line.integer("seed")
        if seed not in seeds:
            raise ValueError(f"{line.where}: seed must be one of {list(seeds)}, got {seed}.")
        # A resumed run may log a point again; what it logged last is what it went on from.
        logged[line.integer("point"), seed] = (
            line.integer("step"),
            line.number("episode_return", empty=math.nan),
            line.integer("episodes"),
            line.integer("diverged"),
        )
    points = sorted({point for point, _ in logged})
    complete = [point for point in points if all((point, seed) in logged for seed in seeds)]
    if complete != points[: len(complete)] or len(points) > len(complete) + 1:
        point = next(point for point in points if point not in complete)
        raise ValueError(f"{path}: point {point} must have a row for each seed in {list(seeds)}.")
    last_step = 0
    for point in complete:
        steps = {logged[point, seed][0] for seed in seeds}
        if len(steps) > 1 or min(steps) <= last_step:
            raise ValueError(
                f"{path}: step must be the same for all seeds of a point and grow from point to "
                f"point, got {sorted(steps)} at point {point} after {last_step}."
            )
        last_step = min(steps)
    return complete, logged


@dataclasses.dataclass(frozen=True)
class _Line:
    """A line of a CSV file, which knows where it stands when it complains."""

    where: str
    cells: Mapping[str, str]

    def number(self, column: str, empty: float | None = None) -> float:
        text = self.cells[column]
        if text == "" and empty is not None:
            return empty
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{self.where}: {column} must be a number, got {text!r}.") from None

    def integer(self, column: str) -> int:
        value = self.number(column)
        if not value.is_integer():
            raise ValueError(
                f"{self.where}: {column} must be a whole number, got {self.cells[column]!r}."
            )
        return int(value)


def _read_lines(path: Path, columns: Sequence[str]) -> list[_Line]:
    """Reads a CSV file but for a last line without line break: a killed process left it."""
    text = path.read_bytes().decode("utf-8", errors="replace")
    reader = csv.reader(io.StringIO(text[: text.rfind("\n") + 1]))
    header = next(reader, None)
    if header is None:
        return []
    missing = [column for column in columns if column not in header]
    if missing:
        raise ValueError(f"{path} must have the columns {', '.join(missing)}, got {header}.")
    lines = []
    for cells in reader:
        where = f"{path} line {reader.line_num}"
        if len(cells) != len(header):
            raise ValueError(f"{where} must have {len(header)} cells, got {len(cells)}.")
        lines.append(_Line(where, dict(zip(header, cells, strict=True))))
    return lines


# Numbers


def _by_task(runs: Sequence[Run]) -> dict[tuple[str, str | None], list[Run]]:
    groups: dict[tuple[str, str | None], list[Run]] = {}
    for run in runs:
        groups.setdefault(run.task, []).append(run)
    return groups


def _estimate(
    arrays: tuple[NDArray[np.float64], ...], statistic: Callable[..., statistics.Array]
) -> tuple[float, float, float]:
    """Value and interval of a statistic; NaN where a score is unknown."""
    if not all(np.isfinite(array).all() for array in arrays):
        return math.nan, math.nan, math.nan
    low, high = statistics.stratified_bootstrap(arrays, statistic)
    return float(statistic(*arrays)), float(low), float(high)


def _row(run: Run) -> Row:
    final, auc = run.final_returns(), run.mean_returns()
    iqm, iqm_low, iqm_high = _estimate((final,), statistics.iqm)
    auc_mean, auc_low, auc_high = _estimate((auc,), statistics.mean)
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


def _normalised_scores(
    runs: Sequence[Run],
) -> tuple[tuple[str, ...], dict[str, NDArray[np.float64]], list[str]]:
    """Environments, final returns over normalisers (seeds, environments), and who is left out."""
    groups = {
        task: {run.label: run for run in group}
        for task, group in _by_task(runs).items()
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
    return tuple(_title(*task) for task in groups), scores, left_out


def _panels(runs: Sequence[Run]) -> list[figures.Panel]:
    panels = []
    for (environment, backend), group in _by_task(runs).items():
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
            panels.append(figures.Panel(_title(environment, backend), curves, reference))
    return panels


def _provenance(runs: Sequence[Run]) -> list[str]:
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


# Writing


def _title(environment: str, backend: str | None) -> str:
    return environment if backend is None else f"{environment} ({backend})"


def _titled(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_title(row.environment, row.backend), []).append(row)
    return list(groups.items())


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


def _best(value: float, values: Iterable[float]) -> bool:
    return value == max((v for v in values if math.isfinite(v)), default=math.nan)


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
    for title, group in _titled(rows):
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
    text = [f"| {' | '.join(columns)} |", f"|:---|{'---:|' * (len(columns) - 1)}"]
    for cells, best in lines:
        shown = {column: cell.replace("|", "\\|") for column, cell in cells.items()}
        shown["Optimizer"] = f"`{shown['Optimizer']}`"
        if best:
            shown["Final IQM"] = f"**{shown['Final IQM']}**"
        text.append(f"| {' | '.join(shown.values())} |")
    return "\n".join(text)


def _csv(rows: Sequence[Row] | Sequence[AggregateRow]) -> bytes:
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


def _replace(path: Path, content: bytes) -> None:
    """Writes a file so that a reader sees the old one or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
