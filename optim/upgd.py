"""UPGD: gradient descent with noise, both held back where a weight is useful."""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optim._checks import check_learning_rate, check_params, check_range
from optim._leaves import (
    average,
    bias_correction,
    largest,
    norm,
    widest_dtype,
    working_dtype,
    working_zeros,
)
from optim._noise import noise_key, normals
from optim._paths import as_mask
from optim._promotion import with_standard_promotion
from optim._trained import on_trained_leaves

Scope = Literal["global", "local"]

# A norm of utilities is at least this, as in torch's `normalize`.
_SMALLEST_NORM = 1e-12


class ScaleByUPGDState(NamedTuple):
    """State of `scale_by_upgd` and `scale_by_ada_upgd`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32
    key: jax.Array  # shape=(2,), dtype=uint32
    utility: optax.Updates  # like params, at least float32
    inner_state: optax.OptState  # of Adam's moments; empty for `scale_by_upgd`


@on_trained_leaves
def scale_by_upgd(
    beta_utility: jax.typing.ArrayLike = 0.999,
    sigma: jax.typing.ArrayLike = 1e-3,
    utility: Scope = "global",
    debias_max: bool = True,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    """Adds noise to gradients and scales both by utility, as UPGD does.

    See `upgd` for the equations and the notes.

    Args:
        beta_utility: decay rate of the utility, in [0, 1).
        sigma: standard deviation of the noise, at least 0.
        utility: `"global"` or `"local"`.
        debias_max: whether the largest utility is corrected like all others.
        key: key or seed of the noise; `init` mixes it with the initial parameters.

    Returns:
        The transformation.

    Raises:
        ValueError: if `utility` is unknown or a number is outside its range; from `update`, if
            `params` is missing; if a parameter is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> direction = scale_by_upgd(sigma=0.0)
        >>> params = jnp.array([1.0, -1.0, 0.5])
        >>> grads = jnp.array([2.0, 1.0, -4.0])
        >>> updates, _ = direction.update(grads, direction.init(params), params)
        >>> print(updates.round(1))
        [ 2.9  0.8 -2.2]

    References:
        Elsayed and Mahmood, `Addressing Loss of Plasticity and Catastrophic Forgetting in Continual
        Learning <https://arxiv.org/abs/2404.00781>`_, ICLR 2024, arXiv 2404.00781.
    """
    return _scale_by_utility(
        optax.with_extra_args_support(optax.identity()),
        beta_utility,
        sigma,
        utility,
        debias_max,
        key,
    )


@on_trained_leaves
def scale_by_ada_upgd(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-5,
    beta_utility: jax.typing.ArrayLike = 0.999,
    sigma: jax.typing.ArrayLike = 1e-3,
    utility: Scope = "global",
    debias_max: bool = True,
    key: jax.Array | int = 0,
    *,
    eps_root: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Adds noise to Adam's direction and scales both by utility, as AdaUPGD does.

    See `ada_upgd` for the equations and the notes.

    Args:
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        beta_utility: decay rate of the utility, in [0, 1).
        sigma: standard deviation of the noise, at least 0.
        utility: `"global"` or `"local"`.
        debias_max: whether the largest utility is corrected like all others.
        key: key or seed of the noise; `init` mixes it with the initial parameters.
        eps_root: added to the denominator inside the root, at least 0.

    Returns:
        The transformation.

    Raises:
        ValueError: if `utility` is unknown or a number is outside its range; from `update`, if
            `params` is missing; if a parameter is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> direction = scale_by_ada_upgd(sigma=0.0)
        >>> params = jnp.array([1.0, -1.0, 0.5])
        >>> grads = jnp.array([2.0, 1.0, -4.0])
        >>> updates, _ = direction.update(grads, direction.init(params), params)
        >>> print(updates.round(1))
        [ 1.5  0.8 -0.5]

    References:
        Elsayed and Mahmood, `Addressing Loss of Plasticity and Catastrophic Forgetting in Continual
        Learning <https://arxiv.org/abs/2404.00781>`_, ICLR 2024, arXiv 2404.00781.
    """
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    check_range("eps", eps, 0.0)
    check_range("eps_root", eps_root, 0.0)
    adam = with_standard_promotion(optax.scale_by_adam(b1=b1, b2=b2, eps=eps, eps_root=eps_root))
    return _scale_by_utility(adam, beta_utility, sigma, utility, debias_max, key)


@on_trained_leaves
def upgd(
    learning_rate: optax.ScalarOrSchedule,
    beta_utility: jax.typing.ArrayLike = 0.999,
    sigma: jax.typing.ArrayLike = 1e-3,
    weight_decay: jax.typing.ArrayLike = 1e-3,
    mask: Any | None = None,
    utility: Scope = "global",
    debias_max: bool = True,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""The UPGD optimizer, which keeps useful weights and perturbs the others.

    UPGD is short for utility-based perturbed gradient descent; this is its form with weight decay,
    UPGD-W. The utility of a weight is, to first order, how much the loss would rise without it.
    Gradient and noise are held back where it is high. With gradient :math:`g`, parameters
    :math:`\theta` and noise :math:`\xi \sim N(0, \sigma^2 I)`, drawn anew in every step,

    .. math::

      \begin{align*}
        U &\leftarrow \beta_u U - (1 - \beta_u)\, g \odot \theta, \qquad
        \hat{U} = U / (1 - \beta_u^t) \\
        \bar{U} &= \operatorname{sigmoid}(\hat{U} / \eta), \qquad
        \eta = \max \hat{U} \ \text{ over all parameters} \\
        \theta &\leftarrow (1 - \alpha \lambda)\, \theta
          - 2 \alpha\, (1 - \bar{U}) \odot (g + \xi)
      \end{align*}

    The factor 2 is that of the authors' published optimizer: a weight without utility, for which
    :math:`\bar{U} = 1/2`, takes a step of gradient descent. The algorithms in the paper have it
    not: their :math:`\alpha` is twice the `learning_rate`, and :math:`\lambda` half of
    `weight_decay`.

    Args:
        learning_rate: step size, greater than 0, or a schedule.
        beta_utility: decay rate :math:`\beta_u` of the utility, in [0, 1).
        sigma: standard deviation of the noise, at least 0. It is not relative to the gradient.
        weight_decay: decoupled weight decay :math:`\lambda`, at least 0, multiplied by the learning
            rate.
        mask: booleans that select the leaves with weight decay, a pytree or a function, as in
            `optax.adamw`.
        utility: `"global"`, as above; or `"local"`, where :math:`\eta` is the norm of the
            :math:`\hat{U}` of the incoming weights of one unit: a column of a kernel, over all
            axes but the last. A leaf with fewer than two axes is taken as one such group.
        debias_max: whether :math:`\eta` is the largest corrected utility, as in the paper. With
            False it is the largest of the uncorrected :math:`U`, as in the authors' code: for
            about :math:`1 / (1 - \beta_u)` steps weights of positive utility are nearly frozen and
            those of negative utility take double steps. It makes no difference to `"local"`.
        key: key or seed of the noise; `init` mixes it with the initial parameters.

    Returns:
        The optimizer. `update` needs the parameters and ignores extra arguments.

    Raises:
        ValueError: if `utility` is unknown or a number is outside its range; from `update`, if
            `params` is missing; if a parameter is complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = upgd(learning_rate=0.1)
        >>> params = jnp.array([1.0, -2.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(100):
        ...     grads = jax.grad(lambda p: jnp.sum(p**2))(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(jnp.max(jnp.abs(params)) < 0.01)
        True

    References:
        Elsayed and Mahmood, `Addressing Loss of Plasticity and Catastrophic Forgetting in Continual
        Learning <https://arxiv.org/abs/2404.00781>`_, ICLR 2024, arXiv 2404.00781.

    .. note::
      Where no weight has positive utility, the authors' ratio changes its sign and protects the
      least useful most. Here :math:`\eta` is then the smallest positive number: weights of negative
      utility take double steps, those without utility plain ones.

    .. note::
      The authors' code takes the local norm over the last axis of torch's layout, which is one row
      of a convolution's kernel. The utility of second order and that of whole features are left
      out: they need the diagonal of a Hessian, or gates in the network.

    .. note::
      The largest utility is that of all networks that are trained together, as in the authors' PPO,
      and under `optax.masked` that of the leaves that are seen. Members of an ensemble on a leading
      axis share it, and each column of `"local"` spans them, unless the optimizer is vmapped over
      that axis.

    .. note::
      Members of a `jax.vmap` that start from different parameters draw different noise. Utility and
      steps are computed in float32 at least. Under `optax.inject_hyperparams`, name `mask` in
      `static_args` if it is a function.

    .. note::
      With bfloat16 parameters, `optax.inject_hyperparams` rounds a decay rate of 0.999 to 1, which
      makes steps wrong or NaN: give it `hyperparam_dtype=jnp.float32`.
    """
    check_learning_rate(learning_rate)
    check_range("weight_decay", weight_decay, 0.0)
    return optax.chain(
        scale_by_upgd(
            beta_utility=beta_utility, sigma=sigma, utility=utility, debias_max=debias_max, key=key
        ),
        optax.add_decayed_weights(weight_decay, as_mask("mask", mask)),
        optax.scale_by_learning_rate(learning_rate),
    )


@on_trained_leaves
def ada_upgd(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-5,
    beta_utility: jax.typing.ArrayLike = 0.999,
    sigma: jax.typing.ArrayLike = 1e-3,
    weight_decay: jax.typing.ArrayLike = 1e-3,
    mask: Any | None = None,
    utility: Scope = "global",
    debias_max: bool = True,
    key: jax.Array | int = 0,
    *,
    eps_root: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""AdaUPGD: UPGD with Adam's direction in the place of the gradient, as the authors use in PPO.

    With the utility :math:`\bar{U}` of `upgd`, whose averages are of the gradient itself,

    .. math::

      \theta \leftarrow (1 - \alpha \lambda)\, \theta - 2 \alpha\, (1 - \bar{U}) \odot
        \left( \frac{\hat{m}}{\sqrt{\hat{v} + \bar{\varepsilon}} + \varepsilon} + \xi \right)

    with :math:`\hat{m}, \hat{v}` Adam's corrected moments of :math:`g`. The noise is not divided by
    the denominator. A weight without utility takes Adam's step. The defaults are those of the
    authors' PPO, which clips gradients to a norm of 0.5 before and anneals a learning rate of 3e-4;
    on humanoids `beta_utility` is 0.9.

    Args:
        learning_rate: step size, greater than 0, or a schedule.
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        beta_utility: decay rate :math:`\beta_u` of the utility, in [0, 1).
        sigma: standard deviation of the noise, at least 0, relative to Adam's direction.
        weight_decay: decoupled weight decay :math:`\lambda`, at least 0, multiplied by the learning
            rate.
        mask: booleans that select the leaves with weight decay, a pytree or a function, as in
            `optax.adamw`.
        utility: `"global"` or `"local"`, see `upgd`.
        debias_max: whether the largest utility is corrected, as in the paper, or not, as in the
            authors' code; see `upgd`.
        key: key or seed of the noise; `init` mixes it with the initial parameters.
        eps_root: added to the denominator inside the root, at least 0. A small positive value is
            needed to differentiate through `update` where a gradient is exactly zero, as in
            `optax.adam`.

    Returns:
        The optimizer. `update` needs the parameters and ignores extra arguments.

    Raises:
        ValueError: if `utility` is unknown or a number is outside its range; from `update`, if
            `params` is missing; if a parameter is complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = ada_upgd(learning_rate=0.05)
        >>> params = jnp.array([1.0, -2.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(100):
        ...     grads = jax.grad(lambda p: jnp.sum(p**2))(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(jnp.max(jnp.abs(params)) < 0.2)
        True

    References:
        Elsayed and Mahmood, `Addressing Loss of Plasticity and Catastrophic Forgetting in Continual
        Learning <https://arxiv.org/abs/2404.00781>`_, ICLR 2024, arXiv 2404.00781.

    .. note::
      The paper's algorithm has neither the factor 2 nor weight decay; the authors' code for PPO has
      both. The notes of `upgd` hold here too.

    .. note::
      With bfloat16 parameters, `optax.inject_hyperparams` rounds a decay rate of 0.999 to 1, which
      makes steps wrong or NaN: give it `hyperparam_dtype=jnp.float32`.
    """
    check_learning_rate(learning_rate)
    check_range("weight_decay", weight_decay, 0.0)
    return optax.chain(
        scale_by_ada_upgd(
            b1=b1,
            b2=b2,
            eps=eps,
            beta_utility=beta_utility,
            sigma=sigma,
            utility=utility,
            debias_max=debias_max,
            key=key,
            eps_root=eps_root,
        ),
        optax.add_decayed_weights(weight_decay, as_mask("mask", mask)),
        optax.scale_by_learning_rate(learning_rate),
    )


def _scale_by_utility(
    inner: optax.GradientTransformationExtraArgs,
    beta_utility: jax.typing.ArrayLike,
    sigma: jax.typing.ArrayLike,
    utility: Scope,
    debias_max: bool,
    key: jax.Array | int,
) -> optax.GradientTransformationExtraArgs:
    """UPGD with the updates of `inner` in the place of gradients; these it gets in float32."""
    check_range("beta_utility", beta_utility, 0.0, 1.0)
    check_range("sigma", sigma, 0.0)
    if utility not in get_args(Scope):
        raise ValueError(f"utility must be one of {', '.join(get_args(Scope))}, got {utility!r}.")

    def init_fn(params: optax.Params) -> ScaleByUPGDState:
        return ScaleByUPGDState(
            count=jnp.zeros([], jnp.int32),
            key=noise_key(key, params),
            utility=working_zeros(params),
            inner_state=inner.init(working_zeros(params)),
        )

    def scaled(grad: Any, direction: Any, noise: Any, share: Any) -> jax.Array:
        deviation = jnp.asarray(sigma, direction.dtype)
        return (share * (direction + deviation * noise)).astype(grad.dtype)

    def update_fn(
        updates: optax.Updates,
        state: ScaleByUPGDState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByUPGDState]:
        del extra_args
        check_params("UPGD", params)
        count = optax.safe_increment(state.count)
        grads = jax.tree.map(lambda g: g.astype(working_dtype(g)), updates)
        present = jax.tree.map(
            lambda u, g, p: -g.astype(u.dtype) * p.astype(u.dtype), state.utility, grads, params
        )
        averages = average(beta_utility, state.utility, present)
        shares = (
            _local_shares(averages, count, beta_utility)
            if utility == "local"
            else _global_shares(averages, count, beta_utility, debias_max)
        )
        directions, inner_state = inner.update(grads, state.inner_state)
        noise = _noise_like(state.key, state.count, directions)
        updates = jax.tree.map(scaled, updates, directions, noise, shares)
        return updates, ScaleByUPGDState(count, state.key, averages, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _global_shares(
    utilities: Any, count: jax.Array, beta: jax.typing.ArrayLike, debias_max: bool
) -> Any:
    """Twice 1 minus the sigmoid of each utility over the largest one, in [0, 2]."""
    dtype = widest_dtype(utilities)
    most = jnp.asarray(jnp.finfo(dtype).min, dtype)
    for leaf in jax.tree.leaves(utilities):
        if leaf.size:
            most = jnp.maximum(most, largest(leaf).astype(dtype))
    # The correction of the utility and that of the largest one cancel.
    divisor = most if debias_max else most * bias_correction(beta, count, dtype)
    is_positive = divisor > jnp.finfo(dtype).tiny
    divisor = jnp.where(is_positive, divisor, 1)

    def share(leaf: jax.Array) -> jax.Array:
        relative = jax.nn.sigmoid(-leaf / divisor.astype(leaf.dtype))
        return 2 * jnp.where(is_positive, relative, jnp.where(leaf < 0, 1, 0.5))

    return jax.tree.map(share, utilities)


def _local_shares(utilities: Any, count: jax.Array, beta: jax.typing.ArrayLike) -> Any:
    """Twice 1 minus the sigmoid of each utility over the norm of its unit's, in [0, 2]."""

    def share(leaf: jax.Array) -> jax.Array:
        axes = tuple(range(leaf.ndim - (leaf.ndim > 1)))
        smallest = _SMALLEST_NORM * bias_correction(beta, count, leaf.dtype)
        return 2 * jax.nn.sigmoid(-leaf / jnp.maximum(norm(leaf, axes), smallest))

    return jax.tree.map(share, utilities)


def _noise_like(key: jax.Array, step: jax.Array, tree: Any) -> Any:
    """Standard normal numbers for every entry of every leaf, other ones for each step."""
    treedef: Any
    leaves, treedef = jax.tree.flatten(tree)
    sizes = [leaf.size for leaf in leaves]
    if not sum(sizes):
        return tree
    # One stream for all leaves: a stream for each would be a program for each.
    parts = jnp.split(normals(key, step, sum(sizes)), np.cumsum(sizes)[:-1].tolist())
    explicit = bool(jax.sharding.get_abstract_mesh().explicit_axes)

    def shaped(part: jax.Array, leaf: jax.Array) -> jax.Array:
        noise = part.reshape(leaf.shape).astype(leaf.dtype)
        # With shardings in the types, what is added has to be sharded alike.
        return jax.sharding.reshard(noise, jax.typeof(leaf).sharding) if explicit else noise

    return treedef.unflatten([shaped(*pair) for pair in zip(parts, leaves, strict=True)])
