import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from agents.distributions import Categorical, DiagonalGaussian

LOGITS = np.random.default_rng(0).normal(size=(3, 4), scale=2.0).astype(np.float32)
MEAN, LOG_STD = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)


def test_categorical_log_probability():
    actions = jnp.array([3, 0, 2], jnp.int32)
    expected = scipy.special.log_softmax(LOGITS, axis=-1)[np.arange(3), actions]
    actual = Categorical(jnp.asarray(LOGITS)).log_probability(actions)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_categorical_entropy():
    expected = [scipy.stats.entropy(p) for p in scipy.special.softmax(LOGITS, axis=-1)]
    np.testing.assert_allclose(Categorical(jnp.asarray(LOGITS)).entropy(), expected, rtol=1e-5)


def test_categorical_far_logits_stay_finite():
    distribution = Categorical(jnp.array([1000.0, 0.0]))
    assert distribution.entropy() == 0.0
    assert distribution.log_probability(jnp.int32(1)) == -1000.0
    gradient = jax.grad(lambda logits: Categorical(logits).entropy())(distribution.logits)
    assert jnp.isfinite(gradient).all()


def test_categorical_samples():
    keys = jax.random.split(jax.random.key(0), 20_000)
    samples = jax.vmap(Categorical(jnp.asarray(LOGITS)).sample)(keys)
    assert samples.shape == (20_000, 3)
    assert samples.dtype == jnp.int32
    for column, p in zip(np.asarray(samples).T, scipy.special.softmax(LOGITS, -1), strict=True):
        counts = np.bincount(column, minlength=4)
        np.testing.assert_allclose(counts / 20_000, p, atol=0.015)  # four standard errors


def test_modes_are_where_probability_is_largest():
    categorical = Categorical(jnp.asarray(LOGITS))
    np.testing.assert_array_equal(categorical.mode(), LOGITS.argmax(axis=-1))
    assert categorical.mode().dtype == jnp.int32
    np.testing.assert_array_equal(DiagonalGaussian(jnp.asarray(MEAN), LOG_STD).mode(), MEAN)


def test_gaussian_log_probability():
    actions = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)
    expected = scipy.stats.norm.logpdf(actions, MEAN, np.exp(LOG_STD)).sum(axis=-1)
    actual = DiagonalGaussian(jnp.asarray(MEAN), jnp.asarray(LOG_STD)).log_probability(actions)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_gaussian_entropy():
    expected = scipy.stats.norm.entropy(MEAN, np.exp(LOG_STD)).sum(axis=-1)
    actual = DiagonalGaussian(jnp.asarray(MEAN), jnp.asarray(LOG_STD)).entropy()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_gaussian_samples():
    keys = jax.random.split(jax.random.key(0), 20_000)
    distribution = DiagonalGaussian(jnp.asarray(MEAN), jnp.asarray(LOG_STD))
    samples = np.asarray(jax.vmap(distribution.sample)(keys))
    assert samples.dtype == np.float32
    z = (samples - MEAN) / np.exp(LOG_STD)
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=0.03)
    np.testing.assert_allclose(z.std(axis=0), 1.0, atol=0.03)
    flat = z.reshape(len(z), -1)
    np.testing.assert_allclose(np.corrcoef(flat.T), np.eye(flat.shape[1]), atol=0.04)


@pytest.mark.parametrize(
    "distribution",
    [
        Categorical(jnp.asarray(LOGITS)),
        DiagonalGaussian(jnp.asarray(MEAN), jnp.asarray(LOG_STD)),
    ],
)
def test_the_score_has_mean_zero(distribution):
    """The gradient of a log-probability averages to 0 over the distribution's own samples."""

    def log_probability(distribution, key):
        action = jax.lax.stop_gradient(distribution.sample(key))
        return distribution.log_probability(action).sum()

    keys = jax.random.split(jax.random.key(1), 20_000)
    scores = jax.vmap(jax.grad(log_probability), in_axes=(None, 0))(distribution, keys)
    for score in jax.tree.leaves(scores):
        error = np.std(score, axis=0) / np.sqrt(len(score))
        assert (np.abs(np.mean(score, axis=0)) < 5 * error + 1e-6).all()
