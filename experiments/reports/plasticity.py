"""What runs with diagnostics logged of their networks' plasticity, as panels of a figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.reports import figures
from experiments.reports.summary import by_task, title_of
from experiments.runs.reading import Run, read_metric

# What each column of metrics.csv is called; see `agents.diagnostics`.
_OF_EACH = {
    "dormant": "dormant share",
    "rank": "effective rank",
    "weight_norm": "norm of weights",
    "update_norm": "norm of update",
    "relative_update": "update / weights",
    "distance": "distance from start",
    "cosine": "cos(update, -gradient)",
}
TITLES = {
    f"{network}_{name}": f"{network.capitalize()}: {title}"
    for name, title in _OF_EACH.items()
    for network in ("actor", "critic")
} | {
    "clipped_share": "Share of clipped ratios",
    "updated_kl": "KL after the update",
    "value_error": "Error of values (RMS)",
}
"""Title of the panel by column."""

RULE = (
    "Plasticity: at each point that was diagnosed, a fresh rollout was played and learned from, "
    "and both were thrown away. Means over seeds, with 95% percentile intervals of the bootstrap. "
    "A seed whose networks are not finite has no values. Each measure is defined in "
    "agents/diagnostics.py."
)


def panels_by_task(runs: Sequence[Run]) -> dict[str, list[figures.Panel]]:
    """Panels of the runs with diagnostics, one for each measure that has values.

    Args:
        runs: as `load_runs` gives them.

    Returns:
        Panels by the title of the task; tasks without diagnosed points are left out.

    Raises:
        ValueError: if a run's metrics are not as documented.
    """
    found: dict[str, list[figures.Panel]] = {}
    for task, group in by_task(runs).items():
        diagnosed = [run for run in group if run.config["diagnostics_every"] and len(run.steps)]
        for column, title in TITLES.items():
            curves = []
            for run in diagnosed:
                values = read_metric(run, column)
                known = np.isfinite(values).any(axis=0)
                if known.any():
                    curves.append(figures.Curve(run.label, run.steps[known], values[:, known]))
            if curves:
                wide = figures.spans_decades(curves)
                panel = figures.Panel(title, curves, y_label="", logarithmic=wide)
                found.setdefault(title_of(*task), []).append(panel)
    return found
