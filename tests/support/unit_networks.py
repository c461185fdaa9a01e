"""Small networks and what a learner of them passes to optimizers that renew units."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

SIZES = (3, 5, 4, 2)


def dense(seed=0, sizes=SIZES, bias=True):
    """The parameters of dense layers, as flax names them; float32 values in NumPy."""
    rng = np.random.default_rng(seed)
    layers = {}
    for i, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        layers[f"Dense_{i}"] = {"kernel": np.float32(rng.normal(size=(rows, columns)))}
        if bias:
            layers[f"Dense_{i}"]["bias"] = np.float32(rng.normal(size=columns))
    return layers


def networks(seed=0):
    """Actor and critic, as PPO has them."""
    actor = dense(seed) | {"log_std": np.float32(np.zeros(2))}
    return jax.tree.map(jnp.asarray, {"actor": actor, "critic": dense(seed + 1, (3, 5, 1))})


def gradients(params, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), params)


def activity(params, dormant=()):
    """All units equally active but those given: pairs of a path and a unit."""
    paths = dict(jax.tree.leaves_with_path(params))
    vectors = {path: np.ones(leaf.shape[-1], np.float32) for path, leaf in paths.items()}
    for path, vector in vectors.items():
        for layer, unit in dormant:
            if jax.tree_util.keystr(path[:-1], simple=True, separator="/") == layer:
                vector[unit] = 0
    structure = jax.tree.structure(params)
    return jax.tree.unflatten(structure, [jnp.asarray(x) for x in vectors.values()])
