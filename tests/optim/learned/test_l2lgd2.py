"""L2LGD2 with meta-parameters that make it an optimizer known otherwise, and its features."""

import jax.numpy as jnp
import numpy as np
import optax
from fixed_meta_params import zeros
from numpy_l2lgd2 import features

import optim
from optim.learned._recurrent import log_and_sign


def test_without_weights_it_is_gradient_descent():
    meta = zeros("l2lgd2")
    meta["mlp"]["layers_0"]["bias"][:] = -0.5
    gradient = jnp.array([[0.3, -4.0, 0.0], [1e-9, -1e-5, 1.0]])
    ours = optim.l2lgd2(meta, 0.01)
    theirs = optax.chain(optax.clip(1.0), optax.sgd(0.01 * float(np.exp(-0.5))))
    update, _ = ours.update(gradient, ours.init(gradient))
    expected, _ = theirs.update(gradient, theirs.init(gradient))
    np.testing.assert_allclose(update, expected, rtol=1e-6)


def test_features_join_where_they_change():
    """Both are continuous at |g| = exp(-10) but for the 1e-8 under the logarithm."""
    border = float(np.exp(-10))
    gradients = np.array([0.0, 1e-12, -1e-6, 0.99 * border, 1.01 * border, -1e-3, 1.0, -1.0])
    ours = np.stack(log_and_sign(jnp.asarray(gradients, jnp.float32)), axis=1)
    expected = np.array([features(gradient) for gradient in gradients])
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours[3], ours[4], atol=0.02)
    assert np.abs(ours).max() <= 1 + 1e-6
