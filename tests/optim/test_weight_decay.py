"""Weight decay of any optimizer by name: against NumPy, and where it must not act."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quick import quick_jit

import optim
from experiments.meta_training.architectures import LearnedOptimizer
from optim import registry
from optim.learned.meta_params import ARCHITECTURES
from optim.weight_decay import DECAY_OPTIONS, WeightDecayState

L2, DECAY, STEPS = 0.3, 0.7, 6
PARAMS = {"kernel": jnp.linspace(0.5, 1.5, 6).reshape(3, 2), "bias": jnp.array([1.0, -2.0])}
RATE = 0.1


def schedule(count):
    return RATE * (1.0 - count / STEPS)


def gradients(params, t):
    """Any that depend on the parameters and on time."""
    return jax.tree.map(lambda leaf: jnp.sin(3.0 * leaf + jnp.asarray(t, leaf.dtype)), params)


def train(optimizer, params=PARAMS, steps=STEPS):
    """The parameters after each update."""

    def step(carry, t):
        params, state = carry
        updates, state = optimizer.update(gradients(params, t), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    carry = (params, optimizer.init(params))
    return quick_jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(steps))[1])(carry)


def numpy_train(name, l2, decay, rates):
    """The same, written from the equations in float64, for one leaf."""
    theta = np.asarray(PARAMS["bias"], np.float64)
    m, v = np.zeros(2), np.zeros(2)
    after = []
    for t in range(STEPS):
        g = np.sin(3.0 * theta + t) + l2 * theta
        if name == "adam":
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            g = m / (1 - 0.9 ** (t + 1)) / (np.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8)
        theta = theta - rates[t] * g - rates[t] * decay * theta
        after.append(theta)
    return np.stack(after)


@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize(("l2", "decay"), [(L2, 0.0), (0.0, DECAY), (L2, DECAY)])
@pytest.mark.parametrize("annealed", [False, True])
def test_against_numpy(name, l2, decay, annealed):
    rates = [RATE * (1 - t / STEPS) if annealed else RATE for t in range(STEPS)]
    spec = f"{name}:l2={l2},decoupled_decay={decay}"
    ours = train(optim.make(spec, schedule if annealed else RATE))["bias"]
    np.testing.assert_allclose(ours, numpy_train(name, l2, decay, rates), rtol=2e-5)
    without = train(optim.make(name, schedule if annealed else RATE))["bias"]
    assert np.abs(ours - without).max() > 0.01


def test_a_rate_in_the_spec_is_the_one_of_the_decay():
    given = train(optim.make(f"sgd:learning_rate={RATE},decoupled_decay={DECAY}"))["bias"]
    np.testing.assert_allclose(given, numpy_train("sgd", 0.0, DECAY, [RATE] * STEPS), rtol=2e-5)


def test_it_is_adamw_of_optax():
    ours = train(optim.make(f"adam:decoupled_decay={DECAY}", schedule))
    theirs = train(optim.make(f"adamw:weight_decay={DECAY}", schedule))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, theirs)
    # Its own option stays its own.
    both = train(optim.make(f"adamw:weight_decay=0.3,decoupled_decay={DECAY - 0.3}", schedule))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), both, theirs)


@pytest.mark.parametrize("spec", ["adam", "adamo", "open@breakout", "optim4rl@small"])
def test_zero_is_none_bit_for_bit(spec):
    rate = None if "@" in spec else RATE
    without, zero = (optim.make(text, rate) for text in (spec, f"{spec}:l2=0,decoupled_decay=0.0"))
    jax.tree.map(np.testing.assert_array_equal, train(without), train(zero))
    states = [jax.tree.structure(each.init(PARAMS)) for each in (without, zero)]
    assert states[0] == states[1]


@pytest.mark.parametrize("made", [optim.make, optim.load])
def test_learned_optimizers_decay_by_the_number_itself(made):
    """Whatever learning rate they have: what is added is -decay times the parameters."""
    without, decayed = made("optim4rl@small"), made(f"optim4rl@small:decoupled_decay={DECAY}")
    grads = gradients(PARAMS, 0)

    def update(optimizer, grads):
        return quick_jit(optimizer.update)(grads, optimizer.init(PARAMS), PARAMS)[0]

    plain, updates = update(without, grads), update(decayed, grads)
    jax.tree.map(
        lambda u, v, p: np.testing.assert_allclose(u, v - DECAY * p, rtol=1e-5),
        updates,
        plain,
        PARAMS,
    )
    coupled = made(f"optim4rl@small:l2={L2}")
    expected = update(without, jax.tree.map(lambda g, p: g + L2 * p, grads, PARAMS))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), update(coupled, grads), expected
    )


def test_a_path_alone_takes_the_options_in_python(tmp_path):
    path = tmp_path / "mine.safetensors"
    architecture = ARCHITECTURES["open"]()
    metadata = {"architecture": architecture, "training_tasks": "", "options": {"l2": L2}}
    optim.save_meta_params(path, architecture.init(jax.random.key(0)), metadata)
    trained_with = optim.load(str(path))  # as they were trained
    assert isinstance(trained_with.init(PARAMS), WeightDecayState)
    assert not isinstance(optim.load(str(path), l2=0.0).init(PARAMS), WeightDecayState)
    jax.tree.map(
        np.testing.assert_array_equal, train(trained_with), train(optim.load(f"open@{path}", l2=L2))
    )


def test_a_meta_gradient_flows_through():
    learned = LearnedOptimizer.parse(f"linear_optim:l2={L2},decoupled_decay={DECAY}")
    meta_params = learned.init(jax.random.key(0))
    assert isinstance(learned.transform(meta_params).init(PARAMS), WeightDecayState)

    def meta_loss(meta_params):
        optimizer = learned.transform(meta_params)
        updates, _ = optimizer.update(gradients(PARAMS, 0), optimizer.init(PARAMS), PARAMS)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(updates))

    grads = quick_jit(jax.grad(meta_loss))(meta_params)
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(grads))


def test_no_optimizer_has_an_option_of_these_names():
    for name in optim.optimizer_names():
        assert not DECAY_OPTIONS.keys() & inspect.signature(registry._factory(name)).parameters
    for architecture in ARCHITECTURES.values():
        own = inspect.signature(architecture.transform).parameters
        fields = {field.name for field in dataclasses.fields(architecture)}
        assert not DECAY_OPTIONS.keys() & (own.keys() | fields)


@pytest.mark.parametrize("spec", ["adam", "open@breakout", "adamw"])
@pytest.mark.parametrize("option", ["l2", "decoupled_decay"])
@pytest.mark.parametrize("value", ["-1", "-1e-9", "nan", "inf", "true", "none", "much"])
def test_values_out_of_range(spec, option, value):
    rate = None if "@" in spec else RATE
    with pytest.raises(ValueError, match=rf"^{option} must be in \[0, inf\), got .*\.$"):
        optim.make(f"{spec}:{option}={value}", rate)


def test_values_out_of_range_in_python():
    for options in ({"l2": -1.0}, {"decoupled_decay": float("nan")}):
        with pytest.raises(ValueError, match=r"must be in \[0, inf\)"):
            optim.load("open@breakout", **options)
        with pytest.raises(ValueError, match=r"must be in \[0, inf\)"):
            optim.with_weight_decay(optax.sgd(1.0), **options)


# Whose updates are not zero without gradients, or not a number.
RESTLESS = {"ada_upgd", "dadapt_adamw", "fromage", "mars", "noisy_sgd", "prodigy", "soap", "upgd"}
# Those with a pull of their own, without it.
RESTING = {"l2_init": ",strength=0", "spectral_regularization": ",strength=0"}
QUICK = {"adam", "adamo", "adam_reset", "adamw", "rmsprop", "sgd", "swats", *registry._OWN_COPIES}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in sorted({*optim.optimizer_names()} - RESTLESS)
    ],
)
def test_no_optimizer_undoes_a_decoupled_decay(name):
    """Without gradients, all that is left is the decay; those that would undo it are refused."""
    spec = f"{name}:decoupled_decay={DECAY}{RESTING.get(name, '')}"
    if name in registry._OWN_COPIES:
        with pytest.raises(ValueError, match=f"decoupled_decay must be 0 for '{name}'"):
            optim.make(spec, RATE)
        assert optim.make(f"{name}:decoupled_decay=0,l2=1", RATE)
        return
    optimizer = optim.make(spec, RATE)

    def loss(params):
        return 1.0 + 0.0 * sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params))

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(
            grads, state, params, value=value, grad=grads, value_fn=loss, obj_fn=loss
        )
        return (optax.apply_updates(params, updates), state), None

    start = {"kernel": jnp.eye(2), "bias": jnp.array([1.0, -2.0])}  # adamo leaves this alone
    run = quick_jit(lambda carry: jax.lax.scan(step, carry, length=3)[0])
    params, _ = run((start, optimizer.init(start)))
    expected = start["bias"] * (1 - RATE * DECAY) ** 3
    np.testing.assert_allclose(params["bias"], expected, rtol=1e-3)


def test_vmapped_seeds_and_rates():
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2.0 * leaf]), PARAMS)
    rates = jnp.array([RATE, 0.5 * RATE])

    def run(rate, params):
        return train(optim.make(f"adam:l2={L2},decoupled_decay={DECAY}", rate), params)

    together = jax.vmap(run)(rates, stacked)
    for i in range(2):
        alone = run(rates[i], jax.tree.map(lambda leaf, i=i: leaf[i], stacked))
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5), together, alone
        )


def test_only_trained_leaves_decay():
    optimizer = optim.make(f"sgd:l2={L2},decoupled_decay={DECAY}", RATE)
    params = {"w": jnp.ones(2), "calls": jnp.int32(3), "frozen": jnp.ones(2), "activation": None}
    state = optimizer.init(params)
    params["activation"] = jax.nn.relu
    grads = {"w": jnp.ones(2), "calls": jnp.int32(0), "frozen": None, "activation": None}
    updates, _ = optimizer.update(grads, optimizer.init({**params, "activation": None}), params)
    np.testing.assert_allclose(updates["w"], -RATE * (1 + L2 + DECAY), rtol=1e-6)
    assert updates["calls"] == 0
    assert updates["frozen"] is None
    assert updates["activation"] is None
    assert state.count == 0


def test_masked_leaves_do_not_decay():
    optimizer = optim.make(f"adam:l2={L2},decoupled_decay={DECAY}", RATE)
    masked = optax.masked(optimizer, {"kernel": True, "bias": False})
    grads = gradients(PARAMS, 0)
    updates, _ = masked.update(grads, masked.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(updates["bias"], grads["bias"])
    alone, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["kernel"], alone["kernel"], rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_dtypes_stay(dtype):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)
    optimizer = optim.make(f"sgd:l2={L2},decoupled_decay={DECAY}", RATE)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    wide = optim.make(f"sgd:l2={L2},decoupled_decay={DECAY}", jnp.float32(RATE))
    with_tracer, _ = wide.update(params, wide.init(params), params)
    sgd = optim.make("sgd", jnp.float32(RATE))
    plain, _ = sgd.update(params, sgd.init(params), params)
    assert with_tracer["bias"].dtype == plain["bias"].dtype
    expected = -RATE * (1 + L2 + DECAY) * np.asarray(params["bias"], np.float32)
    np.testing.assert_allclose(updates["bias"].astype(np.float32), expected, rtol=0.02)


def loss(params):
    return 0.5 * jnp.sum(jnp.square(params["kernel"])) + jnp.sum(params["bias"])


def penalised(params):
    return loss(params) + 0.5 * L2 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", ["lbfgs", "adahessian", "mars:exact=true", "aegd"])
def test_all_that_is_said_of_the_loss_has_the_penalty(name):
    """Line searches, second derivatives and energies see the loss that is descended."""
    colon = "," if ":" in name else ":"

    def run(spec, loss):
        optimizer = optim.make(spec, RATE)

        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(
                grads, state, params, value=value, grad=grads, value_fn=loss, obj_fn=loss
            )
            return (optax.apply_updates(params, updates), state), params

        carry = (PARAMS, optimizer.init(PARAMS))
        return quick_jit(lambda carry: jax.lax.scan(step, carry, length=4)[1])(carry)

    by_option, by_loss = run(f"{name}{colon}l2={L2}", loss), run(name, penalised)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), by_option, by_loss
    )


def test_what_cannot_have_the_penalty_is_refused():
    optimizer = optim.make("adahessian:l2=1", RATE)
    with pytest.raises(ValueError, match="hvp must be left out where l2 is set"):
        optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS, hvp=PARAMS)
    with pytest.raises(ValueError, match="params must be the current parameters in weight decay"):
        optimizer.update(PARAMS, optimizer.init(PARAMS))


def test_the_parameters_to_use_are_found_within():
    optimizer = optim.make("schedule_free_sgd:l2=0.1", RATE)
    state = optimizer.init(PARAMS)
    params, update = PARAMS, quick_jit(optimizer.update)
    for _ in range(2):
        updates, state = update(PARAMS, state, params)
        params = optax.apply_updates(params, updates)
    assert not np.allclose(optim.evaluation_params(state, params)["bias"], params["bias"])
