"""Trains several seeds of PPO under one optimizer, with metrics, checkpoints and resumption."""

from __future__ import annotations

import copy
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

import optim
from agents.a2c import a2c_config
from agents.diagnostics import MEASURES, diagnose
from agents.environment import Environment
from agents.evaluation import evaluate
from agents.learner import Learner
from agents.ppo import PPOConfig, ppo
from agents.restarts import phase_iterations, with_progress_of_phase, with_restarts
from experiments.online.tasks import TASKS, make_environment, parse_environment, resolve_optimizer
from experiments.runs import weights as weights_files
from experiments.runs.identity import earlier_ends
from experiments.runs.reading import FORMAT
from experiments.runs.training import (
    Point,
    Program,
    Row,
    all_finite,
    check_seeds,
    divided_up,
    evaluation_rows,
    seed_keys,
    seed_mesh,
    train_seeds,
)
from experiments.settings import Settings, unknown

POINTS = 100  # logged points in a run, at most, unless it is prolonged or its task changes
PHASE_POINTS = 20  # in each phase of a task that changes, at least, if it has as many iterations
EVALUATION_EPISODES = 64
EVALUATION_ACTIONS = ("sampled", "greedy")
_EVALUATION_STREAM = 2**31  # folded into a seed's key; iterations never get as far


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
        weights_files.make(self.spec, self.weights_content)  # says what is not allowed
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
    def spec(self) -> optim.OptimizerSpec:
        """The optimizer with everything filled in that the task knows better than its defaults."""
        return resolve_optimizer(self.optimizer, TASKS[parse_environment(self.environment)[0]])

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
        return {
            "format": FORMAT,
            "environment": name,
            "environment_options": options,
            "backend": getattr(environment, "backend", None),
            "phase_steps": environment.phase_steps,
            "optimizer": self.optimizer,
            "label": self.label,
            "resolved_optimizer": str(self.spec),
            "learning_rate": self.spec.learning_rate,
            "annealed": self._annealed,
            "steps": self.iterations * self.steps_per_iteration,
            "seeds": list(self.seeds),
            "iterations": self.iterations,
            "algorithm": self.settings.learner,
            "settings": self.settings.config(),
            "evaluation_episodes": EVALUATION_EPISODES,
            "evaluation_actions": self.evaluation_actions,
            "diagnostics_every": self.diagnostics_every,
            "normaliser": TASKS[name].normaliser(options),
            **({"evaluation_dynamics": dynamics} if environment.changes else {}),
            **({"weights_sha256": self.weights} if self.weights else {}),
        }

    @property
    def weights(self) -> str | None:
        """Digest of the file of a learned optimizer's weights; None if it is not learned."""
        content = self.weights_content
        return None if content is None else weights_files.sha256(content)

    @functools.cached_property
    def weights_content(self) -> bytes | None:
        """Content of that file, which is read once."""
        return weights_files.read(self.spec)

    @property
    def _annealed(self) -> bool:
        return self.settings.anneal and optim.accepts_schedule(self.spec.name)


def train(
    run: RunConfig,
    path: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    on_start: Callable[[int], None] = lambda step: None,
    on_point: Callable[[Point], None] = lambda point: None,
    on_note: Callable[[str], None] = warnings.warn,
    checkpoint_seconds: float = 30.0,
) -> None:
    """Trains a run into a directory, or finishes one that was cut short.

    Seeds are batched on each device and spread over all devices. A seed s draws everything from
    `jax.random.key(s)`, so that the same seed starts from the same networks and environments
    whatever the optimizer. Runs that differ in nothing but the learning rate or the number of
    steps share one compiled program.

    Args:
        run: what to train.
        path: the run directory.
        resume: continue what is in the directory. The metrics come out as without the interruption,
            bit for bit (on the same machine, devices and versions). A shorter run is prolonged, if
            nothing in it depends on its length.
        overwrite: replace the run in the directory.
        on_start: called once, with the environment steps that each seed had done before.
        on_point: called after each logged stretch.
        on_note: called with a sentence when something in the directory turns out to be damaged.
        checkpoint_seconds: least time between two checkpoints.

    Raises:
        ValueError: see `RunDirectory.create`.
        OSError: if something cannot be written; what was logged can be resumed.
        Stopped: if something in the directory cannot be used, see `RunDirectory.begin`.
        Terminated: if the process was told to end; the last logged point can be resumed.
    """
    if resume:
        run = run.as_begun(path)
    content = run.weights_content
    train_seeds(
        path,
        run.config(),
        lambda: _program(run),
        files={} if content is None else {"weights.safetensors": content},
        points=run.points,
        step=run.step,
        resume=resume,
        overwrite=overwrite,
        on_start=on_start,
        on_point=on_point,
        on_note=on_note,
        checkpoint_seconds=checkpoint_seconds,
    )


def _program(run: RunConfig) -> Program:
    program, numbers, keys = compiled(run)

    @functools.cache  # drawn once for all diagnoses: each would take as long again as its gradient
    def initial_params() -> Any:
        return program.init(numbers, keys).params

    def advance(index: int, state: Any) -> tuple[Any, list[Row]]:
        count = (run.step(index + 1) - run.step(index)) // run.steps_per_iteration
        state, stretch = program.advance(numbers, state, jnp.int32(count))
        rows = list(_rows(run, index, jax.device_get(stretch)))
        if run.diagnostics_every is not None:
            found = {}
            if run.is_diagnosed(index):
                found = jax.device_get(program.diagnose(numbers, state, initial_params()))
            for i, row in enumerate(rows):
                row |= {name: _cell(found[name][i]) if found else "" for name in MEASURES}
        return state, rows

    def final_evaluation(state: Any) -> list[Row]:
        def rows(clock: int) -> list[Row]:
            played = jax.device_get(program.evaluate(numbers, state, keys, jnp.int32(clock)))
            return evaluation_rows(run.seeds, EVALUATION_EPISODES, *played)

        if not run._task.changes:
            return rows(0)
        clocks = {"last": run.step(run.points) - 1} | ({"first": 0} if run.evaluate_first else {})
        return [row | {"dynamics": name} for name, clock in clocks.items() for row in rows(clock)]

    return Program(
        lambda: program.init(numbers, keys),
        advance,
        lambda state: program.policies(numbers, state),
        final_evaluation,
    )


def compiled(run: RunConfig) -> tuple[Compiled, Numbers, jax.Array]:
    """A run's program, which is compiled once for all runs that can share it, and its arguments.

    Returns:
        The program, its numbers, and a key for each seed, spread over devices. There may be more
        keys than seeds, so that every device has equally many: the surplus is computed and dropped.
    """
    mesh = seed_mesh(len(run.seeds))
    weights, spec, rate = run.weights_content, run.spec, run.spec.learning_rate
    if weights is None:
        spec = without_learning_rate(spec)
    else:  # a learned optimizer takes no notice of a rate, nor of what its file is called
        spec, rate = dataclasses.replace(spec, weights=""), 1.0
    greedy = run.evaluation_actions == "greedy"
    program = _compiled(run.environment, spec, weights, run.settings, greedy, mesh)
    keys = seed_keys(run.seeds, mesh)
    learning_rates = jax.device_put(np.full(len(keys), rate, np.float32), keys.sharding)
    return program, Numbers(learning_rates, jnp.int32(run.iterations)), keys


class Numbers(NamedTuple):
    """What a compiled program takes as data, so that many runs share it."""

    learning_rate: Any  # shape=(seeds,), dtype=float32
    iterations: Any  # shape=(), dtype=int32


class Compiled(NamedTuple):
    """Compiled functions over (seeds, ...) arrays; all take `Numbers` first."""

    init: Callable[..., Any]  # (numbers, keys) -> state
    advance: Callable[..., Any]  # (numbers, state, iterations) -> (state, stretch)
    policies: Callable[..., Any]  # (numbers, state) -> policies
    evaluate: Callable[..., Any]  # (numbers, state, keys, clock) -> (returns, lengths)
    diagnose: Callable[..., Any]  # (numbers, state, initial params) -> measures by name


@functools.cache
def _compiled(
    environment_text: str,
    spec: optim.OptimizerSpec,
    weights: bytes | None,  # a file of the same name may hold others later
    settings: Settings,
    greedy: bool,
    mesh: Mesh,
) -> Compiled:
    environment = make_environment(environment_text)

    def learner(numbers: Numbers) -> Learner:  # of one seed
        config = ppo_config(settings, numbers.iterations)
        rate, steps = numbers.learning_rate, config.steps_per_iteration
        if not settings.restart:
            return ppo(environment, config, chain(spec, settings, config, rate, weights))
        phase = phase_iterations(environment, steps)  # it is all of an agent's life
        life = dataclasses.replace(config, iterations=phase)
        optimizer = chain(spec, settings, life, rate, weights)
        optimizer = with_progress_of_phase(optimizer, config.updates_per_iteration, phase)
        return with_restarts(ppo(environment, config, optimizer), environment, steps)

    each = functools.partial(jax.vmap, in_axes=(Numbers(0, None), 0))

    def init(numbers: Numbers, keys: jax.Array) -> Any:
        return each(lambda numbers, key: learner(numbers).init(key))(numbers, keys)

    def advance(numbers: Numbers, state: Any, iterations: jax.Array) -> tuple[Any, Any]:
        def iterate(numbers: Numbers, state: Any) -> Any:
            # One clock for all seeds: what it decides on is then decided once.
            iteration = state.iteration[0]
            return each(
                lambda numbers, state: learner(numbers).iterate(state._replace(iteration=iteration))
            )(numbers, state)

        metrics = jax.eval_shape(iterate, numbers, state)[1]
        sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)

        def step(_: Any, carry: Any) -> Any:
            state, sums = carry
            state, metrics = iterate(numbers, state)
            return state, jax.tree.map(jnp.add, sums, metrics)

        state, sums = jax.lax.fori_loop(0, iterations, step, (state, sums))
        return state, (sums, iterations, jax.vmap(all_finite)(state.params))

    def policies(numbers: Numbers, state: Any) -> Any:
        return each(lambda numbers, state: learner(numbers).policy(state))(numbers, state)

    def evaluation(
        numbers: Numbers, state: Any, keys: jax.Array, clock: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        def one(numbers: Numbers, state_and_key: Any) -> tuple[jax.Array, jax.Array]:
            state, key = state_and_key
            key = jax.random.fold_in(key, _EVALUATION_STREAM)
            policy = learner(numbers).policy(state, greedy)
            return evaluate(environment.at(clock), policy, key, EVALUATION_EPISODES)

        return each(one)(numbers, (state, keys))

    def diagnosis(numbers: Numbers, state: Any, initial_params: Any) -> dict[str, jax.Array]:
        def one(numbers: Numbers, state_and_start: Any) -> dict[str, jax.Array]:
            return diagnose(learner(numbers), *state_and_start, settings.clip)

        return each(one)(numbers, (state, initial_params))

    seeds, everywhere = PartitionSpec("seeds"), PartitionSpec()
    numbers_spec = Numbers(seeds, everywhere)
    shard = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
    return Compiled(
        jax.jit(shard(init, in_specs=(numbers_spec, seeds), out_specs=seeds)),
        jax.jit(
            shard(
                advance,
                in_specs=(numbers_spec, seeds, everywhere),
                out_specs=(seeds, (seeds, everywhere, seeds)),
            ),
            donate_argnums=1,
        ),
        jax.jit(shard(policies, in_specs=(numbers_spec, seeds), out_specs=seeds)),
        jax.jit(
            shard(evaluation, in_specs=(numbers_spec, seeds, seeds, everywhere), out_specs=seeds)
        ),
        jax.jit(shard(diagnosis, in_specs=(numbers_spec, seeds, seeds), out_specs=seeds)),
    )


def ppo_config(settings: Settings, iterations: int | jax.Array) -> PPOConfig:
    """The part of the settings that is PPO's, or those of PPO with which it is A2C."""
    names = {field.name for field in dataclasses.fields(PPOConfig)}
    names &= {field.name for field in dataclasses.fields(Settings)}
    config = PPOConfig(iterations, **{name: getattr(settings, name) for name in names})
    return a2c_config(config) if settings.learner == "a2c" else config


def chain(
    spec: optim.OptimizerSpec,
    settings: Settings,
    config: PPOConfig,
    learning_rate: float | jax.Array,
    weights: bytes | None = None,
) -> optax.GradientTransformation:
    """Gradient clipping, then the optimizer, with its learning rate annealed if that is set.

    The learning rate of iteration i of n is (1 - i / n) times the full one; i is counted by the
    optimizer's state, n is that of the config. Optimizers that take no
    schedule keep it constant. Learned ones set their own steps, and are given none; they are made
    from the content of the file of their weights, which is read unless it is given.
    """
    clip = optim.clip_by_network_norm(settings.max_grad_norm)
    if spec.weights is not None:
        content = weights_files.read(spec) if weights is None else weights
        return optax.chain(clip, weights_files.make(spec, content))

    def annealed(count: jax.Array) -> jax.Array:
        iteration = count // config.updates_per_iteration
        return learning_rate * (1.0 - iteration / config.iterations)

    schedule = annealed if settings.anneal and optim.accepts_schedule(spec.name) else learning_rate
    return optax.chain(clip, optim.make(spec, schedule))


def without_learning_rate(spec: optim.OptimizerSpec) -> optim.OptimizerSpec:
    """The optimizer without the learning rate that it names, which `optim.make` would prefer."""
    options = tuple((key, value) for key, value in spec.options if key != "learning_rate")
    return dataclasses.replace(spec, options=options)


def _rows(run: RunConfig, index: int, stretch: Any) -> Iterator[dict[str, Any]]:
    sums, count, finite = stretch
    for i, seed in enumerate(run.seeds):
        episodes = int(sums["episodes"][i])
        episode_mean = {
            name: repr(float(sums[f"{name}_sum"][i]) / episodes) if episodes else ""
            for name in ("episode_return", "episode_length")
        }
        yield {
            "point": index,
            "step": run.step(index + 1),
            "seed": seed,
            "episode_return": episode_mean["episode_return"],
            "episodes": episodes,
            "episode_length": episode_mean["episode_length"],
            "diverged": int(not finite[i]),
        } | {
            name: repr(float(value[i]) / int(count))
            for name, value in sums.items()
            if not name.startswith("episode")
        }


def _cell(value: np.ndarray) -> str:
    """A number as `metrics.csv` has it; nothing where it is not finite."""
    return repr(float(value)) if np.isfinite(value) else ""
