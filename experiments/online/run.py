"""What one run of PPO is: a task, an optimizer, seeds and settings, and when it is logged."""

from __future__ import annotations

import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any

import optim
from agents.environment import Environment
from agents.restarts import phase_iterations
from experiments.online.presets import NETWORKS
from experiments.online.tasks import (
    make_environment,
    parse_environment,
    resolve_optimizer,
    task_of,
)
from experiments.runs import weights as weights_files
from experiments.runs.identity import earlier_ends
from experiments.runs.reading import FORMAT
from experiments.runs.training import check_seeds, divided_up
from experiments.settings import Settings, unknown
from optim.masks import masked_networks
from optim.network_specs import parts_of

POINTS = 100  # logged points in a run, at most, unless it is prolonged or its task changes
PHASE_POINTS = 20  # in each phase of a task that changes, at least, if it has as many iterations
EVALUATION_EPISODES = 64
EVALUATION_ACTIONS = ("sampled", "greedy")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One environment, one optimizer, several seeds.

    Attributes:
        environment: `NAME[:key=value,...]`.
        optimizer: `NAME[@WEIGHTS][:key=value,...]`, as the user wrote it.
        steps: environment steps of each seed, at least; whole iterations are done.
        seeds: which seeds, different whole numbers in [0, 2**32 - 1].
        settings: of the learner and of the chain around the optimizer.
        evaluation_actions: those of the evaluation after training, one of `EVALUATION_ACTIONS`:
            sampled from the policy, as in training, or greedy, its likeliest ones.
        evaluate_first: whether a task that changes is also evaluated as it was at first; otherwise
            it is only as it was at last.
        diagnostics_every: iterations between two diagnoses, see `agents.diagnostics`, rounded up to
            whole logged points; None makes none.
        prolonged_at: steps at which it ended, each whole iterations, before it was prolonged. The
            first of them say how often it is logged.
        label: what it is called in reports and progress instead of the optimizer's text, where
            that does not tell it from others.

    Raises:
        ValueError: on construction, if anything in it is unknown or not allowed.
        OSError: likewise, if the file of a learned optimizer's weights cannot be read.
    """

    environment: str
    optimizer: str
    steps: int
    seeds: tuple[int, ...]
    settings: Settings
    evaluation_actions: str = "sampled"
    evaluate_first: bool = False
    diagnostics_every: int | None = None
    prolonged_at: tuple[int, ...] = ()
    label: str | None = None

    def __post_init__(self) -> None:
        environment = make_environment(self.environment)
        if self.settings.restart:
            phase_iterations(environment, self.steps_per_iteration)  # says if there are no phases
        if self.label is not None and not self.label.strip():
            raise ValueError(f"a label must be a text that is not empty; got {self.label!r}.")
        for name, spec in self.specs.items():
            weights_files.make(spec, self.weights.get(name))  # says what is not allowed
            for network in masked_networks(dict(spec.options)) | {name} - {""}:
                if network not in NETWORKS:
                    raise unknown("network", network, NETWORKS)
        if set(self.specs) not in ({""}, set(NETWORKS)):
            raise ValueError(
                "optimizers of networks must be given for both, actor=OPTIMIZER+critic=OPTIMIZER; "
                f"got {self.optimizer!r}."
            )
        check_seeds(self.seeds)
        if self.evaluation_actions not in EVALUATION_ACTIONS:
            raise unknown("kind of evaluation", self.evaluation_actions, EVALUATION_ACTIONS)
        updates = self.settings.epochs * self.settings.minibatches
        most = (2**31 - 1) // updates * self.steps_per_iteration  # updates are counted in int32
        if self._task.changes:  # and so are steps, which are its clock
            most = min(most, 2**31 - self.steps_per_iteration)
        if not 1 <= self.steps <= most:
            raise ValueError(f"steps must be in [1, {most}] with these settings; got {self.steps}.")
        if self.diagnostics_every is not None:
            if not 1 <= self.diagnostics_every <= self.iterations:
                raise ValueError(
                    f"diagnostics_every must be in [1, {self.iterations}], the run's iterations; "
                    f"got {self.diagnostics_every}."
                )
            if not self.settings.widths:
                raise ValueError("diagnostics_every needs networks with a hidden layer; got none.")

    @property
    def spec(self) -> optim.OptimizerSpec | optim.NetworkSpecs:
        """The optimizer with everything filled in that the task knows better than its defaults."""
        task = task_of(self.environment)
        spec = optim.parse_spec(self.optimizer)
        if isinstance(spec, optim.OptimizerSpec):
            return resolve_optimizer(spec, task)
        return optim.NetworkSpecs(
            tuple((name, resolve_optimizer(part, task)) for name, part in spec.specs)
        )

    @property
    def specs(self) -> dict[str, optim.OptimizerSpec]:
        """The same by network; by an empty name if one optimizer trains all."""
        return parts_of(self.spec)

    @property
    def _task(self) -> Environment:
        return make_environment(self.environment)

    @property
    def name(self) -> str:
        """What it is called among others on the same environment."""
        return self.optimizer if self.label is None else self.label

    @property
    def iterations(self) -> int:
        """Rollouts of each seed."""
        return divided_up(self.steps, self.steps_per_iteration)

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of a seed's rollout."""
        return self.settings.num_envs * self.settings.num_steps

    @property
    def iterations_per_point(self) -> int:
        """Rollouts between one logged point and the next; the last may come sooner."""
        first = (*self._ends, self.iterations)[0]
        usual = divided_up(first, POINTS)
        if (phase := self._task.phase_steps) is None:
            return usual
        # Points end with phases where they can.
        phase_iterations = max(phase // self.steps_per_iteration, 1)
        most = min(usual, max(phase_iterations // PHASE_POINTS, 1))
        return next(count for count in range(most, 0, -1) if phase_iterations % count == 0)

    @property
    def points(self) -> int:
        """Logged points."""
        return len(self._iterations_at) - 1

    def step(self, points: int) -> int:
        """Environment steps of each seed once so many points are logged."""
        return self._iterations_at[points] * self.steps_per_iteration

    def is_diagnosed(self, point: int) -> bool:
        """Whether the learner is diagnosed after a point."""
        if self.diagnostics_every is None:
            return False
        before, after = self._iterations_at[point : point + 2]
        return after // self.diagnostics_every > before // self.diagnostics_every

    def as_begun(self, path: Path) -> RunConfig:
        """The run as it goes on from what is in a directory, if it prolongs that."""
        ends = earlier_ends(path, self.steps)
        if ends == self.prolonged_at:
            return self
        run = copy.copy(self)  # with the weights, which are not read again
        object.__setattr__(run, "prolonged_at", ends)
        return run

    @property
    def _ends(self) -> list[int]:
        """Iterations after which it ended before it was prolonged."""
        return [divided_up(steps, self.steps_per_iteration) for steps in self.prolonged_at]

    @property
    def _iterations_at(self) -> list[int]:
        """Iterations done when so many points are logged."""
        done = [0]
        for end in (*self._ends, self.iterations):
            done += [*range(done[-1], end, self.iterations_per_point)[1:], end]
        return done

    def config(self) -> dict[str, Any]:
        """What `config.json` says, but for the circumstances."""
        name, options = parse_environment(self.environment)
        environment = self._task
        dynamics = ["last", *(["first"] if self.evaluate_first else [])]
        rates = {spec.learning_rate for spec in self.specs.values()}
        return {
            "format": FORMAT,
            "environment": name,
            "environment_options": options,
            "backend": getattr(environment, "backend", None),
            "phase_steps": environment.phase_steps,
            "optimizer": self.optimizer,
            "label": self.label,
            "resolved_optimizer": str(self.spec),
            "learning_rate": rates.pop() if len(rates) == 1 else None,
            "annealed": self._annealed,
            "steps": self.iterations * self.steps_per_iteration,
            "seeds": list(self.seeds),
            "iterations": self.iterations,
            "algorithm": self.settings.learner,
            "settings": self.settings.config(),
            "evaluation_episodes": EVALUATION_EPISODES,
            "evaluation_actions": self.evaluation_actions,
            "diagnostics_every": self.diagnostics_every,
            "normaliser": task_of(self.environment).normaliser(options),
            **({"evaluation_dynamics": dynamics} if environment.changes else {}),
            **{
                f"{name}_weights_sha256".removeprefix("_"): weights_files.sha256(content)
                for name, content in self.weights.items()
            },
            **({"prolonged_at": list(self.prolonged_at)} if self.prolonged_at else {}),
        }

    @functools.cached_property
    def weights(self) -> dict[str, bytes]:
        """Contents of the files of learned optimizers' weights, which are read once, by network."""
        contents = {name: weights_files.read(spec) for name, spec in self.specs.items()}
        return {name: content for name, content in contents.items() if content is not None}

    @property
    def _annealed(self) -> bool:
        return self.settings.anneal and any(map(optim.accepts_schedule, self.specs.values()))
