"""Trains several seeds into a run directory: the loop that online and offline training share."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from agents.policies import POLICIES_FILE, NetworkPolicy, policies_of_seeds, save_policies
from experiments.runs.compiled import forget_if_many
from experiments.runs.directory import RunDirectory
from experiments.runs.stopping import deferred

Row = dict[str, Any]  # of a CSV file


class Program(NamedTuple):
    """What is trained: functions of states whose arrays have a leading axis of seeds."""

    init: Callable[[], Any]  # () -> state
    advance: Callable[[int, Any], tuple[Any, list[Row]]]  # (point, state) -> (state, rows)
    policies: Callable[[Any], NetworkPolicy]  # state -> the trained ones
    evaluate: Callable[[Any], list[Row]]  # state -> rows of evaluation.csv


class Point(NamedTuple):
    """What is known after a logged stretch."""

    number: int  # 0, 1, ...
    step: int  # of each seed so far
    seconds: float  # wall time since the run began
    rows: Sequence[Mapping[str, Any]]  # of metrics.csv, one for each seed

    def column(self, name: str) -> np.ndarray:
        """A column of the rows as numbers, shape (seeds,); NaN where a cell is empty."""
        cells = [row[name] for row in self.rows]
        return np.array([math.nan if cell == "" else float(cell) for cell in cells])


def train_seeds(
    path: Path,
    config: Mapping[str, Any],
    program: Callable[[], Program],
    *,
    files: Mapping[str, bytes],
    points: int,
    step: Callable[[int], int],
    resume: bool,
    overwrite: bool,
    on_start: Callable[[int], None],
    on_point: Callable[[Point], None],
    on_note: Callable[[str], None],
    checkpoint_seconds: float,
) -> None:
    """Trains a run into a directory, or finishes one that was cut short.

    Args:
        path: the run directory.
        config: what `config.json` says, but for the circumstances.
        program: builds what is trained; called only if anything is left to do.
        files: what the run was made from and the directory is to keep, by name.
        points: logged points.
        step: steps of each seed once so many points are logged.
        resume: continue what is in the directory. The metrics come out as without the interruption,
            bit for bit (on the same machine, devices and versions).
        overwrite: replace the run in the directory.
        on_start: called once, with the steps that each seed had done before.
        on_point: called after each logged stretch.
        on_note: called with a sentence when something in the directory turns out to be damaged.
        checkpoint_seconds: least time between two checkpoints.

    Raises:
        ValueError: see `RunDirectory.create`.
        OSError: if something cannot be written; what was logged can be resumed.
        Stopped: if something in the directory cannot be used, see `RunDirectory.begin`.
        Terminated: if the process was told to end; the last logged point can be resumed.
    """
    with RunDirectory.create(
        path, config, resume=resume, overwrite=overwrite, on_note=on_note, files=files
    ) as directory:
        if directory.is_finished(points):
            on_start(step(points))
            return
        forget_if_many()
        init, advance, policies, evaluate = program()
        first, state = directory.begin(init())
        on_start(step(first))
        with deferred():
            for index in range(first, points):
                state, rows = advance(index, state)
                is_last = index + 1 == points
                seconds = directory.log(index, rows, state, 0.0 if is_last else checkpoint_seconds)
                on_point(Point(index, step(index + 1), seconds, rows))
        by_seed = policies_of_seeds(policies(state), config["seeds"])
        save_policies(path / POLICIES_FILE, by_seed, config["algorithm"])
        directory.write("evaluation.csv", evaluate(state))


def evaluation_rows(
    seeds: Sequence[int], episodes: int, returns: np.ndarray | None, lengths: np.ndarray | None
) -> list[Row]:
    """Rows of `evaluation.csv`.

    Args:
        seeds: which seeds.
        episodes: how many each of them played.
        returns: of each seed's episodes, shape (seeds, episodes) or longer, where there is more
            than the seeds'; None if nothing could be played.
        lengths: likewise, in steps.
    """
    if returns is None or lengths is None:
        empty = {"episode_return": "", "episodes": 0, "episode_length": ""}
        return [{"seed": seed} | empty for seed in seeds]
    return [
        {
            "seed": seed,
            "episode_return": repr(float(returns[i].mean())),
            "episodes": episodes,
            "episode_length": repr(float(lengths[i].mean())),
        }
        for i, seed in enumerate(seeds)
    ]


def all_finite(params: Any) -> jax.Array:
    """Whether all parameters are finite, as a scalar."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuses what are no seeds of a run.

    Raises:
        ValueError: if there are none, one is given twice or one is out of range.
    """
    whole = all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    if not (whole and seeds and len(set(seeds)) == len(seeds)):
        given = ", ".join(map(str, seeds)) or "none"
        raise ValueError(f"seeds must be different whole numbers in [0, {2**32 - 1}]; got {given}.")


def seed_mesh(seeds: int) -> Mesh:
    """As many devices as the seeds can use, with equally many seeds on each."""
    devices = jax.devices()
    per_device = divided_up(seeds, len(devices))
    used = divided_up(seeds, per_device)
    return Mesh(np.array(devices[:used]), ("seeds",), axis_types=(AxisType.Auto,))


def seed_keys(seeds: tuple[int, ...], mesh: Mesh) -> jax.Array:
    """A key for each seed, spread over devices; surplus ones at the end repeat the first."""
    padded = [*seeds, *seeds[:1] * (-len(seeds) % mesh.size)]
    return _key_program(mesh)(np.asarray(padded, np.uint32))


@functools.cache
def _key_program(mesh: Mesh) -> Callable[[np.ndarray], jax.Array]:
    """One program for all keys, and not one for each operation."""
    sharding = NamedSharding(mesh, PartitionSpec("seeds"))
    return jax.jit(jax.vmap(jax.random.key), out_shardings=sharding)


def divided_up(number: int, by: int) -> int:
    """A whole number divided by another and rounded up, exactly however large they are.

    Examples:
        >>> divided_up(6, 3), divided_up(7, 3)
        (2, 3)
    """
    return -(-number // by)
