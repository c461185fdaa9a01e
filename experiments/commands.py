"""What the commands of the command line do."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import jax
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import optim
from experiments.display import Display, Progress
from experiments.presets import PRESETS
from experiments.reporting import report
from experiments.run_directory import RunDirectory, unique_names
from experiments.settings import change_settings, unknown
from experiments.tasks import TASKS, parse_environment
from experiments.training import Point, RunConfig, train

if TYPE_CHECKING:
    from experiments.cli import Compare, Train


def compare(command: Compare) -> None:
    """Trains every optimizer on every environment, then reports."""
    preset = None
    if command.preset is not None:
        if command.preset not in PRESETS:
            raise unknown("preset", command.preset, PRESETS)
        preset = PRESETS[command.preset]
    envs = command.envs or (preset.envs if preset else ())
    optimizers = command.optimizers or (preset.optimizers if preset else ())
    if not envs or not optimizers:
        raise ValueError(f"{'--optimizers' if envs else '--envs'} or a --preset must be given.")
    if command.out is None and preset is None:
        raise ValueError("--out or a --preset must be given.")
    out = command.out or Path("runs") / str(command.preset)
    steps = (preset.steps if preset else 1e6) if command.steps is None else command.steps
    seeds = (preset.seeds if preset else 4) if command.seeds is None else command.seeds
    changes = (preset.settings if preset else ()) + command.set
    names = unique_names(envs), unique_names(optimizers)
    runs = {
        out / names[0][env] / names[1][optimizer]: _run_config(
            env, optimizer, steps, seeds, changes
        )
        for env in envs
        for optimizer in optimizers
    }
    _train_all(runs, command)
    report(list(runs), out)


def train_one(command: Train) -> None:
    """Trains one optimizer on one environment, then reports."""
    config = _run_config(command.env, command.optimizer, command.steps, command.seeds, command.set)
    _train_all({command.out: config}, command)
    report([command.out], command.out)


def list_names(what: str) -> None:
    """Prints environments, optimizers or presets, a line each; our own optimizers have more."""
    console = Console(highlight=False)
    match what:
        case "envs":
            rows = {
                name: ("published settings" if task.published else "settings of its kind, untuned")
                + f"; learning rate {task.learning_rate:g}"
                for name, task in TASKS.items()
            }
            note = (
                "Brax's environments (in small letters) take :backend=generalized, positional "
                "(default), spring or mjx; Gymnax's take their parameters, e.g. "
                ":max_steps_in_episode=200."
            )
        case "optimizers":
            rows, ours = {}, {}
            for name in optim.optimizer_names():
                if details := optim.details(name):
                    ours[name] = _details_text(details)
                else:
                    rows[name] = optim.describe(name)
            console.print(_names_table(ours))
            console.print("\nFrom optax:\n")
            note = "Options follow the name: adam:learning_rate=3e-4,b2=0.99."
        case _:
            rows = {name: preset.description for name, preset in PRESETS.items()}
            note = "Use one with rl-optim compare --preset NAME."
    console.print(_names_table(rows))
    console.print(f"\n{note}")


def _names_table(rows: dict[str, str]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, text in rows.items():
        table.add_row(name, text)
    return table


def _details_text(details: optim.OptimizerDetails) -> str:
    """What one of our own optimizers does, comes from, needs and costs."""
    facts = [
        f"{details.paper}; extra inputs: {details.inputs}",
        f"state per parameter: {details.state}",
        f"cost beyond Adam's: {details.cost}",
    ]
    if details.package is not None:
        facts.append(f"needs the package {details.package}")
    return f"{details.summary}\n[dim]{escape('; '.join(facts))}.[/dim]"


def _run_config(
    env: str, optimizer: str, steps: float, seeds: int, changes: Iterable[str]
) -> RunConfig:
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1; got {seeds}.")
    if not 1 <= steps < 2**53 or steps != int(steps):
        raise ValueError(f"--steps must be a whole number, at least 1; got {steps:g}.")
    name, _ = parse_environment(env)
    settings = change_settings(TASKS[name].settings, changes)
    return RunConfig(env, optimizer, int(steps), tuple(range(seeds)), settings)


def _train_all(runs: dict[Path, RunConfig], command: Compare | Train) -> None:
    """Trains runs one after the other, once it is certain that all of them may begin."""
    how = {"resume": command.resume, "overwrite": command.overwrite}
    for path, config in runs.items():
        RunDirectory.check(path, config.config(), **how)
    if command.cache:
        _keep_compiled_programs()
    console = Console(file=sys.stderr)
    progress = {
        path: Progress(
            config.environment,
            config.optimizer,
            steps=config.iterations * config.steps_per_iteration * len(config.seeds),
        )
        for path, config in runs.items()
    }
    with Display(list(progress.values()), console) as display:
        for path, config in runs.items():
            _train_shown(path, config, progress[path], display, **how)


def _train_shown(
    path: Path,
    config: RunConfig,
    progress: Progress,
    display: Display,
    *,
    resume: bool,
    overwrite: bool,
) -> None:
    def on_point(point: Point) -> None:
        progress.state = "training"
        progress.done = point.step * len(config.seeds)
        progress.seconds = point.seconds
        progress.diverged = int(point.diverged.sum())
        display.update(progress, point.episode_returns)

    progress.state = "compiling"
    display.update(progress)
    train(config, path, resume=resume, overwrite=overwrite, on_point=on_point)
    progress.state = "done"
    progress.done = progress.steps
    display.update(progress)


def _keep_compiled_programs() -> None:
    """Turns on jax's persistent compilation cache, in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rl-optim"
    jax.config.update("jax_compilation_cache_dir", str(cache))
