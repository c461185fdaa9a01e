"""LinearOptim with meta-parameters that make it an optimizer known otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fixed_meta_params import zeros
from quick import quick_jit

import optim

GRADIENTS = np.random.default_rng(0).normal(size=(6, 2, 3))


def replay(optimizer, dtype=np.float32):
    @quick_jit
    def run(gradients):
        state, updates = optimizer.init(jnp.zeros(gradients.shape[1:], gradients.dtype)), []
        for gradient in gradients:
            update, state = optimizer.update(gradient, state)
            updates.append(update)
        return jnp.stack(updates)

    return run(jnp.asarray(GRADIENTS, dtype))


def test_without_weights_it_is_gradient_descent():
    meta = zeros("linear_optim")
    meta["mlp"]["layers_0"]["bias"][0] = 0.5
    ours = replay(optim.linear_optim(meta, 0.01))
    clipped = optax.chain(optax.clip(1.0), optax.sgd(0.01 * np.exp(0.5)))
    np.testing.assert_allclose(ours, replay(clipped), rtol=1e-6)


def test_its_offset_can_be_momentum():
    """One hidden unit averages the gradient, nearly linearly; the first term is switched off."""
    meta = zeros("linear_optim")
    small, decay = 1e-4, 0.9
    meta["rnn"]["in"]["kernel"][:] = small
    meta["rnn"]["iz"]["bias"][:] = np.log(decay / (1 - decay))
    meta["mlp"]["layers_0"]["bias"][0] = -100.0
    meta["mlp"]["layers_0"]["kernel"][0, 2] = 1 / small
    with jax.enable_x64(True):
        ours = replay(optim.linear_optim(meta, 0.01, grad_clip=None), np.float64)
        momentum = optax.chain(optax.ema(decay, debias=False), optax.scale(-0.01))
        # Meta-parameters are float32, whence the tolerance.
        np.testing.assert_allclose(ours, replay(momentum, np.float64), rtol=1e-6)
