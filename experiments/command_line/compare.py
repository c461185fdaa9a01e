"""`rl-optim compare` and `rl-optim train`: agents under one optimizer or several."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from experiments.command_line.arguments import (
    FLAG,
    Command,
    count,
    joined,
    option,
    seed_numbers,
)
from experiments.command_line.loggers import Loggers, both, check_loggers
from experiments.command_line.neighbours import runs_beside, say_beside
from experiments.online.presets import PRESETS, Arm
from experiments.reports.files import check_free_for_report
from experiments.runs.directory import RunDirectory, check_free, clear
from experiments.runs.paths import run_paths
from experiments.settings import unknown

if TYPE_CHECKING:
    from experiments.online.run import RunConfig


@dataclasses.dataclass(frozen=True)
class Compare(Command):
    """Train agents under several optimizers and compare them.

    Every optimizer is run on every environment, with all seeds in parallel. At the end, a table is
    printed and written to summary.csv, summary.md and summary.tex, and learning curves to
    curves.png, curves.svg and curves.pdf.

    Example: rl-optim compare --envs Breakout-MinAtar --optimizers adam adamo --out runs/breakout
    """

    computes = True

    envs: Annotated[tuple[str, ...], option("ENV", "the preset's")] = ()
    """Environments to train on, NAME[:key=value,...], e.g. ant:backend=spring; see `rl-optim list
    envs`."""
    optimizers: Annotated[tuple[str, ...], option("OPTIMIZER", "the preset's")] = ()
    """Optimizers to compare, NAME[:key=value,...], e.g. adam:learning_rate=3e-4; learned ones are
    NAME@WEIGHTS[:key=value,...], e.g. open@weights.safetensors. See `rl-optim list optimizers`.
    Without a learning rate, an optimizer uses the one tuned for Adam on the environment; learned
    optimizers use none. LABEL=OPTIMIZER gives one a name of its own in reports;
    actor=OPTIMIZER+critic=OPTIMIZER trains the two networks with different ones, and
    'clip:0.5|OPTIMIZER' is a chain. MODULE:NAME is a function of your own."""
    steps: Annotated[int | None, count("--steps"), option("STEPS", "the preset's, or 1e6")] = None
    """Environment steps per seed, rounded up to whole iterations."""
    seeds: Annotated[
        tuple[int, ...] | None, seed_numbers("--seeds"), option("SEEDS", "the preset's, or 4")
    ] = None
    """Seeds to train: how many (4 means 0 to 3), a range (4-7), a list (0,2,5) or a mixture
    (0-3,8); 7-7 is seed 7 alone."""
    out: Annotated[Path | None, option("DIR", "runs/PRESET")] = None
    """Directory to write to."""
    normalisers: Annotated[
        tuple[str, ...], option("TASK=RETURN", "published returns of tuned Adam")
    ] = ()
    """Divisors of final returns in the aggregate over several tasks; see `rl-optim report
    --help`."""
    preset: Annotated[str | None, option("PRESET")] = None
    """Supplies every option that is not given; see `rl-optim list presets`."""
    set: Annotated[tuple[str, ...], option("KEY=VALUE", "the environment's")] = ()
    """Settings of the learner, e.g. num_envs=128 anneal=false widths=256x256 learner=a2c."""
    evaluation_actions: Annotated[str, option("ACTIONS", "sampled")] = "sampled"
    """Actions of the evaluation after training: sampled from the policy, as in training, or greedy,
    its likeliest ones."""
    evaluate_first: Annotated[bool, FLAG] = False
    """Evaluate agents whose task changes in its first phase too, not only in its last."""
    diagnostics_every: Annotated[
        int | None, count("--diagnostics-every"), option("ITERATIONS", "never")
    ] = None
    """Log measures of the networks' plasticity (agents.diagnostics) every ITERATIONS rollouts, and
    draw them in plasticity.png, .svg and .pdf."""
    log: Annotated[tuple[str, ...], option("LOGGER", "none")] = ()
    """Log to tensorboard or wandb as well (extras of these names). WANDB_MODE=offline sends
    nothing."""
    resume: Annotated[bool, FLAG] = False
    """Continue interrupted runs; finished runs are left as they are."""
    overwrite: Annotated[bool, FLAG] = False
    """Replace runs that are already in the directory."""
    cache: Annotated[bool, FLAG] = True
    """Do not cache compiled programs on disk."""

    def plan(self) -> Plan:
        """Fills in what was not given.

        Raises:
            ValueError: if something is missing or unknown.
        """
        if self.preset is not None and self.preset not in PRESETS:
            raise unknown("preset", self.preset, PRESETS)
        preset = PRESETS[self.preset] if self.preset else None
        envs = self.envs or (preset.envs if preset else ())
        compared = self.optimizers or (preset.optimizers if preset else ())
        arms = [arm if isinstance(arm, Arm) else Arm.parse(arm) for arm in compared]
        needed = {"--envs": envs, "--optimizers": arms, "--out": self.out or preset}
        if missing := [name for name, given in needed.items() if not given]:
            raise ValueError(f"compare needs {joined(missing)}, or a --preset.")
        out = self.out or Path("runs") / str(self.preset)
        paths = run_paths(out, envs, [arm.name for arm in arms])
        return Plan(
            runs={paths[env, arm.name]: (env, arm) for env in envs for arm in arms},
            out=out,
            steps=self.steps or (preset.steps if preset else 1_000_000),
            seeds=self.seeds or tuple(range(preset.seeds if preset else 4)),
            settings=(preset.settings if preset else ()) + self.set,
            evaluation_actions=self.evaluation_actions,
            evaluate_first=self.evaluate_first,
            diagnostics_every=self.diagnostics_every,
            normalisers=self.normalisers,
            log=self.log,
            resume=self.resume,
            overwrite=self.overwrite,
            cache=self.cache,
        )

    def check(self) -> None:
        """See `Command`."""
        self.plan().check()

    def logs(self) -> list[Path]:
        """See `Command`."""
        return self.plan().logs()

    def run(self) -> None:
        """See `Command`."""
        self.plan().run()


@dataclasses.dataclass(frozen=True)
class Train(Command):
    """Train agents under one optimizer on one environment.

    Example: rl-optim train --env CartPole-v1 --optimizer adam --steps 1e5 --out runs/cartpole
    """

    computes = True

    env: Annotated[str, option("ENV")]
    """Environment to train on, NAME[:key=value,...], e.g. ant:backend=spring; see `rl-optim list
    envs`."""
    optimizer: Annotated[str, option("OPTIMIZER")]
    """Optimizer, NAME[:key=value,...], e.g. adam:learning_rate=3e-4; a learned one is
    NAME@WEIGHTS[:key=value,...], e.g. open@weights.safetensors. See `rl-optim list optimizers`.
    Without a learning rate, it uses the one tuned for Adam on the environment; a learned optimizer
    uses none."""
    out: Annotated[Path, option("DIR")]
    """Directory to write to."""
    steps: Annotated[int, count("--steps"), option("STEPS", "1e6")] = 1_000_000
    """Environment steps per seed, rounded up to whole iterations."""
    seeds: Annotated[tuple[int, ...], seed_numbers("--seeds"), option("SEEDS", "4")] = (0, 1, 2, 3)
    """Seeds to train: how many (4 means 0 to 3), a range (4-7), a list (0,2,5) or a mixture
    (0-3,8); 7-7 is seed 7 alone."""
    set: Annotated[tuple[str, ...], option("KEY=VALUE", "the environment's")] = ()
    """Settings of the learner, e.g. num_envs=128 anneal=false widths=256x256 learner=a2c."""
    evaluation_actions: Annotated[str, option("ACTIONS", "sampled")] = "sampled"
    """Actions of the evaluation after training: sampled from the policy, as in training, or greedy,
    its likeliest ones."""
    evaluate_first: Annotated[bool, FLAG] = False
    """Evaluate agents whose task changes in its first phase too, not only in its last."""
    diagnostics_every: Annotated[
        int | None, count("--diagnostics-every"), option("ITERATIONS", "never")
    ] = None
    """Log measures of the networks' plasticity (agents.diagnostics) every ITERATIONS rollouts, and
    draw them in plasticity.png, .svg and .pdf."""
    log: Annotated[tuple[str, ...], option("LOGGER", "none")] = ()
    """Log to tensorboard or wandb as well (extras of these names). WANDB_MODE=offline sends
    nothing."""
    resume: Annotated[bool, FLAG] = False
    """Continue an interrupted run."""
    overwrite: Annotated[bool, FLAG] = False
    """Replace a run that is already in the directory."""
    cache: Annotated[bool, FLAG] = True
    """Do not cache compiled programs on disk."""

    def plan(self) -> Plan:
        """What it comes down to."""
        return Plan(
            runs={self.out: (self.env, Arm(None, self.optimizer))},
            out=self.out,
            steps=self.steps,
            seeds=self.seeds,
            settings=self.set,
            evaluation_actions=self.evaluation_actions,
            evaluate_first=self.evaluate_first,
            diagnostics_every=self.diagnostics_every,
            normalisers=(),
            log=self.log,
            resume=self.resume,
            overwrite=self.overwrite,
            cache=self.cache,
        )

    def check(self) -> None:
        """See `Command`."""
        self.plan().check()

    def logs(self) -> list[Path]:
        """See `Command`."""
        return self.plan().logs()

    def run(self) -> None:
        """See `Command`."""
        self.plan().run()


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `compare` and `train` come down to.

    Attributes:
        runs: environment, as the user wrote it, and what is compared, by run directory.
        out: where the report is written.
        steps: environment steps of each seed.
        seeds: which ones.
        settings: changes to the tasks' settings, `key=value`.
        evaluation_actions: sampled or greedy.
        diagnostics_every: iterations between two diagnoses, or None.
        normalisers: `TASK=RETURN` each, or `min-max` alone.
        log: loggers beside the run directories, see `loggers`.
        resume: whether runs that have begun are continued.
        overwrite: whether runs that are there are replaced.
        cache: whether compiled programs are kept in the user's cache folder.
    """

    runs: Mapping[Path, tuple[str, Arm]]
    out: Path
    steps: int
    seeds: tuple[int, ...]
    settings: tuple[str, ...]
    evaluation_actions: str
    evaluate_first: bool
    diagnostics_every: int | None
    normalisers: tuple[str, ...]
    log: tuple[str, ...]
    resume: bool
    overwrite: bool
    cache: bool

    def check(self) -> None:
        """Makes sure that the directories are free, and so are the files of the report.

        Raises:
            ValueError: if one cannot be used.
        """
        check_loggers(self.log)
        check_free(self.runs, resume=self.resume, overwrite=self.overwrite)
        check_free_for_report(self.out, self.runs, self.overwrite)

    def logs(self) -> list[Path]:
        """Where the runs log."""
        return [path / "metrics.csv" for path in self.runs]

    def run(self) -> None:
        """Trains one run after the other, once it is certain that all of them may begin; reports.

        Raises:
            ValueError: if anything in the plan is unknown or not allowed.
            OSError: if something cannot be written.
            MemoryError: if a run does not fit into memory.
        """
        from experiments.command_line.devices import keep_compiled_programs
        from experiments.reports.aggregate import read_normalisers

        normalisers = read_normalisers(self.normalisers)
        how = {"resume": self.resume, "overwrite": self.overwrite}
        runs = self.configs()
        for path, run in runs.items():
            RunDirectory.check(path, run.config(), **how)
        if self.cache:
            keep_compiled_programs()
        train_in_turn(runs, log=self.log, **how)
        from experiments.reports.report import report  # draws, for which nobody waits before

        others = runs_beside(self.out, runs, offline=False)
        report([*runs, *others], self.out, normalisers=normalisers, overwrite=self.overwrite)
        say_beside(self.out, others)

    def configs(self) -> dict[Path, RunConfig]:
        """The runs in full, by run directory.

        Raises:
            ValueError: if anything in them is unknown or not allowed.
        """
        from experiments.online.run import RunConfig
        from experiments.online.tasks import task_of
        from experiments.settings import change_settings

        configs = {}
        for path, (env, arm) in self.runs.items():
            published = task_of(env).settings
            settings = change_settings(published, (*self.settings, *arm.settings))
            run = RunConfig(
                env,
                arm.optimizer,
                self.steps,
                self.seeds,
                settings,
                self.evaluation_actions,
                self.evaluate_first,
                self.diagnostics_every,
                label=arm.label,
            )
            configs[path] = run.as_begun(path) if self.resume else run
        return configs


def train_in_turn(
    runs: Mapping[Path, RunConfig], *, resume: bool, overwrite: bool, log: Sequence[str] = ()
) -> None:
    """Trains one run after the other, and shows how they get on.

    Args:
        runs: by run directory; where they are resumed, as they go on from what is there.
        resume: whether runs that have begun are continued.
        overwrite: whether runs that are there are replaced.
        log: loggers beside the run directories, see `loggers`.

    Raises:
        ValueError: if a run cannot begin.
        OSError: if something cannot be written.
        MemoryError: if a run does not fit into memory.
    """
    from rich.console import Console

    from experiments.command_line.devices import memory_for
    from experiments.command_line.display import Display
    from experiments.command_line.progress import TrainingProgress
    from experiments.online.training import train

    shown = {
        path: TrainingProgress(
            environment=run.environment,
            optimizer=run.name,
            steps=run.step(run.points) * len(run.seeds),
            seeds=len(run.seeds),
        )
        for path, run in runs.items()
    }
    if overwrite:
        clear(runs)
    with Display(list(shown.values()), Console(file=sys.stderr)) as display:
        for path, run in runs.items():
            what = f"{run.name} on {run.environment}"
            with (
                memory_for(what, "num_envs or --seeds"),
                display.shown(shown[path]) as show,
                Loggers(log, path, what, run.config()) as loggers,
            ):
                train(
                    run,
                    path,
                    resume=resume,
                    overwrite=overwrite,
                    on_start=both(show.start, loggers.begin),
                    on_point=both(show.point, loggers.point),
                    on_note=display.note,
                )
