"""Comparisons by name, for `rl-optim compare --preset`."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Preset:
    """What a comparison trains; each field can be replaced on the command line.

    Attributes:
        description: one line.
        envs: environments, `NAME[:key=value,...]`.
        optimizers: optimizers, `NAME[@WEIGHTS][:key=value,...]`.
        steps: environment steps of each seed.
        seeds: number of seeds.
        settings: changes to the tasks' settings, `key=value`.
    """

    description: str
    envs: tuple[str, ...]
    optimizers: tuple[str, ...]
    steps: int
    seeds: int
    settings: tuple[str, ...] = ()


PRESETS = {
    "quickstart": Preset(
        "Breakout under four optimizers, one of them learned, in minutes on two cores.",
        ("Breakout-MinAtar",),
        ("adam", "rmsprop", "adamo", "open@breakout"),
        steps=500_000,
        seeds=4,
    ),
    "minatar": Preset(
        "PPO with tuned Adam on the four MinAtar games with published returns.",
        ("Breakout-MinAtar", "Asterix-MinAtar", "Freeway-MinAtar", "SpaceInvaders-MinAtar"),
        ("adam",),
        steps=10_000_000,
        seeds=4,
    ),
    "ant": Preset(
        "Brax's ant on the spring pipeline, the quickest on a CPU.",
        ("ant:backend=spring",),
        ("adam",),
        steps=3_000_000,
        seeds=2,
    ),
}
