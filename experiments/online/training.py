"""Trains several seeds of PPO under one optimizer, with metrics, checkpoints and resumption."""

from __future__ import annotations

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
from agents.evaluation import evaluate
from agents.learner import Learner
from agents.ppo import PPOConfig, ppo
from agents.restarts import phase_iterations, with_progress_of_phase, with_restarts
from experiments.online.run import EVALUATION_EPISODES, RunConfig
from experiments.online.tasks import make_environment
from experiments.runs import weights as weights_files
from experiments.runs.training import (
    Point,
    Program,
    Row,
    all_finite,
    evaluation_rows,
    seed_keys,
    seed_mesh,
    train_seeds,
)
from experiments.settings import Settings

_EVALUATION_STREAM = 2**31  # folded into a seed's key; iterations never get as far


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
    train_seeds(
        path,
        run.config(),
        lambda: _program(run),
        files={
            f"{name}_weights.safetensors".removeprefix("_"): content
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

        if not make_environment(run.environment).changes:
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
    parts = tuple((name, _shared(spec)) for name, spec in run.specs.items())
    greedy = run.evaluation_actions == "greedy"
    weights = tuple(run.weights.items())
    program = _compiled(run.environment, parts, weights, run.settings, greedy, mesh)
    keys = seed_keys(run.seeds, mesh)

    def rates(spec: optim.OptimizerSpec) -> jax.Array:
        # Of one that sets its own steps no notice is taken.
        rate = 1.0 if optim.sets_own_steps(spec) else spec.learning_rate
        return jax.device_put(np.full(len(keys), rate, np.float32), keys.sharding)

    by_part = {name: rates(spec) for name, spec in run.specs.items()}
    return program, Numbers(by_part.get("", by_part), jnp.int32(run.iterations)), keys


def _shared(spec: optim.OptimizerSpec) -> optim.OptimizerSpec:
    """What runs that share a program have in common: no rate, no name of a file of weights."""
    if spec.weights is not None:
        spec = dataclasses.replace(spec, weights="")
    return spec if optim.sets_own_steps(spec) else without_learning_rate(spec)


class Numbers(NamedTuple):
    """What a compiled program takes as data, so that many runs share it."""

    learning_rate: Any  # shape=(seeds,), dtype=float32; or several, by network
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
    parts: tuple[tuple[str, optim.OptimizerSpec], ...],  # by network, or one by an empty name
    weights: tuple[tuple[str, bytes], ...],  # files of the same name may hold others later
    settings: Settings,
    greedy: bool,
    mesh: Mesh,
) -> Compiled:
    environment = make_environment(environment_text)

    def chained(config: PPOConfig, rate: Any) -> optax.GradientTransformation:
        contents = dict(weights)
        rates = rate if isinstance(rate, dict) else {"": rate}
        optimizers = {
            name: scheduled(spec, settings, config, rates[name], contents.get(name))
            for name, spec in parts
        }
        optimizer = optimizers[""] if "" in optimizers else optim.by_network(optimizers)
        return optax.chain(optim.clip_by_network_norm(settings.max_grad_norm), optimizer)

    def learner(numbers: Numbers) -> Learner:  # of one seed
        config = ppo_config(settings, numbers.iterations)
        rate, steps = numbers.learning_rate, config.steps_per_iteration
        if not settings.restart:
            return ppo(environment, config, chained(config, rate))
        phase = phase_iterations(environment, steps)  # it is all of an agent's life
        life = dataclasses.replace(config, iterations=phase)
        optimizer = chained(life, rate)
        optimizer = with_progress_of_phase(optimizer, config.updates_per_iteration, phase)
        return with_restarts(ppo(environment, config, optimizer), environment, steps)

    each = functools.partial(jax.vmap, in_axes=(Numbers(0, None), 0))

    def init(numbers: Numbers, keys: jax.Array) -> Any:
        return each(lambda numbers, key: learner(numbers).init(key))(numbers, keys)

    def advance(numbers: Numbers, state: Any, iterations: jax.Array) -> tuple[Any, Any]:
        @functools.partial(jax.jit, inline=True)  # so that it is traced once for its two callers
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
            state, start = state_and_start
            return diagnose(learner(numbers), state, start, settings.clip)

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
    """Gradient clipping, then the optimizer, see `scheduled`."""
    clip = optim.clip_by_network_norm(settings.max_grad_norm)
    return optax.chain(clip, scheduled(spec, settings, config, learning_rate, weights))


def scheduled(
    spec: optim.OptimizerSpec,
    settings: Settings,
    config: PPOConfig,
    learning_rate: float | jax.Array,
    weights: bytes | None = None,
) -> optax.GradientTransformation:
    """An optimizer with its learning rate annealed if that is set.

    The learning rate of iteration i of n is (1 - i / n) times the full one; i is counted by the
    optimizer's state, n is that of the config. Optimizers that take no
    schedule keep it constant. Learned ones set their own steps, and are given none; they are made
    from the content of the file of their weights, which is read unless it is given.
    """
    if spec.weights is not None:
        content = weights_files.read(spec) if weights is None else weights
        return weights_files.make(spec, content)

    def annealed(count: jax.Array) -> jax.Array:
        iteration = count // config.updates_per_iteration
        return learning_rate * (1.0 - iteration / config.iterations)

    schedule: Any = annealed if settings.anneal and optim.accepts_schedule(spec) else learning_rate
    return optim.make(spec, None if optim.sets_own_steps(spec) else schedule)


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
