"""AdaHessian against a NumPy transcription, exact Hessians and Adam."""

import functools

import behaviour
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from behaviour import compare, make_params
from numpy_adahessian import NumpyAdaHessian
from numpy_adam import awkward_gradients, initial_params

import optim
from optim._promotion import with_standard_promotion

CHECKS = [
    behaviour.check_dtypes,
    behaviour.check_donation,
    behaviour.check_vmap,
    behaviour.check_holes,
]


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
    update = jax.jit(functools.partial(direction.update, obj_fn=loss))
    for _ in range(3):
        updates, state = update(jax.jit(jax.grad(loss))(params), state, params)
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
    update = jax.jit(functools.partial(direction.update, obj_fn=behaviour.loss))
    with_function = update(params, state, params)[1]
    curvature = jax.tree.map(lambda p: 2 + 3 * p**2, params)
    with_product = jax.jit(direction.update)(params, state, params, hvp=curvature)[1]
    behaviour.close(with_function.nu, with_product.nu)


@pytest.mark.parametrize("key", [5, jax.random.PRNGKey(5), jax.random.key(5), jnp.int32(5)])
def test_keys_and_seeds(key):
    params = jnp.ones(3)
    direction = optim.scale_by_adahessian(key=key)

    def loss(params):
        return jnp.sum(params) ** 2

    update = jax.jit(functools.partial(direction.update, obj_fn=loss))
    _, state = update(params, direction.init(params), params)
    _, expected = update(params, optim.scale_by_adahessian(key=5).init(params), params)
    np.testing.assert_allclose(state.nu, expected.nu)


def test_power_zero_is_momentum():
    params = make_params()
    optimizer = optim.adahessian(0.1, hessian_power=0.0, eps=0.0)
    updates, _ = jax.jit(optimizer.update)(params, optimizer.init(params), params, hvp=params)
    behaviour.close(updates, jax.tree.map(lambda p: -0.1 * p, params))


def test_gradients_as_products_give_adam():
    params, grads = make_params(), make_params(1)
    del params["conv"], grads["conv"]
    optimizer = optim.adahessian(0.1)
    adam = with_standard_promotion(optax.adam(0.1, eps=1e-4))
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params, hvp=grads)
    behaviour.close(updates, jax.jit(adam.update)(grads, adam.init(params), params)[0])


@pytest.mark.parametrize("check", CHECKS)
def test_behaviour(check):
    check(optim.adahessian(0.1))


def test_traced_numbers():
    behaviour.check_traced_numbers(
        optim.adahessian, learning_rate=0.1, b1=0.8, eps=1e-3, hessian_power=0.7, weight_decay=0.1
    )


def test_errors():
    behaviour.check_refusals(
        optim.adahessian,
        {
            "learning_rate": (0.0, -1.0),
            "b1": (1.0, -0.1),
            "b2": (1.0,),
            "eps": (-1e-8,),
            "hessian_power": (-1.0,),
            "weight_decay": (-0.1,),
        },
    )
    optimizer, params = optim.adahessian(0.1), jnp.ones(2)
    with pytest.raises(ValueError, match=r"obj_fn must be the loss.*update\(.*obj_fn=\.\.\.\)"):
        optimizer.update(params, optimizer.init(params), params, value=1.0)
