"""Pipeline training: meta-training by meta-gradients from learners of all ages."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

import optim
from agents._promotion import relaxed_promotion, strong
from meta.curriculum import check_curriculum, current_tasks, first_steps, of_all
from meta.gradients import cosines, signal_to_noise, spread
from meta.population import MEMBERS, compile_all, gathered, population_mesh
from meta.trainer import MetaParams, Metrics, Trainer
from meta.windows import Windows

SCHEDULES = ("staggered", "newborn")
_GROWTH = -1  # stands for the iteration in the keys of agents that live before the first one


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """Settings for `pipeline`.

    Attributes:
        agents: learners on each task, over all devices, at least 1.
        agents_at_once: learners that a device runs in parallel; the rest follow in further batches.
            None for all at once. A smaller number needs less memory.
        schedule: 'staggered': agents of all ages are present from the first iteration on, because
            all but the youngest have already lived under the first meta-parameters. 'newborn': all
            are born in the first iteration and replaced at different times, so that ages are spread
            only after a whole interval, as in the authors' code.
        optimizer: the optimizer of the meta-parameters, `NAME[:key=value,...]` as for `optim.make`.
        task_norm: norm to which each task's meta-gradient is scaled, up or down; None to leave it
            as it is. A gradient of 0 stays 0.
        max_norm: norm to which the meta-gradient is clipped; None for no limit.
        max_entry: magnitude to which each entry of the meta-gradient is clipped; None for no limit.
        age_bins: equal parts of a life by which the metrics group returns, at least 1.

    Raises:
        ValueError: on construction, if a value is not allowed.
    """

    agents: int = 64
    agents_at_once: int | None = None
    schedule: str = "staggered"
    optimizer: str = "adam:learning_rate=1e-3"
    task_norm: float | None = None
    max_norm: float | None = 0.5
    max_entry: float | None = None
    age_bins: int = 8

    def __post_init__(self) -> None:
        for name in ("agents", "agents_at_once", "age_bins"):
            value = getattr(self, name)
            if (value is not None or name != "agents_at_once") and not (
                isinstance(value, int) and not isinstance(value, bool) and value >= 1
            ):
                raise ValueError(f"{name} must be a whole number, at least 1; got {value!r}.")
        for name in ("task_norm", "max_norm", "max_entry"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise ValueError(f"{name} must be in (0, inf); got {value!r}.")
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"schedule must be one of {', '.join(SCHEDULES)}; got {self.schedule!r}."
            )
        self.transformation()  # refuses what is not allowed

    def transformation(self) -> optax.GradientTransformation:
        """Clipping and the optimizer of the meta-parameters."""
        parts: list[optax.GradientTransformation] = []
        if self.max_norm is not None:
            parts.append(optax.clip_by_global_norm(self.max_norm))
        if self.max_entry is not None:
            parts.append(optax.clip(self.max_entry))
        return optax.chain(*parts, optim.make(self.optimizer))


class PipelineState(NamedTuple):
    """State of `pipeline`."""

    key: jax.Array  # constant; each iteration folds in its number
    iteration: jax.Array  # shape=(), dtype=int32
    meta_params: MetaParams
    optimizer_state: optax.OptState  # of the meta-parameters
    skipped: jax.Array  # shape=(), dtype=int32: steps not taken so far
    skipped_in_a_row: jax.Array  # shape=(), dtype=int32: steps not taken since the last one taken
    lives: tuple[Any, ...]  # for each task (agents, ...)


def reset_offsets(interval: int, agents: int) -> np.ndarray:
    r"""The iteration of each interval in which each agent is replaced.

    Of n agents, agent j is replaced in iteration :math:`\lfloor j\,(I-1)/(n-1) \rfloor`
    of an interval of I.

    Args:
        interval: I, the meta-iterations in a life.
        agents: n, the number of agents.

    Returns:
        int array of shape (agents,), rising from 0 to interval - 1 (0 if there is one agent).

    Examples:
        >>> reset_offsets(4, 6)
        array([0, 0, 1, 1, 2, 3])
    """
    return np.arange(agents) * (interval - 1) // max(agents - 1, 1)


def pipeline(
    init: Callable[[jax.Array], MetaParams],
    windows: Sequence[Windows],
    config: PipelineConfig,
    mesh: Mesh | None = None,
    curriculum: Sequence[int] = (),
) -> Trainer:
    r"""Descends the loss that learners of all ages have after a window of their lives.

    In meta-iteration t, n agents on each of K tasks live through a window under the current
    meta-parameters :math:`\phi`, and Adam (or another optimizer) is given the clipped mean of the
    gradients of their losses on fresh experience,

    .. math::
        g = \frac{1}{K} \sum_{k=1}^K g_k, \qquad
        g_k = \frac{1}{n} \sum_{j=1}^n \nabla_\phi L_{kj}(\phi).

    Agent j is replaced by a newborn one at the start of iteration t = 0, 1, ... if
    :math:`t \bmod I = \lfloor j\,(I-1)/(n-1) \rfloor`, where I is the number of windows in a life,
    so that agents of all ages are present at any time, and early, middle and late learning count
    equally. A replacement has new parameters, a new optimizer state and a new environment. All
    other agents continue where they were: the values of parameters, hidden states and environments
    carry over, but no derivative crosses from one window to the next.

    A meta-gradient that is not finite, or whose norm overflows (with `task_norm`, that of any task
    too), is not followed: the meta-parameters and their optimizer stay as they are. Agents whose
    parameters or optimizer state are not finite are replaced as soon as possible (one per iteration
    and device, in addition to those that are due). Their places are still renewed on schedule.

    Agents are spread over the devices. Apart from rounding, the result does not depend on the
    number of devices.

    With a curriculum, one task at a time is trained on, as if it were the only one: the next takes
    its place after the given number of meta-iterations, with agents of its own. Those of a task
    that is over stay as they are.

    Args:
        init: draws the first meta-parameters from a key: an architecture's `init`, or one that
            returns known meta-parameters.
        windows: one for each task.
        config: settings.
        mesh: the devices, as one axis named 'members'; by default as many as divide the agents
            evenly.
        curriculum: after how many meta-iterations each task but the first takes the place of the
            one before it, rising; empty to train on all tasks in every meta-iteration.

    Returns:
        The trainer. Its metrics are `meta_loss`, the mean over agents and tasks, and `task_loss`,
        shape (tasks,); `gradient_norm`, the norm of g before clipping, and `task_gradient_norm`,
        that of each :math:`g_k`, shape (tasks,); `skipped`, how many steps were not taken so far,
        and `skipped_in_a_row`, how many since the last one that was; `failed`, the number of agents
        that have failed and are not due; and, both of shape (tasks, age_bins), `episodes_by_age`,
        the number of episodes that ended in the windows of agents of that age, and `return_by_age`,
        their mean return, NaN if there were none. An agent's age is the number of windows it lived
        before this one; bin b begins at age bI/age_bins.

        `task_gradient_snr`, shape (tasks,), is `meta.gradients.signal_to_noise` of each
        :math:`g_k`, the mean over n agents, and `gradient_snr` that of g, whose variance is
        :math:`K^{-2} \sum_k f_k^2 \operatorname{tr}(S_k) / n`, where :math:`f_k` is the factor of
        `task_norm`, 1 without one. Agents are of different ages, and what their gradients differ by
        for that reason counts as noise, though each age is always there: the true ratio is rather
        higher. A single agent tells nothing: NaN. With several tasks at a time there are also
        `gradient_snr_over_tasks`, the same ratio with the :math:`f_k g_k` in the place of agents'
        gradients, and `task_cosine_mean` and `task_cosine_least`, the `meta.gradients.cosines` of
        the :math:`g_k`. Of tasks that a curriculum is not on, numbers are NaN and counts 0.

    Raises:
        ValueError: if there is no task, or `agents`, `agents_at_once` and the number of devices do
            not fit together, or the curriculum does not fit the tasks.

    References:
        Lan et al., Learning to Optimize for Reinforcement Learning, RLC 2024,
        `arXiv:2302.01470 <https://arxiv.org/abs/2302.01470>`_

    .. note::
        The authors' agents are all newborn at the start, so that ages are spread only after a whole
        interval: `schedule="newborn"`. With PPO they train one agent per device, so that on one
        device all agents are replaced at once; here, agents are staggered for PPO as for A2C. Their
        code ends the run at the first NaN.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from meta.pipeline import PipelineConfig, pipeline
        >>> from meta.windows import Windows
        >>> metrics = {"episodes": jnp.int32(1), "return_sum": jnp.float32(2.0)}
        >>> bowl = Windows(
        ...     init=lambda x, key: jnp.zeros(()),
        ...     grow=lambda x, life: life + 1.0,
        ...     loss=lambda x, life: (jnp.sum((x["a"] - 1.0) ** 2), (life + 1.0, metrics)),
        ...     number=4,
        ... )
        >>> config = PipelineConfig(agents=8, optimizer="adam:learning_rate=0.1")
        >>> trainer = pipeline(lambda key: {"a": jnp.zeros(2)}, [bowl], config)
        >>> state = trainer.init(jax.random.key(0))
        >>> for _ in range(30):
        ...     state, metrics = trainer.step(state)
        >>> bool(metrics["meta_loss"] < 0.1), int(metrics["skipped"])
        (True, 0)
    """
    tasks = len(windows)
    if not tasks:
        raise ValueError("windows must not be empty, one for each task; got none.")
    check_curriculum(curriculum, tasks)
    beginnings = first_steps(curriculum, tasks)
    if mesh is None:
        mesh = population_mesh([config.agents])
    elif config.agents % mesh.size:
        raise ValueError(
            f"agents must be a multiple of the mesh's {mesh.size} devices; got {config.agents}."
        )
    count = config.agents // mesh.size  # on each device
    at_once = count if config.agents_at_once is None else min(config.agents_at_once, count)
    if count % at_once:
        raise ValueError(
            f"agents_at_once must divide the {count} agents of a device; got {at_once}."
        )
    optimizer = config.transformation()
    intervals = [life.number for life in windows]
    offsets = [reset_offsets(interval, config.agents) for interval in intervals]
    # Agents that a device replaces in one iteration, and one that failed.
    births = [
        min(count, 1 + max(np.unique(part, return_counts=True)[1].max() for part in parts))
        for parts in (np.split(offset, mesh.size) for offset in offsets)
    ]

    def own() -> jax.Array:
        """Numbers of the agents on this device."""
        return jax.lax.axis_index(MEMBERS) * count + jnp.arange(count)

    def birth_keys(key: jax.Array, task: int, iteration: jax.typing.ArrayLike) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(key, task), jnp.asarray(iteration, jnp.int32))
        return jax.vmap(functools.partial(jax.random.fold_in, key))(own())

    def age(task: int, iteration: jax.Array) -> jax.Array:
        """Windows that each agent on this device has lived, unless it was replaced early."""
        return (iteration - jnp.asarray(offsets[task], jnp.int32)[own()]) % intervals[task]

    def begin(key: jax.Array) -> PipelineState:
        init_key, key = jax.random.split(key)
        meta_params = strong(init(init_key))
        with relaxed_promotion():
            optimizer_state = strong(optimizer.init(meta_params))
        lives = tuple(
            jax.vmap(functools.partial(life.init, meta_params))(birth_keys(key, task, _GROWTH))
            for task, life in enumerate(windows)
        )
        zero = jnp.zeros((), jnp.int32)
        return PipelineState(key, zero, meta_params, optimizer_state, zero, zero, lives)

    def grow(task: int, meta_params: MetaParams, lives: Any) -> Any:
        """Ages the agents to where their schedules have them at their task's first iteration."""

        def until(life: Any, windows_lived: jax.Array) -> Any:
            one = functools.partial(windows[task].grow, meta_params)
            return jax.lax.fori_loop(0, windows_lived, lambda _, life: one(life), life)

        return chunked(jax.vmap(until))(lives, age(task, jnp.int32(beginnings[task])))

    def chunked(function: Callable[..., Any]) -> Callable[..., Any]:
        """Applies a function of (agents, ...) to `at_once` agents at a time."""
        if at_once == count:
            return function

        def apply(*x: Any) -> Any:
            parts = jax.tree.map(lambda leaf: leaf.reshape(-1, at_once, *leaf.shape[1:]), x)
            results = jax.lax.map(lambda part: function(*part), parts)
            return jax.tree.map(lambda leaf: leaf.reshape(count, *leaf.shape[2:]), results)

        return apply

    def replaced(
        task: int, meta_params: MetaParams, keys: jax.Array, due: jax.Array, lives: Any
    ) -> tuple[Any, jax.Array]:
        """Puts newborn lives where agents are due or failed; also counts failures not due."""
        failed = ~_all_finite(lives, count)
        first = jnp.argsort(jnp.where(due, 0, jnp.where(failed, 1, 2)), stable=True)
        first = first[: births[task]]
        needed = (due | failed)[first]
        born = jax.vmap(functools.partial(windows[task].init, meta_params))(keys[first])

        def put(old: jax.Array, new: jax.Array) -> jax.Array:
            keep = needed.reshape(-1, *[1] * (new.ndim - 1))
            return old.at[first].set(jnp.where(keep, new, old[first]))

        return jax.tree.map(put, lives, born), jnp.sum(failed & ~due, dtype=jnp.int32)

    def play(
        task: int, meta_params: MetaParams, key: jax.Array, iteration: jax.Array, lives: Any
    ) -> tuple[Any, Any]:
        """One window of all agents on this device: lives, and sums.

        The sums have a leading axis, of the agents that are run together or of devices.
        """
        ages = age(task, iteration)
        keys = birth_keys(key, task, iteration)
        lives, failed = replaced(task, meta_params, keys, ages == 0, lives)

        def sums(lives: Any) -> tuple[Any, Any]:
            """Of agents that are run together: what is summed over them, and what each keeps."""
            one = jax.value_and_grad(windows[task].loss, has_aux=True)
            (losses, kept), gradients = jax.vmap(one, (None, 0))(meta_params, lives)
            summed = jax.tree.map(functools.partial(jnp.sum, axis=0), (losses, gradients))
            return (*summed, spread(gradients)), kept

        if at_once == count:
            summed, (lives, metrics) = sums(lives)
            summed = jax.tree.map(lambda x: x[None], summed)
        else:
            parts = jax.tree.map(lambda leaf: leaf.reshape(-1, at_once, *leaf.shape[1:]), lives)
            summed, kept = jax.lax.map(sums, parts)
            lives, metrics = jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), kept)
        loss, gradient, deviations = summed
        bins = ages * config.age_bins // intervals[task]
        in_bin = (bins[None] == jnp.arange(config.age_bins)[:, None]).astype(jnp.float32)
        numbers = {
            "failed": failed,
            "episodes": in_bin @ metrics["episodes"].astype(jnp.float32),
            "return_sum": in_bin @ metrics["return_sum"].astype(jnp.float32),
        }
        numbers = jax.tree.map(lambda x: x[None], numbers)
        return lives, numbers | {"loss": loss, "gradient": gradient, "spread": deviations}

    def variance(numbers: Any) -> jax.Array:
        """Of a task's meta-gradient, the mean over agents: the trace of its covariance."""
        if config.agents == 1:
            return jnp.full((), jnp.nan)
        means = jax.tree.map(lambda x: x / at_once, numbers["gradient"])  # of those run together
        deviations = jnp.sum(numbers["spread"]) + at_once * spread(means)
        return deviations / (config.agents - 1) / config.agents

    def learn(
        meta_params: MetaParams,
        optimizer_state: optax.OptState,
        skipped: tuple[jax.Array, jax.Array],
        current: jax.typing.ArrayLike,
        summed: Sequence[Any],
    ) -> tuple[Any, ...]:
        """One step of the meta-parameters, given the sums of the current tasks on all devices."""
        totals = [jax.tree.map(lambda x: jnp.sum(x, axis=0), numbers) for numbers in summed]
        gradients = [jax.tree.map(lambda x: x / config.agents, t["gradient"]) for t in totals]
        norms = [optax.tree.norm(gradient) for gradient in gradients]
        variances = [variance(numbers) for numbers in summed]
        ratios = [signal_to_noise(norm, v) for norm, v in zip(norms, variances, strict=True)]
        if config.task_norm is not None:
            # The squares in a norm overflow long before the gradient does: the factor would be 0,
            # and the task left out unnoticed. NaN has the step skipped and counted.
            finite = [jnp.where(jnp.isfinite(norm), norm, jnp.nan) for norm in norms]
            factors = [jnp.where(n == 0.0, 0.0, config.task_norm / n) for n in finite]
            gradients = [
                jax.tree.map(lambda x, f=factor: x * f, gradient)
                for gradient, factor in zip(gradients, factors, strict=True)
            ]
            variances = [f * f * v for f, v in zip(factors, variances, strict=True)]
        gradient = jax.tree.map(lambda *x: sum(x[1:], start=x[0]) / len(x), *gradients)
        norm = optax.tree.norm(gradient)
        with relaxed_promotion():
            updates, new_state = optimizer.update(gradient, optimizer_state, meta_params)
            new_params = optax.apply_updates(meta_params, updates)
        # A step may overflow too.
        good = jnp.isfinite(norm) & jnp.all(
            _all_finite([x[None] for x in jax.tree.leaves(new_params)], 1)
        )
        new, old = (new_params, new_state), (meta_params, optimizer_state)
        meta_params, optimizer_state = jax.tree.map(lambda x, y: jnp.where(good, x, y), new, old)
        bad = (~good).astype(jnp.int32)
        skipped = (skipped[0] + bad, jnp.where(good, 0, skipped[1] + 1))
        losses = jnp.stack([t["loss"] for t in totals]) / config.agents
        episodes = jnp.stack([t["episodes"] for t in totals])
        returns = jnp.stack([t["return_sum"] for t in totals])
        by_task = {
            "task_loss": losses,
            "task_gradient_norm": jnp.stack(norms),
            "task_gradient_snr": jnp.stack(ratios),
            "episodes_by_age": episodes.astype(jnp.int32),
            "return_by_age": jnp.where(episodes > 0, returns / jnp.maximum(episodes, 1.0), jnp.nan),
        }
        metrics = {
            "meta_loss": jnp.mean(losses),
            "gradient_norm": norm,
            "gradient_snr": signal_to_noise(norm, jnp.mean(jnp.stack(variances)) / len(variances)),
            "skipped": skipped[0],
            "skipped_in_a_row": skipped[1],
            "failed": sum((t["failed"] for t in totals[1:]), start=totals[0]["failed"]),
            **{name: of_all(x, current, tasks) for name, x in by_task.items()},
        }
        if len(gradients) > 1:
            stacked = jax.tree.map(lambda *x: jnp.stack(x), *gradients)
            over_tasks = spread(stacked) / (len(gradients) - 1) / len(gradients)
            mean, least = cosines(gradients)
            metrics |= {
                "gradient_snr_over_tasks": signal_to_noise(norm, over_tasks),
                "task_cosine_mean": mean,
                "task_cosine_least": least,
            }
        return meta_params, optimizer_state, skipped, metrics

    here, split = PartitionSpec(), PartitionSpec(MEMBERS)  # on every device, spread over devices
    state_spec = PipelineState._make([*[here] * 6, split])
    shard = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
    begin = jax.jit(shard(begin, in_specs=here, out_specs=state_spec))
    growers, players = [], []
    for task in range(tasks):
        grower = functools.partial(grow, task)
        growers.append(jax.jit(shard(grower, in_specs=(here, split), out_specs=split)))
        player = functools.partial(play, task)
        specs = (here, here, here, split)
        players.append(jax.jit(shard(player, in_specs=specs, out_specs=(split, split))))
    learn = jax.jit(shard(learn, in_specs=(here, here, here, here, here), out_specs=here))

    compiled: list[jax.stages.Compiled] = []

    def programs(state: PipelineState) -> list[jax.stages.Compiled]:
        """The tasks' windows, compiled once: both to report their memory and to run."""
        if not compiled:
            lowered = (
                player.lower(state.meta_params, state.key, state.iteration, lives)
                for player, lives in zip(players, state.lives, strict=True)
            )
            compiled.extend(compile_all(lowered, "a meta-iteration"))
        return compiled

    def grown(state: PipelineState, beginning: Sequence[int]) -> list[Any]:
        """Lives of the ages that the first iteration of some tasks needs."""
        pairs = [(growers[task], state.lives[task]) for task in beginning]
        lowered = (grow.lower(state.meta_params, lives) for grow, lives in pairs)
        ready = compile_all(lowered, "lives of all ages")
        return [
            grow(state.meta_params, lives) for grow, (_, lives) in zip(ready, pairs, strict=True)
        ]

    def step(state: PipelineState) -> tuple[PipelineState, Metrics]:
        lives, iteration = list(state.lives), int(state.iteration)
        current = current_tasks(curriculum, tasks, iteration)
        beginning = [task for task in current if beginnings[task] == iteration]
        if config.schedule == "staggered" and beginning:
            for task, life in zip(beginning, grown(state, beginning), strict=True):
                lives[task] = life
        summed = []
        for task in current:
            play = programs(state)[task]
            lives[task], numbers = play(state.meta_params, state.key, state.iteration, lives[task])
            summed.append(numbers)
        meta_params, optimizer_state, (skipped, in_a_row), metrics = learn(
            state.meta_params,
            state.optimizer_state,
            (state.skipped, state.skipped_in_a_row),
            np.array(current, np.int32),
            jax.tree.map(gathered, summed),
        )
        state = PipelineState(
            key=state.key,
            iteration=state.iteration + 1,
            meta_params=meta_params,
            optimizer_state=optimizer_state,
            skipped=skipped,
            skipped_in_a_row=in_a_row,
            lives=tuple(lives),
        )
        return state, metrics

    def memory(state: PipelineState) -> int:
        # The state may be shapes alone.
        sizes = [x.size * x.dtype.itemsize for x in jax.tree.leaves(state.lives)]
        kept = sum(sizes) // mesh.size
        extra = []
        for program in programs(state):
            if (need := program.memory_analysis()) is not None:  # some backends do not report it
                extra.append(need.temp_size_in_bytes + need.output_size_in_bytes)
        return kept + max(extra, default=0)

    return Trainer(begin, step, lambda state: state.meta_params, memory)


def _all_finite(lives: Any, count: int) -> jax.Array:
    """Whether all numbers of each entry along the first axis are finite."""
    finite = [
        jnp.all(jnp.isfinite(leaf).reshape(count, -1), axis=1)
        for leaf in jax.tree.leaves(lives)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    return functools.reduce(jnp.logical_and, finite, jnp.ones((count,), bool))
