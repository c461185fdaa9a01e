"""`rl-optim offline`: offline learners under several critic optimizers."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from experiments.command_line.arguments import MOST_SEEDS, Command, count, joined, option
from experiments.command_line.collect import collect_planned
from experiments.offline.presets import OFFLINE_PRESETS, OfflinePreset
from experiments.runs.directory import RunDirectory, check_free, run_paths
from experiments.settings import unknown

if TYPE_CHECKING:
    from experiments.offline.training import OfflineRun


@dataclasses.dataclass(frozen=True)
class Offline(Command):
    """Train offline learners from a data set under several critic optimizers and compare them.

    Ends with a table, the same as summary.csv and summary.md, and figures: mean |Q| with the line
    above which a critic has collapsed, and critic loss, as critic.png and critic.svg; returns,
    where the data's environment can be made, as curves.png and curves.svg.

    Example: rl-optim offline --algorithm td3_bc --dataset mujoco/hopper/medium-v0
    --critic-optimizer adam --critic-optimizer adamo:kappa=1,tau=0.05 --out runs/hopper
    """

    resumes = True
    computes = True

    algorithm: Annotated[str | None, option("ALGORITHM", "the preset's")] = None
    """td3_bc, iql, rebrac, sqog or pars."""
    dataset: Annotated[str | None, option("DATASET", "the preset's")] = None
    """A Minari name, the folder of a Minari data set, or an HDF5 file of Minari's or D4RL's."""
    critic_optimizer: Annotated[tuple[str, ...], option("OPTIMIZER", "the preset's")] = ()
    """Critic optimizers to compare, NAME[:key=value,...]; may be repeated. Adam and its kin get an
    eps of 1e-4 unless it is given, as AdamO's authors have it."""
    actor_optimizer: Annotated[str, option("OPTIMIZER", "adam")] = "adam"
    """The actor's, at the published learning rate unless it names one."""
    value_optimizer: Annotated[str, option("OPTIMIZER", "adam")] = "adam"
    """The value network's (iql alone), likewise."""
    critic_learning_rate: Annotated[
        float | None, option("RATE", "the preset's, or the algorithm's")
    ] = None
    """Of critic optimizers that name none."""
    steps: Annotated[int | None, count("--steps"), option("STEPS", "the preset's, or 1e6")] = None
    """Updates of the critic of each seed."""
    seeds: Annotated[
        int | None, count("--seeds", MOST_SEEDS), option("SEEDS", "the preset's, or 4")
    ] = None
    """How many seeds: 0, 1, ..., SEEDS - 1."""
    subset: Annotated[
        int | None, count("--subset"), option("TRANSITIONS", "the preset's, or all")
    ] = None
    """Learn from so many transitions only, drawn at random."""
    subset_seed: Annotated[int, option("SEED", "0")] = 0
    """Of that draw."""
    env: Annotated[str | None, option("ENV", "what the data set names")] = None
    """Environment to evaluate in, NAME[:key=value,...]."""
    evaluations: Annotated[int, option("TIMES", "10")] = 10
    """How many times the policy is evaluated while it is trained; 0: only afterwards."""
    evaluation_episodes: Annotated[
        int, count("--evaluation-episodes"), option("EPISODES", "10")
    ] = 10
    """Episodes of each evaluation."""
    diagnostics_every: Annotated[
        int | None, count("--diagnostics-every"), option("STEPS", "never")
    ] = None
    """Log the critic's stability test (optim.diagnostics) every so many steps."""
    out: Annotated[Path | None, option("DIR", "runs/PRESET")] = None
    """Directory for everything that is written."""
    preset: Annotated[str | None, option("PRESET")] = None
    """Fills in whatever is not given, and collects its data first; see `rl-optim list presets`."""
    set: Annotated[tuple[str, ...], option("KEY=VALUE", "the published ones")] = ()
    """Settings of the algorithm, e.g. alpha=10 polyak=0.01 critic_widths=64x64."""
    resume: bool = False
    """Continue what was interrupted; what is finished stays as it is."""
    overwrite: bool = False
    """Replace the runs in the directory."""
    cache: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Forget compiled programs instead of keeping them in the user's cache folder."""

    def filled(self) -> Offline:
        """The command with everything filled in that a preset has.

        Raises:
            ValueError: if something is missing or unknown.
        """
        preset = self._preset
        out = self.out or (Path("runs") / str(self.preset) if preset else None)
        collection = preset.collection if preset else None
        filled = dataclasses.replace(
            self,
            algorithm=self.algorithm or (preset.algorithm if preset else None),
            dataset=self.dataset
            or (str(out / "data" / collection.name) if out and collection else None),
            critic_optimizer=self.critic_optimizer or (preset.critic_optimizers if preset else ()),
            critic_learning_rate=self.critic_learning_rate
            or (preset.learning_rate if preset else None),
            steps=self.steps or (preset.steps if preset else 1_000_000),
            seeds=self.seeds or (preset.seeds if preset else 4),
            subset=self.subset or (preset.subset if preset else None),
            set=(preset.settings if preset else ()) + self.set,
            out=out,
        )
        needed = {
            "--algorithm": filled.algorithm,
            "--dataset": filled.dataset,
            "--critic-optimizer": filled.critic_optimizer,
            "--out": out,
        }
        if missing := [name for name, given in needed.items() if not given]:
            raise ValueError(f"offline needs {joined(missing)}, or a --preset.")
        return filled

    def check(self) -> None:
        """See `Command`."""
        paths = self.filled().paths()
        check_free(paths, resume=self.resume, overwrite=self.overwrite)

    def run(self) -> None:
        """Trains one run after the other, and reports; collects a preset's data before."""
        from rich.console import Console

        from experiments.command_line.devices import keep_compiled_programs, memory_for
        from experiments.command_line.display import Display
        from experiments.command_line.progress import OfflineProgress
        from experiments.offline.training import train_offline
        from experiments.reports.report import report

        command = self.filled()
        how = {"resume": self.resume, "overwrite": self.overwrite}
        if self.cache:
            keep_compiled_programs()
        if self._preset and self.dataset is None and not Path(str(command.dataset)).exists():
            collect_planned(self._preset.collection, Path(str(command.out)) / "data")
        runs = {path: command.run_of(optimizer) for path, optimizer in command.paths().items()}
        if self.resume:
            runs = {path: run.as_begun(path) for path, run in runs.items()}
        for path, run in runs.items():
            RunDirectory.check(path, run.config(), **how)
        shown = {
            path: OfflineProgress(
                dataset=run.data.dataset.title,
                optimizer=run.critic_optimizer,
                steps=run.points * run.stretch * len(run.seeds),
                seeds=len(run.seeds),
            )
            for path, run in runs.items()
        }
        lower = "batch_size, the widths or the seeds"
        with Display(list(shown.values()), Console(file=sys.stderr)) as display:
            for path, run in runs.items():
                what = f"{run.critic_optimizer} on {command.dataset}"
                with memory_for(what, lower), display.shown(shown[path]) as show:
                    train_offline(
                        run,
                        path,
                        on_start=show.start,
                        on_point=show.point,
                        on_note=display.note,
                        **how,
                    )
        report(list(runs), command.out)

    def run_of(self, optimizer: str) -> OfflineRun:
        """The run of one critic optimizer, of a command that is filled in.

        Raises:
            ValueError: if anything in it is unknown or not allowed.
        """
        from experiments.offline.algorithms import settings_of
        from experiments.offline.datasets import Data
        from experiments.offline.training import OfflineRun

        assert self.algorithm is not None
        assert self.dataset is not None
        assert self.steps is not None
        assert self.seeds is not None
        return OfflineRun(
            self.algorithm,
            Data(self.dataset, self.subset, self.subset_seed, self.env),
            optimizer,
            self.steps,
            tuple(range(self.seeds)),
            settings_of(self.algorithm, self.set),
            actor_optimizer=self.actor_optimizer,
            value_optimizer=self.value_optimizer,
            learning_rate=self.critic_learning_rate,
            evaluations=self.evaluations,
            evaluation_episodes=self.evaluation_episodes,
            diagnostics_every=self.diagnostics_every,
        )

    @property
    def _preset(self) -> OfflinePreset | None:
        if self.preset is not None and self.preset not in OFFLINE_PRESETS:
            raise unknown("preset", self.preset, OFFLINE_PRESETS)
        return OFFLINE_PRESETS[self.preset] if self.preset else None

    def paths(self) -> dict[Path, str]:
        """Critic optimizer by run directory, of a command that is filled in."""
        paths = run_paths(Path(str(self.out)), [str(self.algorithm)], self.critic_optimizer)
        return {path: optimizer for (_, optimizer), path in paths.items()}
