"""TVLARS against a NumPy transcription, LARS and cases worked by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_adam import awkward_gradients, initial_params
from numpy_tvlars import NumpyTVLARS
from quick import quick_jit
from ranges import check_ranges
from replay import assert_same_walk, first_update, replay
from trees import make_params

import optim

CURVES = {
    "paper": lambda t: 1 / (0.5 + math.exp(0.2 * (t - 6))) + 0.3,
    "repo": lambda t: 1 / (0.1 + math.exp(0.2 * t)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("variant", ["paper", "repo"])
def test_numpy_trace(variant, dtype):
    """With a leaf of zeros, a long one, and norms on both sides of the bound."""
    params, trace = initial_params(), awkward_gradients()
    params |= {"bias": 0 * params["bias"], "kernel": 5 * params["kernel"]}
    reference = NumpyTVLARS(params, 2.0, 0.8, 0.01, 0.02, 10.0, CURVES[variant])
    expected = [reference.step(grads) for grads in trace]
    with jax.enable_x64(dtype == "float64"):
        optimizer = optim.tvlars(
            2.0,
            momentum=0.8,
            weight_decay=0.01,
            trust_coefficient=0.02,
            decay=0.2,
            alpha=0.5,
            delay=6.0,
            floor=0.3,
            variant=variant,
        )
        actual, _ = replay(optimizer, params, trace, dtype)
    assert_same_walk(actual, expected, params, dtype, factor=3)


def test_variants_agree_at_the_defaults():
    params, trace = initial_params(), awkward_gradients()
    paper, _ = replay(optim.tvlars(1.0), params, trace, "float32")
    repo, _ = replay(optim.tvlars(1.0, variant="repo"), params, trace, "float32")
    assert_same_walk(paper, repo, params, "float32")


def test_late_it_is_lars():
    """With the sigmoid gone and a floor of 1 it is LARS, as long as no norm is bounded."""
    params, trace = initial_params(), awkward_gradients()
    trace = [jax.tree.map(lambda g: np.tanh(g) + np.float32(0.1), grads) for grads in trace]
    ours = optim.tvlars(1.0, decay=1.0, delay=-1000.0, floor=1.0, max_norm=1e9)
    lars = optax.lars(1.0, weight_decay=5e-4)
    ours, theirs = (replay(o, params, trace, "float32")[0] for o in (ours, lars))
    assert_same_walk(ours, theirs, params, "float32")


@pytest.mark.parametrize(
    ("param", "grad", "expected"),
    [
        ([3.0, 4.0], [0.0, 2.0], [0.0, 5 / 2 * 2 * 0.1]),
        ([30.0, 40.0], [0.0, 2.0], [0.0, 10 / 2 * 2 * 0.1]),
        ([3.0, 4.0], [0.0, 200.0], [0.0, 5 / 10 * 200 * 0.1]),
        ([0.0, 0.0], [0.0, 2.0], [0.0, 2.0]),
        ([3.0, 4.0], [0.0, 0.0], [0.0, 0.0]),
    ],
)
def test_ratio_by_hand(param, grad, expected):
    """A curve of 1 / (1 + 1) for ever, a coefficient of 0.2."""
    direction = optim.scale_by_tvlars(trust_coefficient=0.2, decay=0.0, alpha=1.0)
    param = jnp.array(param)
    updates, _ = first_update(direction, jnp.array(grad), param)
    np.testing.assert_allclose(updates, expected, rtol=1e-6)


def test_curve_falls_from_its_top_to_its_floor():
    params = jnp.array([3.0, 4.0])
    direction = optim.scale_by_tvlars(
        trust_coefficient=1.0, decay=0.5, alpha=0.25, delay=40.0, floor=0.5
    )
    state = direction.init(params)
    lengths = []
    for _ in range(80):
        updates, state = direction.update(jnp.array([0.0, 2.0]), state, params)
        lengths.append(updates[1] / 5)
    np.testing.assert_allclose(lengths[0], 4.5, rtol=1e-4)
    np.testing.assert_allclose(lengths[39], 1 / 1.25 + 0.5, rtol=1e-4)
    np.testing.assert_allclose(lengths[79], 0.5, rtol=1e-4)
    assert np.all(np.diff(lengths) <= 0)


@pytest.mark.parametrize("axes", [1, {"kernel": 1, "bias": 1}])
def test_ensemble_is_each_member_alone(axes):
    members = [
        {"kernel": (i + 1) * make_params(i)["kernel"], "bias": make_params(i)["bias"]}
        for i in range(3)
    ]
    grads = [jax.tree.map(jnp.cos, member) for member in members]
    stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731
    ensemble, single = optim.tvlars(1.0, ensemble_axes=axes), optim.tvlars(1.0)
    updates, _ = first_update(ensemble, stack(grads), stack(members))
    alone = quick_jit(lambda g, p: single.update(g, single.init(p), p)[0])
    expected = [alone(g, p) for g, p in zip(grads, members, strict=True)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates, stack(expected))


def test_ranges():
    check_ranges(
        optim.tvlars,
        momentum="[0, 1)",
        weight_decay="[0, inf)",
        trust_coefficient="(0, inf)",
        decay="[0, inf)",
        alpha="(0, inf)",
        delay="(-inf, inf)",
        floor="[0, inf)",
        max_norm="(0, inf)",
    )
    with pytest.raises(ValueError, match="variant must be one of paper, repo, got 'papers'"):
        optim.tvlars(1.0, variant="papers")
