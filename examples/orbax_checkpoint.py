"""An optimizer's state in an orbax checkpoint: training goes on bit for bit."""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp

import optim

layer = {"kernel": jnp.full((4, 4), 0.3), "bias": jnp.zeros(4)}
params = {"actor": {"Dense_0": layer}, "critic": {"Dense_0": layer}}
activations = jax.tree.map(lambda leaf: jnp.ones(leaf.shape[-1]), params)
optimizer = optax.chain(
    optim.clip_by_network_norm(0.5),
    optim.load("open@small", total_updates=20),  # its state counts, and so knows the progress
)


@jax.jit
def step(carry, _):
    params, state = carry
    grads = jax.tree.map(jnp.cos, params)
    updates, state = optimizer.update(grads, state, params, activations=activations)
    return (optax.apply_updates(params, updates), state), None


def train(carry, steps):
    return jax.lax.scan(step, carry, length=steps)[0]


start = (params, optimizer.init(params))
whole = train(start, 20)

path = Path(tempfile.mkdtemp()) / "checkpoint"
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, train(start, 10))
    checkpointer.wait_until_finished()
    # What is read is put into a state of the same form, which costs no memory here.
    kept = checkpointer.restore(path, jax.eval_shape(lambda: start))
resumed = train(kept, 10)
same = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), whole, resumed)
print("the same as without a break:", all(jax.tree.leaves(same)))
