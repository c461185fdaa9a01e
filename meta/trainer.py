"""What is meta-trained, and the face of every trainer."""

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
    """A learned optimizer without its weights, as `optim` defines them."""

    def init(self, key: jax.Array) -> MetaParams:
        """Draws initial meta-parameters: a dict pytree of float32 arrays."""

    def transform(
        self, meta_params: MetaParams, *args: Any, **kwargs: Any
    ) -> optax.GradientTransformationExtraArgs:
        """The optimizer. Meta-parameters may be tracers; its state does not hold them."""


class Trainer(NamedTuple):
    """A trainer without hidden state; its functions are compiled.

    The state is a pytree of arrays: what a checkpoint keeps. The same state gives the same next
    one, bit for bit (on the same machine and versions).
    """

    init: Callable[[jax.Array], Any]
    """`init(key) -> state`."""

    step: Callable[[Any], tuple[Any, Metrics]]
    """`step(state) -> (state, metrics)`: one generation or one meta-iteration."""

    meta_params: Callable[[Any], MetaParams]
    """`meta_params(state) -> meta_params`: what the trainer would deliver now."""

    memory: Callable[[Any], int] | None = None
    """`memory(state) -> bytes` that a device needs for a step, the state included, found out by
    compiling it; None where that is not known."""
