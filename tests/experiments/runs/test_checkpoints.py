"""Checkpoints are of a run's seeds and of nothing else, so that any devices can take them up."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from experiments.runs.checkpoints import Checkpoints
from experiments.runs.training import seed_keys

SEEDS = (4, 7, 2**32 - 1)


def state_on(devices: int) -> dict[str, Any]:
    """A state of three seeds and those that fill up so many devices."""
    mesh = Mesh(np.array(jax.devices()[:devices]), ("seeds",), axis_types=(AxisType.Auto,))
    keys = seed_keys(SEEDS, mesh)
    return {
        "typed": keys,
        "raw": jax.vmap(jax.random.key_data)(keys),
        "half": jax.vmap(lambda key: jax.random.normal(key, (5,), jnp.bfloat16))(keys),
        "flag": jax.vmap(jax.random.bernoulli)(keys),
        "nothing": jnp.zeros((len(keys), 0)),
    }


def numbers(state: dict[str, Any]) -> list[np.ndarray]:
    state = state | {"typed": jax.random.key_data(state["typed"])}
    return [np.asarray(state[name][: len(SEEDS)]) for name in sorted(state)]


@pytest.mark.parametrize("before", [1, 2])
@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_seeds_go_on_with_any_devices(before: int, after: int, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, len(SEEDS))
    checkpoints.save(3, state_on(before), {"seconds": 2.0})
    newborn = state_on(after)
    blank = {name: x if name == "typed" else jnp.zeros_like(x) for name, x in newborn.items()}
    restored = checkpoints.spread(checkpoints.read(3, blank), blank)
    for ours, theirs in zip(numbers(restored), numbers(newborn), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for name, leaf in restored.items():
        assert (leaf.shape, leaf.dtype) == (newborn[name].shape, newborn[name].dtype)
        assert leaf.sharding == blank[name].sharding
        if leaf.size and name != "typed":  # the first seed fills up
            for surplus in np.asarray(leaf[len(SEEDS) :]):
                np.testing.assert_array_equal(surplus, leaf[0])


def test_state_that_is_no_batch_of_seeds_is_saved_whole(tmp_path: Path) -> None:
    state = {"count": jnp.int32(7), "key": jax.random.key(3), "table": jnp.arange(6.0)}
    checkpoints = Checkpoints(tmp_path, None)
    checkpoints.save(0, state, {})
    newborn = {"count": jnp.int32(0), "key": jax.random.key(0), "table": jnp.zeros(6)}
    restored = checkpoints.spread(checkpoints.read(0, newborn), newborn)
    assert int(restored["count"]) == 7
    np.testing.assert_array_equal(restored["table"], state["table"])
    np.testing.assert_array_equal(*map(jax.random.key_data, (restored["key"], state["key"])))
