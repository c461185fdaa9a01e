r"""How much of each fitness is signal: does what is good on some seeds stay good on others?

    python -m experiments.benchmarks.fitness_signal --optimizer NAME@WEIGHTS \
        [--sigmas 0.1 0.25 0.5] [--members 64] [--seeds 16] [--tasks ...] [--out runs/signal]

Members are drawn around the optimizer's weights as evolution draws them, in mirrored pairs, with
the same directions for each sigma. All live on the same seeds. For each fitness and each way of
weighing it, the seeds are divided into halves, at random and again and again, and `correlation`
is the mean of the correlations over members between the two; `pairs` is that of the differences
within mirrored pairs, which is what moves the mean in evolution; `one_life` is what is left of
the latter with one life instead of half of them, by the Spearman-Brown formula. Intervals are 95
% bootstrap intervals over pairs.

Tasks and settings are those of `experiments.meta_training.protocol`. `lives.csv` keeps every
fitness, from which `signal.csv` is made. What is there already is not done again.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agents.ppo import ppo
from experiments.benchmarks.learned import meta_task
from experiments.benchmarks.tuned_adam import Lives, named
from experiments.command_line.main import prepare_xla
from experiments.meta_training.architectures import LearnedOptimizer
from experiments.meta_training.protocol import SETTINGS, SIGNAL, TASKS, TRAINING_TASKS, seed_keys
from experiments.meta_training.tasks import MetaTask
from experiments.reports.tables import csv_bytes, write_files
from meta.population import over_members
from meta.strategies import SHAPING, costs
from meta.task import FITNESS, final_rollouts, fitness_of, is_finite
from meta.trainer import MetaParams

SPLITS, RESAMPLES = 32, 400

Interval = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Row:
    """How much of a fitness is signal; with 95 % intervals.

    Attributes:
        task: the environment.
        optimizer: around whose weights members are.
        sigma: their standard deviation.
        fitness: of `meta.task.FITNESS`.
        shaping: of `meta.strategies.SHAPING`.
        lives: of each half.
        correlation: over members, between halves.
        pairs: over pairs, of the differences within them.
        one_life: of `pairs`, what it would be with one life.
        mean: fitness over all members, as it is.
        start: fitness of the weights themselves, on the same seeds.
        failed: share of lives that diverged.
    """

    task: str
    optimizer: str
    sigma: float
    fitness: str
    shaping: str
    lives: int
    correlation: float
    correlation_low: float
    correlation_high: float
    pairs: float
    pairs_low: float
    pairs_high: float
    one_life: float
    mean: float
    start: float
    failed: float


def members(start: MetaParams, sigma: float, count: int) -> MetaParams:
    """The weights themselves, then `count` members: half of them, and their mirror images."""
    leaves, structure = jax.tree.flatten(start)
    keys = jax.random.split(jax.random.key(0), len(leaves))

    def around(leaf: jax.Array, key: jax.Array) -> jax.Array:
        leaf = jnp.asarray(leaf)
        noise = sigma * jax.random.normal(key, (count // 2, *leaf.shape), leaf.dtype)
        return leaf[None] + jnp.concatenate([jnp.zeros_like(noise[:1]), noise, -noise])

    return jax.tree.unflatten(structure, map(around, leaves, keys))


def player(
    task: MetaTask, optimizer: LearnedOptimizer
) -> Callable[[MetaParams, jax.Array], jax.Array]:
    """From members and keys, (members, seeds), to every fitness, (members, seeds, fitness)."""
    whole, build = task.task(1), task.build(optimizer)

    def live(meta_params: MetaParams, key: jax.Array) -> jax.Array:
        learner = ppo(whole.environment, whole.config, build(meta_params))
        length = int(whole.config.iterations)
        end, metrics = jax.lax.scan(
            lambda life, _: learner.iterate(life), learner.init(key), length=length
        )
        found = fitness_of(metrics, final_rollouts(length))
        every = jnp.stack([found[name] for name in FITNESS])
        return jnp.where(is_finite(end.params), every, jnp.float32(jnp.nan))

    return jax.jit(over_members(live, None))


def signal(fitness: np.ndarray, shaping: str) -> tuple[Interval, Interval]:
    """Correlations over members, and over pairs, each with the ends of its interval.

    Args:
        fitness: of members, the mirror images last, shape (members, seeds).
        shaping: how it is weighed.

    Returns:
        Value, low and high of each.
    """
    random, (count, seeds) = np.random.default_rng(0), fitness.shape
    halves = []
    for _ in range(SPLITS):
        order = random.permutation(seeds)
        parts = (order[: seeds // 2], order[seeds // 2 : seeds // 2 * 2])
        halves.append([_weights(fitness[:, part], shaping) for part in parts])
    of_members = np.array(halves)  # (splits, halves, members)
    first, second = np.split(of_members, 2, axis=-1)
    drawn = random.integers(count // 2, size=(RESAMPLES, count // 2))
    both = np.concatenate([drawn, drawn + count // 2], axis=1)
    return _interval(of_members, both), _interval(first - second, drawn)


def _interval(values: np.ndarray, draws: np.ndarray) -> Interval:
    resampled = [_correlation(values[..., draw]) for draw in draws]
    low, high = np.quantile(resampled, [0.025, 0.975])
    return _correlation(values), float(low), float(high)


def _weights(fitness: np.ndarray, shaping: str) -> np.ndarray:
    """What members weigh in evolution, the better the more."""
    cost = np.asarray(costs(jnp.asarray(fitness, jnp.float32), shaping=shaping))
    if shaping == "ranks":
        cost = np.where(np.isnan(cost), np.inf, cost)
        less, equal = (cost[:, None] > cost).sum(1), (cost[:, None] == cost).sum(1)
        cost = less + 0.5 * (equal - 1)
    return -cost.astype(float)


def _correlation(values: np.ndarray) -> float:
    """Between halves, the mean over splits; 0 where nothing differs."""
    centred = values - values.mean(axis=-1, keepdims=True)
    products = (centred[:, 0] * centred[:, 1]).mean(axis=-1)
    spread = centred.std(axis=-1).prod(axis=-1)
    return float(np.divide(products, spread, out=np.zeros_like(spread), where=spread > 0).mean())


def one_life(correlation: float, lives: int) -> float:
    """What a correlation of means over so many lives is with one, by Spearman and Brown.

    Examples:
        >>> round(one_life(0.8, 4), 6)
        0.5
    """
    return correlation / (lives - (lives - 1) * correlation)


def rows(task: str, optimizer: str, sigma: float, fitness: np.ndarray) -> list[Row]:
    """Of every fitness, (1 + members, fitness, seeds), and each way of weighing it."""
    found = []
    for place, name in enumerate(FITNESS):
        start, lived = fitness[0, place], fitness[1:, place]
        for shaping in SHAPING:
            correlation, pairs = signal(lived, shaping)
            lives = lived.shape[1] // 2
            found.append(
                Row(
                    task,
                    optimizer,
                    sigma,
                    name,
                    shaping,
                    lives,
                    *correlation,
                    *pairs,
                    one_life(pairs[0], lives),
                    float(np.nanmean(lived)),
                    float(start.mean()),
                    float(np.isnan(lived).mean()),
                )
            )
    return found


def main() -> None:
    """Measures the signal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--optimizer", required=True, help="NAME[@WEIGHTS][:key=value,...]")
    parser.add_argument("--sigmas", nargs="+", type=float, default=[0.1, 0.25, 0.5])
    parser.add_argument("--members", type=int, default=64, help="an even number")
    parser.add_argument("--seeds", type=int, default=16, help="lives of each member")
    parser.add_argument("--tasks", nargs="+", default=list(TRAINING_TASKS), choices=list(TASKS))
    parser.add_argument("--setting", default="training", choices=list(SETTINGS))
    parser.add_argument("--at-once", type=int, default=8, help="members side by side")
    parser.add_argument("--out", type=Path, default=Path("runs/signal"), help="directory")
    arguments = parser.parse_args()
    if arguments.members < 4 or arguments.members % 2 or arguments.seeds < 2:
        parser.error("--members must be an even number, at least 4, and --seeds at least 2")
    try:
        optimizer, name = LearnedOptimizer.parse(arguments.optimizer), named(arguments.optimizer)
    except ValueError as error:
        raise SystemExit(f"{error}") from None
    prepare_xla()
    lives = Lives(arguments.out / "lives.csv")
    start = optimizer.init(jax.random.key(0))
    keys = seed_keys(SIGNAL, arguments.seeds)
    setting = SETTINGS[arguments.setting]
    found: list[Row] = []
    for task in arguments.tasks:
        play = player(meta_task(task, setting.steps, setting.changes), optimizer)
        for sigma in arguments.sigmas:
            everyone = members(start, sigma, arguments.members)
            names = [f"{name} sigma={sigma:g} member={i}" for i in range(arguments.members + 1)]

            def lived(places: list[int], everyone: Any = everyone, play: Any = play) -> np.ndarray:
                chosen = jax.tree.map(lambda leaf: leaf[np.array(places)], everyone)
                fitness = play(chosen, jnp.broadcast_to(keys, (len(places), *keys.shape)))
                return np.moveaxis(np.asarray(fitness), 2, 1).reshape(len(places), -1)

            key = {"setting": arguments.setting, "task": task, "stage": " ".join(FITNESS)}
            fitness = lives.of(key, names, arguments.seeds, lived, arguments.at_once)
            every = fitness.reshape(len(names), len(FITNESS), -1)
            found += rows(task, name, sigma, every)
            write_files(arguments.out, {"signal.csv": csv_bytes(found)})
    for row in found:
        print(
            f"{row.task} sigma {row.sigma:g} {row.fitness} {row.shaping}: members "
            f"{row.correlation:.2f}, pairs {row.pairs:.2f} [{row.pairs_low:.2f}, "
            f"{row.pairs_high:.2f}], with one life {row.one_life:.2f}"
        )


if __name__ == "__main__":
    main()
