"""`rl-optim meta-sweep`: meta-training over a grid of settings."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from experiments.command_line.arguments import (
    check_floor,
    option,
    other_seeds,
    seed_numbers,
)
from experiments.command_line.loggers import check_loggers
from experiments.command_line.meta_train import MetaOptions
from experiments.meta_training.request import MetaRequest
from experiments.reports.files import check_free_for_meta_sweep
from experiments.runs.directory import RunDirectory, check_free
from experiments.runs.grid import Axis, Values, folders, parse_axes

if TYPE_CHECKING:
    from experiments.meta_training.training import MetaRun


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaSweep(MetaOptions):
    """Meta-train at every combination of settings, and count how many do well.

    It takes the options of meta-train. Each setting and seed is a run directory of meta-train's. At
    the end, the share of settings within 10 % of the best is printed, by the last evaluation of the
    mean weights, and written with all scores to meta_sweep.csv and meta_sweep.md, and a heat map to
    meta_sweep.png, .svg and .pdf.

    Example: rl-optim meta-sweep --optimizer optim4rl --method pipeline --preset catch --over
    meta_learning_rate=3e-4,1e-3,3e-3 reset_interval=8,32 --evaluation-steps 2560 --out runs/meta
    """

    over: Annotated[tuple[str, ...], option("KEY=VALUE,VALUE,...")]
    """What is swept, each with its values: settings of --pipeline, --imitation or --set and options
    of --strategy or the learned optimizer, e.g. reset_interval=8,32 num_steps=10,20. All
    combinations are trained. meta_learning_rate is the learning rate of the meta-trainer. A key
    that is several things is written pipeline.KEY, imitation.KEY, strategy.KEY, optimizer.KEY or
    set.KEY."""
    seeds: Annotated[tuple[int, ...], seed_numbers("--seeds"), option("SEEDS", "4")] = (0, 1, 2, 3)
    """Seeds of meta-training, see --seed of meta-train: how many (4 means 0 to 3), a range (4-7), a
    list (0,2,5) or a mixture (0-3,8); 7-7 is seed 7 alone."""
    floor: Annotated[float | None, option("EVALUATION", "that of the worst setting")] = None
    """Evaluation from which 'within 10 % of the best' is measured: at least the best minus a tenth
    of the range from the floor to the best."""

    def axes(self) -> tuple[Axis, ...]:
        """What is swept.

        Raises:
            ValueError: if it cannot be read, or there is nothing to choose from.
        """
        check_floor(self.floor)
        return parse_axes(self.over)

    def paths(self) -> dict[Values, tuple[Path, ...]]:
        """The run directories of each combination of values, one for each seed."""
        return {
            values: tuple(self.out / name / f"seed-{seed}" for seed in self.seeds)
            for values, name in folders(self.axes()).items()
        }

    def request(self) -> MetaRequest:
        """What all settings have, with the first seed."""
        common = {field.name for field in dataclasses.fields(MetaOptions)}
        names = [field.name for field in dataclasses.fields(MetaRequest) if field.name in common]
        return MetaRequest(**{name: getattr(self, name) for name in names}, seed=self.seeds[0])

    def check(self) -> None:
        """See `Command`."""
        check_loggers(self.log)
        paths = [path for those in self.paths().values() for path in those]
        check_free(paths, resume=self.resume, overwrite=self.overwrite)
        check_free_for_meta_sweep(self.out, paths, self.overwrite)

    def logs(self) -> list[Path]:
        """See `Command`."""
        return [path / "meta_metrics.csv" for those in self.paths().values() for path in those]

    def run(self) -> None:
        """Meta-trains at all settings, once it is certain that all may begin; reports."""
        from rich.console import Console

        from experiments.command_line.devices import keep_compiled_programs
        from experiments.meta_training.grid import requests
        from experiments.meta_training.methods import meta_run
        from experiments.reports import meta_sweep

        axes, paths = self.axes(), self.paths()
        asked = requests(self.request(), axes)
        runs: dict[Path, MetaRun] = {}
        for values, request in asked.items():
            run = meta_run(request)
            by_seed = zip(paths[values], self.seeds, strict=True)
            runs |= {path: run.with_seed(seed) for path, seed in by_seed}
        _check_comparable(runs.values())
        for path, run in runs.items():
            RunDirectory.check(path, run.config(), resume=self.resume, overwrite=self.overwrite)
        if self.cache:
            keep_compiled_programs()
        tasks, generations = ", ".join(task.environment for task in run.tasks), run.generations
        self.train_in_turn(runs, until_the_last=True)
        steps = "generations" if self.method == "es" else "meta-iterations"
        found = meta_sweep.MetaSweep(
            title=f"{self.optimizer} on {tasks}",
            method=f"{self.method}, {generations:,} {steps}",
            axes={axis.key: axis.values for axis in axes},
            tried=[
                meta_sweep.tried(values, asked[values].optimizer, those)
                for values, those in paths.items()
            ],
            seeds=self.seeds,
            generations=generations,
            floor=self.floor,
        )
        best = found.best
        again = None if best is None else self._again(asked[found.tried[best].values])
        written = meta_sweep.write_sweep(found, self.out, again)
        console = Console()
        meta_sweep.print_sweep(found, console)
        if again is not None:
            console.print(again, soft_wrap=True, highlight=False, markup=False)
        console.print("Written: " + ", ".join(map(str, written)), soft_wrap=True)

    def _again(self, request: MetaRequest) -> str:
        """The command that meta-trains at a setting anew, with other seeds."""
        words = ["rl-optim", "meta-train"]
        for field in dataclasses.fields(MetaRequest):
            value: Any = getattr(request, field.name)
            if value != field.default and field.name != "seed":
                values = value if isinstance(value, tuple) else (value,)
                words += [f"--{field.name.replace('_', '-')}", *map(str, values)]
        command, out = shlex.join(words), shlex.quote(f"{self.out}-best")
        seed, *others = other_seeds(self.seeds)
        if not others:
            return f"{command} --seed {seed} --out {out}"
        return (
            f"for seed in {' '.join(map(str, (seed, *others)))}; do {command} --seed $seed "
            f"--out {out}/seed-$seed; done"
        )


def _check_comparable(runs: Iterable[MetaRun]) -> None:
    """Makes sure that evaluations of all settings last equally long: returns grow with age.

    Raises:
        ValueError: if not.
    """
    lengths = {tuple(task.evaluated.steps for task in run.tasks) for run in runs}
    if len(lengths) > 1:
        shortest, longest = (" ".join(map(str, pick(lengths))) for pick in (min, max))
        raise ValueError(
            "--evaluation-steps must be given where --over changes how long agents live, here from "
            f"{shortest} to {longest} steps: what they reach in evaluations is not comparable "
            f"otherwise; the longest is --evaluation-steps {longest}."
        )
