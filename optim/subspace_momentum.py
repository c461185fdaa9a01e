"""Subspace momentum: momentum in a few directions of each matrix, plain gradients in the rest."""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from optim._checks import (
    check_learning_rate,
    check_range,
    check_steps_between,
    static_integer,
)
from optim._leaves import average, key_of_seed, working_dtype
from optim._trained import on_trained_leaves

Projection = Literal["svd", "uniform", "topk"]


class ScaleBySubspaceMomentumState(NamedTuple):
    """State of `scale_by_subspace_momentum`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32
    key: jax.Array  # shape=(2,), dtype=uint32; or a key of the kind that was given
    # Of a matrix: shape (rank, longer axis), in float32 at least. Of any other leaf: like it,
    # at least float32.
    mu: optax.Updates
    # Of a matrix: shape (rank, shorter axis), in float32 at least, orthonormal rows. Of any other
    # leaf: optax.MaskedNode().
    projection: optax.Updates


@on_trained_leaves
def scale_by_subspace_momentum(
    b1: jax.typing.ArrayLike = 0.9,
    rank: int = 16,
    update_proj_gap: int = 200,
    projection: Projection = "svd",
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Replaces gradients by their subspace momentum.

    See `subspace_momentum` for the equations, the arguments and the notes.

    Args:
        b1: decay rate of the momentum, in [0, 1).
        rank: dimensions of the subspace, an integer of at least 1.
        update_proj_gap: steps between two choices of the subspace, an integer of at least 1.
        projection: `"svd"`, `"uniform"` or `"topk"`.
        key: key or seed of the choice of `"uniform"`; `init` mixes it with the initial parameters.

    Returns:
        The transformation.

    Raises:
        ValueError: if `projection` is unknown or a number is outside its range; from `update`, if
            a gradient is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> direction = scale_by_subspace_momentum(rank=1)
        >>> grads = jnp.diag(jnp.array([1.0, 5.0]))
        >>> updates, state = direction.update(grads, direction.init(grads))
        >>> print(updates.round(1))
        [[1.  0. ]
         [0.  0.5]]

    References:
        Nguyen and Nguyen, `Subset-Norm and Subspace-Momentum: Faster Memory-Efficient Adaptive
        Optimization with Convergence Guarantees <https://arxiv.org/abs/2411.07120>`_, 2024, arXiv
        2411.07120.
    """
    check_range("b1", b1, 0.0, 1.0)
    rank = static_integer("rank", rank, 1)
    check_steps_between("update_proj_gap", update_proj_gap)
    if projection not in get_args(Projection):
        raise ValueError(
            f"projection must be one of {', '.join(get_args(Projection))}, got {projection!r}."
        )

    def init_momentum(p: jax.Array) -> jax.Array:
        if p.ndim != 2:
            return jnp.zeros_like(p, dtype=working_dtype(p))
        return jnp.zeros((min(rank, *p.shape), max(p.shape)), working_dtype(p))

    def init_projection(p: jax.Array) -> Any:
        if p.ndim != 2:
            return optax.MaskedNode()
        return jnp.zeros((min(rank, *p.shape), min(p.shape)), working_dtype(p))

    def init_fn(params: optax.Params) -> ScaleBySubspaceMomentumState:
        mu = jax.tree.map(init_momentum, params)
        return ScaleBySubspaceMomentumState(
            count=jnp.zeros([], jnp.int32),
            key=key_of_seed(key, params),
            mu=mu,
            projection=jax.tree.map(init_projection, params),
        )

    def update_fn(
        updates: optax.Updates,
        state: ScaleBySubspaceMomentumState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleBySubspaceMomentumState]:
        del params, extra_args
        due = state.count % jnp.asarray(update_proj_gap, jnp.int32) == 0
        new_key, draw_key = jax.random.split(state.key)
        leaves = jax.tree.leaves(updates)
        treedef: Any = jax.tree.structure(updates)
        keys = jax.random.split(draw_key, max(len(leaves), 1))
        momenta = treedef.flatten_up_to(state.mu)
        projections = treedef.flatten_up_to(state.projection)
        directions = []
        for i, g in enumerate(leaves):
            if g.ndim != 2:
                momenta[i] = average(b1, momenta[i], g)
                directions.append(momenta[i].astype(g.dtype))
                continue
            tall = g.shape[0] > g.shape[1]
            wide = g.astype(momenta[i].dtype)
            wide = wide.T if tall else wide
            chosen = _refresh(due, keys[i], wide, projections[i], projection)
            projected = _product(chosen, wide)
            momenta[i] = average(b1, jnp.where(due, 0, momenta[i]), projected)
            total = wide + _product(chosen.T, momenta[i] - projected)
            directions.append((total.T if tall else total).astype(g.dtype))
            projections[i] = chosen
        new_state = ScaleBySubspaceMomentumState(
            optax.safe_increment(state.count),
            new_key,
            treedef.unflatten(momenta),
            treedef.unflatten(projections),
        )
        return treedef.unflatten(directions), new_state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@on_trained_leaves
def subspace_momentum(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    rank: int = 16,
    update_proj_gap: int = 200,
    projection: Projection = "svd",
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Gradient descent with subspace momentum.

    Momentum is kept for :math:`k` directions of each matrix only. In all other directions the
    gradient is followed as it is. With the gradient :math:`G`, transposed if it has more rows than
    columns, and a matrix :math:`P` of :math:`k` orthonormal rows,

    .. math::

      \begin{align*}
        M &\leftarrow \beta_1 M + (1 - \beta_1)\, P G \\
        \theta &\leftarrow \theta - \alpha \left( P^\top M + (G - P^\top P G) \right)
      \end{align*}

    Every `update_proj_gap` steps, the first included, :math:`P` is chosen anew from the present
    gradient and :math:`M` starts at 0. All leaves but matrices have ordinary momentum,
    :math:`m \leftarrow \beta_1 m + (1 - \beta_1)\, g`. There is no bias correction.

    Args:
        learning_rate: step size, greater than 0, or a schedule.
        b1: decay rate of the momentum, in [0, 1).
        rank: dimensions :math:`k` of the subspace, an integer of at least 1 that is not traced;
            matrices whose shorter axis has fewer keep momentum in all directions.
        update_proj_gap: steps between two choices of the subspace, an integer of at least 1.
        projection: how the subspace is chosen. `"svd"`: the first left singular vectors of
            :math:`G`. `"uniform"`: rows of :math:`G` at random. `"topk"`: the rows of :math:`G`
            with the largest norms.
        key: key or seed of the choice of `"uniform"`; `init` mixes it with the initial parameters.

    Returns:
        The optimizer. `update` ignores extra arguments.

    Raises:
        ValueError: if `projection` is unknown or a number is outside its range; from `update`, if
            a gradient is complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> loss = lambda params: jnp.sum(params**2)
        >>> optimizer = subspace_momentum(learning_rate=0.1, rank=1)
        >>> params = jnp.diag(jnp.array([1.0, 5.0]))
        >>> state = optimizer.init(params)
        >>> for _ in range(5):
        ...     grads = jax.grad(loss)(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params.round(1))
        [[0.3 0. ]
         [0.  3.7]]
        >>> state[0].mu.shape
        (1, 2)

    References:
        Nguyen and Nguyen, `Subset-Norm and Subspace-Momentum: Faster Memory-Efficient Adaptive
        Optimization with Convergence Guarantees <https://arxiv.org/abs/2411.07120>`_, 2024, arXiv
        2411.07120.

    .. note::
      Here the momentum starts at 0 in the step that chooses a new subspace. The authors' code still
      uses the old momentum in that step and sets it to 0 for the next. `rank` and
      `update_proj_gap` have defaults of our own, sized for the networks of reinforcement
      learning; subspaces are always taken along the shorter axis.

    .. note::
      A matrix is a leaf with exactly two axes. Under `jax.vmap`, the decompositions run one after
      the other: on a CPU, two batched ones at once can wait for each other for ever. Only steps
      that choose a subspace pay for it. The choice is a constant to `jax.grad`.

    .. note::
      The draws of `"uniform"` depend on `key`, the step and the parameters given to `init`: seeds
      that start from different parameters draw different rows, under `jax.vmap` too.
    """
    check_learning_rate(learning_rate)
    return optax.chain(
        scale_by_subspace_momentum(
            b1=b1, rank=rank, update_proj_gap=update_proj_gap, projection=projection, key=key
        ),
        optax.scale_by_learning_rate(learning_rate),
    )


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    """A product in full precision: what is projected out must cancel."""
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def _refresh(
    due: jax.Array, key: jax.Array, g: jax.Array, old: jax.Array, projection: Projection
) -> jax.Array:
    """Chooses a new subspace where it is due. One at a time under vmap, with a real branch."""
    rank, rows = old.shape

    def choose(key: jax.Array, g: jax.Array) -> jax.Array:
        if projection == "svd":
            # Singular vectors do not change with size, and unit size cannot overflow.
            largest = jnp.max(jnp.abs(g), initial=0)
            unit = g / jnp.where(largest > 0, largest, 1)
            return jnp.linalg.svd(unit, full_matrices=False)[0].T[:rank].astype(old.dtype)
        if projection == "uniform":
            chosen = jax.random.permutation(key, rows)[:rank]
        else:
            largest = jnp.max(jnp.abs(g), initial=0)
            unit = g / jnp.where(largest > 0, largest, 1)
            chosen = jax.lax.top_k(jnp.sum(unit * unit, axis=1), rank)[1]
        return jax.nn.one_hot(chosen, rows, dtype=old.dtype)

    @jax.custom_batching.sequential_vmap
    def refresh(due: jax.Array, key: jax.Array, g: jax.Array, old: jax.Array) -> jax.Array:
        return jax.lax.cond(due, lambda: choose(key, g), lambda: old)

    return refresh(due, key, jax.lax.stop_gradient(g), jax.lax.stop_gradient(old))
