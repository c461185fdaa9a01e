"""Meta-training in small: a learned optimizer of two numbers, and tasks that are functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from meta.task import Lifetimes

TOP = {"a": np.array([1.0, -2.0], np.float32), "b": np.array([[0.5]], np.float32)}


@dataclasses.dataclass(frozen=True)
class Tiny:
    """Descends along a mixture of the gradient and its sign."""

    noise: float = 0.1

    def init(self, key: jax.Array) -> dict[str, jax.Array]:
        draws = self.noise * jax.random.normal(key, (2,))
        return {"rate": draws[0] - 3.0, "sign": draws[1:] - 7.0}

    def transform(
        self, meta_params: dict[str, jax.Array], scale: float = 1.0
    ) -> optax.GradientTransformationExtraArgs:
        if scale < 0:
            raise ValueError(f"scale must not be negative, got {scale}.")
        rate, sign = scale * jnp.exp(meta_params["rate"]), jnp.exp(meta_params["sign"][0])

        def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
            del params, extra
            step = jax.tree.map(lambda g: -rate * g - sign * jnp.sign(g), updates)
            return step, optax.EmptyState()

        return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def start(key: jax.Array) -> Any:
    """Meta-parameters of the shapes that `TOP` has."""
    del key
    return jax.tree.map(jnp.zeros_like, TOP)


def distance(meta_params: Any) -> float:
    """To the top of `hill`, squared."""
    return float(-height(meta_params))


def height(meta_params: Any) -> jax.Array:
    """Of the hill."""
    squares = jax.tree.map(lambda x, top: jnp.sum(jnp.square(x - top)), meta_params, TOP)
    return -sum(jax.tree.leaves(squares), start=jnp.zeros(()))


def task(fitness: Callable[[Any, jax.Array], jax.Array], stretches: int = 1) -> Lifetimes:
    """A task whose fitness is a function of meta-parameters and the lifetime's key."""
    return Lifetimes(
        lambda meta_params, key: (key, jnp.zeros((), jnp.int32)),
        lambda meta_params, life: ((life[0], life[1] + 1), fitness(meta_params, life[0])),
        stretches,
    )


def hill(stretches: int = 1) -> Lifetimes:
    """A task whose one best answer is `TOP`, with a fitness of 0."""
    return task(lambda meta_params, key: height(meta_params), stretches)


def leaves(tree: Any) -> list[np.ndarray]:
    """The leaves as numpy arrays, keys as their data."""
    return [
        jax.device_get(
            jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        )
        for x in jax.tree.leaves(tree)
    ]
