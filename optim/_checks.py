"""Checks of arguments, shared by the optimizers and the registry.

Every message names the argument, the value it got and the values it takes.
"""

import difflib
import math
import operator
import re
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_NEAR = 0.5  # share of letters in common, in order, from which one name is meant for another
_MOST_LISTED = 40


def nearest(name: str, choices: Iterable[str]) -> str:
    """Finds the choice that is spelled most like `name`, whatever the case.

    First come choices that begin with `name`, then those whose words begin with its letters, as
    `learning_rate` with those of `lr`, then those that contain it, then those with the same letters
    in another order.

    Args:
        name: what was asked for.
        choices: the valid names, at least one.

    Returns:
        The nearest of the choices.

    Raises:
        ValueError: if there are no choices.

    Examples:
        >>> nearest("adamm", ["sgd", "adam", "lion"])
        'adam'
        >>> nearest("break", ["freeway", "Asterix-MinAtar", "Breakout-MinAtar"])
        'Breakout-MinAtar'
        >>> nearest("lr", ["eps_r", "learning_rate"])
        'learning_rate'
    """
    choices = sorted(choices)
    if not choices:
        raise ValueError(f"choices must hold at least one name, got none for {name!r}.")
    return max(choices, key=lambda choice: _likeness(name, choice))


def near(name: str, choices: Iterable[str]) -> str | None:
    """The nearest choice if it is so near that it may have been meant.

    Args:
        name: what was asked for.
        choices: the valid names.

    Returns:
        What `nearest` finds, if the two have more than the odd letter in common; else None.

    Examples:
        >>> near("lr", ["b1", "learning_rate"]), near("devices", ["lives", "steps"])
        ('learning_rate', None)
    """
    found = max(sorted(choices), key=lambda choice: _likeness(name, choice), default=None)
    if found is None or len(name.strip("-")) < 2:
        return None
    *certain, ratio = _likeness(name, found)
    return found if any(certain) or ratio > _NEAR else None


def suggestion(name: str, choices: Iterable[str]) -> str:
    """The end of a sentence that says a name is unknown: what may have been meant.

    Args:
        name: what was asked for.
        choices: the valid names, at least one.

    Returns:
        The nearest choice; or all of them, if none is near and they are not too many.

    Raises:
        ValueError: if there are no choices.

    Examples:
        >>> suggestion("adamm", ["sgd", "adam"]), suggestion("x", ["sgd", "adam"])
        ("the nearest is 'adam'", 'choose from adam, sgd')
    """
    choices = sorted(choices)
    found = near(name, choices) or (nearest(name, choices) if len(choices) < 2 else None)
    if found is not None:
        return f"the nearest is {found!r}"
    many = len(choices) > _MOST_LISTED
    return "none is like it" if many else f"choose from {', '.join(choices)}"


def _likeness(name: str, choice: str) -> tuple[bool, bool, bool, bool, float]:
    """How a choice is like a name, the most telling likeness first."""
    wanted, text = name.lower().strip("-"), choice.lower().strip("-")
    initials = "".join(word[:1] for word in re.split(r"[_.-]", text))
    ratio = difflib.SequenceMatcher(None, text, wanted).ratio()
    is_short = len(wanted) > 1 and wanted == initials
    return text.startswith(wanted), is_short, wanted in text, sorted(text) == sorted(wanted), ratio


def check_range(
    name: str,
    value: Any,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
    closed_high: bool = False,
) -> None:
    """Refuses a concrete number outside `[low, high)`, and NaN.

    Tracers have no value yet and callables are schedules: both pass.

    Args:
        name: name of the argument, for the message.
        value: number, array, tracer or schedule.
        low: smallest allowed value.
        high: bound above, itself refused.
        open_low: whether `low` itself is refused.
        closed_high: whether `high` itself is allowed.

    Raises:
        ValueError: if `value` is no number or lies outside the range.

    Examples:
        >>> check_range("b1", 0.9, 0.0, 1.0)
        >>> check_range("b1", 1.0, 0.0, 1.0)
        Traceback (most recent call last):
        ...
        ValueError: b1 must be in [0, 1), got 1.0.
    """
    if callable(value) or isinstance(value, jax.core.Tracer):
        return
    brackets = ("(" if open_low else "["), ("]" if closed_high else ")")
    expected = f"{name} must be in {brackets[0]}{low:g}, {high:g}{brackets[1]}, got {value!r}."
    try:
        number = np.asarray(value).astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(expected) from None
    above = number > low if open_low else number >= low
    below = number <= high if closed_high else number < high
    if isinstance(value, str | bool) or not np.all(above & below):
        raise ValueError(expected)


def check_learning_rate(value: Any) -> None:
    """Refuses a concrete learning rate that is not positive and finite.

    Zero is let through in a `jax.Array`: outside `jit`, `optax.inject_hyperparams` rebuilds
    the optimizer with the array that its schedule gave, and schedules may end at zero.

    Args:
        value: number, array, tracer or schedule.

    Raises:
        ValueError: if `value` is a concrete number that is not positive and finite.

    Examples:
        >>> check_learning_rate(-0.1)
        Traceback (most recent call last):
        ...
        ValueError: learning_rate must be in (0, inf), got -0.1.
    """
    check_range("learning_rate", value, 0.0, open_low=not isinstance(value, jax.Array))


def check_period(value: Any) -> None:
    """Refuses a concrete period that is no whole number of at least 1; `None` passes.

    Args:
        value: number, array, tracer or None.

    Raises:
        ValueError: if `value` is a concrete number but not a whole one, or less than 1.

    Examples:
        >>> check_period(None)
        >>> check_period(0.5)
        Traceback (most recent call last):
        ...
        ValueError: period must be a whole number of at least 1, or None, got 0.5.
    """
    if value is None or isinstance(value, jax.core.Tracer):
        return
    try:
        number = np.asarray(value)
        whole = number.dtype.kind in "iu" and bool(np.all(number >= 1))
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise ValueError(f"period must be a whole number of at least 1, or None, got {value!r}.")


def check_steps_between(name: str, value: Any) -> None:
    """Refuses a concrete number of steps that is no integer of at least 1.

    Args:
        name: name of the argument, for the message.
        value: number, array or tracer.

    Raises:
        ValueError: if `value` is concrete and no integer of at least 1.

    Examples:
        >>> check_steps_between("update_proj_gap", 0)
        Traceback (most recent call last):
        ...
        ValueError: update_proj_gap must be an integer of at least 1, got 0.
    """
    if isinstance(value, jax.core.Tracer):
        return
    # Outside of jit, optax.inject_hyperparams gives an array of the number.
    is_integer = isinstance(value, int | jax.Array) and jnp.asarray(value).dtype.kind in "iu"
    if not (is_integer and value >= 1):
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")


def check_real(name: str, tree: Any) -> None:
    """Refuses complex leaves.

    Args:
        name: name of the optimizer, for the message.
        tree: gradients or parameters.

    Raises:
        ValueError: if a leaf is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> check_real("TRAC", {"w": jnp.ones(2)})
    """
    for leaf in jax.tree.leaves(tree):
        if jnp.iscomplexobj(leaf):
            raise ValueError(
                f"{name} must be given real gradients, got dtype {leaf.dtype}; wrap it in "
                "optax.contrib.split_real_and_imaginary."
            )


def check_optimizer(name: str, value: Any) -> None:
    """Refuses what is no transformation of optax, as a learning rate in the place of an optimizer.

    Args:
        name: name of the argument, for the message.
        value: the argument.

    Raises:
        ValueError: if `value` lacks `init` or `update`.

    Examples:
        >>> check_optimizer("inner", 1e-2)
        Traceback (most recent call last):
        ...
        ValueError: inner must be an optax transformation, e.g. optax.adam(1e-3), got 0.01.
    """
    if not (hasattr(value, "init") and hasattr(value, "update")):
        raise ValueError(
            f"{name} must be an optax transformation, e.g. optax.adam(1e-3), got {value!r}."
        )


def check_params(optimizer: str, params: Any) -> None:
    """Refuses missing parameters.

    Args:
        optimizer: name of the optimizer, for the message.
        params: what `update` got.

    Raises:
        ValueError: if `params` is None.
    """
    if params is None:
        raise ValueError(
            f"params must be the current parameters in {optimizer}'s update, got None; a loop that "
            "passes none needs optim.keep_params around the whole optimizer."
        )


def missing(optimizer: str, argument: str, meaning: str) -> ValueError:
    """The error to raise where an extra argument is needed but was not passed.

    Args:
        optimizer: name of the optimizer.
        argument: name of the argument.
        meaning: what is to be passed, a word or two.

    Returns:
        The error.

    Examples:
        >>> print(missing("aegd", "value", "the loss"))
        value must be the loss in aegd's update, got None: update(grads, state, params, value=...).
    """
    return ValueError(
        f"{argument} must be {meaning} in {optimizer}'s update, got None: "
        f"update(grads, state, params, {argument}=...)."
    )


def static_integer(name: str, value: Any, low: int) -> int:
    """Reads an argument that shapes depend on.

    Args:
        name: name of the argument, for the message.
        value: the argument.
        low: smallest allowed value.

    Returns:
        The integer.

    Raises:
        ValueError: if `value` is traced, no integer or less than `low`.

    Examples:
        >>> static_integer("capacity", 0, 1)
        Traceback (most recent call last):
        ...
        ValueError: capacity must be a static integer of at least 1, got 0.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if number < low or isinstance(value, bool):
        raise ValueError(f"{name} must be a static integer of at least {low}, got {value!r}.")
    return number
