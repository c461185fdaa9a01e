"""What is meta-trained, and the interface of every trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import optax

MetaParams = dict[str, Any]
Metrics = dict[str, jax.Array]

Build = Callable[[MetaParams], optax.GradientTransformation]
"""From meta-parameters, which may be tracers, to the whole chain that a learner is given."""


class Architecture(Protocol):
    """A learned optimizer without weights, as `optim` defines it."""

    def init(self, key: jax.Array) -> MetaParams:
        """Draws initial meta-parameters: a dict pytree of float32 arrays."""

    def transform(
        self, meta_params: MetaParams, *args: Any, **kwargs: Any
    ) -> optax.GradientTransformationExtraArgs:
        """The optimizer. Meta-parameters may be tracers; its state does not hold them."""


class Trainer(NamedTuple):
    """A trainer without hidden state; its functions are compiled.

    The state is a pytree of arrays, which is what a checkpoint holds. The same state leads to the
    same next state, bit for bit (on the same machine and with the same versions).
    """

    init: Callable[[jax.Array], Any]
    """`init(key) -> state`."""

    step: Callable[[Any], tuple[Any, Metrics]]
    """`step(state) -> (state, metrics)`: one generation or meta-iteration."""

    meta_params: Callable[[Any], MetaParams]
    """`meta_params(state) -> meta_params`: the result if training stopped now."""

    memory: Callable[[Any], int] | None = None
    """`memory(state) -> bytes` that each device needs for a step, state included, as compiling the
    step shows; None if the trainer cannot tell."""
