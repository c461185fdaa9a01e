"""The arithmetic of VeLO: what its networks see, and the step that they give.

Quantities of several decay rates or features lie along the first axis.

Of the thirty inputs of a parameter's perceptron, the twelve that come from averages over rows and
columns are the same throughout a row or column of a matrix. Their products with the first layer are
taken before they are spread over the matrix.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optim._leaves import largest
from optim.learned import _accumulators
from optim.learned._accumulators import Accumulators, inverse_root, largest_axes, mean
from optim.learned._recurrent import Dense, cast, mlp

# Inputs of the perceptron that share a block of the first layer's weights.
GROUPS = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)
INPUTS = 30  # of the recurrent network, and, as it happens, of the perceptron
WIDTH = 4  # of the perceptron's two hidden layers
LOSSES = 10  # averages of the loss, of which there are nine quotients

_DECAYS = np.array([0.9, 0.99, 0.999], np.float32)  # as rounded: 1 - 0.999 is another number
_PHASES = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)
_RANKS = 5
_LARGEST_GRADIENT = 1000.0
# Of the inputs: those of rows, those of columns, and all others, which differ within both.
_OF_ROWS = (*range(15, 18), *range(21, 24))
_OF_COLUMNS = (*range(18, 21), *range(24, 27))
_OF_EACH = (*range(15), *range(27, 30))


class Losses(NamedTuple):
    """Averages of the loss over ten horizons, and the smallest that each has been."""

    means: jax.Array  # shape=(10,), not corrected for their beginning at 0
    smallest: jax.Array  # shape=(10,), of the corrected ones


class Memory(NamedTuple):
    """State of the recurrent network, one row for each tensor that has entries."""

    hidden: jax.Array  # shape=(tensors, hidden_size)
    cell: jax.Array  # shape=(tensors, hidden_size)


class Leaf(NamedTuple):
    """A tensor of parameters, in the dtype of its averages."""

    param: jax.Array
    grad: jax.Array
    accumulators: Accumulators


class Clock(NamedTuple):
    """What is known of the lifetime."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32, steps before this one
    steps: jax.Array  # shape=(), float, steps of the whole lifetime


def no_losses(dtype: jax.typing.DTypeLike) -> Losses:
    """Averages before the first loss.

    Examples:
        >>> no_losses(jnp.float32).means.shape
        (10,)
    """
    return Losses(jnp.zeros(LOSSES, dtype), jnp.full(LOSSES, 999999999999, dtype))


def see_loss(
    value: jax.Array, clock: Clock, old: Losses, *, all_short: bool
) -> tuple[jax.Array, Losses]:
    """Features of the loss, the same for all tensors, and the new averages.

    Args:
        value: the loss, in the dtype of the averages.
        clock: steps before, and in all.
        old: the averages before.
        all_short: whether all horizons are of ten steps, as in the first version.

    Returns:
        Nine features in [-1, 1], and the averages.

    Examples:
        >>> clock = Clock(jnp.int32(0), jnp.float32(60))
        >>> features, losses = see_loss(
        ...     jnp.float32(2), clock, no_losses(jnp.float32), all_short=False
        ... )
        >>> print(features.any(), losses.smallest[0].round(3))
        False 2.0
    """
    dtype = old.means.dtype
    longest = jnp.full((), 10, dtype) if all_short else clock.steps.astype(dtype)
    horizons = 10 ** (1 + (jnp.log10(longest) - 1) * jnp.linspace(0, 1, LOSSES, dtype=dtype))
    # As rounded to float32, whatever is computed in; but what is left of 1 then without rounding.
    rest = 1 - jnp.exp(-1 / horizons).astype(jnp.float32).astype(dtype)
    count = clock.count.astype(dtype)
    share = -jnp.expm1((count + 1) * jnp.log1p(-rest))
    # Also of the old averages, which are of one step less.
    bound = jnp.where(count == 0, value, largest(old.means / share))
    value = jnp.minimum(2 * jnp.abs(bound), value)
    means = (1 - rest) * old.means + rest * value
    now = means / share
    smallest = jnp.minimum(old.smallest, now)
    above, next_above = now[:-1] - smallest[:-1], now[1:] - smallest[:-1]
    features = jnp.clip(above / jnp.maximum(next_above, 1e-8) - 1, -1, 1)
    return jnp.where(count < 2, 0, features), Losses(means, smallest)


def phase(clock: Clock, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Nine features of how much of the lifetime is over.

    Examples:
        >>> seen = phase(Clock(jnp.int32(6), jnp.float32(60)), jnp.float32)
        >>> [round(float(x), 2) for x in seen[:3]]
        [0.6, 0.0, -0.76]
    """
    share = clock.count.astype(dtype) / clock.steps.astype(dtype)
    return jnp.tanh(10 * (share - jnp.asarray(_PHASES, dtype)))


def see_tensor(leaf: Leaf) -> jax.Array:
    """Twelve features of a tensor, from its averages as they were before the present gradient.

    Args:
        leaf: the tensor, with its old averages.

    Returns:
        Size of the squares, one of five for the number of axes longer than 1, variances of the
        three momenta, and of the squares about each of their means.

    Examples:
        >>> p = jnp.ones((4, 2))
        >>> print(see_tensor(Leaf(p, p, _accumulators.zeros(p))))
        [-2.5  0.   0.   1.   0.   0.  -2.5 -2.5 -2.5 -2.5 -2.5 -2.5]
    """
    param, _, old = leaf
    axes = tuple(range(param.ndim))
    size = inverse_root(mean(param**2, axes))
    momentum, square = old.momentum * size[None], old.square * size
    within = tuple(axis + 1 for axis in axes)
    momentum_mean, square_mean = mean(momentum, within), mean(square, axes)
    momentum_variance = mean((momentum - momentum_mean) ** 2, within).ravel()
    # About another number than their mean: that of the momenta, which is the authors' choice.
    square_variance = mean((square - square_mean) ** 2, axes).ravel()
    apart = square_mean.ravel() - momentum_mean.ravel()
    rank = [float(sum(n > 1 for n in param.shape) == i) for i in range(_RANKS)]
    return jnp.concatenate(
        [
            _log(square_mean.ravel()),
            jnp.asarray(rank, param.dtype),
            _log(momentum_variance),
            _log(square_variance + apart**2),
        ]
    )


def remember(
    weights: Mapping[str, Any], seen: jax.Array, memory: Memory
) -> tuple[jax.Array, jax.Array, Memory]:
    """The recurrent network, over the tensors as a batch in which each sees the maximum of all.

    Args:
        weights: the meta-parameters `rnn_params`, in the dtype to compute in.
        seen: shape (tensors, 30), the features.
        memory: its old state.

    Returns:
        What the bank is mixed by, shape (tensors, bank_size); factors of the steps, shape
        (tensors,); and its new state.
    """
    joint = jax.nn.relu(_dense(weights["linear_1"], seen))
    # Not `jnp.max`, for the reason that `largest` gives.
    most = jnp.take_along_axis(joint, jnp.argmax(joint, axis=0, keepdims=True), axis=0)
    mixed = _dense(weights["linear_2"], seen) + most
    gates = _dense(weights["rnn"]["linear"], jnp.concatenate([mixed, memory.hidden], axis=1))
    take, candidate, keep, show = jnp.split(gates, 4, axis=1)
    cell = jax.nn.sigmoid(keep + 1) * memory.cell + jax.nn.sigmoid(take) * jnp.tanh(candidate)
    hidden = jax.nn.sigmoid(show) * jnp.tanh(cell)
    controls = _dense(weights["rnn_to_controls"], hidden)
    return controls, _dense(weights["step_size"], hidden)[:, 0], Memory(hidden, cell)


def mix(bank: Mapping[str, jax.Array], controls: jax.Array) -> list[list[Dense]]:
    """The perceptron of each tensor, a combination of those in the bank.

    Args:
        bank: the meta-parameters `ff_mod_stack`, in the dtype to compute in.
        controls: shape (tensors, bank_size).

    Returns:
        For each tensor three layers. The third of the outputs is left out: it has no effect.
    """
    first = jnp.concatenate([bank[f"w0__{i}"] for i in range(len(GROUPS))], axis=1)
    parts = [first, bank["b0"], bank["w1"], bank["b1"], bank["w2"][:, :, :2], bank["b2"][:, :2]]
    size = controls.shape[1]
    flat = jnp.concatenate([part.reshape(size, -1) for part in parts], axis=1)
    mixed = _product(controls, flat) * (100 / size)
    ends = np.cumsum([part[0].size for part in parts])[:-1].tolist()
    tensors = []
    for row in mixed:
        w0, b0, w1, b1, w2, b2 = (
            values.reshape(part.shape[1:])
            for values, part in zip(jnp.split(row, ends), parts, strict=True)
        )
        tensors.append([Dense(w0.T, b0), Dense(w1.T, b1), Dense(w2.T, b2)])
    return tensors


def step(layers: Sequence[Dense], factor: jax.Array, leaf: Leaf) -> jax.Array:
    """What is subtracted from a tensor.

    Args:
        layers: its perceptron.
        factor: of its steps, a scalar.
        leaf: the tensor, with its new averages.

    Returns:
        The step, of the tensor's shape.
    """
    first, *others = layers
    hidden = sum(
        _first_layer(first.matrix[:, np.array(columns)], jnp.concatenate(features))
        for columns, features in _features(leaf)
    )
    hidden = hidden + first.bias.reshape((-1,) + (1,) * leaf.param.ndim)
    direction, magnitude = mlp(others, jax.nn.relu(hidden))
    size = jnp.sqrt(mean(leaf.param**2, tuple(range(leaf.param.ndim))) + 1e-9)
    return 1e-3 * factor * direction * size * jnp.exp(1e-3 * magnitude)


def update(
    meta_params: Mapping[str, Any],
    clock: Clock,
    value: jax.Array,
    leaves: Sequence[Leaf],
    memory: Memory,
    losses: Losses,
    *,
    all_short: bool,
    forgets: bool,
) -> tuple[list[jax.Array], tuple[list[Accumulators], Memory, Losses]]:
    """One update of all tensors.

    Args:
        meta_params: of `VeLO`.
        clock: steps before, and in all.
        value: the loss.
        leaves: the tensors, all with entries, with their old averages.
        memory: state of the recurrent network, in the dtype in which it computes.
        losses: averages of the loss.
        all_short: see `see_loss`.
        forgets: whether the recurrent network keeps its first state, as in the first version.

    Returns:
        What is subtracted from each tensor; and its averages, and all other state.
    """
    dtype = memory.hidden.dtype
    weights = cast(meta_params, dtype)
    of_loss, losses = see_loss(value.astype(dtype), clock, losses, all_short=all_short)
    if not leaves:
        return [], ([], memory, losses)
    shared = phase(clock, dtype), of_loss
    seen = jnp.stack(
        [jnp.concatenate([*shared, see_tensor(leaf).astype(dtype)]) for leaf in leaves]
    )
    controls, factors, new = remember(weights["rnn_params"], seen, memory)
    steps, accumulated = [], []
    for layers, factor, leaf in zip(
        mix(weights["ff_mod_stack"], controls), factors, leaves, strict=True
    ):
        own = leaf.param.dtype
        clipped = jnp.clip(leaf.grad, -_LARGEST_GRADIENT, _LARGEST_GRADIENT)
        decays = jnp.asarray(_DECAYS, own)
        averages = _accumulators.accumulate(clipped, leaf.accumulators, decays, decays[2], decays)
        leaf = Leaf(leaf.param, clipped, averages)
        steps.append(step(cast(layers, own), factor.astype(own), leaf))
        accumulated.append(averages)
    return steps, (accumulated, memory if forgets else new, losses)


def _features(leaf: Leaf) -> list[tuple[tuple[int, ...], list[jax.Array]]]:
    """The perceptron's inputs: which they are, and arrays of shape (rates, *as they differ)."""
    param, g, (momentum, square, rows, columns, diagonal) = leaf
    root = jax.lax.rsqrt(square + 1e-6)
    each = [
        jnp.stack([g, jnp.clip(g, -0.1, 0.1), param]),
        momentum,
        square[None],
        momentum * root[None],
        root[None],
        g[None],  # in place of the gradient over factored roots
        (g * root)[None],
        momentum,  # in place of the momenta over factored roots
    ]
    if g.ndim < 2:
        each[5] = g[None] * inverse_root(diagonal + 1e-9)
        # The averages are 1e-33 at least, and no smaller than the square of the momentum.
        each[7] = momentum / jnp.sqrt(diagonal)
        both = [diagonal, jax.lax.rsqrt(diagonal + 1e-8)]
        return [(_OF_EACH, each), (_OF_ROWS, both), (_OF_COLUMNS, both)]
    smaller, larger = (axis + 1 for axis in largest_axes(g.shape))
    rows, columns = jnp.expand_dims(rows, larger), jnp.expand_dims(columns, smaller)
    factor = inverse_root(rows / (mean(rows, smaller) + 1e-9)) * inverse_root(columns)
    each[5], each[7] = g[None] * factor, momentum * factor
    return [
        (_OF_EACH, each),
        (_OF_ROWS, [rows, jax.lax.rsqrt(rows + 1e-8)]),
        (_OF_COLUMNS, [columns, jax.lax.rsqrt(columns + 1e-8)]),
    ]


def _first_layer(matrix: jax.Array, features: jax.Array) -> jax.Array:
    """Products with features, each over its root mean square in the tensor."""
    squares = mean(features**2, tuple(range(1, features.ndim))).ravel()
    return _product(matrix * jax.lax.rsqrt(squares + 1e-5)[None], features)


def _log(x: jax.Array) -> jax.Array:
    return 0.5 * jnp.clip(jnp.log(1e-8 + jnp.abs(10 * x)), -5, 5)


def _dense(layer: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    return _product(x, layer["w"]) + layer["b"][None]


def _product(matrix: jax.Array, x: jax.Array) -> jax.Array:
    # Accelerators round the factors of a product otherwise, and the state is kept for long.
    return jnp.tensordot(matrix, x, axes=1, precision=jax.lax.Precision.HIGHEST)
