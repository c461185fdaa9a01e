"""What the commands of the command line do."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import optim
from experiments.command_line.display import Display
from experiments.command_line.progress import (
    EvolutionProgress,
    MetaGradientProgress,
    MetaProgress,
    OfflineProgress,
    TrainingProgress,
)
from experiments.meta_training.presets import PIPELINE_PRESETS, with_preset
from experiments.offline.presets import OFFLINE_PRESETS, CollectionPlan, default_name
from experiments.online.presets import PRESETS
from experiments.online.tasks import TASKS, parse_environment
from experiments.online.training import Point, RunConfig, train
from experiments.reports.report import report
from experiments.runs.directory import RunDirectory, Stopped
from experiments.settings import change_settings, unknown

if TYPE_CHECKING:
    from experiments.command_line.options import Collect, Convert, MetaTrain, Offline
    from experiments.command_line.plans import OfflinePlan, Plan
    from experiments.meta_training.training import MetaRun
    from experiments.offline.collection import Collection
    from experiments.offline.training import OfflineRun


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
        path: TrainingProgress(
            environment=run.environment, optimizer=run.optimizer, steps=_steps(run)
        )
        for path, run in runs.items()
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


def meta_train_shown(command: MetaTrain) -> None:
    """Meta-trains a learned optimizer and says where its weights are.

    Raises:
        ValueError: if anything in the command is unknown or not allowed.
        OSError: if something cannot be written.
        MemoryError: if a generation does not fit into memory.
        Stopped: if too many meta-gradients in a row were not finite.
    """
    # It takes seconds to import.
    from experiments.meta_training.training import BEST, WEIGHTS, Generation, meta_train

    run = meta_run_config(command)
    if command.cache:
        _keep_compiled_programs()
    common: Any = {"optimizer": run.optimizer, "steps": run.generations}
    progress: MetaProgress
    if command.method == "es":
        progress = EvolutionProgress(strategy=command.strategy, **common)
    else:
        progress = MetaGradientProgress(method=command.method, **common)
    with Display([progress], Console(file=sys.stderr)) as display:

        def on_start(generation: int) -> None:
            progress.begin(generation)
            display.update(progress)

        def on_generation(generation: Generation) -> None:
            progress.state = "training"
            progress.done = generation.number + 1
            progress.take(generation.metrics)
            if not math.isnan(generation.evaluation):
                progress.evaluation = generation.evaluation
            display.update(progress)

        try:
            meta_train(
                run,
                command.out,
                resume=command.resume,
                overwrite=command.overwrite,
                on_start=on_start,
                on_generation=on_generation,
                on_note=display.note,
            )
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            lower = "agents_at_once" if command.method == "pipeline" else "--at-once, --population"
            raise MemoryError(
                f"a generation does not fit into memory; lower {lower} or num_envs"
            ) from error
        except Stopped:
            progress.state = "stopped"
            display.update(progress)
            raise
        progress.state = "done"
        display.update(progress)
    print(f"Written: {command.out / WEIGHTS} (last), {BEST} (best evaluated)")


def offline_all(plan: OfflinePlan) -> None:
    """Trains offline runs one after the other, and reports; collects a preset's data before.

    Raises:
        ValueError: if anything in the plan is unknown or not allowed.
        OSError: if something cannot be written.
        MemoryError: if a run does not fit into memory.
    """
    from experiments.offline.training import OfflinePoint, train_offline

    command = plan.command
    how = {"resume": command.resume, "overwrite": command.overwrite}
    if command.cache:
        _keep_compiled_programs()
    if plan.collection is not None and not Path(str(command.dataset)).exists():
        _collect_preset(plan.collection, Path(str(command.out)) / "data")
    runs = {path: offline_run(command, optimizer) for path, optimizer in plan.runs.items()}
    for path, run in runs.items():
        RunDirectory.check(path, run.config(), **how)
    shown = {
        path: OfflineProgress(
            dataset=run.data.dataset.title,
            optimizer=run.critic_optimizer,
            steps=run.points * run.stretch * len(run.seeds),
        )
        for path, run in runs.items()
    }
    with Display(list(shown.values()), Console(file=sys.stderr)) as display:
        for path, run in runs.items():
            progress, seeds = shown[path], len(run.seeds)

            def on_start(step: int, progress: OfflineProgress = progress, n: int = seeds) -> None:
                progress.begin(step * n)
                display.update(progress)

            def on_point(
                point: OfflinePoint, progress: OfflineProgress = progress, n: int = seeds
            ) -> None:
                progress.take(point.step * n, point.seconds, point.episode_returns)
                progress.mean_abs_q = float(np.median(point.mean_abs_q))
                progress.collapsed = int(point.collapsed.sum())
                display.update(progress)

            try:
                train_offline(
                    run, path, on_start=on_start, on_point=on_point, on_note=display.note, **how
                )
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                raise MemoryError(
                    f"{run.critic_optimizer} on {command.dataset} does not fit into memory; lower "
                    "batch_size, the widths or the seeds"
                ) from error
            progress.state = "done"
            display.update(progress)
    report(list(runs), Path(str(command.out)))


def offline_run(command: Offline, optimizer: str) -> OfflineRun:
    """One run of what the command asks for.

    Raises:
        ValueError: if anything in it is unknown or not allowed.
    """
    from experiments.offline.algorithms import settings_of
    from experiments.offline.datasets import Data
    from experiments.offline.training import OfflineRun

    assert command.algorithm is not None
    assert command.dataset is not None
    assert command.steps is not None
    assert command.seeds is not None
    settings = settings_of(command.algorithm, command.set)
    return OfflineRun(
        command.algorithm,
        Data(command.dataset, command.subset, command.subset_seed, command.env),
        optimizer,
        command.steps,
        tuple(range(command.seeds)),
        settings,
        actor_optimizer=command.actor_optimizer,
        value_optimizer=command.value_optimizer,
        learning_rate=command.critic_learning_rate,
        evaluations=command.evaluations,
        evaluation_episodes=command.evaluation_episodes,
        diagnostics_every=command.diagnostics_every,
    )


def collect_shown(command: Collect) -> None:
    """Makes data sets and says what is in them.

    Raises:
        ValueError: if anything in the command is unknown or not allowed.
        OSError: if something cannot be written.
    """
    from experiments.offline.collection import Collection

    if command.cache:
        _keep_compiled_programs()
    collection = Collection(
        command.env,
        command.datasets,
        command.size,
        command.steps,
        command.seed,
        command.noise,
        command.name or default_name(command.env),
        command.set,
    )
    _collect(collection, command.root, command.overwrite)


def _collect_preset(plan: CollectionPlan, root: Path) -> None:
    from experiments.offline.collection import Collection

    collection = Collection(
        plan.env,
        (plan.kind,),
        plan.size,
        plan.steps,
        plan.seed,
        plan.noise,
        default_name(plan.env),
    )
    _collect(collection, root, overwrite=False)


def _collect(collection: Collection, root: Path | None, overwrite: bool) -> None:
    from experiments.offline.collection import collect

    console = Console(file=sys.stderr)

    def on_progress(done: int, steps: int, episode_return: float) -> None:
        line = (
            f"agent on {collection.env}: {done:,} of {steps:,} steps, return {episode_return:.4g}"
        )
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    for one in collect(collection, root, overwrite=overwrite, on_progress=on_progress):
        print(
            f"Written: {one.dataset_id}, {one.transitions:,} transitions, {one.episodes:,} whole "
            f"episodes, mean return {one.mean_return:.4g}"
        )


def meta_run_config(command: MetaTrain) -> MetaRun:
    """What the command asks for.

    Raises:
        ValueError: if anything in the command is unknown or not allowed.
    """
    from experiments.meta_training.evolution import EvolutionRunConfig
    from experiments.meta_training.imitation import ImitationRunConfig
    from experiments.meta_training.pipeline import PipelineRunConfig
    from experiments.meta_training.tasks import meta_tasks
    from experiments.meta_training.training import METHODS

    if command.method not in METHODS:
        raise unknown("method", command.method, METHODS)
    if command.preset is not None:
        command = with_preset(command)
    common: dict[str, Any] = {
        "generations": command.generations or 500,
        "evaluate_every": command.evaluate_every,
        "evaluation_seeds": command.evaluation_seeds,
        "seed": command.seed,
    }
    options: dict[str, Any] = {
        "normalisers": command.normalisers,
        "learning_rates": command.learning_rates,
        "reward_scales": command.reward_scales,
        "learner": command.learner or "ppo",
        "settings": command.set,
    }
    if command.method == "pipeline":
        return PipelineRunConfig.from_texts(
            command.optimizer, command.tasks, command.pipeline, command.steps, options, **common
        )
    if command.pipeline:
        raise ValueError("--pipeline needs --method pipeline.")
    tasks = meta_tasks(command.tasks, steps=command.steps or ["1e5"], **options)
    if command.method == "imitation":
        return ImitationRunConfig.from_texts(
            command.optimizer, tasks, command.target, command.imitation, **common
        )
    if command.imitation or command.target is not None:
        raise ValueError("--target and --imitation need --method imitation.")
    return EvolutionRunConfig.from_texts(
        command.optimizer,
        tasks,
        strategy=command.strategy,
        stretches=command.stretches,
        population=command.population,
        lives=command.lives,
        task_sampling=command.sampling,
        members_at_once=command.at_once,
        **common,
    )


def convert(command: Convert) -> None:
    """Writes OPEN's weights from a flat vector to a file of meta-parameters.

    Raises:
        ValueError: if the vector or the name of the file to write is not allowed.
        OSError: if something cannot be read or written.
    """
    out = command.out
    if out.suffix != ".safetensors":
        raise ValueError(f"the file to write must be called *.safetensors; got {str(out)!r}.")
    if out.exists() and not command.overwrite:
        raise ValueError(f"{out} exists already; use --overwrite to replace it.")
    if not out.parent.is_dir():
        raise ValueError(f"cannot write to {out}: {out.parent} is not a directory.")
    given = {"hidden_size": command.hidden_size, "gru_features": command.gru_features}
    sizes = {name: size for name, size in given.items() if size is not None}
    meta_params = optim.load_open_npy(command.weights, optim.OPEN(**sizes) if sizes else None)
    gru_features, hidden_size = meta_params["params"]["layers_0"]["kernel"].shape
    metadata = {
        "architecture": optim.OPEN(hidden_size, gru_features),
        "training_tasks": command.training_tasks,
        "converted_from": command.weights.name,
    }
    optim.save_meta_params(out, meta_params, metadata)
    print(f"Written: {out}; use it as open@{out}")


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
            console.print("\nLearned, with a file of weights, or with weights that are packaged:\n")
            console.print(_names_table({n: _learned_text(n) for n in optim.learned_names()}))
            console.print("\nFrom optax:\n")
            note = (
                "Options follow the name: adam:learning_rate=3e-4,b2=0.99, "
                "open@weights.safetensors:key=1."
            )
        case _:
            tables: list[tuple[str, Mapping[str, Any]]] = [
                ("rl-optim compare", PRESETS),
                ("rl-optim offline", OFFLINE_PRESETS),
                ("rl-optim meta-train --method pipeline", PIPELINE_PRESETS),
            ]
            for command, presets in tables:
                console.print(f"With {command} --preset NAME:\n")
                console.print(_names_table({name: p.description for name, p in presets.items()}))
                console.print()
            return
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


def _learned_text(name: str) -> str:
    """The same of a learned optimizer, and its packaged weights."""
    details = optim.details(name)
    assert details is not None
    packaged = ", ".join(f"{name}@{weights}" for weights in optim.packaged_meta_params(name))
    return f"{_details_text(details)}\n[dim]Packaged: {packaged or 'none'}.[/dim]"


def _run_config(plan: Plan, env: str, optimizer: str) -> RunConfig:
    name, _ = parse_environment(env)
    settings = change_settings(TASKS[name].settings, plan.settings)
    return RunConfig(env, optimizer, plan.steps, tuple(range(plan.seeds)), settings)


def _train_shown(
    path: Path,
    run: RunConfig,
    progress: TrainingProgress,
    display: Display,
    *,
    resume: bool,
    overwrite: bool,
) -> None:
    seeds = len(run.seeds)

    def on_start(step: int) -> None:
        progress.begin(step * seeds)
        display.update(progress)

    def on_point(point: Point) -> None:
        progress.take(point.step * seeds, point.seconds, point.episode_returns)
        progress.diverged = int(point.diverged.sum())
        display.update(progress)

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
