"""Contexts for libraries that rely on implicit promotion, and casts for what they return."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")


@contextlib.contextmanager
def relaxed_promotion() -> Iterator[None]:
    """Allows implicit dtype and rank promotion within, whatever the user's settings are."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@contextlib.contextmanager
def plain_types() -> Iterator[None]:
    """Allows implicit promotion, and has numbers of 32 bits, whatever the user's settings are.

    Where `jax_enable_x64` is on, environments would mix float32 and float64, or fail.
    """
    with jax.enable_x64(False), relaxed_promotion():
        yield


def strong(tree: T) -> T:
    """Turns Python numbers and weakly typed arrays into arrays of a definite type.

    A state that starts weakly typed changes its type in the first step, and whatever was compiled
    for it is compiled again.
    """
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), tree)


def typed_like(tree: T, example: T) -> T:
    """Gives every leaf the dtype of the same leaf of `example`, so that a scan can carry it."""
    return jax.tree.map(lambda x, y: jnp.asarray(x, y.dtype), tree, example)
