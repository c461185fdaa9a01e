"""Where and how learned optimizers compute what they compute for every parameter.

Everything is kept feature by feature, as (features, parameters): products with the small weight
matrices are then ordinary matrix products, the rest runs along contiguous rows, and no axis of 3 or
8 has to be vectorised. On a CPU memory decides what it costs. All rows of a 400 x 64 kernel
together are several times a core's cache, and read and written once per operation they take as long
as the arithmetic. Hence:

- Leaves are cut into blocks of parameters, whose rows stay in the cache from the features to the
  update. What is left of each leaf, and all small leaves, are computed side by side.
- Agents that are batched by `vmap` are updated in turn, so that each has the cache to itself. Side
  by side, every operation would pass over all of them before the next one starts. Blocks are cut
  from the arrays of all agents: to copy an agent's state first takes a third of an update. To put
  several small agents into one block takes a third more than one after the other.

Other devices take all parameters and all agents at once.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

BLOCK = 2048
# An agent with fewer parameters gains nothing from having the cache to itself.
IN_TURN = 2 * BLOCK
# What needs few rows is computed in larger blocks, whose operations XLA divides among cores. Blocks
# of `BLOCK` take 15% less time of all cores together, but that of one core after the other; half or
# twice the size takes more of two cores.
LARGE_BLOCK = 8 * BLOCK
# Fewer columns than these take no longer than it takes to begin with them.
FEW = 256

# From what all parameters share, some columns and their state to outputs for each column, the new
# state, and what is summed over all columns. All are pytrees; columns, states and outputs hold
# arrays of shape (rows, *any).
Compute: TypeAlias = Callable[[Any, Any, Any], tuple[Any, Any, Any]]
# From inputs and state to outputs and new state, of the shapes and dtypes of the old.
Update: TypeAlias = Callable[[Any, Any], tuple[Any, Any]]


def block_width(n: int, most: int = BLOCK) -> int:
    """Columns of a block, if possible so that nothing is left over; 0 for a small leaf.

    Examples:
        >>> block_width(400 * 64), block_width(4099), block_width(64)
        (1600, 2048, 0)
    """
    if n < most:
        return 0
    return next((width for width in range(most, most // 2, -1) if n % width == 0), most)


def in_blocks(compute: Update, columns: Any, state: Any, width: int) -> tuple[Any, Any]:
    """Applies a function to one block of columns after the other.

    Args:
        compute: from `width` columns and their state to outputs and new state.
        columns: pytree of arrays of shape (rows, n).
        state: the same.
        width: at most n.

    Returns:
        Outputs and new state. The last `n % width` columns are left out: their outputs are 0 and
        their state is the old one.

    Examples:
        >>> compute = lambda x, state: (2 * x, state + x)
        >>> outputs, state = in_blocks(compute, jnp.ones((1, 5)), jnp.zeros((1, 5)), 2)
        >>> print(outputs, state)
        [[2. 2. 2. 2. 0.]] [[1. 1. 1. 1. 0.]]
    """
    add = lambda tree: jax.tree.map(lambda x: x[None], tree)  # noqa: E731
    outputs, state, _ = _in_blocks(
        lambda _, columns, state: (*compute(columns, state), ()),
        (),
        add(columns),
        add(state),
        width,
    )
    return jax.tree.map(lambda x: x[0], (outputs, state))


def _in_blocks(
    compute: Compute, shared: Any, columns: Any, state: Any, width: int
) -> tuple[Any, Any, Any]:
    """The same for several agents, along a first axis, whose sums stay apart."""
    agents, _, n = jax.tree.leaves(state)[0].shape
    number = n // width

    def at(tree: Any, agent: Any, start: Any) -> Any:
        return jax.tree.map(
            lambda x: jax.lax.dynamic_slice(x, (agent, 0, start), (1, x.shape[1], width))[0], tree
        )

    def body(i: jax.Array, results: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        agent, start = i // number, i % number * width
        outputs, state, totals = results
        # The old state is not used again, so that the new one can take its place in memory.
        *parts, addend = compute(
            _of_agent(shared, agent), at(columns, agent, start), at(state, agent, start)
        )
        outputs, state = jax.tree.map(
            lambda whole, part: jax.lax.dynamic_update_slice(whole, part[None], (agent, 0, start)),
            (outputs, state),
            tuple(parts),
        )
        return outputs, state, jax.tree.map(lambda x, y: x.at[agent].add(y), totals, addend)

    first = lambda *x: compute(_of_agent(x[0], 0), at(x[1], 0, 0), at(x[2], 0, 0))  # noqa: E731
    outputs, _, totals = jax.eval_shape(first, shared, columns, state)
    outputs = jax.tree.map(lambda x: jnp.zeros((agents, x.shape[0], n), x.dtype), outputs)
    totals = jax.tree.map(lambda x: jnp.zeros((agents, *x.shape), x.dtype), totals)
    return jax.lax.fori_loop(0, agents * number, body, (outputs, state, totals))


def _of_agent(shared: Any, agent: jax.typing.ArrayLike) -> Any:
    return jax.tree.map(
        lambda x: (
            x[0] if x.shape[0] == 1 else jax.lax.dynamic_index_in_dim(x, agent, keepdims=False)
        ),
        shared,
    )


def put_last(whole: jax.Array, part: jax.Array) -> jax.Array:
    """Replaces the last columns, along the last axis.

    Examples:
        >>> print(put_last(jnp.zeros((1, 3)), jnp.ones((1, 2))))
        [[0. 1. 1.]]
    """
    start = whole.shape[-1] - part.shape[-1]
    return jax.lax.dynamic_update_slice_in_dim(whole, part, start, axis=-1)


def _side_by_side(compute: Compute, shared: Any, columns: Any, state: Any) -> Any:
    """All agents at once: beside their parameters, behind the features, as products leave them."""
    if jax.tree.leaves(state)[0].shape[0] == 1:
        one = jax.tree.map(lambda x: x[0], (shared, columns, state))
        return jax.tree.map(lambda x: x[None], compute(*one))
    axes = jax.tree.map(lambda x: None if x.shape[0] == 1 else 0, shared)
    shared = jax.tree.map(lambda x: x[0] if x.shape[0] == 1 else x, shared)
    behind = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), (columns, state))
    return jax.vmap(compute, in_axes=(axes, 1, 1))(shared, *behind)


def leaf_by_leaf(
    compute: Compute, shared: Any, leaves: Sequence[Any], states: Sequence[Any]
) -> tuple[list[Any], list[Any], Any]:
    """Applies a function to whole leaves, which keep their shapes and shardings.

    Args:
        compute: what is applied.
        shared: what it is given for all leaves, for each agent or, of length 1, for all.
        leaves: for each leaf its columns, arrays of shape (agents, rows, *leaf.shape).
        states: for each leaf its state, the same.

    Returns:
        Outputs and new state of each leaf, and each agent's sum.
    """
    results = [_side_by_side(compute, shared, *leaf) for leaf in zip(leaves, states, strict=True)]
    outputs, new, totals = zip(*results, strict=True)
    return list(outputs), list(new), jax.tree.map(lambda *x: sum(x[1:], start=x[0]), *totals)


def block_by_block(
    compute: Compute, shared: Any, leaves: Sequence[Any], states: Sequence[Any]
) -> tuple[list[Any], list[Any], Any]:
    """Like `leaf_by_leaf`, in blocks; what is left of the leaves is computed side by side."""
    wholes: list[Any] = []
    rests: list[Any] = []
    totals: list[Any] = []
    for leaf in zip(leaves, states, strict=True):
        n = math.prod(jax.tree.leaves(leaf[1])[0].shape[2:])
        columns, state = jax.tree.map(lambda x, n=n: x.reshape(*x.shape[:2], n), leaf)
        whole, start = None, 0
        if width := block_width(n, LARGE_BLOCK):
            start = n // width * width
            outputs, state, total = _in_blocks(compute, shared, columns, state, width)
            whole = outputs, state
            totals.append(total)
        wholes.append(whole)
        rests.append(jax.tree.map(lambda x, start=start: x[..., start:], (columns, state)))
    sizes = [jax.tree.leaves(rest)[0].shape[2] for rest in rests]
    if sum(sizes) or not totals:
        columns, state = jax.tree.map(lambda *x: jnp.concatenate(x, axis=2), *rests)
        if jax.tree.leaves(state)[0].shape[0] > 1 and sum(sizes) >= FEW:
            results = _in_blocks(compute, shared, columns, state, sum(sizes))
        else:
            results = _side_by_side(compute, shared, columns, state)
        outputs, state, total = results
        totals.append(total)
        treedef: Any = jax.tree.structure((outputs, state))
        flat = jax.tree.leaves((outputs, state))
        ends = np.cumsum(sizes)[:-1].tolist()
        parts = zip(*(jnp.split(x, ends, axis=2) for x in flat), strict=True)
        for i, part in enumerate(map(treedef.unflatten, parts)):
            last = wholes[i]
            wholes[i] = part if last is None else jax.tree.map(put_last, last, part)
    shapes = [jax.tree.leaves(state)[0].shape[2:] for state in states]
    shaped = [
        jax.tree.map(lambda x, shape=shape: x.reshape(*x.shape[:2], *shape), whole)
        for whole, shape in zip(wholes, shapes, strict=True)
    ]
    summed = jax.tree.map(lambda *x: sum(x[1:], start=x[0]), *totals)
    return [outputs for outputs, _ in shaped], [state for _, state in shaped], summed


def over_parameters(
    compute: Compute, shared: Any, leaves: Sequence[Any], states: Sequence[Any]
) -> tuple[list[Any], list[Any], Any]:
    """Applies a function to all parameters, as is best on the device and under `vmap`.

    It has no derivatives in reverse mode.

    Args:
        compute: what is applied, to any number of parameters at a time.
        shared: what it is given for all of them.
        leaves: for each leaf its columns, arrays of shape (rows, *leaf.shape), of one dtype.
        states: for each leaf its state, the same.

    Returns:
        Outputs and new state of each leaf, and the sum.
    """
    flat, treedef = jax.tree.flatten((shared, list(leaves), list(states)))
    is_shared = jax.tree.leaves(
        [jax.tree.map(lambda _, b=b: b, x) for b, x in ((True, shared), (False, (leaves, states)))]
    )

    def update(way: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *flat: way(compute, *jax.tree.unflatten(treedef, flat))

    @jax.custom_batching.custom_vmap
    def agents(*flat: jax.Array) -> Any:
        ways = {"cpu": update(block_by_block), "default": update(leaf_by_leaf)}
        return jax.lax.platform_dependent(*flat, **ways)

    @agents.def_vmap
    def more_agents(axis_size: int, batched: Sequence[bool], *flat: jax.Array) -> tuple[Any, Any]:
        """Agents of agents are agents."""
        inner = max(
            x.shape[1 if b else 0]
            for x, b, s in zip(flat, batched, is_shared, strict=True)
            if not s
        )

        def joined(x: jax.Array, is_batched: bool, is_shared: bool) -> jax.Array:
            if is_shared and not is_batched and x.shape[0] == 1:
                return x
            x = x if is_batched else x[None]
            x = jnp.broadcast_to(x, (axis_size, inner, *x.shape[2:]))
            return x.reshape(axis_size * inner, *x.shape[2:])

        results = agents(*map(joined, flat, batched, is_shared))
        apart = lambda x: x.reshape(axis_size, inner, *x.shape[1:])  # noqa: E731
        return jax.tree.map(apart, results), jax.tree.map(lambda _: True, results)

    return jax.tree.map(lambda x: x[0], agents(*(x[None] for x in flat)))


def by_agent(on_cpu: Update, elsewhere: Update, size: int, inputs: Any, state: Any) -> Any:
    """Updates an agent as a whole, as is best on the device and under `vmap`.

    For what needs all of a leaf at once, where `over_parameters` cannot be used. It has no
    derivatives in reverse mode.

    Args:
        on_cpu: the update, as a CPU does it best for one agent.
        elsewhere: the same, as others do it best.
        size: parameters of an agent.
        inputs: pytree of arrays.
        state: pytree of arrays.

    Returns:
        Outputs and new state.
    """
    flat, treedef = jax.tree.flatten((inputs, state))

    def unpacked(update: Update) -> Callable[..., Any]:
        return lambda *flat: update(*jax.tree.unflatten(treedef, flat))

    def by_device(on_cpu: Callable[..., Any], elsewhere: Callable[..., Any], flat: Any) -> Any:
        return jax.lax.platform_dependent(*flat, cpu=on_cpu, default=elsewhere)

    agent = jax.custom_batching.custom_vmap(
        lambda *flat: by_device(unpacked(on_cpu), unpacked(elsewhere), flat)
    )

    @agent.def_vmap
    def agents(axis_size: int, batched: Sequence[bool], *flat: jax.Array) -> tuple[Any, Any]:
        axes = tuple(0 if b else None for b in batched)

        def side_by_side(update: Update) -> Callable[..., Any]:
            return jax.vmap(unpacked(update), in_axes=axes)

        def in_turn(*flat: jax.Array) -> Any:
            inputs, state = jax.tree.unflatten(treedef, flat)
            several, several_states = jax.tree.unflatten(treedef, batched)
            state = jax.tree.map(
                lambda x, b: x if b else jnp.broadcast_to(x[None], (axis_size, *x.shape)),
                state,
                several_states,
            )

            def one(i: jax.Array, results: Any) -> Any:
                at = lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False)  # noqa: E731
                own = jax.tree.map(lambda x, b: at(x) if b else x, inputs, several)
                # Read from the results, so that new state takes the place of the old in memory.
                present = jax.tree.map(at, results[1])
                return jax.tree.map(
                    lambda whole, part: jax.lax.dynamic_update_index_in_dim(whole, part, i, 0),
                    results,
                    agent(*jax.tree.leaves((own, present))),
                )

            return jax.lax.fori_loop(0, axis_size, one, (zeros, state))

        result = jax.eval_shape(side_by_side(elsewhere), *flat)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), result[0])
        if size < IN_TURN:
            results = side_by_side(elsewhere)(*flat)
        else:
            results = by_device(in_turn, side_by_side(elsewhere), flat)
        return results, jax.tree.map(lambda _: True, results)

    return agent(*flat)


def linear_map(push: Callable[[Any], Any], pull: Callable[[Any], Any], tangents: Any) -> Any:
    """Applies a linear function whose transpose is given, in all modes of derivatives and batches.

    It is the second half of the solution of a system of equations, which may be transposed:
    x = t and y - push(x) = 0.

    Args:
        push: the linear function; its own derivatives and transpose are used in higher derivatives.
        pull: its transpose.
        tangents: what it is applied to.

    Returns:
        What `push` returns.

    Examples:
        >>> triple = lambda x: linear_map(lambda t: 3 * t, lambda c: 3 * c, x)
        >>> print(triple(2.0), jax.grad(triple)(2.0), jax.jvp(triple, (2.0,), (1.0,))[1])
        6.0 3.0 3.0
    """
    # All in one vector: derivatives of systems of several arrays fail where some are constant.
    flat, as_tangents = ravel_pytree(tangents)
    shapes = jax.eval_shape(push, tangents)
    zeros, as_results = ravel_pytree(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))
    size = flat.size

    def equations(both: jax.Array) -> jax.Array:
        return both.at[size:].add(-ravel_pytree(push(as_tangents(both[:size])))[0])

    def solve(_: Any, right: jax.Array) -> jax.Array:
        x, y = right[:size], right[size:]
        return jnp.concatenate([x, y + ravel_pytree(push(as_tangents(x)))[0]])

    def transpose_solve(_: Any, right: jax.Array) -> jax.Array:
        x, y = right[:size], right[size:]
        return jnp.concatenate([x + ravel_pytree(pull(as_results(y)))[0], y])

    both = jax.lax.custom_linear_solve(
        equations, jnp.concatenate([flat, zeros]), solve, transpose_solve
    )
    return as_results(both[size:])


def unsharded(function: Callable[..., Any], like: Any) -> Callable[..., Any]:
    """Leaves the sharding within a function to XLA, where it is part of the types.

    Args:
        function: the function.
        like: pytree of arrays that are sharded as its results are to be.

    Returns:
        The function.
    """
    if not jax.sharding.get_abstract_mesh().explicit_axes:
        return function
    out_sharding = jax.tree.map(lambda x: jax.typeof(x).sharding, like)
    return jax.sharding.auto_axes(function, out_sharding=out_sharding)
