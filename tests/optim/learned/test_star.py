"""STAR with meta-parameters that make it an optimizer known otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fixed_meta_params import drawn, zeros
from quick import quick_jit

import optim

SHAPES = {"kernel": (3, 2), "bias": (2,)}
RNG = np.random.default_rng(0)
PARAMS = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
GRADIENTS = {name: RNG.normal(size=(6, *s)).astype(np.float32) * 0.3 for name, s in SHAPES.items()}


@quick_jit
def replay(meta, rate, nominal):
    """Updates and last state."""
    optimizer = optim.star(meta, rate, nominal)
    params = jax.tree.map(jnp.asarray, PARAMS)

    def step(state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return state, updates

    return jax.lax.scan(step, optimizer.init(params), jax.tree.map(jnp.asarray, GRADIENTS))[::-1]


def test_without_a_network_it_is_adam_with_aggregated_momentum():
    """Moved by the offsets of the decay rates all momenta are the same, as are Adam's."""
    meta = zeros("star")
    for i, decay in enumerate((0.9, 0.99, 0.999)):
        meta["momentum_decays"][i] = np.log(0.2 / (1 - decay)) / 10
    meta["rms_decays"][:] = np.log(0.05 / 0.001) / 10
    ours, state = replay(meta, 3.0, 0.01)
    # Not corrected for its start, unlike Adam.
    first, second = (optax.ema(decay, debias=False) for decay in (0.8, 0.95))
    for name, shape in SHAPES.items():
        first_state, second_state = first.init(jnp.zeros(shape)), second.init(jnp.zeros(shape))
        for i, gradient in enumerate(jnp.asarray(GRADIENTS[name])):
            mean, first_state = first.update(gradient, first_state)
            square, second_state = second.update(gradient**2, second_state)
            expected = -0.01 * np.exp(1e-3) * np.asarray(mean / jnp.sqrt(square + 1e-6))
            np.testing.assert_allclose(ours[name][i], expected, rtol=3e-5, atol=1e-7)
        np.testing.assert_allclose(state.square[name], square, rtol=3e-5)


def test_rows_and_columns_are_adafactors():
    _, state = replay(zeros("star"), 1e-3, 1e-3)
    kernel = GRADIENTS["kernel"].astype(np.float64)
    for j, decay in enumerate((0.9, 0.99, 0.999)):
        rows, columns, full = np.zeros(2), np.zeros(3), np.zeros(2)
        for gradient, of_bias in zip(kernel, GRADIENTS["bias"], strict=True):
            rows = decay * rows + (1 - decay) * (gradient**2).mean(axis=0)
            columns = decay * columns + (1 - decay) * (gradient**2).mean(axis=1)
            full = decay * full + (1 - decay) * of_bias.astype(np.float64) ** 2
        np.testing.assert_allclose(state.rows["kernel"][j], rows, rtol=1e-4)
        np.testing.assert_allclose(state.columns["kernel"][j], columns, rtol=1e-4)
        np.testing.assert_allclose(state.diagonal["bias"][j], full, rtol=1e-4)
    assert state.rows["bias"].size == state.diagonal["kernel"].size == 0
    assert int(state.count) == 6


def test_the_learning_rate_is_of_the_learned_part_only():
    """The update is linear in the two step sizes."""
    meta = drawn("star")
    (a, _), (b, _), (both, _) = (
        replay(meta, rate, nominal) for rate, nominal in ((0.1, 0.0), (0.0, 0.01), (0.1, 0.01))
    )
    for name in SHAPES:
        np.testing.assert_allclose(both[name], a[name] + b[name], rtol=1e-4, atol=1e-6)
        assert np.abs(a[name]).max() > 1e-4
        assert np.abs(b[name]).max() > 1e-4


def test_params_are_needed():
    optimizer = optim.star(zeros("star"))
    with pytest.raises(ValueError, match=r"^params must be .* STAR's update, got None; .*keep_"):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
