"""Evolution: meta-training without gradients, by the fitness of lifetimes."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from agents._promotion import relaxed_promotion, strong
from meta.curriculum import check_curriculum, current_tasks, first_steps, of_all
from meta.population import MEMBERS, gathered, over_members, population_mesh, whole_life
from meta.strategies import EvolutionConfig, costs, decayed, make_strategy
from meta.task import Lifetimes
from meta.trainer import MetaParams, Metrics, Trainer

_ASK, _LIVE, _TELL = range(3)  # folded into a generation's key


class EvolutionState(NamedTuple):
    """State of `evolution`."""

    key: jax.Array  # constant; each generation folds in its number
    generation: jax.Array  # shape=(), dtype=int32
    strategy: Any  # evosax's state
    lives: tuple[Any, ...]  # one per task: (population, lives, ...); empty unless truncated


def evolution(
    init: Callable[[jax.Array], MetaParams],
    lifetimes: Sequence[Lifetimes],
    config: EvolutionConfig,
    mesh: Mesh | None = None,
    curriculum: Sequence[int] = (),
) -> Trainer:
    r"""Evolves meta-parameters by the fitness of lifetimes lived under them.

    With OpenAI's strategy, the default, generation t draws :math:`\epsilon_1, \ldots,
    \epsilon_{P/2}` from a standard normal distribution, evaluates the members
    :math:`\mu_t \pm \sigma_t \epsilon_i`, and moves the mean by Adam along

    .. math::
        \hat g_t = \frac{1}{P \sigma_t} \sum_{i=1}^{P/2} (r_i^+ - r_i^-)\, \epsilon_i, \qquad
        \sigma_t = \sigma_0 d^t,

    where r are the members' ranks by fitness, spread evenly over [-1/2, 1/2], or what else
    `config.shaping` says. The two members of an antithetic pair always play the same tasks with the
    same seeds. SNES, PGPE and Sep-CMA-ES play and rank in the same way. The strategies for
    truncated lifetimes (`persistent_es`, `noise_reuse_es` and `es_single`) play one stretch of each
    member's lifetime per generation. When the lifetimes are over, all members begin new ones
    together.

    Whatever adds the same to the fitness of all members that share a seed changes nothing, neither
    ranks nor, as perturbations come in mirrored pairs, sums over values. So there is nothing to
    gain from subtracting what a fixed optimizer earns on the same seeds.

    Members of equal fitness share the average of their ranks (in SNES, of their weights), so that a
    generation in which all are equal adds nothing to the mean's movement. Sep-CMA-ES ranks equal
    members in random order, because averages would shrink its sigma. If all are equal, its mean
    takes a random step.

    With a curriculum, one task at a time is played, as if it were the only one: the next takes its
    place after the given number of generations.

    All lifetimes of a generation form one compiled program, in which members are spread over the
    devices of the mesh, including those of other processes that jax has been told of. Their fitness
    is gathered, and every device computes the small update of the distribution. The result
    therefore does not depend on the number of devices, except that products in batches of different
    sizes may round differently; with `members_at_once=1` there is no difference at all.

    Args:
        init: draws the first mean from a key: an architecture's `init`, or one that returns known
            meta-parameters.
        lifetimes: one for each task, all with the same number of stretches.
        config: settings.
        mesh: the devices, as one axis named 'members'; by default as many as divide the members
            evenly.
        curriculum: after how many generations each task but the first takes the place of the one
            before it, rising; empty to play all tasks in every generation. Where lifetimes are cut,
            multiples of the stretches.

    Returns:
        The trainer. Its metrics are `fitness_mean`, `fitness_best` and `fitness_worst` over the
        members that did not fail; `failed`, the number of those that did, whose fitness was not
        finite; `task_fitness`, the mean on each task, shape (tasks,), NaN on those that are not
        played; `sigma`, the standard
        deviation of the members, averaged over the meta-parameters, and `mean_norm`, the norm of
        the mean that they were drawn around.

    Raises:
        ValueError: if the numbers of members, tasks, devices, stretches and of the curriculum are
            incompatible.

    References:
        - Salimans et al., Evolution Strategies as a Scalable Alternative to Reinforcement
          Learning, 2017, `arXiv:1703.03864 <https://arxiv.org/abs/1703.03864>`_
        - Goldie et al., Can Learned Optimization Make Reinforcement Learning Less Difficult?,
          2024, `arXiv:2407.07082 <https://arxiv.org/abs/2407.07082>`_
        - Vicol et al., Unbiased Gradient Estimation in Unrolled Computation Graphs with Persistent
          Evolution Strategies, 2021, `arXiv:2112.13835 <https://arxiv.org/abs/2112.13835>`_
        - Li et al., Noise-Reuse in Online Evolution Strategies, 2023,
          `arXiv:2304.12180 <https://arxiv.org/abs/2304.12180>`_
        - Vicol et al., Low-Variance Gradient Estimation in Unrolled Computation Graphs with
          ES-Single, 2023, `arXiv:2304.11153 <https://arxiv.org/abs/2304.11153>`_

    .. note::
        By default persistent evolution, noise-reuse evolution and ES-Single use ranks too: returns
        differ by orders of magnitude between tasks and stretches, and a failed member has none.
        Their papers weight perturbations by the fitness itself, without which the estimates are not
        unbiased: `shaping="values"`. All members begin new lifetimes in the same generation; then
        ES-Single and noise-reuse evolution are the same.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from meta.evolution import evolution
        >>> from meta.strategies import EvolutionConfig
        >>> from meta.task import Lifetimes
        >>> hill = Lifetimes(lambda x, key: key, lambda x, key: (key, -jnp.sum((x["a"] - 1) ** 2)))
        >>> config = EvolutionConfig(population=8, sigma=0.1, learning_rate=0.1)
        >>> trainer = evolution(lambda key: {"a": jnp.zeros(2)}, [hill], config)
        >>> state = trainer.init(jax.random.key(0))
        >>> for _ in range(30):
        ...     state, metrics = trainer.step(state)
        >>> bool(metrics["fitness_mean"] > -0.2), int(metrics["failed"])
        (True, 0)
    """
    kind, tasks = config.kind, len(lifetimes)
    stretches = _stretches(lifetimes, config)
    check_curriculum(curriculum, tasks)
    if any(generation % stretches for generation in curriculum):
        raise ValueError(
            f"curriculum must be multiples of the {stretches} stretches of a lifetime for "
            f"{config.strategy}; got {' '.join(map(str, curriculum))}."
        )
    together = 1 if curriculum else tasks  # tasks of a generation
    if config.task_sampling == "pairs" and (config.population // 2) % together:
        raise ValueError(
            f"population must be a multiple of {2 * together}, two for each task, where each pair "
            f"plays one task; got {config.population}."
        )
    example = jax.eval_shape(init, jax.random.key(0))
    with relaxed_promotion():
        strategy, parameters = make_strategy(example, config, stretches)
    # Perturbations are drawn independently, so the same pairs may play the same task in every
    # generation.
    players = np.broadcast_to(np.arange(config.population), (together, config.population))
    if config.task_sampling == "pairs":
        players = np.arange(config.population).reshape(-1, together).T
    if mesh is None:
        mesh = population_mesh([players.shape[1]])
    elif players.shape[1] % mesh.size:
        raise ValueError(
            f"the number of members that play a task must be a multiple of the mesh's {mesh.size} "
            f"devices; got {players.shape[1]}."
        )
    spread = functools.partial(over_members, at_once=config.members_at_once)

    def on_this_device(x: Any) -> Any:  # x has an entry for each player of a task
        count = players.shape[1] // mesh.size
        return jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(
                leaf, jax.lax.axis_index(MEMBERS) * count, count
            ),
            x,
        )

    def births(key: jax.Array, count: int) -> list[jax.Array]:
        """The keys of lifetimes: for each of so many tasks an array of shape (players, lives)."""
        if config.task_sampling == "all":
            keys = jax.random.split(key, (count, 1, config.lives))
            keys = jnp.broadcast_to(keys, (count, players.shape[1], config.lives))
        else:
            keys = jax.random.split(key, (count, players.shape[1] // 2, config.lives))
            keys = jnp.concatenate([keys, keys], axis=1)
        return [on_this_device(task_keys) for task_keys in keys]

    def begin(key: jax.Array) -> EvolutionState:
        init_key, strategy_key, lives_key, key = jax.random.split(key, 4)
        mean = init(init_key)
        with relaxed_promotion():
            state = strong(strategy.init(strategy_key, mean, parameters))
        lives: tuple[Any, ...] = ()
        if kind.truncated:
            copies = jax.tree.map(
                lambda x: jnp.broadcast_to(x, (players.shape[1] // mesh.size, *x.shape)), mean
            )
            lives = tuple(
                spread(life.init)(copies, keys)
                for life, keys in zip(lifetimes, births(lives_key, tasks), strict=True)
            )
        return EvolutionState(key, jnp.zeros((), jnp.int32), state, lives)

    def play(
        current: Sequence[int], state: EvolutionState
    ) -> tuple[MetaParams, Any, tuple[Any, ...], jax.Array]:
        """The members, the distribution they were drawn from, their lives and fitness by task."""
        key = jax.random.fold_in(state.key, state.generation)
        distribution = state.strategy
        if kind.fixed_sigma:
            sigma = decayed(config.sigma, config.sigma_decay)(state.generation)
            distribution = distribution.replace(std=sigma)
        with relaxed_promotion():
            population, distribution = strategy.ask(
                jax.random.fold_in(key, _ASK), distribution, parameters
            )
        lives, fitness = [], []
        all_keys = births(jax.random.fold_in(key, _LIVE), together)
        for task, played_by, keys in zip(current, players, all_keys, strict=True):
            life, own = lifetimes[task], on_this_device(jnp.asarray(played_by))
            members = jax.tree.map(operator.itemgetter(own), population)
            if kind.truncated:
                is_over = state.generation % stretches == 0
                born = functools.partial(spread(life.init), members, keys)
                now = jax.lax.cond(is_over, born, functools.partial(_same, state.lives[task]))
                now, task_fitness = spread(life.advance)(members, now)
                lives.append(now)
            else:
                task_fitness = spread(whole_life(life))(members, keys)
            fitness.append(task_fitness)
        return population, strong(distribution), tuple(lives), jnp.stack(fitness)

    def learn(
        state: EvolutionState,
        population: MetaParams,
        distribution: Any,
        current: jax.typing.ArrayLike,
        fitness_played: jax.typing.ArrayLike,
    ) -> tuple[Any, Metrics]:
        """The next distribution, given the fitness on current tasks, (tasks, players, lives)."""
        played = jnp.where(jnp.isfinite(fitness_played), fitness_played, jnp.nan)
        if config.task_sampling == "all":  # every life of a member, on whatever task
            of_member = jnp.moveaxis(played, 1, 0).reshape(config.population, -1)
        else:
            of_member = jnp.zeros((config.population, config.lives)).at[players].set(played)
        fitness = of_member.mean(axis=1)
        metrics = {
            "fitness_mean": jnp.nanmean(fitness),
            "fitness_best": jnp.nanmax(fitness),
            "fitness_worst": jnp.nanmin(fitness),
            "failed": jnp.sum(jnp.isnan(fitness), dtype=jnp.int32),
            "task_fitness": of_all(jnp.nanmean(played.mean(axis=2), axis=1), current, tasks),
            "sigma": jnp.mean(distribution.std),
            "mean_norm": jnp.linalg.norm(distribution.mean),
        }
        key = jax.random.fold_in(state.key, state.generation)
        cost = costs(of_member, config.task_sampling, config.shaping)
        with relaxed_promotion():
            distribution, _ = strategy.tell(
                jax.random.fold_in(key, _TELL), population, cost, distribution, parameters
            )
        return strong(distribution), metrics

    here, split = PartitionSpec(), PartitionSpec(MEMBERS)  # on every device, spread over devices
    state_spec = EvolutionState._make([here, here, here, split])
    shard = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
    begin = jax.jit(shard(begin, in_specs=here, out_specs=state_spec))
    fitness_spec = PartitionSpec(None, MEMBERS)
    programs = {}  # by the tasks that are played
    for current in dict.fromkeys(
        current_tasks(curriculum, tasks, first) for first in first_steps(curriculum, tasks)
    ):
        player = functools.partial(play, current)
        specs = (here, here, split, fitness_spec)
        programs[current] = jax.jit(shard(player, in_specs=(state_spec,), out_specs=specs))
    learn = jax.jit(shard(learn, in_specs=(state_spec, *[here] * 4), out_specs=(here, here)))

    def step(state: EvolutionState) -> tuple[EvolutionState, Metrics]:
        current = current_tasks(curriculum, tasks, int(state.generation))
        population, distribution, played, fitness = programs[current](state)
        distribution, metrics = learn(
            state, population, distribution, np.array(current, np.int32), gathered(fitness)
        )
        lives = list(state.lives)
        if kind.truncated:
            for task, now in zip(current, played, strict=True):
                lives[task] = now
        return EvolutionState(state.key, state.generation + 1, distribution, tuple(lives)), metrics

    return Trainer(begin, step, lambda state: strategy.get_mean(state.strategy))


def _stretches(lifetimes: Sequence[Lifetimes], config: EvolutionConfig) -> int:
    counts = {lives.stretches for lives in lifetimes}
    if len(counts) != 1:
        raise ValueError(
            f"lifetimes must not be empty, and all must have the same number of stretches; got "
            f"{sorted(counts)}."
        )
    (stretches,) = counts
    if config.kind.truncated != (stretches > 1):
        allowed = "at least 2" if config.kind.truncated else "1"
        raise ValueError(
            f"the stretches of a lifetime must be {allowed} for {config.strategy}; got {stretches}."
        )
    return stretches


def _same(x: Any) -> Any:
    return x
