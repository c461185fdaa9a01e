"""The offline learners on data whose values are known, and their face: jit, vmap, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quick import quick_jit

import optim
from agents.offline import common, iql, pars, rebrac, sqog, td3, td3_bc
from agents.offline.common import Transitions
from optim import diagnostics

SEEDS = jax.random.split(jax.random.key(0), 2)
DISCOUNT = 0.8
BEHAVIOUR = np.array([0.5, -0.4, 0.2, 0.0])


def chain(repeats=4):
    """Four states, one action in each: 0 -> 1 -> 2 -> 2 for ever, and 3, where the episode ends.

    Rewards are 1, -1, 0.5 and 3; state 2's transition was cut off and has no next action.
    """
    states = np.array([0, 1, 2, 3])
    following = np.array([1, 2, 2, 0])
    one_hot = np.eye(4, dtype=np.float32)
    data = Transitions(
        one_hot[states],
        BEHAVIOUR[states, None].astype(np.float32),
        np.array([1.0, -1.0, 0.5, 3.0], np.float32),
        one_hot[following],
        states == 3,
        BEHAVIOUR[following, None].astype(np.float32),
        states < 2,
    )
    return jax.tree.map(lambda x: jnp.asarray(np.tile(x, (repeats,) + (1,) * (x.ndim - 1))), data)


def values_of_chain(penalties=(0.0, 0.0), scale=1.0):
    """Of states 0 to 3; `penalties` are charged for the next actions of states 0 and 1."""
    last = scale * 0.5 / (1 - DISCOUNT)
    second = -scale + DISCOUNT * (last - penalties[1])
    return np.array([scale + DISCOUNT * (second - penalties[0]), second, last, scale * 3.0])


SETTINGS = {
    "iterations": 1,
    "critic_steps": 2000,
    "batch_size": 16,
    "discount": DISCOUNT,
    "polyak": 0.05,
    "actor_widths": (32,),
    "critic_widths": (32,),
}
IMITATE = {"policy_noise": 0.0}


def train(learner, config, data, optimizers=2, rate=3e-3, sizes=(4, 1)):
    """The last states of two seeds."""
    learner = learner(*sizes, config, *[optim.make("adam", rate)] * optimizers)
    run = jax.vmap(lambda key: learner.iterate(learner.init(key), data))
    state, metrics = quick_jit(run)(SEEDS)
    return learner, state, metrics


def values_at(state, config, observation, action, layer_norm=False):
    """Values of both critics of all seeds, shape (seeds, 2, batch)."""
    critic = common.Critic(config.critic_widths, layer_norm=layer_norm)
    twin = jax.vmap(lambda p: common.twin_values(critic, p, observation, action)[0])
    return twin(state.params["critic"])


def actions_at(learner, state, observation):
    act = jax.vmap(lambda state: learner.policy(state)(jax.random.key(0), observation))
    return act(state)


def test_td3_bc_finds_the_values_of_the_data():
    """Cut-off and end are told apart: were either the other, states 2 and 3 would be far off."""
    config = td3_bc.TD3BCConfig(**SETTINGS, **IMITATE, alpha=0.0)
    data = chain()
    learner, state, metrics = train(td3_bc.td3_bc, config, data)
    found = values_at(state, config, data.observation[:4], data.action[:4])
    expected = np.broadcast_to(values_of_chain(), found.shape)
    np.testing.assert_allclose(found, expected, atol=0.05)
    actions = actions_at(learner, state, data.observation[:4])
    np.testing.assert_allclose(actions[..., 0], np.broadcast_to(BEHAVIOUR, (2, 4)), atol=0.03)
    assert set(metrics) == {
        "critic_loss",
        "td_loss",
        "mean_abs_q",
        "critic_gradient_norm",
        "actor_loss",
        "behaviour_distance",
        "actor_gradient_norm",
    }
    assert all(value.shape == (2,) for value in metrics.values())
    assert (state.iteration == 1).all()


@pytest.mark.slow
def test_td3_bc_prefers_the_better_action():
    """One state, reward a: imitation alone gives the mean action, values pull to 1."""
    draw = np.random.default_rng(0)
    action = jnp.asarray(draw.uniform(-1, 1, (64, 1)), jnp.float32)
    ones = jnp.ones((64, 1))
    data = Transitions(ones, action, action[:, 0], ones, ones[:, 0] > 0, action, ones[:, 0] < 0)
    settings = SETTINGS | {"critic_steps": 600}

    def run(alpha):
        config = td3_bc.TD3BCConfig(**settings, alpha=alpha)
        learner = td3_bc.td3_bc(1, 1, config, *[optim.make("adam", 3e-3)] * 2)
        state, _ = learner.iterate(learner.init(SEEDS[0]), data)
        return learner.policy(state)(SEEDS[0], ones[:1])[0, 0]

    chosen = quick_jit(jax.vmap(run))(jnp.array([0.0, 2.5]))
    np.testing.assert_allclose(chosen[0], float(action.mean()), atol=0.1)
    assert chosen[1] > 0.7


def test_rebrac_charges_for_next_actions_that_the_data_do_not_take():
    """The data's next action is moved by 0.3; where there is none, nothing is charged."""
    config = rebrac.ReBRACConfig(
        **SETTINGS | {"batch_size": 16},
        **IMITATE,
        actor_penalty=1e3,
        critic_penalty=2.0,
        critic_layer_norm=False,
        initialization="uniform",
    )
    data = chain()
    data = data._replace(next_action=data.next_action + 0.3)
    _, state, _ = train(rebrac.rebrac, config, data)
    found = values_at(state, config, data.observation[:4], data.action[:4])
    expected = values_of_chain(penalties=(2.0 * 0.09, 2.0 * 0.09))
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=0.07)


@pytest.mark.slow
def test_sqog_values_neighbours_like_the_data():
    config = sqog.SQOGConfig(**SETTINGS, **IMITATE, alpha=0.0, beta=1.0, initialization="uniform")
    data = chain()
    _, state, metrics = train(sqog.sqog, config, data)
    expected = np.broadcast_to(values_of_chain(), (2, 2, 4))
    found = values_at(state, config, data.observation[:4], data.action[:4])
    np.testing.assert_allclose(found, expected, atol=0.07)
    for shift in (-0.4, 0.4):
        found = values_at(state, config, data.observation[:4], data.action[:4] + shift)
        np.testing.assert_allclose(found, expected, atol=0.3)
    assert "roughness" in metrics


@pytest.mark.slow
def test_pars_scales_rewards_and_lowers_impossible_actions():
    config = pars.PARSConfig(
        **SETTINGS | {"critic_steps": 4000},
        **IMITATE,
        behaviour_weight=1e3,
        reward_scale=4.0,
        min_reward=-1.0,
        infeasible_weight=1.0,
        infeasible_distance=100.0,
    )
    data = chain()
    _, state, metrics = train(pars.pars, config, data)
    found = values_at(state, config, data.observation[:4], data.action[:4], layer_norm=True)
    expected = np.broadcast_to(values_of_chain(scale=4.0), found.shape)
    np.testing.assert_allclose(found, expected, atol=0.4)
    for far in (-150.0, 120.0):
        action = jnp.full((4, 1), far)
        found = values_at(state, config, data.observation[:4], action, layer_norm=True)
        np.testing.assert_allclose(found, -4.0 / (1 - DISCOUNT), atol=1.0)
    assert "infeasible_loss" in metrics


def test_iql_finds_expectiles_and_weights_actions():
    """State 0 pays 1 for action 0.5 and 0 for -0.5 and ends; state 1 pays 0.5 and leads to 0.

    V(0) is the 0.8-expectile of an even chance of 0 and 1, which is 0.8; the policy's moments
    follow from the weights exp(3 * (1 - 0.8)) and exp(3 * (0 - 0.8)).
    """
    states = np.array([0, 0, 1, 1])
    one_hot = np.eye(2, dtype=np.float32)
    action = np.array([[0.5], [-0.5], [0.1], [0.1]], np.float32)
    data = Transitions(
        one_hot[states],
        action,
        np.array([1.0, 0.0, 0.5, 0.5], np.float32),
        one_hot[np.zeros(4, int)],
        states == 0,
        action,
        states == 2,
    )
    data = jax.tree.map(jnp.asarray, data)
    config = iql.IQLConfig(**SETTINGS, expectile=0.8, inverse_temperature=3.0)
    learner, state, metrics = train(iql.iql, config, data, optimizers=3, sizes=(2, 1))
    value = jax.vmap(
        lambda p: common.applied(common.Critic(config.critic_widths), p, jnp.eye(2))[0]
    )(state.params["value"])
    through = 0.5 + DISCOUNT * 0.8
    np.testing.assert_allclose(value, [[0.8, through]] * 2, atol=0.06)
    found = values_at(state, config, data.observation, data.action)
    expected = np.broadcast_to([1.0, 0.0, through, through], found.shape)
    np.testing.assert_allclose(found, expected, atol=0.06)
    good, bad = np.exp(3 * 0.2), np.exp(-3 * 0.8)
    mean = 0.5 * (good - bad) / (good + bad)
    actions = actions_at(learner, state, jnp.eye(2))
    np.testing.assert_allclose(actions[..., 0], [[mean, 0.1]] * 2, atol=0.06)
    assert {"value_loss", "critic_loss", "actor_loss", "mean_weight"} <= set(metrics)


# --- the learners' face -------------------------------------------------------------------------

TINY = SETTINGS | {"critic_steps": 2, "batch_size": 4, "iterations": 3, "actor_widths": (4,)}


def test_optimizers_are_apart_and_see_every_extra_argument():
    seen = {}

    def spy(name):
        def update(updates, state, params=None, **extra):
            seen[name] = extra
            assert jax.tree.structure(extra["activations"]) == jax.tree.structure(params)
            assert jax.tree.structure(extra["grad"]) == jax.tree.structure(params)
            assert extra["obj_fn"](params).shape == extra["value_fn"](params).shape == ()
            return jax.tree.map(jnp.zeros_like, updates), state

        return optax.GradientTransformationExtraArgs(lambda params: (), update)

    data = chain()
    for learner, config, names in (
        (td3_bc.td3_bc, td3_bc.TD3BCConfig(**TINY), ("actor", "critic")),
        (iql.iql, iql.IQLConfig(**TINY, actor_dropout=0.1), ("actor", "critic", "value")),
    ):
        seen.clear()
        period = getattr(config, "actor_period", 1)
        learner = learner(4, 1, config, *map(spy, names))
        start = jax.eval_shape(learner.init, jax.random.key(0))
        state, _ = jax.eval_shape(learner.iterate, start, data)
        assert set(seen) == set(names)
        for name, extra in seen.items():
            assert extra["num_updates"] == 6 // (period if name == "actor" else 1)
            assert set(extra) == {
                *("value", "activations", "training_progress", "batch_progress", "reset"),
                *("grad", "value_fn", "obj_fn", "num_updates"),
            }
        assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
            lambda x: (x.shape, x.dtype), start
        )


LEARNERS = {
    "td3_bc": (td3_bc.td3_bc, td3_bc.TD3BCConfig, 2),
    "rebrac": (rebrac.rebrac, rebrac.ReBRACConfig, 2),
    "sqog": (sqog.sqog, sqog.SQOGConfig, 2),
    "pars": (pars.pars, pars.PARSConfig, 2),
    "iql": (iql.iql, iql.IQLConfig, 3),
}
# Those that ask for the loss, as a number or as a function, or for a new objective.
DEMANDING = (
    *("adahessian", "adam_rel:period=3", "adam_reset:period=3", "aegd", "lbfgs"),
    *("mars:exact=true", "momo", "sania", "sophia"),
)
# Those that do something whenever the objective is new, or else once a period.
WAITING = ("adam_rel", "adam_reset", "fire")
NAMED = [f"{name}:period=3" if name in WAITING else name for name in optim.optimizer_names()]


def made(name, optimizer):
    learner, config, optimizers = LEARNERS[name]
    return learner(4, 1, config(**TINY), *[optim.make(optimizer, 1e-3)] * optimizers)


def moved_by(name, optimizer):
    """How far each parameter of a learner is moved by two iterations, at most."""
    learner = made(name, optimizer)

    def run(key):
        start = learner.init(key)
        step = lambda state, _: (learner.iterate(state, chain())[0], None)  # noqa: E731
        end, _ = jax.lax.scan(step, start, length=2)
        return jax.tree.map(lambda x, y: jnp.abs(x - y).max(), start.params, end.params)

    return quick_jit(run)(jax.random.key(0))


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        pytest.param(
            name,
            optimizer,
            marks=() if name == "td3_bc" or optimizer in DEMANDING else pytest.mark.slow,
        )
        for name in LEARNERS
        for optimizer in sorted({*NAMED, *DEMANDING})
    ],
)
def test_every_named_optimizer_trains_every_learner(name, optimizer):
    """By abstract evaluation: it gets what it asks for, and the state keeps its types."""
    learner = made(name, optimizer)
    start = jax.eval_shape(learner.init, jax.random.key(0))
    end, _ = jax.eval_shape(learner.iterate, start, chain())
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
    assert shapes(start) == shapes(end)


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        pytest.param(
            name,
            optimizer,
            marks=() if (name, optimizer) == ("td3_bc", "lbfgs") else pytest.mark.slow,
        )
        for name in ("td3_bc", "iql")
        for optimizer in DEMANDING
    ],
)
def test_optimizers_that_need_more_than_gradients(name, optimizer):
    """They get it: every parameter moves, none leaves the neighbourhood."""
    assert all(0 < distance < 10 for distance in jax.tree.leaves(moved_by(name, optimizer)))


@pytest.mark.parametrize("optimizer", WAITING)
@pytest.mark.parametrize("name", LEARNERS)
def test_an_optimizer_that_waits_for_a_new_objective_is_refused(name, optimizer):
    """Without a period it would be Adam, in silence."""
    learner = made(name, optimizer)
    start = jax.eval_shape(learner.init, jax.random.key(0))
    with pytest.raises(ValueError, match=r"period must be set for an optimizer.*got none\."):
        jax.eval_shape(learner.iterate, start, chain())


def test_with_a_period_it_is_not_adam():
    ours, adam = moved_by("td3_bc", "adam_rel:period=1"), moved_by("td3_bc", "adam")
    different = jax.tree.map(lambda x, y: x != y, ours, adam)
    assert all(jax.tree.leaves(different))


@pytest.mark.parametrize("name", ["td3_bc", "iql"])
def test_policy_uses_the_parameters_that_the_optimizer_means_to_be_used(name):
    """Those of schedule-free optimizers are not those that they train; seeds may be vmapped."""
    learner = made(name, "schedule_free_sgd:b1=0.6,learning_rate=0.3")
    iterate = quick_jit(jax.vmap(learner.iterate, (0, None)))
    states = quick_jit(jax.vmap(learner.init))(SEEDS)
    for _ in range(3):  # after the first update of the actor, all are the same
        states, _ = iterate(states, chain())
    y, z = states.params["actor"], states.optimizer_state["actor"].z
    expected = jax.tree.map(lambda y, z: (y - np.float32(0.4) * z) / np.float32(0.6), y, z)
    for policy in (learner.policy(states), jax.vmap(learner.policy)(states)):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            policy.params,
            expected,
        )
    distance = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), expected, y)
    assert max(jax.tree.leaves(distance)) > 1e-3


def test_seeds_and_hyperparameters_are_vmapped():
    """Configs with different numbers run in one program, and none sees another."""
    data = chain()
    alphas = jnp.array([0.5, 5.0])

    def run(alpha, key):
        config = td3_bc.TD3BCConfig(**TINY, alpha=alpha)
        learner = td3_bc.td3_bc(4, 1, config, optim.make("adam", 3e-4), optim.make("adam", 1e-3))
        return learner.iterate(learner.init(key), data)[1]

    many = quick_jit(jax.vmap(run))
    found, swapped = many(alphas, SEEDS), many(alphas[::-1], SEEDS[::-1])
    mixed = many(alphas[::-1], SEEDS)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y[::-1]), found, swapped)
    assert (found["actor_loss"] != mixed["actor_loss"]).all()


@pytest.mark.slow
def test_normalizer_is_applied_to_data_and_policy_alike():
    data = chain()
    shifted = data._replace(
        observation=3.0 * data.observation + 1.0, next_observation=3.0 * data.next_observation + 1.0
    )
    normalizer = common.Normalizer(jnp.ones(4), jnp.full(4, 3.0))
    config = td3_bc.TD3BCConfig(**TINY)
    optimizers = [optim.make("adam", 1e-3)] * 2
    plain = td3_bc.td3_bc(4, 1, config, *optimizers)
    scaled = td3_bc.td3_bc(4, 1, config, *optimizers, normalizer)
    start = plain.init(jax.random.key(0))
    ours, _ = quick_jit(scaled.iterate)(start, shifted)
    theirs, _ = quick_jit(plain.iterate)(start, data)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
        ours.params,
        theirs.params,
    )
    key = jax.random.key(1)
    np.testing.assert_allclose(
        scaled.policy(ours)(key, shifted.observation),
        plain.policy(theirs)(key, data.observation),
        rtol=1e-4,
        atol=1e-6,
    )
    found = common.observation_statistics(shifted)
    np.testing.assert_allclose(found.mean, 1.0 + 3.0 * 0.25, rtol=1e-6)
    np.testing.assert_allclose(found.std, 3.0 * np.sqrt(3) / 4 + 1e-3, rtol=1e-6)


def test_target_networks_move_once_a_period():
    """With a critic and an actor that stand still, targets stay; with moving ones, they follow."""
    data = chain()
    config = td3_bc.TD3BCConfig(**TINY | {"polyak": 0.25, "critic_steps": 2})
    learner = td3_bc.td3_bc(4, 1, config, optax.sgd(0.1), optax.sgd(0.1))
    start = quick_jit(learner.init)(jax.random.key(0))
    end, _ = quick_jit(learner.iterate)(start, data)
    jax.tree.map(
        lambda old, new, target: np.testing.assert_allclose(
            target, 0.75 * old + 0.25 * new, rtol=1e-5, atol=1e-7
        ),
        start.params,
        end.params,
        end.target_params,
    )


def test_temporal_difference_fits_the_diagnostics():
    """K e is the gradient's change of the values: the Jacobians are those of the critic's loss."""
    data = chain(1)
    config = td3_bc.TD3BCConfig(**TINY | {"policy_noise": 0.0})
    learner = td3_bc.td3_bc(4, 1, config, *[optim.make("adam:eps=0.0001", 1e-3)] * 2)
    state = quick_jit(learner.init)(jax.random.key(0))
    _, adam_state = quick_jit(optim.make("adam:eps=0.0001", 1e-3).update)(
        state.params["critic"], state.optimizer_state["critic"], state.params["critic"]
    )
    state.optimizer_state["critic"] = adam_state
    parts = learner.temporal_difference(state, data)
    assert parts.loss_factor == 0.5
    Z = diagnostics.jacobian(parts.values, state.params["critic"])
    Z_next = diagnostics.jacobian(parts.next_values, state.target_params["critic"])
    D = diagnostics.adam_preconditioner(state.optimizer_state["critic"])
    assert Z.shape == Z_next.shape == (8, len(D))
    assert not Z_next[[3, 7]].any()
    networks = td3.make_networks(config, 1)
    gradient_of = jax.grad(
        lambda p: td3.td_loss(networks, config, p, state.target_params, data, 0.0 * data.action),
        has_aux=True,
    )
    gradient, _ = quick_jit(gradient_of)(state.params["critic"])
    error = parts.values(state.params["critic"]) - (
        jnp.tile(data.reward, 2) + DISCOUNT * parts.next_values(state.target_params["critic"])
    )
    flat = jax.flatten_util.ravel_pytree(gradient)[0]
    np.testing.assert_allclose(parts.loss_factor * Z.T @ np.asarray(error), flat, atol=1e-5)
    found = diagnostics.stability(
        Z,
        Z_next,
        D,
        discount=DISCOUNT,
        learning_rate=1e-3,
        polyak=0.05,
        polyak_period=2,
        loss_factor=parts.loss_factor,
        rank_tolerance=1e-6,
    )
    assert 0.5 < found.exact_radius < 2.0
    assert sqog.sqog(4, 1, sqog.SQOGConfig(**TINY), *[optim.make("adam", 1e-3)] * 2)[3] is None


def test_collapse_line():
    assert common.collapse_line(chain(), 0.99) == pytest.approx(600.0)
    with pytest.raises(ValueError, match=r"discount must be in \[0, 1\); got 1"):
        common.collapse_line(chain(), 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"critic_steps": 0}, "critic_steps must be at least 1; got 0"),
        ({"batch_size": -1}, "batch_size must be at least 1; got -1"),
        ({"actor_period": 3}, "actor_period must be at least 1 and divide critic_steps = 2; got 3"),
        ({"discount": 1.5}, r"discount must be in \[0, 1\]; got 1.5"),
        ({"polyak": float("nan")}, r"polyak must be in \[0, 1\]; got nan"),
        ({"initialization": "he"}, "initialization must be one of uniform, edac, orthogonal"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        td3_bc.td3_bc(4, 1, td3_bc.TD3BCConfig(**TINY | change), optax.sgd(0.1), optax.sgd(0.1))


def test_bad_sizes_and_dropout_are_named():
    with pytest.raises(ValueError, match="action_size must be at least 1; got 0"):
        td3_bc.td3_bc(4, 0, td3_bc.TD3BCConfig(**TINY), optax.sgd(0.1), optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"expectile must be in \[0, 1\]; got -0.1"):
        iql.iql(4, 1, iql.IQLConfig(**TINY, expectile=-0.1), *[optax.sgd(0.1)] * 3)
    with pytest.raises(ValueError, match=r"actor_dropout must be in \[0, 1\); got 1"):
        iql.iql(4, 1, iql.IQLConfig(**TINY, actor_dropout=1.0), *[optax.sgd(0.1)] * 3)
