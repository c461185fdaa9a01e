"""AdaHessian against a NumPy transcription, exact Hessians and Adam."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_adahessian import NumpyAdaHessian
from numpy_adam import awkward_gradients, initial_params
from quick import quick_jit
from ranges import check_ranges
from replay import compare, first_update
from trees import close, loss, make_params

import optim
from optim._promotion import with_standard_promotion


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("power", [1.0, 0.5])
def test_numpy_trace(dtype, power):
    products = [{"hvp": product} for product in awkward_gradients(seed=7)]
    compare(
        optim.adahessian(0.1, hessian_power=power, weight_decay=0.01),
        NumpyAdaHessian(0.1, power=power, decay=0.01),
        awkward_gradients(),
        initial_params(),
        dtype,
        products,
        factor=3.0,
    )


def test_numpy_trace_of_convolutions():
    rng = np.random.default_rng(0)
    trace = [{"conv": rng.normal(size=(2, 3, 2, 4))} for _ in range(10)]
    products = [{"hvp": {"conv": rng.normal(size=(2, 3, 2, 4))}} for _ in range(10)]
    start = {"conv": rng.normal(size=(2, 3, 2, 4)).astype(np.float32)}
    compare(optim.adahessian(0.1), NumpyAdaHessian(0.1), trace, start, "float32", products)
    off = optim.adahessian(0.1, spatial_averaging=False)
    with pytest.raises(AssertionError):
        compare(off, NumpyAdaHessian(0.1), trace, start, "float32", products)


def test_the_diagonal_of_a_diagonal_quadratic_is_exact():
    """Whatever the signs; the gradient's size does not matter, so one step is Newton's."""
    curvature = {"a": jnp.array([[4.0, -0.5], [2.0, 8.0]]), "b": jnp.array([0.25])}
    params = {"a": jnp.array([[1.0, 2.0], [-1.0, 3.0]]), "b": jnp.array([-2.0])}

    def loss(params):
        squares = jax.tree.map(lambda h, p: jnp.sum(h * p**2) / 2, curvature, params)
        return sum(jax.tree.leaves(squares))

    direction = optim.scale_by_adahessian(b1=0.0, b2=0.0, eps=0.0)
    state = direction.init(params)
    update = quick_jit(functools.partial(direction.update, obj_fn=loss))
    for _ in range(3):
        updates, state = update(quick_jit(jax.grad(loss))(params), state, params)
        for name, h in curvature.items():
            np.testing.assert_array_equal(state.nu[name], h**2)
            np.testing.assert_allclose(updates[name], jnp.sign(h) * params[name], rtol=1e-6)


def test_probes_are_fresh_independent_signs():
    """The estimate of a full Hessian's diagonal has the right mean square, from many steps."""
    h = jnp.array([[2.0, 1.0, 0.0], [1.0, 3.0, -1.0], [0.0, -1.0, 1.0]])
    direction = optim.scale_by_adahessian(b2=0.999)
    params = {"x": jnp.zeros(3), "y": jnp.zeros(3)}

    def loss(params):
        both = params["x"] + params["y"]
        return 0.5 * both @ h @ both

    def body(state, _):
        return direction.update(params, state, params, obj_fn=loss)[1], None

    state, _ = jax.lax.scan(body, direction.init(params), length=4000)
    # E (H z)_i^2 is the sum of squares of row i, over both leaves' signs.
    expected = 2 * np.sum(np.square(h), axis=1)
    corrected = state.nu["x"] / (1 - 0.999**4000)
    np.testing.assert_allclose(corrected, expected, rtol=0.15)


def test_obj_fn_is_a_product_with_random_signs():
    params = make_params()
    direction = optim.scale_by_adahessian(spatial_averaging=False, key=3)
    state = direction.init(params)
    update = quick_jit(functools.partial(direction.update, obj_fn=loss))
    with_function = update(params, state, params)[1]
    curvature = jax.tree.map(lambda p: 2 + 3 * p**2, params)
    with_product = quick_jit(direction.update)(params, state, params, hvp=curvature)[1]
    close(with_function.nu, with_product.nu)


@pytest.mark.parametrize("key", [5, jax.random.PRNGKey(5), jax.random.key(5), jnp.int32(5)])
def test_keys_and_seeds(key):
    params = jnp.ones(3)
    direction = optim.scale_by_adahessian(key=key)

    def loss(params):
        return jnp.sum(params) ** 2

    update = quick_jit(functools.partial(direction.update, obj_fn=loss))
    _, state = update(params, direction.init(params), params)
    _, expected = update(params, optim.scale_by_adahessian(key=5).init(params), params)
    np.testing.assert_allclose(state.nu, expected.nu)


def test_power_zero_is_momentum():
    params = make_params()
    optimizer = optim.adahessian(0.1, hessian_power=0.0, eps=0.0)
    updates, _ = quick_jit(optimizer.update)(params, optimizer.init(params), params, hvp=params)
    close(updates, jax.tree.map(lambda p: -0.1 * p, params))


def test_gradients_as_products_give_adam():
    params, grads = make_params(), make_params(1)
    del params["conv"], grads["conv"]
    optimizer = optim.adahessian(0.1)
    adam = with_standard_promotion(optax.adam(0.1, eps=1e-4))
    updates, _ = quick_jit(optimizer.update)(grads, optimizer.init(params), params, hvp=grads)
    close(updates, first_update(adam, grads, params)[0])


def test_errors():
    check_ranges(
        optim.adahessian,
        b1="[0, 1)",
        b2="[0, 1)",
        eps="[0, inf)",
        hessian_power="[0, inf)",
        weight_decay="[0, inf)",
    )
    optimizer, params = optim.adahessian(0.1), jnp.ones(2)
    with pytest.raises(ValueError, match=r"obj_fn must be the loss.*update\(.*obj_fn=\.\.\.\)"):
        optimizer.update(params, optimizer.init(params), params, value=1.0)
