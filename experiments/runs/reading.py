"""Reads run directories, as `experiments.runs.directory` documents them.

A run is one environment, one optimizer and several seeds. Its directory holds `config.json`,
`metrics.csv` (a row per logged point and seed) and, once there, `evaluation.csv` (episodes after
training) and `timing.csv` (seconds since the start). Nothing else is read, nothing is trained.

Directories that differ in nothing but their seeds are one run: see `load_runs`. Of a changing task,
`phase_steps` in `config.json` says after how many steps each, and `dynamics` in `evaluation.csv`
which were played after training: `last` (as it is where there is no such column) or `first`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.runs import parsing
from experiments.runs.parsing import environment_text, is_restarted, options_of

FORMAT = parsing.FORMAT  # of the run directory, as config.json states it
CIRCUMSTANCES = ("versions", "git_revision", "machine")  # keys of config.json: not what was asked


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One environment, one optimizer, several seeds: what was configured and what was logged."""

    path: Path
    config: Mapping[str, Any]  # config.json, see `parsing.read_config`
    label: str  # the run's, or the optimizer and whether it is restarted; numbered if not the first
    steps: NDArray[np.int64]  # shape=(points,), environment steps per seed at the stretch's end
    returns: NDArray[np.float64]  # shape=(seeds, points), NaN where no episode was completed
    episodes: NDArray[np.int64]  # shape=(seeds, points), completed in the stretch
    diverged_from: NDArray[np.int64]  # shape=(seeds,), first diverged point; points if none
    evaluation: NDArray[np.float64] | None  # shape=(seeds,), None before the evaluation
    seconds: float  # wall seconds up to the last point, NaN where not logged
    parts: tuple[Run, ...] = ()  # the runs that were pooled into this one; none if it is one run
    first_evaluation: NDArray[np.float64] | None = None  # the same in the first dynamics

    @property
    def directories(self) -> tuple[Path, ...]:
        """Where it was read from: one directory, or those of the runs pooled into it."""
        return tuple(part.path for part in self.parts) or (self.path,)

    @property
    def task(self) -> tuple[str, str | None]:
        """Environment with its options, and backend: what makes returns comparable.

        The options are written as on the command line, e.g. `CartPole-v1:gravity=5`.
        """
        environment = environment_text(self.config["environment"], options_of(self.config))
        return environment, self.config["backend"]

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
        return without_gaps(self.known_returns())

    def known_returns(self) -> NDArray[np.float64]:
        """The same with NaN at the points at which a seed completed no episode."""
        points = np.arange(len(self.steps))
        return np.where(points >= self.diverged_from[:, None], self._lowest(), self.returns)

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
        return self._evaluated(self.evaluation)

    def first_evaluation_returns(self) -> NDArray[np.float64]:
        """The same in the dynamics with which a changing task began."""
        return self._evaluated(self.first_evaluation)

    def _evaluated(self, returns: NDArray[np.float64] | None) -> NDArray[np.float64]:
        if returns is None:
            return np.full(len(self.returns), np.nan)
        lowest = self._lowest()
        if math.isnan(lowest):  # nothing was logged in training
            lowest = _minimum(returns)
        return np.where(self.diverged, lowest, returns)

    def _lowest(self) -> float:
        return _minimum(self.returns)


def read_metric(run: Run, column: str) -> NDArray[np.float64]:
    """Reads a further column of a run's metrics.

    Args:
        run: as `load_runs` gives it.
        column: of `metrics.csv`.

    Returns:
        Shape (seeds, points), up to the last complete point; NaN where a cell is empty.

    Raises:
        ValueError: if there is no such column, or a cell is no number.
    """
    if run.parts:
        return np.concatenate([read_metric(part, column) for part in run.parts])
    lines = parsing.read_lines(run.path / "metrics.csv", ("point", "seed", column))
    logged = {
        (line.integer("seed"), line.integer("step")): line.number(column, empty=math.nan)
        for line in lines
    }
    rows = [[logged[seed, int(step)] for step in run.steps] for seed in run.config["seeds"]]
    return np.array(rows, np.float64).reshape(len(rows), len(run.steps))


def without_gaps(returns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fills each gap with the value before it, and those before the first value with that.

    Args:
        returns: shape (seeds, points), NaN in gaps. A seed without any value stays NaN.

    Examples:
        >>> without_gaps(np.array([[np.nan, 1.0, np.nan, 2.0]])).tolist()
        [[1.0, 1.0, 1.0, 2.0]]
    """
    known = np.isfinite(returns)
    if not known.size:
        return returns
    last_known = np.maximum.accumulate(np.where(known, np.arange(returns.shape[1]), -1), axis=1)
    first_known = known.argmax(axis=1)[:, None]
    return np.take_along_axis(returns, np.maximum(last_known, first_known), axis=1)


def is_offline(run: Run) -> bool:
    """Whether the run learned from a data set; its steps are updates of the critic."""
    return "collapse_line" in run.config


def load_runs(paths: Iterable[str | os.PathLike[str]]) -> list[Run]:
    """Reads every run directory at or below the given ones.

    Directories that agree in everything but their seeds and the circumstances (versions, revision,
    machine), have logged the same steps and share no seed are pooled into one run, in the place of
    the first. Earlier versions did not record the numerics, which then cannot disagree. Other runs
    of one optimizer on one task are numbered.

    Args:
        paths: directories, in the order in which optimizers are to be listed; below each of them
            the order is alphabetical. See `directories_with`.

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
    found = directories_with(tops, "config.json", "metrics.csv")
    if not found:
        raise ValueError(
            "paths must hold run directories (with config.json and metrics.csv, of meta-training "
            "meta_metrics.csv), found none below "
            f"{', '.join(repr(str(top)) for top in tops) or 'no path at all'}."
        )
    runs = _pooled(map(_read_run, found))
    seen: dict[tuple[Any, ...], int] = {}
    for index, run in enumerate(runs):
        key = (run.task, run.label)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] > 1:
            runs[index] = dataclasses.replace(run, label=f"{run.label} ({seen[key]})")
    return runs


def directories_with(tops: Iterable[Path], *names: str) -> list[Path]:
    """Finds directories that hold certain files, at or below the given ones.

    Links to directories are followed; each real directory is looked into once, by the first way
    to it, so that links in a circle come to an end. What lies below a directory that is found (its
    checkpoints, its figures) belongs to it and is not looked into.

    Args:
        tops: directories.
        names: of the files, all of which must be there.

    Returns:
        The directories, in alphabetical order below each top.

    Raises:
        ValueError: a path is no directory.
    """
    found: list[Path] = []
    seen: set[Path] = set()
    for top in tops:
        if not top.is_dir():
            raise ValueError(f"paths must be directories, got {str(top)!r}.")
        for folder, subfolders, files in os.walk(top, followlinks=True):
            real, is_found = Path(folder).resolve(), set(names) <= set(files)
            if is_found and real not in seen:
                found.append(Path(folder))
            if is_found or real in seen:
                subfolders.clear()
            subfolders.sort()
            seen.add(real)
    return found


def _pooled(runs: Iterable[Run]) -> list[Run]:
    """Pools runs as `load_runs` says."""
    pools: list[list[Run]] = []
    alike: dict[Any, list[list[Run]]] = {}  # the pools by what must agree
    for run in runs:
        left_out = ("seeds", "numerics", *CIRCUMSTANCES)
        asked = {k: v for k, v in run.config.items() if k not in left_out}
        asked["environment_options"] = options_of(run.config)
        evaluations = (run.evaluation is None, run.first_evaluation is None)
        key = json.dumps(asked, sort_keys=True), run.steps.tobytes(), evaluations
        for pool in alike.setdefault(key, []):
            if not any(_exclude_each_other(run, other) for other in pool):
                pool.append(run)
                break
        else:
            pools.append([run])
            alike[key].append(pools[-1])
    return [_one(pool) for pool in pools]


def _exclude_each_other(run: Run, other: Run) -> bool:
    numerics, others = run.config.get("numerics"), other.config.get("numerics")
    differ = numerics != others and numerics is not None and others is not None
    return differ or not set(run.config["seeds"]).isdisjoint(other.config["seeds"])


def _one(parts: Sequence[Run]) -> Run:
    """One run of the seeds of several. Their seconds are added up."""
    if len(parts) == 1:
        return parts[0]

    def pooled(evaluations: Iterable[NDArray[np.float64] | None]) -> NDArray[np.float64] | None:
        known = [evaluation for evaluation in evaluations if evaluation is not None]
        return np.concatenate(known) if known else None

    return dataclasses.replace(
        parts[0],
        config={**parts[0].config, "seeds": [s for part in parts for s in part.config["seeds"]]},
        returns=np.concatenate([part.returns for part in parts]),
        episodes=np.concatenate([part.episodes for part in parts]),
        diverged_from=np.concatenate([part.diverged_from for part in parts]),
        evaluation=pooled(part.evaluation for part in parts),
        first_evaluation=pooled(part.first_evaluation for part in parts),
        seconds=sum(part.seconds for part in parts),
        parts=tuple(parts),
    )


def _read_run(path: Path) -> Run:
    config = parsing.read_config(path / "config.json")
    seeds = config["seeds"]
    points, logged = parsing.read_metrics(path / "metrics.csv", seeds)
    table = np.array([logged[point, seed] for seed in seeds for point in points], dtype=np.float64)
    table = table.reshape(len(seeds), len(points), 4)
    steps, returns, episodes, diverged = np.moveaxis(table, -1, 0)

    # A return of NaN counts as a gap only where no episode was completed.
    broken = (diverged != 0) | (~np.isfinite(returns) & (episodes > 0))
    first_broken = np.argmax(np.column_stack([broken, np.ones(len(seeds))]) > 0, axis=1)
    evaluations = parsing.read_evaluations(path / "evaluation.csv", seeds)
    seconds = math.nan
    if points and (path / "timing.csv").is_file():
        lines = parsing.read_lines(path / "timing.csv", ("point", "seconds"))
        by_point = {line.integer("point"): line.number("seconds") for line in lines}
        seconds = by_point.get(points[-1], math.nan)
    return Run(
        path=path,
        config=config,
        label=config["label"]
        or config["optimizer"] + (" (restart)" if is_restarted(config) else ""),
        steps=steps[0].astype(np.int64),
        returns=np.where(np.isfinite(returns), returns, np.nan),
        episodes=episodes.astype(np.int64),
        diverged_from=first_broken,
        evaluation=evaluations.get("last"),
        seconds=seconds,
        first_evaluation=evaluations.get("first"),
    )


def _minimum(returns: NDArray[np.float64]) -> float:
    known = returns[np.isfinite(returns)]
    return float(known.min()) if known.size else math.nan
