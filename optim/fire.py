"""FIRE: weight matrices become the nearest orthogonal ones when the task or the data changes."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_params, check_period, static_integer
from optim._events import (
    InnerState,
    change_if,
    check_inner_state,
    is_due,
    next_count,
    reset_state_of,
)
from optim._kernels import kernel_axes, on_matrices, orthogonality_residual
from optim._leaves import norm, working_dtype
from optim._parameter_map import mapped_update
from optim._promotion import with_standard_promotion
from optim._trained import on_trained_leaves


class FireState(NamedTuple):
    """State of `fire`."""

    # Updates since the last projection; shape=(), dtype=int32.
    count: jax.Array  # type: ignore[assignment]
    inner_state: optax.OptState


@on_trained_leaves
def fire(
    inner: optax.GradientTransformation,
    period: int | jax.Array | None = None,
    ns_steps: int = 10,
    opt_state: InnerState = "keep",
    matrix_mask: Any | Callable[[optax.Params], Any] | None = None,
    ensemble_axes: int | Any | None = None,
    heads: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Replaces weight matrices by orthogonal ones near them, after an optimizer's update.

    After each period, or after an update with `reset`, each selected kernel :math:`W` with
    :math:`d_\text{in}` rows and :math:`d_\text{out}` columns is put in the place of the orthogonal
    matrix that is nearest to it, times a scale,

    .. math::

      X = \frac{W}{\|W\|_F}, \qquad X \leftarrow \tfrac{3}{2} X - \tfrac{1}{2} X X^\top X
      \ \text{ (repeated)}, \qquad W \leftarrow \sqrt{d_\text{out} / d_\text{in}}\; X

    For convolutions this is done for the matrix of inputs and outputs at each place of the window,
    and the scale is divided by the number of places. At all other times this is the inner
    optimizer, bit for bit.

    Args:
        inner: a whole optimizer, learning rate included, for example `optax.adam(3e-4)`.
        period: updates between two projections, a whole number of at least 1; `reset` is then
            ignored. `None` leaves them to `reset`.
        ns_steps: iterations of Newton and Schulz, a static integer of at least 0. After the
            authors' 10, square matrices are far from orthogonal in their weakest directions: at
            64 x 64 the smallest singular value is near 0.07. 20 suffice there, 30 at 512 x 512.
        opt_state: whether a projection keeps the inner optimizer's state, as the authors do in DQN,
            or resets it, as they do in SAC; schedules go on counting.
        matrix_mask: booleans that select the kernels: a pytree that mirrors the parameters or is a
            prefix of them, matched by names, or a function from parameters to one. `None` selects
            all but the heads, see `heads`.
        ensemble_axes: number of leading axes that index the members of an ensemble, for all leaves
            or as a pytree like `matrix_mask`. Each member is a matrix of its own. `None` is 0.
        heads: whether a `matrix_mask` of `None` selects the last layer of each network too, as the
            authors do. Layers are ordered by their names; networks are the entries at the top of a
            tree of three or more levels.

    Returns:
        The optimizer. `update` needs the parameters and takes the extra argument `reset`, a Boolean
        that says that this gradient is the first of a new objective; extra arguments go to the
        inner optimizer.

    Raises:
        ValueError: if `period` is no whole number of at least 1, `ns_steps` no static integer of at
            least 0 or `opt_state` unknown; from `update`, if `params` is missing, a selected kernel
            is complex or `ensemble_axes` is traced or negative.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = fire(optax.sgd(0.1), period=2)
        >>> params = jnp.diag(jnp.array([2.0, 0.5]))
        >>> state = optimizer.init(params)
        >>> for _ in range(2):
        ...     updates, state = optimizer.update(jnp.zeros((2, 2)), state, params)
        ...     params = optax.apply_updates(params, updates)
        ...     print(jnp.diag(params).round(2))
        [2.  0.5]
        [1. 1.]

    References:
        Han et al., `FIRE: Frobenius-Isometry Reinitialization for Balancing the
        Stability-Plasticity Tradeoff <https://arxiv.org/abs/2602.08040>`_, ICLR 2026, arXiv
        2602.08040.

    .. note::
      A policy's last layer is initialised small, and would be blown up to full size: hence the
      default of `heads`.

    .. note::
      The projection follows the update on the gradient that comes with `reset`; with
      `opt_state="reset"` the next update is the first of a new inner optimizer.

    .. note::
      The PPO of this project passes `reset` at the first update on each rollout. The authors
      project once, between two tasks or in the middle of training: give the number of updates of
      each phase as the period.

    .. note::
      What the authors do besides, in DQN new dense layers and in SAC a new temperature, and
      target networks that are set to the projected ones, is left to the caller.
    """
    check_period(period)
    ns_steps = static_integer("ns_steps", ns_steps, 0)
    check_inner_state(opt_state)
    inner = with_standard_promotion(inner)

    def init_fn(params: optax.Params) -> FireState:
        return FireState(jnp.zeros([], jnp.int32), inner.init(params))

    def update_fn(
        updates: optax.Updates,
        state: FireState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, FireState]:
        check_params("FIRE", params)
        axes = kernel_axes(params, matrix_mask, ensemble_axes, heads=heads)
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        due = is_due(state.count, period, extra_args.get("reset"))

        def event(old: tuple[Any, Any]) -> tuple[Any, Any]:
            updates, inner_state = old
            treedef: Any = jax.tree.structure(params)
            leaves = zip(treedef.flatten_up_to(updates), jax.tree.leaves(params), axes, strict=True)
            project = functools.partial(_project, steps=ns_steps)
            projected = [
                update
                if number is None
                else mapped_update(update, leaf, functools.partial(project, axes=number))
                for update, leaf, number in leaves
            ]
            updates = treedef.unflatten(projected)
            if opt_state == "reset":
                reached = optax.apply_updates(params, updates)
                inner_state = reset_state_of(inner, reached, inner_state)
            return updates, inner_state

        updates, inner_state = change_if(due, event, (updates, inner_state))
        return updates, FireState(next_count(state.count, due), inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def fire_projection(
    params: optax.Params,
    ns_steps: int = 10,
    matrix_mask: Any | Callable[[optax.Params], Any] | None = None,
    ensemble_axes: int | Any | None = None,
    heads: bool = False,
) -> optax.Params:
    """Projects kernels as `fire` does, once.

    Args:
        params: the parameters.
        ns_steps: iterations of Newton and Schulz, see `fire`.
        matrix_mask: see `fire`.
        ensemble_axes: see `fire`.
        heads: see `fire`.

    Returns:
        The parameters, in the dtypes that they had.

    Raises:
        ValueError: if an argument is wrong, as in `fire`.

    Examples:
        >>> import jax.numpy as jnp
        >>> print(fire_projection(jnp.diag(jnp.array([2.0, 0.5]))).round(2))
        [[1. 0.]
         [0. 1.]]
    """
    ns_steps = static_integer("ns_steps", ns_steps, 0)
    treedef: Any = jax.tree.structure(params)
    axes = kernel_axes(params, matrix_mask, ensemble_axes, heads=heads)
    projected = [
        leaf
        if number is None
        else _project(leaf.astype(working_dtype(leaf)), axes=number, steps=ns_steps).astype(
            leaf.dtype
        )
        for leaf, number in zip(jax.tree.leaves(params), axes, strict=True)
    ]
    return treedef.unflatten(projected)


def _project(kernel: jax.Array, *, axes: int, steps: int) -> jax.Array:
    """Of one kernel in the working dtype, whose `axes` first axes index members."""

    def polar(matrix: jax.Array) -> jax.Array:
        length = norm(matrix)
        start = matrix / jnp.where(length > 0, length, 1)
        step = lambda _, x: x - orthogonality_residual(x) / 2  # noqa: E731
        return jax.lax.fori_loop(0, steps, step, start)

    *_, inputs, outputs = kernel.shape
    places = math.prod(kernel.shape[axes:-2])
    scale = math.sqrt(outputs / inputs) / places
    return scale * on_matrices(polar, kernel.ndim - 2, kernel)
