"""Normalize-and-Project: kernels keep their initial norms, or columns of length one."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_params
from optim._kernels import kernel_axes
from optim._leaves import norm, working_dtype
from optim._parameter_map import mapped_update
from optim._promotion import with_standard_promotion
from optim._trained import on_trained_leaves

Norms = Literal["initial", "unit_columns"]


class NormalizeProjectState(NamedTuple):
    """State of `normalize_project`."""

    # For each projected kernel, one number for each member; None with unit columns.
    norms: optax.Params | None
    inner_state: optax.OptState


@on_trained_leaves
def normalize_project(
    inner: optax.GradientTransformation,
    norms: Norms = "initial",
    matrix_mask: Any | Callable[[optax.Params], Any] | None = None,
    ensemble_axes: int | Any | None = None,
    heads: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales kernels back to given norms after every update of an optimizer.

    With :math:`u` the update by the inner optimizer, :math:`W' = W + u` and :math:`\rho` the norm
    of the kernel that the optimizer began with,

    .. math::

      \begin{align*}
        W &\leftarrow \rho\, W' / \|W'\|_F && \text{norms "initial"} \\
        W_{\cdot j} &\leftarrow W'_{\cdot j} / \max(\|W'_{\cdot j}\|, 10^{-8})
          && \text{norms "unit\_columns"}
      \end{align*}

    where column :math:`j` holds all weights into output :math:`j`. The inner optimizer is not told.

    Both are meant for networks that do not depend on the lengths of their weights: "initial" is
    that of Normalize-and-Project, which puts a normalisation before every nonlinearity, and
    "unit_columns" that of SimbaV2, whose features are normalised and whose layers have no biases.

    Args:
        inner: a whole optimizer, learning rate included, for example `optax.adam(1e-4)`.
        norms: which norms the kernels are scaled to.
        matrix_mask: booleans that select the kernels: a pytree that mirrors the parameters or is a
            prefix of them, matched by names, or a function from parameters to one. `None` selects
            all but the heads, see `heads`. With none selected this is the inner optimizer, bit for
            bit.
        ensemble_axes: number of leading axes that index the members of an ensemble, for all leaves
            or as a pytree like `matrix_mask`. Each member has norms of its own. `None` is 0.
        heads: whether a `matrix_mask` of `None` selects the last layer of each network too. Layers
            are ordered by their names; networks are the entries at the top of a tree of three or
            more levels.

    Returns:
        The optimizer. `update` needs the parameters; extra arguments go to the inner optimizer.

    Raises:
        ValueError: if `norms` is unknown; from `init` or `update`, if a selected kernel is complex
            or `ensemble_axes` is traced or negative; from `update`, if `params` is missing.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = normalize_project(optax.sgd(1.0))
        >>> params = jnp.array([[5.0], [0.0]])
        >>> grads = jnp.array([[-1.0], [-8.0]])
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> print(optax.apply_updates(params, updates).ravel())
        [3. 4.]

    References:
        Lyle et al., `Normalization and effective learning rates in reinforcement learning
        <https://arxiv.org/abs/2407.01800>`_, NeurIPS 2024, arXiv 2407.01800.
        Lee et al., `Hyperspherical Normalization for Scalable Deep Reinforcement Learning
        <https://arxiv.org/abs/2502.15280>`_, ICML 2025, arXiv 2502.15280.

    .. note::
      With weights of constant length the learning rate does not fall by itself any more: the
      authors of the first paper let it fall linearly.

    .. note::
      The first paper's source could not be read. What it does with scales and offsets of
      normalisation layers and how often it projects is not known here: those leaves are left
      alone, and every update is projected.

    .. note::
      A policy's last layer is initialised small, and a value's at a size that has nothing to do
      with returns: with norms that stay as they are they could hardly learn. Hence the default of
      `heads`, where the sources name no exception.

    .. note::
      A kernel that begins or ends up with norm 0 is left alone, and so trains freely if all of it
      was 0 at first.

    .. note::
      SimbaV2 also normalises what the networks begin with: `normalize_kernels`. Here that happens
      in the first update. Its target networks are averages that are not normalised.
    """
    if norms not in get_args(Norms):
        raise ValueError(f"norms must be one of {', '.join(get_args(Norms))}, got {norms!r}.")
    inner = with_standard_promotion(inner)

    def axes_of(params: Any) -> list[int | None]:
        return kernel_axes(params, matrix_mask, ensemble_axes, heads=heads)

    def init_fn(params: optax.Params) -> NormalizeProjectState:
        treedef: Any = jax.tree.structure(params)
        kept = (
            None if norms == "unit_columns" else treedef.unflatten(_norms(params, axes_of(params)))
        )
        return NormalizeProjectState(kept, inner.init(params))

    def update_fn(
        updates: optax.Updates,
        state: NormalizeProjectState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, NormalizeProjectState]:
        check_params("Normalize-and-Project", params)
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        treedef: Any = jax.tree.structure(params)
        axes = axes_of(params)
        kept = [None] * len(axes) if state.norms is None else jax.tree.leaves(state.norms)
        projected = [
            update
            if number is None
            else mapped_update(
                update, leaf, functools.partial(_project, axes=number, length=length)
            )
            for update, leaf, number, length in zip(
                treedef.flatten_up_to(updates), jax.tree.leaves(params), axes, kept, strict=True
            )
        ]
        return treedef.unflatten(projected), NormalizeProjectState(state.norms, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def normalize_kernels(
    params: optax.Params,
    like: optax.Params | None = None,
    matrix_mask: Any | Callable[[optax.Params], Any] | None = None,
    ensemble_axes: int | Any | None = None,
    heads: bool = False,
) -> optax.Params:
    """Scales kernels as `normalize_project` does, once.

    Args:
        params: the parameters.
        like: parameters whose kernels have the norms wanted; `None` for columns of length 1.
        matrix_mask: see `normalize_project`.
        ensemble_axes: see `normalize_project`.
        heads: see `normalize_project`.

    Returns:
        The parameters, in the dtypes that they had.

    Raises:
        ValueError: if an argument is wrong, as in `normalize_project`.

    Examples:
        >>> import jax.numpy as jnp
        >>> print(normalize_kernels(jnp.array([[3.0, 0.0], [4.0, 2.0]])))
        [[0.6 0. ]
         [0.8 1. ]]
    """
    treedef: Any = jax.tree.structure(params)
    axes = kernel_axes(params, matrix_mask, ensemble_axes, heads=heads)
    kept = [None] * len(axes) if like is None else _norms(like, axes)
    projected = [
        leaf if number is None else _project(_wide(leaf), number, length).astype(leaf.dtype)
        for leaf, number, length in zip(jax.tree.leaves(params), axes, kept, strict=True)
    ]
    return treedef.unflatten(projected)


def _norms(params: Any, axes: list[int | None]) -> list[Any]:
    """Of each kernel's members, with axes of length 1; nothing for other leaves and for shapes."""

    def of_leaf(leaf: Any, number: int | None) -> jax.Array:
        if number is None:
            return jnp.zeros(0)
        if isinstance(leaf, jax.ShapeDtypeStruct):
            shape = (*leaf.shape[:number], *(1 for _ in leaf.shape[number:]))
            return jnp.zeros(shape, working_dtype(leaf))
        return norm(_wide(leaf), tuple(range(number, leaf.ndim)))

    return [
        of_leaf(leaf, number) for leaf, number in zip(jax.tree.leaves(params), axes, strict=True)
    ]


def _project(kernel: jax.Array, axes: int, length: jax.Array | None) -> jax.Array:
    """Scales each member to a length, or each of its columns to 1."""
    if length is None:
        lengths = norm(kernel, tuple(range(axes, kernel.ndim - 1)))
        return kernel / jnp.maximum(lengths, 1e-8)
    present = norm(kernel, tuple(range(axes, kernel.ndim)))
    can_scale = (present > 0) & (length > 0)
    factor = jnp.where(can_scale, length / jnp.where(can_scale, present, 1), 1)
    return kernel * factor


def _wide(leaf: jax.Array) -> jax.Array:
    return leaf.astype(working_dtype(leaf))
