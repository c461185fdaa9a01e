"""Learning rates chosen by small sweeps, whose agents are the lanes of one compiled program."""

from __future__ import annotations

import csv
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.online.run import RunConfig
from experiments.online.training import Compiled, Numbers, compiled, train
from experiments.runs.files import write_rows
from experiments.runs.paths import run_paths
from experiments.runs.reading import without_gaps

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
FURTHER = (0.01, 100.0)  # times the first rates: those below, and those above
SWEEP_SEEDS = (1000, 1001)
SEEDS = tuple(range(len(RATES) * len(SWEEP_SEEDS)))  # as many lanes: the same compiled program

Scores = Callable[[RunConfig, list[float]], np.ndarray]


def train_at_best(
    out: Path,
    name: str,
    run_at: Callable[[float], RunConfig],
    scores_of: Scores,
    first: Sequence[float],
    further: tuple[float, float],
) -> None:
    """Chooses a learning rate and trains with it, unless that is done.

    Args:
        out: directory of runs, and of `sweep.csv`.
        name: what is compared, as it is called there.
        run_at: the run at a learning rate.
        scores_of: from a run, whose own rate and seeds do not count, and rates to scores, shape
            (rates, seeds).
        first: see `search`.
        further: see `search`.
    """
    base = run_at(first[0])
    rate = chosen_rate(
        out / "sweep.csv",
        base.environment,
        name,
        lambda: search(functools.partial(scores_of, base), first, further),
    )
    run = run_at(rate)
    path = run_paths(out, [run.environment], [run.name])[run.environment, run.name]
    train(run, path, resume=path.exists())
    print(f"{run.environment} {name}: {run.optimizer}", flush=True)


def lanes(
    run: RunConfig, rates: Sequence[float], seeds: Sequence[int]
) -> tuple[Compiled, Numbers, Any]:
    """Agents at several learning rates before their first step, ordered by rate, then by seed.

    Args:
        run: what they share; its own rate and seeds do not count.
        rates: learning rates.
        seeds: of each rate's agents.

    Returns:
        The program, its numbers and the agents' state.
    """
    every = [(rate, seed) for rate in rates for seed in seeds]
    program, numbers, keys = compiled(dataclasses.replace(run, seeds=tuple(range(len(every)))))
    found = jax.vmap(jax.random.key)(np.asarray([seed for _, seed in every], np.uint32))
    numbers = numbers._replace(
        learning_rate=jax.device_put(
            np.asarray([rate for rate, _ in every], np.float32), numbers.learning_rate.sharding
        )
    )
    return program, numbers, program.init(numbers, jax.device_put(found, keys.sharding))


def areas(run: RunConfig, rates: list[float]) -> np.ndarray:
    """Mean returns over whole runs under several learning rates, shape (rates, sweep seeds)."""
    program, numbers, state = lanes(run, rates, SWEEP_SEEDS)
    points = []
    for point in range(run.points):
        count = (run.step(point + 1) - run.step(point)) // run.steps_per_iteration
        state, (sums, _, finite) = program.advance(numbers, state, jnp.int32(count))
        episodes = np.asarray(sums["episodes"])
        returns = np.asarray(sums["episode_return_sum"]) / np.maximum(episodes, 1)
        points.append(np.where(episodes > 0, returns, np.nan))
    means = without_gaps(np.stack(points, axis=1)).mean(axis=1)
    known = np.asarray(finite) & np.isfinite(means)
    return np.where(known, means, -np.inf).reshape(len(rates), len(SWEEP_SEEDS))


def search(
    scores_of: Callable[[list[float]], np.ndarray],
    first: Sequence[float],
    further: tuple[float, float],
) -> dict[float, float]:
    """Tries learning rates, and others beyond where the best is the smallest or the largest.

    Args:
        scores_of: from rates to scores, shape (rates, seeds).
        first: the rates that are tried first, ascending.
        further: what these are multiplied by for those below and for those above.

    Returns:
        The mean score of each rate.

    Examples:
        >>> search(lambda rates: -np.log10(np.array(rates))[:, None] ** 2, [0.01, 0.1], (0.01, 100))
        {0.01: -4.0, 0.1: -1.0, 1.0: 0.0, 10.0: -1.0}
    """
    scores: dict[float, float] = {}

    def attempt(rates: list[float]) -> None:
        scores.update(zip(rates, scores_of(rates).mean(axis=1).tolist(), strict=True))

    attempt([rounded(rate) for rate in first])
    beyond = {min(scores): further[0], max(scores): further[1]}
    if (edge := best(scores)) in beyond:
        attempt([rounded(rate * beyond[edge]) for rate in first])
    return scores


def best(scores: dict[float, float]) -> float:
    """The learning rate with the best score, of equal ones the first.

    Examples:
        >>> best({0.1: 1.0, 0.3: 2.0})
        0.3
    """
    return max(scores, key=lambda rate: scores[rate])


def rounded(rate: float) -> float:
    """A learning rate with two digits.

    Examples:
        >>> rounded(0.0123)
        0.012
    """
    return float(f"{rate:.2g}")


def chosen_rate(
    path: Path, environment: str, optimizer: str, scores_of: Callable[[], dict[float, float]]
) -> float:
    """The best learning rate, from a table of what was tried, which is done if it is not there.

    Args:
        path: the table, a CSV file.
        environment: what it is called there.
        optimizer: likewise.
        scores_of: does the sweep.
    """
    table: list[dict[str, str]] = []
    if path.exists():
        with path.open(newline="") as file:
            table = list(csv.DictReader(file))
    of_both = {"environment": environment, "optimizer": optimizer}
    scores = {
        float(row["learning_rate"]): float(row["score"]) for row in table if row | of_both == row
    }
    if scores:
        return best(scores)
    scores = scores_of()
    rate = best(scores)
    table += [
        {
            **of_both,
            "learning_rate": repr(tried),
            "score": repr(score),
            "chosen": str(int(tried == rate)),
        }
        for tried, score in sorted(scores.items())
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rows(path, table)
    return rate
