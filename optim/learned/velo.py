"""VeLO: a learned optimizer for supervised learning at large, with one small network per tensor."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optim._checks import (
    check_params,
    check_range,
    check_real,
    check_steps_between,
    missing,
)
from optim._leaves import widest_dtype, working_dtype, working_zeros
from optim._trained import on_trained_leaves
from optim.learned import _velo
from optim.learned._accumulators import Accumulators, zeros
from optim.learned._blocks import by_agent, unsharded
from optim.learned._recurrent import (
    MetaParams,
    Shapes,
    check_meta_params,
    check_size,
    init_weights,
)
from optim.learned._velo import Clock, Leaf, Losses, Memory

_MOST_STEPS = 150_000  # of a lifetime; of longer ones the authors average several gradients a step


class Pending(NamedTuple):
    """Sums since the last step, where a step takes the mean of several gradients."""

    gradients: optax.Updates  # like params, float32 at least
    value: jax.Array  # shape=(), of the losses


class VeLOState(NamedTuple):
    """State of `velo`. Arrays are float32, or float64 where the parameter is.

    In a leaf's largest two axes, `rows` lacks the larger one and `columns` the smaller one;
    leaves with fewer than two axes have `diagonal` instead, and the others are empty.
    """

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32
    momentum: optax.Params  # (3, *leaf.shape), three decay rates
    square: optax.Params  # leaf.shape
    rows: optax.Params  # (3, *leaf.shape without the largest axis), or (0,)
    columns: optax.Params  # (3, *leaf.shape without the second largest axis), or (0,)
    diagonal: optax.Params  # (3, *leaf.shape), or (0,)
    memory: Memory  # of the recurrent network, a row for each leaf that has entries
    losses: Losses  # averages of the loss
    pending: Pending | None  # None if the number of updates is known to be too small for it


@dataclasses.dataclass(frozen=True)
class VeLO:
    """The architecture of VeLO.

    See `velo` for the equations and the notes.

    Attributes:
        hidden_size: units of the recurrent network. The published one has 512.
        bank_size: perceptrons that those of the tensors are mixed from. There it has 256.
        feature_version: of what meta-parameters are multiplied with; files of others are refused.

    Raises:
        ValueError: if a size is no whole number of at least 1.

    Examples:
        >>> import jax
        >>> architecture = VeLO()
        >>> meta_params = architecture.init(jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(meta_params))
        5057
        >>> optimizer = architecture.transform(meta_params, num_updates=1000)
    """

    feature_version: ClassVar[int] = 1
    hidden_size: int = 16
    bank_size: int = 8

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            check_size(name, value)

    def shapes(self) -> Shapes:
        """Shapes of the meta-parameters, as a nested dict, named as the authors name them.

        Returns:
            A tuple for each array.

        Examples:
            >>> VeLO(512, 256).shapes()["rnn_params"]["rnn"]["linear"]
            {'w': (1024, 2048), 'b': (2048,)}
        """
        h, n, width = self.hidden_size, self.bank_size, _velo.WIDTH
        linear = lambda rows, columns: {"w": (rows, columns), "b": (columns,)}  # noqa: E731
        bank: Shapes = {f"w0__{i}": (n, size, width) for i, size in enumerate(_velo.GROUPS)}
        bank |= {"w1": (n, width, width), "w2": (n, width, 3)}
        return {
            "rnn_params": {
                # The first has no effect; the authors' network has it all the same.
                **{name: linear(_velo.INPUTS, h) for name in ("linear", "linear_1", "linear_2")},
                "rnn": {"linear": linear(2 * h, 4 * h)},
                "rnn_to_controls": linear(h, n),
                "step_size": linear(h, 1),
            },
            "lstm_init_state": {"hidden": (1, h), "cell": (1, h)},
            "ff_mod_stack": bank | {"b0": (n, width), "b1": (n, width), "b2": (n, 3)},
        }

    def init(self, key: jax.Array) -> MetaParams:
        """Draws meta-parameters: matrices from truncated normals, biases and first states 0.

        Args:
            key: a key.

        Returns:
            Nested dict of float32 arrays. Before its truncation at two standard deviations a
            matrix's distribution has the variance 1 / inputs.

        Examples:
            >>> VeLO().init(jax.random.key(0))["ff_mod_stack"]["w0__3"].shape
            (8, 3, 4)
        """

        def weight(name: str, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            kind = name.rsplit("/", 1)[1]
            if not kind.startswith("w"):
                return jnp.zeros(shape, jnp.float32)
            inputs = _velo.INPUTS if kind.startswith("w0") else shape[-2]
            draws = jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)
            return draws / float(np.sqrt(inputs))

        return init_weights(key, self.shapes(), weight)

    @on_trained_leaves
    def transform(
        self,
        meta_params: MetaParams,
        num_updates: int | jax.Array | None = None,
        weight_decay: jax.typing.ArrayLike = 0.0,
        use_bugged_loss_features: bool = False,
        use_bugged_next_lstm_state: bool = False,
    ) -> optax.GradientTransformationExtraArgs:
        """Builds the optimizer with given meta-parameters.

        Args:
            meta_params: as `init` gives them. Tracers will do: the optimizer can be
                differentiated with respect to them, and batched over them.
            num_updates: calls of `update` in the whole lifetime, an integer of at least 1. `None`
                takes it from the extra argument of that name.
            weight_decay: strength of the weight decay, at least 0.
            use_bugged_loss_features: whether all ten averages of the loss have the same horizon.
            use_bugged_next_lstm_state: whether the recurrent network forgets each step.

        Returns:
            The optimizer.

        Raises:
            ValueError: if a number is outside its range or the meta-parameters are not this
                architecture's; from `update`, if `params`, `value` or the number of updates is
                missing or a gradient is complex.
        """
        check_meta_params(str(self), meta_params, self.shapes())
        check_range("weight_decay", weight_decay, 0.0)
        if num_updates is not None:
            check_steps_between("num_updates", num_updates)
        lifetime = num_updates

        def init_fn(params: optax.Params) -> VeLOState:
            dtype = widest_dtype(params)
            tensors = sum(leaf.size > 0 for leaf in jax.tree.leaves(params))
            first = meta_params["lstm_init_state"]

            def rows(name: str) -> jax.Array:
                # A sum, since a copy of the meta-parameters themselves could not be donated.
                row = jnp.asarray(first[name], dtype)
                return jnp.zeros((tensors, self.hidden_size), dtype) + row

            is_short = isinstance(lifetime, int) and lifetime <= _MOST_STEPS
            return VeLOState(
                count=jnp.zeros([], jnp.int32),
                **{
                    name: jax.tree.map(lambda p, i=i: zeros(p)[i], params)
                    for i, name in enumerate(Accumulators._fields)
                },
                memory=Memory(rows("hidden"), rows("cell")),
                losses=_velo.no_losses(dtype),
                pending=None if is_short else Pending(working_zeros(params), jnp.zeros([], dtype)),
            )

        def update_fn(
            updates: optax.Updates,
            state: VeLOState,
            params: optax.Params | None = None,
            *,
            value: jax.typing.ArrayLike | None = None,
            num_updates: int | jax.Array | None = None,
            **extra_args: Any,
        ) -> tuple[optax.Updates, VeLOState]:
            del extra_args
            check_params("VeLO", params)
            check_real("VeLO", updates)
            if value is None:
                raise missing("VeLO", "value", "the loss")
            calls = num_updates if lifetime is None else lifetime
            if calls is None:
                raise ValueError(
                    "num_updates must be the number of updates in the whole lifetime for VeLO, got "
                    "None: give it as an option, VeLO().transform(meta_params, num_updates=...), "
                    "or to update(grads, state, params, value=..., num_updates=...)."
                )
            check_steps_between("num_updates", calls)

            def advance(
                meta_params: Any, leaves: Any, grads: Any, value: Any, traced: Any, old: Any
            ) -> tuple[Any, Any]:
                number = calls if isinstance(calls, int) else traced
                dtypes = [working_dtype(leaf) for leaf in leaves]
                value = jnp.asarray(value, old[3].means.dtype)
                grads = [g.astype(dtype) for g, dtype in zip(grads, dtypes, strict=True)]
                if isinstance(weight_decay, jax.core.Tracer) or np.any(weight_decay):
                    value, grads = _decayed(weight_decay, leaves, value, grads)
                step = _Step(meta_params, use_bugged_loss_features, use_bugged_next_lstm_state)
                return _accumulated(step, number, leaves, grads, value, old)

            treedef: Any = jax.tree.structure(params)
            leaves, grads = jax.tree.leaves(params), treedef.flatten_up_to(updates)
            averages = [
                Accumulators(*leaf)
                for leaf in zip(*map(treedef.flatten_up_to, state[1:6]), strict=True)
            ]
            pending = state.pending
            if pending is not None:
                pending = Pending(treedef.flatten_up_to(pending.gradients), pending.value)
            old = state.count, averages, state.memory, state.losses, pending
            traced = jnp.asarray(calls, jnp.int32)
            run = unsharded(advance, (leaves, old))
            steps, new = run(meta_params, leaves, grads, jnp.asarray(value), traced, old)
            count, averages, memory, losses, pending = new
            if pending is not None:
                pending = Pending(treedef.unflatten(pending.gradients), pending.value)
            fields = zip(*averages, strict=True) if averages else [()] * len(Accumulators._fields)
            trees = Accumulators(*(treedef.unflatten(field) for field in fields))
            return treedef.unflatten(steps), VeLOState(count, *trees, memory, losses, pending)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def velo(
    meta_params: MetaParams,
    num_updates: int | jax.Array | None = None,
    weight_decay: jax.typing.ArrayLike = 0.0,
    use_bugged_loss_features: bool = False,
    use_bugged_next_lstm_state: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""The VeLO optimizer, learned for supervised learning at large.

    A recurrent network looks at each tensor of parameters as a whole. It gives a factor of the
    tensor's steps, and the mixture c of a bank of perceptrons that is the tensor's own; that small
    perceptron gives the step of each parameter. With gradient :math:`g`, loss :math:`L`, parameters
    :math:`\theta` of a tensor and :math:`\operatorname{rms}(x)^2` the mean of :math:`x^2` in it,

    .. math::

      \begin{align*}
        x &= \big[\tanh(10 (t / N - \tau_i)), \ell_j, s(\overline{v'}), \text{rank},
          s(\operatorname{var} m'_j), s(\overline{(v' - \overline{m'_j})^2})\big] \\
        h, f &\leftarrow \operatorname{LSTM}\big(h,
          W_2 x + \max_\text{tensors} \operatorname{relu}(W_1 x)\big) \\
        m_j &\leftarrow d_j m_j + (1 - d_j) g, \qquad v \leftarrow d_3 v + (1 - d_3) g^2 \\
        o &= \operatorname{MLP}_c(y / \sqrt{\operatorname{rms}(y)^2 + 10^{-5}}), \qquad
          \operatorname{MLP}_c = \tfrac{100}{P} \textstyle\sum_p c_p \operatorname{MLP}_p, \quad
          c = W_c h \\
        \theta &\leftarrow \theta - 10^{-3} (W_s h)\, o_1\, e^{o_2 / 1000}
          \sqrt{\operatorname{rms}(\theta)^2 + 10^{-9}}
      \end{align*}

    with biases everywhere, :math:`d` = 0.9, 0.99, 0.999, :math:`m' = m / \operatorname{rms}
    (\theta)`, :math:`v'` likewise, both before the present gradient, :math:`s(x) = \tfrac12
    \operatorname{clip}(\log |10 x|, \pm 5)`, the number of axes longer than 1 as one of five, and
    :math:`t` the steps before, of :math:`N`. Gradients are clipped at :math:`\pm 1000`. The thirty
    entries of :math:`y` are

    .. math::

      \begin{gather*}
        g, \quad \operatorname{clip}(g, \pm 0.1), \quad \theta, \quad m_j, \quad v, \quad
        \tfrac{m_j}{\sqrt{v + 10^{-6}}}, \quad \tfrac{1}{\sqrt{v + 10^{-6}}}, \quad g R_j C_j, \quad
        \tfrac{g}{\sqrt{v + 10^{-6}}}, \\
        r_j, \quad c_j, \quad \tfrac{1}{\sqrt{r_j + 10^{-8}}}, \quad
        \tfrac{1}{\sqrt{c_j + 10^{-8}}}, \quad m_j R_j C_j
      \end{gather*}

    where :math:`r_j, c_j, R_j, C_j` are Adafactor's averages over rows and columns and their roots,
    as in `star`. The features of the loss compare averages over ten horizons from 10 to :math:`N`
    steps, corrected for their beginning at 0, with the smallest that they have been:
    :math:`\ell_j = \operatorname{clip}((a_j - \min a_j) / (a_{j+1} - \min a_j) - 1, \pm 1)`.

    Args:
        meta_params: as `VeLO.init` gives them; sizes are read from the shapes. Tracers will do:
            the optimizer can be differentiated with respect to them, and batched over them.
        num_updates: calls of `update` in the whole lifetime, an integer of at least 1: :math:`N`.
            `None` takes it from the extra argument of that name, which this project's learners
            pass. Beyond 150,000 each step takes the mean of the gradients and losses of several
            calls, as few as needed, and the updates between are 0.
        weight_decay: :math:`\lambda` of the authors' weight decay, at least 0: the optimizer is
            given :math:`g + \lambda \theta` and :math:`L + \lambda \|\theta\|^2`.
        use_bugged_loss_features: whether all ten horizons are of 10 steps, as in the authors' first
            published weights, and in their code unless it is told otherwise. The final weights were
            trained without.
        use_bugged_next_lstm_state: whether the recurrent network keeps its first state, as with
            those first weights.

    Returns:
        The optimizer. It is differentiable throughout, with respect to meta-parameters, gradients
        and parameters. `update` needs the parameters, `value` and, unless it was given here,
        `num_updates`; it ignores other extra arguments.

    Raises:
        ValueError: if a number is outside its range or the meta-parameters are not VeLO's; from
            `update`, if `params`, `value` or the number of updates is missing or a gradient is
            complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> optimizer = velo(VeLO().init(jax.random.key(0)), num_updates=1000)
        >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> loss = lambda params: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
        >>> value, grads = jax.value_and_grad(loss)(params)
        >>> updates, state = optimizer.update(grads, optimizer.init(params), params, value=value)
        >>> state.memory.hidden.shape
        (2, 16)

    References:
        Metz et al., `VeLO: Training Versatile Learned Optimizers by Scaling Up
        <https://arxiv.org/abs/2211.09760>`_, 2022, arXiv 2211.09760.

    .. note::
      The loss is meant to fall, as in supervised learning: a loss above twice the largest average
      is taken for that, and averages are compared with their minimum. That of a policy does not
      fall. Where a loss hardly changes, its features are rounding errors of the averages.

    .. note::
      Averages are float32 at least, while the authors' have the dtype of the parameters. Tensors
      without entries are left out, of the maximum too. Scalars count as vectors of one entry.

    .. note::
      The authors' weight decay acts on the loss as that of another strength would: the gradient of
      the penalty that is added to it is twice what is added to the gradient. `l2` and
      `decoupled_decay` of specs have no such difference.
    """
    try:
        architecture = VeLO(
            hidden_size=jnp.shape(meta_params["lstm_init_state"]["hidden"])[1],
            bank_size=jnp.shape(meta_params["ff_mod_stack"]["b0"])[0],
        )
    except (IndexError, KeyError, TypeError):
        architecture = VeLO()  # The check of shapes says what is wrong.
    return architecture.transform(
        meta_params,
        num_updates,
        weight_decay,
        use_bugged_loss_features,
        use_bugged_next_lstm_state,
    )


class _Step(NamedTuple):
    """The networks, and which of the older quirks they have."""

    meta_params: Any
    all_short: bool
    forgets: bool

    def __call__(
        self, clock: Clock, leaves: list[Any], grads: list[Any], value: Any, states: Any
    ) -> tuple[list[Any], Any]:
        """Updates of all leaves, and new states: averages, memory and losses."""
        full = [i for i, leaf in enumerate(leaves) if leaf.size]
        averages, memory, losses = states

        def run(inputs: Any, states: Any) -> tuple[Any, Any]:
            meta_params, clock, value, tensors = inputs
            averages, memory, losses = states
            known = [
                Leaf(param.astype(grad.dtype), grad, average)
                for (param, grad), average in zip(tensors, averages, strict=True)
            ]
            steps, new = _velo.update(
                meta_params,
                clock,
                value,
                known,
                memory,
                losses,
                all_short=self.all_short,
                forgets=self.forgets,
            )
            pairs = zip(steps, tensors, strict=True)
            return [(-step).astype(param.dtype) for step, (param, _) in pairs], new

        @jax.custom_jvp
        def updated(inputs: Any, states: Any) -> tuple[Any, Any]:
            size = sum(leaf.size for leaf in leaves)
            return by_agent(run, run, size, inputs, states)

        # `by_agent` has no reverse mode.
        updated.defjvp(lambda primals, tangents: jax.jvp(run, primals, tangents))
        inputs = self.meta_params, clock, value, [(leaves[i], grads[i]) for i in full]
        steps, (new, memory, losses) = updated(
            inputs, ([averages[i] for i in full], memory, losses)
        )
        updates, averages = [jnp.zeros_like(leaf) for leaf in leaves], list(averages)
        for i, step, average in zip(full, steps, new, strict=True):
            updates[i], averages[i] = step, average
        return updates, (averages, memory, losses)


def _accumulated(
    step: _Step, calls: Any, leaves: list[Any], grads: list[Any], value: Any, old: Any
) -> tuple[list[Any], Any]:
    """A step, or where a lifetime has too many calls the sum of gradients until there is one."""
    count, *states, pending = old
    every = -(-calls // _MOST_STEPS)
    clock = Clock(count // every, jnp.asarray(calls // every, float))
    after = optax.safe_increment(count)
    if isinstance(every, int) and every == 1:
        updates, states = step(clock, leaves, grads, value, tuple(states))
        return updates, (after, *states, pending)
    sums = jax.tree.map(jnp.add, pending, Pending(grads, value))

    def take(sums: Pending, states: Any) -> tuple[Any, Any, Any]:
        means = jax.tree.map(lambda x: x / jnp.asarray(every, x.dtype), sums)
        updates, states = step(clock, leaves, means.gradients, means.value, states)
        return updates, states, jax.tree.map(jnp.zeros_like, sums)

    def wait(sums: Pending, states: Any) -> tuple[Any, Any, Any]:
        return [jnp.zeros_like(leaf) for leaf in leaves], states, sums

    updates, new, sums = jax.lax.cond(after % every == 0, take, wait, sums, tuple(states))
    return updates, (after, *new, sums)


def _decayed(
    strength: Any, leaves: list[Any], value: jax.Array, grads: list[Any]
) -> tuple[jax.Array, list[Any]]:
    """Loss and gradients with the authors' weight decay."""
    own = [leaf.astype(g.dtype) for leaf, g in zip(leaves, grads, strict=True)]
    factor = lambda x: jnp.asarray(strength, x.dtype)  # noqa: E731
    squares = (jnp.sum(leaf**2).astype(value.dtype) for leaf in own)
    value = value + factor(value) * sum(squares, start=jnp.zeros_like(value))
    return value, [g + factor(g) * leaf for g, leaf in zip(grads, own, strict=True)]
