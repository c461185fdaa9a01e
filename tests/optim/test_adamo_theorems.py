"""What AdamO's paper proves of it (arXiv 2605.01968, appendix D), seen on the code, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import quick_jit

import optim

SHAPES = {"bias": (5,), "tall": (6, 4), "wide": (3, 5)}
MATRICES = ("tall", "wide")
SIZE = sum(int(np.prod(shape)) for shape in SHAPES.values())


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def tree(vector):
    """A vector's numbers as parameters."""
    parts = np.split(np.arange(SIZE), np.cumsum([np.prod(s) for s in SHAPES.values()])[:-1])
    return {k: vector[part].reshape(SHAPES[k]) for k, part in zip(SHAPES, parts, strict=True)}


def flat(params):
    return jnp.concatenate([params[k].ravel() for k in SHAPES])


# --- one step, theorem D.5 ------------------------------------------------------------------------


def one_step(key, kappa, tau):
    """A smooth loss, and the steps of Adam and AdamO from a state that anything may have led to."""
    keys = iter(jax.random.split(key, 8))
    draw = lambda shape: jax.random.normal(next(keys), shape)  # noqa: E731
    mirror, centre, point = draw((SIZE,)), draw((SIZE,)), draw((SIZE,))
    curvatures = draw((SIZE,))  # of both signs: the loss is smooth, not convex

    def loss(x):
        turned = (x - centre) - 2 * mirror * (mirror @ (x - centre)) / (mirror @ mirror)
        return 0.5 * jnp.sum(curvatures * turned**2)

    gradient = jax.grad(loss)(point)
    old = gradient * jnp.exp(draw((SIZE,))) + draw((SIZE,))  # the average agrees in part
    squares = old**2 * jnp.exp(draw((SIZE,)))
    params, grads = tree(point), tree(gradient)

    def direction(kappa):
        optimizer = optim.scale_by_adamo(kappa=kappa, tau=tau)
        state = optimizer.init(params)._replace(count=7, mu=tree(old), nu=tree(squares))
        return flat(optimizer.update(grads, state, params)[0])

    adam = direction(0.0)
    smoothness = jnp.max(jnp.abs(curvatures))
    return loss, smoothness, point, gradient, adam, direction(kappa) - adam


def positive_descent(gradient, adam):
    """The sum over the matrices of what Adam's step gains of the loss, to first order."""
    g, u = tree(gradient), tree(adam)
    return sum(jnp.maximum(jnp.sum(g[k] * u[k]), 0) for k in MATRICES)


def test_without_a_budget_a_small_step_is_no_worse_than_adams():
    """Up to the step size of equation 90, on 1000 states; ten times beyond it is, now and then."""

    def excess(key):
        loss, smoothness, point, gradient, adam, correction = one_step(key, 1.0, 0.0)
        size, step = jnp.linalg.norm(correction), jnp.linalg.norm(adam)
        largest = 2 * gradient @ correction / (smoothness * size * (2 * step + size))
        largest = jnp.where(size > 0, largest, 1)

        def worse(rate):
            adamo, baseline = loss(point - rate * (adam + correction)), loss(point - rate * adam)
            return (adamo - baseline) / jnp.abs(baseline)

        share = jax.random.uniform(jax.random.fold_in(key, 1))
        return gradient @ correction, worse(share * largest), worse(largest), worse(10 * largest)

    keys = jax.random.split(jax.random.key(0), 1000)
    alignment, within, at, beyond = map(np.asarray, quick_jit(jax.vmap(excess))(keys))
    assert alignment.min() >= -1e-12
    assert within.max() <= 1e-12
    assert at.max() <= 1e-12
    assert np.mean(alignment > 1e-6) > 0.5  # or else nothing was tried
    assert beyond.max() > 1e-6


@pytest.mark.parametrize("tau", [0.05, 0.5, 0.95])
def test_with_a_budget_the_harm_is_bounded(tau):
    """Equation 91, at step sizes of six orders of magnitude."""

    def harm(key):
        kappa = jnp.exp(jax.random.uniform(jax.random.fold_in(key, 2), minval=-4.0, maxval=2.0))
        loss, smoothness, point, gradient, adam, correction = one_step(key, kappa, tau)
        rate = 10 ** jax.random.uniform(jax.random.fold_in(key, 1), minval=-6.0, maxval=0.0)
        harm = loss(point - rate * (adam + correction)) - loss(point - rate * adam)
        squares = rate**2 * jnp.sum(adam**2)
        budget = rate * tau * positive_descent(gradient, adam)
        bound = budget + smoothness * squares * (kappa + kappa**2 / 2)
        return harm / bound, -gradient @ correction * rate / budget

    keys = jax.random.split(jax.random.key(1), 1000)
    ratio, spent = map(np.asarray, quick_jit(jax.vmap(harm))(keys))
    assert ratio.max() <= 1 + 1e-6
    assert ratio.max() > 0.05  # the bound is not out of reach
    np.testing.assert_allclose(np.nanmax(spent), 1, atol=1e-9)  # some spend all of the budget


# --- in continuous time, proposition D.6 and theorem D.8 ------------------------------------------

# The ODE is followed by AdamO itself: a step of time h is one update with learning rate h,
# b1 = 1 - h B1 and b2 = 1 - h B2, of an age at which the bias corrections are 1.
EPS, B1, B2 = 1e-2, 1.0, 0.5
SECONDS = 4.0


def valleys(x):
    """Smooth, and of many minima."""
    return jnp.sum(jnp.sin(2 * x) + 0.3 * x**2) + jnp.sum(x) ** 2 / SIZE


def trajectory(kappa, tau, steps):
    """Hamiltonian, its dissipation, and what gradient and correction have in common, over time."""
    h = SECONDS / steps
    adam = optim.scale_by_adamo(b1=1 - h * B1, b2=1 - h * B2, eps=EPS, kappa=0.0)
    adamo = optim.scale_by_adamo(b1=1 - h * B1, b2=1 - h * B2, eps=EPS, kappa=kappa, tau=tau)
    keys = jax.random.split(jax.random.key(2), 2)
    first, m = 2 * jax.random.normal(keys[0], (SIZE,)), jax.random.normal(keys[1], (SIZE,))
    state = adamo.init(tree(first))
    state = state._replace(count=10**7, mu=tree(m), nu=tree(jax.grad(valleys)(first) ** 2 + 1e-4))

    def step(carry, _):
        x, state = carry
        g, m, v = jax.grad(valleys)(x), flat(state.mu), flat(state.nu)
        u, root = m / (jnp.sqrt(v) + EPS), jnp.sqrt(v)
        # The derivative of the second term of the Hamiltonian by v, which the paper bounds.
        dissipation = u @ m + B2 / (4 * B1) * (u**2 / root) @ (g**2 - v)
        least = (1 - B2 / (4 * B1)) * u @ m
        params, grads = tree(x), tree(g)
        both, after = adamo.update(grads, state, params)
        both = flat(both)
        correction = both - flat(adam.update(grads, state, params)[0])
        seen = {
            "hamiltonian": valleys(x) + u @ m / (2 * B1),
            "dissipation": dissipation,
            "least": least,
            "common": g @ correction,
            "descent": positive_descent(g, flat(adam.update(grads, state, params)[0])),
        }
        return (x - h * both, after), seen

    seen = quick_jit(lambda: jax.lax.scan(step, (first, state), length=steps)[1])()
    return h, {name: np.asarray(values) for name, values in seen.items()}


def integral(h, values):
    """From the beginning to each point of time."""
    return np.concatenate([[0.0], np.cumsum((values[1:] + values[:-1]) / 2) * h])


@pytest.mark.parametrize("tau", [0.0, 0.5])
def test_the_hamiltonian_changes_as_proved(tau):
    """Equation 98, whose error falls with the step of time; the dissipation is never negative.

    The paper's formula for the dissipation, equation 95, has its epsilon in another place.
    """
    errors = []
    for steps in (4000, 8000):
        h, seen = trajectory(1.0, tau, steps)
        assert np.abs(seen["common"]).max() > 0.1
        assert np.all(seen["dissipation"] >= seen["least"] - 1e-12)
        assert np.all(seen["least"] >= 0)
        change = seen["hamiltonian"] - seen["hamiltonian"][0]
        error = change + integral(h, seen["dissipation"] + seen["common"])
        errors.append(np.abs(error).max() / np.abs(change).max())
    assert errors[1] < 5e-3
    assert errors[1] < 0.6 * errors[0]


def test_without_a_budget_the_hamiltonian_never_rises():
    _, seen = trajectory(20.0, 0.0, 8000)
    fall = seen["hamiltonian"][0] - seen["hamiltonian"][-1]
    assert np.diff(seen["hamiltonian"]).max() <= 1e-6 * fall
    assert fall > 1.0


def test_with_a_budget_the_hamiltonian_rises_by_what_it_borrows_at_most():
    """Equation 100, from each twentieth of a second to the next."""
    h, seen = trajectory(20.0, 0.05, 8000)
    left = seen["hamiltonian"] + integral(h, seen["dissipation"])
    right = seen["hamiltonian"][0] + 0.05 * integral(h, seen["descent"])
    assert np.all(np.diff((left - right)[::100]) <= 1e-3)
    borrowed = -integral(h, np.minimum(seen["common"], 0))[-1]
    assert borrowed > 0.1  # something was
