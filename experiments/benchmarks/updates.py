"""Time of each optimizer's update relative to `optax.adam`'s, on the same networks.

    python -m experiments.benchmarks.updates [--out updates.csv] [--repeats 15] [--updates 200]
        [--optimizers ...]

Trees: PPO's actor and critic on Breakout (59,908 parameters), and a 2x256 critic (offline RL's).
Each call runs a compiled scan of so many updates, the first of a run, from the same gradients; the
figure is the median over rounds of the ratio to Adam's time in the same round. What an optimizer
does ever less often, as Kron, or once a period, needs a whole run: 39,063 updates are those of
PPO's on Breakout (1e7 steps). Optimizers that take the loss as a function
are given a linear one: what they pay for its products is their learner's to add.

`matrix products` is what AdamO cannot do without, alone: W^T W and that times W, for each matrix.
`extra_over_products` is AdamO's time beyond Adam's relative to that, likewise within each round.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import optim
from agents import environments
from agents.ppo import PPOConfig, ppo
from experiments.benchmarks import timing

UPDATES = 200
PRODUCTS = "matrix products"


def trees() -> dict[str, Any]:
    """The networks, by name."""
    breakout = environments.make("Breakout-MinAtar")
    learner = ppo(breakout, PPOConfig(iterations=1), optim.make("sgd", 1.0))
    key = jax.random.key(0)
    widths = (17, 256, 256, 1)
    critic = {
        f"Dense_{i}": {
            "kernel": jax.nn.initializers.orthogonal()(jax.random.fold_in(key, i), shape),
            "bias": jnp.zeros(shape[1:]),
        }
        for i, shape in enumerate(itertools.pairwise(widths))
    }
    return {"breakout": jax.jit(learner.init)(key).params, "2x256": critic}


def scan_of_updates(
    optimizer: optax.GradientTransformationExtraArgs,
    params: Any,
    updates: int = UPDATES,
    agents: int | None = None,
) -> Callable[[], Any]:
    """A compiled function that does so many updates, of one agent or of so many under vmap."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    gradients = jax.tree.unflatten(
        structure,
        [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)],
    )

    def objective(params: Any) -> Any:
        return optax.tree.vdot(gradients, params)

    def update(params: Any, state: Any) -> tuple[Any, Any]:
        steps, state = optimizer.update(
            gradients,
            state,
            params,
            value=jnp.ones(()),
            activations=jax.tree.map(lambda p: jnp.ones(p.shape[-1:]), params),
            training_progress=jnp.zeros(()),
            batch_progress=jnp.zeros(()),
            num_updates=1000,
            reset=jnp.zeros((), bool),
            grad=gradients,
            value_fn=objective,
            obj_fn=objective,
        )
        return jax.tree.map(jnp.add, params, steps), state

    init = optimizer.init
    if agents is not None:
        params = jax.tree.map(lambda p: jnp.stack([p] * agents), params)
        init, update = jax.vmap(init), jax.vmap(update)
    run = jax.jit(
        lambda carry: jax.lax.scan(lambda c, _: (update(*c), None), carry, length=updates)[0]
    )
    carry = (params, init(params))
    return lambda: run(carry)


def _products(params: Any, updates: int) -> Callable[[], Any]:
    """A compiled function that does the two products of each matrix so many times."""

    def cube(w: jax.Array) -> jax.Array:  # An orthogonal matrix stays itself.
        product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        return (
            product(product(w, w.T), w) if w.shape[0] < w.shape[1] else product(w, product(w.T, w))
        )

    matrices = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
    run = jax.jit(
        lambda carry: jax.lax.scan(
            lambda matrices, _: (jax.tree.map(cube, matrices), None), carry, length=updates
        )[0]
    )
    return lambda: run(matrices)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("updates.csv"), help="CSV to write")
    parser.add_argument("--repeats", type=int, default=15, help="rounds (default: 15)")
    parser.add_argument("--updates", type=int, default=UPDATES, help="in a call (default: 200)")
    parser.add_argument("--optimizers", nargs="+", help="specs (default: all names)")
    arguments = parser.parse_args()
    specs = ["adam", *(s for s in arguments.optimizers or optim.optimizer_names() if s != "adam")]
    circumstances = timing.circumstances()
    rows = []
    for tree, params in trees().items():
        seconds = timing.interleaved(
            {
                spec: scan_of_updates(optim.make(spec, 1e-3), params, arguments.updates)
                for spec in specs
            }
            | {PRODUCTS: _products(params, arguments.updates)},
            arguments.repeats,
        )
        for name, times in seconds.items():
            row = {
                "tree": tree,
                "optimizer": name,
                "microseconds": f"{statistics.median(times) / arguments.updates * 1e6:.1f}",
                "updates": arguments.updates,
                "relative_to_adam": f"{timing.median_ratio(times, seconds['adam']):.2f}",
                "extra_over_products": "",
            }
            if name == "adamo":
                extra = [a - b for a, b in zip(times, seconds["adam"], strict=True)]
                row["extra_over_products"] = f"{timing.median_ratio(extra, seconds[PRODUCTS]):.2f}"
            rows.append(row | circumstances)
        timing.write(arguments.out, rows)


if __name__ == "__main__":
    main()
