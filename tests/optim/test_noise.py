"""The noise of optimizers: generator, distribution, independence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from quick import quick_jit

from optim import _noise


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((2**32 - 1,) * 2, (2**32 - 1,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_known_answers(counter, key, expected):
    """Those of Random123, its authors' library."""
    words = jax.tree.map(lambda x: jnp.asarray(x, jnp.uint32), (key, counter))
    assert tuple(map(int, quick_jit(_noise.threefry)(*words))) == expected


@pytest.fixture(scope="module")
def draws():
    """Three steps of one key and one step of another, of a million numbers each."""

    def draw(keys, steps):
        return jax.vmap(lambda key, step: _noise.normals(key, step, 1_000_000))(keys, steps)

    keys = jnp.stack([_noise.noise_key(seed, {}) for seed in (0, 0, 0, 1)])
    drawn = jax.device_get(quick_jit(draw)(keys, jnp.array([0, 1, 2, 0], jnp.int32)))
    assert drawn.dtype == np.float32
    return drawn.astype(np.float64)


def test_they_are_normal(draws):
    """Each bound is five standard deviations of its statistic, or a chance of one in 10,000."""
    n = draws.shape[1]
    for sample in draws:
        assert abs(sample.mean()) < 5 / np.sqrt(n)
        assert abs(sample.var() - 1) < 5 * np.sqrt(2 / n)
        assert abs(scipy.stats.skew(sample)) < 5 * np.sqrt(6 / n)
        assert abs(scipy.stats.kurtosis(sample)) < 5 * np.sqrt(24 / n)
        assert scipy.stats.kstest(sample, "norm").pvalue > 1e-4
        for limit in (2, 3, 4):
            expected = 2 * n * scipy.stats.norm.sf(limit)
            beyond = np.sum(np.abs(sample) > limit)
            assert abs(beyond - expected) < 5 * np.sqrt(expected) + 5
        assert 4.3 < np.abs(sample).max() < 6.5


def test_steps_keys_and_places_are_independent(draws):
    n = draws.shape[1]
    correlations = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlations).max() < 5 / np.sqrt(n)
    # The two words of one counter stand half the length apart.
    for lag in (1, 2, n // 2):
        for sample in (draws[0], np.abs(draws[0])):
            pair = np.corrcoef(sample[:-lag], sample[lag:])[0, 1]
            assert abs(pair) < 5 / np.sqrt(n - lag)


def test_inverse_error_function():
    """Over all that the generator can give it: up to half a step of 2**-22 from 1."""
    x = np.concatenate([np.linspace(-1, 1, 20_001)[1:-1], 1 - 2.0 ** -np.arange(2.0, 24.0)])
    x = x.astype(np.float32)
    ours = np.asarray(quick_jit(_noise._inverse_erf)(x), np.float64)
    expected = scipy.special.erfinv(x.astype(np.float64))
    np.testing.assert_allclose(ours, expected, rtol=3e-6, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_short_ones(count):
    draw = quick_jit(_noise.normals, static_argnums=2)
    sample = draw(_noise.noise_key(0, {}), 3, count)
    assert sample.shape == (count,)
    assert len(set(sample.tolist())) == count


def test_keys():
    """Seeds, keys of both kinds; other parameters, or the same in other places, another key."""
    params = {"a": jnp.arange(3.0), "b": jnp.zeros((2, 1))}
    swapped = {"a": jnp.array([1.0, 0.0, 2.0]), "b": jnp.zeros((2, 1))}
    make = lambda key, params: tuple(_noise.noise_key(key, params).tolist())  # noqa: E731
    keys = [make(0, params), make(1, params), make(0, swapped), make(0, {"a": params["a"]})]
    assert len(set(keys)) == 4
    assert make(jax.random.key(0), params) == make(jax.random.PRNGKey(0), params) == keys[0]
    shapes = jax.eval_shape(lambda: params)
    assert make(0, shapes) == make(0, {})
    assert jax.eval_shape(_noise.noise_key, 0, params).shape == (2,)
