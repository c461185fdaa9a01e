"""Pipeline training as the command line runs it: its settings, and returns by age."""

from __future__ import annotations

import csv
import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.meta_training.request import MetaRequest
from experiments.meta_training.tasks import MetaTask, meta_tasks
from experiments.meta_training.training import METRICS, MetaRun, asked_of_all
from experiments.runs.files import write_rows
from experiments.settings import read_options
from meta.pipeline import PipelineConfig, pipeline
from meta.trainer import Trainer
from meta.windows import Windows, check_lengths, first_order, windows

RETURNS = "returns_by_age.csv"
PARTS = 4  # equal parts of meta-training whose returns are reported separately


@dataclasses.dataclass(frozen=True)
class PipelineOptions(PipelineConfig):
    """What `--pipeline key=value` can set: the trainer's settings, those of windows and the run's.

    Attributes:
        window: iterations of the learner that a meta-gradient reaches back through, at least 1; or
            several such numbers, rising, over which it is averaged, see `meta.windows.windows`.
        reset_interval: windows in a life, at least 1; None for as many as `--steps` asks for.
        meta_steps: steps of each environment in the rollout of the meta-loss, at least 1; None for
            as many as in the learner's own rollouts.
        first_order: whether the learned optimizer's inputs count as constants; see
            `meta.windows.first_order`.
        rematerialise: see `meta.windows.windows`.
        most_skipped: steps in a row that may lack a finite meta-gradient before the run is stopped,
            at least 1.
    """

    window: int | tuple[int, ...] = 4
    reset_interval: int | None = None
    meta_steps: int | None = None
    first_order: bool = False
    rematerialise: bool = True
    most_skipped: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("reset_interval", "meta_steps", "most_skipped"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")
        check_lengths(self.lengths)

    @classmethod
    def parse(cls, assignments: Sequence[str]) -> PipelineOptions:
        """Reads `key=value` texts; for some keys the value may be `none`.

        Raises:
            ValueError: if a key is unknown or a value is not allowed.
        """
        return cls(**read_options("--pipeline", cls, assignments))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of the windows, one or more."""
        return (self.window,) if isinstance(self.window, int) else self.window

    @property
    def trainer(self) -> PipelineConfig:
        """The settings that belong to the trainer."""
        names = [field.name for field in dataclasses.fields(PipelineConfig)]
        return PipelineConfig(**{name: getattr(self, name) for name in names})


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineRunConfig(MetaRun):
    """Meta-training by pipeline training.

    Attributes:
        options: the settings.

    Raises:
        ValueError: on construction, if a value is unknown or not allowed.
    """

    options: PipelineOptions

    method = "pipeline"

    @classmethod
    def from_request(cls, request: MetaRequest) -> PipelineRunConfig:
        """See `MetaRun`; a reset interval takes the place of the steps of a lifetime."""
        options = PipelineOptions.parse(request.pipeline)
        if options.reset_interval is not None and request.steps:
            raise ValueError(
                "--steps and the reset_interval of --pipeline cannot be used together."
            )
        tasks = meta_tasks(request)
        if options.reset_interval is not None:
            iterations = options.reset_interval * options.lengths[-1]
            tasks = tuple(
                dataclasses.replace(
                    task, steps=iterations * task.settings.num_envs * task.settings.num_steps
                )
                for task in tasks
            )
        return cls(tasks=tasks, options=options, **asked_of_all(request))

    @property
    def most_skipped(self) -> int:  # type: ignore[override]
        """See `MetaRun`."""
        return self.options.most_skipped

    @property
    def remedy(self) -> str:  # type: ignore[override]
        """See `MetaRun`."""
        if self.options.first_order:
            return "; a shorter window may help"
        return "; first_order=true or a shorter window may help"

    def config(self) -> dict[str, Any]:
        """See `MetaRun`."""
        options = dataclasses.asdict(self.options)
        if not isinstance(self.options.window, int):
            options["window"] = list(self.options.window)
        return super().config() | {"pipeline": options}

    @property
    def parts(self) -> int:
        """See `MetaRun`."""
        return self.options.lengths[-1]

    @property
    def task_env_steps(self) -> list[int]:
        """See `MetaRun`. Steps that agents lived before the first iteration are not counted."""
        lengths, fresh = self.options.lengths, self.options.meta_steps

        def steps(task: MetaTask) -> int:
            own = task.settings.num_steps
            each = own if fresh is None else fresh
            return task.settings.num_envs * (own * lengths[-1] + each * len(lengths))

        return [self.options.agents * steps(task) for task in self.tasks]

    def windows(self) -> list[Windows]:
        """The tasks as the trainer plays them."""
        learned = self.learned
        changed = first_order if self.options.first_order else (lambda build: build)
        return [
            windows(
                task.task(self.parts),
                changed(task.build(learned)),
                self.options.lengths,
                meta_steps=self.options.meta_steps,
                rematerialise=self.options.rematerialise,
            )
            for task in self.tasks
        ]

    @functools.cached_property
    def trainer(self) -> Trainer:
        """See `MetaRun`."""
        return pipeline(
            self.learned.init, self.windows(), self.options.trainer, curriculum=self.curriculum
        )

    def on_point(self, path: Path) -> None:
        """Writes `returns_by_age.csv`, replacing the last one."""
        bins = self.options.age_bins
        rows = returns_by_age(path / METRICS, len(self.tasks), bins)
        write_rows(
            path / RETURNS,
            [
                {
                    "task": task,
                    "environment": self.tasks[task].environment,
                    "first_generation": first,
                    "last_generation": last,
                    "age_from": b * self.tasks[task].iterations(self.parts) / bins,
                    "age_to": (b + 1) * self.tasks[task].iterations(self.parts) / bins,
                    "episodes": episodes,
                    "return_mean": "" if math.isnan(mean) else repr(mean),
                }
                for task, first, last, b, episodes, mean in rows
            ],
        )


def returns_by_age(
    metrics: Path, tasks: int, bins: int
) -> list[tuple[int, int, int, int, int, float]]:
    """Mean returns of agents by age, in equal parts of the meta-training so far.

    Args:
        metrics: the path of a `meta_metrics.csv` of pipeline training.
        tasks: the number of tasks.
        bins: the run's `age_bins`.

    Returns:
        Rows of task, first and last meta-iteration of the part, age bin, number of episodes and
        their mean return (NaN if there were none). There are up to `PARTS` parts.
    """
    with metrics.open(newline="") as file:
        logged = list(csv.DictReader(file))
    rows = []
    for task in range(tasks):
        names = [f"{task}_{b}" for b in range(bins)]
        episodes = np.array([[float(r[f"episodes_by_age_{n}"]) for n in names] for r in logged])
        means = np.array([[float(r[f"return_by_age_{n}"]) for n in names] for r in logged])
        sums = np.where(episodes > 0, means, 0.0) * episodes
        for part in np.array_split(np.arange(len(logged)), min(PARTS, len(logged))):
            for b in range(bins):
                count = episodes[part, b].sum()
                mean = sums[part, b].sum() / count if count else math.nan
                rows.append((task, int(part[0]), int(part[-1]), b, int(count), float(mean)))
    return rows
