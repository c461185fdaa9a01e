"""AdamO: Adam with a bounded pull of each weight matrix towards orthogonality.

Three papers call an optimizer AdamO. This is 'A Collapse-Suppressed Optimizer for Offline RL' (Qiao
et al., ICML 2026, arXiv 2605.01968), not arXiv 2602.05136 (a split into radial and tangential
steps) and not arXiv 2606.09762 (isometry for continual learning).
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_learning_rate, check_params, check_range
from optim._kernels import kernel_axes, orthogonality_residual
from optim._leaves import norm, working_dtype
from optim._promotion import with_standard_promotion
from optim._trained import on_trained_leaves

Pull = Literal["orthogonal", "zero"]


@on_trained_leaves
def scale_by_adamo(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-4,
    kappa: jax.typing.ArrayLike = 1e-4,
    tau: jax.typing.ArrayLike | None = 0.0,
    eps_r: jax.typing.ArrayLike = 1e-8,
    matrix_mask: Any | Callable[[optax.Params], Any] | None = None,
    ensemble_axes: int | Any | None = None,
    *,
    eps_root: jax.typing.ArrayLike = 0.0,
    heads: bool = True,
    pull: Pull = "orthogonal",
) -> optax.GradientTransformationExtraArgs:
    r"""Rescales updates as AdamO does, without the learning rate.

    See `adamo` for the equations, the arguments and the notes.

    Args:
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        kappa: size of the correction relative to Adam's direction, at least 0.
        tau: share of Adam's predicted descent that the correction may undo, in [0, 1); `None` for
            no limit.
        eps_r: added to the norm of the orthogonality residual, at least 0.
        matrix_mask: booleans that select the constrained leaves: a pytree that mirrors the
            parameters or is a prefix of them, or a function from parameters to one. `None` selects
            every matrix, but see `heads`.
        ensemble_axes: number of leading axes that index the members of an ensemble, for all leaves
            or as a pytree like `matrix_mask`. `None` is 0.
        eps_root: added to the denominator inside the root, at least 0.
        heads: whether a `matrix_mask` of `None` selects the last layer of each network too.
        pull: `"orthogonal"` or `"zero"`.

    Returns:
        The transformation. Its state is Adam's, `optax.ScaleByAdamState`; `update` needs
        the parameters.

    Raises:
        ValueError: if a number is outside its range or `pull` is unknown; from `update`, if
            `params` is missing, a selected matrix is complex or `ensemble_axes` is traced or
            negative.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> direction = scale_by_adamo(kappa=0.1)
        >>> params = 2.0 * jnp.eye(2)
        >>> updates, _ = direction.update(jnp.eye(2), direction.init(params), params)
        >>> print(updates.round(3))
        [[1.1 0. ]
         [0.  1.1]]

    References:
        Qiao et al., `A Collapse-Suppressed Optimizer for Offline RL
        <https://arxiv.org/abs/2605.01968>`_, ICML 2026, arXiv 2605.01968, equations 17 to 20.
    """
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    check_range("eps", eps, 0.0)
    check_range("kappa", kappa, 0.0)
    if tau is not None:
        check_range("tau", tau, 0.0, 1.0)
    check_range("eps_r", eps_r, 0.0)
    check_range("eps_root", eps_root, 0.0)
    if pull not in get_args(Pull):
        raise ValueError(f"pull must be one of {', '.join(get_args(Pull))}, got {pull!r}.")
    adam = with_standard_promotion(optax.scale_by_adam(b1=b1, b2=b2, eps=eps, eps_root=eps_root))

    def correct(grad: Any, adam_update: Any, param: Any, axes: int | None) -> Any:
        if axes is None:
            return adam_update
        correction = _correction(
            grad, adam_update, param, kappa, tau, eps_r, axes=axes, is_orthogonal=pull != "zero"
        )
        return (adam_update.astype(correction.dtype) + correction).astype(adam_update.dtype)

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        del extra_args
        check_params("AdamO", params)
        adam_updates, state = adam.update(updates, state)
        axes = kernel_axes(params, matrix_mask, ensemble_axes, heads=heads)
        leaves = map(jax.tree.leaves, (updates, adam_updates, params))
        corrected = [correct(*parts) for parts in zip(*leaves, axes, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(adam_updates), corrected), state

    return optax.GradientTransformationExtraArgs(adam.init, update_fn)


@on_trained_leaves
def adamo(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-4,
    kappa: jax.typing.ArrayLike = 1e-4,
    tau: jax.typing.ArrayLike | None = 0.0,
    eps_r: jax.typing.ArrayLike = 1e-8,
    matrix_mask: Any | Callable[[optax.Params], Any] | None = None,
    ensemble_axes: int | Any | None = None,
    *,
    eps_root: jax.typing.ArrayLike = 0.0,
    heads: bool = True,
    pull: Pull = "orthogonal",
) -> optax.GradientTransformationExtraArgs:
    r"""The AdamO optimizer, which suppresses the collapse of critics in offline RL.

    AdamO adds to Adam's direction a correction that pulls each weight matrix towards
    orthogonality. The correction is never longer than a share of Adam's step, and it may undo only
    a share of the descent that Adam's step promises. Adam's moments see the task's gradient alone.

    For every constrained matrix :math:`W` with :math:`r` rows and :math:`c` columns, gradient
    :math:`g` and Adam's direction :math:`u`,

    .. math::

      \begin{align*}
        u &= \hat{m} / (\sqrt{\hat{v} + \bar{\varepsilon}} + \varepsilon) \\
        R &= (W W^\top - I_r)\, W \ \text{ if } r < c, \text{ else } \ W (W^\top W - I_c) \\
        \delta_0 &= \kappa\, \frac{\|u\|_F}{\|R\|_F + \varepsilon_r}\, R, \qquad
        T = -\tau \max(\langle g, u \rangle_F, 0) \\
        \delta &= \delta_0 \ \text{ if } \langle g, \delta_0 \rangle_F \ge T,
          \text{ else } \frac{T}{\langle g, \delta_0 \rangle_F}\, \delta_0 \\
        W &\leftarrow W - \alpha\, (u + \delta)
      \end{align*}

    with :math:`\hat{m}, \hat{v}` Adam's corrected moments of :math:`g`. Hence
    :math:`\|\delta\|_F \le \kappa \|u\|_F` and :math:`\langle g, \delta \rangle_F \ge T` for each
    matrix. All other leaves take plain Adam steps.

    The defaults are the authors' for Kitchen, AntMaze and the expert tasks of Adroit. For the
    locomotion tasks and Adroit's human and cloned tasks they use `kappa=1` and `tau=0.05`. They
    constrain the critic only, the actor keeps Adam: `matrix_mask={"actor": False, "critic": True}`.
    Below `kappa=1e-5` AdamO is hardly different from Adam.

    Args:
        learning_rate: step size, greater than 0, or a schedule.
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        kappa: size of the correction relative to Adam's direction, at least 0. With 0, AdamO is
            Adam, bit for bit.
        tau: share of Adam's predicted descent that the correction may undo, in [0, 1). With 0, a
            correction against the gradient is dropped. `None` for no limit: a control.
        eps_r: added to the norm of the orthogonality residual, at least 0.
        matrix_mask: booleans that select the constrained leaves: a pytree that mirrors the
            parameters or is a prefix of them, matched by names, or a function from parameters to
            one. `None` selects every matrix, but see `heads`. Leaves with fewer than two axes are
            never constrained. Leaves with more are read as convolution kernels of flax, (height,
            width, inputs, outputs), and constrained as matrices of shape
            (height * width * inputs, outputs).
        ensemble_axes: number of leading axes that index the members of an ensemble (1 for critics
            under `flax.linen.vmap`), for all leaves or as a pytree like `matrix_mask`. Each member
            is a matrix of its own. `None` is 0.
        eps_root: added to the denominator inside the root, at least 0. A small positive value is
            needed to differentiate through `update` where a gradient is exactly zero, as in
            `optax.adam`.
        heads: whether a `matrix_mask` of `None` selects the last layer of each network too. Layers
            are ordered by their names; networks are the entries at the top of a tree of three or
            more levels. `False` is a control.
        pull: `"orthogonal"`, or `"zero"` for a control: a correction of the same size and budget
            with :math:`R = W`, which makes matrices smaller.

    Returns:
        The optimizer. Its updates have the dtype of Adam's; the correction is computed in float32
        at least. `update` needs the parameters and ignores extra arguments.

    Raises:
        ValueError: if a number is outside its range or `pull` is unknown; from `update`, if
            `params` is missing, a selected matrix is complex or `ensemble_axes` is traced or
            negative.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = adamo(learning_rate=0.1, kappa=1.0, tau=0.05)
        >>> params = {"kernel": 2.0 * jnp.eye(2), "bias": jnp.ones(2)}
        >>> state = optimizer.init(params)
        >>> loss = lambda p: jnp.sum(p["kernel"] @ p["bias"])
        >>> for _ in range(5):
        ...     grads = jax.grad(loss)(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params["bias"].round(2))
        [0.52 0.52]

    References:
        Qiao et al., `A Collapse-Suppressed Optimizer for Offline RL
        <https://arxiv.org/abs/2605.01968>`_, ICML 2026, arXiv 2605.01968, section 5.2.

    .. note::
      The paper gives no value for `eps_r`. Near orthogonality the correction keeps its length
      until the norm of the residual nears `eps_r`, so weights there move by about
      `learning_rate * kappa * norm(u)` from step to step.

    .. note::
      The budget is homogeneous in the gradient, which is therefore divided by its largest entry
      first: no product overflows where Adam's step is finite. Where the residual itself overflows,
      the correction is dropped.

    .. note::
      Not in the paper are the controls that tell orthogonality from its side effects: `tau=None`,
      `heads=False`, `pull="zero"`, and the penalty :math:`\lambda \|W^\top W - I\|_F^2` on the
      loss, whose gradient :math:`4 \lambda R` goes through Adam's moments:
      `optim.parseval(optax.adam(learning_rate), strength, scale=1.0, reference_width=None,
      heads=True)`.

    .. note::
      Under `optax.inject_hyperparams`, name `pull`, and `matrix_mask` and `ensemble_axes` if they
      are a function or a number, in `static_args`.

    .. note::
      With bfloat16 parameters, `optax.inject_hyperparams` rounds a decay rate of 0.999 to 1, which
      makes steps wrong or NaN: give it `hyperparam_dtype=jnp.float32`.
    """
    check_learning_rate(learning_rate)
    return optax.chain(
        scale_by_adamo(
            b1=b1,
            b2=b2,
            eps=eps,
            kappa=kappa,
            tau=tau,
            eps_r=eps_r,
            matrix_mask=matrix_mask,
            ensemble_axes=ensemble_axes,
            eps_root=eps_root,
            heads=heads,
            pull=pull,
        ),
        optax.scale_by_learning_rate(learning_rate),
    )


def _correction(
    grad: jax.Array,
    adam_update: jax.Array,
    param: jax.Array,
    kappa: jax.typing.ArrayLike,
    tau: jax.typing.ArrayLike | None,
    eps_r: jax.typing.ArrayLike,
    *,
    axes: int,
    is_orthogonal: bool = True,
) -> jax.Array:
    """The correction of one leaf, member by member, in float32 or float64."""
    dtype = working_dtype(param)
    kappa, eps_r = jnp.asarray(kappa, dtype), jnp.asarray(eps_r, dtype)
    tau = None if tau is None else jnp.asarray(tau, dtype)
    correct = functools.partial(_matrix_correction, dtype=dtype, is_orthogonal=is_orthogonal)
    for _ in range(axes):
        correct = jax.vmap(correct, in_axes=(0, 0, 0, None, None, None))
    # With shardings in the types, products of sharded matrices are ambiguous: leave those to XLA.
    if jax.sharding.get_abstract_mesh().explicit_axes:
        correct = jax.sharding.auto_axes(correct, out_sharding=jax.typeof(adam_update).sharding)
    return correct(grad, adam_update, param, kappa, tau, eps_r)


def _matrix_correction(
    grad: jax.Array,
    adam_update: jax.Array,
    param: jax.Array,
    kappa: jax.Array,
    tau: jax.Array | None,
    eps_r: jax.Array,
    *,
    dtype: jax.typing.DTypeLike,
    is_orthogonal: bool,
) -> jax.Array:
    shape = (-1, param.shape[-1])
    g, u, w = (leaf.reshape(shape).astype(dtype) for leaf in (grad, adam_update, param))
    # The budget is homogeneous in g: unit size avoids overflow. Dividing by 8 first keeps the
    # reciprocal, with which XLA may multiply instead, from being flushed to zero.
    # Not the maximum of the bits as integers: on a CPU core it takes 0.8 us instead of 1.0 at
    # 64 x 64, but 4 instead of 3 at 128, 19 instead of 13 at 256 and twice as long from 512 on;
    # the whole update takes the same time either way.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(g))) / 8
    g = g / 8
    g = g / jnp.where(largest >= jnp.finfo(dtype).tiny, largest, 1)

    residual = orthogonality_residual(w) if is_orthogonal else w
    residual_norm = norm(residual)
    denominator = residual_norm + eps_r
    scale = kappa * norm(u) / jnp.where(denominator > 0, denominator, 1)

    if tau is not None:
        budget = -tau * jnp.maximum(jnp.sum(g * u), 0)
        predicted = scale * jnp.sum(g * residual)
        conflict = predicted < budget
        # The inner selections keep both the values and the gradients of unused branches finite.
        scale = scale * jnp.where(conflict, budget / jnp.where(conflict, predicted, -1), 1)
    correction = jnp.where(jnp.isfinite(residual_norm), scale * residual, 0)
    return correction.reshape(param.shape)
