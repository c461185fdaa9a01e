"""The command line: `rl-optim compare | train | list | report`."""

from __future__ import annotations

import dataclasses
import difflib
import io
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import tyro

# No jax at import: `--help` answers at once, and XLA's settings have to be made before jax starts.


def _option(metavar: str, default: str = "") -> object:
    return tyro.conf.arg(
        metavar=metavar, help_behavior_hint=f"(default: {default})" if default else ""
    )


@dataclasses.dataclass(frozen=True)
class Compare:
    """Train agents under several optimizers and compare them.

    Every optimizer is trained on every environment, with all seeds side by side. Ends with a table,
    the same as summary.csv and summary.md, and learning curves as curves.png and curves.svg.

    Example: rl-optim compare --envs Breakout-MinAtar --optimizers adam adamo --out runs/breakout
    """

    envs: Annotated[tuple[str, ...], _option("ENV", "the preset's")] = ()
    """Environments, NAME[:key=value,...], e.g. ant:backend=spring; see `rl-optim list envs`."""
    optimizers: Annotated[tuple[str, ...], _option("OPTIMIZER", "the preset's")] = ()
    """Optimizers, NAME[:key=value,...], e.g. adam:learning_rate=3e-4; see `rl-optim list
    optimizers`. One without a learning rate takes the environment's, which is tuned for Adam."""
    steps: Annotated[float | None, _option("STEPS", "the preset's, or 1e6")] = None
    """Environment steps of each seed, rounded up to whole iterations."""
    seeds: Annotated[int | None, _option("SEEDS", "the preset's, or 4")] = None
    """How many seeds: 0, 1, ..., SEEDS - 1."""
    out: Annotated[Path | None, _option("DIR", "runs/PRESET")] = None
    """Directory for everything that is written."""
    preset: Annotated[str | None, _option("PRESET")] = None
    """Fills in whatever is not given; see `rl-optim list presets`."""
    set: Annotated[tuple[str, ...], _option("KEY=VALUE", "the environment's")] = ()
    """Settings of the learner, e.g. num_envs=128 anneal=false widths=256x256."""
    resume: bool = False
    """Continue what was interrupted; what is finished stays as it is."""
    overwrite: bool = False
    """Replace what is in the directory."""
    cache: bool = True
    """Forget compiled programs instead of keeping them in the user's cache folder."""


@dataclasses.dataclass(frozen=True)
class Train:
    """Train agents under one optimizer on one environment.

    Example: rl-optim train --env CartPole-v1 --optimizer adam --steps 1e5 --out runs/cartpole
    """

    env: Annotated[str, _option("ENV")]
    """Environment, NAME[:key=value,...], e.g. ant:backend=spring; see `rl-optim list envs`."""
    optimizer: Annotated[str, _option("OPTIMIZER")]
    """Optimizer, NAME[:key=value,...], e.g. adam:learning_rate=3e-4; see `rl-optim list
    optimizers`. One without a learning rate takes the environment's, which is tuned for Adam."""
    out: Annotated[Path, _option("DIR")]
    """The run directory."""
    steps: Annotated[float, _option("STEPS", "1e6")] = 1e6
    """Environment steps of each seed, rounded up to whole iterations."""
    seeds: Annotated[int, _option("SEEDS", "4")] = 4
    """How many seeds: 0, 1, ..., SEEDS - 1."""
    set: Annotated[tuple[str, ...], _option("KEY=VALUE", "the environment's")] = ()
    """Settings of the learner, e.g. num_envs=128 anneal=false widths=256x256."""
    resume: bool = False
    """Continue an interrupted run."""
    overwrite: bool = False
    """Replace what is in the directory."""
    cache: bool = True
    """Forget compiled programs instead of keeping them in the user's cache folder."""


@dataclasses.dataclass(frozen=True)
class List:
    """List environments, optimizers or presets."""

    what: tyro.conf.Positional[Literal["envs", "optimizers", "presets"]]
    """What to list."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Rebuild tables and figures from run directories alone; nothing is trained."""

    dirs: Annotated[tuple[Path, ...], tyro.conf.Positional, _option("DIR")]
    """Directories in which run directories are looked for, at any depth."""
    out: Annotated[Path | None, _option("DIR", "the first of the directories")] = None
    """Directory for tables and figures."""


Command = (
    Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)
_COMMANDS = {"compare": Compare, "train": Train, "list": List, "report": Report}
_DESCRIPTION = "Compare optimizers for reinforcement learning on PPO agents."


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Args:
        arguments: what follows the program's name; by default, what it was called with.

    Raises:
        SystemExit: with 2 on bad input, 1 where a file cannot be read or written, 130 when
            interrupted. The reason is one line on stderr.
    """
    command = _parse(list(sys.argv[1:] if arguments is None else arguments))
    try:
        if isinstance(command, Report):
            from experiments.reporting import report

            report(command.dirs, command.out)
            return
        _prepare_xla()
        from experiments import commands

        match command:
            case List():
                commands.list_names(command.what)
            case Train():
                commands.train_one(command)
            case Compare():
                commands.compare(command)
    except ValueError as error:
        _fail(str(error), 2)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        _fail(f"{error.strerror or error}{where}; what was logged so far is kept.", 1)
    except KeyboardInterrupt:
        _fail("interrupted; the same command with --resume goes on from the last checkpoint.", 130)


def _prepare_xla() -> None:
    """Offers a CPU's cores as devices, one thread each, unless the user has set XLA_FLAGS.

    Seeds are spread over devices; two cores with half the seeds each train about 1.5 times as fast
    as one program that spreads its matrix products over both.
    """
    if "XLA_FLAGS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        os.environ["XLA_FLAGS"] = (
            f"--xla_force_host_platform_device_count={cores} --xla_cpu_multi_thread_eigen=false"
        )


def _fail(message: str, code: int) -> NoReturn:
    print(f"rl-optim: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def _parse(arguments: list[str]) -> Compare | Train | List | Report:
    """Parses the arguments; tyro's boxed errors become one line."""
    errors = io.StringIO()
    try:
        with redirect_stderr(errors):
            return tyro.cli(
                Command,
                prog="rl-optim",
                description=_DESCRIPTION,
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if stop.code == 2:
            _fail(_one_line(errors.getvalue(), arguments), 2)
        raise


def _one_line(box: str, arguments: list[str]) -> str:
    """The message of one of tyro's boxes, with the nearest valid choice where one is unknown."""
    lines = [line.strip("\u2502 ") for line in box.splitlines()[1:]]
    rules = (i for i, line in enumerate(lines) if line.startswith(("\u2500", "\u2570")))
    message = " ".join(lines[: next(rules, len(lines))])
    command = next((argument for argument in arguments if argument in _COMMANDS), None)
    if message.startswith("Unrecognized options: "):
        if command is None:
            choices = list(_COMMANDS)
        else:
            fields = dataclasses.fields(_COMMANDS[command])
            choices = [f"--{field.name}" for field in fields]
        given = message.removeprefix("Unrecognized options: ").split(",")[0]
        nearest = difflib.get_close_matches(given, choices, n=1, cutoff=0.0)[0]
        return f"unknown argument {given!r}; the nearest is {nearest!r}."
    return message
