"""Reads run directories, as `experiments.runs.directory` documents them.

A run is one environment, one optimizer and several seeds. Its directory holds `config.json`,
`metrics.csv` (a row per logged point and seed) and, once there, `evaluation.csv` (episodes after
training) and `timing.csv` (seconds since the start). Nothing else is read, nothing is trained.

Directories that differ in nothing but their seeds are one run: see `load_runs`.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.settings import LATER

FORMAT = 1  # of the run directory, as config.json states it
CIRCUMSTANCES = ("versions", "git_revision", "machine")  # keys of config.json: not what was asked


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One environment, one optimizer, several seeds: what was configured and what was logged."""

    path: Path
    config: Mapping[str, Any]  # config.json, see `_read_config`
    label: str  # the run's, or the optimizer's specification; numbered where another has the same
    steps: NDArray[np.int64]  # shape=(points,), environment steps per seed at the stretch's end
    returns: NDArray[np.float64]  # shape=(seeds, points), NaN where no episode was completed
    episodes: NDArray[np.int64]  # shape=(seeds, points), completed in the stretch
    diverged_from: NDArray[np.int64]  # shape=(seeds,), first diverged point; points if none
    evaluation: NDArray[np.float64] | None  # shape=(seeds,), None before the evaluation
    seconds: float  # wall seconds up to the last point, NaN where not logged
    parts: tuple[Run, ...] = ()  # the runs that were pooled into this one; none if it is one run

    @property
    def directories(self) -> tuple[Path, ...]:
        """Where it was read from: one directory, or those of the runs pooled into it."""
        return tuple(part.path for part in self.parts) or (self.path,)

    @property
    def task(self) -> tuple[str, str | None]:
        """Environment with its options, and backend: what makes returns comparable.

        The options are written as on the command line, e.g. `CartPole-v1:gravity=5`.
        """
        options = _options(self.config)
        texts = (
            f"{key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in sorted(options.items())
        )
        environment = self.config["environment"] + (":" if options else "") + ",".join(texts)
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
        lowest = self._lowest()
        if math.isnan(lowest):  # nothing was logged in training
            lowest = _minimum(self.evaluation)
        return np.where(self.diverged, lowest, self.evaluation)

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
    lines = _read_lines(run.path / "metrics.csv", ("point", "seed", column))
    logged = {
        (line.integer("seed"), line.integer("step")): line.number(column, empty=math.nan)
        for line in lines
    }
    rows = [[logged[seed, int(step)] for step in run.steps] for seed in run.config["seeds"]]
    return np.array(rows, np.float64).reshape(len(rows), len(run.steps))


def is_offline(run: Run) -> bool:
    """Whether the run learned from a data set; its steps are updates of the critic."""
    return "collapse_line" in run.config


def load_runs(paths: Iterable[str | os.PathLike[str]]) -> list[Run]:
    """Reads every run directory at or below the given ones.

    Directories that agree in everything but their seeds and the circumstances (versions, revision,
    machine), have logged the same steps and share no seed are pooled into one run, in the place of
    the first. Other runs of one optimizer on one task are numbered.

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
            "paths must hold run directories (with config.json and metrics.csv), found none below "
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
        asked = {k: v for k, v in run.config.items() if k not in ("seeds", *CIRCUMSTANCES)}
        asked["environment_options"] = _options(run.config)
        key = json.dumps(asked, sort_keys=True), run.steps.tobytes(), run.evaluation is None
        seeds = set(run.config["seeds"])
        for pool in alike.setdefault(key, []):
            if not any(seeds & set(other.config["seeds"]) for other in pool):
                pool.append(run)
                break
        else:
            pools.append([run])
            alike[key].append(pools[-1])
    return [_one(pool) for pool in pools]


def _one(parts: Sequence[Run]) -> Run:
    """One run of the seeds of several. Their seconds are added up."""
    if len(parts) == 1:
        return parts[0]
    evaluations = [part.evaluation for part in parts if part.evaluation is not None]
    return dataclasses.replace(
        parts[0],
        config={**parts[0].config, "seeds": [s for part in parts for s in part.config["seeds"]]},
        returns=np.concatenate([part.returns for part in parts]),
        episodes=np.concatenate([part.episodes for part in parts]),
        diverged_from=np.concatenate([part.diverged_from for part in parts]),
        evaluation=np.concatenate(evaluations) if evaluations else None,
        seconds=sum(part.seconds for part in parts),
        parts=tuple(parts),
    )


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
        label=config["label"] or config["optimizer"],
        steps=steps[0].astype(np.int64),
        returns=np.where(np.isfinite(returns), returns, np.nan),
        episodes=episodes.astype(np.int64),
        diverged_from=first_broken,
        evaluation=evaluation,
        seconds=seconds,
    )


def _minimum(returns: NDArray[np.float64]) -> float:
    known = returns[np.isfinite(returns)]
    return float(known.min()) if known.size else math.nan


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


_CONFIG_KEYS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "environment": ("a name", lambda v: isinstance(v, str) and v != ""),
    "backend": ("a name or null", lambda v: v is None or isinstance(v, str)),
    "optimizer": ("a specification", lambda v: isinstance(v, str) and v != ""),
    "label": ("a text or null", lambda v: v is None or (isinstance(v, str) and v != "")),
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
    "environment_options": ("an object", lambda v: isinstance(v, dict)),
    "evaluation_actions": ("a name", lambda v: isinstance(v, str) and v != ""),
}


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the environment, but for the backend, which has a place of its own."""
    return {k: v for k, v in config["environment_options"].items() if k != "backend"}


def _read_config(path: Path) -> dict[str, Any]:
    """Reads `config.json`, fills in what earlier versions left out, and sets a wrong one right.

    They wrote the return that is published for an environment whatever its options and backend.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of the JSON or of its encoding
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object, got a {type(config).__name__}.")
    if config.get("format") != FORMAT:
        raise ValueError(f"{path}: format must be {FORMAT}, got {config.get('format')!r}.")
    config.setdefault("environment_options", {})
    config.setdefault("label", None)
    if "collapse_line" not in config and isinstance(config.get("settings"), dict):
        config["settings"] = LATER | config["settings"]
    config.setdefault("evaluation_actions", "greedy" if "collapse_line" in config else "sampled")
    for key, (allowed, is_valid) in _CONFIG_KEYS.items():
        if key not in config:
            raise ValueError(f"{path}: {key} is missing; it must be {allowed}.")
        if not is_valid(config[key]):
            raise ValueError(f"{path}: {key} must be {allowed}, got {config[key]!r}.")
    if _options(config) or config["backend"] not in (None, "positional"):
        config["normaliser"] = None
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
