"""SOAP against a NumPy transcription, AdamW, rotations and the trap of its other port."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from equations import equations
from numpy_adam import awkward_gradients, initial_params
from numpy_soap import NumpySoap
from quick import quick_jit
from ranges import check_ranges
from replay import compare, replay
from trees import close

import optim
from optim._promotion import with_standard_promotion

# No axis is longer than all others together by more than one, or the first gradient would leave a
# part of the first basis to chance; but for what is too long to be rotated.
SHAPES = {
    "kernel": (4, 3),
    "square": (3, 3),
    "conv": (2, 3, 2, 3),
    "bias": (2,),
    "scale": (),
    "long": (3, 7),
    "too_long": (6, 8),
}


def gradients(steps, shapes=SHAPES, seed=0):
    """Correlated ones of one size, so that bases turn; one is zero."""
    rng = np.random.default_rng(seed)
    mixers = {
        name: rng.normal(size=(np.prod(shape, dtype=int),) * 2) for name, shape in shapes.items()
    }
    trace = []
    for i in range(steps):
        draws = {name: rng.normal(size=len(mixer)) for name, mixer in mixers.items()}
        trace.append(
            {
                name: np.float32(0 * draw if i == 7 else mixers[name] @ draw).reshape(shapes[name])
                for name, draw in draws.items()
            }
        )
    return trace


def start_of(shapes=SHAPES):
    rng = np.random.default_rng(1)
    return {name: np.asarray(rng.normal(size=shape), np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"weight_decay": 0.1}, {"decay": 0.1}),
        ({"shampoo_beta": 0.8, "precondition_1d": True}, {"beta": 0.8, "vectors": True}),
        ({"precondition_frequency": 1, "b1": 0.8}, {"every": 1, "b1": 0.8}),
    ],
)
def test_numpy_trace(ours, theirs, dtype):
    compare(
        optim.soap(0.01, max_precond_dim=5, **ours),
        NumpySoap(0.01, max_dim=5, **theirs),
        gradients(32),
        start_of(),
        dtype,
        factor=100.0 if dtype == "float64" else 10.0,
    )


def test_bases():
    """Orthogonal at every step, and new at the first and every tenth."""
    direction = optim.scale_by_soap(max_precond_dim=5)
    state = direction.init(jax.tree.map(jnp.asarray, start_of()))
    shapes = {
        name: [len(basis) for basis in jax.tree.leaves(bases)]
        for name, bases in state.bases.items()
    }
    assert shapes == {
        "kernel": [4, 3], "square": [3, 3], "conv": [2, 3, 2, 3], "bias": [], "scale": [],
        "long": [3], "too_long": [],
    }  # fmt: skip
    update, changes = quick_jit(direction.update), []
    for grads in gradients(32):
        before = state.bases
        _, state = update(jax.tree.map(jnp.asarray, grads), state)
        pairs = zip(jax.tree.leaves(before), jax.tree.leaves(state.bases), strict=True)
        changes.append({bool(np.any(np.abs(a - b) > 1e-6)) for a, b in pairs})
        for basis in jax.tree.leaves(state.bases):
            np.testing.assert_allclose(basis.T @ basis, np.eye(len(basis)), atol=1e-5)
    assert changes == [{i % 10 == 0} for i in range(32)]
    assert state.count == 32


def test_bases_turn_to_the_eigenvectors():
    """From those of another gradient, by one step of the power iteration at a time."""
    first, second = (grads["kernel"] for grads in gradients(2, {"kernel": (4, 3)}))
    direction = optim.scale_by_soap(precondition_frequency=1, shampoo_beta=0.5)
    state, update = direction.init(jnp.zeros((4, 3))), quick_jit(direction.update)
    for grads in (first, *[second] * 80):
        _, state = update(jnp.asarray(grads), state)
    for factor, basis in zip(state.factors, state.bases, strict=True):
        eigenvalues = np.linalg.eigvalsh(factor)[::-1]
        rotated = np.asarray(basis.T @ factor @ basis)
        np.testing.assert_allclose(rotated, np.diag(eigenvalues), atol=1e-4 * eigenvalues[0])


def test_the_second_moment_is_refreshed_in_every_step():
    """Whatever the frequency: here each update changes it, and its size is about the same."""
    means = {}
    for every in (1, 10):
        direction = optim.scale_by_soap(precondition_frequency=every)
        params = jnp.zeros((4, 3))
        state, update = direction.init(params), quick_jit(direction.update)
        sizes = []
        for grads in gradients(22, {"kernel": (4, 3)}):
            _, state = update(jnp.asarray(grads["kernel"]), state)
            sizes.append(float(jnp.mean(state.nu)))
        assert sizes[0] == 0
        assert len(set(sizes)) == len(sizes)
        means[every] = sizes
    np.testing.assert_allclose(means[10], means[1], rtol=1e-4)


def test_the_second_moment_goes_along_with_its_column():
    """Where the order of the directions changes, so does that of what belongs to them."""
    direction = optim.scale_by_soap(precondition_frequency=2, b2=0.5)
    sizes = np.array([[4.0, 1.0], [1.0, 4.0], [1.0, 4.0]])
    state, update = direction.init(jnp.zeros((2, 2))), quick_jit(direction.update)
    for large, small in sizes:
        _, state = update(jnp.diag(jnp.array([large, small])), state)
    # t = 2: the second direction is now the larger one, and comes first.
    np.testing.assert_allclose(np.abs(state.bases[0]), [[0, 1], [1, 0]], atol=1e-6)
    np.testing.assert_allclose(state.nu, np.diag([12.0, 0.75]), atol=1e-5)


def test_without_rotations_it_is_adamw_one_update_late():
    params, trace = initial_params(), awkward_gradients()
    ours = optim.soap(0.01, eps=1e-30, weight_decay=0.1, max_precond_dim=0)
    adam = optax.adamw(0.01, b1=0.95, b2=0.95, eps=1e-30, weight_decay=0.1)
    actual, _ = replay(ours, params, trace, "float32")
    expected, _ = replay(with_standard_promotion(adam), params, trace[1:], "float32")
    close(actual[0], params, rtol=0, atol=0)
    for after, other in zip(actual[1:], expected, strict=True):
        close(after, other, rtol=1e-5, atol=1e-6)


def test_rotated_gradients_are_answered_by_rotated_steps():
    """With bases from the first decomposition on; Adam's steps would be others."""
    rng = np.random.default_rng(3)
    left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (4, 3))
    trace = [grads["kernel"] for grads in gradients(12, {"kernel": (4, 3)})]

    @quick_jit
    def walk(trace):
        direction = optim.scale_by_soap(precondition_frequency=1)
        step = lambda state, grads: direction.update(grads, state)[::-1]  # noqa: E731
        return jax.lax.scan(step, direction.init(jnp.zeros((4, 3))), trace)[1]

    plain = walk(jnp.asarray(trace))
    rotated = walk(jnp.asarray([left @ g @ right.T for g in trace], jnp.float32))
    expected = np.stack([left @ np.float64(u) @ right.T for u in plain])
    np.testing.assert_allclose(rotated, expected, atol=2e-3)
    assert np.max(np.abs(plain)) > 0.5


def test_the_first_update_is_nothing():
    params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}
    optimizer = optim.soap(0.1, weight_decay=0.5, mask={"kernel": True, "bias": False})
    update, state = quick_jit(optimizer.update), optimizer.init(params)
    grads = jax.tree.map(jnp.zeros_like, params)
    updates, state = update(grads, state, params)
    close(updates, {"kernel": np.zeros((3, 2)), "bias": np.zeros(2)}, rtol=0, atol=0)
    updates, _ = update(grads, state, params)
    close(updates, {"kernel": np.full((3, 2), -0.05), "bias": np.zeros(2)})


def test_decompositions_wait_for_their_turn_and_for_their_time():
    """Under a vmap too they are in a branch, and of one matrix each."""
    direction = optim.scale_by_soap()
    grads = jnp.ones((5, 4, 3))

    def train(grads):
        step = lambda state, _: (direction.update(grads, state)[1], None)  # noqa: E731
        return jax.lax.scan(step, direction.init(grads), length=2)[0]

    def names(jaxpr):
        return {equation.primitive.name for equation in equations(jaxpr)}

    found = list(equations(jax.make_jaxpr(jax.vmap(train))(grads).jaxpr))
    branches = [
        names(branch.jaxpr)
        for equation in found
        if equation.primitive.name == "cond"
        for branch in equation.params["branches"]
    ]
    assert any("eigh" in branch for branch in branches)
    assert any("householder_product" in branch or "qr" in branch for branch in branches)
    in_branches = [name for branch in branches for name in branch]
    assert in_branches.count("eigh") == 1
    assert sum(equation.primitive.name == "eigh" for equation in found) == 2


def test_huge_gradients_do_not_spoil_the_bases():
    direction = optim.scale_by_soap(precondition_frequency=1)
    state, update = direction.init(jnp.zeros((4, 3))), quick_jit(direction.update)
    for i, grads in enumerate(gradients(12, {"kernel": (4, 3)})):
        grads = jnp.asarray(grads["kernel"]) * (1e30 if i in (0, 5) else 1)
        updates, state = update(grads, state)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((updates, state)))


def test_a_spec_sets_all_of_it():
    params, trace = start_of({"kernel": (4, 3)}), gradients(4, {"kernel": (4, 3)})
    options = "eps=1e-6,shampoo_beta=0.9,precondition_frequency=2,max_precond_dim=3"
    made = optim.make(f"soap:learning_rate=0.1,{options},precondition_1d=true")
    direct = optim.soap(
        0.1, eps=1e-6, shampoo_beta=0.9, precondition_frequency=2, max_precond_dim=3
    )
    ours, theirs = (replay(one, params, trace, "float32")[0] for one in (made, direct))
    close(ours[-1], theirs[-1], rtol=1e-6)


def test_errors():
    check_ranges(
        optim.soap,
        b1="[0, 1)",
        b2="[0, 1)",
        shampoo_beta="[0, 1)",
        eps="(0, inf)",
        weight_decay="[0, inf)",
    )
    for value in (0, 1.5, "10"):
        with pytest.raises(ValueError, match=r"^precondition_frequency must be an integer of at l"):
            optim.soap(0.1, precondition_frequency=value)
    for value in (-1, 1.5, True):
        with pytest.raises(ValueError, match=r"^max_precond_dim must be a static integer of at l"):
            optim.soap(0.1, max_precond_dim=value)
