"""Imitation as the command line runs it: its target and settings."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import optax

import optim
from experiments.meta_training.request import MetaRequest
from experiments.meta_training.tasks import MetaTask, meta_tasks
from experiments.meta_training.training import MetaRun, asked_of_all
from experiments.online.tasks import resolve_optimizer, task_of
from experiments.online.training import without_learning_rate
from experiments.runs import weights as weights_files
from experiments.settings import read_options
from meta.imitation import ImitationConfig, imitation
from meta.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class ImitationOptions(ImitationConfig):
    """What `--imitation key=value` can set: the trainer's settings and the target's.

    Attributes:
        anneal: whether the target's learning rate falls linearly to 0 over each lifetime.
    """

    anneal: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImitationRunConfig(MetaRun):
    """Meta-training by imitation.

    Attributes:
        target: the optimizer to imitate, `NAME[:key=value,...]`; without a learning rate it has the
            task's.
        options: the settings.

    Raises:
        ValueError: on construction, if a value is unknown or not allowed.
    """

    target: str
    options: ImitationOptions

    method = "imitation"
    parts = 1
    most_skipped = 20

    def __post_init__(self) -> None:
        if self.curriculum:
            raise ValueError(
                "curriculum must be left out where an optimizer is imitated; got "
                f"{' '.join(map(str, self.curriculum))}."
            )
        super().__post_init__()

    @classmethod
    def from_request(cls, request: MetaRequest) -> ImitationRunConfig:
        """See `MetaRun`."""
        if request.target is None:
            raise ValueError("--method imitation needs --target, e.g. adam:learning_rate=3e-3.")
        read = read_options("--imitation", ImitationOptions, request.imitation)
        return cls(
            tasks=meta_tasks(request),
            target=request.target,
            options=ImitationOptions(**read),
            **asked_of_all(request),
        )

    def config(self) -> dict[str, Any]:
        """See `MetaRun`."""
        config = super().config() | {"target": self.target}
        if (content := weights_files.read(optim.OptimizerSpec.parse(self.target))) is not None:
            config["target_sha256"] = weights_files.sha256(content)
        return config | {"imitation": dataclasses.asdict(self.options)}

    @property
    def task_env_steps(self) -> list[int]:
        """See `MetaRun`."""
        rollouts = [task.settings.num_envs * task.settings.num_steps for task in self.tasks]
        return [self.options.agents * steps for steps in rollouts]

    @functools.cached_property
    def trainer(self) -> Trainer:
        """See `MetaRun`."""
        learned = self.learned
        return imitation(
            learned.init,
            [task.task(1) for task in self.tasks],
            [task.build(learned) for task in self.tasks],
            [self._target(task) for task in self.tasks],
            self.options,
        )

    def _target(self, task: MetaTask) -> optax.GradientTransformation:
        spec = resolve_optimizer(self.target, task_of(task.environment))
        learner = task.task(1).config
        updates = task.iterations(1) * learner.epochs * learner.minibatches
        rate: optax.ScalarOrSchedule = spec.learning_rate
        if self.options.anneal:
            if not optim.accepts_schedule(spec):
                raise ValueError(
                    f"--target must accept a schedule as its learning rate unless --imitation "
                    f"anneal=false is given; got {spec.name!r}."
                )
            rate = optax.linear_schedule(spec.learning_rate, 0.0, updates)
        clip = optim.clip_by_network_norm(task.settings.max_grad_norm)
        return optax.chain(clip, optim.make(without_learning_rate(spec), rate))
