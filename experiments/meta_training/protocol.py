r"""What learned optimizers are trained, selected and judged on: fixed before any is trained.

Seeds of training are those of `meta-train`; the best weights of a run are selected on evaluations
of `meta-train`; baselines are tuned, and results reported, on seeds that serve nothing else. Tasks
of which weights are held out, and settings other than that of training, come into the report alone.

    rl-optim meta-train --optimizer ... --tasks Breakout-MinAtar Asterix-MinAtar --steps 1e5 \
        --set widths=32x32 num_envs=32 num_steps=64 minibatches=4 --evaluation-seeds 32 ...

trains by it.
"""

from __future__ import annotations

import dataclasses

import jax

TRAINING_TASKS = ("Breakout-MinAtar", "Asterix-MinAtar")
HELD_OUT_TASKS = ("SpaceInvaders-MinAtar", "Freeway-MinAtar")
TASKS = (*TRAINING_TASKS, *HELD_OUT_TASKS)

# Folded into a key that no training begins with.
SELECTION, TUNING, REPORT, SEARCH, SIGNAL = (2**31 + stream for stream in range(5))


@dataclasses.dataclass(frozen=True)
class Setting:
    """How agents live in a comparison.

    Attributes:
        steps: environment steps of a lifetime, at least; whole rollouts are done.
        changes: to the tasks' published settings, `key=value`.
    """

    steps: int
    changes: tuple[str, ...] = ()


_SMALL = ("widths=32x32", "num_envs=32", "num_steps=64", "minibatches=4")
SETTINGS = {
    "training": Setting(100_000, _SMALL),
    "horizon": Setting(400_000, _SMALL),
    "published": Setting(1_000_000),
}
"""By name: that of training, its lifetimes four times as long, and the published networks."""


def seed_keys(stream: int, seeds: int) -> jax.Array:
    """Keys of lifetimes, the same for all tasks, settings and optimizers.

    Args:
        stream: `TUNING`, `REPORT`, `SEARCH` or `SIGNAL`; evaluations of `meta-train` are of
            `SELECTION`.
        seeds: how many.

    Returns:
        Typed keys of shape (seeds,).
    """
    return jax.random.split(jax.random.fold_in(jax.random.key(0), stream), seeds)
