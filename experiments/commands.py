"""What the commands of the command line do."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jax
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import optim
from experiments.display import Display, Progress
from experiments.presets import PRESETS
from experiments.report import report
from experiments.run_directory import RunDirectory
from experiments.settings import change_settings
from experiments.tasks import TASKS, parse_environment
from experiments.training import Point, RunConfig, train

if TYPE_CHECKING:
    from experiments.cli import Plan


def train_all(plan: Plan) -> None:
    """Trains runs one after the other, once it is certain that all of them may begin; reports.

    Raises:
        ValueError: if anything in the plan is unknown or not allowed.
        OSError: if something cannot be written.
        MemoryError: if a run does not fit into memory.
    """
    how = {"resume": plan.resume, "overwrite": plan.overwrite}
    runs = {path: _run_config(plan, *names) for path, names in plan.runs.items()}
    for path, run in runs.items():
        RunDirectory.check(path, run.config(), **how)
    if plan.cache:
        _keep_compiled_programs()
    shown = {
        path: Progress(run.environment, run.optimizer, _steps(run)) for path, run in runs.items()
    }
    with Display(list(shown.values()), Console(file=sys.stderr)) as display:
        for path, run in runs.items():
            try:
                _train_shown(path, run, shown[path], display, **how)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                name = f"{run.optimizer} on {run.environment}"
                raise MemoryError(
                    f"{name} does not fit into memory; lower num_envs or the seeds"
                ) from error
    report(list(runs), plan.out)


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
                "Brax's environments (ant and what follows) take :backend=generalized, positional "
                "(default), spring or mjx; all others take Gymnax's parameters, e.g. "
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


def _run_config(plan: Plan, env: str, optimizer: str) -> RunConfig:
    name, _ = parse_environment(env)
    settings = change_settings(TASKS[name].settings, plan.settings)
    return RunConfig(env, optimizer, plan.steps, tuple(range(plan.seeds)), settings)


def _train_shown(
    path: Path,
    run: RunConfig,
    progress: Progress,
    display: Display,
    *,
    resume: bool,
    overwrite: bool,
) -> None:
    seeds = len(run.seeds)

    def on_start(step: int) -> None:
        progress.state = "compiling"
        progress.done = progress.done_before = step * seeds
        display.update(progress)

    def on_point(point: Point) -> None:
        progress.done = point.step * seeds
        progress.state = "training" if progress.done < progress.steps else "evaluating"
        progress.seconds = point.seconds
        progress.diverged = int(point.diverged.sum())
        display.update(progress, point.episode_returns)

    train(
        run,
        path,
        resume=resume,
        overwrite=overwrite,
        on_start=on_start,
        on_point=on_point,
        on_note=display.note,
    )
    progress.state = "done"
    display.update(progress)


def _steps(run: RunConfig) -> int:
    return run.step(run.points) * len(run.seeds)


def _keep_compiled_programs() -> None:
    """Turns on jax's persistent compilation cache, in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rl-optim"
    jax.config.update("jax_compilation_cache_dir", str(cache))
