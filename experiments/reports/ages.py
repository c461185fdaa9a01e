"""What agents of each age reached in pipeline training."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.reports import meta_figures
from experiments.runs.reading import directories_with

NAME = "returns_by_age.csv"


def age_panels(directories: Sequence[Path]) -> list[meta_figures.AgePanel]:
    """What agents of each age reached in every pipeline training at or below the directories.

    Args:
        directories: where `returns_by_age.csv` is looked for, as `directories_with` does.

    Returns:
        A panel for each task of each run, in the order in which they are found.

    Raises:
        ValueError: a directory is none, or a file is not as pipeline training writes it; the
            sentence names it.
    """
    panels = []
    for folder in directories_with(directories, NAME):
        path = folder / NAME
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
            panels.append(meta_figures.AgePanel(f"{optimizer} on {environment}", ages, returns))
    return panels
