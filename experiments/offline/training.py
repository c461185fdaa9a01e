"""Trains several seeds of an offline learner, with metrics, checkpoints and resumption.

The run directory is that of `experiments.runs.directory`. Steps are updates of the critic. A row of
`metrics.csv` has, beside what `rl-optim compare` logs, the learner's metrics (means over the
stretch: `mean_abs_q`, `critic_loss`, ...), `collapsed` and, on request, the stability test of
`optim.diagnostics`.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import optim
from agents.evaluation import evaluate
from agents.offline.common import (
    OfflineLearner,
    OfflineState,
    Transitions,
    collapse_line,
    observation_statistics,
)
from agents.policies import NetworkPolicy
from experiments.offline.algorithms import (
    adam_numbers,
    algorithm_named,
    make_learner,
    resolve,
    reward_change,
)
from experiments.offline.datasets import Data
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
from optim import diagnostics
from optim.importing import is_imported

POINTS = 100  # logged points in a run, unless it is prolonged, as long as a stretch stays below
_LONGEST_STRETCH = 1000  # updates of the critic
_EVALUATION_STREAM = 2**31  # folded into a seed's key, with the point's number
_DIAGNOSTICS_STREAM = 2**30
_DIAGNOSTIC_ROWS = 64  # transitions in a batch of the diagnostics
_DIAGNOSTICS = (
    *("exact_radius", "radius", "published_radius", "hurwitz_margin"),
    *("published_hurwitz_margin", "step_margin", "gram_bound", "rank"),
)


@dataclasses.dataclass(frozen=True)
class OfflineRun:
    """One data set, one algorithm, one critic optimizer, several seeds.

    Attributes:
        algorithm: a key of `experiments.offline.algorithms.ALGORITHMS`.
        data: what is learned from.
        critic_optimizer: `NAME[@WEIGHTS][:key=value,...]`, as the user wrote it.
        steps: updates of the critic, at least; whole stretches are done.
        seeds: which seeds, different whole numbers in [0, 2**32 - 1].
        settings: of the algorithm, as `settings_of` gives them.
        actor_optimizer: likewise.
        value_optimizer: likewise; of IQL alone.
        learning_rate: of optimizers that name none; None is the published one.
        evaluations: how many times the policy is evaluated, the end included; 0 never does. A run
            that is prolonged goes on at the same intervals.
        evaluation_episodes: in each of them, and in the final one.
        diagnostics_every: updates of the critic between two stability tests, rounded up to whole
            stretches; None makes none.
        prolonged_at: steps at which it ended before it was prolonged. The first of them say how
            often it is logged and evaluated.

    Raises:
        ValueError: on construction, if anything in it is unknown or not allowed.
        OSError: likewise, if the file of a learned optimizer's weights cannot be read.
    """

    algorithm: str
    data: Data
    critic_optimizer: str
    steps: int
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]
    actor_optimizer: str = "adam"
    value_optimizer: str = "adam"
    learning_rate: float | None = None
    evaluations: int = 10
    evaluation_episodes: int = 10
    diagnostics_every: int | None = None
    prolonged_at: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        algorithm_named(self.algorithm)
        check_seeds(self.seeds)
        if not 1 <= self.steps < 2**31:
            raise ValueError(f"steps must be in [1, {2**31 - 1}]; got {self.steps}.")
        if self.evaluations < 0 or self.evaluation_episodes < 1:
            raise ValueError(
                "evaluations must be at least 0 and evaluation_episodes at least 1; got "
                f"{self.evaluations} and {self.evaluation_episodes}."
            )
        _ = self.transitions
        learner = self.learner
        # An optimizer may say what it lacks only when it is used.
        newborn = jax.eval_shape(learner.init, jax.random.key(0))
        jax.eval_shape(learner.iterate, newborn, self.transitions)
        if self.diagnostics_every is not None:
            state = jax.eval_shape(learner.init, jax.random.key(0))
            is_adam = lambda node: isinstance(node, optax.ScaleByAdamState)  # noqa: E731
            nodes = jax.tree.leaves(state.optimizer_state["critic"], is_leaf=is_adam)
            is_own = is_imported(optim.base_name(self.specs["critic"]))  # with unknown numbers
            if is_own or sum(map(is_adam, nodes)) != 1:
                raise ValueError(
                    "--diagnostics-every needs a critic optimizer with Adam's state; "
                    f"got {self.critic_optimizer!r}."
                )
            if learner.temporal_difference is None:
                raise ValueError(
                    "--diagnostics-every needs a critic whose loss is its own TD error alone "
                    f"(td3_bc); got {self.algorithm!r}."
                )

    @functools.cached_property
    def specs(self) -> dict[str, optim.OptimizerSpec]:
        """The optimizer of each network with everything filled in."""
        algorithm = algorithm_named(self.algorithm)
        rate = algorithm.learning_rate
        texts = {
            "actor": self.actor_optimizer,
            "critic": self.critic_optimizer,
            "value": self.value_optimizer,
        }
        return {
            name: resolve(
                texts[name],
                rate if name != "critic" or self.learning_rate is None else self.learning_rate,
                critic=name == "critic",
            )
            for name in algorithm.networks
        }

    @functools.cached_property
    def weights(self) -> dict[str, bytes]:
        """Contents of the files of learned optimizers' weights by network; each is read once."""
        contents = {name: weights_files.read(spec) for name, spec in self.specs.items()}
        return {name: content for name, content in contents.items() if content is not None}

    @functools.cached_property
    def learner(self) -> OfflineLearner:
        """The learner."""
        learned = {
            name: weights_files.make(self.specs[name], content)
            for name, content in self.weights.items()
        }
        return make_learner(
            self.algorithm,
            *self.data.sizes,
            self.settings,
            self.specs,
            self.points,
            self.stretch,
            observation_statistics(self.data.transitions),
            learned | self.transformations,
            self.data.dataset.episode_returns,
        )

    @functools.cached_property
    def transitions(self) -> Transitions:
        """What is learned from: the data, with rewards as the settings ask for."""
        found = self.data.transitions
        change = reward_change(self.settings, self.data.dataset.episode_returns)
        if change == (1.0, 0.0):
            return found
        with np.errstate(over="ignore"):
            reward = change(np.asarray(found.reward, np.float64)).astype(np.float32)
        if not np.isfinite(reward).all():
            raise ValueError("the reward settings give rewards that are not finite in float32.")
        return found._replace(reward=reward)

    @property
    def transformations(self) -> dict[str, optax.GradientTransformation]:
        """Optimizers of networks that no text names; none here, subclasses may have some."""
        return {}

    @functools.cached_property
    def program(self) -> _Compiled:
        """What is compiled, once for all trainings of this very run."""
        return _compiled(self, seed_mesh(len(self.seeds)))

    @property
    def stretch(self) -> int:
        """Updates of the critic from one logged point to the next."""
        period = self.settings.get("actor_period", 1)
        wanted = min(divided_up(self._first_steps, POINTS), _LONGEST_STRETCH)
        return divided_up(wanted, period) * period

    @property
    def points(self) -> int:
        """Logged points."""
        return divided_up(self.steps, self.stretch)

    def step(self, points: int) -> int:
        """Updates of the critic once so many points are logged."""
        return points * self.stretch

    def as_begun(self, path: Path) -> OfflineRun:
        """The run as it goes on from what is in a directory, if it prolongs that."""
        ends = earlier_ends(path, self.steps)
        if ends == self.prolonged_at:
            return self
        run = copy.copy(self)  # with the weights, which are not read again
        object.__setattr__(run, "prolonged_at", ends)
        for name in ("learner", "program"):  # they know how long it is
            run.__dict__.pop(name, None)
        return run

    @property
    def _first_steps(self) -> int:
        return (*self.prolonged_at, self.steps)[0]

    @property
    def collapse_line(self) -> float:
        """Mean |Q| above which a critic has collapsed, in units of what the critic learns."""
        return collapse_line(self.transitions, self.settings["discount"])

    def is_evaluated(self, point: int) -> bool:
        """Whether the policy is evaluated after a point."""
        if self.data.evaluation[0] is None:
            return False
        times, points = self.evaluations, divided_up(self._first_steps, self.stretch)
        return (point + 1) * times // points > point * times // points

    def is_diagnosed(self, point: int) -> bool:
        """Whether the critic's stability is tested after a point."""
        if self.diagnostics_every is None:
            return False
        every = self.diagnostics_every
        return (point + 1) * self.stretch // every > point * self.stretch // every

    def config(self) -> dict[str, Any]:
        """What `config.json` says, but for the circumstances."""
        environment, name = self.data.evaluation
        references = self.data.references
        return {
            "format": FORMAT,
            "environment": f"{self.data.dataset.title}, {self.algorithm}",
            "backend": None,
            "dataset": self.data.dataset.title,
            "dataset_sha256": self.data.checksum,
            "transitions": len(self.data.transitions.reward),
            "subset_seed": None if self.data.subset is None else self.data.subset_seed,
            "evaluated_in": name if environment is not None else None,
            "reference_returns": list(references) if references else None,
            "algorithm": self.algorithm,
            "optimizer": self.critic_optimizer,
            "resolved_optimizer": str(self.specs["critic"]),
            "learning_rate": self.specs["critic"].learning_rate,
            "other_optimizers": {
                name: str(spec) for name, spec in self.specs.items() if name != "critic"
            },
            "steps": self.points * self.stretch,
            "seeds": list(self.seeds),
            "iterations": self.points,
            "settings": {
                key: list(value) if isinstance(value, tuple) else value
                for key, value in self.settings.items()
            },
            "evaluations": self.evaluations,
            "evaluation_episodes": self.evaluation_episodes,
            "diagnostics_every": self.diagnostics_every,
            "collapse_line": self.collapse_line,
            "normaliser": None,
        } | {
            f"{name}_weights_sha256": weights_files.sha256(content)
            for name, content in self.weights.items()
        }


def train_offline(
    run: OfflineRun,
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

    Seeds are batched on each device and spread over all devices; the data are there once on each.
    A seed s draws everything from `jax.random.key(s)`, whatever the optimizer.

    Args:
        run: what to train.
        path: the run directory.
        resume: continue what is in the directory. The metrics come out as without the interruption,
            bit for bit (on the same machine, devices and versions). A shorter run is prolonged, if
            nothing in it depends on its length.
        overwrite: replace the run in the directory.
        on_start: called once, with the updates that each seed had done before.
        on_point: called after each logged stretch.
        on_note: called with a sentence when something in the directory turns out to be damaged, or
            when there is no environment to evaluate in.
        checkpoint_seconds: least time between two checkpoints.

    Raises:
        ValueError: see `RunDirectory.create`.
        OSError: if something cannot be written; what was logged can be resumed.
        Stopped: if something in the directory cannot be used, see `RunDirectory.begin`.
        Terminated: if the process was told to end; the last logged point can be resumed.
    """
    if resume:
        run = run.as_begun(path)
    train_seeds(
        path,
        run.config(),
        lambda: _seeds_program(run, on_note),
        files={
            "weights.safetensors" if name == "critic" else f"{name}_weights.safetensors": content
            for name, content in run.weights.items()
        },
        points=run.points,
        step=run.step,
        resume=resume,
        overwrite=overwrite,
        on_start=on_start,
        on_point=on_point,
        on_note=on_note,
        checkpoint_seconds=checkpoint_seconds,
    )


def _seeds_program(run: OfflineRun, on_note: Callable[[str], None]) -> Program:
    environment, reason = run.data.evaluation
    if environment is None:
        on_note(f"no returns, only the critic: {reason}.")
    program, keys, transitions = _arguments(run)

    def advance(index: int, state: Any) -> tuple[Any, list[Row]]:
        state, metrics, finite = program.advance(state, transitions)
        returns = np.full(len(keys), math.nan)
        if run.is_evaluated(index):
            returns = np.asarray(program.evaluate(state, keys, jnp.uint32(index))[0]).mean(axis=1)
        rows = list(_rows(run, index, jax.device_get(metrics), np.asarray(finite), returns))
        if run.diagnostics_every is not None:
            for i, row in enumerate(rows):
                row |= _diagnosed(run, index, i, state)
        return state, rows

    def final_evaluation(state: Any) -> list[Row]:
        returns, lengths = None, None
        if environment is not None:
            returns, lengths = jax.device_get(program.evaluate(state, keys, jnp.uint32(run.points)))
        return evaluation_rows(run.seeds, run.evaluation_episodes, returns, lengths)

    def policies(state: Any) -> NetworkPolicy:
        dataset = run.data.dataset
        found: NetworkPolicy = program.policies(state)
        return found.with_bounds(dataset.action_low, dataset.action_high)

    return Program(lambda: program.init(keys), advance, policies, final_evaluation)


class _Compiled(NamedTuple):
    """Compiled functions over (seeds, ...) arrays."""

    init: Callable[..., Any]  # keys -> state
    advance: Callable[..., Any]  # (state, transitions) -> (state, metrics, finite)
    policies: Callable[..., Any]  # state -> policies
    evaluate: Callable[..., Any]  # (state, keys, point) -> (returns, lengths)


def _arguments(run: OfflineRun) -> tuple[_Compiled, jax.Array, Transitions]:
    """The program and what it is called with; what comes of surplus keys is dropped."""
    mesh = seed_mesh(len(run.seeds))
    keys = seed_keys(run.seeds, mesh)
    transitions = jax.device_put(run.transitions, NamedSharding(mesh, PartitionSpec()))
    return run.program, keys, transitions


def _compiled(run: OfflineRun, mesh: Mesh) -> _Compiled:
    learner = run.learner

    def advance(state: Any, transitions: Transitions) -> tuple[Any, Any, Any]:
        state, metrics = jax.vmap(learner.iterate, (0, None))(state, transitions)
        return state, metrics, jax.vmap(all_finite)(state.params)

    def evaluation(state: Any, keys: jax.Array, point: jax.Array) -> tuple[jax.Array, jax.Array]:
        environment, _ = run.data.evaluation
        assert environment is not None

        def one(state: OfflineState, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            key = jax.random.fold_in(jax.random.fold_in(key, _EVALUATION_STREAM), point)
            policy = run.data.acting(learner.policy(state))
            return evaluate(environment, policy, key, run.evaluation_episodes)

        return jax.vmap(one)(state, keys)

    seeds, everywhere = PartitionSpec("seeds"), PartitionSpec()
    shard = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
    return _Compiled(
        jax.jit(shard(jax.vmap(learner.init), in_specs=seeds, out_specs=seeds)),
        jax.jit(
            shard(advance, in_specs=(seeds, everywhere), out_specs=(seeds, seeds, seeds)),
            donate_argnums=0,
        ),
        jax.jit(shard(jax.vmap(learner.policy), in_specs=seeds, out_specs=seeds)),
        jax.jit(shard(evaluation, in_specs=(seeds, seeds, everywhere), out_specs=seeds)),
    )


def _rows(
    run: OfflineRun, index: int, metrics: Any, finite: np.ndarray, returns: np.ndarray
) -> Iterator[dict[str, Any]]:
    for i, seed in enumerate(run.seeds):
        value = float(returns[i])
        is_known = run.is_evaluated(index)
        mean_abs_q = float(metrics["mean_abs_q"][i])
        score = run.data.normalised(value)
        yield {
            "point": index,
            "step": run.step(index + 1),
            "seed": seed,
            "episode_return": repr(value) if is_known else "",
            "episodes": run.evaluation_episodes if is_known else 0,
            "normalised_score": repr(score) if math.isfinite(score) else "",
            "diverged": int(not finite[i]),
            "collapsed": int(not mean_abs_q <= run.collapse_line),  # also where it is NaN
        } | {name: repr(float(value[i])) for name, value in sorted(metrics.items())}


def _diagnosed(run: OfflineRun, index: int, seed: int, states: Any) -> dict[str, str]:
    """The stability test of one seed's critic; empty cells where none is due or possible."""
    keyless = states._replace(key=states.iteration)
    state: OfflineState = jax.device_get(jax.tree.map(lambda x: x[seed], keyless))
    residuals = {
        f"orthogonality {layer}": repr(value)
        for layer, value in diagnostics.orthogonality(state.params["critic"]).items()
    }
    empty = dict.fromkeys([*_DIAGNOSTICS, *residuals], "")
    if not run.is_diagnosed(index):
        return empty
    # A critic that has exploded cannot be tested: float32's second moments overflow before it does.
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)):
        return empty
    key = jax.random.key(np.uint32(run.seeds[seed]))
    key = jax.random.fold_in(key, _DIAGNOSTICS_STREAM + index)
    rows = np.asarray(
        jax.random.randint(key, (_DIAGNOSTIC_ROWS,), 0, len(run.data.transitions.reward))
    )
    batch = jax.tree.map(lambda x: x[rows], run.data.transitions)
    assert run.learner.temporal_difference is not None
    parts = run.learner.temporal_difference(state, batch)
    numbers = adam_numbers(run.specs["critic"])
    preconditioner = diagnostics.adam_preconditioner(
        state.optimizer_state["critic"], numbers["b2"], numbers["eps"]
    )
    found = diagnostics.stability(
        diagnostics.jacobian(parts.values, state.params["critic"]),
        diagnostics.jacobian(parts.next_values, state.target_params["critic"]),
        preconditioner,
        discount=run.settings["discount"],
        learning_rate=run.specs["critic"].learning_rate or 0.0,
        b1=numbers["b1"],
        polyak=run.settings["polyak"],
        polyak_period=run.settings["actor_period"],
        loss_factor=parts.loss_factor,
        rank_tolerance=1e-5,  # the batch is float32
    )
    return {name: repr(getattr(found, name)) for name in _DIAGNOSTICS} | residuals
