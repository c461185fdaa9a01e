"""A learner that starts from scratch wherever its environment changes."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agents.environment import Environment
from agents.learner import Learner, Metrics
from agents.ppo import progress

_STREAM = 1  # folded into a state's key, of which the learner itself takes parts


def phase_iterations(environment: Environment, steps_per_iteration: int) -> int:
    """Iterations of a learner in a phase of its environment, rounded up.

    Args:
        environment: the environment.
        steps_per_iteration: environment steps of an iteration.

    Returns:
        The number, at least 1.

    Raises:
        ValueError: if the environment does not change in phases.
    """
    steps = _phase_steps(environment)
    return -(-steps // steps_per_iteration)


def with_restarts(learner: Learner, environment: Environment, steps_per_iteration: int) -> Learner:
    """A learner whose agent is a new one in each phase of the environment.

    At the first iteration that begins in another phase than the one before, everything is drawn
    anew as in `init`: parameters, the optimizer's state, environments, and the statistics of
    normalisation; only the number of the iteration, which is the environment's clock, goes on. The
    key is derived from the state's.

    What depends on the optimizer's state, such as a learning rate that falls with its count of
    updates, begins anew with it. What depends on the number of the iteration does not:
    `training_progress`, for which there is `with_progress_of_phase`.

    The predicate of the restart is the state's `iteration`. Under `jax.vmap`, where that is not
    batched, nothing is drawn between changes; where it is, everything is drawn in each iteration,
    and used in none but the first of a phase.

    Args:
        learner: as `agents.ppo.ppo` gives it: its state has `key` and `iteration`, its `init` takes
            an iteration.
        environment: the learner's environment.
        steps_per_iteration: environment steps of an iteration, as `PPOConfig` counts them. The
            clock, their sum over iterations, is below 2^31.

    Returns:
        The learner, with the same state.

    Raises:
        ValueError: if the environment does not change in phases.
    """
    steps = _phase_steps(environment)

    def iterate(state: Any) -> tuple[Any, Metrics]:
        # The start of an iteration is in another phase than that of the one before exactly if it
        # lies less than an iteration behind the start of its own.
        behind = (state.iteration * steps_per_iteration) % steps
        is_first = (state.iteration > 0) & (behind < steps_per_iteration)

        def anew(state: Any) -> Any:
            return learner.init(jax.random.fold_in(state.key, _STREAM), state.iteration)

        return learner.iterate(jax.lax.cond(is_first, anew, lambda state: state, state))

    return learner._replace(iterate=iterate)


class ProgressState(NamedTuple):
    """State of `with_progress_of_phase`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32: updates
    inner_state: optax.OptState


def with_progress_of_phase(
    optimizer: optax.GradientTransformation, updates_per_iteration: int, iterations: int
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that is told how much of the phase is over, instead of the whole run.

    Args:
        optimizer: the optimizer, whose state begins anew with each phase.
        updates_per_iteration: its calls in each iteration.
        iterations: of a phase, see `phase_iterations`.

    Returns:
        The same, with a `training_progress` that runs from 0 to 1 from its first iteration on, and
        the `num_updates` of a phase.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: optax.Params) -> ProgressState:
        return ProgressState(jnp.zeros((), jnp.int32), optimizer.init(params))

    def update(
        updates: optax.Updates,
        state: ProgressState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ProgressState]:
        extra_args["training_progress"] = progress(state.count // updates_per_iteration, iterations)
        extra_args["num_updates"] = updates_per_iteration * iterations
        updates, inner_state = optimizer.update(updates, state.inner_state, params, **extra_args)
        return updates, ProgressState(state.count + 1, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _phase_steps(environment: Environment) -> int:
    steps = environment.phase_steps
    if steps is None:
        raise ValueError(
            f"restarts need an environment that changes in phases; {environment.name!r} does not."
        )
    return steps
