"""Where an iteration of PPO with Adam spends its time, and what its matrix products take alone.

    python -m experiments.benchmarks.ppo_profile [--out ppo_profile.csv] [--repeats 15]

Breakout-MinAtar with its published settings, one seed. `play` is the rollout with the values of all
states and next states, `learn` the epochs. `products` are the matrix products of a whole iteration
without anything else, of the same shapes and in the same order of loops: forward passes of the
rollout and of the values, and forward and backward passes of all minibatches. No learner that
does the same work can be faster than they are: `share` is a part's time over the iteration's, the
median over rounds.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from agents.ppo import PPOConfig, ppo
from experiments.benchmarks import timing
from experiments.command_line.main import prepare_xla
from experiments.online.tasks import TASKS, make_environment
from experiments.online.training import chain, ppo_config
from optim import OptimizerSpec

TASK = "Breakout-MinAtar"


def products(config: PPOConfig, inputs: int, outputs: int) -> Any:
    """The matrix products of an iteration, and arguments for them.

    Args:
        config: settings.
        inputs: size of an observation.
        outputs: of the actor; the critic has one.

    Returns:
        The function and its arguments. What it returns depends on all products.
    """
    key = jax.random.key(0)

    def network(outputs: int) -> list[jax.Array]:
        sizes = itertools.pairwise((inputs, *config.widths, outputs))
        return [jax.random.normal(key, shape) / shape[0] for shape in sizes]

    def forward(weights: Sequence[jax.Array], x: jax.Array) -> list[jax.Array]:
        seen = [x]
        for weight in weights:
            seen.append(seen[-1] @ weight)
        return seen

    def moved(weights: Sequence[jax.Array], x: jax.Array) -> list[jax.Array]:
        """Weights after forward and backward passes; of the first layer no inputs' gradient."""
        seen = forward(weights, x)
        gradient, new = seen.pop(), []
        for layer in reversed(range(len(weights))):
            new.append(weights[layer] - 1e-9 * (seen[layer].T @ gradient))
            gradient = gradient @ weights[layer].T if layer else gradient
        return new[::-1]

    def iteration(networks: Any, observations: jax.Array) -> Any:
        actor, critic = networks

        def step(total: jax.Array, x: jax.Array) -> tuple[jax.Array, None]:
            # On the total, or the products of different steps would be one.
            return total + forward(actor, x + 1e-9 * total)[-1].sum(), None

        total, _ = jax.lax.scan(step, jnp.float32(0), observations)
        for shift in (0.0, 1e-9):  # values and next values
            total += forward(critic, observations.reshape(-1, inputs) + shift * total)[-1].sum()
        batches = observations.reshape(config.minibatches, -1, inputs)

        def update(networks: Any, x: jax.Array) -> tuple[Any, None]:
            return [moved(weights, x) for weights in networks], None

        def epoch(networks: Any, _: None) -> tuple[Any, None]:
            return jax.lax.scan(update, networks, batches)

        return total, jax.lax.scan(epoch, networks, length=config.epochs)[0]

    shape = (config.num_steps, config.num_envs, inputs)
    observations = jax.random.bernoulli(key, 0.1, shape).astype(jnp.float32)
    return jax.jit(iteration), ([network(outputs), network(1)], observations)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("ppo_profile.csv"), help="CSV to write")
    parser.add_argument("--repeats", type=int, default=15, help="rounds (default: 15)")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error("--repeats must be at least 1.")
    prepare_xla()  # before the first use of a device
    circumstances = timing.circumstances()
    settings, environment = TASKS[TASK].settings, make_environment(TASK)
    config = ppo_config(settings, jnp.int32(1000))
    optimizer = chain(OptimizerSpec.parse("adam"), settings, config, jnp.float32(5e-3), None)
    learner = ppo(environment, config, optimizer)
    state, _ = jax.jit(learner.iterate)(jax.jit(learner.init)(jax.random.key(0)))
    iterate, play, learn = jax.jit(learner.iterate), jax.jit(learner.play), jax.jit(learner.learn)
    _, samples = play(state)
    inputs = samples.observation[0].size
    run, given = products(config, inputs, environment.action_space.size)
    seconds = timing.interleaved(
        {
            "iteration": lambda: iterate(state),
            "play": lambda: play(state),
            "learn": lambda: learn(state, samples),
            "products": lambda: run(*given),
        },
        arguments.repeats,
    )
    rows = [
        {
            "task": TASK,
            "part": part,
            "milliseconds": f"{1e3 * statistics.median(times):.2f}",
            "share": f"{timing.median_ratio(times, seconds['iteration']):.3f}",
        }
        | circumstances
        for part, times in seconds.items()
    ]
    timing.write(arguments.out, rows)


if __name__ == "__main__":
    main()
