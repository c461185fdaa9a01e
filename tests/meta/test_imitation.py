"""Imitation against optimizers whose updates are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agents import environments
from agents.ppo import PPOConfig, ppo
from meta.imitation import ImitationConfig, imitation, shadowed
from meta.task import Task

CONFIG = PPOConfig(
    iterations=6, num_envs=2, num_steps=8, minibatches=2, epochs=1, widths=(4,), value_weight=0.5
)


@pytest.fixture(scope="module")
def task():
    return Task(environments.make("CartPole-v1"), CONFIG)


def momentum(meta_params):
    """A learned optimizer with a rate and a decay."""
    return optax.sgd(meta_params["rate"], momentum=meta_params["decay"])


def start(key):
    return {"rate": jnp.float32(0.0), "decay": jnp.float32(0.0)}


@pytest.fixture(scope="module")
def trainer(task):
    target = optax.sgd(0.1, momentum=0.5)
    config = ImitationConfig(agents=3, learning_rate=0.05, learning_rate_decay=0.97)
    return imitation(start, [task], [momentum], [target], config)


def test_the_target_is_found(trainer):
    state = trainer.init(jax.random.key(0))
    state, first = trainer.step(state)
    assert abs(first["meta_loss"] - 1.0) < 1e-5  # no updates at all
    for _ in range(120):
        state, metrics = trainer.step(state)
    found = trainer.meta_params(state)
    assert metrics["meta_loss"] < 1e-3
    np.testing.assert_allclose([found["rate"], found["decay"]], [0.1, 0.5], rtol=0.05)
    assert int(metrics["skipped"]) == 0


def test_it_is_bit_identical_from_any_state(trainer):
    first = trainer.init(jax.random.key(1))
    for _ in range(3):
        first, _ = trainer.step(first)
    copy = jax.tree.map(lambda x: jnp.array(x, copy=True), first)
    for _ in range(5):
        first, a = trainer.step(first)
        copy, b = trainer.step(copy)
    for x, y in zip(jax.tree.leaves((first, a)), jax.tree.leaves((copy, b)), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def test_agents_are_reborn_one_after_the_other(trainer):
    """With 3 agents and lives of 6 iterations, in iterations 2, 4 and 6, and so on."""
    state = trainer.init(jax.random.key(0))
    ages = []
    for _ in range(8):
        state, _ = trainer.step(state)
        ages.append(state.lives[0].iteration.tolist())
    assert ages[:2] == [[1, 1, 1], [2, 2, 2]]
    assert ages[2:] == [[3, 3, 1], [4, 4, 2], [5, 1, 3], [6, 2, 4], [1, 3, 5], [2, 4, 6]]


def test_the_learner_does_not_notice_the_shadow(task):
    target = optax.adam(1e-2)
    alone = ppo(task.environment, CONFIG, target)
    followed = ppo(task.environment, CONFIG, shadowed(target, optax.sgd(1.0)))
    a = jax.jit(alone.iterate)(alone.init(jax.random.key(3)))[0]
    b = jax.jit(followed.iterate)(followed.init(jax.random.key(3)))[0]
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-7)
    assert float(b.optimizer_state.error) > 0


def test_the_meta_gradient_agrees_with_finite_differences():
    """Through the state of the learned optimizer, over three updates."""
    gradients = [{"w": jnp.array([1.0, -2.0]) * k} for k in (1.0, 0.3, -0.7)]

    def loss(decay):
        learned = momentum({"rate": jnp.float32(0.3), "decay": decay})
        optimizer = shadowed(optax.sgd(0.1), learned)
        params = {"w": jnp.zeros(2)}
        state = optimizer.init(params)
        for gradient in gradients:
            _, state = optimizer.update(gradient, state, params)
        return state.error / state.size

    slope = (loss(jnp.float32(0.51)) - loss(jnp.float32(0.49))) / 0.02
    np.testing.assert_allclose(jax.grad(loss)(jnp.float32(0.5)), slope, rtol=1e-2)


def test_a_meta_gradient_that_is_not_finite_is_skipped(task):
    def broken(meta_params):
        return optax.stateless(
            lambda updates, _: jax.tree.map(lambda g: g / meta_params["rate"], updates)
        )

    config = ImitationConfig(agents=1)
    trainer = imitation(start, [task], [broken], [optax.sgd(0.1)], config)
    state = trainer.init(jax.random.key(0))
    for number in (1, 2):
        state, metrics = trainer.step(state)
        assert int(metrics["skipped"]) == int(metrics["skipped_in_a_row"]) == number
    assert jax.tree.all(jax.tree.map(lambda x: x == 0, trainer.meta_params(state)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"agents": 0}, "agents must be a whole number, at least 1; got 0."),
        ({"learning_rate": -1.0}, r"learning_rate must be in \(0, inf\); got -1.0."),
        ({"learning_rate_decay": 1.5}, r"learning_rate_decay must be in \(0, 1\]; got 1.5."),
    ],
)
def test_settings_that_are_not_allowed(change, message):
    with pytest.raises(ValueError, match=message):
        ImitationConfig(**change)
