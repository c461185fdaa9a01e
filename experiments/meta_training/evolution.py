"""Evolution as the command line runs it: reading strategies, cutting lifetimes into stretches."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import optim
from experiments.meta_training.request import MetaRequest
from experiments.meta_training.tasks import MetaTask, meta_tasks
from experiments.meta_training.training import MetaRun, asked_of_all
from experiments.settings import unknown
from meta.evolution import evolution
from meta.randomised import randomised_lifetimes
from meta.strategies import STRATEGIES, EvolutionConfig
from meta.task import FITNESS, Lifetimes
from meta.trainer import Build, Trainer
from optim.spec import parse_options

STRATEGY_OPTIONS = ("sigma", "sigma_decay", "learning_rate", "learning_rate_decay", "shaping")
_STRETCHES = 10  # per lifetime, for strategies that cut lifetimes


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvolutionRunConfig(MetaRun):
    """Meta-training by evolution.

    Attributes:
        evolution: the trainer's settings.
        stretches: generations that a lifetime is spread over; 1 except for strategies that cut
            lifetimes.
        fitness: of a lifetime, a member of `meta.task.FITNESS`. Evaluations are of the final return
            in any case.
        randomised: ranges of settings that are drawn for each lifetime, by name, see
            `meta.randomised`; in evaluations they are the tasks' own.

    Raises:
        ValueError: on construction, if a value is unknown or not allowed.
    """

    evolution: EvolutionConfig
    stretches: int = 1
    fitness: str = "final"
    randomised: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    method = "es"

    def __post_init__(self) -> None:
        if self.fitness not in FITNESS:
            raise unknown("fitness", self.fitness, FITNESS)
        if self.stretches < 1:
            raise ValueError(f"stretches must be at least 1; got {self.stretches}.")
        super().__post_init__()

    @classmethod
    def from_request(cls, request: MetaRequest) -> EvolutionRunConfig:
        """See `MetaRun`; `strategy` is `NAME[:key=value,...]`, with `STRATEGY_OPTIONS`.

        A strategy that cuts lifetimes cuts them into ten stretches, unless the request says it.
        """
        config = EvolutionConfig(
            **_strategy(request.strategy),
            population=request.population,
            lives=request.lives,
            task_sampling=request.sampling,
            members_at_once=request.at_once,
        )
        stretches = request.stretches
        if stretches is None:
            stretches = _STRETCHES if config.kind.truncated else 1
        return cls(
            tasks=meta_tasks(request),
            evolution=config,
            stretches=stretches,
            fitness=request.fitness,
            randomised=_ranges(request.randomise),
            **asked_of_all(request),
        )

    def config(self) -> dict[str, Any]:
        """See `MetaRun`."""
        evolution = dataclasses.asdict(self.evolution)
        return super().config() | {
            "evolution": evolution,
            "stretches": self.stretches,
            "fitness": self.fitness,
            "randomised": {name: list(ends) for name, ends in self.randomised.items()} or None,
        }

    @property
    def parts(self) -> int:
        """See `MetaRun`."""
        return self.stretches

    @property
    def task_env_steps(self) -> list[int]:
        """See `MetaRun`."""
        members = self.evolution.population
        if self.evolution.task_sampling == "pairs" and not self.curriculum:
            members //= len(self.tasks)
        rollouts = [
            task.iterations(self.stretches) * task.settings.num_envs * task.settings.num_steps
            for task in self.tasks
        ]
        return [members * self.evolution.lives * steps // self.stretches for steps in rollouts]

    @functools.cached_property
    def trainer(self) -> Trainer:
        """See `MetaRun`."""
        return evolution(
            self.learned.init,
            self._trained_lifetimes(),
            self.evolution,
            curriculum=self.curriculum,
        )

    def _trained_lifetimes(self) -> list[Lifetimes]:
        if not self.randomised:
            return self.lifetimes(self.stretches, fitness=self.fitness)

        def of(task: MetaTask) -> Lifetimes:
            def build(drawn: Mapping[str, Any]) -> Build:
                return task.build(self.learned, drawn.get("learning_rate"))

            how = (self.randomised, self.stretches, self.fitness)
            return randomised_lifetimes(task.task(self.parts), build, *how)

        return [of(task) for task in self.tasks]


def _ranges(texts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Ranges of settings, each `KEY=LOW..HIGH`.

    Raises:
        ValueError: if a text is not so, or a key is given twice.
    """
    found: dict[str, tuple[float, float]] = {}
    for text in texts:
        name, _, ends = text.partition("=")
        try:
            low, high = (float(end) for end in ends.split(".."))
        except ValueError:
            raise ValueError(
                f"--randomise must have the form KEY=LOW..HIGH; got {text!r}."
            ) from None
        if name in found:
            raise ValueError(f"--randomise must give {name} one range; got {' '.join(texts)!r}.")
        found[name] = low, high
    return found


def _strategy(text: str) -> dict[str, Any]:
    """The fields of `EvolutionConfig` that `NAME[:key=value,...]` sets."""
    name, colon, tail = text.partition(":")
    if name not in STRATEGIES:
        raise unknown("strategy", name, STRATEGIES)
    if colon and not tail:
        raise ValueError(f"strategy must have the form NAME[:key=value,...], got {text!r}.")
    # After the colon, the syntax is that of optimizers.
    options = dict(parse_options("strategy", tail)) if colon else {}
    for key in options:
        if key not in STRATEGY_OPTIONS:
            hint = optim.suggestion(key, STRATEGY_OPTIONS)
            raise ValueError(f"{name!r} has no option {key!r}; {hint}.")
    return {"strategy": name} | options
