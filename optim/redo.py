"""ReDo: dormant units of a network are renewed now and then."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim import _renewal, _units
from optim._checks import check_params, check_period, check_range, check_real
from optim._leaves import key_of_seed
from optim._promotion import with_standard_promotion
from optim._trained import on_trained_leaves

_RENEWAL = _renewal.Renewal(renews_bias_state=False, in_turn=False)


class RedoState(NamedTuple):
    """State of `redo`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32
    key: jax.Array
    inner_state: optax.OptState


@on_trained_leaves
def redo(
    inner: optax.GradientTransformation,
    period: int | jax.Array | None = 1000,
    tau: jax.typing.ArrayLike = 0.025,
    initializer: _renewal.Initializer = "xavier_uniform",
    links: _units.Links | None = None,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""ReDo, which renews the dormant units of networks, around any optimizer.

    With :math:`|h_i|` the mean absolute activation of unit :math:`i` of a hidden layer, after every
    `period` updates of the inner optimizer the units with

    .. math::

      s_i = \frac{|h_i|}{\operatorname{mean}_k |h_k| + 10^{-9}} \le \tau

    get a bias of 0 and incoming weights drawn anew, and then their outgoing weights become 0, so
    that the network's function stays what it was without them. In the inner optimizer's state, all
    that mirrors the parameters (the moments) is put back to its beginning for the incoming and
    outgoing weights of these units, and for nothing else.

    Args:
        inner: a whole optimizer, learning rate included. Give `adam_gnt` instead of `optax.adam`,
            whose step count goes on for renewed weights: their first steps would be too long.
        period: updates between two renewals, a whole number of at least 1. With `None` there are
            none, and this is the inner optimizer, bit for bit.
        tau: the largest score of a dormant unit. 0 renews only units that are exactly 0; with a
            negative one, this is the inner optimizer.
        initializer: of the incoming weights: uniform within the bound of "xavier_uniform", which is
            the authors' for all layers, "he_uniform", "lecun_uniform" or "torch_uniform", the
            inverse root of the inputs.
        links: for each hidden layer the layers that it feeds, for example
            `{"Dense_0": "Dense_1", "Dense_1": ["policy", "value"]}`, with slashes in longer paths,
            as in `"critic/Dense_0"`; `{}` says that there are no hidden units. `None` finds them
            by the names and shapes of leaves called `kernel`: children of one node are of one
            network, and follow each other by the numbers in their names.
        key: seed or key of the draws; may be traced. `init` mixes it with the initial parameters,
            so that seeds under `vmap` draw numbers of their own.

    Returns:
        The optimizer. `update` needs the parameters and the extra argument `activations`: the mean
        absolute activation of each unit, after the nonlinearity, as a pytree that mirrors the
        parameters with one vector of shape (units,) for each kernel of a hidden layer, or for its
        whole layer. Networks without hidden units need none. Extra arguments, `activations` too, go
        to the inner optimizer.

    Raises:
        ValueError: if a number is outside its range or `initializer` is unknown; from `init` and
            `update`, if it cannot be told which layer feeds which, or a mask hides a part of a
            network; from `update`, if `params` or `activations` is missing, or a gradient is
            complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = redo(optax.sgd(0.1), period=1)
        >>> params = {
        ...     "Dense_0": {"kernel": jnp.ones((1, 2)), "bias": jnp.ones(2)},
        ...     "Dense_1": {"kernel": jnp.ones((2, 1)), "bias": jnp.ones(1)},
        ... }
        >>> activations = {"Dense_0": jnp.array([0.0, 1.0])}  # The first unit is dormant.
        >>> grads = jax.tree.map(jnp.zeros_like, params)
        >>> updates, _ = optimizer.update(
        ...     grads, optimizer.init(params), params, activations=activations
        ... )
        >>> params = optax.apply_updates(params, updates)
        >>> print(params["Dense_0"]["bias"], params["Dense_1"]["kernel"].ravel())
        [0. 1.] [0. 1.]

    References:
        Sokar et al., `The Dormant Neuron Phenomenon in Deep Reinforcement Learning
        <https://arxiv.org/abs/2302.12902>`_, ICML 2023, arXiv 2302.12902.

    .. note::
      The authors take activations on a fresh sample and after the optimizer's step; here they are
      what the learner passes: those of the minibatch, before the step, as in the authors' variant
      for SAC.

    .. note::
      Behind a convolution the authors' code makes the outgoing weights of other units 0 than those
      renewed, since it repeats channels where flax's flattening has them last. Here they are the
      units' own.

    .. note::
      As in the authors' code, the moments of biases are kept. Their options for other outgoing
      weights, other scores and a schedule of the share are not here.

    .. note::
      What comes after this wrapper in a chain must leave the updates as they are. An inner
      optimizer that works out the parameters from copies of its own, as `trac`, undoes renewals.
      Normalisation that mixes units behind a renewed layer lets the function change, and its own
      scale and bias are not renewed.
    """
    check_period(period)
    check_range("tau", tau, -float("inf"))
    _renewal.check_initializer(initializer)
    inner = with_standard_promotion(inner)

    def init_fn(params: optax.Params) -> RedoState:
        _units.find_links(params, links)
        return RedoState(jnp.zeros([], jnp.int32), key_of_seed(key, params), inner.init(params))

    def update_fn(
        updates: optax.Updates,
        state: RedoState,
        params: optax.Params | None = None,
        *,
        activations: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, RedoState]:
        check_params("ReDo", params)
        check_real("ReDo", updates)
        found = _units.find_links(params, links)
        updates, inner_state = inner.update(
            updates, state.inner_state, params, activations=activations, **extra_args
        )
        count = optax.safe_increment(state.count)
        if found and period is not None:
            activity = _units.unit_activity("ReDo", activations, found)
            updates, inner_state = _renewal.renew_dormant(
                inner,
                _RENEWAL,
                initializer,
                found,
                [_units.relative(each, 1e-9) for each in activity],
                tau,
                count % jnp.asarray(period, count.dtype) == 0,
                params,
                updates,
                inner_state,
                jax.random.fold_in(state.key, count),
            )
        return updates, RedoState(count, state.key, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
