"""Whole-run time of offline learning under AdamO relative to Adam.

    python -m experiments.benchmarks.offline_time [--out offline_time.csv] [--steps 200]
        [--repeats 9] [--optimizers adam adamo:kappa=1,tau=0.05 ...]

TD3+BC as published: two critics and an actor of 2x256, batches of 256, an actor update for every
second of the critic's; everything that a training step does is in it, on random data of Hopper's
sizes. The optimizer under test drives the critics, the actor keeps Adam. One call is a compiled
stretch of `--steps` updates of the critic; calls alternate between the optimizers, and the figure
is the median over rounds of the ratio to the first one's time in the same round.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import optim
from agents.offline.common import Transitions
from experiments.benchmarks import timing
from experiments.offline.algorithms import make_learner, resolve, settings_of

SIZES = (11, 3)  # Hopper's observation and action
TRANSITIONS = 10_000


def transitions() -> Transitions:
    """Random data."""
    draw = np.random.default_rng(0)
    observation, following = draw.normal(size=(2, TRANSITIONS, SIZES[0]))
    action, following_action = draw.uniform(-1, 1, (2, TRANSITIONS, SIZES[1]))
    return Transitions(
        observation=jnp.asarray(observation, jnp.float32),
        action=jnp.asarray(action, jnp.float32),
        reward=jnp.asarray(draw.normal(size=TRANSITIONS), jnp.float32),
        next_observation=jnp.asarray(following, jnp.float32),
        terminated=jnp.zeros(TRANSITIONS, bool),
        next_action=jnp.asarray(following_action, jnp.float32),
        has_next_action=jnp.ones(TRANSITIONS, bool),
    )


def stretch(
    critic: str, steps: int, data: Transitions, seeds: int | None = None
) -> Callable[[], Any]:
    """A compiled function that does so many updates of the critic, and what goes with them.

    Args:
        critic: its optimizer.
        steps: its updates.
        data: the data set.
        seeds: how many learners are vmapped; None for one without.
    """
    specs: dict[str, optim.OptimizerSpec] = {
        "actor": resolve("adam", 3e-4, critic=False),
        "critic": resolve(critic, 3e-4, critic=True),
    }
    learner = make_learner("td3_bc", *SIZES, settings_of("td3_bc"), specs, 1, steps, None)
    init, iterate, key = learner.init, learner.iterate, jax.random.key(0)
    if seeds is not None:
        init, iterate = jax.vmap(init), jax.vmap(iterate, in_axes=(0, None))
        key = jax.random.split(key, seeds)
    state, run = jax.jit(init)(key), jax.jit(iterate)
    return lambda: run(state, data)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("offline_time.csv"), help="CSV to write")
    parser.add_argument("--steps", type=int, default=200, help="updates in a call (default: 200)")
    parser.add_argument("--repeats", type=int, default=9, help="rounds (default: 9)")
    parser.add_argument(
        "--optimizers", nargs="+", default=["adam", "adamo:kappa=1,tau=0.05"], help="specs"
    )
    arguments = parser.parse_args()
    if arguments.steps < 2 or arguments.steps % 2 or arguments.repeats < 1:
        parser.error("--steps must be even and at least 2, --repeats at least 1.")
    circumstances = timing.circumstances()
    data = transitions()
    seconds = timing.interleaved(
        {name: stretch(name, arguments.steps, data) for name in arguments.optimizers},
        arguments.repeats,
    )
    first = arguments.optimizers[0]
    rows = [
        {
            "critic_optimizer": name,
            "milliseconds_per_update": f"{1e3 * statistics.median(times) / arguments.steps:.3f}",
            f"relative_to_{first.partition(':')[0]}": (
                f"{timing.median_ratio(times, seconds[first]):.3f}"
            ),
            "updates_per_call": arguments.steps,
            "rounds": arguments.repeats,
        }
        | circumstances
        for name, times in seconds.items()
    ]
    timing.write(arguments.out, rows)


if __name__ == "__main__":
    main()
