"""AdamO against traces, a NumPy transcription, Adam and the properties the paper states."""

import functools
import importlib.util
import json
import os
import pathlib

import flax.linen as nn
import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from quick import quick_jit
from replay import first_update

import optim
from optim._promotion import with_standard_promotion
from optim.adamo import _correction

HERE = pathlib.Path(__file__).parent
_spec = importlib.util.spec_from_file_location("numpy_adamo", HERE / "numpy_adamo.py")
numpy_adamo = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(numpy_adamo)

STRONG = {"kappa": 1.0, "tau": 0.05}
RTOL = {"float32": 1e-5, "float64": 1e-10}


def golden_folder():
    if "RL_OPTIM_REFERENCE" in os.environ:
        return pathlib.Path(os.environ["RL_OPTIM_REFERENCE"]) / "golden"
    for parent in HERE.parents:
        if (parent / "shared" / "reference" / "golden").is_dir():
            return parent / "shared" / "reference" / "golden"
    return None


def adam(learning_rate=1e-3, eps=1e-4):
    return with_standard_promotion(optax.adam(learning_rate, eps=eps))


def make_params(key=0, dtype=jnp.float32):
    shapes = {"wide": (3, 5), "tall": (6, 4), "bias": (4,), "scale": ()}
    keys = jax.random.split(jax.random.key(key), len(shapes))
    return {
        n: jax.random.normal(k, s, dtype) for k, (n, s) in zip(keys, shapes.items(), strict=True)
    }


def run(optimizer, params, steps=4, key=100):
    """A few jitted steps on random gradients; returns the parameters and the state."""

    @quick_jit
    def step(grads, state, params):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for i in range(steps):
        leaves, treedef = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(key + i), max(len(leaves), 1))
        grads = [jax.random.normal(k, p.shape, p.dtype) for k, p in zip(keys, leaves, strict=False)]
        params, state = step(jax.tree.unflatten(treedef, grads), state, params)
    return params, state


@quick_jit
def updates_of(grad, param, state, kappa, tau):
    adam_updates, _ = with_standard_promotion(optax.scale_by_adam(eps=1e-4)).update(grad, state)
    direction = optim.scale_by_adamo(kappa=kappa, tau=tau)
    return adam_updates, direction.update(grad, state, param)[0]


def delta_of(grad, param, old_grad, kappa, tau):
    """Adam's direction after two steps, and the correction: the difference, in float64."""
    with jax.enable_x64(True):
        grad, param, old_grad = (jnp.asarray(x, jnp.float64) for x in (grad, param, old_grad))
        state = optax.ScaleByAdamState(jnp.ones([], jnp.int32), 0.1 * old_grad, 1e-3 * old_grad**2)
        u, updates = updates_of(grad, param, state, jnp.float64(kappa), jnp.float64(tau))
        return np.asarray(u), np.asarray(updates - u)


def assert_finite(tree):
    for leaf in jax.tree.leaves(tree):
        assert np.all(np.isfinite(np.asarray(leaf, np.float64)))


# Traces.


def relative_error(actual, expected):
    """Error relative to the norm of the leaf: entries of a correction may cancel to nothing."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    size = np.linalg.norm(expected.ravel())
    error = np.linalg.norm((actual - expected).ravel())
    return error if size == 0 else error / size


def check_trace(hyper, init, steps, dtype):
    """Replays the gradients of a trace; returns how many corrections the budget shortened.

    In float32 optax's Adam is itself off by 1e-5, from 1 - b2**t with a rounded b2. The correction
    is therefore checked on Adam's exact direction, and the sum of the two on optax's.
    """
    transcription = numpy_adamo.NumpyAdamO(hyper, init)
    rate, b1, b2, eps, kappa, tau, eps_r = hyper.values()
    optimizer = optim.adamo(rate, b1=b1, b2=b2, eps=eps, kappa=kappa, tau=tau, eps_r=eps_r)
    params = {name: jnp.asarray(value, dtype) for name, value in init.items()}
    state = optimizer.init(params)
    update = quick_jit(optimizer.update)
    correction = quick_jit(functools.partial(_correction, axes=0))
    shortened = 0
    for grads, expected_params, expected_corrections in steps:
        grads = {name: jnp.asarray(value, dtype) for name, value in grads.items()}
        directions, _ = transcription.step(grads)
        matrices = [name for name in params if params[name].ndim >= 2]
        for name in matrices:
            direction, expected = directions[name], expected_corrections[name]
            direction = jnp.asarray(direction, dtype)
            actual = correction(grads[name], direction, params[name], kappa, tau, eps_r)
            assert relative_error(actual, expected) < RTOL[dtype], name
            shortened += np.linalg.norm(expected) < 0.999 * kappa * np.linalg.norm(direction)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for name, param in params.items():
            assert param.dtype == dtype
            assert relative_error(param, expected_params[name]) < RTOL[dtype], name
            total = directions[name] + expected_corrections[name]
            assert relative_error(updates[name], -rate * total) < 2 * RTOL[dtype], name
    return shortened


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", ["conservative", "strong", "conv", "zero_kappa"])
def test_golden_trace(case, dtype):
    folder = golden_folder()
    if folder is None:
        pytest.skip("no reference traces: set RL_OPTIM_REFERENCE to their folder")
    with np.load(folder / f"adamo_{case}.npz", allow_pickle=False) as data:
        data = dict(data)
    init = {key.removeprefix("init/"): data[key] for key in data if key.startswith("init/")}
    count = len({key.split("/")[0] for key in data if key.startswith("step")})
    steps = [
        [
            {n: data[f"step{i:02d}/{kind}/{n}"] for n in init}
            for kind in ("grad", "params", "correction")
        ]
        for i in range(count)
    ]
    with jax.enable_x64(dtype == "float64"):
        shortened = check_trace(json.loads(str(data["hyper"])), init, steps, dtype)
    assert case == "zero_kappa" or shortened > 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_trace(dtype):
    with np.load(numpy_adamo.DATA, allow_pickle=False) as data:
        data = dict(data)
    steps = [
        [
            {n: data[f"{kind}/{n}"][i] for n in numpy_adamo.SHAPES}
            for kind in ("grad", "params", "correction")
        ]
        for i in range(numpy_adamo.STEPS)
    ]
    init = {name: data[f"init/{name}"] for name in numpy_adamo.SHAPES}
    with jax.enable_x64(dtype == "float64"):
        shortened = check_trace(json.loads(str(data["hyper"])), init, steps, dtype)
    assert shortened > 0


def test_committed_data_is_what_the_transcription_gives():
    with np.load(numpy_adamo.DATA, allow_pickle=False) as data:
        committed = dict(data)
    made = numpy_adamo.make_data()
    assert committed.keys() == made.keys()
    assert str(committed.pop("hyper")) == str(made.pop("hyper"))
    for key, value in made.items():
        assert committed[key].dtype == value.dtype
        np.testing.assert_allclose(committed[key], value, rtol=1e-13, atol=1e-15)


# Limit cases.


@pytest.mark.parametrize(
    ("dtype", "learning_rate"),
    [
        (jnp.bfloat16, 1e-3),
        (jnp.float16, 1e-3),
        (jnp.float32, 1e-3),
        (jnp.float32, optax.linear_schedule(1e-2, 0.0, 5)),
    ],
)
def test_zero_kappa_is_adam_exactly(dtype, learning_rate):
    params = make_params(dtype=dtype)
    ours, our_state = run(optim.adamo(learning_rate, kappa=0.0, tau=0.3), params, steps=8)
    theirs, their_state = run(adam(learning_rate), params, steps=8)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    jax.tree.map(np.testing.assert_array_equal, our_state, their_state)


def test_moments_are_adams_whatever_kappa():
    params = make_params()
    states = []
    for optimizer in (optim.adamo(1e-3, kappa=1.0, tau=0.5), adam()):
        state, update = optimizer.init(params), quick_jit(optimizer.update)
        for i in range(4):
            _, state = update(make_params(key=50 + i), state, params)
        states.append(state[0])
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_vectors_and_scalars_take_adam_steps():
    params, grads = make_params(), make_params(1)
    updates, expected = (
        first_update(optimizer, grads, params)[0]
        for optimizer in (optim.adamo(1e-3, **STRONG), adam())
    )
    for name in ("bias", "scale"):
        np.testing.assert_array_equal(updates[name], expected[name])
    for name in ("wide", "tall"):
        assert np.max(np.abs(updates[name] - expected[name])) > 1e-5


def test_orthogonal_matrices_take_adam_steps_up_to_kappa():
    """At a residual of exactly zero nothing is added, near it the bound holds."""
    grad = np.random.default_rng(0).normal(size=(3, 3))
    _, delta = delta_of(grad, np.eye(3), grad, kappa=1.0, tau=0.9)
    np.testing.assert_array_equal(delta, 0.0)
    u, delta = delta_of(grad, np.linalg.qr(grad)[0], grad, kappa=0.1, tau=0.9)
    assert np.linalg.norm(delta) <= 0.1 * np.linalg.norm(u) * (1 + 1e-12)


def test_correction_pulls_towards_orthogonality():
    """Without gradients in the way the singular values go to one."""
    params = {"kernel": jnp.diag(jnp.array([3.0, 0.2]))}
    optimizer = optim.adamo(0.01, kappa=1.0, tau=0.9)
    state = optimizer.init(params)
    before = np.linalg.norm(params["kernel"].T @ params["kernel"] - np.eye(2))
    grads = {"kernel": jnp.array([[0.0, 1e-3], [-1e-3, 0.0]])}
    update = quick_jit(optimizer.update)
    for _ in range(40):
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    after = np.linalg.norm(params["kernel"].T @ params["kernel"] - np.eye(2))
    assert after < 0.8 * before


@pytest.mark.parametrize(("tau", "scale"), [(0.0, 0.0), (0.5, 0.5 / 0.7)])
def test_conflict_is_scaled_to_the_budget(tau, scale):
    """Worked by hand: W = 2I has the residual 6I, and g = -I gives u = -I."""
    with jax.enable_x64(True):
        grad, param = -jnp.eye(2, dtype=jnp.float64), 2 * jnp.eye(2, dtype=jnp.float64)
        direction = optim.scale_by_adamo(eps=1e-12, kappa=0.7, tau=tau)
        updates, _ = first_update(direction, grad, param)
    np.testing.assert_allclose(updates, (-1 + 0.7 * scale) * np.eye(2), rtol=1e-8)


# Controls.


@pytest.mark.parametrize(
    "control", [{"tau": None}, {"pull": "zero"}, {"tau": None, "pull": "zero"}]
)
def test_controls_are_the_transcription(control):
    """Against the gradient of the weights' norm, so that a budget would bind."""
    with jax.enable_x64(True):
        params = make_params(dtype=jnp.float64)
        hyper = {**numpy_adamo.HYPER, **control}
        transcription = numpy_adamo.NumpyAdamO(hyper, params)
        optimizer = optim.adamo(**hyper)
        state, update = optimizer.init(params), quick_jit(optimizer.update)
        for i in range(3):
            noise = make_params(50 + i, jnp.float64)
            grads = jax.tree.map(lambda p, n: 0.1 * n - p, params, noise)
            transcription.step(grads)
            updates, state = update(grads, state, params)
            params = optax.apply_updates(params, updates)
        for name, param in params.items():
            np.testing.assert_allclose(param, transcription.params[name], rtol=1e-9)


def test_a_pull_to_zero_shrinks_and_one_without_budget_ignores_the_gradient():
    """Worked by hand: W = 2I, g = -I gives u = -I, against either pull."""
    with jax.enable_x64(True):
        grad, param = -jnp.eye(2, dtype=jnp.float64), 2 * jnp.eye(2, dtype=jnp.float64)
        for options, expected in (
            ({"pull": "zero", "tau": 0.0}, -1.0),
            ({"pull": "zero", "tau": None}, -0.3),
            ({"tau": None}, -0.3),
        ):
            direction = optim.scale_by_adamo(eps=1e-12, kappa=0.7, eps_r=0.0, **options)
            updates, _ = first_update(direction, grad, param)
            np.testing.assert_allclose(updates, expected * np.eye(2), rtol=1e-8)
        # At an orthogonal matrix only the pull to zero does anything.
        for pull, expected in (("orthogonal", -1.0), ("zero", -0.3)):
            direction = optim.scale_by_adamo(eps=1e-12, kappa=0.7, tau=None, eps_r=0.0, pull=pull)
            updates, _ = first_update(direction, grad, param / 2)
            np.testing.assert_allclose(updates, expected * np.eye(2), rtol=1e-8)


def test_heads_may_be_left_alone():
    """Of each network the last layer takes Adam's steps, the others AdamO's."""
    network = {f"Dense_{i}": {"kernel": make_params(i)["wide"]} for i in range(3)}
    params = {"params": {"actor": network, "critic": network}}
    grads = jax.tree.map(jnp.cos, params)
    hidden, whole, plain = (
        first_update(optimizer, grads, params)[0]["params"]
        for optimizer in (
            optim.adamo(1e-3, **STRONG, heads=False),
            optim.adamo(1e-3, **STRONG),
            adam(),
        )
    )
    for name in ("actor", "critic"):
        for layer in ("Dense_0", "Dense_1"):
            kernel = hidden[name][layer]["kernel"]
            np.testing.assert_array_equal(kernel, whole[name][layer]["kernel"])
            assert np.max(np.abs(kernel - plain[name][layer]["kernel"])) > 1e-5
        head = hidden[name]["Dense_2"]["kernel"]
        np.testing.assert_array_equal(head, plain[name]["Dense_2"]["kernel"])


@pytest.mark.parametrize("name", ["wide", "tall"])
def test_the_coupled_control_has_the_residual_in_its_gradient(name):
    param = make_params()[name]
    coupled = optim.parseval(
        optax.sgd(1.0), strength=0.25, scale=1.0, reference_width=None, heads=True
    )
    updates, _ = first_update(coupled, jnp.zeros_like(param), param)
    w = np.asarray(param, np.float64)
    expected = w @ (w.T @ w - np.eye(w.shape[1]))
    np.testing.assert_allclose(-updates, expected, rtol=1e-4, atol=1e-5)
    ours = _correction(param, param, param, 1.0, None, 0.0, axes=0)
    ours = ours / np.linalg.norm(ours) * np.linalg.norm(expected)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


# Properties.


@st.composite
def matrices(draw):
    # A few shapes only: each one is compiled.
    shape = draw(st.sampled_from([(1, 1), (1, 4), (3, 3), (2, 5), (5, 2)]))
    elements = st.floats(-3, 3, allow_nan=False, width=32)
    return tuple(draw(hnp.arrays(np.float64, shape, elements=elements)) for _ in range(3))


@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
@hypothesis.given(matrices(), st.floats(0, 10), st.floats(0, 0.99))
def test_bounds(arrays, kappa, tau):
    """The correction is at most kappa times Adam's direction and keeps to the budget."""
    grad, param, old_grad = arrays
    u, delta = delta_of(grad, param, old_grad, kappa, tau)
    tolerance = 1e-12 * (1 + kappa) * (1 + np.linalg.norm(u))
    assert np.linalg.norm(delta) <= kappa * np.linalg.norm(u) + tolerance
    budget = -tau * max(np.sum(grad * u), 0.0)
    assert np.sum(grad * delta) >= budget - tolerance * (1 + np.linalg.norm(grad))


@hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
@hypothesis.given(matrices(), st.floats(0, 10), st.floats(0, 0.99))
def test_transposing_commutes(arrays, kappa, tau):
    grad, param, old_grad = arrays
    # A residual that cancels to rounding error has no direction to compare.
    hypothesis.assume(np.linalg.norm(param @ param.T @ param - param) > 1e-3)
    u, delta = delta_of(grad, param, old_grad, kappa, tau)
    _, transposed = delta_of(grad.T, param.T, old_grad.T, kappa, tau)
    # Nor is the side of the budget certain where gradient and residual are at right angles.
    size = np.linalg.norm(grad) * np.linalg.norm(delta)
    hypothesis.assume(size == 0 or abs(np.sum(grad * delta)) > 1e-6 * size)
    np.testing.assert_allclose(transposed.T, delta, atol=1e-9 * (1 + kappa * np.linalg.norm(u)))


# Shapes of leaves and trees.


def test_convolution_is_the_reshaped_matrix():
    key, grad_key = jax.random.split(jax.random.key(0))
    kernel = jax.random.normal(key, (3, 3, 2, 4))
    grad = jax.random.normal(grad_key, kernel.shape)
    direction = optim.scale_by_adamo(**STRONG)
    updates, _ = first_update(direction, grad, kernel)
    matrix = kernel.reshape(18, 4)
    flat, _ = first_update(direction, grad.reshape(18, 4), matrix)
    np.testing.assert_allclose(updates.reshape(18, 4), flat, rtol=1e-6)


@pytest.mark.parametrize("ensemble_axes", [1, {"kernel": 1, "bias": 1}])
def test_ensemble_is_each_member_alone(ensemble_axes):
    members = [{"kernel": make_params(i)["wide"], "bias": make_params(i)["bias"]} for i in range(3)]
    grads = [{"kernel": make_params(i)["wide"], "bias": make_params(i)["bias"]} for i in (7, 8, 9)]
    stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731
    ensemble = optim.scale_by_adamo(**STRONG, ensemble_axes=ensemble_axes)
    single = optim.scale_by_adamo(**STRONG)
    params = stack(members)
    updates, _ = first_update(ensemble, stack(grads), params)
    alone = quick_jit(lambda g, p: single.update(g, single.init(p), p)[0])
    expected = [alone(g, p) for g, p in zip(grads, members, strict=True)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates, stack(expected))
    joint, _ = first_update(single, stack(grads), params)
    assert np.max(np.abs(joint["kernel"] - updates["kernel"])) > 1e-4


def test_flax_networks_and_a_mask_by_network():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(4, (3, 3))(x)).reshape(x.shape[0], -1)
            return nn.Dense(2)(x)

    x = jnp.ones((1, 4, 4, 2))
    params = {
        "actor": quick_jit(Network().init)(jax.random.key(0), x),
        "critic": quick_jit(Network().init)(jax.random.key(1), x),
    }
    grads = jax.tree.map(jnp.cos, params)
    reference, _ = first_update(adam(), grads, params)
    leafwise = {
        "actor": jax.tree.map(lambda _: False, params["actor"]),
        "critic": jax.tree.map(lambda _: True, params["critic"]),
    }
    for mask in ({"actor": False, "critic": True}, leafwise, lambda tree: leafwise):
        optimizer = optim.adamo(1e-3, **STRONG, matrix_mask=mask)
        updates, _ = first_update(optimizer, grads, params)
        jax.tree.map(np.testing.assert_array_equal, updates["actor"], reference["actor"])
        for layer in ("Conv_0", "Dense_0"):
            ours = updates["critic"]["params"][layer]
            theirs = reference["critic"]["params"][layer]
            np.testing.assert_array_equal(ours["bias"], theirs["bias"])
            assert np.max(np.abs(ours["kernel"] - theirs["kernel"])) > 1e-6


def test_a_mask_of_matrices_in_a_masked_tree():
    params, grads = make_params(), make_params(1)
    chosen = {"wide": True, "tall": False, "bias": True, "scale": False}
    matrices = {"wide": True, "tall": True, "bias": False, "scale": False}

    @quick_jit
    def both():
        results = []
        for mask in (None, matrices):
            inner = optim.adamo(1e-3, **STRONG, matrix_mask=mask)
            optimizer = inner if mask is None else optax.masked(inner, chosen)
            results.append(optimizer.update(grads, optimizer.init(params), params)[0])
        return results

    expected, updates = both()
    for name, is_chosen in chosen.items():
        np.testing.assert_allclose(
            updates[name], expected[name] if is_chosen else grads[name], rtol=1e-6
        )


# Numbers at the edge.


@quick_jit
def two_edge_steps(grads, params, eps_r):
    results = []
    for optimizer in (adam(), optim.adamo(1e-3, kappa=10.0, tau=0.5, eps_r=eps_r)):
        updates, state = optimizer.update(grads, optimizer.init(params), params)
        results += [updates, optimizer.update(grads, state, params)[0]]
    return results


@pytest.mark.parametrize("eps_r", [0.0, 1e-8])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e8, 1e15])
@pytest.mark.parametrize("grad", [0.0, 1e-30, 1e10, 1e19, 3e38])
def test_finite_where_adam_is(grad, scale, eps_r):
    signs = jnp.array([[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0], [1.0, 1.0, -1.0]])
    params = {"kernel": scale * jnp.eye(3), "full": scale * jnp.cos(jnp.arange(6.0).reshape(2, 3))}
    grads = {"kernel": (grad * signs).at[0, 1].set(0.5), "full": -grad * signs[:2]}
    assert_finite(two_edge_steps(grads, params, eps_r))


def test_huge_gradients_keep_the_budget():
    """The residual is diag(7980, 26970): a conflict, hidden if the products with it overflow."""
    grad = jnp.array([[3e38, 0.5], [0.5, -3e38]])
    param = jnp.diag(jnp.array([20.0, 30.0]))
    direction = optim.scale_by_adamo(kappa=1.0, tau=0.0)
    updates, _ = direction.update(grad, direction.init(param), param)
    adam_direction = with_standard_promotion(optax.scale_by_adam(eps=1e-4))
    expected, _ = adam_direction.update(grad, adam_direction.init(param))
    np.testing.assert_array_equal(updates, expected)
    assert updates[0, 1] > 0.9
    helping, _ = first_update(direction, -grad, param)
    assert helping[1, 1] > 0.9


# JAX's transformations.


def test_vmap_over_hyperparameters():
    params, grads = make_params(), make_params(1)

    def updates(rate, kappa, tau):
        optimizer = optim.adamo(rate, kappa=kappa, tau=tau)
        return optimizer.update(grads, optimizer.init(params), params)[0]

    rates, kappas, taus = jnp.array([1e-3, 1e-2]), jnp.array([0.0, 1.0]), jnp.array([0.0, 0.5])
    together = quick_jit(jax.vmap(updates))(rates, kappas, taus)
    alone = quick_jit(lambda: updates(1e-2, 1.0, 0.5))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-5), together, alone)


@quick_jit
@jax.grad
def gradient_through_update(numbers):
    optimizer = optim.adamo(0.1, **STRONG, eps_root=1e-8)
    params = {"kernel": numbers["param"] * jnp.eye(3)}
    grads = {"kernel": numbers["grad"] * jnp.eye(3)}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    return jnp.sum(optax.apply_updates(params, updates)["kernel"] ** 2)


@pytest.mark.parametrize("param", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("grad", [0.0, 1.0, -1.0])
def test_gradient_through_update_is_finite(grad, param):
    """Zero gradients, a residual of exactly zero, help and conflict."""
    assert_finite(gradient_through_update({"grad": grad, "param": param}))


def test_gradient_through_update_is_right():
    param = jnp.array([[1.5, 0.3], [-0.2, 0.6], [0.1, 0.4]])
    base = jnp.array([[0.3, -0.2], [0.5, 0.1], [-0.4, 0.7]])
    with jax.enable_x64(True):
        param, base = param.astype(jnp.float64), base.astype(jnp.float64)

        @jax.jit
        def loss(kappa, shift):
            optimizer = optim.adamo(0.1, kappa=kappa, tau=0.05)
            moved = param + shift
            updates, _ = optimizer.update(base, optimizer.init(moved), moved)
            return jnp.sum((moved + updates) ** 3)

        check_grads(loss, (jnp.float64(0.5), jnp.float64(0.0)), order=1, modes=["rev"])


def test_inject_hyperparams_follows_a_schedule_to_zero():
    params = make_params()
    factory = optax.inject_hyperparams(optim.adamo, static_args=("matrix_mask",))
    optimizer = factory(
        optax.linear_schedule(1e-2, 0.0, 2),
        kappa=optax.linear_schedule(1.0, 0.0, 2),
        matrix_mask=lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree),
    )
    optimizer = with_standard_promotion(optimizer)
    state, update = optimizer.init(params), quick_jit(optimizer.update)
    for _ in range(3):
        updates, state = update(params, state, params)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, 0.0), updates)


def test_multi_steps():
    params, grads = make_params(), make_params(1)
    optimizer = optim.adamo(1e-3, **STRONG)
    several = optax.MultiSteps(optimizer, 2)
    state = several.init(params)
    with jax.numpy_dtype_promotion("standard"):
        updates, state = several.update(grads, state, params)
        jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, 0.0), updates)
        updates, state = several.update(grads, state, params)
    expected, _ = first_update(optimizer, grads, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates, expected)


# Arguments.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", -1e-3),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("learning_rate", np.float32(-1.0)),
        ("learning_rate", "0.1"),
        ("learning_rate", None),
        ("learning_rate", True),
        ("b1", 1.0),
        ("b1", -0.1),
        ("b2", 1.5),
        ("eps", -1e-8),
        ("eps_root", -1e-8),
        ("eps_r", -1.0),
        ("kappa", -1e-4),
        ("kappa", jnp.float32(jnp.nan)),
        ("tau", 1.0),
        ("tau", -0.05),
    ],
)
def test_arguments_out_of_range(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be in .*got .*{str(value)[:4]}"):
        optim.adamo(**{"learning_rate": 1e-3, name: value})


def test_arguments_that_are_fine():
    optim.adamo(np.float32(1e-3), b1=0.0, b2=0.0, eps=0.0, kappa=0.0, tau=0.0, eps_r=0.0)
    optim.adamo(jnp.float32(1e-3), kappa=jnp.float32(1.0))
    optim.adamo(optax.constant_schedule(1e-3))
    # A tracer has no value to check.
    quick_jit(lambda rate: optim.adamo(rate, kappa=rate).init(jnp.ones((2, 2)))[0].mu)(-1.0)


def test_errors_of_update():
    params = jnp.ones((2, 2))
    optimizer = optim.adamo(1e-3)
    with pytest.raises(ValueError, match="params"):
        optimizer.update(params, optimizer.init(params))
    for axes in (-1, 0.5):
        wrong = optim.adamo(1e-3, ensemble_axes=axes)
        with pytest.raises(ValueError, match="ensemble_axes"):
            wrong.update(params, wrong.init(params), params)
    complex_params = params.astype(jnp.complex64)
    with pytest.raises(ValueError, match="params must be real"):
        optimizer.update(complex_params, optimizer.init(complex_params), complex_params)
