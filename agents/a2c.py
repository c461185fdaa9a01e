"""Advantage actor-critic, as the limit of PPO that it is."""

from __future__ import annotations

import dataclasses
import math

from agents.ppo import PPOConfig


def a2c_config(config: PPOConfig) -> PPOConfig:
    r"""The settings with which `agents.ppo.ppo` is advantage actor-critic (A2C).

    One update on each rollout, on all of it, without clipping and with advantages as they are. The
    probability ratio :math:`\rho` is then 1 wherever a gradient is taken, so that

    .. math::
        \nabla \big(-\overline{\rho A}\big) = -\overline{A\, \nabla \log \pi},

    and the value loss is :math:`\overline{(V - \hat V)^2} / 2` times the weight, with the same
    targets. One learner serves both, and whatever is tested on one is tested on the other.

    Args:
        config: settings; those that A2C does not have are replaced.

    Returns:
        The settings of A2C.

    References:
        Mnih et al., Asynchronous Methods for Deep Reinforcement Learning, 2016,
        `arXiv:1602.01783 <https://arxiv.org/abs/1602.01783>`_

    .. note::
        First derivatives are A2C's. Second ones, which a meta-gradient contains if the learned
        optimizer differentiates through its inputs, are those of :math:`\rho A`, by
        :math:`A\, \nabla \log\pi\, \nabla \log\pi^\top` more than those of :math:`A \log\pi`: the
        ones that estimate the curvature of the return.

    Examples:
        >>> from agents.a2c import a2c_config
        >>> from agents.ppo import PPOConfig
        >>> config = a2c_config(PPOConfig(iterations=100, num_envs=1, num_steps=20))
        >>> config.updates_per_iteration, config.normalize_advantages
        (1, False)
    """
    return dataclasses.replace(
        config, epochs=1, minibatches=1, clip=math.inf, normalize_advantages=False
    )
