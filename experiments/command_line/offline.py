"""`rl-optim offline`: offline learners under several critic optimizers."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.constructors import PrimitiveConstructorSpec

from experiments.command_line.arguments import (
    FLAG,
    Command,
    UsageError,
    count,
    joined,
    option,
    read_by,
    seed_numbers,
)
from experiments.command_line.collect import collect_planned
from experiments.command_line.neighbours import runs_beside, say_beside
from experiments.offline.presets import OFFLINE_PRESETS, OfflinePreset
from experiments.offline.references import D4RL_RETURNS
from experiments.reports.files import check_free_for_report
from experiments.runs.directory import RunDirectory, check_free, clear
from experiments.runs.paths import run_paths
from experiments.settings import unknown

if TYPE_CHECKING:
    from experiments.offline.training import OfflineRun


_MOST_STEPS = 2**31 - 1  # updates are counted in int32


def _learning_rate(text: str) -> float:
    return _numbers((text,), "--critic-learning-rate must be a number above 0", lambda x: x > 0)[0]


def _action_bounds(texts: Sequence[str]) -> tuple[float, float]:
    rule = "--action-bounds must be two numbers, LOW below HIGH"
    low, high = _numbers(texts, rule, lambda low, high: low < high)
    return low, high


def _reference_returns(texts: Sequence[str]) -> tuple[float, float]:
    if len(texts) == 1:
        if texts[0] not in D4RL_RETURNS:
            raise UsageError(str(unknown("D4RL environment", texts[0], D4RL_RETURNS)))
        return D4RL_RETURNS[texts[0]]
    rule = "--reference-returns must be two numbers, RANDOM below EXPERT, or a D4RL environment"
    low, high = _numbers(texts, rule, lambda low, high: low < high)
    return low, high


def _numbers(texts: Sequence[str], rule: str, is_allowed: Callable[..., bool]) -> tuple[float, ...]:
    try:
        values = tuple(map(float, texts))
        if all(map(math.isfinite, values)) and is_allowed(*values):
            return values
    except (ValueError, TypeError):  # no numbers, or not so many
        pass
    raise UsageError(f"{rule}; got {' '.join(texts)!r}.")


def _several(read: Callable[[Sequence[str]], Any]) -> PrimitiveConstructorSpec[Any]:
    return dataclasses.replace(read_by(str, ""), nargs="*", instance_from_str=read)


@dataclasses.dataclass(frozen=True)
class Offline(Command):
    """Train offline learners on a data set under several critic optimizers and compare them.

    At the end there is a table, also as summary.csv, summary.md and summary.tex, and figures (.png,
    .svg and .pdf): critic.png shows mean |Q|, with the line above which a critic has collapsed, and
    the critic's loss; curves.png shows returns, if the data set's environment can be made.

    Example: rl-optim offline --algorithm td3_bc --dataset mujoco/hopper/medium-v0
    --critic-optimizer adam --critic-optimizer adamo:kappa=1,tau=0.05 --out runs/hopper
    """

    computes = True

    algorithm: Annotated[str | None, option("ALGORITHM", "the preset's")] = None
    """td3_bc, iql, rebrac, sqog or pars."""
    dataset: Annotated[str | None, option("DATASET", "the preset's")] = None
    """Name of a downloaded Minari data set, the folder of one, or an HDF5 file in Minari's or
    D4RL's layout."""
    action_bounds: Annotated[
        tuple[float, float] | None,
        _several(_action_bounds),
        option("LOW HIGH", "the data set's, or -1 1"),
    ] = None
    """Bounds of the actions in the data, the same in every dimension."""
    clip_actions: Annotated[bool, FLAG] = False
    """Clip actions that lie outside the bounds. Otherwise they are refused."""
    critic_optimizer: Annotated[tuple[str, ...], option("OPTIMIZER", "the preset's")] = ()
    """Critic optimizers to compare, NAME[@WEIGHTS][:key=value,...]; may be repeated. Adam and its
    relatives get an eps of 1e-4, as in AdamO's paper, unless you give one."""
    actor_optimizer: Annotated[str, option("OPTIMIZER", "adam")] = "adam"
    """Optimizer of the actor. It gets the algorithm's published learning rate unless it names one;
    a learned optimizer gets none."""
    value_optimizer: Annotated[str, option("OPTIMIZER", "adam")] = "adam"
    """The same for the value network, which only iql has."""
    critic_learning_rate: Annotated[
        float | None,
        read_by(_learning_rate, "RATE"),
        option("RATE", "the preset's, or the algorithm's"),
    ] = None
    """Learning rate of critic optimizers that name none; learned ones get none."""
    steps: Annotated[
        int | None, count("--steps", _MOST_STEPS), option("STEPS", "the preset's, or 1e6")
    ] = None
    """Updates of the critic for each seed."""
    seeds: Annotated[
        tuple[int, ...] | None, seed_numbers("--seeds"), option("SEEDS", "the preset's, or 4")
    ] = None
    """Seeds to train: how many (4 means 0 to 3), a range (4-7), a list (0,2,5) or a mixture
    (0-3,8); 7-7 is seed 7 alone."""
    subset: Annotated[
        int | None, count("--subset"), option("TRANSITIONS", "the preset's, or all")
    ] = None
    """Learn from only this many transitions, drawn at random."""
    subset_seed: Annotated[int, count("--subset-seed", least=0), option("SEED", "0")] = 0
    """Seed of that draw."""
    env: Annotated[str | None, option("ENV", "the data set's")] = None
    """Environment to evaluate in, NAME[:key=value,...]."""
    reference_returns: Annotated[
        tuple[float, float] | None,
        _several(_reference_returns),
        option("RANDOM EXPERT", "the data set's"),
    ] = None
    """Returns that score 0 and 100, or the name of a D4RL environment to take them from, such as
    hopper, pen or maze2d-umaze."""
    evaluations: Annotated[int, count("--evaluations", least=0), option("TIMES", "10")] = 10
    """How often the policy is evaluated during training. With 0 it is evaluated only once, when
    training is over."""
    evaluation_episodes: Annotated[
        int, count("--evaluation-episodes"), option("EPISODES", "10")
    ] = 10
    """Episodes in each evaluation."""
    diagnostics_every: Annotated[
        int | None, count("--diagnostics-every"), option("STEPS", "never")
    ] = None
    """Log the critic's stability test (optim.diagnostics) every STEPS updates."""
    out: Annotated[Path | None, option("DIR", "runs/PRESET")] = None
    """Directory for all results."""
    preset: Annotated[str | None, option("PRESET")] = None
    """Fill in whatever is not given, and collect the preset's data first; see `rl-optim list
    presets`."""
    set: Annotated[tuple[str, ...], option("KEY=VALUE", "the published ones")] = ()
    """Settings of the algorithm, e.g. alpha=10 polyak=0.01 critic_widths=64x64. Rewards are changed
    with reward_scale, reward_shift and reward_normalisation=returns, which divides them by the
    range of the episodes' returns and multiplies by 1000. IQL's published settings are that for
    locomotion, and reward_shift=-1 for AntMaze."""
    resume: Annotated[bool, FLAG] = False
    """Continue runs that were interrupted, and leave finished ones as they are."""
    overwrite: Annotated[bool, FLAG] = False
    """Replace the runs in the directory."""
    cache: Annotated[bool, FLAG] = True
    """Do not cache compiled programs on disk."""

    def filled(self) -> Offline:
        """The command with everything filled in that a preset has.

        Raises:
            ValueError: if something is missing or unknown.
        """
        preset = self._preset
        defaults: dict[str, Any] = {"steps": 1_000_000, "seeds": tuple(range(4))}
        if preset:
            out = Path("runs") / str(self.preset) if self.out is None else self.out
            defaults = {
                "algorithm": preset.algorithm,
                "dataset": str(out / "data" / preset.collection.name),
                "critic_optimizer": preset.critic_optimizers,
                "critic_learning_rate": preset.learning_rate,
                "steps": preset.steps,
                "seeds": tuple(range(preset.seeds)),
                "subset": preset.subset,
                "out": out,
            }
        not_given = {k: v for k, v in defaults.items() if getattr(self, k) in (None, ())}
        settings = (preset.settings if preset else ()) + self.set
        filled = dataclasses.replace(self, **not_given, set=settings)
        needed = {
            "--algorithm": filled.algorithm,
            "--dataset": filled.dataset,
            "--critic-optimizer": filled.critic_optimizer,
            "--out": filled.out,
        }
        if missing := [name for name, given in needed.items() if not given]:
            raise ValueError(f"offline needs {joined(missing)}, or a --preset.")
        return filled

    def check(self) -> None:
        """See `Command`."""
        paths = self.filled().paths()
        check_free(paths, resume=self.resume, overwrite=self.overwrite)
        check_free_for_report(Path(str(self.filled().out)), paths, self.overwrite)

    def logs(self) -> list[Path]:
        """See `Command`."""
        return [path / "metrics.csv" for path in self.filled().paths()]

    def run(self) -> None:
        """Trains one run after the other and reports; collects a preset's data first."""
        from rich.console import Console

        from experiments.command_line.devices import keep_compiled_programs, memory_for
        from experiments.command_line.display import Display
        from experiments.command_line.progress import OfflineProgress
        from experiments.offline.training import train_offline

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
        if self.overwrite:
            clear(runs)
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
        from experiments.reports.report import report  # draws, for which nobody waits before

        out = Path(str(command.out))
        others = runs_beside(out, runs, offline=True)
        report([*runs, *others], out, overwrite=self.overwrite)
        say_beside(out, others)

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
            Data(
                self.dataset,
                self.subset,
                self.subset_seed,
                self.env,
                self.action_bounds,
                self.clip_actions,
                self.reference_returns,
            ),
            optimizer,
            self.steps,
            self.seeds,
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
