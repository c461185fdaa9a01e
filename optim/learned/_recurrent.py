"""What optimizers share that run a small recurrent network for every parameter.

Features and hidden units lie along the first axis, `(features, *leaf.shape)`, and are computed as
`_blocks` says. Weights are named and shaped as flax names and shapes those of `GRUCell` and of a
`Sequential`.

What remains of an update of Optim4RL on a CPU is hyperbolic tangents, 48 for each parameter, 40% of
the time; products with the hidden states, 30%; and moving blocks. A network of 8 units takes 1.1 ms
of one core for PPO's 59,908 parameters (0.6 ms of two) in each of four forms that were tried as
whole arrays, so that little is left to gain. What was tried and lost:

- The two networks as one block-diagonal product: zeros cost more than a second product, 1.6 times.
- The two networks stacked, in products of stacks of matrices: 1.04 to 1.3 times.
- Products as sums of columns times rows, fused with what follows: as fast on whole arrays, but the
  new state cannot take the place of the old one, so that 8 agents take 1.2 to 1.5 times. In blocks,
  XLA reads the start of the block again for each number and does not vectorise, 4 to 5 times; put
  behind a conditional it does, and is as fast as products.
- Other forms of tanh, with fewer operations or one exponential: as fast, or 1.4 times.
- `XLA_FLAGS=--xla_cpu_prefer_vector_width=512`: 0.85 times, but not ours to set.
- No barrier in `gru`: 4.5 times in training, where weights are constants, though not in benchmarks
  of updates alone.
- Blocks of 512 or 1024 parameters: 1.02 to 1.1 times those of 2048.
"""

import abc
import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_learning_rate, check_range, check_real
from optim._leaves import working_dtype
from optim._trained import on_trained_leaves
from optim.learned._blocks import linear_map, over_parameters, unsharded

MetaParams: TypeAlias = dict[str, Any]
Shapes: TypeAlias = dict[str, Any]

# Beyond this the square of a gradient is no longer a float32.
_LARGEST_GRADIENT = 1e15


def gru_shapes(inputs: int, hidden_size: int) -> Shapes:
    """Shapes of a GRU's weights; the recurrent parts of the two gates have no bias.

    Examples:
        >>> gru_shapes(1, 8)["hn"]
        {'kernel': (8, 8), 'bias': (8,)}
    """
    dense = {"kernel": (inputs, hidden_size), "bias": (hidden_size,)}
    recurrent = {"kernel": (hidden_size, hidden_size)}
    return {
        **{name: dict(dense) for name in ("ir", "iz", "in")},
        **{name: dict(recurrent) for name in ("hr", "hz")},
        "hn": recurrent | {"bias": (hidden_size,)},
    }


def mlp_shapes(inputs: int, widths: Sequence[int], outputs: int) -> Shapes:
    """Shapes of dense layers; the odd places of the sequence are the nonlinearities between.

    Examples:
        >>> mlp_shapes(8, (16,), 3)["layers_2"]
        {'kernel': (16, 3), 'bias': (3,)}
    """
    sizes = [inputs, *widths, outputs]
    return {
        f"layers_{2 * i}": {"kernel": (rows, columns), "bias": (columns,)}
        for i, (rows, columns) in enumerate(itertools.pairwise(sizes))
    }


def recurrent_weight(name: str, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Initial value of one weight: flax's defaults.

    Biases are 0, the square recurrent kernels orthogonal and all other kernels drawn by LeCun's
    rule.

    Args:
        name: path of the weight, for example `"rnn/hr/kernel"`.
        key: its key.
        shape: its shape.

    Returns:
        The weight, float32.

    Examples:
        >>> kernel = recurrent_weight("rnn/hr/kernel", jax.random.key(0), (4, 4))
        >>> bool(jnp.allclose(kernel @ kernel.T, jnp.eye(4), atol=1e-6))
        True
    """
    *_, layer, kind = name.split("/")
    if kind == "bias":
        return jnp.zeros(shape, jnp.float32)
    if layer not in ("hr", "hz", "hn"):
        return jax.nn.initializers.lecun_normal()(key, shape, jnp.float32)
    return _orthogonal(key, shape)


@functools.partial(jax.jit, static_argnums=1)  # compiled once for kernels of the same size
def _orthogonal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    initializer = jax.nn.initializers.orthogonal()
    # Decompositions that XLA batches on a CPU wait for threads that wait for each other.
    draw = jax.custom_batching.sequential_vmap(lambda key: initializer(key, shape, jnp.float32))
    return draw(key)


def init_weights(
    key: jax.Array,
    shapes: Shapes,
    initializer: Callable[[str, jax.Array, tuple[int, ...]], jax.Array],
) -> MetaParams:
    """Draws weights of given shapes, each from a key of its own.

    Args:
        key: the key.
        shapes: nested dict of shapes.
        initializer: function of a weight's path, key and shape.

    Returns:
        Nested dict of the weights.

    Examples:
        >>> weights = init_weights(jax.random.key(0), mlp_shapes(2, (), 3), recurrent_weight)
        >>> weights["layers_0"]["kernel"].shape
        (2, 3)
    """
    paths, treedef = jax.tree.flatten_with_path(shapes, is_leaf=lambda x: isinstance(x, tuple))
    keys = jax.random.split(key, len(paths))
    leaves = [
        initializer(_name(path), leaf_key, shape)
        for leaf_key, (path, shape) in zip(keys, paths, strict=True)
    ]
    return jax.tree.unflatten(treedef, leaves)


def check_size(name: str, value: Any) -> None:
    """Refuses what is no whole number of at least 1.

    Examples:
        >>> check_size("hidden_size", 0)
        Traceback (most recent call last):
        ...
        ValueError: hidden_size must be a whole number of at least 1, got 0.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")


def check_meta_params(architecture: str, meta_params: Any, shapes: Shapes) -> None:
    """Refuses meta-parameters that have not exactly the weights of an architecture.

    Args:
        architecture: its name, for the message.
        meta_params: what was given; tracers will do.
        shapes: nested dict of the shapes that it has.

    Raises:
        ValueError: if a weight is missing, not expected or of another shape.

    Examples:
        >>> check_meta_params("LinearOptim", {}, {"mlp": {"kernel": (2, 3)}})
        Traceback (most recent call last):
        ...
        ValueError: meta_params of LinearOptim must hold mlp/kernel of shape (2, 3), got none.
    """
    is_shape = lambda node: isinstance(node, tuple)  # noqa: E731
    expected = {
        _name(path): shape for path, shape in jax.tree.leaves_with_path(shapes, is_leaf=is_shape)
    }
    found = {_name(path): jnp.shape(leaf) for path, leaf in jax.tree.leaves_with_path(meta_params)}
    for name, shape in expected.items():
        if found.get(name) != shape:
            got = f"shape {found[name]}" if name in found else "none"
            raise ValueError(
                f"meta_params of {architecture} must hold {name} of shape {shape}, got {got}."
            )
    if unknown := sorted(set(found) - set(expected)):
        raise ValueError(
            f"meta_params of {architecture} must hold {', '.join(expected)} and no more, "
            f"got {unknown[0]}."
        )


def read_sizes(meta_params: Any, rnn: str, mlp: str) -> dict[str, Any]:
    """Reads hidden size and widths from the shapes of weights.

    Args:
        meta_params: the weights. If they are not as they should be, a later check says so.
        rnn: name of a GRU among them.
        mlp: name of the dense layers that follow it.

    Returns:
        `hidden_size` and `mlp_widths`; nothing if they cannot be read.

    Examples:
        >>> shapes = {"rnn": gru_shapes(1, 4), "mlp": mlp_shapes(4, (6,), 3)}
        >>> weights = init_weights(jax.random.key(0), shapes, recurrent_weight)
        >>> read_sizes(weights, "rnn", "mlp")
        {'hidden_size': 4, 'mlp_widths': (6,)}
    """
    try:
        widths = tuple(
            jnp.shape(meta_params[mlp][f"layers_{2 * i}"]["kernel"])[1]
            for i in range(len(meta_params[mlp]))
        )
        sizes = {
            "hidden_size": jnp.shape(meta_params[rnn]["hr"]["kernel"])[0],
            "mlp_widths": widths[:-1],
        }
    except (AttributeError, IndexError, KeyError, TypeError):
        return {}
    return sizes


class Gru(NamedTuple):
    """Weights of a GRU as `gru` uses them."""

    matrix: jax.Array  # shape=(4 * n, n + inputs + 1), see `gru`


class Dense(NamedTuple):
    """Weights of a dense layer as `mlp` uses them."""

    matrix: jax.Array  # shape=(outputs, inputs)
    bias: jax.Array  # shape=(outputs,)


def fold(meta_params: Mapping[str, Any]) -> dict[str, Any]:
    """Meta-parameters of GRUs and dense layers as the update uses them.

    Args:
        meta_params: GRUs as `gru_shapes` and dense layers as `mlp_shapes`, by their names.

    Returns:
        The same names, with a `Gru` or a list of `Dense`.

    Examples:
        >>> shapes = {"rnn": gru_shapes(1, 4), "mlp": mlp_shapes(4, (), 3)}
        >>> weights = fold(init_weights(jax.random.key(0), shapes, recurrent_weight))
        >>> weights["rnn"].matrix.shape, weights["mlp"][0].matrix.shape
        ((16, 6), (3, 4))
    """
    return {
        name: _fold_gru(layers) if "hr" in layers else fold_mlp(layers)
        for name, layers in meta_params.items()
    }


def fold_mlp(layers: Mapping[str, Any]) -> list[Dense]:
    """Dense layers as `mlp` uses them.

    Args:
        layers: as `mlp_shapes`.

    Returns:
        The layers, in order.
    """
    ordered = (layers[f"layers_{2 * i}"] for i in range(len(layers)))
    return [Dense(layer["kernel"].T, layer["bias"]) for layer in ordered]


def _fold_gru(weights: Mapping[str, Any]) -> Gru:
    def rows(size: float, hidden: str | None, inputs: str | None, bias: str) -> jax.Array:
        n, m = weights["hr"]["kernel"].shape[0], weights["ir"]["kernel"].shape[0]
        vector = weights[bias]["bias"]
        none = lambda rows: jnp.zeros((rows, n), vector.dtype)  # noqa: E731
        joint = [
            weights[hidden]["kernel"] if hidden else none(n),
            weights[inputs]["kernel"] if inputs else none(m),
            vector[None],
        ]
        return size * jnp.concatenate(joint).T

    return Gru(
        jnp.concatenate(
            [
                rows(0.5, "hr", "ir", "ir"),
                rows(0.5, "hz", "iz", "iz"),
                rows(1.0, "hn", None, "hn"),
                rows(1.0, None, "in", "in"),
            ]
        )
    )


def gru(weights: Gru, hidden: jax.Array, inputs: Sequence[jax.Array]) -> jax.Array:
    r"""One step of a gated recurrent unit for every parameter of a leaf.

    .. math::

      \begin{align*}
        r &= \sigma(W_{ir}^\top x + b_{ir} + W_{hr}^\top h), \qquad
        z = \sigma(W_{iz}^\top x + b_{iz} + W_{hz}^\top h) \\
        n &= \tanh(W_{in}^\top x + b_{in} + r \odot (W_{hn}^\top h + b_{hn})), \qquad
        h' = (1 - z) \odot n + z \odot h
      \end{align*}

    One matrix product with hidden state, inputs and a row of ones gives the arguments of r and z,
    halved since sigmoid(x) = 1/2 + tanh(x / 2) / 2, and the two parts of that of n.

    Args:
        weights: from `fold`, in the dtype to compute in.
        hidden: the state, of shape `(hidden_size, *leaf.shape)`.
        inputs: the features, each of the leaf's shape.

    Returns:
        The new state, which is the output as well.

    Examples:
        >>> shapes = {"rnn": gru_shapes(1, 8)}
        >>> weights = fold(init_weights(jax.random.key(0), shapes, recurrent_weight))
        >>> gru(weights["rnn"], jnp.zeros((8, 3, 2)), [jnp.ones((3, 2))]).shape
        (8, 3, 2)
    """
    rows = jnp.stack([*inputs, jnp.ones_like(inputs[0])])
    # With constant weights, XLA would take the product apart and compute on slices of the parts.
    seen = jax.lax.optimization_barrier(jnp.concatenate([hidden, rows]))
    joint = _product(weights.matrix, seen)
    reset, keep, from_hidden, from_inputs = jnp.split(joint, 4)
    reset, keep = (0.5 + 0.5 * jnp.tanh(gate) for gate in (reset, keep))
    candidate = jnp.tanh(from_inputs + reset * from_hidden)
    return candidate + keep * (hidden - candidate)


def mlp(weights: Sequence[Dense], x: jax.Array) -> jax.Array:
    """Dense layers with relu between them, for every parameter of a leaf.

    Args:
        weights: from `fold`, in the dtype to compute in.
        x: inputs of shape `(inputs, *leaf.shape)`.

    Returns:
        Outputs of shape `(outputs, *leaf.shape)`.

    Examples:
        >>> weights = init_weights(jax.random.key(0), mlp_shapes(8, (), 3), recurrent_weight)
        >>> mlp(fold_mlp(weights), jnp.ones((8, 5))).shape
        (3, 5)
    """
    for i, layer in enumerate(weights):
        x = jax.nn.relu(x) if i else x
        x = _product(layer.matrix, x) + _column(layer.bias, x.ndim)
    return x


def log_and_sign(gradient: jax.Array, scale: float = 10.0) -> list[jax.Array]:
    r"""A gradient as logarithm and sign, which are of order 1 whatever its size.

    .. math::

      (l, \operatorname{sign} g) \ \text{ if } l \ge -1, \text{ else } (-1, e^p g),
      \qquad l = \log(|g| + 10^{-8}) / p

    Args:
        gradient: the gradient.
        scale: p.

    Returns:
        The two features.

    Examples:
        >>> print(jnp.stack(log_and_sign(jnp.array([1.0, -1e-6]))).round(3))
        [[ 0.    -1.   ]
         [ 1.    -0.022]]
    """
    logarithm = jnp.log(jnp.abs(gradient) + 1e-8) / scale
    large = logarithm >= -1
    return [
        jnp.where(large, logarithm, -1),
        jnp.where(large, jnp.sign(gradient), jnp.exp(scale) * gradient),
    ]


def clip_gradient(gradient: jax.Array, grad_clip: jax.typing.ArrayLike | None) -> jax.Array:
    """Holds each entry within `grad_clip`, or, where that is None, within what can be squared.

    Examples:
        >>> print(clip_gradient(jnp.array([0.5, -3.0]), 1.0))
        [ 0.5 -1. ]
    """
    limit = jnp.asarray(_LARGEST_GRADIENT if grad_clip is None else grad_clip, gradient.dtype)
    return jnp.clip(gradient, -limit, limit)


def check_grad_clip(grad_clip: Any) -> None:
    """Refuses a concrete limit that is not greater than 0; None passes.

    Examples:
        >>> check_grad_clip(-1.0)
        Traceback (most recent call last):
        ...
        ValueError: grad_clip must be in (0, inf), got -1.0.
    """
    if grad_clip is not None:
        check_range("grad_clip", grad_clip, 0.0, open_low=True)


def cast(tree: Any, dtype: jax.typing.DTypeLike) -> Any:
    """A tree with all its leaves in one dtype.

    Examples:
        >>> print(cast([1.0, jnp.ones(1, jnp.bfloat16)], jnp.float32)[1].dtype)
        float32
    """
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def stacked_zeros(leaf: Any, copies: int) -> jax.Array:
    """A state of zeros for a leaf, in float32 at least, of shape `(copies, *leaf.shape)`.

    Examples:
        >>> stacked_zeros(jnp.ones((3, 2)), 8).shape
        (8, 3, 2)
    """
    # Not zeros of that shape, which would not be sharded as the leaf is.
    return jnp.stack([jnp.zeros_like(leaf, dtype=working_dtype(leaf))] * copies)


@dataclasses.dataclass(frozen=True)
class RecurrentArchitecture(abc.ABC):
    """An optimizer made of recurrent networks that run for every parameter.

    Attributes:
        hidden_size: units of each recurrent network.
        mlp_widths: units of the hidden layers between these and their outputs.
        State: class of the state, a named tuple with a field for each recurrent network.
        feature_version: of what meta-parameters are multiplied with; files of others are refused.

    Raises:
        ValueError: if a size is no whole number of at least 1.

    Examples:
        >>> from optim.learned.linear_optim import LinearOptim
        >>> LinearOptim(hidden_size=4).init(jax.random.key(0))["mlp"]["layers_0"]["kernel"].shape
        (4, 3)
    """

    hidden_size: int = 8
    mlp_widths: tuple[int, ...] = ()
    State: ClassVar[Any]
    feature_version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "mlp_widths", tuple(self.mlp_widths))
        check_size("hidden_size", self.hidden_size)
        for width in self.mlp_widths:
            check_size("mlp_widths", width)

    @abc.abstractmethod
    def shapes(self) -> Shapes:
        """Shapes of the meta-parameters, as a nested dict."""

    @staticmethod
    def features(gradient: jax.Array) -> list[jax.Array]:
        """What the recurrent networks see, each of the gradient's shape.

        Args:
            gradient: that of some parameters, clipped.

        Returns:
            The features; by default the gradient alone.
        """
        return [gradient]

    @staticmethod
    @abc.abstractmethod
    def direction(
        weights: dict[str, Any],
        gradient: jax.Array,
        features: Sequence[jax.Array],
        hidden: tuple[jax.Array, ...],
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """What to descend along, for one leaf or any other set of parameters.

        Args:
            weights: the meta-parameters after `fold`, in the dtype of the hidden states.
            gradient: that of the parameters, clipped, in that dtype.
            features: from `features`.
            hidden: their hidden states, one for each recurrent network, of shape
                `(hidden_size, *gradient.shape)`.

        Returns:
            The direction, which is subtracted after multiplication with the learning rate, and the
            new hidden states.
        """

    def init(self, key: jax.Array) -> MetaParams:
        """Draws meta-parameters: recurrent kernels orthogonal, others by LeCun's rule, biases 0.

        Args:
            key: a key.

        Returns:
            Nested dict of float32 arrays, shaped as `shapes` says and named as flax would.
        """
        return init_weights(key, self.shapes(), recurrent_weight)

    @on_trained_leaves
    def transform(
        self,
        meta_params: MetaParams,
        learning_rate: optax.ScalarOrSchedule = 3e-4,
        grad_clip: jax.typing.ArrayLike | None = 1.0,
    ) -> optax.GradientTransformationExtraArgs:
        """Builds the optimizer with given meta-parameters.

        Args:
            meta_params: as `init` gives them. Tracers will do: the optimizer can be
                differentiated with respect to them, and batched over them.
            learning_rate: factor of the updates, greater than 0, or a schedule.
            grad_clip: each entry of a gradient is first held within this, greater than 0; `None`
                for no limit.

        Returns:
            The optimizer.

        Raises:
            ValueError: if a number is outside its range or the meta-parameters are not this
                architecture's; from `update`, if a gradient is complex.
        """
        name = type(self).__name__
        check_learning_rate(learning_rate)
        check_grad_clip(grad_clip)
        check_meta_params(name, meta_params, self.shapes())

        def init_fn(params: optax.Params) -> Any:
            # Each field has arrays of its own: shared buffers could not be donated.
            return self.State(
                *(
                    jax.tree.map(lambda leaf: stacked_zeros(leaf, self.hidden_size), params)
                    for _ in self.State._fields
                )
            )

        def update_fn(
            updates: optax.Updates,
            state: Any,
            params: optax.Params | None = None,
            **extra_args: Any,
        ) -> tuple[optax.Updates, Any]:
            del params, extra_args
            check_real(name, updates)

            def compute(meta_params: Any, gradients: Any, hidden: Any) -> tuple[Any, Any]:
                dtype = hidden[0][0].dtype
                clipped = [
                    clip_gradient(gradient.astype(dtype), grad_clip)
                    for gradient in jax.lax.stop_gradient(gradients)
                ]
                # Not in blocks: what computes features and puts rows together is not vectorised.
                constants = [jnp.stack([g, *self.features(g)]) for g in clipped]
                weights = fold(cast(meta_params, dtype))
                directions, hidden = _directions(self.direction, weights, constants, hidden)
                typed = zip(directions, gradients, strict=True)
                return [step[0].astype(gradient.dtype) for step, gradient in typed], hidden

            treedef: Any = jax.tree.structure(updates)
            directions = treedef.flatten_up_to(updates)
            hidden = list(zip(*map(treedef.flatten_up_to, state), strict=True))
            dtypes = [leaf[0].dtype for leaf in hidden]
            for dtype in dict.fromkeys(dtypes):
                chosen = [i for i, other in enumerate(dtypes) if other == dtype]
                old = [directions[i] for i in chosen], [hidden[i] for i in chosen]
                results = unsharded(compute, old)(meta_params, *old)
                for i, direction, after in zip(chosen, *results, strict=True):
                    directions[i], hidden[i] = direction, after
            fields = zip(*hidden, strict=True) if hidden else [()] * len(state)
            return (
                treedef.unflatten(directions),
                self.State(*(treedef.unflatten(field) for field in fields)),
            )

        return optax.chain(
            optax.GradientTransformationExtraArgs(init_fn, update_fn),
            optax.scale_by_learning_rate(learning_rate),
        )


def _directions(
    direction: Callable[..., Any], weights: Any, constants: list[Any], hidden: list[Any]
) -> tuple[list[Any], list[Any]]:
    """Directions and new hidden states of leaves of one dtype.

    Constants are each leaf's gradient and features, of shape `(1 + features, *leaf.shape)`.

    For the derivative nothing is kept but what goes in. Gates are computed again, block by block.
    Of second derivatives all are to be had but one: reverse mode of reverse mode through a scan,
    where jax forgets that there is a rule. Reverse mode of forward mode is the same.
    """

    def forward(weights: Any, constants: Any, hidden: Any) -> tuple[Any, Any, Any]:
        gradient, *features = constants
        step, hidden = direction(weights, gradient, features, hidden)
        return step[None], hidden, ()

    def backward(weights: Any, columns: Any, cotangents: Any) -> tuple[Any, Any, Any]:
        constants, hidden, of_step = columns
        run = lambda weights, hidden: forward(weights, constants, hidden)[:2]  # noqa: E731
        of_weights, cotangents = jax.vjp(run, weights, hidden)[1]((of_step, cotangents))
        return (), cotangents, of_weights

    @jax.custom_jvp
    def updated(weights: Any, constants: Any, hidden: Any) -> Any:
        return over_parameters(forward, weights, constants, hidden)[:2]

    @updated.defjvp
    def derivative(primals: Any, tangents: Any) -> tuple[Any, Any]:
        weights, constants, hidden = primals

        def push(tangents: Any) -> Any:
            def run(weights: Any, hidden: Any) -> Any:
                leaves = zip(constants, hidden, strict=True)
                results = [forward(weights, *leaf)[:2] for leaf in leaves]
                return [list(part) for part in zip(*results, strict=True)]

            return tuple(jax.jvp(run, (weights, hidden), tangents)[1])

        def pull(cotangents: Any) -> Any:
            columns = list(zip(constants, hidden, cotangents[0], strict=True))
            return over_parameters(backward, weights, columns, cotangents[1])[:0:-1]

        return updated(*primals), linear_map(push, pull, (tangents[0], tangents[2]))

    return updated(weights, constants, hidden)


def _name(path: Any) -> str:
    return "/".join(str(getattr(entry, "key", entry)) for entry in path)


def _column(vector: jax.Array, ndim: int) -> jax.Array:
    return vector.reshape(vector.shape + (1,) * (ndim - 1))


def _product(kernel: jax.Array, x: jax.Array) -> jax.Array:
    # Accelerators round the factors of a product otherwise, and the hidden state is kept for long.
    return jnp.tensordot(kernel, x, axes=1, precision=jax.lax.Precision.HIGHEST)
