"""SOAP: Adam in the eigenbases of Shampoo's preconditioner, which are refreshed now and then."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim._batching import in_turn
from optim._checks import (
    check_learning_rate,
    check_range,
    check_steps_between,
    static_integer,
)
from optim._leaves import (
    average,
    average_of_squares,
    bias_correction,
    bounded,
    safe_sqrt,
    working_dtype,
    working_zeros,
)
from optim._paths import as_mask
from optim._trained import on_trained_leaves

_MAX_PRECOND_DIM = 10_000

# What is done with the bases after a step.
_KEEP, _START, _REFRESH = range(3)


class ScaleBySoapState(NamedTuple):
    """State of `scale_by_soap`. Its numbers are float32, or float64 if the parameter is."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32, updates so far
    mu: optax.Updates  # like params, not rotated
    nu: optax.Updates  # like params, in the bases
    # Of each leaf a tuple of square matrices, one for each axis that is rotated.
    factors: optax.Updates
    bases: optax.Updates  # orthogonal, columns in descending order of the factor's eigenvalues


@on_trained_leaves
def scale_by_soap(
    b1: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.95,
    eps: jax.typing.ArrayLike = 1e-8,
    shampoo_beta: jax.typing.ArrayLike | None = None,
    precondition_frequency: int = 10,
    max_precond_dim: int | None = None,
    precondition_1d: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Rescales updates as SOAP does, without learning rate and weight decay.

    See `soap` for the equations, the arguments and the notes.

    Args:
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the denominator outside the root, greater than 0.
        shampoo_beta: decay rate of the factors, in [0, 1). `None` is `b2`.
        precondition_frequency: steps between two refreshments of the bases, an integer of at least
            1.
        max_precond_dim: longest axis that is rotated, a static integer of at least 0. `None` is
            10000.
        precondition_1d: whether leaves with one axis are rotated too.

    Returns:
        The transformation. Its first update is zero.

    Raises:
        ValueError: if a number is outside its range or `max_precond_dim` is traced; if a parameter
            is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> direction = scale_by_soap()
        >>> grads = jnp.diag(jnp.array([1.0, 2.0]))
        >>> state = direction.init(grads)
        >>> for _ in range(2):
        ...     updates, state = direction.update(grads, state)
        ...     print(updates.round(1))
        [[0. 0.]
         [0. 0.]]
        [[1. 0.]
         [0. 1.]]

    References:
        Vyas et al., `SOAP: Improving and Stabilizing Shampoo using Adam
        <https://arxiv.org/abs/2409.11321>`_, ICLR 2025, arXiv 2409.11321.
    """
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    check_range("eps", eps, 0.0, open_low=True)
    if shampoo_beta is not None:
        check_range("shampoo_beta", shampoo_beta, 0.0, 1.0)
    check_steps_between("precondition_frequency", precondition_frequency)
    longest = static_integer(
        "max_precond_dim", _MAX_PRECOND_DIM if max_precond_dim is None else max_precond_dim, 0
    )
    factor_beta = b2 if shampoo_beta is None else shampoo_beta

    def rotated_axes(leaf: Any) -> list[int]:
        if leaf.size == 0 or (leaf.ndim == 1 and not precondition_1d):
            return []
        return [axis for axis, size in enumerate(leaf.shape) if size <= longest]

    def init_fn(params: optax.Params) -> ScaleBySoapState:
        def squares(make: Any, leaf: Any) -> tuple[jax.Array, ...]:
            sizes = [leaf.shape[axis] for axis in rotated_axes(leaf)]
            return tuple(make((size, size), working_dtype(leaf)) for size in sizes)

        return ScaleBySoapState(
            count=jnp.zeros([], jnp.int32),
            mu=working_zeros(params),
            nu=working_zeros(params),
            factors=jax.tree.map(lambda leaf: squares(jnp.zeros, leaf), params),
            bases=jax.tree.map(lambda leaf: squares(_identity, leaf), params),
        )

    def compute(count: jax.Array, grads: Any, mu: Any, nu: Any, factors: Any, bases: Any) -> Any:
        """One step of lists of leaves; its results mirror the last five arguments."""
        axes = [rotated_axes(g) for g in grads]
        grads = [bounded(g, m.dtype) for g, m in zip(grads, mu, strict=True)]
        is_first = count == 0
        period = jnp.asarray(precondition_frequency, jnp.int32)
        action = jnp.where(is_first, _START, jnp.where(count % period == 0, _REFRESH, _KEEP))

        def started(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda n, o: jnp.where(is_first, o, n), new, old)

        mu = started(average(b1, mu, grads), mu)
        rotated = [_rotate(*leaf) for leaf in zip(grads, axes, bases, strict=True)]
        nu = started(average_of_squares(b2, nu, rotated), nu)
        directions = [direction(count, *leaf) for leaf in zip(mu, nu, axes, bases, strict=True)]
        grams = [[_gram(g, axis) for axis in g_axes] for g, g_axes in zip(grads, axes, strict=True)]
        factors = average(factor_beta, factors, grams)
        bases, orders = in_turn(_next_bases)(action, *jax.lax.stop_gradient((factors, bases)))
        nu = [
            jax.lax.cond(action == _REFRESH, _reorder(leaf_axes), lambda v, _: v, v, order)
            if leaf_axes
            else v
            for v, leaf_axes, order in zip(nu, axes, orders, strict=True)
        ]
        return directions, mu, nu, factors, bases

    def direction(
        count: jax.Array, m: jax.Array, v: jax.Array, axes: list[int], bases: list[jax.Array]
    ) -> jax.Array:
        steps = jnp.maximum(count, 1)  # The first update is not counted.
        step = _rotate(m, axes, bases) / (safe_sqrt(v) + jnp.asarray(eps, v.dtype))
        correction1, correction2 = (bias_correction(beta, steps, v.dtype) for beta in (b1, b2))
        step = step * (jnp.sqrt(correction2) / correction1)
        return jnp.where(count == 0, 0, _rotate(step, axes, bases, back=True))

    def update_fn(
        updates: optax.Updates,
        state: ScaleBySoapState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleBySoapState]:
        del params, extra_args
        treedef: Any
        grads, treedef = jax.tree.flatten(updates)
        # The matrices of a leaf as a plain list, whatever node a model may have made of the tuple.
        lists = [
            treedef.flatten_up_to(state.mu),
            treedef.flatten_up_to(state.nu),
            [jax.tree.leaves(node) for node in treedef.flatten_up_to(state.factors)],
            [jax.tree.leaves(node) for node in treedef.flatten_up_to(state.bases)],
        ]
        step = compute
        # With shardings in the types, products of sharded matrices are ambiguous: leave those to
        # XLA.
        if jax.sharding.get_abstract_mesh().explicit_axes:
            shardings = jax.tree.map(lambda leaf: jax.typeof(leaf).sharding, (grads, *lists))
            step = jax.sharding.auto_axes(compute, out_sharding=shardings)
        directions, mu, nu, *matrices = step(state.count, grads, *lists)
        directions = [d.astype(g.dtype) for d, g in zip(directions, grads, strict=True)]
        nodes = zip((state.factors, state.bases), matrices, strict=True)
        factors, bases = (
            jax.tree.unflatten(jax.tree.structure(old), jax.tree.leaves(new)) for old, new in nodes
        )
        count = optax.safe_increment(state.count)
        mu, nu = treedef.unflatten(mu), treedef.unflatten(nu)
        return treedef.unflatten(directions), ScaleBySoapState(count, mu, nu, factors, bases)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@on_trained_leaves
def soap(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.95,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: jax.typing.ArrayLike = 0.01,
    mask: Any | None = None,
    shampoo_beta: jax.typing.ArrayLike | None = None,
    precondition_frequency: int = 10,
    max_precond_dim: int | None = None,
    precondition_1d: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""The SOAP optimizer: Adam in a basis in which gradients are nearly uncorrelated.

    For each axis :math:`i` of a tensor, a factor :math:`L_i` averages the products of its gradient
    with itself over all other axes, and the columns of :math:`Q_i` are about its eigenvectors.
    With :math:`R(x)` the tensor x times all :math:`Q_i` along their axes (:math:`Q_1^\top x\, Q_2`
    for a matrix), for :math:`t \ge 1`,

    .. math::

      \begin{align*}
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad
        v \leftarrow \beta_2 v + (1 - \beta_2)\, R(g)^2 \\
        \theta &\leftarrow \theta - \alpha \left(
          \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}\,
          R^{-1}\!\left( \frac{R(m)}{\sqrt{v} + \varepsilon} \right) + \lambda \theta \right) \\
        L_i &\leftarrow \beta_s L_i + (1 - \beta_s)\, g_{(i)} g_{(i)}^\top
      \end{align*}

    where :math:`g_{(i)}` is g unfolded along axis i. Where t is a multiple of
    `precondition_frequency`, the columns of :math:`Q_i` are then sorted by
    :math:`\operatorname{diag}(Q_i^\top L_i Q_i)`, with :math:`v` along, and replaced by the
    orthogonal factor of a QR decomposition of :math:`L_i Q_i`.

    The first update is that of :math:`t = 0`: it sets :math:`L_i` and, with a decomposition into
    eigenvectors, :math:`Q_i`. The parameters and the moments stay as they are.

    Args:
        learning_rate: step size, greater than 0, or a schedule, which counts the first update too.
            The authors take 3e-3 for language models.
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the denominator outside the root, greater than 0.
        weight_decay: decoupled weight decay :math:`\lambda`, at least 0, multiplied by the learning
            rate.
        mask: booleans that select the leaves with weight decay, a pytree or a function, as in
            `optax.adamw`.
        shampoo_beta: decay rate :math:`\beta_s` of the factors, in [0, 1). `None` is `b2`.
        precondition_frequency: steps between two refreshments of the bases, an integer of at least
            1.
        max_precond_dim: longest axis that is rotated, a static integer of at least 0; along longer
            ones the basis stays as it is. With 0, SOAP is AdamW, one update late. `None` is the
            authors' 10000.
        precondition_1d: whether leaves with one axis are rotated too, within `max_precond_dim`.

    Returns:
        The optimizer. `update` needs the parameters and ignores extra arguments.

    Raises:
        ValueError: if a number is outside its range or `max_precond_dim` is traced; from `update`,
            if `params` is missing; if a parameter is complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> loss = lambda params: jnp.sum((params @ jnp.array([[1.0, 2.0], [0.0, 1.0]])) ** 2)
        >>> optimizer = soap(learning_rate=0.05)
        >>> params = jnp.array([[1.0, -2.0], [3.0, 0.5]])
        >>> state, update = optimizer.init(params), jax.jit(optimizer.update)
        >>> for _ in range(200):
        ...     updates, state = update(jax.grad(loss)(params), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(jnp.max(jnp.abs(params)) < 0.2)
        True

    References:
        Vyas et al., `SOAP: Improving and Stabilizing Shampoo using Adam
        <https://arxiv.org/abs/2409.11321>`_, ICLR 2025, arXiv 2409.11321.

    .. note::
      It follows the authors' code for PyTorch; their port to JAX forgets the second moment but
      where bases are refreshed. As there, the denominator is of the uncorrected :math:`v`, so
      :math:`\varepsilon` weighs more in the first steps than in `optax.adam`, and every axis of a
      kernel of a convolution has a factor of its own. There the weight decay acts on the parameters
      after the step, here on those before it, as in `optax.adamw`: a difference of
      :math:`\alpha \lambda` of the step.

    .. note::
      Left out are the authors' `merge_dims`, which depends on the layout of kernels,
      `normalize_grads`, and `correct_bias`, which is always on.

    .. note::
      Moments, factors and steps are in float32 at least. Entries of the gradient are held within
      :math:`\pm 10^{15}`, far beyond what a learner meets, so that their squares stay finite. The
      bases are constants to `jax.grad`.

    .. note::
      Under `jax.vmap` the decompositions run one after the other: on a CPU, two batched ones at
      once can wait for each other for ever. Only updates that refresh pay for them. Members of an
      ensemble on a leading axis share factors, and that axis has one, unless the optimizer is
      vmapped over it.

    .. note::
      Under `optax.inject_hyperparams`, name `max_precond_dim` in `static_args` if it is given, and
      `mask` if it is a function.
    """
    check_learning_rate(learning_rate)
    check_range("weight_decay", weight_decay, 0.0)
    optimizer = optax.chain(
        scale_by_soap(
            b1=b1,
            b2=b2,
            eps=eps,
            shampoo_beta=shampoo_beta,
            precondition_frequency=precondition_frequency,
            max_precond_dim=max_precond_dim,
            precondition_1d=precondition_1d,
        ),
        optax.add_decayed_weights(weight_decay, as_mask("mask", mask)),
        optax.scale_by_learning_rate(learning_rate),
    )

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        """The first update is zero, weight decay included."""
        is_first = state[0].count == 0
        updates, state = optimizer.update(updates, state, params, **extra_args)
        return jax.tree.map(lambda leaf: jnp.where(is_first, 0, leaf), updates), state

    return optax.GradientTransformationExtraArgs(optimizer.init, update_fn)


def _identity(shape: tuple[int, int], dtype: Any) -> jax.Array:
    return jnp.eye(*shape, dtype=dtype)


def _rotate(
    x: jax.Array, axes: Sequence[int], bases: Sequence[jax.Array], *, back: bool = False
) -> jax.Array:
    """Times the matrices along the axes; back, times their transposes."""
    for axis, basis in zip(axes, bases, strict=True):
        product = jnp.tensordot(
            x, basis, ((axis,), (int(back),)), precision=jax.lax.Precision.HIGHEST
        )
        x = jnp.moveaxis(product, -1, axis)
    return x


def _gram(x: jax.Array, axis: int) -> jax.Array:
    """The products of the slices along an axis with each other."""
    others = tuple(i for i in range(x.ndim) if i != axis)
    return jnp.tensordot(x, x, (others, others), precision=jax.lax.Precision.HIGHEST)


def _next_bases(action: jax.Array, factors: Any, bases: Any) -> tuple[Any, Any]:
    """Bases of lists of factors, and where their columns have been before."""

    def columns(factor: jax.Array) -> jax.Array:
        return jnp.arange(len(factor), dtype=jnp.int32)

    def keep() -> tuple[Any, Any]:
        return bases, jax.tree.map(columns, factors)

    def start() -> tuple[Any, Any]:
        decomposed = jax.tree.map(lambda factor: jnp.linalg.eigh(factor)[1][:, ::-1], factors)
        return decomposed, jax.tree.map(columns, factors)

    def refresh() -> tuple[Any, Any]:
        products = jax.tree.map(_times, factors, bases)
        orders = jax.tree.map(_order, bases, products)
        sort = lambda product, order: jnp.linalg.qr(product[:, order])[0]  # noqa: E731
        return jax.tree.map(sort, products, orders), orders

    return jax.lax.switch(action, (keep, start, refresh))


def _times(factor: jax.Array, basis: jax.Array) -> jax.Array:
    return jnp.matmul(factor, basis, precision=jax.lax.Precision.HIGHEST)


def _order(basis: jax.Array, product: jax.Array) -> jax.Array:
    """The columns of a basis in descending order of their quotients, from factor times basis."""
    return jnp.argsort(jnp.sum(basis * product, axis=0), descending=True).astype(jnp.int32)


def _reorder(axes: Sequence[int]) -> Any:
    def reorder(v: jax.Array, orders: Sequence[jax.Array]) -> jax.Array:
        for axis, order in zip(axes, orders, strict=True):
            v = jnp.take(v, order, axis=axis)
        return v

    return reorder
