"""The command line, `rl-optim COMMAND`."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import gc
import inspect
import io
import itertools
import re
import shlex
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import tyro

from experiments.command_line.arguments import Command, UsageError, joined
from experiments.command_line.collect import Collect
from experiments.command_line.compare import Compare, Train
from experiments.command_line.convert import Convert
from experiments.command_line.devices import prepare_xla, require_device
from experiments.command_line.listing import LISTS, List, table, wrapped
from experiments.command_line.meta_sweep import MetaSweep
from experiments.command_line.meta_train import MetaTrain
from experiments.command_line.offline import Offline
from experiments.command_line.report import Report
from experiments.command_line.rerun import Rerun
from experiments.command_line.streams import STANDARD_OUTPUT, lasting_streams
from experiments.command_line.sweep import Sweep
from experiments.runs.stopping import Stopped, Terminated, listening
from experiments.settings import Settings, optimizer_option, unknown
from rl_optim import MissingExtraError

# No jax at import: `--help` answers at once, and XLA's settings have to be made before jax starts.

COMMANDS: dict[str, type[Command]] = {
    "compare": Compare,
    "train": Train,
    "sweep": Sweep,
    "meta-train": MetaTrain,
    "meta-sweep": MetaSweep,
    "convert": Convert,
    "offline": Offline,
    "collect": Collect,
    "rerun": Rerun,
    "list": List,
    "report": Report,
}
_ABOUT = (
    "Compare optimizers for reinforcement learning, on PPO agents and on critics trained from data "
    "sets, and meta-train new ones."
)
_MORE = (
    "Each command explains its options: rl-optim COMMAND --help. Settings and the options of an "
    "optimizer: rl-optim list settings, rl-optim list options OPTIMIZER. The version: rl-optim "
    "--version."
)
_WATCHING = {
    "  tail -f runs/x/metrics.csv": "what it logs; meta-train writes meta_metrics.csv; compare, "
    "offline and sweeps have a folder for each run",
    "  rl-optim report runs/x": "tables and figures of what there is so far",
}
_LONG_RUNS = (
    "Progress goes to standard error. A long run that was detached can be watched:",
    "If it is interrupted, the same command with --resume continues from its last checkpoint.",
)
_OBJECTS_BETWEEN_COLLECTIONS = 50_000  # usually 700


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Args:
        arguments: what follows the program's name; by default, what it was called with.

    Raises:
        SystemExit: with 2 on bad input and without a device or a library, 1 where a file cannot be
            read or written or memory does not suffice, 130 when interrupted, and 128 plus the
            number of the signal when told to end. The reason is one line on stderr.
    """
    with lasting_streams(), _rare_collections():
        _run(list(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str]) -> None:
    """Runs the command line on streams that last."""
    command: Command | None = None
    logs: dict[Path, object] = {}  # of runs that can go on, with what marks them as old
    try:
        try:
            command = _parse(arguments)
            command.check()
            if command.computes:
                prepare_xla()
                require_device()
            logs = {log: _mark(log) for log in command.logs()}
            with listening() if logs else contextlib.nullcontext():
                command.run()
        finally:
            sys.stdout.flush()
    except UsageError as error:
        _fail(str(error), 2)
    except ValueError as error:
        _fail(_as_typed(str(error), command), 2)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        # What can no longer be printed is in files already.
        way_on = "" if error.filename == STANDARD_OUTPUT else _way_on(arguments, logs)
        _fail(f"{error.strerror or error}{where}", 1, way_on)
    except MissingExtraError as error:
        _fail(str(error), 2)
    except Stopped as error:
        _fail(str(error), 1)
    except MemoryError as error:
        _fail(str(error), 1, _way_on(arguments, logs))
    except Terminated as error:
        _fail("terminated", 128 + error.number, _way_on(arguments, logs))
    except KeyboardInterrupt:
        _fail("interrupted", 130, _way_on(arguments, logs))


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Makes Python look for garbage more rarely.

    Imports and the tracing of programs make hundreds of thousands of objects, most of which stay,
    and going through them again and again takes a tenth of the time that a start takes.
    """
    before = gc.get_threshold()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _fail(message: str, code: int, way_on: str = "") -> NoReturn:
    line = " ".join(message.split())
    print(f"rl-optim: {line.removesuffix('.')}{way_on or '.'}", file=sys.stderr)
    raise SystemExit(code)


def _mark(log: Path) -> object:
    """Something that changes when a file does; None if there is no file."""
    try:
        found = log.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _way_on(arguments: Sequence[str], logs: Mapping[Path, object]) -> str:
    """How to go on after an interruption; nothing if this command has not logged anything."""
    resumed = "--resume" in arguments
    if not any(_mark(log) not in (None, None if resumed else old) for log, old in logs.items()):
        return ""
    kept = [argument for argument in arguments if argument not in ("--resume", "--overwrite")]
    again = shlex.join(["rl-optim", *kept, "--resume"])
    return f"; what is logged is kept. To continue: {again}"


def _as_typed(message: str, command: Command | None) -> str:
    """Calls options what they are called on the command line, in an error from Python."""
    if command is None:
        return message
    names = {field.name: _as_option(field.name) for field in dataclasses.fields(command)}
    names.pop("optimizer", None)  # the word for all of them
    for name, spoken in (names | dict(command.spoken)).items():
        # Only in the sentence: not within quotes, paths, options or other words.
        where = r"(?<![\w'./=-])" + re.escape(name) + r"(?![\w'./=-])"
        anywhere = "_" in name or " " in name
        message = re.sub(where if anywhere else f"^{where}(?= must)", spoken, message)
    return message


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
    if arguments and arguments[0] in ("-h", "--help"):
        print(_help())
        raise SystemExit(0)
    if arguments == ["--version"]:
        print(f"rl-optim {_version()}")
        raise SystemExit(0)
    name, *arguments = _led_by_a_command(arguments)
    if {"-h", "--help"} & set(arguments):
        _unwrap_help(COMMANDS[name])
    arguments = _joined(arguments, "--critic-optimizer")
    options = [argument.partition("=")[0] for argument in arguments if argument[:2] == "--"]
    for option in options:
        if option.replace("_", "-") not in _options(name):
            raise UsageError(_about_unknown(option, name))
        if options.count(option) > 1:
            raise UsageError(f"{option} is given twice; give it once, with all its values.")
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                COMMANDS[name],  # alone, which loads less than a parser of all of them
                prog=f"rl-optim {name}",
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if stop.code == 2:
            raise UsageError(_one_line(errors.getvalue(), name, arguments)) from None
        raise


def _version() -> str:
    import importlib.metadata  # which takes as long as all the rest of the help

    try:
        return importlib.metadata.version("rl-optim")
    except importlib.metadata.PackageNotFoundError:
        return "of a copy that is not installed"


def _help() -> str:
    """What `rl-optim --help` prints."""
    purposes = {
        f"  {name}": inspect.cleandoc(command.__doc__ or "").partition("\n\n")[0]
        for name, command in COMMANDS.items()
    }
    return "\n\n".join(
        [
            "usage: rl-optim COMMAND [OPTIONS]",
            wrapped(_ABOUT),
            table({name: " ".join(purpose.split()) for name, purpose in purposes.items()}),
            wrapped(_MORE),
            wrapped(_LONG_RUNS[0]),
            table(_WATCHING),
            wrapped(_LONG_RUNS[1]),
        ]
    )


def _led_by_a_command(arguments: list[str]) -> list[str]:
    """The arguments, if a command comes first.

    Raises:
        UsageError: if not.
    """
    if not arguments:
        raise UsageError(f"a command is needed: {', '.join(COMMANDS)}.")
    first = arguments[0].partition("=")[0]
    if first in COMMANDS:
        return arguments
    if not first.startswith("-"):
        raise UsageError(str(unknown("command", first, COMMANDS)))
    command = next((argument for argument in arguments if argument in COMMANDS), None)
    if command is None:
        raise UsageError(f"unknown option {first!r}; the commands are {', '.join(COMMANDS)}.")
    if first in _options(command):
        raise UsageError(f"{first} must come after {command}.")
    raise UsageError(str(unknown("option", first, _options(command))))


def _unwrap_help(command: type[Command]) -> None:
    """Joins the lines of each option's help, which tyro would break where the source does."""
    fields = {field.name: field for field in dataclasses.fields(command)}
    body: list[ast.stmt] = []
    for part in command.__mro__:
        if issubclass(part, Command):
            try:
                (definition,) = ast.parse(textwrap.dedent(inspect.getsource(part))).body
            except OSError:  # without the source, there is no help either
                return
            assert isinstance(definition, ast.ClassDef)
            body += definition.body
    for node, following in itertools.pairwise(body):
        match node, following:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                # Where tyro looks first.
                fields[name].metadata = types.MappingProxyType({"help": " ".join(text.split())})


def _one_line(box: str, command: str, arguments: Sequence[str]) -> str:
    """What one of tyro's boxes says, with the nearest valid choice where something is unknown."""
    text = " ".join(line.strip("\u2502 ") for line in box.splitlines())
    if match := re.search(r"(?:Unrecognized|misplaced) options: ([^\s,]+)", text):
        return _about_unknown(match[1], command)
    if match := re.search(r"Missing value for argument '(\S+)'", text):
        return f"{match[1]} needs a value."
    if match := re.search(r"Error parsing (--[\w-]+):", text):
        return _about_value(match[1], command, arguments)
    if "Missing from" in text:
        if command == "list":
            return f"list needs one of {', '.join(LISTS)}."
        if command == "convert":
            return "convert needs WEIGHTS.npy and OUT.safetensors."
        if command == "rerun":
            return "rerun needs DIR and --out."
        missing = [option for option in _required(command) if option in text.split()]
        if missing:
            return f"{command} needs {joined(missing)}."
    return re.sub(r"[\u2500-\u257f]+", "", text)


def _required(command: str) -> list[str]:
    fields = dataclasses.fields(COMMANDS[command])
    return [_as_option(field.name) for field in fields if field.default is dataclasses.MISSING]


def _options(command: str) -> list[str]:
    kinds = typing.get_type_hints(COMMANDS[command], include_extras=True)
    return [
        _as_option(field.name, negated=field.default is True)
        for field in dataclasses.fields(COMMANDS[command])
        if tyro.conf.Positional not in getattr(kinds[field.name], "__metadata__", ())
    ] + ["--help"]


def _as_option(field: str, negated: bool = False) -> str:
    return f"--{'no-' if negated else ''}{field.replace('_', '-')}"


def _about_unknown(given: str, command: str) -> str:
    if not given.startswith("-"):
        return f"unexpected argument {given!r}; see rl-optim {command} --help."
    return _elsewhere(given, command) or str(unknown("option", given, _options(command)))


def _elsewhere(given: str, command: str) -> str | None:
    """Says what an option is that stands within another one; None if it does not."""
    import optim

    names, key = _options(command), given.strip("-").replace("-", "_")
    if "--set" in names and key in typing.get_type_hints(Settings):
        return f"unknown option {given!r}; it is a setting: --set {key}=VALUE."
    option = optimizer_option(key) if {"--optimizer", "--optimizers"} & set(names) else None
    if option is None or (option != key and optim.near(given, names) is not None):
        return None
    return f"unknown option {given!r}; optimizers have one: OPTIMIZER:{option}=VALUE."


def _about_value(option: str, command: str, arguments: Sequence[str]) -> str:
    """What an option's value must be, of one that is no number."""
    kind = typing.get_type_hints(COMMANDS[command])[option.removeprefix("--").replace("-", "_")]
    words = "a whole number" if int in (kind, *typing.get_args(kind)) else "a number"
    places = [i for i, argument in enumerate(arguments) if argument == option]
    given = (
        arguments[places[0] + 1]
        if places
        else next(a for a in arguments if a.startswith(f"{option}=")).partition("=")[2]
    )
    return f"{option} must be {words}; got {given!r}."


if __name__ == "__main__":
    main()
