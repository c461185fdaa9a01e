"""Continual backpropagation: a few of the least useful units are renewed all the time."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim import _renewal, _units
from optim._checks import check_params, check_range, check_real
from optim._events import change_if
from optim._leaves import average, key_of_seed, working_dtype
from optim._promotion import with_standard_promotion
from optim._trained import on_trained_leaves

_RENEWAL = _renewal.Renewal(renews_bias_state=True, in_turn=True)


class CBPState(NamedTuple):
    """State of `cbp`. What is of units is like the parameters, with arrays for hidden kernels."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32
    key: jax.Array
    utility: Any  # average utility; shapes=(units,), at least float32
    age: Any  # updates since a unit's renewal; shapes=(units,), dtype=int32
    quota: Any  # units to be renewed, the fraction that is left; shapes=(), at least float32
    inner_state: optax.OptState


@on_trained_leaves
def cbp(
    inner: optax.GradientTransformation,
    replacement_rate: jax.typing.ArrayLike = 1e-4,
    maturity: int | jax.Array = 10_000,
    decay: jax.typing.ArrayLike = 0.99,
    initializer: _renewal.Initializer = "lecun_uniform",
    links: _units.Links | None = None,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Continual backpropagation (CBP), which renews units of little use, around any optimizer.

    After each update of the inner optimizer, for every hidden layer, with :math:`|h_i|` the mean
    absolute activation of unit :math:`i`, :math:`w_{ik}` its outgoing weights, :math:`\eta` the
    decay, :math:`m` the maturity and :math:`\rho` the replacement rate,

    .. math::

      \begin{align*}
        a_i &\leftarrow a_i + 1, \qquad
        u_i \leftarrow \eta u_i + (1 - \eta)\, |h_i| \operatorname{mean}_k |w_{ik}| \\
        E &= \{i : a_i > m\}, \qquad c \leftarrow c + \rho |E|, \qquad n = \lfloor c \rfloor,
          \qquad c \leftarrow c - n
      \end{align*}

    and the :math:`n` units of :math:`E` with the least :math:`u_i / (1 - \eta^{a_i})` are renewed:
    incoming weights are drawn anew, the bias and outgoing weights become 0, and so do :math:`u_i`
    and :math:`a_i`. In the inner optimizer's state, all that mirrors the parameters (the moments)
    is put back to its beginning for these weights and biases, and for nothing else.

    Args:
        inner: a whole optimizer, learning rate included. Give `adam_gnt` instead of `optax.adam`,
            whose step count goes on for renewed weights: their first steps would be too long.
        replacement_rate: :math:`\rho`, the share of a layer's mature units that are renewed by an
            update, in [0, 1). With 0, this is the inner optimizer, bit for bit.
        maturity: :math:`m`, updates for which a unit is spared after its renewal, at least 0.
        decay: :math:`\eta`, of the average of utilities, in [0, 1).
        initializer: of the incoming weights: uniform within the bound of "lecun_uniform", which is
            the authors' in reinforcement learning, "xavier_uniform", "he_uniform" or
            "torch_uniform", the inverse root of the inputs.
        links: for each hidden layer the layers that it feeds, or `None` to find them by names and
            shapes, see `redo`.
        key: seed or key of the draws; may be traced. `init` mixes it with the initial parameters,
            so that seeds under `vmap` draw numbers of their own.

    Returns:
        The optimizer. `update` needs the parameters and the extra argument `activations`, see
        `redo`.

    Raises:
        ValueError: if a number is outside its range or `initializer` is unknown; from `init` and
            `update`, if it cannot be told which layer feeds which, or a mask hides a part of a
            network; from `update`, if `params` or `activations` is missing, or a gradient is
            complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = cbp(optax.sgd(0.1), replacement_rate=0.5, maturity=0)
        >>> params = {
        ...     "Dense_0": {"kernel": jnp.ones((1, 2)), "bias": jnp.ones(2)},
        ...     "Dense_1": {"kernel": jnp.ones((2, 1)), "bias": jnp.ones(1)},
        ... }
        >>> activations = {"Dense_0": jnp.array([2.0, 1.0])}  # The second unit is of less use.
        >>> grads = jax.tree.map(jnp.zeros_like, params)
        >>> updates, _ = optimizer.update(
        ...     grads, optimizer.init(params), params, activations=activations
        ... )
        >>> params = optax.apply_updates(params, updates)
        >>> print(params["Dense_0"]["bias"], params["Dense_1"]["kernel"].ravel())
        [1. 0.] [1. 0.]

    References:
        Dohare et al., `Loss of plasticity in deep continual learning
        <https://arxiv.org/abs/2306.13812>`_, Nature 2024, arXiv 2306.13812.

    .. note::
      Utilities and renewals are the paper's, with the correction of the average that only the
      authors' code has. Its program for reinforcement learning renews a unit at random with
      probability :math:`\rho |E|` instead of adding up fractions, and puts back no state of Adam.
      Its other utilities are not here, nor is a correction of the next bias, which adds 0 there.

    .. note::
      Activations are those of the minibatch, before the update; outgoing weights are those after
      it. Layers are renewed one after the other from the first, so that a weight from one renewed
      unit into another one is drawn, not 0.

    .. note::
      The authors use decay rates of 0.99 and 0.99 in Adam, and an L2 penalty of 1e-4 in PPO. A
      maturity counts updates: 10 000 are 62 rollouts of 160.

    .. note::
      What comes after this wrapper in a chain must leave the updates as they are. An inner
      optimizer that works out the parameters from copies of its own, as `trac`, undoes renewals.
      Normalisation that mixes units behind a renewed layer lets the function change, and its own
      scale and bias are not renewed.
    """
    check_range("replacement_rate", replacement_rate, 0.0, 1.0)
    check_range("maturity", maturity, 0.0)
    check_range("decay", decay, 0.0, 1.0)
    _renewal.check_initializer(initializer)
    inner = with_standard_promotion(inner)

    def init_fn(params: optax.Params) -> CBPState:
        found = _units.find_links(params, links)
        leaves = jax.tree.leaves(params)
        units = [jnp.zeros(x.units, working_dtype(leaves[x.kernel])) for x in found]
        return CBPState(
            jnp.zeros([], jnp.int32),
            key_of_seed(key, params),
            utility=_units.unit_tree(params, found, units),
            age=_units.unit_tree(params, found, [jnp.zeros(x.shape, jnp.int32) for x in units]),
            quota=_units.unit_tree(params, found, [jnp.zeros([], x.dtype) for x in units]),
            inner_state=inner.init(params),
        )

    def update_fn(
        updates: optax.Updates,
        state: CBPState,
        params: optax.Params | None = None,
        *,
        activations: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, CBPState]:
        check_params("CBP", params)
        check_real("CBP", updates)
        found = _units.find_links(params, links)
        updates, inner_state = inner.update(
            updates, state.inner_state, params, activations=activations, **extra_args
        )
        count = optax.safe_increment(state.count)
        if not found:
            return updates, state._replace(count=count, inner_state=inner_state)
        activity = _units.unit_activity("CBP", activations, found)
        utility = _units.of_units(params, found, state.utility)
        age = [optax.safe_increment(x) for x in _units.of_units(params, found, state.age)]
        quota = _units.of_units(params, found, state.quota)
        strengths = _strengths(found, params, updates)
        new = [a.astype(u.dtype) * s for a, u, s in zip(activity, utility, strengths, strict=True)]
        utility = average(decay, utility, new)
        mature = [x > jnp.asarray(maturity, x.dtype) for x in age]
        quota = [
            x + jnp.asarray(replacement_rate, x.dtype) * jnp.sum(m, dtype=x.dtype)
            for x, m in zip(quota, mature, strict=True)
        ]
        number = [jnp.floor(x) for x in quota]
        quota = [x - n for x, n in zip(quota, number, strict=True)]
        draw = jax.random.fold_in(state.key, count)

        def renewed(old: Any) -> Any:
            updates, inner_state, utility, age = old
            least = [
                _least(decay, *each) for each in zip(utility, age, mature, number, strict=True)
            ]
            updates, inner_state = _renewal.renew(
                inner, _RENEWAL, initializer, found, least, params, updates, inner_state, draw
            )
            utility, age = (
                [jnp.where(mask, 0, x) for mask, x in zip(least, tree, strict=True)]
                for tree in (utility, age)
            )
            return updates, inner_state, utility, age

        due = jnp.any(jnp.stack(number) > 0)
        updates, inner_state, utility, age = change_if(
            due, renewed, (updates, inner_state, utility, age)
        )
        return updates, CBPState(
            count,
            state.key,
            _units.unit_tree(params, found, utility),
            _units.unit_tree(params, found, age),
            _units.unit_tree(params, found, quota),
            inner_state,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _strengths(links: Any, params: Any, updates: Any) -> list[jax.Array]:
    """Mean absolute outgoing weights after an update."""
    leaves, steps = jax.tree.leaves(params), jax.tree.leaves(updates)

    def moved(place: int) -> jax.Array:
        kernel = leaves[place].astype(working_dtype(leaves[place]))
        return kernel + steps[place].astype(kernel.dtype)

    return [
        _units.outgoing_strength(link, [moved(place) for place in link.next_kernels])
        for link in links
    ]


def _least(
    decay: Any, utility: jax.Array, age: jax.Array, mature: jax.Array, number: jax.Array
) -> jax.Array:
    """The mature units of least utility; of equal ones the first."""
    share = 1 - jnp.asarray(decay, utility.dtype) ** age.astype(utility.dtype)
    ranked = jnp.where(mature, utility / share, jnp.inf)
    rank = jnp.argsort(jnp.argsort(ranked))
    return mature & (rank < number.astype(rank.dtype))
