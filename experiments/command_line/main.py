"""The command line, `rl-optim COMMAND`."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

import tyro

from experiments.command_line.arguments import Command, UsageError, joined
from experiments.command_line.collect import Collect
from experiments.command_line.compare import Compare, Train
from experiments.command_line.convert import Convert
from experiments.command_line.devices import prepare_xla
from experiments.command_line.listing import LISTS, List
from experiments.command_line.meta_train import MetaTrain
from experiments.command_line.offline import Offline
from experiments.command_line.report import Report
from experiments.runs.stopping import Stopped, Terminated, listening
from experiments.settings import unknown

# No jax at import: `--help` answers at once, and XLA's settings have to be made before jax starts.

COMMANDS: dict[str, type[Command]] = {
    "compare": Compare,
    "train": Train,
    "meta-train": MetaTrain,
    "convert": Convert,
    "offline": Offline,
    "collect": Collect,
    "list": List,
    "report": Report,
}
_GO_ON = "; what is logged is kept, and the same command with --resume goes on"
_DESCRIPTION = (
    "Compare optimizers for reinforcement learning, on PPO agents and on critics that learn from "
    "data sets, and learn new ones."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Args:
        arguments: what follows the program's name; by default, what it was called with.

    Raises:
        SystemExit: with 2 on bad input, 1 where a file cannot be read or written or memory does not
            suffice, 130 when interrupted, and 128 plus the number of the signal when told to end.
            The reason is one line on stderr.
    """
    hint = ""
    try:
        command = _parse(list(sys.argv[1:] if arguments is None else arguments))
        command.check()
        hint = _GO_ON if command.resumes else ""
        if command.computes:
            prepare_xla()
        with listening() if command.resumes else contextlib.nullcontext():
            command.run()
    except (UsageError, ValueError) as error:
        _fail(str(error), 2)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        _fail(f"{error.strerror or error}{where}{hint}.", 1)
    except Stopped as error:
        _fail(f"{error}.", 1)
    except MemoryError as error:
        _fail(f"{error}{hint}.", 1)
    except Terminated as error:
        _fail(f"terminated{hint}.", 128 + error.number)
    except KeyboardInterrupt:
        _fail(f"interrupted{hint}.", 130)


def _fail(message: str, code: int) -> NoReturn:
    print(f"rl-optim: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def _joined(arguments: Sequence[str], option: str) -> list[str]:
    """Makes one option with several values of one that is given several times."""
    values: list[str] = []
    others: list[str] = []
    is_value = False
    for argument in arguments:
        if argument == option:
            is_value = True
        elif argument.startswith(f"{option}="):
            values.append(argument.partition("=")[2])
            is_value = False
        elif is_value and not argument.startswith("--"):
            values.append(argument)
        else:
            is_value = False
            others.append(argument)
    return [*others, option, *values] if option in arguments or values else others


def _parse(arguments: list[str]) -> Command:
    """Parses the arguments; tyro's boxed errors become one line.

    Raises:
        UsageError: if they cannot be parsed.
    """
    arguments = _joined(arguments, "--critic-optimizer")
    options = [argument.partition("=")[0] for argument in arguments if argument[:2] == "--"]
    for option in options:
        if options.count(option) > 1:
            raise UsageError(f"{option} is given twice; several values follow it once.")
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.extras.subcommand_cli_from_dict(
                {**COMMANDS},
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
    command = next((argument for argument in arguments if argument in COMMANDS), None)
    if match := re.search(r"(?:Unrecognized|misplaced) options: ([^\s,]+)", text):
        return _about_unknown(match[1], command)
    if match := re.search(r"Missing value for argument '(\S+)'", text):
        return f"{match[1]} needs a value."
    if command is None:
        return f"a command is needed: {', '.join(COMMANDS)}."
    if "Missing from" in text:
        if command == "list":
            return f"list needs one of {', '.join(LISTS)}."
        if command == "convert":
            return "convert needs WEIGHTS.npy and OUT.safetensors."
        missing = [option for option in _required(command) if option in text.split()]
        if missing:
            return f"{command} needs {joined(missing)}."
    return re.sub(r"[\u2500-\u257f]+", "", text)


def _required(command: str) -> list[str]:
    fields = dataclasses.fields(COMMANDS[command])
    return [_as_option(field.name) for field in fields if field.default is dataclasses.MISSING]


def _as_option(field: str, negated: bool = False) -> str:
    return f"--{'no-' if negated else ''}{field.replace('_', '-')}"


def _about_unknown(given: str, command: str | None) -> str:
    if command is None:
        if given.startswith("-"):
            return f"unknown option {given!r}; the commands are {', '.join(COMMANDS)}."
        return str(unknown("command", given, COMMANDS))
    if not given.startswith("-"):
        return f"unexpected argument {given!r}; see rl-optim {command} --help."
    options = [
        _as_option(field.name, negated=field.default is True)
        for field in dataclasses.fields(COMMANDS[command])
    ]
    if given in options:
        return f"{given} must come after {command}."
    return str(unknown("option", given, options))
