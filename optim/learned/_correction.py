"""The arithmetic of the learned correction: Adam with movable decay rates, features, and updates.

Every formula is written so that with meta-parameters of 0 it adds exactly 0 or multiplies by
exactly 1, also where a compiler contracts products and sums to fused operations: what depends on a
meta-parameter stands beside optax's own formula, and the learning rate comes last, as in optax.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optim._leaves import bounded, safe_sqrt, widest_dtype
from optim.learned._recurrent import cast

# What the network sees of each leaf, in this order.
FEATURES = (
    "signal",
    "agreement",
    "path",
    "radius",
    "growth",
    "distance",
    "layer",
    "role",
    "matrix",
    "dormancy",
    "training_progress",
    "batch_progress",
)
OUTPUTS = 5  # of the network: step, agreement, decay, decay to the start, noise
# What outputs of 1 are worth, in logarithms and in shares of the base's step.
_WORTH = (1.0, 1.0, 0.2, 0.2, 0.2)
_NETWORK = 0.5  # the network's outputs, sums of many numbers, count half of what plain ones do
# Sums of squares below this count as 0, whose derivatives would overflow.
_TINY = 1e-24
_SAMPLE = 4096  # entries, of which means are taken
_MOST = 4.0  # of the change of the logarithm of 1 - b, so that b stays below 1 in float32


class Adam(NamedTuple):
    """Adam's numbers; for another base, those of the moments that are kept beside it."""

    b1: Any = 0.9
    b2: Any = 0.999
    eps: Any = 1e-8
    eps_root: Any = 0.0


class Leaf(NamedTuple):
    """One leaf of all that mirrors the parameters."""

    param: jax.Array
    grad: jax.Array
    first: jax.Array
    second: jax.Array
    start: jax.Array
    step: jax.Array  # the base's update; what is here is not used if that is Adam
    draw: jax.Array | None  # normal numbers


class Base(NamedTuple):
    """What the base does with a leaf, in the dtype of the moments."""

    direction: jax.Array  # to descend along
    first: jax.Array
    second: jax.Array


class Sums(NamedTuple):
    """Means over the entries of a leaf, scalars; or those of all leaves, vectors."""

    grad: jax.Array  # of the square of the gradient
    first: jax.Array  # of the square of the first moment
    second: jax.Array  # of the second moment
    param: jax.Array  # of the square of the parameter
    start: jax.Array  # of the square of the parameter at the start
    away: jax.Array  # of the square of the difference of the two
    direction: jax.Array  # of the square of the base's direction
    grad_first: jax.Array  # of products
    grad_param: jax.Array
    grad_away: jax.Array


def rate_change(log_change: jax.Array, rate: jax.typing.ArrayLike) -> jax.Array:
    """What a decay rate is changed by if the logarithm of 1 minus it is.

    Args:
        log_change: scalar; held within 4 either way.
        rate: the decay rate, in [0, 1).

    Returns:
        The difference, in the dtype of `log_change`; the rate stays at least 0.

    Examples:
        >>> print(rate_change(jnp.log(2.0), 0.9).round(6), rate_change(jnp.zeros(()), 0.9) == 0)
        -0.1 True
    """
    rate = jnp.asarray(rate, log_change.dtype)
    change = -(1 - rate) * jnp.expm1(jnp.clip(log_change, -_MOST, _MOST))
    return jnp.where(change < -rate, -rate, change)


def moment(new: Any, old: jax.Array, rate: Any, change: Any) -> jax.Array:
    """A moving average, rounded as optax's where the change of its decay rate is 0.

    Args:
        new: what is added.
        old: the average.
        rate: decay rate.
        change: of the decay rate.

    Returns:
        The new average.

    Examples:
        >>> print(moment(jnp.ones(()), jnp.zeros(()), 0.9, jnp.float32(-0.4)).round(6))
        0.5
    """
    # Not a term of its own beside optax's two: compilers would fuse those in another way.
    return ((1 - rate) - change) * new + (rate + change) * old


def correction(rate: Any, change: Any, count: jax.Array) -> jax.Array:
    """What optax divides a moving average by, for a changed decay rate.

    Args:
        rate: decay rate.
        change: of the decay rate.
        count: of the averaged values, at least 1.

    Returns:
        `1 - (rate + change) ** count`, rounded as optax's where the change is 0.

    Examples:
        >>> print(correction(0.9, jnp.float32(-0.4), jnp.int32(2)).round(6))
        0.75
    """
    rate, number = jnp.asarray(rate, float), jnp.asarray(count, float)
    power = rate**number
    return 1 - (power + ((rate + change) ** number - power))


class Rates(NamedTuple):
    """What is the same for all leaves about their moments."""

    adam: Adam
    is_base: bool  # whether Adam is; else `Leaf.step` is what the base does
    changes: tuple[jax.Array, ...]  # of b1 and b2
    biases: tuple[jax.Array, ...]  # what the moments are divided by


def rates(adam: Adam, log_changes: jax.Array | None, count: jax.Array) -> Rates:
    """Decay rates and the bias of what they average.

    Args:
        adam: Adam's numbers.
        log_changes: for each decay rate what the logarithm of 1 minus it is changed by, of shape
            (2,); None if Adam is not the base.
        count: number of the update, from 1 on.

    Returns:
        Both for all leaves: how compilers divide by a number depends on how often it is used.
    """
    numbers = (adam.b1, adam.b2)
    log = jnp.zeros(2) if log_changes is None else log_changes
    changes = tuple(rate_change(log[i], rate) for i, rate in enumerate(numbers))
    pairs = zip(numbers, changes, strict=True)
    biases = tuple(correction(rate, change, count) for rate, change in pairs)
    return Rates(adam, log_changes is not None, changes, biases)


def base(leaf: Leaf, rates: Rates) -> Base:
    """Moments of a leaf, and the direction of the base.

    Args:
        leaf: the leaf.
        rates: decay rates and what belongs to them.

    Returns:
        Direction and moments.
    """
    dtype, adam = leaf.first.dtype, rates.adam
    g = leaf.grad.astype(dtype)
    d1, d2 = (change.astype(dtype) for change in rates.changes)
    c1, c2 = (bias.astype(dtype) for bias in rates.biases)
    first = moment(g, leaf.first, adam.b1, d1).astype(dtype)
    second = moment(g * g, leaf.second, adam.b2, d2).astype(dtype)
    if not rates.is_base:
        return Base(-leaf.step.astype(dtype), first, second)
    root = safe_sqrt(second / c2 + adam.eps_root)
    return Base((first / c1 / (root + adam.eps)).astype(dtype), first, second)


def means(
    grad: jax.Array,
    first: jax.Array,
    second: jax.Array,
    param: jax.Array,
    start: jax.Array,
    direction: jax.Array,
) -> Sums:
    """The means from which the features of a leaf are made; of large ones, over a sample.

    Args:
        grad: the gradient.
        first: first moment.
        second: second moment.
        param: the parameter.
        start: the parameter at the start.
        direction: what the base descends along.

    Returns:
        The means in the dtype of the direction, 0 for an empty leaf and for what overflows.
    """
    arrays = (grad, first, second, param, start, direction)
    # What else these arrays are used for is to be compiled as if there were no means of them.
    arrays = jax.lax.optimization_barrier(tuple(map(sample, arrays)))
    g, m, v, p, s, x = (array.astype(direction.dtype) for array in arrays)
    # Or else compilers find the sums of squares that gradients were clipped by, and join the two.
    g = bounded(g, g.dtype)
    away = p - s
    products = (g * g, m * m, v, p * p, s * s, away * away, x * x, g * m, g * p, g * away)
    found = (total / max(g.size, 1) for total in totals(tuple(map(jnp.ravel, products))))
    return Sums(*(jnp.where(jnp.isfinite(mean), mean, 0) for mean in found))


@jax.custom_jvp
def totals(vectors: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """The sums of vectors of one length and dtype, all in one loop, half the time of ten.

    Args:
        vectors: the vectors.

    Returns:
        Scalars.

    Examples:
        >>> print(*totals((jnp.arange(3.0), jnp.ones(3))))
        3.0 3.0
    """
    zeros = (jnp.zeros([], vectors[0].dtype),) * len(vectors)
    add = lambda old, new: tuple(a + b for a, b in zip(old, new, strict=True))  # noqa: E731
    return tuple(jax.lax.reduce(vectors, zeros, add, (0,)))


@totals.defjvp
def _totals_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    return totals(*primals), tuple(map(jnp.sum, tangents[0]))


def sample(x: jax.Array) -> jax.Array:
    """Every k-th row of what is large, with k odd: planes of an image are met alike.

    Args:
        x: array.

    Returns:
        It, if it has less than 8192 entries; else about 4096 of them, or a row.

    Examples:
        >>> sample(jnp.ones((64, 64))).shape, sample(jnp.ones((400, 64))).shape
        ((64, 64), (80, 64))
    """
    step = (x.size // _SAMPLE - 1) // 2 * 2 + 1
    return x.reshape(-1, x.shape[-1] if x.ndim > 1 else 1)[::step] if step > 1 else x


def inverse_root(x: jax.Array) -> jax.Array:
    """1 over the square root; 0 for what is as good as 0, with derivative 0."""
    is_zero = x < _TINY
    return jnp.where(is_zero, 0, jax.lax.rsqrt(jnp.where(is_zero, 1, x)))


def leaf_features(sums: Sums, biases: tuple[jax.Array, ...]) -> dict[str, jax.Array]:
    """The features that depend on the numbers in leaves, each within [-1, 1] and free of scale.

    Args:
        sums: of all leaves, each of shape (leaves,).
        biases: what the moments are divided by.

    Returns:
        Arrays of shape (leaves,), by name.
    """
    grad, param, away = (inverse_root(x) for x in (sums.grad, sums.param, sums.away))
    both = sums.param + sums.start
    signal = safe_sqrt(sums.first) * inverse_root(sums.second) * safe_sqrt(biases[1]) / biases[0]
    return {
        "signal": jnp.minimum(signal, 1),
        "agreement": sums.grad_first * grad * inverse_root(sums.first),
        "path": -sums.grad_away * grad * away,
        "radius": -sums.grad_param * grad * param,
        # The hyperbolic tangent of the logarithm of the ratio of the two sizes.
        "growth": jnp.where(
            both < _TINY, 0, (sums.param - sums.start) / jnp.where(both < _TINY, 1, both)
        ),
        "distance": safe_sqrt(sums.away) * inverse_root(sums.param + sums.away),
    }


def network(layers: Sequence[tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
    """Dense layers with tanh between them.

    Args:
        layers: kernel and bias of each.
        x: inputs, of shape (leaves, inputs).

    Returns:
        Outputs, of shape (leaves, outputs).
    """
    for i, (kernel, bias) in enumerate(layers):
        x = jnp.tanh(x) if i else x
        x = jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST) + bias
    return x


def outputs(
    meta_params: Any, features: Mapping[str, jax.Array], role: jax.Array, progress: jax.Array
) -> jax.Array:
    """What is changed for each leaf, by the network and the plain numbers together.

    Args:
        meta_params: of one dtype.
        features: the inputs by name, each of shape (leaves,).
        role: 1 for the actor's leaves, -1 for the critic's, 0 for others, of shape (leaves,).
        progress: of training, scalar.

    Returns:
        Array of shape (leaves, 5), in the units that are added.
    """
    layers = [meta_params["mlp"][name] for name in sorted(meta_params["mlp"])]
    pairs = [(layer["kernel"], layer["bias"][None]) for layer in layers]
    found = network(pairs, jnp.stack([features[name] for name in FEATURES], axis=1))
    plain = meta_params["plain"]
    # Others are between actor and critic, and the present is between start and end.
    roles = jnp.stack([1 + role, 1 - role], axis=1) / 2
    times = jnp.stack([1 - progress, progress])
    step, decay = (jnp.sum(roles * (plain[n] @ times)[None], axis=1) for n in ("step", "decay"))
    noise = jnp.full_like(step, jnp.sum(plain["noise"] * times))
    zero = jnp.zeros_like(step)
    both = _NETWORK * found + jnp.stack([step, zero, decay, zero, noise], axis=1)
    return both * jnp.asarray([_WORTH], both.dtype)


class Change(NamedTuple):
    """How the base's direction is changed, one number for each leaf."""

    factor: jax.Array
    gain: jax.Array  # of an entry that descends the present gradient; minus it where it ascends
    decay: jax.Array  # share of the parameter
    pull: jax.Array  # share of its distance from the start
    noise: jax.Array  # standard deviation


def change(outputs: jax.Array, sums: Sums) -> Change:
    """What outputs mean for the leaves.

    Args:
        outputs: of shape (leaves, 5).
        sums: of all leaves.

    Returns:
        The changes, each of shape (leaves,).
    """
    log_step, log_gain, decay, pull, noise = outputs.T
    factor, size = jnp.exp(log_step), safe_sqrt(sums.direction)
    return Change(
        factor=factor,
        gain=factor * jnp.tanh(log_gain),
        decay=size * decay * inverse_root(sums.param),
        pull=size * pull * inverse_root(sums.param + sums.away),
        noise=size * noise,
    )


def changed_direction(base: Base, leaf: Leaf, change: Change) -> jax.Array:
    """The direction after the correction.

    Args:
        base: what the base does.
        leaf: the leaf.
        change: of this leaf, scalars.

    Returns:
        Array like the leaf, in the dtype of the direction.
    """
    x = base.direction
    param, start, grad = (array.astype(x.dtype) for array in (leaf.param, leaf.start, leaf.grad))
    factor, gain, decay, pull, noise = (number.astype(x.dtype) for number in change)
    changed = x * (factor + gain * jnp.sign(grad) * jnp.sign(x))
    changed = changed + (decay * param + pull * (param - start))
    return changed if leaf.draw is None else changed + noise * leaf.draw.astype(x.dtype)


def update(
    meta_params: Any,
    leaves: Sequence[Leaf],
    known: Mapping[str, jax.Array],
    count: jax.Array,
    rate: Any,
    *,
    adam: Adam,
    is_adam: bool,
    seen: Sequence[str],
) -> tuple[list[jax.Array], list[jax.Array], list[jax.Array]]:
    """One update of all leaves.

    Args:
        meta_params: as `LearnedCorrection.init` gives them.
        leaves: the leaves, at least one.
        known: the features that do not depend on their numbers, each of shape (leaves,).
        count: of the updates before.
        rate: the learning rate.
        adam: Adam's numbers.
        is_adam: whether it is the base.
        seen: names of the features that are not taken to be 0.

    Returns:
        Updates in the dtypes of the parameters, and first and second moments.
    """
    dtype = widest_dtype([leaf.param for leaf in leaves])
    meta_params = cast(meta_params, dtype)
    log_changes = meta_params["plain"]["betas"] if is_adam else None
    numbers = rates(adam, log_changes, count + 1)
    bases = [base(leaf, numbers) for leaf in leaves]
    each = [
        means(leaf.grad, b.first, b.second, leaf.param, leaf.start, b.direction)
        for leaf, b in zip(leaves, bases, strict=True)
    ]
    sums = Sums(*(jnp.stack([x.astype(dtype) for x in field]) for field in zip(*each, strict=True)))
    # Not the same biases, for the reason given in `rates`.
    biases = rates(adam, log_changes, jax.lax.optimization_barrier(count) + 1).biases
    features = cast(leaf_features(sums, biases) | dict(known), dtype)
    inputs = {n: x if n in seen else jnp.zeros_like(x) for n, x in features.items()}
    found = outputs(meta_params, inputs, features["role"], features["training_progress"][0])
    changes = change(found, sums)
    updates = []
    for i, (b, leaf) in enumerate(zip(bases, leaves, strict=True)):
        changed = changed_direction(b, leaf, Change(*(number[i] for number in changes)))
        updates.append((-jnp.asarray(rate, changed.dtype) * changed).astype(leaf.param.dtype))
    return updates, [b.first for b in bases], [b.second for b in bases]
