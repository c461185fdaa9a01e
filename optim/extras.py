"""What learned optimizers want to be told, for other people's loops: activity of units, progress.

`activations` looks into a module of flax (linen or nnx) or equinox while it is called; `progress`
counts. Both give what `update` takes as extra arguments.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optim._paths import Path, leaf_paths, outputs_first
from optim._told import share_done

_KERNELS = ("kernel", "weight", "embedding")
_NAMES = (*_KERNELS, "scale", "bias")


def progress(
    update: int | jax.Array,
    iterations: int | jax.Array,
    epochs: int = 1,
    minibatches: int = 1,
) -> dict[str, jax.Array]:
    """How much of the training, and of the passes over the present batch, is done.

    Args:
        update: number of calls of `update` so far, 0 in the first.
        iterations: rollouts in the whole training.
        epochs: passes over each rollout.
        minibatches: updates in each pass.

    Returns:
        `training_progress`, which is constant within an iteration and goes from 0 to 1, and
        `batch_progress`, the same for epochs; float32.

    Examples:
        >>> shares = progress(9, iterations=3, epochs=2, minibatches=4)
        >>> print(shares["training_progress"], shares["batch_progress"])
        0.5 0.0
    """
    each = epochs * minibatches
    return {
        "training_progress": share_done(update // each, iterations),
        "batch_progress": share_done(update % each // minibatches, epochs),
    }


def activations(module: Any, *inputs: Any, params: Any = None, **options: Any) -> dict[str, Any]:
    """How active each unit of a module is on a batch, as OPEN, ReDo and CBP want to know it.

    The activity of a unit is its mean absolute value where the next layer gets it: behind the
    nonlinearity, and behind normalisation that directly follows the layer. That of a layer which
    feeds no other is its raw output's. Several networks in one tree are put together by their
    names: `{"actor": activations(actor, ...), "critic": activations(critic, ...)}`.

    It is one more forward pass. Compute it on the minibatch, with the parameters of before the
    update, inside the jitted step.

    Args:
        module: of flax linen, with `params`; of flax nnx; or of equinox, which is called under
            `jax.vmap` over the first axis of the inputs.
        *inputs: what it is called with, a batch.
        params: the parameters of a linen module, with the level `params` or without it.
        **options: for `module.apply` of linen, for example `method` or `rngs`; for the call of
            others.

    Returns:
        A nested dict by the names of the parameters, with a vector of shape (units,) for each leaf
        of a layer. Other leaves, such as `log_std`, have shape (1,): no unit differs there.

    Raises:
        ValueError: if a linen module comes without `params`, a layer is not called, or only within
            a scan or another compiled part.

    Examples:
        >>> import flax.linen as nn
        >>> network = nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(1)])
        >>> observations = jnp.ones((5, 2))
        >>> params = network.init(jax.random.key(0), observations)["params"]
        >>> found = activations(network, observations, params=params)
        >>> jax.tree.map(jnp.shape, found["layers_0"])
        {'bias': (3,), 'kernel': (3,)}
    """
    if _is_linen(module):
        if params is None:
            raise ValueError("params must be the parameters of the linen module, got None.")
        variables = params if "params" in params else {"params": params}
        tree, call = variables["params"], _linen_call(module, variables, options)
    else:
        tree, call = module, _tree_call(module, options)
    leaves = dict(zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True))
    layers = _layers(leaves)
    is_single = any(outputs_first(path, leaf.ndim) for path, leaf in _arrays(leaves).items())
    names: list[Path] = []

    def run(*inputs: Any) -> list[Any]:
        calls = call(layers, *inputs)
        names[:] = [each.layer for each in calls]
        return [(each.given, each.output) for each in calls]

    batched = jax.vmap(run) if is_single else run
    graph = _graph(batched, *inputs)
    if absent := [layer for layer in layers if layer not in names]:
        raise ValueError(
            f"module must call all its layers, got one that does not call "
            f"{'/'.join(absent[0]) or 'its own'}."
        )
    consumers = _consumers(graph, [bool(layers[name].intersection(_KERNELS)) for name in names])
    values = batched(*inputs)
    seen: dict[Path, list[jax.Array]] = {}
    for i, (name, consumer) in enumerate(zip(names, consumers, strict=True)):
        units, output = _units(leaves, name), values[i][1]
        behind = None if consumer is None else _activity(values[consumer][0], units, is_single)
        if behind is None:
            behind = _activity(output, units, is_single)
        if behind is None:
            raise ValueError(
                f"module must have layers whose output has a last axis of {units} units, got "
                f"shape {jnp.shape(output)} of {'/'.join(name)}."
            )
        seen.setdefault(name, []).append(behind)
    return _nested(leaves, {name: sum(each) / len(each) for name, each in seen.items()})


class _Call(NamedTuple):
    layer: Path
    given: Any
    output: Any


def _is_linen(module: Any) -> bool:
    linen = sys.modules.get("flax.linen")  # it is not imported for those who use something else
    return linen is not None and isinstance(module, linen.Module)


def _linen_call(module: Any, variables: Any, options: dict[str, Any]) -> Callable[..., list[_Call]]:
    linen = sys.modules["flax.linen"]

    def call(layers: dict[Path, set[str]], *inputs: Any) -> list[_Call]:
        calls = []

        def record(function: Any, args: Any, kwargs: Any, context: Any) -> Any:
            output = function(*args, **kwargs)
            if context.method_name == "__call__" and context.module.path in layers:
                calls.append(_Call(context.module.path, args[0], output))
            return output

        with linen.intercept_methods(record):
            module.apply(variables, *inputs, **options)
        return calls

    return call


def _tree_call(module: Any, options: dict[str, Any]) -> Callable[..., list[_Call]]:
    """For modules that are trees themselves: layers are replaced by what records them."""

    def call(layers: dict[Path, set[str]], *inputs: Any) -> list[_Call]:
        calls: list[_Call] = []

        def name(path: Any) -> Path:
            return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)

        def replaced(path: Any, node: Any) -> Any:
            if not callable(node) or name(path) not in layers:
                return node

            def layer(x: Any, *args: Any, **kwargs: Any) -> Any:
                output = node(x, *args, **kwargs)
                calls.append(_Call(name(path), x, output))
                return output

            return layer

        def is_layer(node: Any) -> bool:
            return callable(node) and any(hasattr(node, each) for each in _NAMES)

        jax.tree.map_with_path(replaced, module, is_leaf=is_layer)(*inputs, **options)
        return calls

    return call


def _arrays(leaves: dict[Path, Any]) -> dict[Path, Any]:
    return {path: leaf for path, leaf in leaves.items() if hasattr(leaf, "ndim")}


def _layers(leaves: dict[Path, Any]) -> dict[Path, set[str]]:
    """The nodes that hold leaves of a layer's names, with these."""
    layers: dict[Path, set[str]] = {}
    for path in _arrays(leaves):
        if path[-1:] and path[-1] in _NAMES:
            layers.setdefault(path[:-1], set()).add(path[-1])
    return layers


def _units(leaves: dict[Path, Any], layer: Path) -> int:
    name = next(name for name in _NAMES if (*layer, name) in leaves)
    leaf = leaves[(*layer, name)]
    return leaf.shape[0 if outputs_first((*layer, name), leaf.ndim) else -1]


def _graph(function: Callable[..., Any], *inputs: Any) -> Any:
    """The function's jaxpr, if all that it returns is worked out at its top level."""
    try:
        graph = jax.make_jaxpr(function)(*inputs).jaxpr
        made = {id(variable) for equation in graph.eqns for variable in equation.outvars}
        is_leaked = any(id(variable) not in made for variable in graph.outvars[1::2])
    except jax.errors.UnexpectedTracerError:
        is_leaked = True
    if is_leaked:
        raise ValueError(
            "module must call its layers outside of scans and other compiled parts, got one that "
            "calls a layer within one."
        )
    return graph


def _consumers(graph: Any, has_kernel: Sequence[bool]) -> list[int | None]:
    """For each call of a layer the call that gets its units first; None for the last layers.

    Args:
        graph: jaxpr whose results are the input and the output of each call.
        has_kernel: whether a call is of a layer with weights, and not of a normalisation.
    """
    given, outputs = graph.outvars[::2], graph.outvars[1::2]
    places = {id(variable): i for i, variable in enumerate(outputs)}
    sources: dict[int, set[int]] = {}  # of each variable: the calls whose units it holds
    for equation in graph.eqns:
        held = set().union(*(sources.get(id(variable), set()) for variable in equation.invars))
        for variable in equation.outvars:
            place = places.get(id(variable))
            if place is None:
                sources[id(variable)] = held
                continue
            # Normalisation directly behind a layer is a part of its units.
            directly = not has_kernel[place] and id(given[place]) in places
            before = sources.get(id(given[place]), set()) if directly else set()
            sources[id(variable)] = {place} | before
    found: list[int | None] = [None] * len(outputs)
    for consumer, variable in enumerate(given):
        if not has_kernel[consumer] and id(variable) in places:
            continue
        for place in sources.get(id(variable), ()):
            if found[place] is None and place != consumer:
                found[place] = consumer
    return found


def _activity(x: jax.Array, units: int, is_single: bool) -> jax.Array | None:
    """Mean absolute value of each unit; None if the array does not hold them."""
    x = jnp.abs(x)
    if is_single and x.ndim > 2 and x.shape[1] == units:  # convolutions with the channels first
        return jnp.mean(x, axis=(0, *range(2, x.ndim)))
    if x.shape[-1] == units:
        return jnp.mean(x.reshape(-1, units), axis=0)
    if x.shape[-1] % units:
        return None
    flattened = x.reshape(-1, units, x.shape[-1] // units) if is_single else x.reshape(-1, units)
    return jnp.mean(flattened, axis=(0, 2) if is_single else 0)


def _nested(leaves: dict[Path, Any], activity: dict[Path, Any]) -> dict[str, Any]:
    """The activities by name; neutral ones for leaves of no layer."""
    tree: dict[str, Any] = {}
    for path, leaf in _arrays(leaves).items():
        vector = activity.get(path[:-1]) if path[-1] in _NAMES else None
        if vector is None:
            vector = jnp.ones(1)
        elif not outputs_first(path, leaf.ndim) and leaf.shape[-1] != vector.size:
            vector = jnp.mean(vector, keepdims=True)  # a bias with axes of size 1
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = vector
    return tree
