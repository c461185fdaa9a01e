"""Shows optimizers only those leaves that are trained.

Parameters may hold more than that: integers, keys and, in whole modules such as those of equinox,
functions. Their gradients are None or zero, and no optimizer has a use for them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp
import optax

from optim._told import check_names

P = ParamSpec("P")

# Extra arguments that mirror the parameters, and those that are functions of the parameters.
_TREES = ("grad", "hvp", "previous_gradient")
_FUNCTIONS = ("obj_fn", "value_fn")


def on_trained_leaves(
    factory: Callable[P, optax.GradientTransformation],
) -> Callable[P, optax.GradientTransformationExtraArgs]:
    """Decorates what builds a transformation, which then sees none but the trained leaves.

    Those are the arrays of real or complex numbers that have a gradient. In the place of all others
    the transformation sees None, and its state holds nothing for them. Where a gradient is None so
    is the update; where it or the parameter is of integers, the update is 0. Functions of the
    parameters, such as `obj_fn`, are still given all leaves. `update` warns of an extra argument
    that is spelled almost as one that counts.

    Args:
        factory: function or method that returns a transformation.

    Returns:
        The same. What it builds raises ValueError: from `init` if it fails and a leaf is no array,
        from `update` if a gradient is no array or of `jax.dtypes.float0`, and if it fails and the
        gradients have not the leaves that `init` was given.

    Examples:
        >>> optimizer = on_trained_leaves(optax.sgd)(0.1, momentum=0.9)
        >>> params = {"w": jnp.ones(1), "calls": jnp.int32(3), "activation": None}
        >>> grads = params | {"calls": jnp.int32(0)}
        >>> state = optimizer.init(params)
        >>> params["activation"] = jax.nn.relu
        >>> updates, _ = optimizer.update(grads, state, params)
        >>> print(updates["w"].round(1), updates["calls"], updates["activation"])
        [-0.1] 0 None
    """

    @functools.wraps(factory)
    def build(*args: P.args, **kwargs: P.kwargs) -> optax.GradientTransformationExtraArgs:
        return _on_trained_leaves(optax.with_extra_args_support(factory(*args, **kwargs)))

    return build


def _on_trained_leaves(
    inner: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    def init_fn(params: optax.Params) -> optax.OptState:
        params = jax.tree.map(_as_array, params)
        try:
            return inner.init(
                jax.tree.map(lambda leaf: None if _is_discrete(leaf) else leaf, params)
            )
        except (AttributeError, TypeError, ValueError):
            _check_leaves("params", params)
            raise

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        check_names(extra_args)
        updates, params = jax.tree.map(_as_array, (updates, params))
        _check_leaves("updates", updates)
        treedef: Any
        grads, treedef = jax.tree.flatten(updates, is_leaf=lambda node: node is None)
        owners = _flatten_up_to(treedef, params) or [None] * len(grads)
        pairs = list(zip(grads, owners, strict=True))
        is_trained = [g is not None and not any(map(_is_discrete, (g, p))) for g, p in pairs]
        if all(is_trained):
            return _update(inner, updates, state, params, extra_args)

        def of_trained(tree: Any) -> Any:
            parts = _flatten_up_to(treedef, tree)
            return tree if parts is None else unflatten(parts, [None] * len(grads))

        def of_all(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
            return lambda tree: function(unflatten(treedef.flatten_up_to(tree), owners))

        def unflatten(parts: Sequence[Any], others: Sequence[Any]) -> Any:
            chosen = zip(is_trained, parts, others, strict=True)
            return treedef.unflatten([part if kept else other for kept, part, other in chosen])

        changes = dict.fromkeys(_TREES, of_trained) | dict.fromkeys(_FUNCTIONS, of_all)
        for name in changes.keys() & extra_args.keys():
            if extra_args[name] is not None:
                extra_args[name] = changes[name](extra_args[name])
        result, state = _update(inner, of_trained(updates), state, of_trained(params), extra_args)
        zeros = [g if g is None else jnp.zeros_like(p if _is_discrete(p) else g) for g, p in pairs]
        return unflatten(treedef.flatten_up_to(result), zeros), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _update(
    inner: optax.GradientTransformationExtraArgs,
    updates: optax.Updates,
    state: optax.OptState,
    params: optax.Params | None,
    extra_args: dict[str, Any],
) -> tuple[optax.Updates, optax.OptState]:
    """The inner update; if it fails since the leaves are not those of `init`, it says so."""
    try:
        return inner.update(updates, state, params, **extra_args)
    except (AttributeError, TypeError, ValueError) as error:
        if _fits(inner, updates, state):
            raise
        raise ValueError(
            "updates must have a gradient for each leaf that init was given and for no other; "
            "give init None for a leaf without a gradient."
        ) from error


def _fits(
    inner: optax.GradientTransformation, updates: optax.Updates, state: optax.OptState
) -> bool:
    """Whether the state has as many leaves as one for these; True if that cannot be told."""
    try:
        expected = jax.eval_shape(inner.init, updates)
    except (AttributeError, TypeError, ValueError):
        return True
    # Containers may have become others, as those of flax nnx do.
    return len(jax.tree.leaves(expected)) == len(jax.tree.leaves(state))


def _as_array(leaf: Any) -> Any:
    return jnp.asarray(leaf) if isinstance(leaf, bool | int | float | complex) else leaf


def _is_discrete(leaf: Any) -> bool:
    """Whether it is an array of integers, keys or the like, in which no steps can be taken."""
    return hasattr(leaf, "dtype") and not jnp.issubdtype(leaf.dtype, jnp.inexact)


def _flatten_up_to(treedef: Any, tree: Any) -> list[Any] | None:
    """What the tree has in the place of each leaf; None if it has another structure."""
    try:
        return treedef.flatten_up_to(tree)
    except (TypeError, ValueError):
        return None


def _check_leaves(name: str, tree: Any) -> None:
    for path, leaf in jax.tree.leaves_with_path(tree):
        if hasattr(leaf, "dtype") and leaf.dtype != jax.dtypes.float0:
            continue
        got = "float0" if hasattr(leaf, "dtype") else f"a {type(leaf).__name__}"
        hint = (
            "give init the arrays alone, as equinox.filter(model, equinox.is_inexact_array) does"
            if name == "params"
            else "give None where there is no gradient"
        )
        raise ValueError(
            f"{name} must hold arrays and None only, got {got} at "
            f"{jax.tree_util.keystr(path, simple=True, separator='/')!r}; {hint}."
        )
