"""Differences of phase ends between arms, paired by seed: mean and 95 % bootstrap interval.

    python -m experiments.benchmarks.paired_phases

It reads what the presets `collapse`, `collapse_minatar` and `clipping` gave, `phases.csv` in
`experiments/results`, and prints each arm minus Adam as it comes (on CartPole those with scaled
rewards also minus Adam with them, on Breakout also minus tuned Adam), and learned optimizers minus
each other and agents that start from scratch.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parents[1] / "results"
TASKS = {
    "collapse": "CartPole-v1:flip=true,phase=20480",
    "clipping": "CartPole-v1:flip=true,phase=20480",
    "collapse_minatar": "Breakout-MinAtar:permute=both,phase=102400",
}


def phase_ends(path: Path, task: str) -> dict[str, np.ndarray]:
    """Mean return at the ends of a task's phases of each seed, by arm."""
    found: dict[str, dict[int, list[float]]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            if row["environment"] == task and row["end_return"]:
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
        ("collapse_minatar", "adam", ""),
        ("collapse_minatar", "tuned adam", ""),
        ("collapse_minatar", "optim4rl", "optim4rl"),
        ("collapse_minatar", "optim4rl, curriculum", "optim4rl, transfer"),
        ("collapse_minatar", "from scratch, tuned", "optim4rl"),
    ):
        ends = phase_ends(RESULTS / folder / "phases.csv", TASKS[folder])
        places = 0 if np.abs(list(ends.values())).max() > 50 else 2
        for arm, values in ends.items():
            if arm == base or not arm.startswith(compared):
                continue
            difference = values - ends[base]
            draws = np.random.default_rng(0).integers(0, len(difference), (10_000, len(difference)))
            low, high = np.percentile(difference[draws].mean(axis=1), [2.5, 97.5])
            mean, low, high = (f"{x:.{places}f}" for x in (difference.mean(), low, high))
            print(f"{folder}: {arm} - {base}: {mean} [{low}, {high}]")


if __name__ == "__main__":
    main()
