"""Curricula: which of its tasks a meta-training is on, by the number of its steps so far."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp


def check_curriculum(curriculum: Sequence[int], tasks: int) -> None:
    """Makes sure that a curriculum says when each task but the first is taken.

    Args:
        curriculum: see `current_tasks`; empty for none.
        tasks: how many tasks there are.

    Raises:
        ValueError: if there are too few numbers or too many, or they do not rise from at least 1.
    """
    rises = all(early < late for early, late in itertools.pairwise([0, *curriculum]))
    if curriculum and not (len(curriculum) == tasks - 1 and rises):
        raise ValueError(
            f"curriculum must be one number for each of the {tasks} tasks but the first, rising "
            f"from at least 1; got {' '.join(map(str, curriculum))}."
        )


def current_tasks(curriculum: Sequence[int], tasks: int, step: int) -> tuple[int, ...]:
    """The tasks of a step, counted from 0: one of them at a time, or all without a curriculum.

    Args:
        curriculum: after how many steps each task but the first takes the place of the one before
            it; empty for all tasks in every step.
        tasks: how many tasks there are.
        step: the number of the step.

    Returns:
        The tasks' numbers.

    Examples:
        >>> [current_tasks([100, 200], 3, step) for step in (0, 99, 100, 200, 999)]
        [(0,), (0,), (1,), (2,), (2,)]
        >>> current_tasks([], 3, 0)
        (0, 1, 2)
    """
    return (bisect.bisect_right(curriculum, step),) if curriculum else tuple(range(tasks))


def first_steps(curriculum: Sequence[int], tasks: int) -> list[int]:
    """The first step of each task.

    Examples:
        >>> first_steps([100, 200], 3), first_steps([], 3)
        ([0, 100, 200], [0, 0, 0])
    """
    return [0, *curriculum] if curriculum else [0] * tasks


def steps_of_each(curriculum: Sequence[int], tasks: int, steps: int) -> list[int]:
    """How many of the first steps each task has.

    Examples:
        >>> steps_of_each([100, 200], 3, 150), steps_of_each([], 3, 150)
        ([100, 50, 0], [150, 150, 150])
    """
    starts = first_steps(curriculum, tasks)
    ends = [*curriculum, steps] if curriculum else [steps] * tasks
    return [max(0, min(end, steps) - start) for start, end in zip(starts, ends, strict=True)]


def of_all(x: jax.Array, current: jax.typing.ArrayLike, tasks: int) -> jax.Array:
    """What is said of all tasks: of the current ones what is known, of others NaN, or 0 of counts.

    Args:
        x: shape (current tasks, ...).
        current: their numbers.
        tasks: how many there are.

    Returns:
        An array of shape (tasks, ...).

    Examples:
        >>> import jax.numpy as jnp
        >>> print(of_all(jnp.array([2.0]), jnp.array([1]), 3))
        [nan  2. nan]
    """
    if len(x) == tasks:
        return x
    nothing = jnp.nan if jnp.issubdtype(x.dtype, jnp.floating) else 0
    return jnp.full((tasks, *x.shape[1:]), nothing, x.dtype).at[current].set(x)
