"""Small runs, and damage to their files."""

import dataclasses
from pathlib import Path

from experiments.online.run import RunConfig
from experiments.runs.directory import RunDirectory
from experiments.settings import Settings

TINY = Settings(num_envs=4, num_steps=16, minibatches=2, epochs=2, widths=(8, 8))
ITERATION = TINY.num_envs * TINY.num_steps


def tiny_run(
    optimizer: str = "adam", iterations: int = 12, seeds: int = 3, environment: str = "CartPole-v1"
) -> RunConfig:
    """A run of PPO that takes a second once it is compiled."""
    return RunConfig(environment, optimizer, iterations * ITERATION, tuple(range(seeds)), TINY)


def small_run(iterations: int) -> RunConfig:
    """One that may be prolonged."""
    settings = dataclasses.replace(TINY, anneal=False)
    return dataclasses.replace(tiny_run(iterations=iterations), settings=settings)


def results(path: Path) -> dict[str, bytes]:
    """The files that have to come out the same however often a run was interrupted."""
    return {name: (path / name).read_bytes() for name in ("metrics.csv", "evaluation.csv")}


def create(path: Path, config: dict[str, object], **options: object) -> RunDirectory:
    """Opens a run directory in which nothing is expected to be damaged."""

    def on_note(sentence: str) -> None:
        raise AssertionError(sentence)

    how = {"resume": False, "overwrite": False, "on_note": on_note} | options
    return RunDirectory.create(path, config, **how)  # type: ignore[arg-type]


def flip_bit(path: Path) -> None:
    """Changes one bit two thirds into a file."""
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 16
    path.write_bytes(content)


def cut_in_half(path: Path) -> None:
    """Leaves the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
