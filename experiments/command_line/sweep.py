"""`rl-optim sweep`: agents under one optimizer, over a grid of settings."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from experiments.command_line.arguments import (
    FLAG,
    Command,
    check_floor,
    count,
    option,
    other_seeds,
    seed_numbers,
    written_seeds,
)
from experiments.command_line.compare import Plan, train_in_turn
from experiments.online.grid import arms, kept, lengths
from experiments.online.presets import Arm
from experiments.reports.files import check_free_for_report, check_free_for_sweep
from experiments.runs.directory import RunDirectory, check_free
from experiments.runs.grid import Axis, Values, folders, grid, parse_axes
from experiments.runs.identity import planned_steps, why_not_longer

if TYPE_CHECKING:
    from experiments.online.run import RunConfig
    from experiments.reports.sweep import Tried


@dataclasses.dataclass(frozen=True)
class Sweep(Command):
    """Train agents at every combination of settings, and count how many do well.

    At the end, the share of settings within 10 % of the best is printed, and written with all
    scores to sweep.csv and sweep.md, and a heat map to sweep.png, .svg and .pdf. Each setting is a
    run directory; the usual report on all of them is written too.

    Example: rl-optim sweep --env CartPole-v1 --optimizer adam --over learning_rate=1e-4,1e-3,1e-2
    eps=1e-8,1e-5 --steps 1e5 --out runs/sweep
    """

    computes = True

    env: Annotated[str, option("ENV")]
    """Environment to train on, NAME[:key=value,...]; see `rl-optim list envs`."""
    optimizer: Annotated[str, option("OPTIMIZER")]
    """Optimizer, NAME[:key=value,...] or NAME@WEIGHTS[:key=value,...], with what all settings have;
    see `rl-optim list optimizers`. Without a learning rate, here or swept, it uses the one tuned
    for Adam on the environment."""
    over: Annotated[tuple[str, ...], option("KEY=VALUE,VALUE,...")]
    """What is swept: options of the optimizer and settings of --set, each with its values, e.g.
    learning_rate=1e-4,3e-4,1e-3 num_steps=64,128. All combinations are trained. A key that is both
    is written optimizer.KEY or set.KEY."""
    out: Annotated[Path, option("DIR")]
    """Directory to write to."""
    steps: Annotated[int, count("--steps"), option("STEPS", "1e6")] = 1_000_000
    """Environment steps per seed, rounded up to whole iterations."""
    seeds: Annotated[tuple[int, ...], seed_numbers("--seeds"), option("SEEDS", "4")] = (0, 1, 2, 3)
    """Seeds to train: how many (4 means 0 to 3), a range (4-7), a list (0,2,5) or a mixture
    (0-3,8); 7-7 is seed 7 alone."""
    set: Annotated[tuple[str, ...], option("KEY=VALUE", "the environment's")] = ()
    """Settings of the learner that all have, e.g. num_envs=128 anneal=false widths=256x256."""
    halving: Annotated[int | None, count("--halving", least=2), option("K", "never")] = None
    """Successive halving: train all settings for a share of the steps, then the best one in K for K
    times as long, until up to K settings are trained in full. Needs anneal=false."""
    floor: Annotated[float | None, option("RETURN", "that of the worst setting")] = None
    """Return from which 'within 10 % of the best' is measured: at least the best minus a tenth of
    the range from the floor to the best."""
    resume: Annotated[bool, FLAG] = False
    """Continue interrupted runs; finished runs are left as they are."""
    overwrite: Annotated[bool, FLAG] = False
    """Replace runs that are already in the directory."""
    cache: Annotated[bool, FLAG] = True
    """Do not cache compiled programs on disk."""

    def axes(self) -> tuple[Axis, ...]:
        """What is swept.

        Raises:
            ValueError: if it cannot be read, or there is nothing to choose from.
        """
        axes = parse_axes(self.over)
        settings = len(grid(axes))
        check_floor(self.floor)
        if self.halving is not None and self.halving >= settings:
            raise ValueError(
                f"--halving must be less than the number of settings, {settings}; "
                f"got {self.halving}."
            )
        return axes

    def paths(self) -> dict[Values, Path]:
        """The run directory of each combination of values."""
        return {values: self.out / name for values, name in folders(self.axes()).items()}

    def check(self) -> None:
        """See `Command`."""
        paths = self.paths().values()
        check_free(paths, resume=self.resume, overwrite=self.overwrite)
        check_free_for_report(self.out, paths, self.overwrite)
        check_free_for_sweep(self.out, paths, self.overwrite)

    def logs(self) -> list[Path]:
        """See `Command`."""
        return [path / "metrics.csv" for path in self.paths().values()]

    def run(self) -> None:
        """Trains all settings, once it is certain that all of them may begin; reports."""
        from rich.console import Console

        from experiments.command_line.devices import keep_compiled_programs
        from experiments.reports import online, sweep
        from experiments.runs.reading import load_runs

        axes, paths = self.axes(), self.paths()
        swept = arms(self.optimizer, axes, self.set)
        runs = self._configs({paths[values]: arm for values, arm in swept.items()})
        how = {"resume": self.resume, "overwrite": self.overwrite}
        for path, run in runs.items():
            RunDirectory.check(path, run.config(), **how)
        if self.cache:
            keep_compiled_programs()
        totals = [self.steps]
        if self.halving:
            totals = lengths(self.steps, len(runs), self.halving)
        reached = self._train(runs, totals)
        loaded = {path: load_runs([path])[0] for path in runs}

        def tried(values: Values) -> Tried:
            path, run = paths[values], loaded[paths[values]]
            ends = [_of_length(runs[path], total) for total in totals[: reached[path]]]
            first, last = (_whole_steps(ends[i]) for i in (0, -1))
            return sweep.Tried(
                values=values,
                optimizer=swept[values].name,
                run=sweep.up_to(run, last),
                first=sweep.up_to(run, first),
                rounds=reached[path],
            )

        found = sweep.Sweep(
            title=f"{self.optimizer} on {self.env}",
            axes={axis.key: axis.values for axis in axes},
            tried=[tried(values) for values in grid(axes)],
            lengths=tuple(totals),
            floor=self.floor,
            keep=self.halving,
        )
        best = found.best
        again = None if best is None else self._again(swept[found.tried[best].values])
        written = online.write_report(load_runs(list(runs)), self.out, overwrite=self.overwrite)
        written += sweep.write_sweep(found, self.out, again)
        console = Console()
        sweep.print_sweep(found, console)
        if again is not None:
            console.print(again, soft_wrap=True, highlight=False, markup=False)
        console.print("Written: " + ", ".join(map(str, written)), soft_wrap=True)

    def _configs(self, swept: dict[Path, Arm]) -> dict[Path, RunConfig]:
        """The runs in full, at full length.

        Raises:
            ValueError: if anything in them is unknown or not allowed.
        """
        plan = Plan(
            runs={path: (self.env, arm) for path, arm in swept.items()},
            out=self.out,
            steps=self.steps,
            seeds=self.seeds,
            settings=self.set,
            evaluation_actions="sampled",
            evaluate_first=False,
            diagnostics_every=None,
            normalisers=(),
            log=(),
            resume=self.resume,
            overwrite=self.overwrite,
            cache=self.cache,
        )
        runs = plan.configs()
        if self.halving is not None:
            for run in runs.values():
                config = run.config()
                if reason := why_not_longer(config):
                    remedy = "set anneal=false" if config["annealed"] else "leave it out"
                    raise ValueError(
                        f"--halving prolongs runs, and {run.name} cannot be prolonged: {reason}; "
                        f"{remedy}."
                    )
        return runs

    def _train(self, runs: dict[Path, RunConfig], totals: list[int]) -> dict[Path, int]:
        """Trains in rounds.

        Args:
            runs: by run directory, at full length.
            totals: steps at the end of each round.

        Returns:
            How many rounds each run was part of.
        """
        from experiments.reports.sweep import score_of, up_to
        from experiments.runs.reading import load_runs

        reached = dict.fromkeys(runs, 0)
        going_on = list(runs)
        for number, total in enumerate(totals):
            is_first = number == 0
            resume = self.resume or not is_first
            planned = {path: _of_length(runs[path], total) for path in going_on}
            if len(totals) > 1:
                print(
                    f"round {number + 1} of {len(totals)}: {len(planned)} settings, {total:,} "
                    "steps of each seed",
                    file=sys.stderr,
                )
            # What was prolonged already, before an interruption, has this round behind it.
            train_in_turn(
                {
                    path: run.as_begun(path) if resume else run
                    for path, run in planned.items()
                    if not (resume and planned_steps(path) > _whole_steps(run))
                },
                resume=resume,
                overwrite=self.overwrite and is_first,
            )
            for path in going_on:
                reached[path] += 1
            if self.halving and total != totals[-1]:
                scores = [
                    score_of(up_to(load_runs([path])[0], _whole_steps(run)))
                    for path, run in planned.items()
                ]
                going_on = [going_on[place] for place in kept(scores, self.halving)]
        return reached

    def _again(self, arm: Arm) -> str:
        """The command that measures a setting anew, with other seeds."""
        settings = [*self.set, *arm.settings]
        return shlex.join(
            [
                *("rl-optim", "train", "--env", self.env, "--optimizer", arm.optimizer),
                *("--steps", str(self.steps)),
                *("--seeds", written_seeds(other_seeds(self.seeds))),
                *(("--set", *settings) if settings else ()),
                *("--out", f"{self.out}-best"),
            ]
        )


def _of_length(run: RunConfig, steps: int) -> RunConfig:
    """The run with so many steps, as if nothing had been done yet."""
    return dataclasses.replace(run, steps=steps, prolonged_at=())


def _whole_steps(run: RunConfig) -> int:
    """Steps of each seed that it ends with."""
    return run.iterations * run.steps_per_iteration
