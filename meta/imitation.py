"""Imitation: a learned optimizer is fitted to the updates of a hand-crafted one, as a start."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import optax

from agents._promotion import relaxed_promotion, strong, typed_like
from agents.ppo import ppo
from meta.task import Task
from meta.trainer import Build, MetaParams, Metrics, Trainer

_MAX_GRAD_NORM = 1.0  # of the meta-gradient
_EPS = 1e-30  # the target's updates may be 0


@dataclasses.dataclass(frozen=True)
class ImitationConfig:
    """Settings for imitation.

    Attributes:
        agents: learners on each task, at least 1.
        learning_rate: for Adam on the meta-parameters.
        learning_rate_decay: what the learning rate is multiplied by after each iteration, in
            (0, 1].

    Raises:
        ValueError: on construction, if a value is not allowed.
    """

    agents: int = 4
    learning_rate: float = 3e-3
    learning_rate_decay: float = 0.999

    def __post_init__(self) -> None:
        if not (type(self.agents) is int and self.agents >= 1):
            self._refuse("agents", "a whole number, at least 1")
        if not 0.0 < self.learning_rate < math.inf:
            self._refuse("learning_rate", "in (0, inf)")
        if not 0.0 < self.learning_rate_decay <= 1.0:
            self._refuse("learning_rate_decay", "in (0, 1]")

    def _refuse(self, name: str, allowed: str) -> NoReturn:
        raise ValueError(f"{name} must be {allowed}; got {getattr(self, name)!r}.")


class ImitationState(NamedTuple):
    """State of `imitation`."""

    key: jax.Array  # constant; each iteration folds in its number
    iteration: jax.Array  # shape=(), dtype=int32
    meta_params: MetaParams
    optimizer: Any  # Adam's state
    skipped: jax.Array  # shape=(), dtype=int32: steps not taken so far
    skipped_in_a_row: jax.Array  # shape=(), dtype=int32: steps not taken since the last one taken
    lives: tuple[Any, ...]  # for each task (agents, ...)


class ShadowState(NamedTuple):
    """State of `shadowed`."""

    target: optax.OptState
    learned: optax.OptState
    error: jax.Array  # shape=(), float32: squared error, summed over updates
    size: jax.Array  # shape=(), float32: the target's square, summed over updates


def shadowed(
    target: optax.GradientTransformation, learned: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    r"""Applies the target's updates, and computes the learned optimizer's only to compare them.

    The learned optimizer sees the same gradients and parameters, and its state advances with them.
    Over all updates and parameters, the squared error and the target's square,

    .. math:: \sum_t \lVert u_t - u_t^* \rVert^2 \quad\text{and}\quad
        \sum_t \lVert u_t^* \rVert^2,

    are accumulated, where u are the learned optimizer's updates and u* the target's. The error can
    be differentiated with respect to the learned optimizer's meta-parameters.

    Args:
        target: the optimizer whose updates are applied.
        learned: the optimizer that is compared with it.

    Returns:
        The transformation, whose state is a `ShadowState`.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from meta.imitation import shadowed
        >>> optimizer = shadowed(optax.sgd(1.0), optax.sgd(0.5))
        >>> params = {"w": jnp.ones(3)}
        >>> updates, state = optimizer.update(params, optimizer.init(params), params)
        >>> print(updates["w"], state.error, state.size)
        [-1. -1. -1.] 0.75 3.0
    """
    target = optax.with_extra_args_support(target)
    learned = optax.with_extra_args_support(learned)

    def init_fn(params: optax.Params) -> ShadowState:
        zero = jnp.zeros((), jnp.float32)
        return ShadowState(target.init(params), learned.init(params), zero, zero)

    def update_fn(
        updates: optax.Updates,
        state: ShadowState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ShadowState]:
        followed, target_state = target.update(updates, state.target, params, **extra_args)
        arrays = {name: x for name, x in extra_args.items() if not callable(x)}
        functions = {name: x for name, x in extra_args.items() if callable(x)}

        # Recomputed in the backward pass, so that an iteration's updates fit into memory.
        @jax.checkpoint
        def shadow(updates: Any, state: Any, params: Any, arrays: Any) -> tuple[Any, Any]:
            return learned.update(updates, state, params, **arrays, **functions)

        own, learned_state = shadow(updates, state.learned, params, arrays)
        error = state.error + _squares(jax.tree.map(jnp.subtract, own, followed))
        size = state.size + _squares(followed)
        return followed, ShadowState(target_state, learned_state, error, size)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def imitation(
    init: Callable[[jax.Array], MetaParams],
    tasks: Sequence[Task],
    build: Sequence[Build],
    targets: Sequence[optax.GradientTransformation],
    config: ImitationConfig,
) -> Trainer:
    r"""Fits a learned optimizer's updates to another optimizer's, on real lifetimes of PPO.

    Agents live under the target. In each iteration every agent does one rollout and its updates,
    which the learned optimizer shadows (see `shadowed`), and the meta-parameters move by Adam along
    the gradient of

    .. math:: L = \frac{1}{K} \sum_{k=1}^{K} \frac{\sum_{n,t} \lVert u_{knt} - u^*_{knt}
        \rVert^2}{\sum_{n,t} \lVert u^*_{knt} \rVert^2}

    over K tasks, their agents n and the iteration's updates t. An optimizer whose updates are all 0
    has a loss of 1, the target itself a loss of 0. Small updates, such as an annealed target's last
    ones, count for little, because the agents are of all ages. From one iteration to the next the
    learned optimizer's state carries over in value only. Agents are replaced by newborn ones one
    after another, evenly over a lifetime, so that after the first lifetime agents of all ages are
    present at any time. Noise in the updates counts as error and is therefore unlearned; evolution
    can find it again.

    Args:
        init: draws meta-parameters from a key.
        tasks: where the target learns.
        build: for each task, from meta-parameters to the chain that PPO would be given.
        targets: for each task, the whole chain of the optimizer to imitate.
        config: settings.

    Returns:
        The trainer. Its metrics are `meta_loss`; `task_loss`, shape (tasks,); `gradient_norm`, the
        norm of the meta-gradient before it is clipped to 1; `skipped`, how many steps were not
        taken so far because that norm was not finite, and `skipped_in_a_row`, how many since the
        last one that was.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> from agents import environments
        >>> from agents.ppo import PPOConfig
        >>> from meta.imitation import ImitationConfig, imitation
        >>> from meta.task import Task
        >>> config = PPOConfig(iterations=4, num_envs=2, num_steps=8, minibatches=1, epochs=1)
        >>> task = Task(environments.make("CartPole-v1"), config)
        >>> sgd = lambda meta_params: optax.sgd(meta_params["rate"])
        >>> trainer = imitation(
        ...     lambda key: {"rate": jnp.float32(0.0)}, [task], [sgd], [optax.sgd(0.1)],
        ...     ImitationConfig(agents=1, learning_rate=0.05),
        ... )
        >>> state, metrics = trainer.step(trainer.init(jax.random.key(0)))
        >>> print(metrics["meta_loss"].round(3), trainer.meta_params(state)["rate"].round(3))
        1.0 0.05
    """
    schedule = optax.exponential_decay(config.learning_rate, 1, config.learning_rate_decay)
    meta_optimizer = optax.chain(
        optax.clip_by_global_norm(_MAX_GRAD_NORM),
        optax.scale_by_adam(),
        optax.scale_by_learning_rate(schedule),
    )

    def learner(task: int, meta_params: MetaParams) -> Any:
        optimizer = shadowed(targets[task], build[task](meta_params))
        return ppo(tasks[task].environment, tasks[task].config, optimizer)

    def newborn(task: int, meta_params: MetaParams, key: jax.Array) -> Any:
        keys = jax.random.split(key, config.agents)
        return strong(jax.vmap(lambda key: learner(task, meta_params).init(key))(keys))

    @jax.jit
    def begin(key: jax.Array) -> ImitationState:
        init_key, lives_key, key = jax.random.split(key, 3)
        meta_params = init(init_key)
        keys = jax.random.split(lives_key, len(tasks))
        lives = tuple(newborn(task, meta_params, keys[task]) for task in range(len(tasks)))
        with relaxed_promotion():
            optimizer = strong(meta_optimizer.init(meta_params))
        none = jnp.zeros((), jnp.int32)
        return ImitationState(key, none, meta_params, optimizer, none, none, lives)

    def live(task: int, meta_params: MetaParams, life: Any) -> tuple[Any, Any]:
        shadow = life.optimizer_state
        life = life._replace(
            optimizer_state=shadow._replace(
                error=jnp.zeros_like(shadow.error), size=jnp.zeros_like(shadow.size)
            )
        )
        new, _ = learner(task, meta_params).iterate(life)
        shadow = new.optimizer_state
        return (shadow.error, shadow.size), typed_like(new, life)

    def loss_of(meta_params: MetaParams, lives: Any) -> tuple[jax.Array, Any]:
        results = [
            jax.vmap(functools.partial(live, task, meta_params))(lives[task])
            for task in range(len(tasks))
        ]
        losses = jnp.stack(
            [jnp.sum(error) / (jnp.sum(size) + _EPS) for (error, size), _ in results]
        )
        return jnp.mean(losses), (losses, tuple(new for _, new in results))

    @jax.jit
    def learn(state: ImitationState) -> tuple[ImitationState, Metrics]:
        (loss, (losses, lives)), gradient = jax.value_and_grad(loss_of, has_aux=True)(
            state.meta_params, state.lives
        )
        norm = optax.tree.norm(gradient)
        with relaxed_promotion():
            updates, optimizer = meta_optimizer.update(gradient, state.optimizer)
            moved = optax.apply_updates(state.meta_params, updates)
        finite = jnp.isfinite(norm)
        meta_params, optimizer = jax.tree.map(
            lambda new, old: jnp.where(finite, jnp.asarray(new, old.dtype), old),
            (moved, optimizer),
            (state.meta_params, state.optimizer),
        )
        missed = jnp.where(finite, 0, 1).astype(jnp.int32)
        skipped = state.skipped + missed
        in_a_row = missed * (state.skipped_in_a_row + missed)
        metrics = {
            "meta_loss": loss,
            "task_loss": losses,
            "gradient_norm": norm,
            "skipped": skipped,
            "skipped_in_a_row": in_a_row,
        }
        number = state.iteration + 1
        return (
            ImitationState(state.key, number, meta_params, optimizer, skipped, in_a_row, lives),
            metrics,
        )

    @functools.partial(jax.jit, static_argnums=0)
    def reborn(task: int, state: ImitationState, which: jax.Array) -> ImitationState:
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.iteration), task)
        fresh = newborn(task, state.meta_params, key)
        lives = list(state.lives)
        lives[task] = jax.tree.map(
            lambda new, old: jnp.where(which.reshape((-1,) + (1,) * (old.ndim - 1)), new, old),
            fresh,
            lives[task],
        )
        return state._replace(lives=tuple(lives))

    def step(state: ImitationState) -> tuple[ImitationState, Metrics]:
        number = int(state.iteration)
        for index, task in enumerate(tasks):
            length = int(task.config.iterations)
            offsets = [agent * length // config.agents for agent in range(config.agents)]
            over = [number > 0 and (number + offset) % length == 0 for offset in offsets]
            if any(over):
                state = reborn(index, state, jnp.array(over))
        return learn(state)

    return Trainer(begin, step, lambda state: state.meta_params)


def _squares(tree: Any) -> jax.Array:
    return sum(
        (jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)),
        start=jnp.zeros((), jnp.float32),
    )
