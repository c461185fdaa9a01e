"""Reads the files of run directories, and names the line that is not as documented."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.settings import LATER

FORMAT = 1  # of the run directory, as config.json states it


def options_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the environment, but for the backend, which has a place of its own."""
    return {k: v for k, v in config["environment_options"].items() if k != "backend"}


def environment_text(name: str, options: Mapping[str, Any]) -> str:
    """An environment as on the command line, `NAME[:key=value,...]`.

    Examples:
        >>> environment_text("CartPole-v1", {"gravity": 5, "easy": True})
        'CartPole-v1:easy=true,gravity=5'
    """
    texts = (
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in sorted(options.items())
    )
    return name + (":" if options else "") + ",".join(texts)


def is_restarted(config: Mapping[str, Any]) -> bool:
    """Whether the agents of a run start afresh in each phase of a changing task."""
    settings = config.get("settings")
    return isinstance(settings, Mapping) and settings.get("restart") is True


def read_evaluations(path: Path, seeds: Sequence[int]) -> dict[str, NDArray[np.float64]]:
    """Reads the returns of the seeds by the dynamics that were played: the last, or the first.

    Tasks that do not change have but the last. Without a file there is nothing.
    """
    if not path.is_file():
        return {}
    found: dict[str, dict[int, float]] = {"last": {}}
    for line in read_lines(path, ("seed", "episode_return")):
        dynamics = line.cells.get("dynamics", "last")
        if dynamics not in ("last", "first"):
            raise ValueError(f"{line.where}: dynamics must be last or first, got {dynamics!r}.")
        returns = found.setdefault(dynamics, {})
        returns[line.integer("seed")] = line.number("episode_return", empty=math.nan)
    return {
        dynamics: np.array([returns.get(seed, math.nan) for seed in seeds])
        for dynamics, returns in found.items()
    }


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
    "phase_steps": ("a positive whole number or null", lambda v: v is None or _is_count(v)),
    "diagnostics_every": (
        "a positive whole number or null",
        lambda v: v is None or _is_count(v),
    ),
}


def read_config(path: Path) -> dict[str, Any]:
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
    config.setdefault("phase_steps", None)
    if "collapse_line" not in config and isinstance(config.get("settings"), dict):
        config["settings"] = LATER | config["settings"]
    config.setdefault("diagnostics_every", None)
    config.setdefault("evaluation_actions", "greedy" if "collapse_line" in config else "sampled")
    for key, (allowed, is_valid) in _CONFIG_KEYS.items():
        if key not in config:
            raise ValueError(f"{path}: {key} is missing; it must be {allowed}.")
        if not is_valid(config[key]):
            raise ValueError(f"{path}: {key} must be {allowed}, got {config[key]!r}.")
    if options_of(config) or config["backend"] not in (None, "positional"):
        config["normaliser"] = None
    return config


def read_metrics(
    path: Path, seeds: Sequence[int]
) -> tuple[list[int], dict[tuple[int, int], tuple[int, float, int, int]]]:
    """Reads the complete points and, by point and seed, (step, return, episodes, diverged)."""
    logged = {}
    columns = ("point", "step", "seed", "episode_return", "episodes", "diverged")
    for line in read_lines(path, columns):
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
class Line:
    """A line of a CSV file, which knows where it stands when it complains."""

    where: str
    cells: Mapping[str, str]

    def number(self, column: str, empty: float | None = None) -> float:
        """A cell as a number; what an empty one is, if it may be."""
        text = self.cells[column]
        if text == "" and empty is not None:
            return empty
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{self.where}: {column} must be a number, got {text!r}.") from None

    def integer(self, column: str) -> int:
        """A cell as a whole number."""
        value = self.number(column)
        if not value.is_integer():
            raise ValueError(
                f"{self.where}: {column} must be a whole number, got {self.cells[column]!r}."
            )
        return int(value)


def read_lines(path: Path, columns: Sequence[str]) -> list[Line]:
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
        lines.append(Line(where, dict(zip(header, cells, strict=True))))
    return lines
