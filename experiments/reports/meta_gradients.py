"""What the meta-gradients of pipeline training were worth."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.reports import meta_figures

METRICS = "meta_metrics.csv"
_POINTS = 100  # at most, each the median of a stretch of meta-iterations
_COLUMNS = {
    "gradient_snr": "Signal to noise",
    "task_cosine_mean": "Cosine between tasks",
}


def gradient_panels(trainings: Sequence[Path]) -> list[meta_figures.GradientPanel]:
    """How much of the meta-gradient was signal, and how far tasks agreed, as training went on.

    Args:
        trainings: directories of pipeline trainings.

    Returns:
        A panel for each number that a training logged, none for those of earlier versions. Its
        points are medians over equal stretches of meta-iterations, at most 100 of them.

    Raises:
        ValueError: a file is not as pipeline training writes it; the sentence names it.
    """
    panels = []
    for folder in trainings:
        path = folder / METRICS
        if not path.is_file():
            continue
        try:
            config = json.loads((folder / "config.json").read_text())
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            title = f"{config['optimizer']} on {len(config['tasks'])} tasks"
            if len(config["tasks"]) == 1:
                title = f"{config['optimizer']} on {config['tasks']['0']['environment']}"
            for column, name in _COLUMNS.items():
                if rows and column in rows[0]:
                    values = np.array([float(row[column]) for row in rows])
                    panels.append(meta_figures.GradientPanel(title, name, *_medians(values)))
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(f"{path} or its config.json is damaged.") from None
    return panels


def _medians(
    values: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Middles of equal stretches, and the medians of the numbers in them; NaN where none is."""
    parts = np.array_split(np.arange(len(values)), min(_POINTS, len(values)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of stretches without a number
        medians = [np.nanmedian(values[part]) for part in parts]
    return np.array([part.mean() for part in parts]), np.array(medians)
