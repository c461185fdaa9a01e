"""Tasks of meta-training, as they are named on the command line."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import optax

import optim
from experiments.meta_training.architectures import LearnedOptimizer
from experiments.meta_training.request import MetaRequest
from experiments.online.tasks import make_environment, parse_environment, task_of
from experiments.online.training import ppo_config
from experiments.settings import (
    LEARNERS,
    Settings,
    change_settings,
    describe,
    unknown,
    whole_number,
)
from meta.task import Task
from meta.trainer import Build

# Settings that a task has fields of its own for, or no use, and what is said of them.
_ELSEWHERE = {
    "learner": ", --learner says it",
    "reward_scale": ", --reward-scales says it",
    "restart": " in meta-training",
}
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class MetaTask:
    """A task as it is named on the command line.

    Attributes:
        environment: `NAME[:key=value,...]`.
        steps: environment steps of a lifetime, at least; whole iterations are done.
        normaliser: what its returns are divided by.
        settings: of PPO, and the norm to which gradients are clipped before the optimizer; for
            A2C, as `task_settings` gives them.
        learner: ppo or a2c.
        learning_rate: for learned optimizers that take one; None for what the optimizer's text
            says, or its default.
        reward_scale: what the learner's rewards are multiplied by; returns are not.
        evaluation_steps: environment steps of a lifetime in an evaluation, at least; None for
            `steps`.
    """

    environment: str
    steps: int
    normaliser: float
    settings: Settings
    learner: str = "ppo"
    learning_rate: float | None = None
    reward_scale: float = 1.0
    evaluation_steps: int | None = None

    def __post_init__(self) -> None:
        for name, steps in (
            ("the steps of a lifetime", self.steps),
            ("evaluation_steps", self.evaluation_steps),
        ):
            if steps is not None and not 1 <= steps < 2**31:
                raise ValueError(f"{name} must be in [1, 2147483647]; got {steps}.")
        if self.settings.anneal:
            raise ValueError(
                "setting 'anneal' must be false: a learned optimizer sets its own steps."
            )
        if self.learner not in LEARNERS:
            raise unknown("learner", self.learner, LEARNERS)
        if self.learning_rate is not None and not 0.0 < self.learning_rate < math.inf:
            raise ValueError(f"a learning rate must be in (0, inf); got {self.learning_rate!r}.")
        if not 0.0 < self.reward_scale < math.inf:
            raise ValueError(f"a reward scale must be in (0, inf); got {self.reward_scale!r}.")
        for name in _ELSEWHERE:
            if (value := getattr(self.settings, name)) != getattr(Settings, name):
                raise _elsewhere(name, describe(name, value))
        self.task(stretches=1)  # says what is not allowed

    @property
    def evaluated(self) -> MetaTask:
        """The task with lifetimes as long as those of evaluations."""
        if self.evaluation_steps is None:
            return self
        return dataclasses.replace(self, steps=self.evaluation_steps, evaluation_steps=None)

    def iterations(self, stretches: int) -> int:
        """Rollouts of a lifetime of so many equal stretches."""
        rollout = self.settings.num_envs * self.settings.num_steps
        return math.ceil(self.steps / rollout / stretches) * stretches

    def config(self, stretches: int) -> dict[str, Any]:
        """What `config.json` says of it."""
        settings = self._settings.config()
        return dataclasses.asdict(self) | {
            "iterations": self.iterations(stretches),
            "settings": {key: settings[key] for key in settings if key not in _ELSEWHERE},
        }

    def task(self, stretches: int) -> Task:
        """What a trainer is given."""
        config = ppo_config(self._settings, self.iterations(stretches))
        return Task(make_environment(self.environment), config, self.normaliser)

    @property
    def _settings(self) -> Settings:
        """The settings with what the task has fields of its own for."""
        return dataclasses.replace(
            self.settings, learner=self.learner, reward_scale=self.reward_scale
        )

    def build(self, learned: LearnedOptimizer, learning_rate: Any = None) -> Build:
        """What the task's learners are given: clipping, then the learned optimizer.

        Args:
            learned: the optimizer.
            learning_rate: in the place of the task's own, if it is not None; it may be a tracer.

        Raises:
            ValueError: if there is a learning rate and the optimizer takes none.
        """
        rate = self.learning_rate if learning_rate is None else learning_rate
        if rate is not None:
            taken = inspect.signature(learned.architecture.transform).parameters
            if "learning_rate" not in taken:
                raise ValueError(f"{learned.name!r} takes no learning rate; leave it out.")
            options = learned.options | {"learning_rate": rate}
            learned = dataclasses.replace(learned, options=options)
        learned.check_learning_rate()
        clip = optim.clip_by_network_norm(self.settings.max_grad_norm)
        return lambda meta_params: optax.chain(clip, learned.transform(meta_params))


def meta_tasks(request: MetaRequest) -> tuple[MetaTask, ...]:
    """The tasks that are asked for.

    Steps of a lifetime, also in evaluations, normalisers, learning rates and reward scales are one
    for all tasks, or one for each. By default a lifetime has 1e5 steps, in an evaluation as many, a
    normaliser is the return that is published for the environment, a learning rate is the learned
    optimizer's own and a reward scale 1.

    Raises:
        ValueError: if anything in the request is unknown or not allowed.
    """
    tasks = request.tasks
    if not tasks:
        raise ValueError("--tasks must name at least one environment.")
    lengths = _one_for_each(
        "--steps", request.steps or ["1e5"], whole_number, "whole numbers", tasks
    )
    scales: Sequence[float]
    if request.normalisers:
        scales = _one_for_each("--normalisers", request.normalisers, float, "numbers", tasks)
    else:
        scales = [_published(task, alone=len(tasks) == 1) for task in tasks]
    rates: Sequence[float | None] = [None] * len(tasks)
    if request.learning_rates:
        rates = _one_for_each("--learning-rates", request.learning_rates, float, "numbers", tasks)
    rewards = _one_for_each(
        "--reward-scales", request.reward_scales or ["1"], float, "numbers", tasks
    )
    evaluated: Sequence[int | None] = [None] * len(tasks)
    if request.evaluation_steps:
        evaluated = _one_for_each(
            "--evaluation-steps", request.evaluation_steps, whole_number, "whole numbers", tasks
        )
    learner = request.learner or "ppo"
    return tuple(
        MetaTask(
            environment=text,
            steps=length,
            normaliser=scale,
            settings=task_settings(text, request.set, learner),
            learner=learner,
            learning_rate=rate,
            reward_scale=reward,
            evaluation_steps=evaluation,
        )
        for text, length, scale, rate, reward, evaluation in zip(
            tasks, lengths, scales, rates, rewards, evaluated, strict=True
        )
    )


def _one_for_each(
    option: str, texts: Sequence[str], read: Callable[[str], T], kind: str, tasks: Sequence[str]
) -> list[T]:
    """Reads one value for all tasks, or one for each."""
    try:
        values = [read(text) for text in texts]
    except (ValueError, OverflowError):
        raise ValueError(f"{option} must be {kind}; got {' '.join(texts)!r}.") from None
    if len(values) not in (1, len(tasks)):
        raise ValueError(
            f"{option} must be one, or one for each of the {len(tasks)} tasks; got {len(values)}."
        )
    return values * (len(tasks) if len(values) == 1 else 1)


def _published(task: str, alone: bool) -> float:
    normaliser = task_of(task).normaliser(parse_environment(task)[1])
    if normaliser is None and not alone:
        raise ValueError(
            f"no return is published for {task!r}; several tasks need --normalisers, one for each."
        )
    return 1.0 if normaliser is None else normaliser


def task_settings(task: str, assignments: Sequence[str], learner: str) -> Settings:
    """The settings of a task of meta-training.

    Args:
        task: the environment, `NAME[:key=value,...]`.
        assignments: changes to its published settings, `key=value`.
        learner: ppo or a2c, which makes one epoch of one minibatch and does not clip.

    Raises:
        ValueError: if a change is not allowed, belongs to another option, or would be ignored.
    """
    for assignment in assignments:
        key, _, text = assignment.partition("=")
        if key in _ELSEWHERE:
            raise _elsewhere(key, text)
    settings = dataclasses.replace(task_of(task).settings, anneal=False)
    if learner == "a2c":
        assignments = [*assignments, "learner=a2c"]
    settings = change_settings(settings, assignments)
    return dataclasses.replace(settings, learner="ppo")  # the task says it


def _elsewhere(name: str, got: str) -> ValueError:
    """The error for a setting that would be said twice, or not be used."""
    return ValueError(f"setting {name!r} must be left out{_ELSEWHERE[name]}; got {got}.")
