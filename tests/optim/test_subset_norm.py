"""Adam with subset norms against a NumPy transcription and Adam."""

import functools

import behaviour
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from behaviour import compare, make_params
from numpy_adam import awkward_gradients, initial_params
from numpy_subset_norm import NumpySubsetNorm, generic_subsets, heuristic_subsets

import optim
from optim._promotion import with_standard_promotion

CHECKS = [
    behaviour.check_dtypes,
    behaviour.check_donation,
    behaviour.check_vmap,
    behaviour.check_holes,
]
SUBSETS = {
    "heuristics": ({"subsets": "heuristics"}, heuristic_subsets),
    "generic": ({"subsets": "generic"}, generic_subsets),
    "sixes": (
        {"subsets": "generic", "subset_size": 7},
        functools.partial(generic_subsets, largest=7),
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("subsets", SUBSETS)
def test_numpy_trace(subsets, accumulate, dtype):
    options, lists = SUBSETS[subsets]
    compare(
        optim.subset_norm(1e-2, weight_decay=0.1, accumulate=accumulate, **options),
        NumpySubsetNorm(1e-2, lists, decay=0.1, accumulate=accumulate),
        awkward_gradients(),
        initial_params(),
        dtype,
        factor=3.0,
    )


@pytest.mark.parametrize("subsets", SUBSETS)
@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (4, 4), (2, 3, 4, 6), (2, 3, 4), (5,), (7, 1)])
def test_shapes(shape, subsets):
    options, lists = SUBSETS[subsets]
    rng = np.random.default_rng(0)
    trace = [{"leaf": rng.normal(size=shape)} for _ in range(2)]
    start = {"leaf": rng.normal(size=shape).astype(np.float32)}
    reference = NumpySubsetNorm(1e-2, lists)
    compare(optim.subset_norm(1e-2, **options), reference, trace, start, "float32")
    state = optim.scale_by_subset_norm(**options).init(start)
    assert state.nu["leaf"].size == len(lists(shape))


def test_subsets_of_one_give_adam():
    """With eps outside of the bias correction; 0 here."""
    params = make_params()
    ours = optim.subset_norm(0.01, subsets="generic", subset_size=1, eps=0.0)
    adam = with_standard_promotion(optax.adam(0.01, eps=0.0))
    state, their_state = ours.init(params), adam.init(params)
    update, their_update = jax.jit(ours.update), jax.jit(adam.update)
    for key in range(4):
        grads = make_params(key + 1)
        updates, state = update(grads, state, params)
        expected, their_state = their_update(grads, their_state, params)
        behaviour.close(updates, expected, rtol=1e-4)


def test_leaves_without_subsets_take_adams_steps():
    params, grads = make_params(), make_params(1)
    ours = optim.subset_norm(0.01, eps=0.0)
    adam = with_standard_promotion(optax.adam(0.01, eps=0.0))
    updates, _ = jax.jit(ours.update)(grads, ours.init(params), params)
    expected, _ = jax.jit(adam.update)(grads, adam.init(params), params)
    for name in ("conv", "bias", "scale"):
        behaviour.close(updates[name], expected[name])
    for name in ("kernel", "wide"):
        assert np.all(np.abs(updates[name]) <= np.abs(expected[name]) * (1 + 1e-5))


@pytest.mark.parametrize("options", [options for options, _ in SUBSETS.values()])
@pytest.mark.parametrize("check", CHECKS)
def test_behaviour(check, options):
    check(optim.subset_norm(0.01, **options))


def test_traced_numbers():
    behaviour.check_traced_numbers(
        optim.subset_norm, learning_rate=0.01, b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.1
    )


def test_errors():
    behaviour.check_refusals(
        optim.subset_norm,
        {
            "learning_rate": (0.0,),
            "b1": (1.0,),
            "b2": (1.0,),
            "eps": (-1.0,),
            "weight_decay": (-1.0,),
            "subsets": ("rows",),
            "subset_size": (0, 2.5, True),
        },
    )
    with pytest.raises(ValueError, match="subset_size"):
        jax.jit(lambda size: optim.subset_norm(0.1, subset_size=size).init(jnp.ones(2)))(3)
