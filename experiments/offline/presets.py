"""Offline comparisons by name, for `rl-optim offline --preset`; they bring their own data."""

from __future__ import annotations

import dataclasses

# No jax at import.


@dataclasses.dataclass(frozen=True)
class CollectionPlan:
    """Data that a preset collects before it trains, as `rl-optim collect` would.

    Attributes:
        env: environment, `NAME[:key=value,...]`.
        kind: which data set of it.
        size: transitions.
        steps: environment steps of the agent's training.
        seed: of everything.
        noise: standard deviation of the noise on the agent's mean actions; None draws from its own
            distribution.
    """

    env: str
    kind: str
    size: int
    steps: int
    seed: int
    noise: float | None = None

    @property
    def name(self) -> str:
        """Minari's name of the data set."""
        return f"{default_name(self.env)}/{self.kind}-v0"


def default_name(env: str) -> str:
    """First part of the names of an environment's data sets.

    Examples:
        >>> default_name("Hopper-v5"), default_name("ant:backend=spring")
        ('rl-optim/hopper', 'rl-optim/ant-spring')
    """
    name, _, options = env.partition(":")
    parts = [name.partition("-v")[0], *(part.partition("=")[2] for part in options.split(","))]
    kept = "-".join(filter(None, parts)).lower()
    return "rl-optim/" + "".join(c if c.isalnum() or c == "-" else "-" for c in kept)


@dataclasses.dataclass(frozen=True)
class OfflinePreset:
    """What an offline comparison trains; each field can be replaced on the command line.

    Attributes:
        description: one line.
        algorithm: the learner.
        collection: the data.
        subset: transitions of it that are used.
        critic_optimizers: `NAME[:key=value,...]`.
        learning_rate: of critic optimizers that name none.
        steps: updates of the critic of each seed.
        seeds: number of seeds.
        settings: changes to the algorithm's settings, `key=value`.
    """

    description: str
    algorithm: str
    collection: CollectionPlan
    subset: int | None
    critic_optimizers: tuple[str, ...]
    learning_rate: float
    steps: int
    seeds: int
    settings: tuple[str, ...] = ()


OFFLINE_PRESETS: dict[str, OfflinePreset] = {
    "r1": OfflinePreset(
        "TD3+BC on little Hopper data, where Adam's critic explodes and AdamO's does not.",
        "td3_bc",
        CollectionPlan("Hopper-v5", "medium", size=50_000, steps=50_000, seed=2026, noise=0.1),
        subset=10_000,
        critic_optimizers=("adam", "adamo:kappa=1,tau=0.05"),
        learning_rate=1e-3,
        steps=15_000,
        seeds=5,
        settings=(
            *("alpha=10", "polyak=0.01", "batch_size=64"),
            *("actor_widths=64x64", "critic_widths=64x64"),
        ),
    ),
}
