r"""Final returns under learned optimizers, beside Adam and RMSProp tuned on the same tasks.

    python -m experiments.benchmarks.learned --optimizers open@small --tasks CartPole-v1 \
        --steps 2e4 --set widths=16x16 [--seeds 32] [--out learned.csv]

A lifetime of PPO (or A2C) is played on each task, and its return is what meta-training calls
fitness: the mean over the episodes of the last twentieth of its rollouts. Adam and RMSProp have
their learning rate, and whether it is annealed, chosen on each task for itself, by the mean over 8
seeds; all results are on other seeds, the same for all optimizers, and no learned optimizer has
seen any. Intervals are 95 % bootstrap intervals of the mean over seeds.
"""

from __future__ import annotations

import argparse
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
from experiments.architectures import LearnedOptimizer
from experiments.benchmarks import timing
from experiments.cli import prepare_xla
from experiments.meta_tasks import LEARNERS, MetaTask
from experiments.settings import change_settings, whole_number
from experiments.statistics import mean, stratified_bootstrap
from experiments.tasks import TASKS, parse_environment
from meta.population import evaluation
from meta.task import lifetimes

BASELINES = {"adam": optax.scale_by_adam, "rmsprop": optax.scale_by_rms}
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
TUNING_SEEDS = 8
_TUNING, _REPORT = 2**30, 2**30 + 1  # folded into a key that no training begins with


def meta_task(text: str, steps: int, assignments: Sequence[str], learner: str = "ppo") -> MetaTask:
    """A task with its settings, returns as they are."""
    settings = TASKS[parse_environment(text)[0]].settings
    settings = change_settings(settings, [*assignments, "anneal=false"])
    return MetaTask(text, steps, 1.0, settings, learner)


def player(
    task: MetaTask, build: Callable[[Any], optax.GradientTransformation], seeds: int, stream: int
) -> Callable[[Any], np.ndarray]:
    """From what an optimizer is built of to its returns on the stream's seeds."""
    clip = optim.clip_by_network_norm(task.settings.max_grad_norm)
    lives = lifetimes(task.task(1), lambda parts: optax.chain(clip, build(parts)))
    play = evaluation([lives], seeds)
    key = jax.random.fold_in(jax.random.key(0), stream)
    return lambda parts: play(parts, key)[0]


def baseline(name: str, updates: int) -> Callable[[Any], optax.GradientTransformation]:
    """A hand-crafted optimizer, from its learning rate and the share of it that is annealed."""

    def build(parts: Any) -> optax.GradientTransformation:
        def rate(count: jax.Array) -> jax.Array:
            done = count.astype(jnp.float32) / updates
            return parts["learning_rate"] * (1 - parts["annealed"] * done)

        return optax.chain(BASELINES[name](), optax.scale_by_learning_rate(rate))

    return build


def tuned(name: str, task: MetaTask, seeds: int) -> tuple[str, np.ndarray]:
    """The best learning rate's text, and its returns on the report's seeds."""
    config = task.task(1).config
    build = baseline(name, task.iterations(1) * config.epochs * config.minibatches)
    tune = player(task, build, TUNING_SEEDS, _TUNING)
    scores = {
        pair: float(tune(_parts(*pair)).mean()) for pair in itertools.product(RATES, (0.0, 1.0))
    }
    rate, annealed = max(scores, key=lambda pair: (not np.isnan(scores[pair]), scores[pair]))
    text = f"{name}:learning_rate={rate:g}" + (" (annealed)" if annealed else "")
    return text, player(task, build, seeds, _REPORT)(_parts(rate, annealed))


def _parts(rate: float, annealed: float) -> dict[str, jax.Array]:
    return {"learning_rate": jnp.float32(rate), "annealed": jnp.float32(annealed)}


def learned_returns(text: str, task: MetaTask, seeds: int) -> np.ndarray:
    """Returns under `NAME@WEIGHTS[:key=value,...]`."""
    optimizer = LearnedOptimizer.parse(text)
    if optimizer.start is None:
        raise SystemExit(f"--optimizers must name weights, NAME@WEIGHTS; got {text!r}.")
    return player(task, optimizer.transform, seeds, _REPORT)(optimizer.start)


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--optimizers", nargs="+", default=[], help="NAME@WEIGHTS")
    parser.add_argument("--baselines", nargs="*", default=["adam"], choices=list(BASELINES))
    parser.add_argument("--tasks", nargs="+", required=True, help="environments")
    parser.add_argument("--steps", type=whole_number, required=True, help="of a lifetime")
    parser.add_argument("--set", nargs="*", default=[], help="settings of PPO, KEY=VALUE")
    parser.add_argument("--learner", default="ppo", choices=LEARNERS)
    parser.add_argument("--seeds", type=int, default=32, help="of the report (default: 32)")
    parser.add_argument("--out", type=Path, default=Path("learned.csv"), help="CSV to write")
    arguments = parser.parse_args()
    prepare_xla()
    circumstances = timing.circumstances()
    rows = []
    for name in arguments.tasks:
        try:
            task = meta_task(name, arguments.steps, arguments.set, arguments.learner)
        except ValueError as error:
            raise SystemExit(f"{error}") from None
        results = {}
        for text in arguments.baselines:
            start = time.monotonic()
            label, returns = tuned(text, task, arguments.seeds)
            results[label] = returns, time.monotonic() - start
        for text in arguments.optimizers:
            start = time.monotonic()
            returns = learned_returns(text, task, arguments.seeds)
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
                    "settings": " ".join([arguments.learner, *arguments.set]),
                    "seconds": f"{seconds:.0f}",
                    "returns": " ".join(f"{value:.4g}" for value in returns),
                }
                | circumstances
            )
            print(*list(rows[-1].values())[:5], flush=True)
    timing.write(arguments.out, rows, show=False)


if __name__ == "__main__":
    main()
