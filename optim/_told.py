"""What an optimizer is told besides gradients and parameters, and what to say where it is not."""

import difflib
import functools
import warnings
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

# Extra arguments that some optimizer here, or one of optax, takes.
_NAMES = (
    "activations",
    "batch_progress",
    "grad",
    "hvp",
    "num_updates",
    "obj_fn",
    "previous_gradient",
    "reset",
    "training_progress",
    "value",
    "value_fn",
)


class Listener:
    """Warns, once for each optimizer, of what a loop does not tell it."""

    def __init__(self, optimizer: str) -> None:
        self._optimizer = optimizer
        self._is_silent = False

    def check(self, **given: Any) -> None:
        """Warns if one of the extra arguments is None; to be called where `update` is traced.

        Examples:
            >>> with warnings.catch_warnings(record=True) as caught:
            ...     warnings.simplefilter("always")
            ...     listener = Listener("OPEN")
            ...     listener.check(activations=None)
            ...     listener.check(activations=None)
            >>> print(str(caught[0].message).partition(";")[0], len(caught))
            OPEN is not told activations 1
        """
        absent = [name for name, value in given.items() if value is None]
        if not absent or self._is_silent:
            return
        self._is_silent = True
        call = ", ".join(f"{name}=..." for name in absent)
        stand_in = " or give the optimizer total_updates=," if "training_progress" in absent else ""
        warnings.warn(
            f"{self._optimizer} is not told {' and '.join(absent)}; it was made to use what it "
            f"does not get. Call update(grads, state, params, {call}),{stand_in} or expect other "
            "returns; optim.extras helps to compute them.",
            stacklevel=2,
        )


def check_names(names: Iterable[str]) -> None:
    """Warns of extra arguments that are spelled almost as one that counts.

    Others are let through: a loop may have more to say than any optimizer wants to know. Python
    shows the same warning once.

    Args:
        names: of the extra arguments.

    Examples:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     check_names(["activation", "value", "temperature"])
        >>> print(*(each.message for each in caught))
        update was given 'activation', which no optimizer looks at: did you mean 'activations'?
    """
    for name in names:
        if (meant := _meant(name)) is not None:
            warnings.warn(
                f"update was given {name!r}, which no optimizer looks at: did you mean {meant!r}?",
                stacklevel=1,
            )


@functools.cache
def _meant(name: str) -> str | None:
    """The name that another one is nearly; None if it is one itself, or like none."""
    near = [] if name in _NAMES else difflib.get_close_matches(name.lower(), _NAMES, 1, 0.8)
    return near[0] if near else None


def share_done(position: Any, length: Any) -> jax.Array:
    """Position 0, ..., length - 1 as a share in [0, 1].

    Args:
        position: of an update, iteration or epoch; integer.
        length: how many there are; integer.

    Returns:
        The share, float32: 0 where there is only one, 1 beyond the last.

    Examples:
        >>> print(share_done(1, 5), share_done(0, 1), share_done(7, 5))
        0.25 0.0 1.0
    """
    last = jnp.maximum(jnp.asarray(length, jnp.int32) - 1, 1)
    done = jnp.asarray(position, jnp.int32).astype(jnp.float32) / last.astype(jnp.float32)
    return jnp.minimum(done, 1.0)
