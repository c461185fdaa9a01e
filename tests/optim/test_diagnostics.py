"""The stability tests against reference numbers, simulations and limit cases."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optim
from optim import diagnostics
from optim._promotion import with_standard_promotion

HERE = pathlib.Path(__file__).parent
PROBLEMS = ("linear_stable", "linear_unstable", "linear_polyak_disagree")


def golden_folder():
    if "RL_OPTIM_REFERENCE" in os.environ:
        return pathlib.Path(os.environ["RL_OPTIM_REFERENCE"]) / "golden"
    for parent in HERE.parents:
        if (parent / "shared" / "reference" / "golden").is_dir():
            return parent / "shared" / "reference" / "golden"
    return None


def golden(name):
    folder = golden_folder()
    if folder is None:
        pytest.skip("the reference numbers are not beside this repository")
    return np.load(folder / "offline" / f"{name}.npz")


def random_problem(seed=0, rows=5, columns=9, reach=2.0):
    draw = np.random.default_rng(seed)
    Z, Z_next = draw.normal(size=(2, rows, columns))
    return Z, reach * Z_next, np.exp(draw.normal(size=columns))


def simulated(Z, Z_next, D, discount, learning_rate, b1, polyak, period, factor, steps=4000):
    """The growth factor a step of momentum, parameters and target, each of size P, by simulation.

    Written from the equations of Adam with a frozen denominator; nothing is reduced or cut. What
    is followed is the TD error, averaged over the last half so that oscillations even out.
    """
    draw = np.random.default_rng(1)
    params, target = draw.normal(size=(2, Z.shape[1]))
    momentum = np.zeros_like(params)
    logs, scale = [], 0.0
    for step in range(steps):
        error = Z @ params - discount * (Z_next @ target)
        momentum = b1 * momentum + (1 - b1) * factor * (Z.T @ error)
        params = params - learning_rate * D * momentum
        if (step + 1) % period == 0:
            target = (1 - polyak) * target + polyak * params
        size = np.linalg.norm(error)
        logs.append(scale + np.log(size))
        scale += np.log(size)
        params, target, momentum = params / size, target / size, momentum / size
    half = np.asarray(logs[steps // 2 :])
    return np.exp(np.polyfit(np.arange(len(half)), half, 1)[0])


# --- against the reference ----------------------------------------------------------------------


@pytest.mark.parametrize("name", PROBLEMS)
def test_reference_matrices_and_radii(name):
    data = golden(name)
    polyak, discount, learning_rate, b1, eps, factor = data["hyper"]
    np.testing.assert_allclose(1 / (np.sqrt(data["vhat"]) + eps), data["D"], rtol=1e-12)
    found = diagnostics.stability(
        data["Z"],
        data["Zn"],
        data["D"],
        discount=discount,
        learning_rate=learning_rate,
        b1=b1,
        polyak=polyak,
        loss_factor=factor,
    )
    for ours, theirs in (
        (found.kernel, "K"),
        (found.next_kernel, "Kn"),
        (found.matrix, "S1"),
        (found.published_matrix, "Sa"),
        (np.sort_complex(found.eigenvalues), "eig_S1"),
        (np.sort_complex(found.published_eigenvalues), "eig_Sa"),
    ):
        expected = data[theirs] if not theirs.startswith("eig") else np.sort_complex(data[theirs])
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)
    assert found.radius == pytest.approx(data["rho_S1"], abs=1e-9)
    assert found.published_radius == pytest.approx(data["rho_Sa"], abs=1e-9)
    assert found.exact_radius == pytest.approx(data["rho_exact"], abs=1e-9)
    assert found.exact_radius - 1 == pytest.approx(data["growth_simulated"] - 1, rel=0.05)
    assert found.rank == 12
    assert found.operator.shape == (36, 36)


@pytest.mark.parametrize("name", PROBLEMS)
def test_reference_jacobians_of_a_network(name):
    data = golden(name)

    def critic(params, inputs):
        hidden = jnp.tanh(inputs @ params["w0"] + params["b0"][None])
        return (hidden @ params["w1"] + params["b1"][None])[:, 0]

    def order(params):  # the reference's columns: w0, b0, w1, b1
        sizes = {key: params[key].size for key in ("b0", "b1", "w0", "w1")}
        ends = np.cumsum(list(sizes.values()))
        place = {
            key: np.arange(end - size, end)
            for (key, size), end in zip(sizes.items(), ends, strict=True)
        }
        return np.concatenate([place[key] for key in ("w0", "b0", "w1", "b1")])

    for network, inputs, expected in (("online", "X", "Z"), ("target", "Xn", "Zn")):
        params = {key: data[f"{network}/{key}"] for key in ("w0", "b0", "w1", "b1")}
        rows = diagnostics.jacobian(lambda p, x=data[inputs]: critic(p, x), params)
        assert rows.dtype == np.float64
        np.testing.assert_allclose(rows[:, order(params)], data[expected], rtol=1e-10, atol=1e-12)


# --- against simulation -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("polyak", "period", "b1"), [(1.0, 1, 0.9), (0.05, 1, 0.9), (0.05, 2, 0.9), (0.3, 3, 0.0)]
)
@pytest.mark.parametrize("reach", [0.3, 2.0])
def test_exact_radius_is_the_simulated_growth(polyak, period, b1, reach):
    Z, Z_next, D = random_problem(reach=reach)
    numbers = {"discount": 0.95, "learning_rate": 3e-3, "b1": b1, "polyak": polyak}
    found = diagnostics.stability(
        Z, Z_next, D, **numbers, polyak_period=period, loss_factor=0.7
    ).exact_radius
    seen = simulated(Z, Z_next, D, *numbers.values(), period, 0.7)
    assert np.log(found) == pytest.approx(np.log(seen), rel=0.05, abs=2e-4)
    assert (found > 1) == (reach > 1)


def test_without_a_target_network_all_tests_agree():
    found = diagnostics.stability(*random_problem(), discount=0.9, learning_rate=1e-2)
    assert found.radius == found.published_radius == pytest.approx(found.exact_radius, abs=1e-12)
    assert found.radius == pytest.approx(found.growth.max())
    np.testing.assert_array_equal(found.matrix, found.published_matrix)
    assert found.hurwitz_margin == found.published_hurwitz_margin


def test_averaging_slows_a_real_mode_and_does_not_stabilise_it():
    """The gain of the target for a real mode of growth r is a r / (r - 1 + a)."""
    number = {"discount": 0.99, "learning_rate": 1e-2, "b1": 0.0, "loss_factor": 1.0}
    radii = []
    for polyak in (1.0, 0.1, 0.01):
        found = diagnostics.stability([[1.0]], [[1.2]], [1.0], polyak=polyak, **number)
        r = found.exact_radius
        gain = polyak * r / (r - 1 + polyak)
        assert r == pytest.approx(1 + 1e-2 * (0.99 * 1.2 * gain - 1), abs=1e-12)
        radii.append(r)
    assert radii[0] > radii[1] > radii[2] > 1.0
    assert found.published_radius < 1.0


def test_hurwitz_is_not_enough():
    found = diagnostics.stability([[1.0]], [[0.0]], [1.0], discount=0.9, learning_rate=39.0 / 2)
    assert found.hurwitz_margin < 0
    assert found.step_margin > 1.0
    assert found.exact_radius > 1.0
    calmer = diagnostics.stability([[1.0]], [[0.0]], [1.0], discount=0.9, learning_rate=37.0 / 2)
    assert calmer.step_margin < 1.0
    assert calmer.exact_radius < 1.0


def near_orthonormal(seed, spread):
    """Rows that are orthonormal under D up to noise, for a loss's factor of 1."""
    rng = np.random.default_rng(seed)
    rows, parameters = rng.integers(1, 6), 12
    basis = np.linalg.qr(rng.normal(size=(parameters, rows)))[0].T
    D = np.exp(rng.normal(size=parameters))
    Z = (basis + spread * rng.normal(size=basis.shape)) / np.sqrt(D)
    Z_next = rng.normal(size=basis.shape) * rng.uniform(0.1, 1.5) / np.sqrt(parameters * D)
    return Z, Z_next, D


def test_a_bound_below_one_implies_hurwitz():
    """Proposition 5.1, on problems of which it can tell some and not others."""
    found = [
        diagnostics.stability(
            *near_orthonormal(seed, 0.05), discount=0.9, learning_rate=1e-3, loss_factor=1.0
        )
        for seed in range(300)
    ]
    sure = [test for test in found if test.gram_bound < 1]
    assert 50 < len(sure) < 250
    assert all(test.hurwitz_margin < 0 for test in sure)
    assert all(test.radius < 1 for test in sure if test.step_margin < 1)
    # And in the symmetric part, which is what the proposition's proof shows.
    for test in sure:
        assert np.linalg.eigvalsh(test.matrix + test.matrix.T).max() < 0


def test_the_bound_is_the_propositions():
    Z, Z_next, D = random_problem()
    found = diagnostics.stability(
        Z, Z_next, D, discount=0.9, learning_rate=1e-3, loss_factor=0.4
    ).gram_bound
    features, following = (np.sqrt(0.4 * D)[:, None] * x.T for x in (Z, Z_next))
    norms = np.linalg.norm(features, 2) * np.linalg.norm(following, 2)
    deviation = np.linalg.norm(features.T @ features - np.eye(len(Z)), 2)
    assert found == pytest.approx(0.9 * norms + deviation, rel=1e-10)


@pytest.mark.parametrize("seed", range(20))
def test_without_bootstrapping_everything_is_stable(seed):
    rng = np.random.default_rng(seed)
    Z, Z_next, D = random_problem(reach=rng.uniform(0.1, 30.0))
    test = diagnostics.stability(Z, Z_next, D, discount=0.0, learning_rate=1e-4)
    assert test.step_margin < 1
    assert test.hurwitz_margin < 0
    assert max(test.radius, test.published_radius, test.exact_radius) < 1


def test_orthogonality_of_each_kernel():
    rng = np.random.default_rng(0)
    wide = np.linalg.qr(rng.normal(size=(5, 3)))[0].T
    params = {
        "Conv_0": {"kernel": np.ones((1, 2, 1, 2), np.float32)},
        "Dense_0": {"bias": np.ones(5), "kernel": wide},
        "Dense_1": {"kernel": 2 * wide.T},
    }
    found = diagnostics.orthogonality(params)
    assert list(found) == ["Conv_0/kernel", "Dense_0/kernel", "Dense_1/kernel"]
    # W^T W - I = [[1, 2], [2, 1]] for a matrix of ones.
    np.testing.assert_allclose(list(found.values()), [2.5, 0, 27 / 4], atol=1e-12)


# --- numerical care -----------------------------------------------------------------------------


def test_directions_out_of_reach_are_dropped():
    """Repeated rows have errors that no parameter moves: a radius of 1 that means nothing."""
    Z, Z_next, D = random_problem(reach=0.3)
    number = {"discount": 0.9, "learning_rate": 1e-2, "polyak": 0.1}
    alone = diagnostics.stability(Z, Z_next, D, loss_factor=0.4, **number)
    twice = diagnostics.stability(
        np.repeat(Z, 2, 0), np.repeat(Z_next, 2, 0), D, loss_factor=0.2, **number
    )
    assert (alone.rank, twice.rank) == (5, 5)
    assert twice.kernel.shape == (10, 10)
    assert alone.exact_radius < 1.0
    for name in ("radius", "published_radius", "exact_radius", "hurwitz_margin", "step_margin"):
        assert getattr(twice, name) == pytest.approx(getattr(alone, name), abs=1e-10)


def test_default_loss_factor_is_that_of_a_mean_of_squares():
    Z, Z_next, D = random_problem()
    found = diagnostics.stability(Z, Z_next, D, discount=0.9, learning_rate=1e-3)
    np.testing.assert_allclose(found.kernel, 2 / 5 * (Z * D) @ Z.T, rtol=1e-12)
    np.testing.assert_allclose(found.next_kernel, 2 / 5 * (Z_next * D) @ Z.T, rtol=1e-12)


def test_a_live_critic_predicts_its_own_next_error():
    """With Adam's moments settled, one step of the operator is one step of training."""
    draw = np.random.default_rng(3)
    features, following = draw.normal(size=(2, 4, 6))
    reward = draw.normal(size=4)
    adam = with_standard_promotion(optax.chain(optax.clip_by_global_norm(1e9), optax.adam(1e-7)))

    def step(carry, _):
        params, state = carry
        error = features @ params["w"] - reward - 0.9 * (following @ params["w"])
        updates, state = adam.update({"w": 2 / 4 * (error @ features)}, state, params)
        return (optax.apply_updates(params, updates), state), error

    with jax.enable_x64(True):
        params = {"w": jnp.asarray(draw.normal(size=6))}
        run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=200))
        (params, state), errors = run((params, adam.init(params)))
        after = np.asarray(features @ params["w"] - reward - 0.9 * (following @ params["w"]))
    D = diagnostics.adam_preconditioner(state, eps=1e-8)
    Z = diagnostics.jacobian(lambda p: features @ p["w"], params)
    Z_next = diagnostics.jacobian(lambda p: following @ p["w"], params)
    found = diagnostics.stability(Z, Z_next, D, discount=0.9, learning_rate=1e-7)
    b1, e, before = 0.9, np.asarray(errors[-1]), np.asarray(errors[-2])
    expected = (1 + b1) * e + 1e-7 * (1 - b1) * found.matrix @ e - b1 * before
    np.testing.assert_allclose(after - e, expected - e, rtol=2e-3)


def test_jacobian_is_in_float64_whatever_the_setting():
    params = {"w": jnp.ones(3, jnp.float32)}
    with jax.enable_x64(False):
        rows = diagnostics.jacobian(lambda p: jnp.exp(p["w"] / 3), params)
    np.testing.assert_allclose(np.diag(rows), np.exp(1 / 3) / 3, rtol=1e-15)


def test_preconditioner_reads_adamo_and_corrects_the_bias():
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones(3)}
    optimizer = optim.adamo(1e-3, b2=0.99, eps=1e-3, kappa=1.0)
    state = optimizer.init(params)
    np.testing.assert_allclose(diagnostics.adam_preconditioner(state, 0.99, 1e-3), 1e3)
    grads = {"a": jnp.arange(1.0, 5.0).reshape(2, 2), "b": jnp.arange(5.0, 8.0)}
    _, state = jax.jit(optimizer.update)(grads, state, params)
    expected = 1 / (np.arange(1.0, 8.0) + 1e-3)
    np.testing.assert_allclose(
        diagnostics.adam_preconditioner(state, 0.99, 1e-3), expected, rtol=1e-5
    )


# --- verdicts and errors ------------------------------------------------------------------------


def test_verdict_has_a_grey_zone():
    assert diagnostics.verdict(1.001, 2999) == "undecided"
    assert diagnostics.verdict(1.001, 3010) == "unstable"
    assert diagnostics.verdict(0.999, 3010) == "stable"
    assert diagnostics.verdict(0.0, 1) == "stable"
    found = diagnostics.stability(
        [[1.0]], [[1.5]], [1.0], discount=1, learning_rate=1e-2, polyak=0.1
    )
    assert found.verdict(1e5) == found.verdict(1e5, "radius") == "unstable"
    assert found.verdict(1e5, "published_radius") == "stable"
    with pytest.raises(ValueError, match=r"test must be one of .*got 'rho'"):
        found.verdict(10, "rho")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"jacobian": np.ones(3)}, "jacobian must have shape"),
        ({"jacobian": np.zeros((2, 3))}, "jacobian must not be 0"),
        ({"next_jacobian": np.ones((3, 2))}, "next_jacobian must have the jacobian's shape"),
        ({"next_jacobian": np.full((2, 3), np.nan)}, "next_jacobian must be finite"),
        ({"preconditioner": np.ones(2)}, "preconditioner must have shape"),
        ({"preconditioner": np.zeros(3)}, "preconditioner must be positive"),
        ({"discount": -0.1}, "discount must be in"),
        ({"learning_rate": 0.0}, "learning_rate must be in"),
        ({"b1": 1.0}, "b1 must be in"),
        ({"polyak": 0.0}, "polyak must be in"),
        ({"polyak": 1.1}, "polyak must be in"),
        ({"polyak_period": 1.5}, "polyak_period must be a whole number"),
        ({"loss_factor": 0.0}, "loss_factor must be in"),
        ({"rank_tolerance": 2.0}, "rank_tolerance must be in"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {
        "jacobian": np.ones((2, 3)),
        "next_jacobian": np.ones((2, 3)),
        "preconditioner": np.ones(3),
        "discount": 0.9,
        "learning_rate": 1e-3,
    } | change
    with pytest.raises(ValueError, match=message):
        diagnostics.stability(**arguments)


def test_bad_critics_and_states_are_named():
    with pytest.raises(ValueError, match=r"function must return values of shape \(M,\)"):
        diagnostics.jacobian(lambda p: p[None], jnp.ones(2))
    with pytest.raises(ValueError, match="finite derivatives"):
        diagnostics.jacobian(jnp.sqrt, jnp.zeros(2))
    with pytest.raises(ValueError, match=r"optimizer_state must hold one .* got 0"):
        diagnostics.adam_preconditioner(optax.sgd(0.1).init(jnp.ones(2)))
    with pytest.raises(ValueError, match="eps must be positive"):
        diagnostics.adam_preconditioner(optax.adam(0.1).init(jnp.ones(2)), eps=0.0)
