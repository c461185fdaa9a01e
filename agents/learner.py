"""The interface that all learners have: pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from agents.policies import NetworkPolicy

Metrics = dict[str, jax.Array]
Policy = Callable[[jax.Array, jax.Array], jax.Array]


class Inspection(NamedTuple):
    """What networks make of the samples of a rollout."""

    hidden: dict[str, tuple[jax.Array, ...]]
    """Of each network, by its name in the parameters: the activations of its hidden layers, from
    first to last, each of shape (samples, units)."""

    log_ratio: jax.Array
    """Logarithm of each action's probability over the one it was drawn with, shape (samples,)."""

    value_error: jax.Array
    """Value minus target, shape (samples,)."""


class Learner(NamedTuple):
    """A reinforcement learner without hidden state.

    A lifetime is a `jax.lax.scan` of `iterate`, a population a `jax.vmap` of it, a long run a host
    loop over jitted stretches of it.
    """

    init: Callable[..., Any]
    """`init(key, iteration=0) -> state`: what a run begins with, or goes on with at an iteration if
    it is to start anew."""

    iterate: Callable[[Any], tuple[Any, Metrics]]
    """`iterate(state) -> (state, metrics)`: one rollout and the updates that follow from it."""

    policy: Callable[..., NetworkPolicy]
    """`policy(state, greedy=False) -> act`, where `act(key, observation)` gives actions for raw
    observations of any leading shape: samples, or the likeliest where `greedy` is true. The
    parameters are those to use, which an optimizer may tell from those that it trains; see
    `optim.evaluation_params`."""

    play: Callable[[Any], tuple[Any, Any]]
    """`play(state) -> (state, samples)`: a rollout without updates."""

    loss: Callable[[Any, Any], tuple[jax.Array, Metrics]]
    """`loss(params, samples) -> (loss, metrics)`: what updates minimise, on all samples at once.
    With `play` it measures parameters on fresh experience."""

    learn: Callable[[Any, Any], tuple[Any, Metrics]]
    """`learn(state, samples) -> (state, metrics)`: the updates that follow from a rollout. `play`
    and then `learn` give the state that `iterate` gives."""

    inspect: Callable[[Any, Any], Inspection]
    """`inspect(params, samples)`: see `Inspection`."""
