"""What meta-training is asked for, in the words of the command line."""

from __future__ import annotations

import dataclasses

# No jax at import: presets and the command line's help need none.


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaRequest:
    """What meta-training is asked for; what is None or empty, a preset or a default fills in.

    `rl-optim meta-train --help` explains each field, as the option of the same name.
    `experiments.meta_training.methods.meta_run` makes a run of it.
    """

    optimizer: str
    tasks: tuple[str, ...] = ()
    method: str = "es"
    preset: str | None = None
    strategy: str = "openai_es"
    pipeline: tuple[str, ...] = ()
    target: str | None = None
    imitation: tuple[str, ...] = ()
    learner: str | None = None
    learning_rates: tuple[str, ...] = ()
    reward_scales: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    normalisers: tuple[str, ...] = ()
    population: int = 64
    generations: int | None = None
    curriculum: tuple[str, ...] = ()
    lives: int = 1
    fitness: str = "final"
    randomise: tuple[str, ...] = ()
    sampling: str = "all"
    stretches: int | None = None
    at_once: int | None = None
    evaluate_every: int = 20
    evaluation_seeds: int = 4
    evaluation_steps: tuple[str, ...] = ()
    patience: int | None = None
    seed: int = 0
    set: tuple[str, ...] = ()
