"""Differences of phase ends between arms, paired by seed: mean and 95 % bootstrap interval.

    python -m experiments.benchmarks.paired_phases

It reads what the presets `collapse` and `clipping` gave, `phases.csv` in `experiments/results`, and
prints each arm minus Adam as it comes; those with scaled rewards also minus Adam with them; and
learned optimizers minus each other and agents that start from scratch.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parents[1] / "results"
TASK = "CartPole-v1:flip=true,phase=20480"


def phase_ends(path: Path) -> dict[str, np.ndarray]:
    """Mean return at the ends of phases of each seed, by arm."""
    found: dict[str, dict[int, list[float]]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            if row["environment"] == TASK and row["end_return"]:
                seeds = found.setdefault(row["optimizer"], {})
                seeds.setdefault(int(row["seed"]), []).append(float(row["end_return"]))
    return {
        arm: np.array([np.mean(seeds[s]) for s in sorted(seeds)]) for arm, seeds in found.items()
    }


def main() -> None:
    """Prints the table."""
    scratch = "from scratch, scaled rewards"
    for folder, base, compared in (
        ("collapse", "adam", ""),
        ("collapse", "adam, scaled rewards", ("optim4rl", scratch)),
        ("collapse", "optim4rl", "optim4rl"),
        ("collapse", "optim4rl, curriculum", "optim4rl, transfer"),
        ("collapse", scratch, "optim4rl"),
        ("clipping", "all clips", ""),
    ):
        ends = phase_ends(RESULTS / folder / "phases.csv")
        for arm, values in ends.items():
            if arm == base or not arm.startswith(compared):
                continue
            difference = values - ends[base]
            draws = np.random.default_rng(0).integers(0, len(difference), (10_000, len(difference)))
            low, high = np.percentile(difference[draws].mean(axis=1), [2.5, 97.5])
            print(f"{arm} - {base}: {difference.mean():.0f} [{low:.0f}, {high:.0f}]")


if __name__ == "__main__":
    main()
