"""`rl-optim compare` and `rl-optim train`: agents under one optimizer or several."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from experiments.command_line.arguments import MOST_SEEDS, Command, count, joined, option
from experiments.online.presets import PRESETS
from experiments.runs.directory import RunDirectory, check_free, run_paths
from experiments.settings import unknown

if TYPE_CHECKING:
    from experiments.online.training import RunConfig


@dataclasses.dataclass(frozen=True)
class Compare(Command):
    """Train agents under several optimizers and compare them.

    Every optimizer is trained on every environment, with all seeds side by side. Ends with a table,
    the same as summary.csv and summary.md, and learning curves as curves.png and curves.svg.

    Example: rl-optim compare --envs Breakout-MinAtar --optimizers adam adamo --out runs/breakout
    """

    resumes = True
    computes = True

    envs: Annotated[tuple[str, ...], option("ENV", "the preset's")] = ()
    """Environments, NAME[:key=value,...], e.g. ant:backend=spring; see `rl-optim list envs`."""
    optimizers: Annotated[tuple[str, ...], option("OPTIMIZER", "the preset's")] = ()
    """Optimizers, NAME[:key=value,...], e.g. adam:learning_rate=3e-4, or learned ones,
    NAME@WEIGHTS[:key=value,...], e.g. open@weights.safetensors; see `rl-optim list optimizers`. One
    without a learning rate takes the environment's, which is tuned for Adam; learned ones take
    none."""
    steps: Annotated[int | None, count("--steps"), option("STEPS", "the preset's, or 1e6")] = None
    """Environment steps of each seed, rounded up to whole iterations."""
    seeds: Annotated[
        int | None, count("--seeds", MOST_SEEDS), option("SEEDS", "the preset's, or 4")
    ] = None
    """How many seeds: 0, 1, ..., SEEDS - 1."""
    out: Annotated[Path | None, option("DIR", "runs/PRESET")] = None
    """Directory for everything that is written."""
    preset: Annotated[str | None, option("PRESET")] = None
    """Fills in whatever is not given; see `rl-optim list presets`."""
    set: Annotated[tuple[str, ...], option("KEY=VALUE", "the environment's")] = ()
    """Settings of the learner, e.g. num_envs=128 anneal=false widths=256x256."""
    resume: bool = False
    """Continue what was interrupted; what is finished stays as it is."""
    overwrite: bool = False
    """Replace the runs in the directory."""
    cache: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Forget compiled programs instead of keeping them in the user's cache folder."""

    def plan(self) -> Plan:
        """Fills in what was not given.

        Raises:
            ValueError: if something is missing or unknown.
        """
        if self.preset is not None and self.preset not in PRESETS:
            raise unknown("preset", self.preset, PRESETS)
        preset = PRESETS[self.preset] if self.preset else None
        envs = self.envs or (preset.envs if preset else ())
        optimizers = self.optimizers or (preset.optimizers if preset else ())
        needed = {"--envs": envs, "--optimizers": optimizers, "--out": self.out or preset}
        if missing := [name for name, given in needed.items() if not given]:
            raise ValueError(f"compare needs {joined(missing)}, or a --preset.")
        out = self.out or Path("runs") / str(self.preset)
        return Plan(
            runs={path: names for names, path in run_paths(out, envs, optimizers).items()},
            out=out,
            steps=self.steps or (preset.steps if preset else 1_000_000),
            seeds=self.seeds or (preset.seeds if preset else 4),
            settings=(preset.settings if preset else ()) + self.set,
            resume=self.resume,
            overwrite=self.overwrite,
            cache=self.cache,
        )

    def check(self) -> None:
        """See `Command`."""
        self.plan().check()

    def run(self) -> None:
        """See `Command`."""
        self.plan().run()


@dataclasses.dataclass(frozen=True)
class Train(Command):
    """Train agents under one optimizer on one environment.

    Example: rl-optim train --env CartPole-v1 --optimizer adam --steps 1e5 --out runs/cartpole
    """

    resumes = True
    computes = True

    env: Annotated[str, option("ENV")]
    """Environment, NAME[:key=value,...], e.g. ant:backend=spring; see `rl-optim list envs`."""
    optimizer: Annotated[str, option("OPTIMIZER")]
    """Optimizer, NAME[:key=value,...], e.g. adam:learning_rate=3e-4, or a learned one,
    NAME@WEIGHTS[:key=value,...], e.g. open@weights.safetensors; see `rl-optim list optimizers`. One
    without a learning rate takes the environment's, which is tuned for Adam; learned ones take
    none."""
    out: Annotated[Path, option("DIR")]
    """The run directory."""
    steps: Annotated[int, count("--steps"), option("STEPS", "1e6")] = 1_000_000
    """Environment steps of each seed, rounded up to whole iterations."""
    seeds: Annotated[int, count("--seeds", MOST_SEEDS), option("SEEDS", "4")] = 4
    """How many seeds: 0, 1, ..., SEEDS - 1."""
    set: Annotated[tuple[str, ...], option("KEY=VALUE", "the environment's")] = ()
    """Settings of the learner, e.g. num_envs=128 anneal=false widths=256x256."""
    resume: bool = False
    """Continue an interrupted run."""
    overwrite: bool = False
    """Replace the run in the directory."""
    cache: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Forget compiled programs instead of keeping them in the user's cache folder."""

    def plan(self) -> Plan:
        """What it comes down to."""
        return Plan(
            runs={self.out: (self.env, self.optimizer)},
            out=self.out,
            steps=self.steps,
            seeds=self.seeds,
            settings=self.set,
            resume=self.resume,
            overwrite=self.overwrite,
            cache=self.cache,
        )

    def check(self) -> None:
        """See `Command`."""
        self.plan().check()

    def run(self) -> None:
        """See `Command`."""
        self.plan().run()


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

    def check(self) -> None:
        """Makes sure that the directories are free.

        Raises:
            ValueError: if one cannot be used.
        """
        check_free(self.runs, resume=self.resume, overwrite=self.overwrite)

    def run(self) -> None:
        """Trains one run after the other, once it is certain that all of them may begin; reports.

        Raises:
            ValueError: if anything in the plan is unknown or not allowed.
            OSError: if something cannot be written.
            MemoryError: if a run does not fit into memory.
        """
        from rich.console import Console

        from experiments.command_line.devices import keep_compiled_programs, memory_for
        from experiments.command_line.display import Display
        from experiments.command_line.progress import TrainingProgress
        from experiments.online.training import train
        from experiments.reports.report import report

        how = {"resume": self.resume, "overwrite": self.overwrite}
        runs = self.configs()
        for path, run in runs.items():
            RunDirectory.check(path, run.config(), **how)
        if self.cache:
            keep_compiled_programs()
        shown = {
            path: TrainingProgress(
                environment=run.environment,
                optimizer=run.optimizer,
                steps=run.step(run.points) * len(run.seeds),
                seeds=len(run.seeds),
            )
            for path, run in runs.items()
        }
        with Display(list(shown.values()), Console(file=sys.stderr)) as display:
            for path, run in runs.items():
                what = f"{run.optimizer} on {run.environment}"
                with memory_for(what, "num_envs or the seeds"), display.shown(shown[path]) as show:
                    train(
                        run,
                        path,
                        on_start=show.start,
                        on_point=show.point,
                        on_note=display.note,
                        **how,
                    )
        report(list(runs), self.out)

    def configs(self) -> dict[Path, RunConfig]:
        """The runs in full, by run directory.

        Raises:
            ValueError: if anything in them is unknown or not allowed.
        """
        from experiments.online.tasks import TASKS, parse_environment
        from experiments.online.training import RunConfig
        from experiments.settings import change_settings

        configs = {}
        for path, (env, optimizer) in self.runs.items():
            settings = change_settings(TASKS[parse_environment(env)[0]].settings, self.settings)
            seeds = tuple(range(self.seeds))
            run = RunConfig(env, optimizer, self.steps, seeds, settings)
            configs[path] = run.as_begun(path) if self.resume else run
        return configs
