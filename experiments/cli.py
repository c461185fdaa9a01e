"""The command line: `rl-optim compare | train | list | report`."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Annotated, NoReturn

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from experiments.presets import PRESETS
from experiments.run_directory import RunDirectory, run_paths
from experiments.settings import unknown, whole_number

# No jax at import: `--help` answers at once, and XLA's settings have to be made before jax starts.

_MOST_SEEDS = 10_000
_LISTS = ("envs", "optimizers", "presets")


class UsageError(Exception):
    """An argument that cannot be read; tyro lets it through, which it does not with ValueError."""


def _option(metavar: str, default: str = "") -> object:
    return tyro.conf.arg(
        metavar=metavar, help_behavior_hint=f"(default: {default})" if default else ""
    )


def _count(option: str, most: float = float("inf")) -> PrimitiveConstructorSpec[int | None]:
    """Reads a whole number that may be written as in 1e6, from 1 to `most`."""
    limits = "at least 1" if most == float("inf") else f"from 1 to {most}"

    def read(texts: list[str]) -> int:
        try:
            value = whole_number(texts[0])
        except (ValueError, OverflowError):
            value = 0
        if not 1 <= value <= most:
            raise UsageError(f"{option} must be a whole number, {limits}; got {texts[0]!r}.")
        return value

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=option.removeprefix("--").upper(),
        instance_from_str=read,
        is_instance=lambda value: value is None or isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    )


def _read_list(texts: list[str]) -> str:
    if texts[0] not in _LISTS:
        raise UsageError(str(unknown("list", texts[0], _LISTS)))
    return texts[0]


_ListName = PrimitiveConstructorSpec(
    nargs=1,
    metavar="{" + ",".join(_LISTS) + "}",
    instance_from_str=_read_list,
    is_instance=lambda value: isinstance(value, str),
    str_from_instance=lambda value: [value],
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
    """Optimizers, NAME[:key=value,...], e.g. adam:learning_rate=3e-4; see
    `rl-optim list optimizers`. One without a learning rate takes the environment's, which is tuned
    for Adam."""
    steps: Annotated[int | None, _count("--steps"), _option("STEPS", "the preset's, or 1e6")] = None
    """Environment steps of each seed, rounded up to whole iterations."""
    seeds: Annotated[
        int | None, _count("--seeds", _MOST_SEEDS), _option("SEEDS", "the preset's, or 4")
    ] = None
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
    """Replace the runs in the directory."""
    cache: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Forget compiled programs instead of keeping them in the user's cache folder."""


@dataclasses.dataclass(frozen=True)
class Train:
    """Train agents under one optimizer on one environment.

    Example: rl-optim train --env CartPole-v1 --optimizer adam --steps 1e5 --out runs/cartpole
    """

    env: Annotated[str, _option("ENV")]
    """Environment, NAME[:key=value,...], e.g. ant:backend=spring; see `rl-optim list envs`."""
    optimizer: Annotated[str, _option("OPTIMIZER")]
    """Optimizer, NAME[:key=value,...], e.g. adam:learning_rate=3e-4; see
    `rl-optim list optimizers`. One without a learning rate takes the environment's, which is tuned
    for Adam."""
    out: Annotated[Path, _option("DIR")]
    """The run directory."""
    steps: Annotated[int, _count("--steps"), _option("STEPS", "1e6")] = 1_000_000
    """Environment steps of each seed, rounded up to whole iterations."""
    seeds: Annotated[int, _count("--seeds", _MOST_SEEDS), _option("SEEDS", "4")] = 4
    """How many seeds: 0, 1, ..., SEEDS - 1."""
    set: Annotated[tuple[str, ...], _option("KEY=VALUE", "the environment's")] = ()
    """Settings of the learner, e.g. num_envs=128 anneal=false widths=256x256."""
    resume: bool = False
    """Continue an interrupted run."""
    overwrite: bool = False
    """Replace the run in the directory."""
    cache: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Forget compiled programs instead of keeping them in the user's cache folder."""


@dataclasses.dataclass(frozen=True)
class List:
    """List environments, optimizers or presets."""

    what: Annotated[str, tyro.conf.Positional, _ListName]
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Args:
        arguments: what follows the program's name; by default, what it was called with.

    Raises:
        SystemExit: with 2 on bad input, 1 where a file cannot be read or written or memory does not
            suffice, 130 when interrupted. The reason is one line on stderr.
    """
    hint = ""
    try:
        command = _parse(list(sys.argv[1:] if arguments is None else arguments))
        match command:
            case Report():
                from experiments.report import report

                report(command.dirs, command.out)
            case List():
                from experiments import commands

                commands.list_names(command.what)
            case Compare() | Train():
                plan = _plan(command)
                hint = "; what is logged is kept, and the same command with --resume goes on"
                prepare_xla()
                from experiments import commands

                commands.train_all(plan)
    except (UsageError, ValueError) as error:
        _fail(str(error), 2)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        _fail(f"{error.strerror or error}{where}{hint}.", 1)
    except MemoryError as error:
        _fail(f"{error}{hint}.", 1)
    except KeyboardInterrupt:
        _fail(f"interrupted{hint}.", 130)


def _plan(command: Compare | Train) -> Plan:
    """Fills up what was not given, and makes sure that the directories are free.

    Raises:
        ValueError: if something is missing or unknown, or a directory cannot be used.
    """
    if command.resume and command.overwrite:
        raise ValueError("--resume and --overwrite exclude each other.")
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
            raise ValueError(f"compare needs {_and(missing)}, or a --preset.")
        out = command.out or Path("runs") / str(command.preset)
        steps = command.steps or (preset.steps if preset else 1_000_000)
        seeds = command.seeds or (preset.seeds if preset else 4)
        settings = (preset.settings if preset else ()) + command.set
        runs = {path: names for names, path in run_paths(out, envs, optimizers).items()}
    for path in runs:
        RunDirectory.check_free(path, resume=command.resume, overwrite=command.overwrite)
    return Plan(runs, out, steps, seeds, settings, command.resume, command.overwrite, command.cache)


def prepare_xla() -> None:
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
    """Parses the arguments; tyro's boxed errors become one line.

    Raises:
        UsageError: if they cannot be parsed.
    """
    options = [argument.partition("=")[0] for argument in arguments if argument[:2] == "--"]
    for option in options:
        if options.count(option) > 1:
            raise UsageError(f"{option} is given twice; several values follow it once.")
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
            raise UsageError(_one_line(errors.getvalue(), arguments)) from None
        raise


def _one_line(box: str, arguments: Sequence[str]) -> str:
    """What one of tyro's boxes says, with the nearest valid choice where something is unknown."""
    text = " ".join(line.strip("\u2502 ") for line in box.splitlines())
    command = next((argument for argument in arguments if argument in _COMMANDS), None)
    if match := re.search(r"(?:Unrecognized|misplaced) options: ([^\s,]+)", text):
        return _about_unknown(match[1], command)
    if match := re.search(r"Missing value for argument '(\S+)'", text):
        return f"{match[1]} needs a value."
    if command is None:
        return f"a command is needed: {', '.join(_COMMANDS)}."
    if "Missing from" in text:
        if command == "list":
            return f"list needs one of {', '.join(_LISTS)}."
        missing = [option for option in _required(command) if option in text.split()]
        if missing:
            return f"{command} needs {_and(missing)}."
    return re.sub(r"[\u2500-\u257f]+", "", text)


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _required(command: str) -> list[str]:
    fields = dataclasses.fields(_COMMANDS[command])
    return [f"--{field.name}" for field in fields if field.default is dataclasses.MISSING]


def _about_unknown(given: str, command: str | None) -> str:
    if command is None:
        if given.startswith("-"):
            return f"unknown option {given!r}; the commands are {', '.join(_COMMANDS)}."
        return str(unknown("command", given, _COMMANDS))
    if not given.startswith("-"):
        return f"unexpected argument {given!r}; see rl-optim {command} --help."
    options = [
        f"--no-{field.name}" if field.default is True else f"--{field.name}"
        for field in dataclasses.fields(_COMMANDS[command])
    ]
    if given in options:
        return f"{given} must come after {command}."
    return str(unknown("option", given, options))
