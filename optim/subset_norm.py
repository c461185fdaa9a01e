"""Subset-norm Adam: one second moment for every group of weights."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_learning_rate, check_range, static_integer
from optim._leaves import average, bias_correction, safe_sqrt, working_zeros
from optim._paths import as_mask
from optim._trained import on_trained_leaves

Subsets = Literal["heuristics", "generic"]


class ScaleBySubsetNormState(NamedTuple):
    """State of `scale_by_subset_norm`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32
    mu: optax.Updates  # like params, at least float32
    # One number for each subset: shape (rows, 1) or (1, columns) for "heuristics", (subsets,) for
    # "generic", and that of the parameter where it has no subsets.
    nu: optax.Updates


@on_trained_leaves
def scale_by_subset_norm(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-6,
    subsets: Subsets = "heuristics",
    subset_size: int | None = None,
    accumulate: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Rescales updates as Adam with subset norms does, without decay and learning rate.

    See `subset_norm` for the equations, the arguments and the notes.

    Args:
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1); unused if `accumulate`.
        eps: added to the denominator before the bias correction, at least 0.
        subsets: `"heuristics"` or `"generic"`.
        subset_size: largest size of a generic subset, an integer of at least 1.
        accumulate: whether the squares are summed, not averaged.

    Returns:
        The transformation.

    Raises:
        ValueError: if `subsets` is unknown or a number is outside its range; from `update`, if a
            gradient is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> direction = scale_by_subset_norm()
        >>> grads = jnp.array([[5.0, 0.0], [4.0, 3.0], [0.0, 0.0]])
        >>> updates, state = direction.update(grads, direction.init(grads))
        >>> print(updates.round(1))
        [[1.  0. ]
         [0.8 0.6]
         [0.  0. ]]

    References:
        Nguyen and Nguyen, `Subset-Norm and Subspace-Momentum: Faster Memory-Efficient Adaptive
        Optimization with Convergence Guarantees <https://arxiv.org/abs/2411.07120>`_, 2024, arXiv
        2411.07120.
    """
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    check_range("eps", eps, 0.0)
    if subsets not in get_args(Subsets):
        raise ValueError(f"subsets must be one of {', '.join(get_args(Subsets))}, got {subsets!r}.")
    largest = None if subset_size is None else static_integer("subset_size", subset_size, 1)

    def square_sums(square: jax.Array) -> jax.Array:
        if subsets == "heuristics":
            return _sum_over_axis(square)
        return _sum_over_groups(square, largest)

    def init_fn(params: optax.Params) -> ScaleBySubsetNormState:
        return ScaleBySubsetNormState(
            count=jnp.zeros([], jnp.int32),
            mu=working_zeros(params),
            nu=jax.tree.map(square_sums, working_zeros(params)),
        )

    def update_fn(
        updates: optax.Updates,
        state: ScaleBySubsetNormState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleBySubsetNormState]:
        del params, extra_args
        count = optax.safe_increment(state.count)

        def second_moment(g: jax.Array, v: jax.Array) -> jax.Array:
            sums = square_sums(jnp.square(g.astype(v.dtype)))
            return v + sums if accumulate else average(b2, v, sums)

        def direction(g: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
            dtype = m.dtype
            denominator = safe_sqrt(v) + jnp.asarray(eps, dtype)
            if subsets == "generic":
                denominator = _expand_groups(denominator, m)
            scale = 1 / bias_correction(b1, count, dtype)
            if not accumulate:
                scale = scale * jnp.sqrt(bias_correction(b2, count, dtype))
            return (scale * m / denominator).astype(g.dtype)

        mu = average(b1, state.mu, updates)
        nu = jax.tree.map(second_moment, updates, state.nu)
        updates = jax.tree.map(direction, updates, mu, nu)
        return updates, ScaleBySubsetNormState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@on_trained_leaves
def subset_norm(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-6,
    weight_decay: jax.typing.ArrayLike = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    subsets: Subsets = "heuristics",
    subset_size: int | None = None,
    accumulate: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with subset norms: groups of weights share one second moment.

    The weights of a matrix are divided into subsets :math:`S`. With the gradient :math:`g`,

    .. math::

      \begin{align*}
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad
        v_S \leftarrow \beta_2 v_S + (1 - \beta_2) \sum_{i \in S} g_i^2 \\
        \theta_i &\leftarrow \theta_i - \alpha \left(
          \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \cdot \frac{m_i}{\sqrt{v_S} + \varepsilon}
          + \lambda \theta_i \right) \quad \text{for } i \in S
      \end{align*}

    The squares are summed, not averaged, so steps are smaller than Adam's by about the root of a
    subset's size: the authors' learning rates are about ten times those of Adam.

    Args:
        learning_rate: step size, greater than 0, or a schedule.
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1); unused if `accumulate`.
        eps: added to the denominator before the bias correction, at least 0.
        weight_decay: strength of the decoupled weight decay, at least 0.
        weight_decay_mask: booleans that select the decayed leaves: a pytree that mirrors the
            parameters or is a prefix of them, or a function from parameters to one. `None` selects
            all.
        subsets: how leaves are divided. `"heuristics"`: leaves with exactly two axes have one
            subset for each index of the longer axis (of the last one in square matrices), all
            others none. `"generic"`: leaves with two axes or more are divided into subsets of equal
            size. Leaves without subsets take Adam's steps.
        subset_size: largest size of a generic subset, an integer of at least 1 that is not traced:
            the size is its largest divisor of the number of weights. `None` is half the root of the
            number of weights. With 1, all leaves take Adam's steps.
        accumulate: whether the squares are summed over the steps, as in AdaGrad, not averaged. Must
            not be traced.

    Returns:
        The optimizer. `update` needs the parameters and ignores extra arguments.

    Raises:
        ValueError: if `subsets` is unknown or a number is outside its range; from `update`, if a
            gradient is complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> loss = lambda params: jnp.sum(params["kernel"] ** 2) + jnp.sum(params["bias"] ** 2)
        >>> optimizer = subset_norm(learning_rate=0.1)
        >>> params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
        >>> state = optimizer.init(params)
        >>> for _ in range(5):
        ...     grads = jax.grad(loss)(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params["kernel"][0].round(2), params["bias"].round(2))
        [0.71 0.71 0.71] [0.51 0.51 0.51]
        >>> state[0].nu["kernel"].shape
        (4, 1)

    References:
        Nguyen and Nguyen, `Subset-Norm and Subspace-Momentum: Faster Memory-Efficient Adaptive
        Optimization with Convergence Guarantees <https://arxiv.org/abs/2411.07120>`_, 2024, arXiv
        2411.07120.

    .. note::
      Generic subsets are runs of neighbours in the order in which PyTorch stores the weights:
      (outputs, inputs), and (outputs, inputs, height, width) for convolutions. The kernels of flax
      are transposed to that order first. A prime number of weights has no divisor but 1, which
      gives Adam's step.

    .. note::
      `eps` is added before the bias correction, so it counts for more in the first steps than
      Adam's does. The authors decay the weights after the step, which differs by
      :math:`\alpha^2 \lambda` times the direction, write `b2=1` for `accumulate`, and advise
      subset norms for linear layers only.

    .. note::
      With bfloat16 parameters, `optax.inject_hyperparams` rounds a decay rate of 0.999 to 1, which
      makes steps wrong or NaN: give it `hyperparam_dtype=jnp.float32`.
    """
    check_learning_rate(learning_rate)
    check_range("weight_decay", weight_decay, 0.0)
    return optax.chain(
        scale_by_subset_norm(
            b1=b1,
            b2=b2,
            eps=eps,
            subsets=subsets,
            subset_size=subset_size,
            accumulate=accumulate,
        ),
        optax.add_decayed_weights(weight_decay, as_mask("weight_decay_mask", weight_decay_mask)),
        optax.scale_by_learning_rate(learning_rate),
    )


def _sum_over_axis(square: jax.Array) -> jax.Array:
    """Sums a matrix over its shorter axis, which is kept with length 1; other leaves are kept."""
    if square.ndim != 2:
        return square
    rows, columns = square.shape
    return jnp.sum(square, axis=1 if rows > columns else 0, keepdims=True)


def _group_size(weights: int, largest: int | None) -> int:
    """The largest divisor of the number of weights that is not above `largest`."""
    size = int(math.sqrt(weights) / 2) if largest is None else largest
    return next(k for k in range(max(min(size, weights), 1), 0, -1) if weights % k == 0)


def _torch_axes(ndim: int) -> tuple[int, ...]:
    """The axes of a kernel of flax in PyTorch's order: outputs, inputs, window."""
    return (ndim - 1, ndim - 2, *range(ndim - 2))


def _sum_over_groups(square: jax.Array, largest: int | None) -> jax.Array:
    """Sums over each group, shape (groups,); leaves with fewer than two axes are kept."""
    if square.ndim < 2 or square.size == 0:
        return square
    size = _group_size(square.size, largest)

    def sums(square: jax.Array) -> jax.Array:
        return square.transpose(_torch_axes(square.ndim)).reshape(-1, size).sum(axis=1)

    # With shardings in the types, a reshape of a sharded matrix is ambiguous: leave it to XLA.
    if jax.sharding.get_abstract_mesh().explicit_axes:
        sums = jax.sharding.auto_axes(sums, out_sharding=jax.P(None))
    return sums(square)


def _expand_groups(sums: jax.Array, like: jax.Array) -> jax.Array:
    """Gives every weight the number of its group."""
    if like.ndim < 2 or like.size == 0:
        return sums
    axes = _torch_axes(like.ndim)
    shape = [like.shape[axis] for axis in axes]
    inverse = sorted(range(like.ndim), key=axes.__getitem__)

    def expand(sums: jax.Array) -> jax.Array:
        return jnp.repeat(sums, like.size // sums.size).reshape(shape).transpose(inverse)

    if jax.sharding.get_abstract_mesh().explicit_axes:
        expand = jax.sharding.auto_axes(expand, out_sharding=jax.typeof(like).sharding)
    return expand(sums)
