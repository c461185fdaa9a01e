"""Where runs of each kind stand, and what the display says of them."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from experiments.meta_training.training import Generation
    from experiments.runs.training import Point

_FADE = 0.9  # in each meta-iteration, of what is shown of those before


@dataclasses.dataclass(kw_only=True)
class Progress(abc.ABC):
    """Where one run stands."""

    columns: ClassVar[Sequence[str]]

    optimizer: str
    steps: int  # in all; what a step is, subclasses say
    done: int = 0
    done_before: int = 0  # by the process that this one continues
    state: str = "waiting"  # or "compiling", "training", "evaluating", "stopped", "done"

    def begin(self, done: int) -> None:
        """Notes how much had been done before."""
        self.state = "compiling"
        self.done = self.done_before = done

    @abc.abstractmethod
    def take(self, point: Any) -> None:
        """Takes in what is known after a logged point."""

    @abc.abstractmethod
    def cells(self) -> list[str]:
        """What the table says, by column."""

    @abc.abstractmethod
    def line(self) -> str:
        """What a line says where there is no table."""


@dataclasses.dataclass(kw_only=True)
class _SeedsProgress(Progress):
    """Of several seeds; steps are those of all seeds together."""

    seeds: int = 1
    seconds: float = 0.0
    episode_return: float = math.nan  # the last there was, mean over seeds

    @property
    def steps_per_second(self) -> float:
        """Steps per second of wall time, compilation included."""
        return self.done / self.seconds if self.seconds else 0.0

    def begin(self, done: int) -> None:
        """See `Progress`; what is given are the steps of each seed."""
        super().begin(done * self.seeds)

    def take(self, point: Point) -> None:
        """See `Progress`."""
        self.done, self.seconds = point.step * self.seeds, point.seconds
        self.state = "training" if self.done < self.steps else "evaluating"
        returns = point.column("episode_return")
        known = returns[np.isfinite(returns)]
        self.episode_return = float(known.mean()) if known.size else self.episode_return

    def _done_and_speed(self) -> list[str]:
        return [
            f"{100 * self.done / self.steps:.0f} %",
            f"{self.steps_per_second:,.0f}" if self.done else "",
        ]

    def _line(self, subject: str) -> str:
        return (
            f"{subject} {self.optimizer}: {self.state}, {self.done:,} of {self.steps:,} "
            f"steps, {self.steps_per_second:,.0f} steps/s, return {_number(self.episode_return)}"
        )


@dataclasses.dataclass(kw_only=True)
class TrainingProgress(_SeedsProgress):
    """Of PPO; steps are environment steps."""

    columns = ("environment", "optimizer", "done", "steps/s", "return", "diverged", "state")

    environment: str
    diverged: int = 0

    def take(self, point: Point) -> None:
        """See `Progress`."""
        super().take(point)
        self.diverged = int(point.column("diverged").sum())

    def cells(self) -> list[str]:
        """See `Progress`."""
        return [
            self.environment,
            self.optimizer,
            *self._done_and_speed(),
            _number(self.episode_return),
            _count(self.diverged),
            self.state,
        ]

    def line(self) -> str:
        """See `Progress`."""
        return self._line(self.environment) + _clause(self.diverged, "diverged")


@dataclasses.dataclass(kw_only=True)
class OfflineProgress(_SeedsProgress):
    """Of an offline learner; steps are updates of the critic."""

    columns = (
        *("data set", "critic optimizer", "done", "steps/s", "return", "mean |Q|", "collapsed"),
        "state",
    )

    dataset: str
    mean_abs_q: float = math.nan  # median over seeds
    collapsed: int = 0

    def take(self, point: Point) -> None:
        """See `Progress`."""
        super().take(point)
        self.mean_abs_q = float(np.median(point.column("mean_abs_q")))
        self.collapsed = int(point.column("collapsed").sum())

    def cells(self) -> list[str]:
        """See `Progress`."""
        return [
            self.dataset,
            self.optimizer,
            *self._done_and_speed(),
            _number(self.episode_return),
            _number(self.mean_abs_q),
            _count(self.collapsed),
            self.state,
        ]

    def line(self) -> str:
        """See `Progress`."""
        line = f"{self._line(self.dataset)}, mean |Q| {_number(self.mean_abs_q)}"
        return line + _clause(self.collapsed, "collapsed")


@dataclasses.dataclass(kw_only=True)
class MetaProgress(Progress):
    """Of meta-training."""

    evaluation: float = math.nan  # of the meta-parameters, the last there was

    def take(self, point: Generation) -> None:
        """See `Progress`."""
        self.state, self.done = "training", point.number + 1
        if not math.isnan(point.evaluation):
            self.evaluation = point.evaluation
        self.take_metrics(point.metrics)

    @abc.abstractmethod
    def take_metrics(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Takes in what the trainer says of a step."""


@dataclasses.dataclass(kw_only=True)
class EvolutionProgress(MetaProgress):
    """Of evolution; steps are generations."""

    columns = (
        *("optimizer", "strategy", "generation", "mean fitness", "best fitness", "failed"),
        *("evaluation", "state"),
    )

    strategy: str
    fitness_mean: float = math.nan
    fitness_best: float = math.nan
    failed: int = 0

    def take_metrics(self, metrics: Mapping[str, np.ndarray]) -> None:
        """See `MetaProgress`."""
        self.fitness_mean = float(metrics["fitness_mean"])
        self.fitness_best = float(metrics["fitness_best"])
        self.failed = int(metrics["failed"])

    def cells(self) -> list[str]:
        """See `Progress`."""
        return [
            self.optimizer,
            self.strategy,
            f"{self.done} of {self.steps}",
            _number(self.fitness_mean),
            _number(self.fitness_best),
            _count(self.failed),
            _number(self.evaluation),
            self.state,
        ]

    def line(self) -> str:
        """See `Progress`."""
        return (
            f"{self.optimizer} {self.strategy}: {self.state}, generation {self.done} of "
            f"{self.steps}, mean fitness {_number(self.fitness_mean)}, best "
            f"{_number(self.fitness_best)}{_clause(self.failed, 'failed')}, "
            f"evaluation of the mean {_number(self.evaluation)}"
        )


@dataclasses.dataclass(kw_only=True)
class MetaGradientProgress(MetaProgress):
    """Of pipeline training and of imitation; steps are meta-iterations."""

    columns = (
        *("optimizer", "method", "meta-iteration", "meta-loss", "gradient", "return by age"),
        *("skipped", "evaluation", "state"),
    )

    method: str
    meta_loss: float = math.nan
    gradient_norm: float = math.nan
    return_sums: np.ndarray | None = None  # (tasks, bins), older ones fade away
    episodes: np.ndarray | None = None
    skipped: int = 0

    def take_metrics(self, metrics: Mapping[str, np.ndarray]) -> None:
        """See `MetaProgress`."""
        self.meta_loss = float(metrics["meta_loss"])
        self.gradient_norm = float(metrics["gradient_norm"])
        self.skipped = int(metrics["skipped"])
        if "episodes_by_age" not in metrics:
            return
        episodes = np.asarray(metrics["episodes_by_age"], np.float64)
        sums = np.where(episodes > 0, metrics["return_by_age"], 0.0) * episodes
        if self.episodes is not None and self.return_sums is not None:
            episodes, sums = episodes + _FADE * self.episodes, sums + _FADE * self.return_sums
        self.episodes, self.return_sums = episodes, sums

    def by_age(self) -> str:
        """Returns of newborn to old agents, each the mean over tasks, in at most four numbers."""
        if self.episodes is None or self.return_sums is None:
            return _number(math.nan)
        groups = min(4, self.episodes.shape[1])
        numbers = []
        for part in np.array_split(np.arange(self.episodes.shape[1]), groups):
            count = self.episodes[:, part].sum(axis=1)
            mean = self.return_sums[:, part].sum(axis=1)[count > 0] / count[count > 0]
            numbers.append(f"{mean.mean():.3g}" if mean.size else _number(math.nan))
        return " ".join(numbers)

    def cells(self) -> list[str]:
        """See `Progress`."""
        return [
            self.optimizer,
            self.method,
            f"{self.done} of {self.steps}",
            _number(self.meta_loss),
            _number(self.gradient_norm),
            self.by_age(),
            _count(self.skipped),
            _number(self.evaluation),
            self.state,
        ]

    def line(self) -> str:
        """See `Progress`."""
        return (
            f"{self.optimizer} {self.method}: {self.state}, meta-iteration {self.done} of "
            f"{self.steps}, meta-loss {_number(self.meta_loss)}, "
            f"gradient norm {_number(self.gradient_norm)}, return by age {self.by_age()}"
            f"{_clause(self.skipped, 'skipped')}, evaluation {_number(self.evaluation)}"
        )


def _number(value: float) -> str:
    return "\N{EN DASH}" if math.isnan(value) else f"{value:.4g}"


def _count(number: int) -> str:
    return str(number) if number else ""


def _clause(number: int, what: str) -> str:
    return f", {number} {what}" if number else ""
