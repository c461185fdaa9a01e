"""Adam with subset norms against a NumPy transcription and Adam."""

import functools

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_adam import awkward_gradients, initial_params
from numpy_subset_norm import NumpySubsetNorm, generic_subsets, heuristic_subsets
from quick import quick_jit
from ranges import check_ranges
from replay import compare, first_update
from trees import close, make_params

import optim
from optim._promotion import with_standard_promotion

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
    update, their_update = quick_jit(ours.update), quick_jit(adam.update)
    for key in range(4):
        grads = make_params(key + 1)
        updates, state = update(grads, state, params)
        expected, their_state = their_update(grads, their_state, params)
        close(updates, expected, rtol=1e-4)


def test_leaves_without_subsets_take_adams_steps():
    params, grads = make_params(), make_params(1)
    ours = optim.subset_norm(0.01, eps=0.0)
    adam = with_standard_promotion(optax.adam(0.01, eps=0.0))
    updates, _ = first_update(ours, grads, params)
    expected, _ = first_update(adam, grads, params)
    for name in ("conv", "bias", "scale"):
        close(updates[name], expected[name])
    for name in ("kernel", "wide"):
        assert np.all(np.abs(updates[name]) <= np.abs(expected[name]) * (1 + 1e-5))


def test_errors():
    check_ranges(
        optim.subset_norm, b1="[0, 1)", b2="[0, 1)", eps="[0, inf)", weight_decay="[0, inf)"
    )
    with pytest.raises(ValueError, match="subsets must be one of heuristics, generic, got 'rows'"):
        optim.subset_norm(0.01, subsets="rows")
    for size in (0, 2.5, True):
        with pytest.raises(ValueError, match="subset_size must be a static integer of at least 1"):
            optim.subset_norm(0.01, subset_size=size)
    with pytest.raises(ValueError, match="subset_size"):
        quick_jit(lambda size: optim.subset_norm(0.1, subset_size=size).init(jnp.ones(2)))(3)
