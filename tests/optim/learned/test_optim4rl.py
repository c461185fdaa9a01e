"""Optim4RL with meta-parameters that make it an optimizer known otherwise."""

import jax.numpy as jnp
import numpy as np
import optax
from fixed_meta_params import converging, zeros
from quick import quick_jit

import optim

GRADIENTS = np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float32) * 0.4


def replay(optimizer, gradients=GRADIENTS):
    """Updates and last state."""

    @quick_jit
    def run(gradients):
        state, updates = optimizer.init(jnp.zeros(gradients.shape[1:])), []
        for gradient in gradients:
            update, state = optimizer.update(gradient, state)
            updates.append(update)
        return jnp.stack(updates), state

    return run(jnp.asarray(gradients))


def test_without_weights_it_is_sign_descent():
    """The two biases are the logarithms of a first and of a second moment."""
    meta = zeros("optim4rl")
    meta["mlp1"]["layers_0"]["bias"][:] = 0.5
    meta["mlp2"]["layers_0"]["bias"][:] = -3.0
    gradients = GRADIENTS.copy()
    gradients[1, 0] = 0.0
    ours, _ = replay(optim.optim4rl(meta, 0.01), gradients)
    theirs, _ = replay(optax.sign_sgd(0.01 * np.exp(0.5) / np.sqrt(np.exp(-3.0))), gradients)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    np.testing.assert_array_equal(ours[1, 0], 0.0)


def test_hidden_states_are_averages_of_gradient_and_square():
    """With open candidates and a constant gate: of tanh of what they see, as good as linear."""
    meta = zeros("optim4rl")
    decay = 1 / (1 + np.exp(-1.5))
    for network in ("rnn1", "rnn2"):
        meta[network]["iz"]["bias"][:] = 1.5
        meta[network]["in"]["kernel"][:] = 1e-3
    _, (state, _) = replay(optim.optim4rl(meta))
    first, second = np.zeros((2, 3)), np.zeros((2, 3))
    for gradient in GRADIENTS:
        first = decay * first + (1 - decay) * gradient
        second = decay * second + (1 - decay) * gradient**2
    for unit in range(8):
        np.testing.assert_allclose(state.first[unit], 1e-3 * first, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(state.second[unit], 1e-3 * second, rtol=1e-5, atol=1e-9)


def test_with_other_weights_it_is_like_gradient_descent():
    """Steps shrink with the gradient and have its sign."""
    sizes = np.array([1.0, 0.1, 1e-2, 1e-3, 1e-4], np.float32)
    gradients = np.stack([sizes, -sizes])[None]
    updates, _ = replay(optim.optim4rl(converging("optim4rl"), 1.0), gradients)
    np.testing.assert_allclose(updates[0, 0], -updates[0, 1], rtol=1e-5)
    assert (np.diff(-updates[0, 0]) < 0).all()
    # Gradient descent, within a factor of three.
    assert np.abs(np.log(-updates[0, 0] / sizes)).max() < np.log(3)
