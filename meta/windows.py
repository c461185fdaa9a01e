"""Windows of a learner's life through which the loss of fresh experience is differentiated."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agents.ppo import ppo
from meta.task import Task
from meta.trainer import Build, MetaParams, Metrics


class Windows(NamedTuple):
    """A learner's life under a learned optimizer, in windows, for `meta.pipeline` to play."""

    init: Callable[[MetaParams, jax.Array], Any]
    """`init(meta_params, key) -> life`: a newborn learner."""

    grow: Callable[[MetaParams, Any], Any]
    """`grow(meta_params, life) -> life`: one window."""

    loss: Callable[[MetaParams, Any], tuple[jax.Array, tuple[Any, Metrics]]]
    """`loss(meta_params, life) -> (loss, (life, metrics))`: one window and the loss after it, for
    `jax.grad` with respect to the meta-parameters. The metrics are `episodes`, the number that
    ended in the window, and `return_sum`, the sum of their returns."""

    number: int
    """The number of windows in a life: the reset interval."""


def windows(
    task: Task,
    build: Build,
    window: int | Sequence[int],
    *,
    meta_steps: int | None = None,
    rematerialise: bool = True,
) -> Windows:
    r"""Windows of PPO's life on a task, under the optimizer that meta-parameters define.

    In a window, parameters :math:`\theta` and the optimizer's state h go through M iterations of
    the learner, each a rollout and its updates. The loss is the learner's own, on all samples of a
    fresh rollout B at once,

    .. math::
        L(\phi) = \ell(\theta_M; B(\theta_M)), \qquad
        (\theta_k, h_k) = U_\phi(\theta_{k-1}, h_{k-1}; B_k(\theta_{k-1})),

    where :math:`\theta_0, h_0` and the environments' states are those at the end of the previous
    window. They count as constants, so derivatives reach back to the start of the window and no
    further. Experience counts as constant too; see `PPOConfig.constant_rollouts`.

    Of several lengths :math:`M_1 < \ldots < M_m`, only the longest is lived. The shorter ones are
    its beginnings, and the loss is the mean of theirs,

    .. math:: L(\phi) = \frac{1}{m} \sum_{i=1}^m \ell(\theta_{M_i}; B(\theta_{M_i})).

    Each term, and its gradient, is that of a window of this length alone: life goes on from
    :math:`M_i` as if the fresh rollout there had not been, and begins its next iteration with the
    same random numbers.

    Args:
        task: what is learned and how; `task.config.iterations` is the length of a life.
        build: from meta-parameters to the chain that PPO is given.
        window: M, the learner's iterations in a window; or several such numbers, rising.
        meta_steps: steps of each environment in the fresh rollout; by default as many as in the
            learner's own rollouts.
        rematerialise: whether the backward pass computes the inside of updates again instead of
            keeping it in memory.

    Returns:
        Functions of one life, to be mapped with `jax.vmap`. `loss` is a scalar of the parameters'
        dtype.

    Raises:
        ValueError: if the window, or the longest, does not divide the life, if several are not
            rising, or `meta_steps` is less than 1.

    References:
        Lan et al., Learning to Optimize for Reinforcement Learning, RLC 2024,
        `arXiv:2302.01470 <https://arxiv.org/abs/2302.01470>`_

    .. note::
        If an environment's experience depends smoothly on the parameters, as in Brax, the authors
        differentiate through it as well, and then the surrogate loss contributes nothing.

    Examples:
        >>> import jax, optax
        >>> from agents import environments
        >>> from agents.ppo import PPOConfig
        >>> from meta.task import Task
        >>> from meta.windows import windows
        >>> config = PPOConfig(iterations=40, num_envs=4, num_steps=16, minibatches=2)
        >>> task = Task(environments.make("CartPole-v1"), config)
        >>> sgd = lambda meta_params: optax.sgd(jax.numpy.exp(meta_params["log_rate"]))
        >>> lives = windows(task, sgd, window=4)
        >>> meta_params = {"log_rate": jax.numpy.float32(-5.0)}
        >>> life = jax.eval_shape(lives.init, meta_params, jax.random.key(0))
        >>> gradient = jax.grad(lives.loss, has_aux=True)
        >>> jax.eval_shape(gradient, meta_params, life)[0]
        {'log_rate': ShapeDtypeStruct(shape=(), dtype=float32)}
        >>> lives.number
        10
    """
    iterations = int(task.config.iterations)
    lengths = (window,) if isinstance(window, int) else tuple(window)
    check_lengths(lengths)
    if iterations % lengths[-1]:
        raise ValueError(
            f"window must divide the life's {iterations} iterations; got {lengths[-1]}."
        )
    if meta_steps is not None and meta_steps < 1:
        raise ValueError(f"meta_steps must be at least 1; got {meta_steps}.")
    config = dataclasses.replace(task.config, rematerialise=rematerialise)
    # The state does not depend on the rollout's length, so a learner with another can continue it.
    steps = config.num_steps if meta_steps is None else meta_steps
    fresh_config = dataclasses.replace(config, num_steps=steps, minibatches=1)

    def init(meta_params: MetaParams, key: jax.Array) -> Any:
        return ppo(task.environment, config, build(meta_params)).init(key)

    def live(meta_params: MetaParams, life: Any, iterations: int) -> tuple[Any, Metrics]:
        learner = ppo(task.environment, config, build(meta_params))
        life, metrics = jax.lax.scan(lambda life, _: learner.iterate(life), life, length=iterations)
        return life, {
            "episodes": jnp.sum(metrics["episodes"]),
            "return_sum": jnp.sum(metrics["episode_return_sum"]),
        }

    def grow(meta_params: MetaParams, life: Any) -> Any:
        return live(meta_params, life, lengths[-1])[0]

    def loss(meta_params: MetaParams, life: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
        after, values, lived = life, [], []
        for start, end in itertools.pairwise([0, *lengths]):
            life, metrics = live(meta_params, life, end - start)
            fresh = ppo(task.environment, fresh_config, build(meta_params))
            after, samples = fresh.play(life)
            values.append(fresh.loss(life.params, samples)[0])
            lived.append(metrics)
        value = jnp.mean(jnp.stack(values)) if len(values) > 1 else values[0]
        return value, (after, jax.tree.map(lambda *x: sum(x[1:], start=x[0]), *lived))

    return Windows(init, grow, loss, iterations // lengths[-1])


def check_lengths(lengths: Sequence[int]) -> None:
    """Makes sure that windows can have these lengths.

    Raises:
        ValueError: if there is none, one is less than 1, or several do not rise.
    """
    if any(length < 1 for length in lengths):
        raise ValueError(f"window must be at least 1; got {','.join(map(str, lengths))}.")
    if not lengths or any(late <= early for early, late in itertools.pairwise(lengths)):
        raise ValueError(
            "window must be one length or several that rise; got "
            f"{','.join(map(str, lengths)) or 'none'}."
        )


def first_order(build: Build) -> Build:
    """Keeps derivatives from flowing through what an optimizer is given.

    Args:
        build: from meta-parameters to an optimizer.

    Returns:
        The same function, except that `update` treats gradients, parameters and extra arguments as
        constants: derivatives flow through the meta-parameters and the optimizer's state alone.
        Optim4RL, LinearOptim and L2LGD2 always do this. OPEN and STAR do not, so without it their
        meta-gradients contain second derivatives of the learner's loss.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> from meta.windows import first_order
        >>> def moved(build, rate):
        ...     optimizer = build({"rate": rate})
        ...     x = jnp.float32(1.0)
        ...     for _ in range(2):
        ...         x = x + optimizer.update(2 * x, optimizer.init(x))[0]
        ...     return x
        >>> sgd = lambda meta_params: optax.sgd(meta_params["rate"])
        >>> for build in (sgd, first_order(sgd)):
        ...     print(jax.grad(moved, argnums=1)(build, 0.1))
        -3.2
        -3.6
    """
    constant = jax.lax.stop_gradient

    def build_constant(meta_params: MetaParams) -> optax.GradientTransformationExtraArgs:
        optimizer = optax.with_extra_args_support(build(meta_params))

        def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
            # Some extra arguments are functions.
            extra = {k: v if callable(v) else constant(v) for k, v in extra.items()}
            return optimizer.update(constant(updates), state, constant(params), **extra)

        return optax.GradientTransformationExtraArgs(optimizer.init, update)

    return build_constant
