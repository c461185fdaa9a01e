r"""Final returns under learned optimizers, beside Adam and RMSProp tuned on the same tasks.

    python -m experiments.benchmarks.learned --optimizers open@small --tasks CartPole-v1 \
        --steps 2e4 --set widths=16x16 [--seeds 32] [--out learned.csv]

A lifetime of PPO (or A2C) is played on each task, and its return is what meta-training calls
fitness: the mean over the episodes of the last twentieth of its rollouts. Adam and RMSProp have
their learning rate, and whether it is annealed, chosen on each task for itself, by the mean over 8
seeds; so do learned optimizers after `--tuned`, which must take a learning rate. All results are on
other seeds, the same for all optimizers, and no learned optimizer has seen any. Intervals are 95 %
bootstrap intervals of the mean over seeds.

Weights, or what they are trained with, are chosen by `--selection`, with which results are on seeds
that neither tuning nor a report uses.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optim
from experiments.benchmarks import timing
from experiments.command_line.main import prepare_xla
from experiments.meta_training.architectures import LearnedOptimizer
from experiments.meta_training.tasks import LEARNERS, MetaTask, task_settings
from experiments.reports.statistics import mean, stratified_bootstrap
from experiments.settings import whole_number
from meta.population import evaluation
from meta.task import lifetimes
from meta.trainer import MetaParams

BASELINES = {"adam": optax.scale_by_adam, "rmsprop": optax.scale_by_rms}
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
LEARNED_RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
TUNING_SEEDS = 8
# Folded into a key that no training begins with.
_TUNING, _REPORT, _SELECTION = 2**30, 2**30 + 1, 2**30 + 2
_UNTRAINED = 0  # seed of weights that are drawn

Build = Callable[[Any], optax.GradientTransformation]


def meta_task(
    text: str,
    steps: int,
    assignments: Sequence[str],
    learner: str = "ppo",
    reward_scale: float = 1.0,
) -> MetaTask:
    """A task with its settings, returns as they are."""
    settings = task_settings(text, assignments, learner)
    return MetaTask(text, steps, 1.0, settings, learner, reward_scale=reward_scale)


def player(task: MetaTask, build: Build, seeds: int, stream: int) -> Callable[[Any], np.ndarray]:
    """From what an optimizer is built of to its returns on the stream's seeds."""
    clip = optim.clip_by_network_norm(task.settings.max_grad_norm)
    lives = lifetimes(task.task(1), lambda parts: optax.chain(clip, build(parts)))
    play = evaluation([lives], seeds)
    key = jax.random.fold_in(jax.random.key(0), stream)
    return lambda parts: play(parts, key)[0]


def schedule(parts: Any, updates: int) -> optax.Schedule:
    """A learning rate of which a share, 0 or 1, falls to 0 over so many updates."""

    def rate(count: jax.Array) -> jax.Array:
        done = count.astype(jnp.float32) / updates
        return parts["learning_rate"] * (1 - parts["annealed"] * done)

    return rate


def baseline(name: str, updates: int) -> Build:
    """A hand-crafted optimizer, from its learning rate and the share of it that is annealed."""
    return lambda parts: optax.chain(
        BASELINES[name](), optax.scale_by_learning_rate(schedule(parts, updates))
    )


def learned(text: str) -> tuple[LearnedOptimizer, MetaParams]:
    """`NAME@WEIGHTS[:key=value,...]`, or without weights one that is drawn and not trained."""
    optimizer = LearnedOptimizer.parse(text)
    return optimizer, optimizer.init(jax.random.key(_UNTRAINED))


def learned_with_rate(text: str, updates: int) -> Build:
    """A learned optimizer, from its learning rate and the share of it that is annealed.

    Raises:
        ValueError: if it takes no learning rate.
    """
    optimizer, meta_params = learned(text)
    if "learning_rate" not in inspect.signature(optimizer.architecture.transform).parameters:
        raise ValueError(f"--tuned must take a learning rate; {text!r} takes none.")

    def build(parts: Any) -> optax.GradientTransformation:
        options = optimizer.options | {"learning_rate": schedule(parts, updates)}
        return dataclasses.replace(optimizer, options=options).transform(meta_params)

    return build


def tuned(text: str, task: MetaTask, seeds: int, stream: int = _REPORT) -> tuple[str, np.ndarray]:
    """The best learning rate's text, and its returns on the stream's seeds."""
    config = task.task(1).config
    updates = task.iterations(1) * config.epochs * config.minibatches
    build, rates = (
        (baseline(text, updates), RATES)
        if text in BASELINES
        else (learned_with_rate(text, updates), LEARNED_RATES)
    )
    tune = player(task, build, TUNING_SEEDS, _TUNING)
    scores = {
        pair: float(tune(_parts(*pair)).mean()) for pair in itertools.product(rates, (0.0, 1.0))
    }
    rate, annealed = max(scores, key=lambda pair: (not np.isnan(scores[pair]), scores[pair]))
    separator = "," if ":" in text else ":"
    label = f"{text}{separator}learning_rate={rate:g}" + (" (annealed)" if annealed else "")
    return label, player(task, build, seeds, stream)(_parts(rate, annealed))


def _parts(rate: float, annealed: float) -> dict[str, jax.Array]:
    return {"learning_rate": jnp.float32(rate), "annealed": jnp.float32(annealed)}


def learned_returns(text: str, task: MetaTask, seeds: int, stream: int = _REPORT) -> np.ndarray:
    """Returns as the optimizer's text has it."""
    optimizer, meta_params = learned(text)
    return player(task, optimizer.transform, seeds, stream)(meta_params)


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = "NAME@WEIGHTS[:key=value,...], or NAME[:...] for untrained weights"
    parser.add_argument("--optimizers", nargs="+", default=[], help=names)
    parser.add_argument("--tuned", nargs="+", default=[], help=f"likewise: {names}")
    parser.add_argument("--baselines", nargs="*", default=["adam"], choices=list(BASELINES))
    parser.add_argument("--tasks", nargs="+", required=True, help="environments")
    parser.add_argument("--steps", type=whole_number, required=True, help="of a lifetime")
    parser.add_argument("--set", nargs="*", default=[], help="settings of PPO, KEY=VALUE")
    parser.add_argument("--learner", default="ppo", choices=LEARNERS)
    parser.add_argument(
        "--reward-scales", nargs="+", type=float, default=[1.0], help="one, or one for each task"
    )
    parser.add_argument("--seeds", type=int, default=32, help="of the results (default: 32)")
    parser.add_argument("--selection", action="store_true", help="results on seeds for selection")
    parser.add_argument("--out", type=Path, default=Path("learned.csv"), help="CSV to write")
    arguments = parser.parse_args()
    scales = arguments.reward_scales
    if len(scales) == 1:
        scales = scales * len(arguments.tasks)
    if len(scales) != len(arguments.tasks):
        parser.error("--reward-scales must be one, or one for each task")
    stream = _SELECTION if arguments.selection else _REPORT
    prepare_xla()
    circumstances = timing.circumstances()
    rows = []
    for name, scale in zip(arguments.tasks, scales, strict=True):
        try:
            task = meta_task(name, arguments.steps, arguments.set, arguments.learner, scale)
            for text in arguments.tuned:
                learned_with_rate(text, 1)
            for text in arguments.optimizers:
                learned(text)
        except ValueError as error:
            raise SystemExit(f"{error}") from None
        results = {}
        for text in [*arguments.baselines, *arguments.tuned]:
            start = time.monotonic()
            label, returns = tuned(text, task, arguments.seeds, stream)
            results[label] = returns, time.monotonic() - start
        for text in arguments.optimizers:
            start = time.monotonic()
            returns = learned_returns(text, task, arguments.seeds, stream)
            results[text] = returns, time.monotonic() - start
        for label, (returns, seconds) in results.items():
            # A run that diverged has no return; then there is no interval either.
            finite = bool(np.isfinite(returns).all())
            low, high = stratified_bootstrap(returns, mean) if finite else (np.nan, np.nan)
            rows.append(
                {
                    "task": name,
                    "optimizer": label,
                    "mean": f"{returns.mean():.4g}",
                    "low": f"{low:.4g}",
                    "high": f"{high:.4g}",
                    "steps": task.iterations(1) * task.settings.num_envs * task.settings.num_steps,
                    "settings": " ".join([arguments.learner, *arguments.set])
                    + ("" if scale == 1.0 else f" reward_scale={scale:g}")
                    + (" selection" if arguments.selection else ""),
                    "seconds": f"{seconds:.0f}",
                    "returns": " ".join(f"{value:.4g}" for value in returns),
                }
                | circumstances
            )
            print(*list(rows[-1].values())[:5], flush=True)
        timing.write(arguments.out, rows, show=False)  # what follows may be cut short


if __name__ == "__main__":
    main()
