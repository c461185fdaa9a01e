"""Pipeline training as the command line runs it: settings, the authors' presets, returns by age."""

from __future__ import annotations

import csv
import dataclasses
import functools
import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import optim
from experiments.architectures import LearnedOptimizer
from experiments.meta_tasks import MetaTask, meta_tasks
from experiments.meta_training import METRICS, MetaRun
from experiments.run_directory import write_rows
from experiments.settings import read_options, unknown
from meta.pipeline import PipelineConfig, pipeline
from meta.trainer import Trainer
from meta.windows import Windows, first_order, windows
from optim.meta_params import ARCHITECTURES

if TYPE_CHECKING:
    from experiments.options import MetaTrain

RETURNS = "returns_by_age.csv"
PARTS = 4  # of meta-training, whose returns are shown apart


@dataclasses.dataclass(frozen=True)
class PipelineOptions(PipelineConfig):
    """What `--pipeline key=value` changes: the trainer's settings and what surrounds them.

    Attributes:
        window: iterations of the learner that a meta-gradient goes back through, at least 1.
        reset_interval: windows in a life; None for as many as the steps of a lifetime need.
        meta_steps: steps of each environment in the rollout of the meta-loss; None for as many as
            in any other.
        first_order: whether what the learned optimizer is given counts as constant.
        rematerialise: see `meta.windows.windows`.
        most_skipped: steps in a row without a finite meta-gradient after which the run is stopped.
    """

    window: int = 4
    reset_interval: int | None = None
    meta_steps: int | None = None
    first_order: bool = False
    rematerialise: bool = True
    most_skipped: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("window", "reset_interval", "meta_steps", "most_skipped"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")

    @classmethod
    def parse(cls, assignments: Sequence[str]) -> PipelineOptions:
        """Reads `key=value` texts; `none` is what some may be.

        Raises:
            ValueError: if a key is unknown or a value is not allowed.
        """
        return cls(**read_options("--pipeline", cls, assignments))

    @property
    def trainer(self) -> PipelineConfig:
        """The part of it that is the trainer's."""
        names = [field.name for field in dataclasses.fields(PipelineConfig)]
        return PipelineConfig(**{name: getattr(self, name) for name in names})


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineRunConfig(MetaRun):
    """Meta-training by pipeline training.

    Attributes:
        options: the settings.

    Raises:
        ValueError: on construction, if anything in it is unknown or not allowed.
    """

    options: PipelineOptions

    method = "pipeline"

    @classmethod
    def from_texts(
        cls,
        optimizer: str,
        tasks: Sequence[str],
        assignments: Sequence[str],
        steps: Sequence[str],
        task_options: Mapping[str, Any],
        **common: Any,
    ) -> PipelineRunConfig:
        """What the command line asks for.

        Args:
            optimizer: `NAME[:key=value,...]`.
            tasks: environments, `NAME[:key=value,...]`.
            assignments: settings, `key=value`.
            steps: environment steps of a lifetime; one for all tasks, or one for each. None may be
                given beside a reset interval.
            task_options: see `meta_tasks`.
            **common: further fields of `MetaRun`.

        Raises:
            ValueError: if anything in it is unknown or not allowed.
        """
        options = PipelineOptions.parse(assignments)
        if options.reset_interval is not None and steps:
            raise ValueError("--steps and the reset_interval of --pipeline exclude each other.")
        known = meta_tasks(tasks, steps=steps or ["1e5"], **task_options)
        if options.reset_interval is not None:
            iterations = options.reset_interval * options.window
            known = tuple(
                dataclasses.replace(
                    task, steps=iterations * task.settings.num_envs * task.settings.num_steps
                )
                for task in known
            )
        return cls(optimizer=optimizer, tasks=known, options=options, **common)

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
        return super().config() | {"pipeline": dataclasses.asdict(self.options)}

    @property
    def parts(self) -> int:
        """See `MetaRun`."""
        return self.options.window

    @property
    def env_steps(self) -> int:
        """See `MetaRun`. The years before the first meta-iteration are not counted."""

        def steps(task: MetaTask) -> int:
            own = task.settings.num_steps
            return task.settings.num_envs * (
                own * self.options.window + (self.options.meta_steps or own)
            )

        return self.options.agents * sum(steps(task) for task in self.tasks)

    def windows(self) -> list[Windows]:
        """The tasks as the trainer plays them."""
        learned = LearnedOptimizer.parse(self.optimizer)
        changed = first_order if self.options.first_order else (lambda build: build)
        return [
            windows(
                task.task(self.parts),
                changed(task.build(learned)),
                self.options.window,
                meta_steps=self.options.meta_steps,
                rematerialise=self.options.rematerialise,
            )
            for task in self.tasks
        ]

    @functools.cached_property
    def trainer(self) -> Trainer:
        """See `MetaRun`."""
        init = LearnedOptimizer.parse(self.optimizer).init
        return pipeline(init, self.windows(), self.options.trainer)

    def on_point(self, path: Path) -> None:
        """Writes `returns_by_age.csv` anew."""
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
                    "age_from": b / bins * self.tasks[task].iterations(self.parts),
                    "age_to": (b + 1) / bins * self.tasks[task].iterations(self.parts),
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
        metrics: `meta_metrics.csv` of pipeline training.
        tasks: how many there are.
        bins: `age_bins`.

    Returns:
        Rows of task, first and last meta-iteration of a part, bin, episodes and their mean return
        (NaN where there were none). There are up to `PARTS` parts.
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


@dataclasses.dataclass(frozen=True)
class Preset:
    """Settings of Optim4RL's authors, but for `small`; of what they swept, one of their values.

    Fields are the command line's. `grad_clip` is the learned optimizer's, of those that take one.
    """

    tasks: tuple[str, ...]
    learner: str
    learning_rates: tuple[str, ...]
    pipeline: tuple[str, ...]
    set: tuple[str, ...]
    generations: int
    reward_scales: tuple[str, ...] = ()
    normalisers: tuple[str, ...] = ()
    grad_clip: str = "1.0"


# Their optimizers clip gradients entry by entry; before them, nothing does.
_UNCLIPPED = "max_grad_norm=1e9"
_A2C = (
    *("num_envs=1", "num_steps=20", "minibatches=1", "epochs=1", "discount=0.995"),
    *("entropy_weight=0.01", "value_weight=1", "nonlinearity=relu", _UNCLIPPED),
)
# Networks are all as large as their critics' in meta-training, 5x64.
_BRAX = (
    *("num_envs=2048", "num_steps=20", "epochs=4", "minibatches=8", "discount=0.97", "clip=0.3"),
    *("value_weight=0.5", "widths=64x64x64x64x64", "normalize_observations=true"),
    *("normalize_rewards=false", _UNCLIPPED),
)
_SIX = (
    *("small_dense_long", "small_dense_short", "big_sparse_short"),
    *("big_dense_short", "big_sparse_long", "big_dense_long"),
)
_GRIDWORLD = ("agents=512", "window=4", "reset_interval=144", "optimizer=adam:learning_rate=3e-4")
PRESETS = {
    # Ours, for minutes on two cores. Scaled rewards let gradients reach the GRUs at sizes that
    # these can tell apart, and the entropy bonus counts less in the meta-loss; the value loss,
    # which grows with the square, is held to the size of the policy's.
    "small": Preset(
        tasks=("Catch-bsuite", "small_dense_short", "small_dense_long"),
        learner="a2c",
        learning_rates=("1e-2",),
        pipeline=(
            *("agents=8", "window=8", "reset_interval=32", "max_norm=none", "task_norm=0.5"),
            "optimizer=adam:learning_rate=3e-4",
        ),
        set=(*_A2C, "num_envs=16", "widths=32", "value_weight=0.01"),
        generations=500,
        reward_scales=("100",),
        normalisers=("1", "2.4", "11"),  # about what a tuned Adam reaches
    ),
    "catch": Preset(
        tasks=("Catch-bsuite",),
        learner="a2c",
        learning_rates=("1e-3",),
        pipeline=(
            *("agents=64", "window=4", "reset_interval=32", "max_norm=0.5"),
            "optimizer=adam:learning_rate=1e-3",
        ),
        set=(*_A2C, "widths=256"),
        generations=78,
        grad_clip="none",
    ),
    "gridworlds": Preset(
        tasks=_SIX,
        learner="a2c",
        learning_rates=("1e-3", "3e-3", "3e-3", "3e-3", "1e-3", "3e-3"),
        pipeline=(*_GRIDWORLD, "task_norm=0.5"),
        set=(*_A2C, "widths=32"),
        generations=585,
        reward_scales=("1e3", "1e2", "1e2", "1e1", "1e1", "1e0"),
        normalisers=("1",),
    ),
    "small_dense_long": Preset(
        tasks=("small_dense_long",),
        learner="a2c",
        learning_rates=("0.03",),
        pipeline=_GRIDWORLD,
        set=(*_A2C, "widths=32"),
        generations=585,
    ),
    "big_dense_long": Preset(
        tasks=("big_dense_long",),
        learner="a2c",
        learning_rates=("0.003",),
        pipeline=_GRIDWORLD,
        set=(*_A2C, "widths=32"),
        generations=585,
    ),
    "ant": Preset(
        tasks=("ant:backend=spring",),
        learner="ppo",
        learning_rates=("3e-4",),
        pipeline=(
            *("agents=4", "agents_at_once=1", "window=4", "meta_steps=5", "reset_interval=32"),
            "optimizer=adam:learning_rate=1e-4",
        ),
        set=(*_BRAX, "entropy_weight=0.01"),
        generations=610,
        reward_scales=("10",),
    ),
    "humanoid": Preset(
        tasks=("humanoid:backend=spring",),
        learner="ppo",
        learning_rates=("3e-4",),
        pipeline=(
            *("agents=4", "agents_at_once=1", "window=4", "meta_steps=5", "reset_interval=32"),
            "optimizer=adam:learning_rate=1e-4",
        ),
        set=(*_BRAX, "entropy_weight=0.001"),
        generations=610,
        reward_scales=("0.1",),
    ),
}


def with_preset(command: MetaTrain) -> MetaTrain:
    """The command with everything that it does not say filled in.

    Of `--pipeline` and `--set`, each key on its own: what the command says comes last, and counts.

    Raises:
        ValueError: if there is no such preset, or the method is not the preset's.
    """
    assert command.preset is not None
    if command.preset not in PRESETS:
        raise unknown("preset", command.preset, PRESETS)
    if command.method != "pipeline":
        raise ValueError("--preset needs --method pipeline.")
    preset = PRESETS[command.preset]
    spec = optim.OptimizerSpec.parse(command.optimizer)
    known = ARCHITECTURES.get(spec.name)
    taken = inspect.signature(known.transform).parameters if known else {}
    optimizer = command.optimizer
    if "grad_clip" in taken and "grad_clip" not in dict(spec.options):
        optimizer += f"{',' if spec.options else ':'}grad_clip={preset.grad_clip}"
    settings = list(preset.pipeline)
    if command.steps:
        settings = [text for text in settings if not text.startswith("reset_interval=")]
    return dataclasses.replace(
        command,
        optimizer=optimizer,
        tasks=command.tasks or preset.tasks,
        learner=command.learner or preset.learner,
        learning_rates=command.learning_rates
        or (preset.learning_rates if "learning_rate" in taken else ()),
        pipeline=(*settings, *command.pipeline),
        set=(*preset.set, *command.set),
        generations=command.generations or preset.generations,
        reward_scales=command.reward_scales or preset.reward_scales,
        normalisers=command.normalisers or preset.normalisers,
    )
