"""Advantage actor-critic as a special case of PPO."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from agents.ppo import PPOConfig

# What A2C uses, of the settings of PPO that it does not have.
_USED: dict[str, Any] = {"epochs": 1, "minibatches": 1, "clip": math.inf, "value_clip": None}


def check_a2c(settings: Mapping[str, Any]) -> None:
    """Refuses settings that A2C would ignore.

    Args:
        settings: those that were set, by the names of `agents.ppo.PPOConfig`'s fields. Tracers have
            no value yet and pass.

    Raises:
        ValueError: naming the first of them.
    """
    for name, used in _USED.items():
        value = settings.get(name, used)
        if not isinstance(value, jax.core.Tracer) and value not in (used, math.inf):
            raise ValueError(
                f"a2c makes one epoch of one minibatch without clipping; got {name}={value}."
            )


def a2c_config(config: PPOConfig) -> PPOConfig:
    r"""The settings with which `agents.ppo.ppo` is advantage actor-critic (A2C).

    One update on each rollout, on all of it, without clipping and with advantages as they are. The
    probability ratio :math:`\rho` is then 1 wherever a gradient is taken, so that

    .. math::
        \nabla \big(-\overline{\rho A}\big) = -\overline{A\, \nabla \log \pi},

    and the value loss is :math:`\overline{(V - \hat V)^2} / 2` times the weight, with the same
    targets. One learner serves both, and a test of one is a test of the other.

    Args:
        config: settings. `epochs`, `minibatches`, `clip` and `value_clip`, which A2C does not have,
            may be left at PPO's defaults or be A2C's: 1, 1, infinity and None.

    Returns:
        The settings of A2C.

    Raises:
        ValueError: if one of these four is another, which A2C would ignore.

    References:
        Mnih et al., Asynchronous Methods for Deep Reinforcement Learning, 2016,
        `arXiv:1602.01783 <https://arxiv.org/abs/1602.01783>`_

    .. note::
        First derivatives are A2C's. Second derivatives, which a meta-gradient contains where it is
        taken through the learned optimizer's inputs, are those of :math:`\rho A`. They exceed those
        of :math:`A \log\pi` by :math:`A\, \nabla \log\pi\, \nabla \log\pi^\top`, and are the ones
        that estimate the curvature of the return.

    Examples:
        >>> from agents.a2c import a2c_config
        >>> from agents.ppo import PPOConfig
        >>> config = a2c_config(PPOConfig(iterations=100, num_envs=1, num_steps=20))
        >>> config.updates_per_iteration, config.normalize_advantages
        (1, False)
    """
    defaults = {field.name: field.default for field in dataclasses.fields(PPOConfig)}
    given = {name: getattr(config, name) for name in _USED}
    check_a2c(
        {
            name: value
            for name, value in given.items()
            if isinstance(value, jax.core.Tracer) or value != defaults[name]
        }
    )
    return dataclasses.replace(config, normalize_advantages=False, **_USED)
