"""Kron: against a NumPy transcription; its settings, what whitening means, and when it learns."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from equations import equations
from quick import quick_jit
from replay import first_update

import optim
from optim._noise import normals
from optim.kron import _squared, _upper_product


class Transcription:
    """One tensor's Kron in float64, written from the equations with einsum and full inverses."""

    def __init__(self, shape, max_size=8192, b1=0.9, rate=0.1, max_rms=1.1):
        self.b1, self.rate, self.max_rms = b1, rate, max_rms
        self.n, self.waited, self.m = 0, 0, np.zeros(shape)
        sides = [s if len(shape) > 1 and 1 < s <= max_size else 0 for s in shape]
        self.q = [np.eye(s) if s else np.ones(d) for s, d in zip(sides, shape, strict=True)]

    def along(self, factors, x):
        for axis, q in enumerate(factors):
            matrix = q if q.ndim == 2 else np.diag(q)
            x = (
                np.moveaxis(matrix @ np.moveaxis(x, axis, -2), -2, axis)
                if x.ndim > 1
                else matrix @ x
            )
        return x

    def learn(self, mean, noise, is_balanced):
        if is_balanced:
            sizes = [np.abs(q).max() for q in self.q]
            middle = np.prod(sizes) ** (1 / len(sizes))
            self.q = [q * middle / size for q, size in zip(self.q, sizes, strict=True)]
        x = mean + (1e-9 + np.sqrt(np.finfo(np.float32).eps) * np.abs(mean).mean()) * noise
        a = self.along(self.q, x)
        b = self.along([np.linalg.inv(q).T if q.ndim == 2 else 1 / q for q in self.q], noise)
        for axis, q in enumerate(self.q):
            unfold = lambda t, axis=axis: np.moveaxis(t, axis, 0).reshape(t.shape[axis], -1)  # noqa: E731
            ours, theirs = (unfold(t) @ unfold(t).T for t in (a, b))
            if q.ndim == 2:
                step = np.triu(ours - theirs) @ q / self.bound(ours + theirs)
            else:
                ours, theirs = np.diag(ours), np.diag(theirs)
                step = (ours - theirs) * q / (ours + theirs).max()
            self.q[axis] = q - self.rate * step

    def bound(self, matrix):
        column = matrix[:, np.argmax((matrix**2).sum(axis=0))]
        image = column @ matrix
        return np.linalg.norm(matrix @ (image / np.linalg.norm(image)))

    def update(self, grad, noise, is_balanced):
        """The direction; noise and balancing count only where the preconditioner learns."""
        probability = np.clip(np.exp(-0.001 * (self.n - 500)), 0.03, 1)
        self.n, self.waited = self.n + 1, self.waited + 1
        self.m = self.b1 * self.m + (1 - self.b1) * grad
        mean = self.m / (1 - self.b1**self.n)
        if self.waited >= 1 / probability:
            self.learn(mean, noise, is_balanced)
            self.waited = 0
        d = self.along([q.T @ q if q.ndim == 2 else q * q for q in self.q], mean)
        return d * min(1, self.max_rms / np.sqrt((d**2).mean()))


@pytest.mark.parametrize("shape", [(5,), (5, 3), (1, 4), (2, 3, 4)])
@pytest.mark.parametrize("max_size", [8192, 4])
def test_transcription(shape, max_size):
    """Also past the first 500 updates, where the preconditioner learns less and less often."""
    updates = 700
    optimizer = optim.scale_by_kron(max_size=max_size)
    start = optimizer.init(jnp.zeros(shape))
    draws = np.random.default_rng(1).normal(size=(updates, *shape))
    grads = jnp.asarray(draws * 0.3 ** np.arange(shape[-1]), jnp.float32)

    def step(state, grad):
        direction, state = optimizer.update(grad, state)
        # What it draws, as `update` draws it: from the key and the number of the update.
        noise_key, balance_key = jax.random.split(jax.random.fold_in(state.key, state.count))
        words = jax.random.bits(noise_key, (2,), jnp.uint32)
        noise = normals(words, jnp.int32(0), math.prod(shape)).reshape(shape)
        is_balanced = jax.random.uniform(balance_key) < 0.01
        return state, (direction, noise, is_balanced, state.waited)

    end, (directions, noise, balanced, waited) = quick_jit(jax.lax.scan, static_argnums=0)(
        step, start, grads
    )
    expected = Transcription(shape, max_size)
    for i in range(updates):
        is_balanced = len(shape) > 1 and bool(balanced[i])
        one = expected.update(np.float64(grads[i]), np.float64(noise[i]), is_balanced)
        assert int(waited[i]) == expected.waited
        np.testing.assert_allclose(directions[i], one, rtol=2e-3, atol=2e-3 * np.abs(one).max())
    for factor, q in zip(end.factors, expected.q, strict=True):
        np.testing.assert_allclose(factor, q, rtol=2e-3, atol=2e-3 * np.abs(q).max())
    assert balanced.any()
    assert 0 < int((waited > 0).sum()) < 200  # always at first


def test_how_often_the_preconditioner_learns():
    """3 of 100 in the end; over the updates of a MinAtar run of 1e7 steps, 1 of 15."""
    optimizer = optim.scale_by_kron()

    def step(state, _):
        _, state = optimizer.update(jnp.ones(1), state)
        return state, state.waited == 0

    _, due = quick_jit(lambda: jax.lax.scan(step, optimizer.init(jnp.ones(1)), length=39_063))()
    assert due[:500].all()
    assert due[-10_000:].mean() == pytest.approx(0.03, abs=0.001)
    assert due.mean() == pytest.approx(1 / 15, abs=0.01)


def test_gradients_of_zero_leave_the_factors_bounded():
    optimizer = optim.scale_by_kron()
    step = lambda state, _: (optimizer.update(jnp.zeros((4, 3)), state)[1], None)  # noqa: E731
    end, _ = quick_jit(lambda: jax.lax.scan(step, optimizer.init(jnp.zeros((4, 3))), length=3000))()
    for factor in end.factors:
        assert 1e2 < np.abs(factor).max() < 1e9


def test_factors():
    """Full factors for both sides of a matrix, also the longer one; vectors are diagonal."""
    params = {"kernel": jnp.ones((8, 4)), "bias": jnp.ones(4), "scale": jnp.ones([])}
    optimizer = optim.kron(1e-3)
    factors = optimizer.init(params)[0].factors
    shapes = {name: [factor.shape for factor in leaf] for name, leaf in factors.items()}
    assert shapes == {"kernel": [(8, 8), (4, 4)], "bias": [(4,)], "scale": [()]}
    for factor in factors["kernel"]:
        np.testing.assert_array_equal(factor, np.eye(len(factor)))
    wide = optim.kron(1e-3, max_size=6).init(params)[0].factors["kernel"]
    assert [factor.shape for factor in wide] == [(8,), (4, 4)]


def test_whitening():
    """Gradients whose columns differ by 100 times in size come out alike."""
    optimizer = optim.scale_by_kron(b1=0.01, max_rms=100.0)
    sizes = jnp.array([10.0, 1.0, 0.1])

    def step(state, key):
        grads = jax.random.normal(key, (6, 3)) * sizes[None, :]
        updates, state = optimizer.update(grads, state)
        return state, jnp.sqrt(jnp.mean(updates**2, axis=0))

    state = optimizer.init(jnp.zeros((6, 3)))
    keys = jax.random.split(jax.random.key(0), 500)
    _, rms = quick_jit(lambda: jax.lax.scan(step, state, keys))()
    after = rms[-100:].mean(axis=0)
    np.testing.assert_allclose(after, 1.0, atol=0.6)
    assert after.max() / after.min() < 3


def test_first_steps_are_capped_momentum():
    """With the preconditioner at the identity the direction is the gradient, cut to the cap."""
    grads = jnp.full((4, 4), 100.0)
    optimizer = optim.scale_by_kron(preconditioner_rate=1e-9, max_rms=1.1)
    update = quick_jit(lambda grads: optimizer.update(grads, optimizer.init(grads))[0])
    np.testing.assert_allclose(update(grads), 1.1, rtol=1e-5)
    updates = update(grads / 1000)
    np.testing.assert_allclose(updates, 0.1, rtol=1e-5)


def test_weight_decay_is_for_matrices():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    grads = jax.tree.map(jnp.cos, params)
    steps = []
    for options in ({}, {"weight_decay": 0.5}, {"weight_decay": 0.5, "weight_decay_mask": True}):
        optimizer = optim.kron(0.1, **options)
        steps.append(first_update(optimizer, grads, params)[0])
    plain, decayed, all_decayed = steps
    np.testing.assert_allclose(decayed["kernel"] - plain["kernel"], -0.05, rtol=1e-4)
    np.testing.assert_array_equal(decayed["bias"], plain["bias"])
    np.testing.assert_allclose(all_decayed["bias"] - plain["bias"], -0.05, rtol=1e-4)


def test_seeds_give_noise():
    grads = jnp.cos(jnp.arange(12.0)).reshape(4, 3)

    def factor(seed):
        optimizer = optim.scale_by_kron(seed=seed)
        return optimizer.update(grads, optimizer.init(grads))[1].factors[0]

    together, alone = quick_jit(lambda: (jax.vmap(factor)(jnp.array([0, 1])), factor(1)))()
    assert np.max(np.abs(together[0] - together[1])) > 1e-4
    np.testing.assert_allclose(alone, together[1], rtol=1e-4, atol=1e-6)


def test_solves_nothing_in_batches():
    """Batched triangular solves of two programs at once can deadlock XLA on a CPU."""
    optimizer = optim.scale_by_kron()
    grads = jnp.ones((5, 4, 3))
    states = jax.vmap(optimizer.init)(grads)
    jaxpr = jax.make_jaxpr(jax.vmap(optimizer.update))(grads, states).jaxpr
    ranks = [
        equation.invars[0].aval.ndim
        for equation in equations(jaxpr)
        if equation.primitive.name == "triangular_solve"
    ]
    assert ranks
    assert set(ranks) == {2}


def test_reverse_mode():
    optimizer = optim.scale_by_kron()
    grads = jnp.cos(jnp.arange(12.0)).reshape(4, 3)
    state = optimizer.init(grads)

    def length(grads):
        return jnp.sum(optimizer.update(grads, state)[0] ** 2)

    slope = quick_jit(jax.grad(length))(grads)
    along = jnp.ones_like(grads)
    _, forward = quick_jit(lambda: jax.jvp(length, (grads,), (along,)))()
    np.testing.assert_allclose(jnp.sum(slope * along), forward, rtol=1e-4)


def test_inject_hyperparams():
    params = jnp.ones((3, 2))
    factory = optax.inject_hyperparams(optim.kron, static_args=("max_size",))
    optimizer = factory(optax.linear_schedule(1e-2, 0.0, 2))
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = first_update(optimizer, params, params)
    assert np.all(np.isfinite(updates))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("b1", 0.0),
        ("b1", 1.0),
        ("weight_decay", -1.0),
        ("preconditioner_rate", 0.0),
        ("max_rms", 0.0),
    ],
)
def test_arguments_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be in"):
        optim.kron(**{"learning_rate": 1e-3, name: value})


def test_derivatives_hold_the_preconditioner_fixed():
    """Its first update whitens by what it has just learned, to which the cap does not come."""
    optimizer = optim.scale_by_kron(max_rms=1e6)
    grads = jnp.cos(jnp.arange(12.0)).reshape(4, 3)
    state = optimizer.init(grads)
    _, learned = optimizer.update(grads, state)
    (rows, columns), along = learned.products, jnp.sin(jnp.arange(12.0)).reshape(4, 3)
    expected = rows @ along @ columns

    def update(grads):
        return optimizer.update(grads, state)[0]

    _, slope = quick_jit(lambda: jax.jvp(update, (grads,), (along,)))()
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [7, 301])
def test_products_of_triangular_matrices(size):
    left, right = np.triu(np.random.default_rng(0).normal(size=(2, size, size)))
    left, right = np.float32(left), np.float32(right)
    np.testing.assert_allclose(_upper_product(left, right), left @ right, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(_squared(left), left.T @ left, rtol=1e-4, atol=1e-4)
