"""PSGD-Kron: whitening of the momentum by a Kronecker product learned with it.

What an update costs is a product for each axis: the preconditioner's factors are kept beside
their products with themselves, which change only when the factors do. Over a run of 39,063 updates
on PPO's Breakout networks half of the time goes into the 6 % of updates that learn the factors.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim._batching import in_turn
from optim._checks import check_learning_rate, check_range, check_real
from optim._leaves import bounded, key_of_seed
from optim._noise import normals
from optim._paths import as_mask
from optim._promotion import with_standard_promotion
from optim._trained import on_trained_leaves

# Noise on the momentum, relative to its mean size and absolute: without it the factors of a tensor
# whose gradients are 0 would grow for ever.
_RELATIVE_NOISE, _NOISE = float(jnp.finfo(jnp.float32).eps) ** 0.5, 1e-9
_BALANCED = 0.01  # share of the preconditioner's updates before which its factors are balanced
_LARGE = 256  # size from which zeros of triangular matrices are left out of products
_HIGHEST = jax.lax.Precision.HIGHEST

Factors = tuple[jax.Array, ...]  # one for each axis: of shape (size, size), or (size,) if diagonal


class KronState(NamedTuple):
    """State of `scale_by_kron`; all but the counts is float32."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32, updates so far
    waited: jax.Array  # shape=(), dtype=int32, updates since the preconditioner's last
    key: jax.Array  # key data, from which each update of the preconditioner folds in the count
    mu: optax.Updates  # the momentum, not corrected
    factors: Any  # for each leaf the factors Q of its axes; of a scalar, one of shape ()
    products: Any  # the same with Q^T Q


@on_trained_leaves
def scale_by_kron(
    b1: float = 0.9,
    preconditioner_rate: jax.typing.ArrayLike = 0.1,
    max_size: int = 8192,
    max_rms: jax.typing.ArrayLike = 1.1,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    """Rescales updates as PSGD-Kron does, without learning rate and weight decay.

    See `kron` for the equations and the notes.

    Args:
        b1: decay rate of the momentum, in (0, 1).
        preconditioner_rate: step size of the preconditioner, greater than 0.
        max_size: longest axis that gets a triangular factor; longer ones get a diagonal.
        max_rms: largest root mean square of the direction of a tensor, greater than 0.
        seed: seeds the noise of the preconditioner's updates; `init` mixes it with the initial
            parameters.

    Returns:
        The transformation, with a `KronState`.

    Raises:
        ValueError: if a number is outside its range; from `init`, if a parameter is complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> direction = scale_by_kron(max_size=16)
        >>> updates, _ = direction.update(jnp.ones(3), direction.init(jnp.ones(3)))

    References:
        Li, `Preconditioned Stochastic Gradient Descent <https://arxiv.org/abs/1512.04202>`_, 2015,
        arXiv 1512.04202.
    """
    check_range("b1", b1, 0.0, 1.0, open_low=True)
    check_range("preconditioner_rate", preconditioner_rate, 0.0, open_low=True)
    check_range("max_rms", max_rms, 0.0, open_low=True)

    def init_fn(params: optax.Params) -> KronState:
        check_real("kron", params)
        return KronState(
            count=jnp.zeros((), jnp.int32),
            waited=jnp.zeros((), jnp.int32),
            # A key made here is nobody else's buffer, so the state can be donated.
            key=key_of_seed(seed, params),
            mu=optax.tree.zeros_like(params, dtype=jnp.float32),
            factors=jax.tree.map(lambda leaf: _identities(jnp.shape(leaf), max_size), params),
            products=jax.tree.map(lambda leaf: _identities(jnp.shape(leaf), max_size), params),
        )

    def next_direction(grads: list[jax.Array], state: KronState) -> tuple[Any, KronState]:
        count = optax.safe_increment(state.count)
        mu = [b1 * m + (1 - b1) * g for m, g in zip(state.mu, grads, strict=True)]
        correction = 1 - jnp.float32(b1) ** count.astype(jnp.float32)
        means = [m / correction for m in mu]
        waited = state.waited + 1
        is_due = waited.astype(jnp.float32) >= 1 / _probability(state.count)
        fixed = jax.lax.stop_gradient

        def learn(i: jax.Array, both: Any) -> tuple[list[Factors], list[Factors]]:
            factors, _ = both
            # With i, so that XLA does not draw in updates that do not learn.
            key = jax.random.fold_in(state.key, count + i)
            noise_key, *keys = jax.random.split(key, len(means) + 1)
            words = jax.random.bits(noise_key, (2,), jnp.uint32)
            ends = list(itertools.accumulate(mean.size for mean in means))
            noise = jnp.split(normals(words, jnp.int32(0), ends[-1]), ends[:-1])
            rate = jnp.asarray(preconditioner_rate, jnp.float32)
            new = [
                _learned(key, numbers.reshape(mean.shape), fixed(mean), leaf, fixed(rate))
                for key, numbers, mean, leaf in zip(keys, noise, means, factors, strict=True)
            ]
            return new, [tuple(map(_squared, leaf)) for leaf in new]

        # A loop of one turn or none leaves large arrays in place, where `cond` copies them.
        factors, products = jax.lax.fori_loop(
            0, is_due.astype(jnp.int32), learn, fixed((state.factors, state.products))
        )
        whitened = [_along_axes(leaf, mean) for leaf, mean in zip(products, means, strict=True)]
        limit = jnp.asarray(max_rms, jnp.float32)
        return [_capped(direction, limit) for direction in whitened], state._replace(
            count=count,
            waited=jnp.where(is_due, 0, waited),
            mu=mu,
            factors=factors,
            products=products,
        )

    def update_fn(
        updates: optax.Updates,
        state: KronState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, KronState]:
        del params, extra_args
        treedef: Any
        grads, treedef = jax.tree.flatten(updates)
        chosen = [i for i, grad in enumerate(grads) if grad.size]  # of nothing there is no mean
        if not chosen:
            return updates, state
        whole = {name: treedef.flatten_up_to(getattr(state, name)) for name in _TREES}
        # flax nnx brings tuples back as nodes of its own.
        whole |= {n: [tuple(jax.tree.leaves(x)) for x in whole[n]] for n in _TREES[1:]}
        parts: dict[str, Any] = {name: [whole[name][i] for i in chosen] for name in _TREES}
        some = state._replace(**parts)
        small = [bounded(jnp.asarray(grads[i]), jnp.float32) for i in chosen]
        directions, some = in_turn(next_direction)(small, some)
        for place, direction in zip(chosen, directions, strict=True):
            grads[place] = direction.astype(grads[place].dtype)
        for name in _TREES:
            for place, leaf in zip(chosen, getattr(some, name), strict=True):
                whole[name][place] = leaf
        trees = {
            name: _like(getattr(state, name), treedef.unflatten(whole[name])) for name in _TREES
        }
        return treedef.unflatten(grads), some._replace(**trees)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@on_trained_leaves
def kron(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    weight_decay: jax.typing.ArrayLike = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    preconditioner_rate: jax.typing.ArrayLike = 0.1,
    max_size: int = 8192,
    max_rms: jax.typing.ArrayLike = 1.1,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""PSGD with a Kronecker-factored preconditioner, Kron for short.

    With the settings of the Kron of deep RL at scale: equivariant updates of triangular factors
    that whiten the momentum.

    A tensor with k axes has one upper triangular factor :math:`Q_i` for each, starting at the
    identity; vectors and scalars have a diagonal one. With momentum :math:`m = \hat m_t`, corrected
    as Adam's, noise :math:`V \sim N(0, I)`, :math:`A` the momentum (and a little of that noise)
    times all :math:`Q_i` along their axes and :math:`B` the noise times all :math:`Q_i^{-\top}`,
    now and then

    .. math::

      Q_i \leftarrow Q_i - \mu\, \operatorname{triu}(A_i A_i^\top - B_i B_i^\top)\, Q_i
        / \|A_i A_i^\top + B_i B_i^\top\|

    where :math:`A_i` is unfolded along axis i and the norm is a lower bound of the spectral one
    (before one in a hundred of these, all :math:`Q_i` are given the same largest entry); and at
    every update, with d the momentum times :math:`Q_i^\top Q_i` along every axis,

    .. math::

      \theta \leftarrow \theta - \alpha\, (d \min(1, \rho / \operatorname{rms}(d))
        + \lambda \theta).

    The preconditioner is updated always in the first 500 updates, then ever less, down to 3 of 100:
    once so many updates have passed that the probability
    :math:`p_n = \operatorname{clip}(e^{-(n - 500) / 1000}, 0.03, 1)` times their number is 1.

    Args:
        learning_rate: step size, greater than 0, or a schedule. In deep RL a third of Adam's has
            been used.
        b1: decay rate of the momentum, in (0, 1).
        weight_decay: strength :math:`\lambda` of the decoupled weight decay, at least 0.
        weight_decay_mask: booleans that select the decayed leaves: a pytree that mirrors the
            parameters or is a prefix of them, or a function from parameters to one. `None` selects
            those with two axes or more.
        preconditioner_rate: step size :math:`\mu` of the preconditioner, greater than 0.
        max_size: longest axis that gets a triangular factor; longer ones get a diagonal.
        max_rms: largest root mean square :math:`\rho` of the direction of a tensor, greater than 0.
        seed: seeds the noise of the preconditioner's updates; `init` mixes it with the initial
            parameters.

    Returns:
        The optimizer. It computes in float32; `update` needs the parameters and ignores extra
        arguments.

    Raises:
        ValueError: if a number is outside its range; from `init`, if a parameter is complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> optimizer = kron(learning_rate=1e-3)
        >>> params = {"kernel": jnp.ones((8, 4)), "bias": jnp.zeros(4)}
        >>> updates, state = jax.jit(optimizer.update)(params, optimizer.init(params), params)
        >>> [factor.shape for factor in state[0].factors["kernel"]]
        [(8, 8), (4, 4)]

    References:
        Li, `Preconditioned Stochastic Gradient Descent <https://arxiv.org/abs/1512.04202>`_, 2015,
        arXiv 1512.04202; Castanyer et al., `Stable Gradients for Stable Learning at Scale in Deep
        Reinforcement Learning <https://arxiv.org/abs/2506.15544>`_, 2025, arXiv 2506.15544.

    .. note::
      It differs from the PyTorch Kron of those experiments: kernels of convolutions keep all their
      axes, and the noise on the momentum has an absolute part of 1e-9, without which the factors
      of a tensor whose gradients are 0 grow for ever.

    .. note::
      Entries of the gradient are held within :math:`\pm 10^{15}`, far beyond what a learner meets,
      so that their squares stay finite.

    .. note::
      Under `jax.vmap` members are updated in turn, so that a preconditioner is computed only when
      it is due. Members that start from different parameters draw different noise. Members of an
      ensemble on a leading axis share factors unless the optimizer is vmapped over that axis.

    .. note::
      Derivatives through `update` take the preconditioner for fixed.

    .. note::
      `b1`, `max_size` and the size of the state must be known when the program is compiled:
      name `b1` and `max_size` in `static_args` of `optax.inject_hyperparams`.

    .. note::
      With bfloat16 parameters, `optax.inject_hyperparams` rounds all numbers to three digits:
      give it `hyperparam_dtype=jnp.float32`.
    """
    check_learning_rate(learning_rate)
    check_range("weight_decay", weight_decay, 0.0)
    chosen = _matrices if weight_decay_mask is None else weight_decay_mask
    mask = as_mask("weight_decay_mask", chosen)
    return optax.chain(
        scale_by_kron(
            b1=b1,
            preconditioner_rate=preconditioner_rate,
            max_size=max_size,
            max_rms=max_rms,
            seed=seed,
        ),
        with_standard_promotion(optax.add_decayed_weights(weight_decay, mask)),
        optax.scale_by_learning_rate(learning_rate),
    )


def _probability(count: jax.Array) -> jax.Array:
    """How often the preconditioner is updated: always at first, 3 of 100 in the end."""
    return jnp.clip(jnp.exp(-0.001 * (count.astype(jnp.float32) - 500)), 0.03, 1.0)


def _identities(shape: tuple[int, ...], max_size: int) -> Factors:
    """Factors of a leaf: triangular ones for the axes of matrices that are not too long."""
    if len(shape) < 2:
        return (jnp.ones(shape, jnp.float32),)
    return tuple(
        jnp.eye(size, dtype=jnp.float32) if 1 < size <= max_size else jnp.ones((size,), jnp.float32)
        for size in shape
    )


def _learned(
    key: jax.Array, noise: jax.Array, mean: jax.Array, factors: Factors, rate: jax.Array
) -> Factors:
    """One update of a leaf's factors."""
    if len(factors) > 1:
        is_due = jax.random.uniform(key) < _BALANCED
        factors = jax.lax.cond(is_due, _balanced, lambda same: same, factors)
    seen = mean + (_NOISE + _RELATIVE_NOISE * jnp.mean(jnp.abs(mean))) * noise
    a, b = _along_axes(factors, seen), _solved(factors, noise)
    new = []
    for axis, q in enumerate(factors):
        ours, theirs = _contracted(a, axis, q.ndim), _contracted(b, axis, q.ndim)
        difference, total = ours - theirs, ours + theirs
        if q.ndim == 2:
            step = _upper_product(jnp.triu(difference), q) / _norm(total)
        else:
            step = difference * q / _positive(jnp.max(jnp.abs(total)))
        new.append(q - rate * step)
    return tuple(new)


def _balanced(factors: Factors) -> Factors:
    """The factors with the same largest entry, and the same product."""
    sizes = [jnp.max(jnp.abs(q)) for q in factors]
    mean = jnp.exp(sum(map(jnp.log, sizes)) / len(sizes))
    return tuple(q * (mean / size) for q, size in zip(factors, sizes, strict=True))


def _along_axes(factors: Factors, x: jax.Array) -> jax.Array:
    """A tensor times each factor along its axis."""
    for axis, q in enumerate(factors):
        if q.ndim == 2:
            x = jnp.moveaxis(jnp.tensordot(q, x, axes=(1, axis), precision=_HIGHEST), 0, axis)
        else:
            x = x * _broadcast(q, axis, x.ndim)
    return x


def _solved(factors: Factors, x: jax.Array) -> jax.Array:
    """A tensor times the inverse of each transposed factor along its axis."""
    for axis, q in enumerate(factors):
        if q.ndim == 2:
            front = jnp.moveaxis(x, axis, 0)
            columns = front.reshape(len(q), -1)
            solved = jax.scipy.linalg.solve_triangular(q, columns, trans=1)
            x = jnp.moveaxis(solved.reshape(front.shape), 0, axis)
        else:
            x = x / _broadcast(q, axis, x.ndim)
    return x


def _contracted(x: jax.Array, axis: int, ndim: int) -> jax.Array:
    """A tensor times itself over all axes but one; of that only the diagonal if `ndim` is not 2."""
    if ndim == 0:
        return x * x
    columns = jnp.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    return _product(columns, columns.T) if ndim == 2 else jnp.sum(columns * columns, axis=1)


def _norm(matrix: jax.Array) -> jax.Array:
    """A lower bound of the spectral norm of a symmetric matrix, greater than 0."""
    scale = _positive(jnp.max(jnp.abs(matrix)))
    matrix = matrix / scale
    column = matrix[:, jnp.argmax(jnp.sum(matrix * matrix, axis=0))]
    image = _product(column, matrix)
    image = image / _positive(_length(image))
    return scale * _positive(_length(_product(matrix, image)))


def _capped(direction: jax.Array, max_rms: jax.Array) -> jax.Array:
    """Shorter, where its root mean square is larger than allowed."""
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(direction)))  # squares may overflow
    is_safe = jnp.isfinite(size) & (size > 0)
    scale = jnp.where(is_safe, size, 1.0)
    share = jnp.mean((direction / scale) ** 2)
    rms = scale * jnp.sqrt(jnp.where(is_safe, share, 1.0))
    return jnp.where(is_safe & (rms > max_rms), direction * (max_rms / rms), direction)


def _squared(q: jax.Array) -> jax.Array:
    """The square of a factor: of a triangular one q^T q."""
    if q.ndim != 2:
        return q * q
    strips = [_product(q[:end].T, q[:end, start:end]) for start, end in _strips(len(q), 2)]
    return jnp.concatenate(strips, axis=1)


def _upper_product(left: jax.Array, right: jax.Array) -> jax.Array:
    """The product of two upper triangular matrices, most of whose zeros are not multiplied."""
    strips = [
        jnp.pad(_product(left[start:end, start:], right[start:, start:]), ((0, 0), (start, 0)))
        for start, end in _strips(len(left), 4)
    ]
    return jnp.concatenate(strips)


def _strips(size: int, count: int) -> list[tuple[int, int]]:
    """Where so many strips of about equal width begin and end; only one of a small matrix."""
    ends = [size * i // count for i in range(count + 1)] if size >= _LARGE else [0, size]
    return list(itertools.pairwise(ends))


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, precision=_HIGHEST)


def _broadcast(q: jax.Array, axis: int, ndim: int) -> jax.Array:
    return q.reshape([-1 if i == axis else 1 for i in range(ndim)]) if ndim else q


def _length(vector: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.maximum(jnp.sum(vector * vector), jnp.finfo(jnp.float32).tiny))


def _positive(x: jax.Array) -> jax.Array:
    return jnp.maximum(x, jnp.finfo(jnp.float32).tiny)


def _like(old: Any, new: Any) -> Any:
    """A tree with the nodes of another one that has the same leaves."""
    return jax.tree.unflatten(jax.tree.structure(old), jax.tree.leaves(new))


def _matrices(params: optax.Params) -> Any:
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) >= 2, params)


_TREES = ("mu", "factors", "products")
