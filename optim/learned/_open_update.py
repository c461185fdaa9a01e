"""OPEN's arithmetic: from gradients to updates, for one agent's leaves or for many agents'.

What is said in `_blocks` holds here too. Besides:

- Momenta and logarithms pass over the whole leaf first, because the features are divided by their
  root mean square over the leaf. Hence agents are updated in turn as wholes.
- The division is folded into the weights of each leaf, and with it all inputs that are the same for
  the whole leaf: layer position and progress become part of the bias.
- Centring in LayerNorm is folded into the weights of the dense layer before it, as is the half in
  sigmoid(x) = 1/2 + tanh(x / 2) / 2.
- What remains is mostly the 3 * gru_features hyperbolic tangents of each parameter, a quarter of
  the time, and the product with the 19 features, a fifth.

Other devices, and derivatives, take all leaves as one block and all agents at once.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optim.learned._blocks import block_width, by_agent, in_blocks, put_last

DECAYS = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
FEATURES = 19
# The authors' order: parameter, signs and logarithms of the momenta, of the gradient, training
# progress, layer position, batch progress, dormancy. Here the two signs are neighbours.
ORDER = (0, *range(1, 7), 13, *range(7, 13), *range(14, 19))
_SCALED = 15  # features that are divided by their root mean square; the last four are not
_LOG_EPS, _SCALE_EPS, _NORM_EPS = 1e-13, 1e-5, 1e-6
_STEP = 1e-3  # size of the update, of its exponent and of the noise


class Leaf(NamedTuple):
    """What the update of one leaf is computed from; all of one floating-point dtype."""

    param: jax.Array
    grad: jax.Array
    momenta: jax.Array  # shape=(6, *param.shape)
    carry: jax.Array  # shape=(gru_features, *param.shape)
    dormancy: jax.Array  # one per output unit, broadcasts against param
    position: jax.Array  # shape=()
    noise: jax.Array | None  # like param; None is 0


class Norm(NamedTuple):
    """A dense layer of centred outputs, whose scale LayerNorm sets, and LayerNorm's own numbers."""

    kernel: jax.Array  # shape=(outputs, inputs)
    bias: jax.Array  # shape=(outputs, 1)
    scale: jax.Array  # shape=(outputs, 1)
    shift: jax.Array  # shape=(outputs, 1)


class Weights(NamedTuple):
    """Meta-parameters as the update uses them, for n = gru_features."""

    inputs: jax.Array  # shape=(3 * n, 19); rows for r, z, candidate, columns in our order
    input_bias: jax.Array  # shape=(3 * n,)
    recurrent: jax.Array  # shape=(3 * n, n)
    recurrent_bias: jax.Array  # shape=(n, 1), of the candidate
    hidden: tuple[Norm, Norm]
    output: jax.Array  # shape=(3, hidden)
    output_bias: jax.Array  # shape=(3, 1)


def fold(meta_params: Any, dtype: Any) -> Weights:
    """Transposes the meta-parameters and folds constants into them.

    Args:
        meta_params: as `OPEN.init` gives them.
        dtype: dtype to compute in.

    Returns:
        The weights.
    """
    meta_params = jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(dtype), meta_params)
    gru, mlp = meta_params["gru_params"], meta_params["params"]
    n = gru["hn"]["bias"].size
    gates = jnp.asarray(np.repeat([0.5, 0.5, 1.0], n), dtype)

    def dense(layer: Any, norm: Any) -> Norm:
        joint = jnp.concatenate([layer["kernel"], layer["bias"][None]]).T
        joint = joint - jnp.mean(joint, axis=0, keepdims=True)
        return Norm(joint[:, :-1], joint[:, -1:], norm["scale"][:, None], norm["bias"][:, None])

    def gate_rows(names: Sequence[str], part: str) -> jax.Array:
        return jnp.concatenate([gru[name][part] for name in names], axis=-1).T

    return Weights(
        inputs=gates[:, None] * gate_rows(("ir", "iz", "in"), "kernel")[:, np.array(ORDER)],
        input_bias=gates * gate_rows(("ir", "iz", "in"), "bias"),
        recurrent=gates[:, None] * gate_rows(("hr", "hz", "hn"), "kernel"),
        recurrent_bias=gru["hn"]["bias"][:, None],
        hidden=(dense(mlp["layers_0"], mlp["layers_1"]), dense(mlp["layers_3"], mlp["layers_4"])),
        output=mlp["layers_6"]["kernel"].T,
        output_bias=mlp["layers_6"]["bias"][:, None],
    )


def next_momenta(momenta: jax.Array, grad: jax.Array) -> jax.Array:
    """Six moving averages of the gradient, without bias correction.

    Args:
        momenta: array of shape (6, n).
        grad: array of shape (1, n).

    Returns:
        Array of shape (6, n).

    Examples:
        >>> print(next_momenta(jnp.zeros((6, 2)), jnp.array([[2.0, -4.0]]))[1])
        [ 1. -2.]
    """
    decay = jnp.asarray(DECAYS, grad.dtype)[:, None]
    return decay * momenta + (1 - decay) * grad


def raw_features(leaf_rows: Sequence[jax.Array]) -> list[jax.Array]:
    """The features that are divided by their root mean square, before they are.

    Args:
        leaf_rows: parameter (1, n), momenta (6, n), gradient (1, n), and the logarithms of the
            magnitudes of momenta and gradient together (7, n).

    Returns:
        Rows of features, 15 together: parameter, signs, logarithms.
    """
    param, momenta, grad, logarithms = leaf_rows
    return [param, jnp.sign(momenta), jnp.sign(grad), logarithms]


def network(weights: Weights, inputs: Any, x: Any, carry: Any) -> tuple[jax.Array, jax.Array]:
    """The GRU cell and the perceptron on top of it.

    Args:
        weights: from `fold`.
        inputs: weights of the GRU's inputs, of shape (3 * n, rows).
        x: the inputs, of shape (rows, columns), with one row of ones for the bias.
        carry: state of the GRU, of shape (n, columns).

    Returns:
        The three outputs, of shape (3, columns), and the new carry.
    """
    n = carry.shape[0]
    from_x, from_carry = _product(inputs, x), _product(weights.recurrent, carry)
    reset = 0.5 + 0.5 * jnp.tanh(from_x[:n] + from_carry[:n])
    keep = 0.5 + 0.5 * jnp.tanh(from_x[n : 2 * n] + from_carry[n : 2 * n])
    candidate = jnp.tanh(from_x[2 * n :] + reset * (from_carry[2 * n :] + weights.recurrent_bias))
    carry = candidate + keep * (carry - candidate)
    y = carry
    for layer in weights.hidden:
        y = _product(layer.kernel, y)
        # Row by row: XLA takes ten times as long to reduce over the leading axis.
        rows = range(y.shape[0])
        squares = [jnp.square(y[i : i + 1] + layer.bias[i : i + 1]) for i in rows]
        scale = jax.lax.rsqrt(_NORM_EPS + sum(squares[1:], squares[0]) / len(squares))
        y = jax.nn.relu((y + layer.bias) * scale * layer.scale + layer.shift)
    return _product(weights.output, y) + weights.output_bias, carry


def step_sizes(outputs: jax.Array, noise: jax.Array | None) -> jax.Array:
    """What is subtracted from the parameters, but for the mean over all of them.

    Args:
        outputs: array of shape (3, n).
        noise: normal numbers, of shape (1, n), or None for 0.

    Returns:
        Array of shape (1, n).
    """
    steps = _STEP * outputs[:1] * jnp.exp(_STEP * outputs[1:2])
    return steps if noise is None else steps + _STEP * outputs[2:] * noise


class Columns(NamedTuple):
    """The parameters of one leaf, or some of them, side by side."""

    rows: list[jax.Array]  # what `raw_features` takes
    dormancy: jax.Array  # shape=(1, n)
    carry: jax.Array  # shape=(gru_features, n)
    noise: jax.Array | None  # shape=(1, n)


def leaf_columns(leaf: Leaf) -> tuple[Columns, jax.Array]:
    """Brings a leaf into columns, and finds what its features are multiplied by.

    Args:
        leaf: the leaf, which is not empty.

    Returns:
        The columns, with new momenta and the old carry, and an array of shape (15,).
    """
    n = leaf.param.size

    def row(array: jax.Array) -> jax.Array:
        return jnp.broadcast_to(array, leaf.param.shape).reshape(1, n)

    param, grad = row(leaf.param), row(leaf.grad)
    momenta = next_momenta(leaf.momenta.reshape(-1, n), grad)
    logarithms = jnp.log(jnp.abs(jnp.concatenate([momenta, grad])) + _LOG_EPS)
    rows = [param, momenta, grad, logarithms]
    squares = [jnp.mean(jnp.square(feature), axis=1) for feature in raw_features(rows)]
    noise = None if leaf.noise is None else row(leaf.noise)
    columns = Columns(rows, row(leaf.dormancy), leaf.carry.reshape(-1, n), noise)
    return columns, jax.lax.rsqrt(_SCALE_EPS + jnp.concatenate(squares))


def all_features(columns: Columns, scale: Any, position: Any, progress: Any) -> jax.Array:
    """The GRU's inputs and a row of ones.

    Args:
        columns: parameters of one leaf.
        scale: factors of the first 15 features, of shape (15,).
        position: the layer's position, a scalar.
        progress: training and batch progress, of shape (2,).

    Returns:
        Array of shape (20, n).
    """
    raw = jnp.concatenate(raw_features(columns.rows))
    same = jnp.stack([progress[0], position, progress[1]])[:, None]
    same = jnp.broadcast_to(same, (3, raw.shape[1]))
    ones = jnp.ones_like(columns.dormancy)
    return jnp.concatenate([raw * scale[:, None], same, columns.dormancy, ones])


def update_agent(
    weights: Weights, progress: Any, leaves: Sequence[Leaf], *, blocks: bool, center: bool
) -> list[tuple[jax.Array, jax.Array, jax.Array]]:
    """One update of one agent.

    Args:
        weights: from `fold`.
        progress: training and batch progress, of shape (2,).
        leaves: its leaves, at least one and none of them empty.
        blocks: whether large leaves are computed block by block, and not all leaves at once.
        center: whether the mean over all parameters is subtracted.

    Returns:
        For each leaf what is to be added to it, the new momenta and the new carry.
    """
    new_momenta, rest = [], []
    done_in_blocks: list[tuple[jax.Array, jax.Array] | None] = []
    for leaf in leaves:
        columns, scale = leaf_columns(leaf)
        new_momenta.append(columns.rows[1])
        start = 0
        if width := block_width(leaf.param.size) if blocks else 0:
            start = leaf.param.size // width * width
            inputs = _leaf_inputs(weights, scale, leaf.position, progress)
            steps, carry = _in_blocks(weights, inputs, columns, width)
            # The old carry is not used again, so that the new one can take its place in memory.
            columns = columns._replace(carry=carry)
            done_in_blocks.append((steps, carry))
        else:
            done_in_blocks.append(None)
        left = jax.tree.map(lambda row, start=start: row[:, start:], columns)
        noise = jnp.zeros_like(left.dormancy) if left.noise is None else left.noise
        rest.append((all_features(left, scale, leaf.position, progress), left.carry, noise))

    # What is left of all leaves, side by side.
    x, carry, noise = (jnp.concatenate(parts, axis=1) for parts in zip(*rest, strict=True))
    inputs = jnp.concatenate([weights.inputs, weights.input_bias[:, None]], axis=1)
    outputs, carry = network(weights, inputs, x, carry)
    steps = step_sizes(outputs, noise if any(leaf.noise is not None for leaf in leaves) else None)
    ends = np.cumsum([features.shape[1] for features, _, _ in rest])[:-1].tolist()
    both: list[tuple[jax.Array, ...]] = [
        *zip(jnp.split(steps, ends, axis=1), jnp.split(carry, ends, axis=1), strict=True)
    ]
    for i, wholes in enumerate(done_in_blocks):
        if wholes is not None:
            both[i] = tuple(
                put_last(whole, part) for whole, part in zip(wholes, both[i], strict=True)
            )
    size = sum(leaf.param.size for leaf in leaves)
    mean = sum(jnp.sum(steps) for steps, _ in both) / size if center else 0.0
    return [
        (
            (mean - steps).reshape(leaf.param.shape),
            momenta.reshape(leaf.momenta.shape),
            carry.reshape(leaf.carry.shape),
        )
        for leaf, momenta, (steps, carry) in zip(leaves, new_momenta, both, strict=True)
    ]


def update(
    weights: Weights, progress: jax.Array, leaves: Sequence[Leaf], *, center: bool
) -> list[tuple[jax.Array, jax.Array, jax.Array]]:
    """Like `update_agent`, in the way that is best on the device and under `vmap`.

    Args:
        weights: from `fold`.
        progress: training and batch progress, of shape (2,).
        leaves: the agent's leaves, at least one and none of them empty.
        center: whether the mean over all parameters is subtracted.

    Returns:
        For each leaf what is to be added to it, the new momenta and the new carry.
    """
    states = [(leaf.momenta, leaf.carry) for leaf in leaves]
    nothing: Any = None
    rest = [leaf._replace(momenta=nothing, carry=nothing) for leaf in leaves]
    inputs = weights, progress, rest

    def way(blocks: bool) -> Callable[[Any, Any], Any]:
        def run(inputs: Any, states: Any) -> tuple[Any, Any]:
            weights, progress, rest = inputs
            whole = [
                leaf._replace(momenta=momenta, carry=carry)
                for leaf, (momenta, carry) in zip(rest, states, strict=True)
            ]
            results = update_agent(weights, progress, whole, blocks=blocks, center=center)
            return [steps for steps, *_ in results], [tuple(state) for _, *state in results]

        return run

    @jax.custom_jvp
    def updated(inputs: Any, states: Any) -> tuple[Any, Any]:
        return by_agent(way(has_blocks), way(False), size, inputs, states)

    # Neither loops nor `by_agent` have a reverse mode; neither is wanted for derivatives.
    updated.defjvp(lambda primals, tangents: jax.jvp(way(False), primals, tangents))
    has_blocks = any(block_width(leaf.param.size) for leaf in leaves)
    size = sum(leaf.param.size for leaf in leaves)
    steps, new = updated(inputs, states)
    return [(step, *state) for step, state in zip(steps, new, strict=True)]


def _product(matrix: jax.Array, rows: jax.Array) -> jax.Array:
    # Full precision: some accelerators would otherwise keep ten bits of each factor.
    return jnp.matmul(matrix, rows, precision=jax.lax.Precision.HIGHEST)


def _leaf_inputs(weights: Weights, scale: Any, position: Any, progress: Any) -> jax.Array:
    """Weights for the raw features of one leaf, its dormancy and a row of ones: (3 * n, 17)."""
    scaled, same = weights.inputs[:, :_SCALED] * scale[None], weights.inputs[:, _SCALED:-1]
    constant = weights.input_bias + _product(same, jnp.stack([progress[0], position, progress[1]]))
    return jnp.concatenate([scaled, weights.inputs[:, -1:], constant[:, None]], axis=1)


def _in_blocks(
    weights: Weights, inputs: jax.Array, columns: Columns, width: int
) -> tuple[jax.Array, jax.Array]:
    """Steps, of shape (1, n), and carry of all columns but the last `n % width`."""
    ones = jnp.ones((1, width), inputs.dtype)

    nothing: Any = None

    def compute(here: Columns, carry: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = jnp.concatenate([*raw_features(here.rows), here.dormancy, ones])
        outputs, carry = network(weights, inputs, x, carry)
        return step_sizes(outputs, here.noise), carry

    return in_blocks(compute, columns._replace(carry=nothing), columns.carry, width)
