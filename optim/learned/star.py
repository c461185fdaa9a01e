"""STAR: a small network on the features of Adam and Adafactor, next to a plain Adam-like step."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optim._checks import check_learning_rate, check_params, check_range, check_real
from optim._leaves import at_count
from optim._trained import on_trained_leaves
from optim.learned._accumulators import (
    Accumulators,
    accumulate,
    inverse_root,
    largest_axes,
    mean,
    zeros,
)
from optim.learned._blocks import by_agent
from optim.learned._recurrent import (
    MetaParams,
    Shapes,
    cast,
    check_grad_clip,
    check_meta_params,
    check_size,
    clip_gradient,
    fold_mlp,
    init_weights,
    mlp,
    mlp_shapes,
)

_MOMENTUM_DECAYS = (0.9, 0.99, 0.999)
_RMS_DECAYS = (0.999,)
_FACTORED_DECAYS = (0.9, 0.99, 0.999)
_TIMESCALES = (1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5)
_FEATURES = 28  # of a parameter; those of time come on top
# The network's second output changes the size of a step by this share, in logarithms.
_MAGNITUDE = 1e-3


class STARState(NamedTuple):
    """State of `star`. Arrays are float32, or float64 where the parameter is.

    In a leaf's largest two axes, `rows` lacks the larger one and `columns` the smaller one;
    leaves with fewer than two axes have `diagonal` instead, and the others are empty.
    """

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32
    momentum: optax.Params  # (3, *leaf.shape), three decay rates
    square: optax.Params  # leaf.shape
    rows: optax.Params  # (3, *leaf.shape without the largest axis), or (0,)
    columns: optax.Params  # (3, *leaf.shape without the second largest axis), or (0,)
    diagonal: optax.Params  # (3, *leaf.shape), or (0,)


@dataclasses.dataclass(frozen=True)
class STAR:
    """The architecture of STAR.

    See `star` for the equations and the notes.

    Attributes:
        mlp_widths: units of the network's hidden layers.
        feature_version: of what meta-parameters are multiplied with; files of others are refused.

    Raises:
        ValueError: if a width is no whole number of at least 1.

    Examples:
        >>> import jax
        >>> architecture = STAR()
        >>> meta_params = architecture.init(jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(meta_params))
        207
        >>> optimizer = architecture.transform(meta_params, learning_rate=3e-4)
    """

    feature_version: ClassVar[int] = 1
    mlp_widths: tuple[int, ...] = (4, 4)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mlp_widths", tuple(self.mlp_widths))
        for width in self.mlp_widths:
            check_size("mlp_widths", width)

    def shapes(self) -> Shapes:
        """Shapes of the meta-parameters, as a nested dict."""
        return {
            "momentum_decays": (len(_MOMENTUM_DECAYS),),
            "rms_decays": (len(_RMS_DECAYS),),
            "adafactor_decays": (len(_FACTORED_DECAYS),),
            "mlp": mlp_shapes(_FEATURES + len(_TIMESCALES), self.mlp_widths, 4),
        }

    def init(self, key: jax.Array) -> MetaParams:
        """Draws meta-parameters: kernels from truncated normals, biases and decays' offsets 0.

        Args:
            key: a key.

        Returns:
            Nested dict of float32 arrays. Before its truncation at two standard deviations a
            kernel's distribution has the variance 1 / inputs.
        """

        def weight(name: str, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            if not name.endswith("kernel"):
                return jnp.zeros(shape, jnp.float32)
            draws = jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)
            return draws / float(np.sqrt(shape[0]))

        return init_weights(key, self.shapes(), weight)

    @on_trained_leaves
    def transform(
        self,
        meta_params: MetaParams,
        learning_rate: optax.ScalarOrSchedule = 3e-4,
        nominal_step: optax.ScalarOrSchedule = 1e-3,
        grad_clip: jax.typing.ArrayLike | None = 1.0,
    ) -> optax.GradientTransformationExtraArgs:
        """Builds the optimizer with given meta-parameters.

        Args:
            meta_params: as `init` gives them. Tracers will do: the optimizer can be
                differentiated with respect to them, and batched over them.
            learning_rate: factor of the learned part of the updates, greater than 0, or a schedule.
            nominal_step: factor of the other part, at least 0, or a schedule.
            grad_clip: each entry of a gradient is first held within this, greater than 0; `None`
                for no limit.

        Returns:
            The optimizer.

        Raises:
            ValueError: if a number is outside its range or the meta-parameters are not this
                architecture's; from `update`, if `params` is missing or a gradient is complex.
        """
        check_learning_rate(learning_rate)
        check_range("nominal_step", nominal_step, 0.0)
        check_grad_clip(grad_clip)
        check_meta_params("STAR", meta_params, self.shapes())

        def init_fn(params: optax.Params) -> STARState:
            return STARState(
                count=jnp.zeros([], jnp.int32),
                **{
                    name: jax.tree.map(lambda p, i=i: zeros(p)[i], params)
                    for i, name in enumerate(Accumulators._fields)
                },
            )

        def update_fn(
            updates: optax.Updates,
            state: STARState,
            params: optax.Params | None = None,
            **extra_args: Any,
        ) -> tuple[optax.Updates, STARState]:
            del extra_args
            check_params("STAR", params)
            check_real("STAR", updates)
            rate = at_count(learning_rate, state.count)
            nominal = at_count(nominal_step, state.count)

            def run(inputs: Any, states: Any) -> tuple[Any, Any]:
                meta_params, count, rate, nominal, leaves = inputs
                steps, new = [], []
                for (gradient, param), accumulated in zip(leaves, states, strict=True):
                    dtype = accumulated[0].dtype
                    weights = cast(meta_params, dtype)
                    g = clip_gradient(gradient.astype(dtype), grad_clip)
                    accumulated = _accumulate(weights, g, accumulated)
                    learned, fallback = _network(
                        weights, count, param.astype(dtype), g, accumulated
                    )
                    step = rate.astype(dtype) * learned + nominal.astype(dtype) * fallback
                    steps.append((-step).astype(param.dtype))
                    new.append(accumulated)
                return steps, new

            @jax.custom_jvp
            def updated(inputs: Any, states: Any) -> tuple[Any, Any]:
                return by_agent(run, run, size, inputs, states)

            # `by_agent` has no reverse mode.
            updated.defjvp(lambda primals, tangents: jax.jvp(run, primals, tangents))
            treedef: Any = jax.tree.structure(updates)
            leaves = [*zip(*map(treedef.flatten_up_to, (updates, params)), strict=True)]
            states = [
                Accumulators(*leaf)
                for leaf in zip(*map(treedef.flatten_up_to, state[1:]), strict=True)
            ]
            size = sum(gradient.size for gradient, _ in leaves)
            numbers = (jnp.asarray(number, float) for number in (rate, nominal))
            steps, new = updated((meta_params, state.count, *numbers, leaves), states)
            fields = zip(*new, strict=True) if new else [()] * len(state[1:])
            accumulators = (treedef.unflatten(field) for field in fields)
            return treedef.unflatten(steps), STARState(
                optax.safe_increment(state.count), *accumulators
            )

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def star(
    meta_params: MetaParams,
    learning_rate: optax.ScalarOrSchedule = 3e-4,
    nominal_step: optax.ScalarOrSchedule = 1e-3,
    grad_clip: jax.typing.ArrayLike | None = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""The STAR optimizer, as the authors of Optim4RL compare to it.

    A small network sees, for each parameter, what hand-crafted optimizers accumulate, and gives a
    step, to which a nominal step like Adam's is added for stability. With gradient :math:`g`, three
    momenta :math:`m_j`, an average of squares :math:`v`, and Adafactor's averages of squares over
    rows and columns, :math:`r_j` and :math:`c_j`,

    .. math::

      \begin{align*}
        g &\leftarrow \operatorname{clip}(g, \pm c) \\
        m_j &\leftarrow d_j m_j + (1 - d_j) g, \qquad v \leftarrow d v + (1 - d) g^2 \\
        r_j &\leftarrow d'_j r_j + (1 - d'_j) \operatorname{mean}_\text{columns} g^2, \qquad
        c_j \leftarrow d'_j c_j + (1 - d'_j) \operatorname{mean}_\text{rows} g^2 \\
        o &= \operatorname{MLP}(x_1 / \operatorname{rms}(x_1), \ldots, x_{28} /
          \operatorname{rms}(x_{28}), \tanh(t / \tau_1 - 1), \ldots, \tanh(t / \tau_{11} - 1)) \\
        \theta &\leftarrow \theta - \alpha\, o_1 e^{o_2 / 1000} - \eta\, e^{1 / 1000}\,
          \tfrac{1}{3} \textstyle\sum_j m_j / \sqrt{v + 10^{-6}}
      \end{align*}

    with :math:`\operatorname{rms}(x) = \sqrt{10^{-5} + \operatorname{mean} x^2}` over the leaf,
    :math:`\tau` = 1, 3, 10, ..., 1e5 and t the number of updates before. The 28 features are, in
    this order,

    .. math::

      \begin{gather*}
        g, \quad \theta, \quad m_j, \quad v, \quad \tfrac{m_j}{\sqrt{v + 10^{-6}}}, \quad
        \tfrac{1}{\sqrt{v + 10^{-6}}}, \quad g R_j C_j, \\
        r_j, \quad c_j, \quad \tfrac{1}{\sqrt{r_j + 10^{-8}}}, \quad
        \tfrac{1}{\sqrt{c_j + 10^{-8}}}, \quad m_j R_j C_j, \\
        R_j = \big(\max(r_j / (\operatorname{mean} r_j + 10^{-9}), 10^{-9})\big)^{-1/2}, \qquad
        C_j = \big(\max(c_j, 10^{-9})\big)^{-1/2}
      \end{gather*}

    For leaves with fewer than two axes both averages are those of :math:`g^2` itself. Of more than
    two axes the largest two count as columns and rows. Decay rates are learned,
    :math:`d = 1 - (1 - d_0)\, e^{10 w}`, from 0.9, 0.99, 0.999 for momenta and Adafactor's averages
    and from 0.999 for v. Nothing is corrected for its beginning at 0.

    Args:
        meta_params: as `STAR.init` gives them; sizes are read from the shapes. Tracers will
            do: the optimizer can be differentiated with respect to them, and batched over them.
        learning_rate: :math:`\alpha`, factor of the learned part alone, greater than 0, or a
            schedule.
        nominal_step: :math:`\eta`, factor of the nominal part, at least 0, or a schedule.
        grad_clip: each entry of a gradient is first held within this, greater than 0; `None` for no
            limit.

    Returns:
        The optimizer. It is differentiable throughout, with respect to meta-parameters, gradients
        and parameters. `update` needs the parameters and ignores extra arguments.

    Raises:
        ValueError: if a number is outside its range or the meta-parameters are not STAR's; from
            `update`, if `params` is missing or a gradient is complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> optimizer = star(STAR().init(jax.random.key(0)), learning_rate=1e-3)
        >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> updates, state = optimizer.update(params, optimizer.init(params), params)
        >>> state.rows["kernel"].shape, state.columns["kernel"].shape
        ((3, 2), (3, 3))

    References:
        Harrison et al., `A Closer Look at Learned Optimization: Stability, Robustness, and
        Inductive Biases <https://arxiv.org/abs/2209.11208>`_, NeurIPS 2022, arXiv 2209.11208. In
        this form: Lan et al., `Learning to Optimize for Reinforcement Learning
        <https://arxiv.org/abs/2302.01470>`_, Reinforcement Learning Conference 2024, arXiv
        2302.01470.

    .. note::
      This is the version of Optim4RL's authors: the network controls neither the nominal step nor
      weight decay, so two of its four outputs are unused, and gradients are clipped entry by entry
      before anything else. Without a limit of the user's, entries are held within 1e15.

    .. note::
      A schedule of `learning_rate` that ends at 0 does not end the nominal steps.
    """
    widths = STAR().mlp_widths
    try:
        layers = meta_params["mlp"]
        kernels = [layers[f"layers_{2 * i}"]["kernel"] for i in range(len(layers))]
        widths = tuple(jnp.shape(kernel)[1] for kernel in kernels[:-1])
    except (AttributeError, IndexError, KeyError, TypeError):
        pass  # The check of shapes says what is wrong.
    return STAR(widths).transform(meta_params, learning_rate, nominal_step, grad_clip)


def _decay(offset: jax.Array, initial: tuple[float, ...]) -> jax.Array:
    """Decay rates, each moved by its offset."""
    start = jnp.log(1 - jnp.asarray(initial, offset.dtype)) / 10
    return 1 - jnp.exp(10 * (start + offset))


def _accumulate(weights: MetaParams, g: jax.Array, accumulated: Accumulators) -> Accumulators:
    """The accumulators after a gradient."""
    return accumulate(
        g,
        accumulated,
        _decay(weights["momentum_decays"], _MOMENTUM_DECAYS),
        _decay(weights["rms_decays"], _RMS_DECAYS)[0],
        _decay(weights["adafactor_decays"], _FACTORED_DECAYS),
    )


def _network(
    weights: MetaParams,
    count: jax.Array,
    param: jax.Array,
    g: jax.Array,
    accumulated: Accumulators,
) -> tuple[jax.Array, jax.Array]:
    """The learned and the nominal direction of one leaf."""
    momentum, square, rows, columns, diagonal = accumulated
    root = jax.lax.rsqrt(square + 1e-6)[None]
    adam = momentum * root
    if g.ndim < 2:
        rows = columns = diagonal
        scaled_gradient = g[None] * inverse_root(diagonal + 1e-9)
        scaled_momentum = momentum * jax.lax.rsqrt(diagonal + 1e-6)
    else:
        smaller, larger = (axis + 1 for axis in largest_axes(g.shape))
        rows, columns = jnp.expand_dims(rows, larger), jnp.expand_dims(columns, smaller)
        # Products with a full array, unlike broadcasting, keep to the leaf's sharding.
        ones = jnp.ones_like(g)[None]
        factor = inverse_root(rows / (mean(rows, smaller) + 1e-9)) * ones * inverse_root(columns)
        scaled_gradient, scaled_momentum = g[None] * factor, momentum * factor
        rows, columns = rows * ones, columns * ones
    features = jnp.concatenate(
        [
            g[None],
            param[None],
            momentum,
            square[None],
            adam,
            root,
            scaled_gradient,
            rows,
            columns,
            jax.lax.rsqrt(rows + 1e-8),
            jax.lax.rsqrt(columns + 1e-8),
            scaled_momentum,
        ]
    )
    mean_squares = mean(features**2, tuple(range(1, features.ndim)))
    features = features * jax.lax.rsqrt(mean_squares + 1e-5)

    # Features of time are the same for all parameters: they act as a bias of the first layer.
    time = jnp.tanh(count.astype(g.dtype) / jnp.asarray(_TIMESCALES, g.dtype) - 1)
    first = weights["mlp"]["layers_0"]
    of_parameter, of_time = first["kernel"][:_FEATURES], first["kernel"][_FEATURES:]
    bias = first["bias"] + jnp.sum(time[:, None] * of_time, axis=0)
    layers = weights["mlp"] | {"layers_0": {"kernel": of_parameter, "bias": bias}}
    outputs = mlp(fold_mlp(layers), features)
    return (
        outputs[0] * jnp.exp(_MAGNITUDE * outputs[1]),
        float(np.exp(_MAGNITUDE)) * jnp.mean(adam, axis=0),
    )
