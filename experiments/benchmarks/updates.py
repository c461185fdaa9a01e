"""Time of each optimizer's update relative to `optax.adam`'s, on the same networks.

    python -m experiments.benchmarks.updates [--out updates.csv] [--repeats 15] [--optimizers ...]

Trees: PPO's actor and critic on Breakout (59,908 parameters), and a 2x256 critic (offline RL's).
Each call runs a compiled scan of 200 updates from the same gradients; the figure is the median over
rounds of the ratio to Adam's time in the same round.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import optim
from agents import environments
from agents.ppo import PPOConfig, ppo
from experiments.benchmarks import timing

UPDATES = 200


def _trees() -> dict[str, Any]:
    breakout = environments.make("Breakout-MinAtar")
    learner = ppo(breakout, PPOConfig(iterations=1), optim.make("sgd", 1.0))
    key = jax.random.key(0)
    widths = (17, 256, 256, 1)
    critic = {
        f"Dense_{i}": {
            "kernel": jax.random.normal(jax.random.fold_in(key, i), shape) / shape[0] ** 0.5,
            "bias": jnp.zeros(shape[1:]),
        }
        for i, shape in enumerate(itertools.pairwise(widths))
    }
    return {"breakout": jax.jit(learner.init)(key).params, "2x256": critic}


def _updates(spec: str, params: Any) -> Callable[[], Any]:
    """A compiled function that does `UPDATES` updates on `params`."""
    optimizer = optim.make(spec, 1e-3)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    gradients = jax.tree.unflatten(
        structure,
        [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)],
    )

    def step(carry: Any, _: None) -> tuple[Any, None]:
        params, state = carry
        updates, state = optimizer.update(
            gradients,
            state,
            params,
            value=jnp.ones(()),
            activations=jax.tree.map(lambda p: jnp.ones(p.shape[-1:]), params),
            training_progress=jnp.zeros(()),
            batch_progress=jnp.zeros(()),
        )
        return (jax.tree.map(jnp.add, params, updates), state), None

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=UPDATES)[0])
    carry = (params, optimizer.init(params))
    return lambda: run(carry)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("updates.csv"), help="CSV to write")
    parser.add_argument("--repeats", type=int, default=15, help="rounds (default: 15)")
    parser.add_argument("--optimizers", nargs="+", help="specs (default: all names)")
    arguments = parser.parse_args()
    specs = ["adam", *(s for s in arguments.optimizers or optim.optimizer_names() if s != "adam")]
    circumstances = timing.circumstances()
    rows = []
    for tree, params in _trees().items():
        seconds = timing.interleaved(
            {spec: _updates(spec, params) for spec in specs}, arguments.repeats
        )
        rows += [
            {
                "tree": tree,
                "optimizer": spec,
                "microseconds": f"{statistics.median(seconds[spec]) / UPDATES * 1e6:.1f}",
                "relative_to_adam": f"{timing.median_ratio(seconds[spec], seconds['adam']):.2f}",
            }
            | circumstances
            for spec in specs
        ]
    timing.write(arguments.out, rows)


if __name__ == "__main__":
    main()
