"""What `compare`, `train` and `offline` come down to, before anything is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from experiments.command_line.options import Compare, Offline, Train
from experiments.offline.presets import OFFLINE_PRESETS, CollectionPlan
from experiments.online.presets import PRESETS
from experiments.runs.directory import RunDirectory, run_paths
from experiments.settings import unknown


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `compare` and `train` come down to.

    Attributes:
        runs: environment and optimizer, as the user wrote them, by run directory.
        out: where the report is written.
        steps: environment steps of each seed.
        seeds: how many.
        settings: changes to the tasks' settings, `key=value`.
        resume: whether runs that have begun are continued.
        overwrite: whether runs that are there are replaced.
        cache: whether compiled programs are kept in the user's cache folder.
    """

    runs: Mapping[Path, tuple[str, str]]
    out: Path
    steps: int
    seeds: int
    settings: tuple[str, ...]
    resume: bool
    overwrite: bool
    cache: bool


def plan(command: Compare | Train) -> Plan:
    """Fills up what was not given, and makes sure that the directories are free.

    Raises:
        ValueError: if something is missing or unknown, or a directory cannot be used.
    """
    if isinstance(command, Train):
        runs = {command.out: (command.env, command.optimizer)}
        out, steps, seeds, settings = command.out, command.steps, command.seeds, command.set
    else:
        if command.preset is not None and command.preset not in PRESETS:
            raise unknown("preset", command.preset, PRESETS)
        preset = PRESETS[command.preset] if command.preset else None
        envs = command.envs or (preset.envs if preset else ())
        optimizers = command.optimizers or (preset.optimizers if preset else ())
        needed = {"--envs": envs, "--optimizers": optimizers, "--out": command.out or preset}
        if missing := [option for option, given in needed.items() if not given]:
            raise ValueError(f"compare needs {joined(missing)}, or a --preset.")
        out = command.out or Path("runs") / str(command.preset)
        steps = command.steps or (preset.steps if preset else 1_000_000)
        seeds = command.seeds or (preset.seeds if preset else 4)
        settings = (preset.settings if preset else ()) + command.set
        runs = {path: names for names, path in run_paths(out, envs, optimizers).items()}
    check_free(runs, command.resume, command.overwrite)
    return Plan(runs, out, steps, seeds, settings, command.resume, command.overwrite, command.cache)


@dataclasses.dataclass(frozen=True)
class OfflinePlan:
    """What `offline` comes down to.

    Attributes:
        command: with everything filled in that a preset has.
        runs: critic optimizer by run directory.
        collection: data to collect first, where they are not there yet; None if there are none.
    """

    command: Offline
    runs: Mapping[Path, str]
    collection: CollectionPlan | None


def offline_plan(command: Offline) -> OfflinePlan:
    """Fills up what was not given, and makes sure that the directories are free.

    Raises:
        ValueError: if something is missing or unknown, or a directory cannot be used.
    """
    if command.preset is not None and command.preset not in OFFLINE_PRESETS:
        raise unknown("preset", command.preset, OFFLINE_PRESETS)
    preset = OFFLINE_PRESETS[command.preset] if command.preset else None
    out = command.out or (Path("runs") / str(command.preset) if preset else None)
    collection = preset.collection if preset and command.dataset is None else None
    filled = dataclasses.replace(
        command,
        algorithm=command.algorithm or (preset.algorithm if preset else None),
        dataset=command.dataset
        or (str(out / "data" / collection.name) if out and collection else None),
        critic_optimizer=command.critic_optimizer or (preset.critic_optimizers if preset else ()),
        critic_learning_rate=command.critic_learning_rate
        or (preset.learning_rate if preset else None),
        steps=command.steps or (preset.steps if preset else 1_000_000),
        seeds=command.seeds or (preset.seeds if preset else 4),
        subset=command.subset or (preset.subset if preset else None),
        set=(preset.settings if preset else ()) + command.set,
        out=out,
    )
    needed = {
        "--algorithm": filled.algorithm,
        "--dataset": filled.dataset,
        "--critic-optimizer": filled.critic_optimizer,
        "--out": out,
    }
    if missing := [option for option, given in needed.items() if not given]:
        raise ValueError(f"offline needs {joined(missing)}, or a --preset.")
    assert out is not None
    paths = run_paths(out, [str(filled.algorithm)], filled.critic_optimizer)
    runs = {path: optimizer for (_, optimizer), path in paths.items()}
    check_free(runs, command.resume, command.overwrite)
    return OfflinePlan(filled, runs, collection)


def check_free(paths: Iterable[Path], resume: bool, overwrite: bool) -> None:
    """Makes sure that the run directories are free, or may be continued or replaced.

    Raises:
        ValueError: if not.
    """
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other.")
    for path in paths:
        RunDirectory.check_free(path, resume=resume, overwrite=overwrite)


def joined(words: Sequence[str]) -> str:
    """Words as in a sentence: `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
