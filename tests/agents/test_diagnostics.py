"""Measures of plasticity against NumPy, in limits, and of PPO as a whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_diagnostics as by_hand
import optax
import pytest
from quick import quick_jit

import optim
from agents import environments
from agents.diagnostics import (
    MEASURES,
    NETWORKS,
    clipped_share,
    cosine,
    diagnose,
    distance,
    dormant_share,
    effective_rank,
)
from agents.environment import Box, Discrete
from agents.networks import NONLINEARITIES, Actor, Critic, hidden_layers
from agents.ppo import PPOConfig, ppo

# --- dormant units ------------------------------------------------------------------------------


def test_known_dormant_units():
    """The published example: mean activities (0, 0.02, 1, 3) give scores (0, 0.0199, 0.995, 3)."""
    activity = jnp.array([[0.0, 0.02, -1.0, 3.0], [0.0, -0.02, 1.0, -3.0]])
    assert dormant_share([activity]) == 0.5
    assert dormant_share([activity], threshold=0.0) == 0.25
    assert dormant_share([activity], threshold=0.996) == 0.75
    assert dormant_share([activity], threshold=-1.0) == 0.0
    # Signs do not cancel, and scale does not matter.
    assert dormant_share([1e-3 * activity]) == dormant_share([1e3 * activity]) == 0.5


def test_layers_weigh_the_same_whatever_their_widths():
    wide, narrow = jnp.zeros((3, 100)).at[:, :90].set(1.0), jnp.array([[1.0, 0.0]] * 3)
    np.testing.assert_allclose(dormant_share([wide, narrow]), (0.1 + 0.5) / 2, rtol=1e-6)


def test_a_layer_that_is_all_dead_is_all_dormant():
    assert dormant_share([jnp.zeros((5, 4))]) == 1.0
    assert dormant_share([jnp.ones((5, 4))]) == 0.0


def test_dormant_share_is_as_written_down():
    draw = np.random.default_rng(0)
    layers = [np.float32(draw.normal(size=(50, n)) * draw.exponential(size=n) ** 4) for n in (9, 6)]
    share = dormant_share(list(map(jnp.asarray, layers)))
    assert 0.1 < share < 0.9
    np.testing.assert_allclose(share, by_hand.dormant_share(layers), rtol=1e-6)


def test_without_layers_nothing_can_be_dormant():
    with pytest.raises(ValueError, match="layers must hold at least one hidden layer; got none"):
        dormant_share([])


# --- effective rank -----------------------------------------------------------------------------


def features(sigma, samples=40, seed=0):
    """Features of given singular values."""
    draw = np.random.default_rng(seed)
    left = np.linalg.qr(draw.normal(size=(samples, len(sigma))))[0]
    right = np.linalg.qr(draw.normal(size=(len(sigma), len(sigma))))[0]
    return jnp.asarray(left * sigma @ right, jnp.float32)


@pytest.mark.parametrize(
    ("sigma", "rank"),
    [((10, 1, 1, 1), 2.21), ((10, *[0.02] * 7), 1.10), ((3, 3, 3), 3.0), ((5, 0, 0, 0), 1.0)],
)
def test_known_effective_ranks(sigma, rank):
    assert f"{effective_rank(features(sigma)):.2f}" == f"{rank:.2f}"
    assert f"{effective_rank(features(sigma, samples=2000)):.2f}" == f"{rank:.2f}"


def test_small_singular_values_count_as_they_should():
    """Eigenvalues of the Gram matrix alone would lose, or invent, those below 3e-4."""
    batch = jnp.stack([features((1.0, *[tail] * 31), 200) for tail in (1e-3, 1e-4, 1e-5, 0.0)])
    for found, given in zip(jax.vmap(effective_rank)(batch), batch, strict=True):
        np.testing.assert_allclose(found, by_hand.effective_rank(given), rtol=2e-4)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("shape", [(100, 7), (7, 7), (3, 7), (100, 1)])
def test_effective_rank_is_as_written_down(shape, scale):
    x = np.maximum(np.random.default_rng(1).normal(0.3, 1.0, shape), 0.0)
    found = effective_rank(jnp.asarray(scale * x, jnp.float32))
    np.testing.assert_allclose(found, by_hand.effective_rank(x), rtol=1e-4)


def test_effective_rank_is_not_of_centred_features():
    x = jnp.ones((20, 3)) + 1e-4 * jax.random.normal(jax.random.key(0), (20, 3))
    assert effective_rank(x) < 1.01
    assert effective_rank(x - x.mean(axis=0, keepdims=True)) > 2.0


def test_effective_rank_at_its_limits():
    assert effective_rank(jnp.zeros((10, 4))) == 0.0
    for bad in (jnp.nan, jnp.inf):
        assert jnp.isnan(effective_rank(jnp.ones((10, 4)).at[3, 2].set(bad)))
    batch = jnp.stack([jnp.zeros((10, 4)), jnp.eye(10, 4), jnp.full((10, 4), jnp.nan)])
    np.testing.assert_allclose(jax.vmap(effective_rank)(batch), [0.0, 4.0, np.nan], rtol=1e-5)


# --- the others ---------------------------------------------------------------------------------


def test_distance_is_per_parameter():
    one = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([[3.0, 5.0]])}
    other = {"a": jnp.array([1.0, 1.0]), "b": jnp.array([[6.0, 3.0]])}
    np.testing.assert_allclose(distance(one, other), np.sqrt(14 / 4), rtol=1e-6)
    assert distance(one, one) == 0.0


def test_cosine():
    one = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([[3.0]])}
    other = {"a": jnp.array([-2.0, 0.5]), "b": jnp.array([[4.0]])}
    expected = by_hand.cosine(by_hand.flat(one), by_hand.flat(other))
    for scale in (1e-15, 1.0, 1e15):
        scaled = jax.tree.map(lambda x, scale=scale: scale * x, other)
        np.testing.assert_allclose(cosine(one, scaled), expected, rtol=1e-5)
    np.testing.assert_allclose(cosine(one, jax.tree.map(jnp.negative, one)), -1.0, rtol=1e-6)
    zero = jax.tree.map(jnp.zeros_like, one)
    large = jax.tree.map(lambda x: 1e30 * x, one)
    assert np.isnan([cosine(one, zero), cosine(zero, one), cosine(one, large)]).all()


def test_clipped_share():
    ratio = jnp.array([0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 3.0, 1.0])
    assert clipped_share(jnp.log(ratio), 0.2) == 0.5
    assert clipped_share(jnp.zeros(4), 0.2) == 0.0
    assert clipped_share(jnp.array([-jnp.inf, jnp.inf, 0.0, 0.0]), 0.2) == 0.5
    assert jnp.isnan(clipped_share(jnp.array([0.0, jnp.nan]), 0.2))


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("network", [Actor(Discrete(4)), Actor(Box(2, -1.0, 1.0)), Critic()])
@pytest.mark.parametrize("lead", [(), (6,), (3, 2)])
def test_hidden_layers_are_what_the_activations_are_means_of(network, nonlinearity, lead):
    network = network.clone(widths=(5, 3), nonlinearity=nonlinearity, observation_ndim=2)
    observation = jax.random.normal(jax.random.key(0), (*lead, 2, 3))
    params = network.init(jax.random.key(1), observation)["params"]
    layers = hidden_layers(network, params, observation)
    assert [layer.shape for layer in layers] == [(*lead, 5), (*lead, 3)]
    _, activations = network.apply({"params": params}, observation)
    for i, layer in enumerate(layers):
        mean = np.abs(layer).reshape(-1, layer.shape[-1]).mean(axis=0)
        np.testing.assert_allclose(mean, activations[f"Dense_{i}"]["kernel"], rtol=1e-6)
    expected, _ = by_hand.hidden(params, np.asarray(observation).reshape(-1, 6), nonlinearity)
    for layer, values in zip(layers, expected, strict=True):
        np.testing.assert_allclose(layer.reshape(values.shape), values, rtol=1e-4, atol=1e-5)


# --- PPO ----------------------------------------------------------------------------------------

TINY = PPOConfig(
    iterations=20,
    num_envs=4,
    num_steps=16,
    minibatches=2,
    epochs=2,
    widths=(8, 6),
    clip=0.02,
    normalize_observations=True,
)


class Subject:
    """A learner, its functions compiled, and its state at the start and three iterations later."""

    def __init__(self, environment, config, optimizer):
        learner = ppo(environments.make(environment), config, optimizer)
        self.clip = config.clip
        self.play = quick_jit(learner.play)
        self.learn = quick_jit(learner.learn)
        self.iterate = quick_jit(learner.iterate)
        self.gradient = quick_jit(jax.grad(lambda *given: learner.loss(*given)[0]))
        self.measure = quick_jit(functools.partial(diagnose, learner, clip=config.clip))
        self.start = quick_jit(learner.init)(jax.random.key(0))
        self.learner, self.initial, self.state = learner, self.start.params, self.start
        for _ in range(3):
            self.state, _ = self.iterate(self.state)


@functools.cache
def subject(environment="CartPole-v1"):
    nonlinearity = "relu" if environment == "CartPole-v1" else "tanh"
    config = TINY.replace(nonlinearity=nonlinearity)
    return Subject(environment, config, optim.make("adam", 3e-2))


def numbers(state):
    """A state's leaves, its key as numbers."""
    leaves = jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))
    return [np.asarray(leaf) for leaf in leaves]


@pytest.mark.parametrize("environment", ["CartPole-v1", "Pendulum-v1"])
def test_a_diagnosis_measures_the_next_iteration(environment):
    one = subject(environment)
    state, initial = one.state, one.initial
    nonlinearity = "relu" if environment == "CartPole-v1" else "tanh"
    found = one.measure(state, initial)
    assert set(found) == set(MEASURES)
    assert all(np.isfinite(value) and value.shape == () for value in found.values())

    after, _ = one.iterate(state)
    _, samples = one.play(state)
    gradient = one.gradient(state.params, samples)
    log_ratio = value = None
    for name in NETWORKS:
        old, new, start = (
            by_hand.flat(params[name]) for params in (state.params, after.params, initial)
        )
        layers, value = by_hand.hidden(state.params[name], samples.observation, nonlinearity)
        if name == "actor":
            _, output = by_hand.hidden(after.params[name], samples.observation, nonlinearity)
            log_ratio = by_hand.log_probability(after.params[name], output, samples.action)
            log_ratio -= np.asarray(samples.log_probability)
        expected = {
            "dormant": by_hand.dormant_share(layers),
            "rank": by_hand.effective_rank(layers[-1]),
            "weight_norm": np.sqrt(np.sum(old**2)),
            "update_norm": np.sqrt(np.sum((new - old) ** 2)),
            "relative_update": np.sqrt(np.sum((new - old) ** 2) / np.sum(old**2)),
            "distance": np.sqrt(np.mean((old - start) ** 2)),
            "cosine": by_hand.cosine(new - old, -by_hand.flat(gradient[name])),
        }
        for measure, number in expected.items():
            np.testing.assert_allclose(
                found[f"{name}_{measure}"], number, rtol=2e-3, atol=1e-4, err_msg=measure
            )
        assert expected["update_norm"] > 0.0
        assert expected["distance"] > 0.0
    ratio = np.exp(log_ratio)
    clipped = np.mean(np.abs(ratio - 1.0) > one.clip)
    assert 0.0 < clipped < 1.0
    np.testing.assert_allclose(found["clipped_share"], clipped, atol=1.5 / len(ratio))
    np.testing.assert_allclose(found["updated_kl"], np.mean(ratio - 1 - log_ratio), rtol=2e-2)
    error = value[:, 0] - np.asarray(samples.target)
    np.testing.assert_allclose(found["value_error"], np.sqrt(np.mean(error**2)), rtol=1e-3)


def test_to_play_and_to_learn_is_to_iterate():
    one = subject()
    played, samples = one.play(one.state)
    learned, losses = one.learn(played, samples)
    iterated, metrics = one.iterate(one.state)
    for mine, other in zip(numbers(learned), numbers(iterated), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)
    for name, value in losses.items():
        np.testing.assert_allclose(value, metrics[name], rtol=1e-4, atol=1e-6)
    assert set(metrics) - set(losses) == {
        *("episode_return_sum", "episode_length_sum", "episodes", "last_return")
    }


def test_one_step_of_gradient_descent_goes_down_the_gradient():
    """One update on the whole rollout: the update is -rate * gradient."""
    one, config = subject(), TINY.replace(epochs=1, minibatches=1)
    _, samples = one.play(one.state)
    gradient = one.gradient(one.state.params, samples)

    def measured(rate):
        learner = ppo(environments.make("CartPole-v1"), config, optax.sgd(rate))
        state = one.state._replace(optimizer_state=optax.sgd(rate).init(one.initial))
        return diagnose(learner, state, one.initial, one.clip)

    found = quick_jit(jax.vmap(measured))(jnp.array([0.1, 0.0, -0.1]))
    down, still, up = ({name: found[name][i] for name in MEASURES} for i in range(3))
    for name in NETWORKS:
        np.testing.assert_allclose(down[f"{name}_cosine"], 1.0, atol=1e-4)
        np.testing.assert_allclose(up[f"{name}_cosine"], -1.0, atol=1e-4)
        norm = 0.1 * np.linalg.norm(by_hand.flat(gradient[name]))
        np.testing.assert_allclose(down[f"{name}_update_norm"], norm, rtol=1e-3)
        assert still[f"{name}_update_norm"] == still[f"{name}_relative_update"] == 0.0
        assert np.isnan(still[f"{name}_cosine"])  # there is no direction
    assert still["clipped_share"] == 0.0
    np.testing.assert_allclose(still["updated_kl"], 0.0, atol=1e-6)


def test_a_learner_at_its_start_has_not_moved():
    one = subject()
    found = one.measure(one.start, one.initial)
    assert found["actor_distance"] == found["critic_distance"] == 0.0
    assert found["actor_update_norm"] > 0.0


def test_dead_units_are_found_in_the_right_network():
    one = subject()
    critic = jax.tree.map(jnp.copy, one.start.params["critic"])
    # Units 0, 1 and 2 of the second layer see nothing but a bias below zero.
    critic["Dense_1"]["kernel"] = critic["Dense_1"]["kernel"].at[:, :3].set(0.0)
    critic["Dense_1"]["bias"] = critic["Dense_1"]["bias"].at[:3].set(-1.0)
    dead = one.start._replace(params=one.start.params | {"critic": critic})
    before, after = one.measure(one.start, one.initial), one.measure(dead, one.initial)
    assert before["critic_dormant"] < (3 / 6) / 2 <= after["critic_dormant"]
    assert after["critic_rank"] <= 3.0 < before["critic_rank"]
    for name in ("dormant", "rank"):
        np.testing.assert_allclose(after[f"actor_{name}"], before[f"actor_{name}"], rtol=1e-6)


def test_what_has_exploded_is_not_a_number():
    one = subject()
    params = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), one.state.params)
    found = one.measure(one.state._replace(params=params), one.initial)
    assert np.isnan(list(found.values())).all()


def test_seeds_are_measured_on_their_own():
    one = subject()
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), one.start, one.state)
    measure = jax.vmap(functools.partial(diagnose, one.learner, clip=one.clip), (0, None))
    together = quick_jit(measure)(states, one.initial)
    for i, state in enumerate((one.start, one.state)):
        for name, value in one.measure(state, one.initial).items():
            np.testing.assert_allclose(together[name][i], value, rtol=1e-3, atol=1e-5, err_msg=name)
