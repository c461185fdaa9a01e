import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from equations import equations
from quick import quick_jit

import optim
from optim import registry
from optim._checks import near, nearest, suggestion

NAMES = optim.optimizer_names()

# optax deprecates some of what it offers.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def make_params(key):
    """Networks as a learner of continuous control has them."""
    keys = iter(jax.random.split(key, 4))

    def network(sizes):
        return {
            f"Dense_{i}": {
                "kernel": jax.random.normal(next(keys), (rows, columns)),
                "bias": jnp.zeros(columns),
            }
            for i, (rows, columns) in enumerate(itertools.pairwise(sizes))
        }

    return {
        "actor": {"params": network((3, 5, 2)) | {"log_std": jnp.zeros(2)}},
        "critic": {"params": network((3, 5, 1))},
    }


def train(name, learning_rate, params, steps=3):
    """A loop that passes all the extra arguments a learner has."""
    optimizer = optim.make(name, learning_rate)
    activations = jax.tree.map(lambda leaf: jnp.ones(leaf.shape[-1]), params)

    def loss(params):
        return sum(jnp.sum((leaf - 0.1) ** 2) for leaf in jax.tree.leaves(params))

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(
            grads,
            state,
            params,
            value=value,
            activations=activations,
            training_progress=jnp.float32(0.5),
            batch_progress=jnp.float32(0.5),
            reset=jnp.zeros((), bool),
            grad=grads,
            value_fn=loss,
            obj_fn=loss,
        )
        return (optax.apply_updates(params, updates), state), value

    (params, _), values = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
    return params, values


# Of ours and of optax's, those that are most used or have a way of their own.
QUICK = (
    "adam",
    "adam_rel",
    "adamo",
    "adamw",
    "aegd",
    "lbfgs",
    "lion",
    "mars",
    "muon",
    "noisy_sgd",
    "optimistic_adam",
    "rmsprop",
    "rprop",
    "schedule_free_sgd",
    "sgd",
    "sm3",
    "sophia",
    "trac",
)


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_every_optimizer_trains(name):
    """With a float; and with a tracer, vmapped over seeds, which gives the same."""
    stacked = jax.vmap(make_params)(jax.random.split(jax.random.key(0), 2))
    first = jax.tree.map(lambda leaf: leaf[0], stacked)

    @quick_jit
    def both(rate, stacked, first):
        traced = jax.vmap(lambda params: train(name, rate, params))(stacked)
        return traced, train(name, 0.01, first)

    (stacked_after, values), (after, _) = both(0.01, stacked, first)
    for leaf in jax.tree.leaves(stacked_after):
        assert np.all(np.isfinite(leaf))
    # Those that estimate their own step size start with one too small to show in the loss.
    assert np.all(values[:, -1] <= values[:, 0])
    moved = jax.tree.map(lambda a, b: np.any(a != b), stacked_after, stacked)
    assert any(jax.tree.leaves(moved))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[0], b, rtol=2e-3, atol=2e-4), stacked_after, after
    )


@pytest.mark.parametrize("name", NAMES)
def test_schedules(name):
    params = make_params(jax.random.key(0))
    schedule = optax.linear_schedule(0.01, 0.0, 5)
    if optim.accepts_schedule(name):
        jax.eval_shape(lambda params: train(name, schedule, params), params)
        return
    with pytest.raises(ValueError, match="learning_rate must be a number"):
        optim.make(name, schedule)
    with pytest.raises((TypeError, ValueError)):
        getattr(optax, name)(schedule).init(params)


@pytest.mark.parametrize("name", NAMES)
def test_descriptions_are_one_line(name):
    line = optim.describe(name)
    assert line
    assert line.endswith(".")
    assert "\n" not in line
    assert len(line) < 90


def test_names():
    assert sorted(set(NAMES)) == NAMES
    assert {"adam", "adamo", "adamw", "lion", "muon", "rmsprop", "sgd"} <= set(NAMES)
    assert len(NAMES) >= 40
    assert not any(name.startswith("scale_by_") for name in NAMES)
    # A name in both modules means optax's.
    assert registry._factory("adam") is optax.adam


def test_groups():
    groups: dict = {}
    for name in [*NAMES, *optim.learned_names()]:
        details = optim.details(name)
        groups.setdefault(details and details.group, []).append(name)
    assert set(groups) == {"rl", "general", "matrix", "learned", None}
    assert groups["learned"] == optim.learned_names()
    assert groups["rl"] == [
        "ada_upgd",
        "adam_gnt",
        "adam_rel",
        "adam_reset",
        "adamo",
        "cbp",
        "fire",
        "l2_init",
        "normalize_project",
        "parseval",
        "redo",
        "regrama",
        "shrink_perturb",
        "spectral_regularization",
        "trac",
        "upgd",
        "weight_clipping",
    ]
    assert groups["matrix"] == ["kron", "soap", "subset_norm", "subspace_momentum"]
    assert {"adabound", "mars"} <= set(groups["general"])
    assert {"adam", "muon"} <= set(groups[None])


def test_exclusions_are_real_and_say_why():
    for name, reason in registry._EXCLUDED.items():
        assert hasattr(optax, name) or hasattr(optax.contrib, name)
        assert name not in NAMES
        with pytest.raises(ValueError, match=f"{name}.*{reason}"):
            optim.make(name, 1e-3)


def test_special_cases_exist():
    assert set(QUICK) <= set(NAMES)
    assert registry._WITHOUT_SCHEDULE.issubset(NAMES)
    assert set(registry._DEFAULTS).issubset(NAMES)


def test_made_is_the_factorys():
    params = make_params(jax.random.key(0))
    grads = make_params(jax.random.key(1))
    made = optim.make("adamw:b1=0.8,weight_decay=0.1,mask=none,nesterov=true", 1e-3)
    updates, _ = quick_jit(made.update)(grads, made.init(params), params)
    with jax.numpy_dtype_promotion("standard"):
        direct = optax.adamw(1e-3, b1=0.8, weight_decay=0.1, nesterov=True)
        expected, _ = quick_jit(direct.update)(grads, direct.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, updates, expected)


def test_around_a_base():
    """Options that are not the wrapper's are the base's; so are learning rate and weight decay."""
    params = make_params(jax.random.key(0))
    grads = make_params(jax.random.key(1))
    text = "weight_clipping:kappa=0.5,base=adamw,b1=0.8,weight_decay=0.1,heads=false"
    rates = {"": 0.1, ",learning_rate=0.1": None, ",l2=0.3,decoupled_decay=0.2": 0.1}
    for more, rate in rates.items():
        base = "adamw:b1=0.8,weight_decay=0.1" + more
        expected = optim.weight_clipping(optim.make(base, rate), 0.5, heads=False)
        updates = [
            quick_jit(one.update)(grads, one.init(params), params)[0]
            for one in (optim.make(text + more, rate), expected)
        ]
        jax.tree.map(np.testing.assert_array_equal, *updates)
    assert optim.base_name(text) == "adamw"
    names = optim.option_names("weight_clipping:base=adamw")
    assert {"base", "kappa", "learning_rate", "b1", "weight_decay", "l2"} <= set(names)
    assert "inner" not in names
    assert "weight_decay" not in optim.option_names("weight_clipping")
    assert optim.accepts_schedule("weight_clipping")
    assert not optim.accepts_schedule(optim.OptimizerSpec.parse("weight_clipping:base=rprop"))


@pytest.mark.parametrize("annealed", [False, True])
def test_muons_adam_has_a_learning_rate_of_its_own(annealed):
    """What is no matrix takes Adam's steps with it; annealed, both fall alike."""
    params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2), "conv": jnp.ones((2, 2, 1, 3))}
    trace = [jax.tree.map(lambda leaf, i=i: jnp.cos(leaf * (i + 1)), params) for i in range(3)]
    schedule = lambda start: optax.linear_schedule(start, 0.0, 4) if annealed else start  # noqa: E731
    made = optim.make("muon:adam_learning_rate=0.003", schedule(0.02))
    adam, muon = (
        optim.make("adam:nesterov=true", schedule(0.003)),
        optim.make("muon", schedule(0.02)),
    )

    @quick_jit
    def updates():
        found = []
        for optimizer in (made, adam, muon):
            state, steps = optimizer.init(params), []
            for grads in trace:
                step, state = optimizer.update(grads, state, params)
                steps.append(step)
            found.append(steps)
        return found

    for ours, of_adam, of_muon in zip(*updates(), strict=True):
        np.testing.assert_allclose(ours["kernel"], of_muon["kernel"], rtol=1e-5)
        for name in ("bias", "conv"):
            np.testing.assert_allclose(ours[name], of_adam[name], rtol=1e-5)
            assert np.all(np.abs(of_muon[name]) > 2 * np.abs(ours[name]))


def test_muons_adam_falls_with_traced_rates():
    """As seeds and rates are trained side by side."""

    def last(rate):
        schedule = lambda count: rate * (1 - count / 4)  # noqa: E731
        optimizer = optim.make("muon:adam_learning_rate=0.003,nesterov=false", schedule)
        params = jnp.ones(2)
        state = optimizer.init(params)
        for _ in range(3):
            updates, state = optimizer.update(params, state, params)
        return updates

    updates = quick_jit(jax.vmap(last))(jnp.array([0.1, 0.02]))
    np.testing.assert_allclose(updates, -0.0015, rtol=1e-3)
    rising = optax.linear_schedule(0.0, 0.1, 5)
    assert optim.make("muon", rising)
    with pytest.raises(ValueError, match=r"^learning_rate must begin above 0 .* begins at 0\.$"):
        optim.make("muon:adam_learning_rate=0.003", rising)


def test_the_specs_learning_rate_comes_first():
    params = jnp.ones(2)
    for spec in ("sgd:learning_rate=0.5", optim.OptimizerSpec.parse("sgd:learning_rate=0.5")):
        for given in (1e-3, None, optax.constant_schedule(1e-3)):
            optimizer = optim.make(spec, given)
            updates, _ = optimizer.update(params, optimizer.init(params), params)
            np.testing.assert_allclose(updates, -0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adm", "unknown optimizer 'adm'; the nearest is 'adam'"),
        ("ADAM", "the nearest is 'adam'"),
        ("open", "'open' is learned and needs weights: open@WEIGHTS, with a file or one of: "),
        ("star:learning_rate=0.1", "'star' is learned and needs weights: star@WEIGHTS"),
        ("opne@x", "unknown optimizer 'opne'; the nearest is 'open'"),
        ("open@x:subtract_means=false", "no option 'subtract_means'; the nearest is 'subtract_m"),
        ("open@x:subtract_mean=1", "subtract_mean must be true or false, got 1"),
        (
            "open@x:noise_mask=2",
            "noise_mask must be true, false or names .* or none, got 2",
        ),
        ("open@x:key=none", "key must be an integer, got none"),
        ("open@x:layer_proportion=1", "layer_proportion must be set in Python"),
        ("open@x:learning_rate=0.1", "'open' sets its own steps and has no option 'learning_rate'"),
        ("open@x", "learning_rate must be None for 'open', which sets its own steps, got 0.001."),
        ("optim4rl@x", "got 0.001; it can be an option"),
        ("optim4rl@x:learning_rate=-1", r"learning_rate must be in \(0, inf\), got -1"),
        ("optim4rl@x:grad_clip=true", "grad_clip must be a number or none, got true"),
        ("adam@breakout", "'adam' has no learned weights, got weights 'breakout'"),
        ("adam:beta2=0.9", "'adam' has no option 'beta2'; the nearest is 'b2'"),
        ("adam:b1=0.9,b1=0.8", "'b1' of 'adam' must be given once"),
        ("adam:b1=1", r"b1 must be in \[0, 1\), got 1"),
        ("adam:b2=-0.5", r"b2 must be in \[0, 1\), got -0.5"),
        ("adam:b2=nan", "b2 must be in .* got nan"),
        ("adam:b2=high", "b2 must be a number, got high"),
        ("adam:b2=true", "b2 must be a number, got true"),
        ("adam:eps=nan", "eps must be in .* got nan"),
        ("adam:nesterov=1", "nesterov must be true or false, got 1"),
        ("adam:mu_dtype=int8", "mu_dtype must be the name of a floating-point dtype or none"),
        ("galore:rank=2.5", "rank must be an integer, got 2.5"),
        ("muon:adam_learning_rate=0", r"adam_learning_rate must be in \(0, inf\), got 0"),
        ("muon:adam_learning_rate=-1e-3", r"adam_learning_rate must be in \(0, inf\), got -0.001"),
        ("muon:adam_learning_rate=inf", r"adam_learning_rate must be in \(0, inf\), got inf"),
        ("muon:adam_learning_rate=fast", "adam_learning_rate must be a number or none, got fast"),
        ("muon:preconditioning=fro", "preconditioning must be one of frobenius, .* got fro"),
        (
            "adamw:mask=true",
            r"mask must be names of networks joined by \+, .*, got true",
        ),
        ("adamw:mask=actor+", "mask must be names of networks .*, got actor\\+"),
        ("muon:muon_weight_dimension_numbers=1", "must be set in Python: no text says its value"),
        ("adamw:weight_decay=none", "weight_decay must be a number, got none"),
        ("adam:learning_rate=0", r"learning_rate must be in \(0, inf\), got 0"),
        ("adam:learning_rate=none", "learning_rate must be in"),
        ("adamo:tau=1.5", r"tau must be in \[0, 1\), got 1.5"),
        ("adamo:kappa=-1", "kappa must be in"),
        ("adamo:ensemble_axes=one", "ensemble_axes must be an integer or none, got one"),
        ("adam:base=sgd", "'adam' has no option 'base'"),
        ("weight_clipping@x", "'weight_clipping' has no learned weights, got weights 'x'"),
        ("weight_clipping:base=adm", "unknown optimizer 'adm'; the nearest is 'adam'"),
        ("weight_clipping:base=sam", "'sam' cannot be used by name"),
        ("weight_clipping:base=none", "base must be the name of an optimizer .*, got None"),
        ("weight_clipping:base=open@x", "not learned and wraps no other for .*, got 'open@x'"),
        ("weight_clipping:base=weight_clipping", "wraps no other .*, got 'weight_clipping'"),
        ("weight_clipping:base=trac", "base must be another .* than 'trac', which works out"),
        ("weight_clipping:kapa=1", "'weight_clipping' has no option 'kapa'; .* 'kappa'"),
        ("weight_clipping:base=sgd,b1=0.9", "'weight_clipping' has no option 'b1'"),
        ("weight_clipping:b1=1.5", r"b1 must be in \[0, 1\), got 1.5"),
        ("weight_clipping:kappa=0", "kappa must be in"),
        ("weight_clipping:matrix_mask=true", "matrix_mask must be names of networks joined by"),
        ("weight_clipping:inner=adam", "'weight_clipping' has no option 'inner'"),
    ],
)
def test_errors(text, message):
    with pytest.raises(ValueError, match=message):
        optim.make(text, 1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("open@nowhere", "'open' has no packaged meta-parameters 'nowhere', it has "),
        ("open@no/such.file", "in a file that exists, got 'no/such.file'"),
        ("open@/tmp/", "in a file that exists, got '/tmp/'"),
    ],
)
def test_weights_that_are_not_there(text, message):
    with pytest.raises(ValueError, match=message):
        optim.make(text)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), np.float32(-1.0)])
def test_learning_rates_out_of_range(rate):
    with pytest.raises(ValueError, match="learning_rate must be in"):
        optim.make("adam", rate)


def test_a_learning_rate_is_needed():
    with pytest.raises(ValueError, match="learning_rate must be given"):
        optim.make("adam")


ENVIRONMENTS = ["Asterix-MinAtar", "Breakout-MinAtar", "CartPole-v1", "ant", "humanoid"]


@pytest.mark.parametrize(
    ("name", "choices", "found"),
    [
        ("Adam", ["adamax", "adam", "sgd"], "adam"),
        ("adma", NAMES, "adam"),
        ("ADAMO", NAMES, "adamo"),
        ("rms", NAMES, "rmsprop"),
        ("Break", ENVIRONMENTS, "Breakout-MinAtar"),
        ("breakout", ENVIRONMENTS, "Breakout-MinAtar"),
        ("cartpole", ENVIRONMENTS, "CartPole-v1"),
        ("minatar", ENVIRONMENTS, "Asterix-MinAtar"),
        ("Ant", ENVIRONMENTS, "ant"),
        ("humanoids", ENVIRONMENTS, "humanoid"),
        ("springs", ["generalized", "positional", "spring", "mjx"], "spring"),
        ("env", ["--out", "--envs"], "--envs"),
        ("lr", ["eps_r", "kappa", "learning_rate"], "learning_rate"),
        ("LR", ["--layers", "--learning-rate"], "--learning-rate"),
        ("zzz", ["sgd"], "sgd"),
        ("", ["sgd"], "sgd"),
    ],
)
def test_nearest(name, choices, found):
    assert nearest(name, choices) == nearest(name, choices[::-1]) == found


@pytest.mark.parametrize(
    ("name", "choices", "found"),
    [
        ("lr", ["eps_r", "learning_rate"], "the nearest is 'learning_rate'"),
        ("beta2", ["b1", "b2"], "the nearest is 'b2'"),
        ("--devices", ["--lives", "--out"], "choose from --lives, --out"),
        ("learning_rate", ["nonlinearity", "clip"], "choose from clip, nonlinearity"),
        ("a", ["sgd", "adam"], "choose from adam, sgd"),
        ("", ["sgd", "adam"], "choose from adam, sgd"),
        ("r2", ["one"], "the nearest is 'one'"),
        ("zzz", [f"name{i}" for i in range(99)], "none is like it"),
    ],
)
def test_suggestions_are_near_or_all(name, choices, found):
    assert suggestion(name, choices) == found
    assert near(name, []) is None


def test_nearest_of_nothing():
    with pytest.raises(ValueError, match="choices"):
        nearest("adam", [])
    with pytest.raises(ValueError, match="choices"):
        suggestion("adam", [])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_decomposed_in_batches(name):
    """Batched decompositions of two programs at once can deadlock XLA on a CPU."""
    params = {"kernel": jnp.ones((5, 8, 4)), "bias": jnp.ones((5, 4))}
    names = ("cholesky", "eigh", "geqrf", "lu", "qr", "schur", "svd", "triangular_solve")

    def loss(params):
        return sum(jnp.sum(x * x) for x in jax.tree.leaves(params))

    def update(params):
        optimizer = optim.make(name, 1e-3)
        extras = {"value": loss(params), "grad": params, "value_fn": loss, "obj_fn": loss}
        return optimizer.update(params, optimizer.init(params), params, **extras)

    jaxpr = jax.make_jaxpr(jax.vmap(update))(params).jaxpr
    found = [
        (equation.primitive.name, equation.invars[0].aval.ndim)
        for equation in equations(jaxpr)
        if equation.primitive.name in names
    ]
    assert all(rank == 2 for _, rank in found), found
    assert bool(found) == (name in ("galore", "kron", "soap", "subspace_momentum"))


def test_galore_over_schedules():
    grads = jnp.cos(jnp.arange(24.0)).reshape(2, 4, 3)

    def update(rate, steps, grads):
        def rising(count):
            return rate * jnp.float32(1 + count) / jnp.float32(steps)

        optimizer = optim.make("galore:rank=2,update_proj_gap=2", rising)
        state = optimizer.init(grads)
        for _ in range(3):
            updates, state = optimizer.update(grads, state, grads)
        return updates

    rates, steps = jnp.array([1e-2, 1e-3]), jnp.array([5, 4])
    together = quick_jit(jax.vmap(update))(rates, steps, grads)
    alone = quick_jit(update)(rates[1], steps[1], grads[1])
    np.testing.assert_allclose(together[1], alone, rtol=1e-4, atol=1e-7)
