"""An optimizer for each network of a tree, and masks that networks' names make."""

import functools
from collections.abc import Collection, Mapping
from typing import Any

import jax
import optax

from optim._paths import leaf_paths

_FUNCTIONS = ("obj_fn", "value_fn")  # extra arguments that are functions of all parameters


def by_network(
    optimizers: Mapping[str, optax.GradientTransformation],
) -> optax.GradientTransformationExtraArgs:
    """Trains each network with an optimizer of its own.

    A network is a top-level entry of the parameters, whatever holds them: `{"actor": ..., "critic":
    ...}`, a dataclass, a module of flax nnx, and all of these below flax's `params`. Each optimizer
    sees nothing but its network. It is passed every extra argument; what mirrors the parameters is
    cut down to the network, and in functions of the parameters (`obj_fn`, `value_fn`) the other
    networks stand still.

    Args:
        optimizers: one for each network, by name.

    Returns:
        The optimizer. Its state is that of `optax.partition`.

    Raises:
        ValueError: from `init` and `update`, if the networks of the parameters are others.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optim
        >>> critic = optim.adamo(3e-4, kappa=1.0, tau=0.05)
        >>> optimizer = by_network({"actor": optax.sgd(0.5), "critic": critic})
        >>> params = {"actor": jnp.ones(2), "critic": jnp.eye(2)}
        >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
        >>> print(updates["actor"])
        [-0.5 -0.5]

    .. note::
        `value`, the loss, is that of all networks together: optimizers that compute step sizes from
        it, such as `optim.aegd`, are given more than their own.
    """

    def labels(tree: Any) -> Any:
        found = _networks(tree)
        if set(found) != set(optimizers):
            raise ValueError(
                "optimizers must be one for each network of the parameters, "
                f"{_listed(found)}, got them for {_listed(optimizers)}."
            )
        return jax.tree.unflatten(jax.tree.structure(tree), found)

    parts = optax.partition(optimizers, labels, mask_compatible_extra_args=True)

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        def whole(part: Any, other: Any) -> Any:
            return other if isinstance(part, optax.MaskedNode) else part

        def of_network(function: Any, tree: Any, *args: Any, **kwargs: Any) -> Any:
            is_masked = lambda node: isinstance(node, optax.MaskedNode)  # noqa: E731
            return function(jax.tree.map(whole, tree, params, is_leaf=is_masked), *args, **kwargs)

        for name in _FUNCTIONS:
            if extra_args.get(name) is not None:
                extra_args[name] = functools.partial(of_network, extra_args[name])
        return parts.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(parts.init, update_fn)


def network_mask(name: str, networks: Collection[str]) -> Any:
    """A mask that selects networks by name, as what has a mask takes it.

    Args:
        name: name of the argument, for the message.
        networks: top-level entries of the parameters.

    Returns:
        A function from the parameters to booleans that mirror them. It raises ValueError if they
        lack one of the networks.

    Examples:
        >>> network_mask("matrix_mask", ["critic"])({"actor": [1.0, 2.0], "critic": 3.0})
        {'actor': [False, False], 'critic': True}
    """

    def mask(tree: Any) -> Any:
        found = _networks(tree)
        for network in networks:
            if network not in found:
                raise ValueError(
                    f"{name} must name networks of the parameters, {_listed(found)}, got "
                    f"{network!r}."
                )
        chosen = [network in networks for network in found]
        return jax.tree.unflatten(jax.tree.structure(tree), chosen)

    return mask


def _networks(tree: Any) -> list[str]:
    """The top-level entry that each leaf is in; empty for a leaf alone."""
    return [path[0] if path else "" for path in leaf_paths(tree)]


def _listed(names: Collection[str]) -> str:
    return ", ".join(dict.fromkeys(filter(None, names))) or "none"
