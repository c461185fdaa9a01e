"""What a wrapper does to parameters and to an optimizer's state at times, and when."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

import jax
import jax.numpy as jnp
import optax

from optim.weight_decay import WeightDecayState

T = TypeVar("T")

InnerState = Literal["keep", "reset"]


def check_inner_state(value: Any) -> None:
    """Refuses what is neither "keep" nor "reset".

    Args:
        value: the argument `opt_state`.

    Raises:
        ValueError: if it is anything else.

    Examples:
        >>> check_inner_state("keep")
    """
    if value not in get_args(InnerState):
        raise ValueError(
            f"opt_state must be one of {', '.join(get_args(InnerState))}, got {value!r}."
        )


def is_due(count: jax.Array, period: int | jax.Array | None, reset: Any) -> jax.Array | bool:
    """Says whether it is time after this update.

    Args:
        count: updates since the last time, without this one.
        period: updates between two times; `None` leaves them to `reset`.
        reset: Boolean, or None for False.

    Returns:
        A Boolean scalar; one of Python if it is known before the program runs.

    Examples:
        >>> is_due(jnp.int32(0), 1, None), bool(is_due(jnp.int32(1), 3, True))
        (True, False)
    """
    if period is None:
        return False if reset is None else jnp.asarray(reset, bool)
    if isinstance(period, int) and period == 1:
        return True
    return count + 1 >= jnp.asarray(period, count.dtype)


def next_count(count: jax.Array, due: jax.Array | bool) -> jax.Array:
    """Updates since the last time, with this one.

    Args:
        count: those without this one.
        due: whether it is time after this update.

    Returns:
        The count.

    Examples:
        >>> print(next_count(jnp.int32(1), False), next_count(jnp.int32(1), True))
        2 0
    """
    return jnp.where(jnp.asarray(due), 0, optax.safe_increment(count))


def change_if(due: jax.Array | bool, change: Callable[[T], T], old: T) -> T:
    """Applies a change if it is time, and computes it only then, also under `vmap`.

    Under `vmap` it is computed for all members if it is time for one of them.

    Args:
        due: whether it is time.
        change: from a pytree of arrays to one of its kind.
        old: the pytree.

    Returns:
        What the function gives, or what it was given.

    Examples:
        >>> print(jax.vmap(lambda due, x: change_if(due, jnp.negative, x))(
        ...     jnp.array([True, False]), jnp.array([1.0, 2.0])))
        [-1.  2.]
    """
    if isinstance(due, bool):
        return change(old) if due else old

    def changed(old: T) -> T:
        return jax.tree.map(lambda new, leaf: jnp.where(due, new, leaf), change(old), old)

    return jax.lax.cond(_for_any_member(due), changed, lambda old: old, old)


def reset_state_of(
    inner: optax.GradientTransformation, params: optax.Params, state: optax.OptState
) -> optax.OptState:
    """A new state of an optimizer, in which schedules go on counting where they were.

    Args:
        inner: the optimizer.
        params: the parameters that it begins with.
        state: its state so far.

    Returns:
        The state.

    Examples:
        >>> optimizer = optax.sgd(lambda count: 0.1, momentum=0.9)
        >>> params = jnp.ones(2)
        >>> _, state = optimizer.update(params, optimizer.init(params))
        >>> momentum, schedule = reset_state_of(optimizer, params, state)
        >>> print(momentum.trace, schedule.count)
        [0. 0.] 1
    """
    # These count for schedules, and hold the state of another optimizer besides.
    around = (WeightDecayState, optax.schedules.InjectStatefulHyperparamsState)

    def is_counting(node: Any) -> bool:
        return isinstance(node, (optax.ScaleByScheduleState, *around))

    def renewed(new: Any, old: Any) -> Any:
        if isinstance(old, optax.ScaleByScheduleState):
            return old
        if isinstance(old, around):
            return old._replace(inner_state=merged(new.inner_state, old.inner_state))
        return new

    def merged(new: Any, old: Any) -> Any:
        return jax.tree.map(renewed, new, old, is_leaf=is_counting)

    return merged(inner.init(params), state)


@jax.custom_batching.custom_vmap
def _for_any_member(due: jax.Array) -> jax.Array:
    """The same; under `vmap`, one Boolean for all members, by which a program can branch."""
    return due


@_for_any_member.def_vmap
def _(axis_size: int, in_batched: list[bool], due: jax.Array) -> tuple[jax.Array, bool]:
    del axis_size, in_batched
    return _for_any_member(jnp.any(due)), False
