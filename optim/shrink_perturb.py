"""Shrink & Perturb: weights are shrunk and something is added, in small steps or at changes."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from optim._checks import check_params, check_period, check_range
from optim._events import (
    InnerState,
    change_if,
    check_inner_state,
    is_due,
    next_count,
    reset_state_of,
)
from optim._leaves import key_of_seed, working_dtype
from optim._parameter_map import initial_copy
from optim._paths import leaf_paths, match_leaves, match_tree
from optim._promotion import with_standard_promotion
from optim._trained import on_trained_leaves

Noise = Literal["initial", "gaussian", "fresh"]


class ShrinkPerturbState(NamedTuple):
    """State of `shrink_perturb`."""

    # Updates since the parameters were last changed; shape=(), dtype=int32.
    count: jax.Array  # type: ignore[assignment]
    key: jax.Array | None  # None with noise "initial"
    initial: optax.Params | None  # what `init` was given; None with other noise
    inner_state: optax.OptState


@on_trained_leaves
def shrink_perturb(
    inner: optax.GradientTransformation,
    shrink: jax.typing.ArrayLike = 1e-6,
    perturb: jax.typing.ArrayLike = 1e-6,
    noise: Noise = "initial",
    period: int | jax.Array | None = 1,
    opt_state: InnerState = "keep",
    key: jax.Array | int = 0,
    init_fn: Callable[[jax.Array], optax.Params] | None = None,
    mask: Any | Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Shrinks the parameters after an optimizer's updates and adds initial or random ones.

    With :math:`u` the update by the inner optimizer, after each of them (`period` 1, the soft
    form), after each period or where `reset` is true,

    .. math::

      \theta \leftarrow (1 - s) (\theta + u) + \sigma \epsilon

    where :math:`\epsilon` are the parameters that the optimizer began with, standard normal numbers
    or parameters initialised anew. At all other times :math:`\theta \leftarrow \theta + u`.

    Args:
        inner: a whole optimizer, learning rate included, for example `optax.adam(3e-4)`.
        shrink: :math:`s`, in [0, 1].
        perturb: :math:`\sigma`, at least 0. With `shrink` and `perturb` 0 this is the inner
            optimizer, bit for bit.
        noise: "initial" for the parameters that `init` was given: with :math:`\sigma = s` all
            parameters return to them in the end. "gaussian" for normal numbers, drawn for each
            event. "fresh" for parameters that `init_fn` gives.
        period: updates between two events, a whole number of at least 1; `reset` is then ignored.
            `None` leaves them to `reset`; without that, this is the inner optimizer.
        opt_state: whether an event keeps the inner optimizer's state or resets it; schedules go
            on counting.
        key: key or seed for what is drawn; mixed with the initial parameters, by which seeds under
            `vmap` differ.
        init_fn: for "fresh", from a key to a tree like the parameters, as the network's
            initialisation gives it. It must give each leaf its own initialiser: scales of 1, biases
            of 0.
        mask: booleans that select the leaves: a pytree that mirrors the parameters or is a prefix
            of them, matched by names, or a function from parameters to one. `None` selects all.

    Returns:
        The optimizer. `update` needs the parameters and takes the extra argument `reset`, a Boolean
        that says that this gradient is the first of a new objective; extra arguments go to the
        inner optimizer.

    Raises:
        ValueError: if an argument is outside its range or unknown, or `noise` is "fresh" without
            `init_fn`; from `init` or `update`, if a selected leaf is complex; from `update`, if
            `params` is missing or `init_fn` does not give what the parameters hold.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = shrink_perturb(optax.sgd(0.1), shrink=0.1, perturb=0.1)
        >>> state = optimizer.init(jnp.ones(1))
        >>> params = jnp.full(1, 2.0)
        >>> for _ in range(2):
        ...     updates, state = optimizer.update(jnp.zeros(1), state, params)
        ...     params = optax.apply_updates(params, updates)
        ...     print(params.round(2))
        [1.9]
        [1.81]

    References:
        Ash and Adams, `On Warm-Starting Neural Network Training
        <https://arxiv.org/abs/1910.08475>`_, NeurIPS 2020, arXiv 1910.08475.

    .. note::
      Under this name many things are used. In PPO, Juliani and Ash shrink by 1e-6 after every
      minibatch and add 1e-6 times freshly initialised parameters ("fresh"), which is in effect
      weight decay with a little noise; others add 1e-6 times the stored initial ones ("initial"),
      which pulls to them. With "gaussian" the noise is not multiplied by the learning rate.
      Shrinking by 0.5 and adding 0.5 times fresh parameters at each change, with a new optimizer,
      is also Juliani and Ash's. Values of the first authors for PPO there are none.

    .. note::
      The PPO of this project passes `reset` at the first update on each rollout: there, `None` as
      period means an event after each rollout's first update. For changes of task give the number
      of updates in each phase as the period.

    .. note::
      Whoever adds an update to parameters in half precision loses steps of 1e-6: keep them in
      float32.

    .. note::
      The event follows the update on the gradient that comes with `reset`; with `opt_state="reset"`
      the next update is the first of a new inner optimizer.
    """
    check_range("shrink", shrink, 0.0, 1.0, closed_high=True)
    check_range("perturb", perturb, 0.0)
    check_period(period)
    check_inner_state(opt_state)
    if noise not in get_args(Noise):
        raise ValueError(f"noise must be one of {', '.join(get_args(Noise))}, got {noise!r}.")
    if (noise == "fresh") != (init_fn is not None):
        raise ValueError(
            "init_fn must be a function from a key to parameters with noise 'fresh', and None with "
            f"any other; got {init_fn!r} with noise {noise!r}."
        )
    inner = with_standard_promotion(inner)

    def selected(params: Any) -> Any:
        return match_tree("mask", True if mask is None else mask, params)

    def init_fun(params: optax.Params) -> ShrinkPerturbState:
        chosen = selected(params)
        copies = lambda leaf, is_chosen: initial_copy(leaf) if is_chosen else jnp.zeros(0)  # noqa: E731
        return ShrinkPerturbState(
            count=jnp.zeros([], jnp.int32),
            key=None if noise == "initial" else key_of_seed(key, params),
            initial=jax.tree.map(copies, params, chosen) if noise == "initial" else None,
            inner_state=inner.init(params),
        )

    def added(key: Any, params: Any) -> list[jax.Array]:
        leaves = jax.tree.leaves(params)
        if noise == "gaussian":
            keys = jax.random.split(key, max(len(leaves), 1))
            return [
                jax.random.normal(one, leaf.shape, working_dtype(leaf))
                for one, leaf in zip(keys, leaves, strict=False)
            ]
        assert init_fn is not None
        fresh = match_leaves("init_fn", init_fn(key), leaf_paths(params))
        for leaf, new in zip(leaves, fresh, strict=True):
            if jnp.shape(new) != leaf.shape:
                raise ValueError(
                    "init_fn must give leaves of the parameters' shapes, got "
                    f"{jnp.shape(new)} for {leaf.shape}."
                )
        return fresh

    def update_fn(
        updates: optax.Updates,
        state: ShrinkPerturbState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ShrinkPerturbState]:
        check_params("Shrink & Perturb", params)
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        due = is_due(state.count, period, extra_args.get("reset"))

        def event(old: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
            updates, key, inner_state = old
            treedef: Any = jax.tree.structure(params)
            if noise == "initial":
                additions = jax.tree.leaves(state.initial)
            else:
                key, draw_key = jax.random.split(key)
                additions = added(draw_key, params)
            changed = [
                _changed_update(update, leaf, addition, shrink, perturb) if chosen else update
                for update, leaf, addition, chosen in zip(
                    treedef.flatten_up_to(updates),
                    jax.tree.leaves(params),
                    additions,
                    jax.tree.leaves(selected(params)),
                    strict=True,
                )
            ]
            updates = treedef.unflatten(changed)
            if opt_state == "reset":
                reached = optax.apply_updates(params, updates)
                inner_state = reset_state_of(inner, reached, inner_state)
            return updates, key, inner_state

        updates, new_key, inner_state = change_if(due, event, (updates, state.key, inner_state))
        count = next_count(state.count, due)
        return updates, ShrinkPerturbState(count, new_key, state.initial, inner_state)

    return optax.GradientTransformationExtraArgs(init_fun, update_fn)


def shrink_and_perturb(
    params: optax.Params,
    noise: optax.Params,
    shrink: jax.typing.ArrayLike,
    perturb: jax.typing.ArrayLike,
) -> optax.Params:
    """Shrinks parameters and adds to them, once, as `shrink_perturb` does.

    Args:
        params: the parameters.
        noise: what is added, a tree like the parameters.
        shrink: share of the parameters that is taken away, in [0, 1].
        perturb: what the noise is multiplied by, at least 0.

    Returns:
        The parameters, in the dtypes that they had.

    Raises:
        ValueError: if a number is outside its range.

    Examples:
        >>> import jax.numpy as jnp
        >>> print(shrink_and_perturb(jnp.full(2, 4.0), jnp.ones(2), shrink=0.5, perturb=0.5))
        [2.5 2.5]
    """
    check_range("shrink", shrink, 0.0, 1.0, closed_high=True)
    check_range("perturb", perturb, 0.0)

    def changed(leaf: jax.Array, addition: jax.Array) -> jax.Array:
        dtype = working_dtype(leaf)
        kept = (1 - jnp.asarray(shrink, dtype)) * leaf.astype(dtype)
        return (kept + jnp.asarray(perturb, dtype) * addition.astype(dtype)).astype(leaf.dtype)

    return jax.tree.map(changed, params, noise)


def _changed_update(
    update: jax.Array,
    param: jax.Array,
    addition: jax.Array,
    shrink: jax.typing.ArrayLike,
    perturb: jax.typing.ArrayLike,
) -> jax.Array:
    """The update to the changed parameter, of terms as small as they are: 1 - 1e-6 is inexact."""
    dtype = working_dtype(param)
    step, old, noise = (x.astype(dtype) for x in (update, param, addition))
    change = jnp.asarray(perturb, dtype) * noise - jnp.asarray(shrink, dtype) * (old + step)
    return (step + change).astype(update.dtype)
