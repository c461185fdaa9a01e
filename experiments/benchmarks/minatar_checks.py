"""Runs that look for the cause where a MinAtar return is not the published one.

    python -m experiments.benchmarks.minatar_checks CHECK GAME --out runs/checks

Each differs from the preset `minatar` in one thing: `seeds` trains seeds 4 to 7 instead of 0 to 3,
`eps` gives Adam optax's 1e-8, `limits` takes time limits for ends of episodes, as OPEN's authors
do. A run that was killed goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp

from agents.environment import State
from agents.wrappers import Step, Wrapper
from experiments.command_line.main import prepare_xla
from experiments.online import training
from experiments.online.run import RunConfig
from experiments.online.tasks import TASKS, make_environment

CHECKS = ("seeds", "eps", "limits")


class LimitsEnd(Wrapper):
    """Reports an episode that a time limit cut off as terminated."""

    def reset(self, key: jax.Array) -> tuple[jax.Array, State]:
        """See `Environment.reset`."""
        return self.environment.reset(key)

    def step(self, key: jax.Array, state: State, action: jax.Array) -> Step:
        """See `Environment.step`."""
        observation, state, reward, terminated, truncated, info = self.environment.step(
            key, state, action
        )
        ended = jnp.logical_or(terminated, truncated)
        return observation, state, reward, ended, jnp.zeros_like(truncated), info


def main() -> None:
    """Runs one check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("game", choices=[name for name in TASKS if name.endswith("MinAtar")])
    parser.add_argument("--out", type=Path, default=Path("runs/checks"), help="directory of runs")
    arguments = parser.parse_args()
    prepare_xla()
    if arguments.check == "limits":
        # The run's name for the environment stays, so that all else is the same.
        training.make_environment = lambda text: LimitsEnd(make_environment(text))  # type: ignore[assignment]
    run = RunConfig(
        environment=arguments.game,
        optimizer="adam:eps=1e-8" if arguments.check == "eps" else "adam",
        steps=10**7,
        seeds=(4, 5, 6, 7) if arguments.check == "seeds" else (0, 1, 2, 3),
        settings=TASKS[arguments.game].settings,
    )
    path = arguments.out / arguments.check / arguments.game
    training.train(run, path, resume=path.exists())


if __name__ == "__main__":
    main()
