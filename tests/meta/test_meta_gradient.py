"""The derivative of a fresh rollout's loss by the meta-parameters, through PPO's updates."""

import dataclasses
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import probes
import pytest
from hills import Tiny, leaves
from jax.flatten_util import ravel_pytree
from probes import quick_jit

import optim
from agents.a2c import a2c_config
from agents.networks import Actor, Critic
from agents.ppo import PPOConfig, ppo
from meta.task import Task
from meta.windows import first_order, windows

KEY = jax.random.key(0)
CONFIG = PPOConfig(
    iterations=8,
    num_envs=4,
    num_steps=6,
    epochs=2,
    minibatches=2,
    widths=(4,),
    nonlinearity="tanh",
)
WINDOW = 2
UPDATES = WINDOW * CONFIG.updates_per_iteration
ARCHITECTURE = optim.Optim4RL(hidden_size=3)


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """These programs take longer to compile than to run."""
    monkeypatch.setattr(jax, "jit", quick_jit)


def transform(meta_params):
    return ARCHITECTURE.transform(meta_params, learning_rate=0.1)


def initial():
    """Meta-parameters none of which is 0."""
    meta_params = ARCHITECTURE.init(KEY)
    flat, unravel = ravel_pytree(meta_params)
    return unravel(flat + 0.3 * jax.random.normal(jax.random.key(1), flat.shape))


class Tape(NamedTuple):
    count: jax.Array
    gradients: optax.Updates  # (UPDATES, ...)


def recorder():
    """Keeps the last gradients that passed through it."""

    def init(params):
        tape = jax.tree.map(lambda x: jnp.zeros((UPDATES, *x.shape), x.dtype), params)
        return Tape(jnp.zeros((), jnp.int32), tape)

    def update(updates, state, params=None):
        where = state.count % UPDATES
        tape = jax.tree.map(lambda x, g: x.at[where].set(g), state.gradients, updates)
        return updates, Tape(state.count + 1, tape)

    return optax.GradientTransformation(init, update)


def test_whole_meta_gradient_against_finite_differences():
    """In float64, from the middle of a life, with data and the optimizer's inputs held fixed."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        to_64 = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float64), tree)  # noqa: E731
        meta_params = to_64(initial())
        build = lambda meta_params: optax.chain(recorder(), transform(meta_params))  # noqa: E731
        environment = probes.ObservationAction()
        lives = windows(Task(environment, CONFIG), build, WINDOW)
        learner = ppo(environment, CONFIG, build(meta_params))
        fresh = ppo(environment, CONFIG.replace(minibatches=1), build(meta_params))

        life = learner.init(KEY)
        params = to_64(life.params)
        life = life._replace(params=params, optimizer_state=build(meta_params).init(params))
        life = jax.jit(lives.grow)(meta_params, life)
        hidden = life.optimizer_state[1]
        assert all(jnp.abs(x).max() > 1e-3 for x in jax.tree.leaves(hidden))

        both = jax.jit(jax.value_and_grad(lives.loss, has_aux=True))
        (loss, (after, _)), gradient = both(meta_params, life)
        tape = after.optimizer_state[0].gradients
        iterated = life
        for _ in range(WINDOW):
            iterated, _ = learner.iterate(iterated)
        _, samples = fresh.play(iterated)
        start, unravel = ravel_pytree(meta_params)

        def replayed(flat):
            optimizer = transform(unravel(flat))

            def step(carry, gradients):
                params, state = carry
                updates, state = optimizer.update(gradients, state, params)
                return (optax.apply_updates(params, updates), state), None

            (params, _), _ = jax.lax.scan(step, (life.params, hidden), tape)
            return fresh.loss(params, samples)[0]

        def slope(direction):
            width = 1e-5 * direction
            return (replayed(start + width) - replayed(start - width)) / 2e-5

        np.testing.assert_allclose(jax.jit(replayed)(start), loss, rtol=1e-12)
        slopes = jax.jit(lambda x: jax.lax.map(slope, x))(jnp.eye(start.size))
        gradient = ravel_pytree(gradient)[0]
        assert gradient.dtype == jnp.float64
        assert np.linalg.norm(gradient) > 1e-2
        assert np.linalg.norm(slopes - gradient) < 1e-4 * np.linalg.norm(gradient)
        np.testing.assert_allclose(slopes, gradient, rtol=1e-4, atol=1e-6 * np.abs(slopes).max())


def surrogate_gradient(**changes):
    """The meta-gradient where the surrogate loss is all there is."""
    config = dataclasses.replace(CONFIG, value_weight=0.0, entropy_weight=0.0, **changes)
    lives = windows(Task(probes.ObservationAction(), config), transform, WINDOW)
    meta_params = initial()
    life = jax.jit(lives.init)(meta_params, KEY)
    gradient, _ = jax.jit(jax.grad(lives.loss, has_aux=True))(meta_params, life)
    return np.asarray(ravel_pytree(gradient)[0])


def test_surrogate_has_its_part_in_the_meta_gradient():
    """It has none if the probabilities that actions were drawn with are no constants."""
    gradient = surrogate_gradient()
    size = np.linalg.norm(gradient)
    assert size > 1e-2
    assert np.linalg.norm(surrogate_gradient(constant_rollouts=False)) < 1e-5 * size


@pytest.mark.slow
def test_rematerialised_meta_gradient_is_the_same():
    task, meta_params = Task(probes.ObservationAction(), CONFIG), initial()
    gradients = []
    for rematerialise in (True, False):
        lives = windows(task, transform, WINDOW, rematerialise=rematerialise)
        life = jax.jit(lives.init)(meta_params, KEY)
        gradient, _ = jax.jit(jax.grad(lives.loss, has_aux=True))(meta_params, life)
        gradients.append(np.asarray(ravel_pytree(gradient)[0]))
    size = np.linalg.norm(gradients[0])
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-5 * size)


@pytest.mark.parametrize("continuous", [False, True])
def test_a2c_is_a_limit_of_ppo(continuous):
    """Gradient of the loss on a rollout: that of the textbook's loss, written out."""
    a2c = {"epochs": 1, "minibatches": 1, "reward_scale": 3.0, "value_weight": 1.0}
    config = a2c_config(dataclasses.replace(CONFIG, **a2c))
    environment = probes.ObservationAction(continuous)
    learner = ppo(environment, config, optax.sgd(0.1))
    state, samples = learner.play(learner.init(KEY))
    actor = Actor(environment.action_space, 1, CONFIG.widths, CONFIG.nonlinearity)
    critic = Critic(1, CONFIG.widths, CONFIG.nonlinearity)

    def textbook(params):
        policy, _ = actor.apply({"params": params["actor"]}, samples.observation)
        value, _ = critic.apply({"params": params["critic"]}, samples.observation)
        gain = policy.log_probability(samples.action) * samples.advantage
        error = jnp.square(samples.target - value)
        return jnp.mean(-gain + 0.5 * error - 0.01 * policy.entropy())

    assert samples.advantage.shape == (24,)
    assert jnp.abs(samples.target - samples.value).max() > 1.5  # rewards are scaled
    ours = jax.jit(jax.grad(lambda params: learner.loss(params, samples)[0]))(state.params)
    theirs = jax.jit(jax.grad(textbook))(state.params)
    np.testing.assert_allclose(ravel_pytree(ours)[0], ravel_pytree(theirs)[0], rtol=1e-4, atol=1e-5)


def test_first_order_stops_what_the_optimizer_sees():
    """Descent by the gradient itself has second derivatives; held fixed, it has none."""
    build = lambda meta_params: optax.sgd(jnp.exp(meta_params["rate"]))  # noqa: E731
    meta_params = {"rate": jnp.float32(-1.0)}
    task = Task(probes.ObservationAction(), CONFIG)
    gradients = []
    for one in (build, first_order(build)):
        lives = windows(task, one, WINDOW)
        life = lives.init(meta_params, KEY)
        gradient, _ = jax.jit(jax.grad(lives.loss, has_aux=True))(meta_params, life)
        gradients.append(float(gradient["rate"]))
    assert all(np.isfinite(gradients))
    assert abs(gradients[0] - gradients[1]) > 1e-3 * abs(gradients[1])


def test_one_length_is_a_scan_and_a_fresh_rollout():
    """The very program that is written out here, so that the bits are the same as well."""
    task, meta_params = Task(probes.ObservationAction(), CONFIG), initial()
    config = CONFIG.replace(rematerialise=True)

    def plain(meta_params, life):
        learner = ppo(task.environment, config, transform(meta_params))
        life, metrics = jax.lax.scan(lambda life, _: learner.iterate(life), life, length=WINDOW)
        sums = {
            "episodes": jnp.sum(metrics["episodes"]),
            "return_sum": jnp.sum(metrics["episode_return_sum"]),
        }
        fresh = ppo(task.environment, config.replace(minibatches=1), transform(meta_params))
        life, samples = fresh.play(life)
        return fresh.loss(life.params, samples)[0], (life, sums)

    lives = windows(task, transform, WINDOW)
    life = jax.eval_shape(lives.init, meta_params, KEY)
    several = windows(task, transform, [1, WINDOW]).loss
    programs = [
        re.sub("0x[0-9a-f]+", "", str(jax.make_jaxpr(loss)(meta_params, life)))
        for loss in (plain, lives.loss, windows(task, transform, [WINDOW]).loss, several)
    ]
    assert programs[0] == programs[1] == programs[2] != programs[3]


def test_of_several_lengths_loss_and_gradient_are_the_mean():
    """Of those of each length alone, from the same life, which then goes on from the longest."""
    task, build = Task(probes.ObservationAction(), CONFIG), Tiny().transform
    meta_params = {"rate": jnp.float32(-1.0), "sign": jnp.full(1, -3.0)}
    lengths = (1, 2, 4)
    every = windows(task, build, lengths, meta_steps=3)
    life = jax.jit(every.grow)(meta_params, jax.jit(every.init)(meta_params, KEY))

    def both(lives):
        found = jax.jit(jax.value_and_grad(lives.loss, has_aux=True))(meta_params, life)
        return found[0], np.asarray(ravel_pytree(found[1])[0])

    parts = [windows(task, build, length, meta_steps=3) for length in lengths]
    assert [part.number for part in parts] == [8, 4, 2]
    assert every.number == 2
    alone = [both(part) for part in parts]
    (loss, (after, metrics)), gradient = both(every)
    np.testing.assert_allclose(loss, np.mean([value for (value, _), _ in alone]), rtol=1e-5)
    mean = np.mean([g for _, g in alone], axis=0)
    size = np.linalg.norm(mean)
    assert min(np.linalg.norm(g - mean) for _, g in alone) > 0.05 * size
    np.testing.assert_allclose(gradient, mean, rtol=1e-4, atol=1e-5 * size)
    longest, counted = alone[-1][0][1]
    for x, y in zip(leaves(after), leaves(longest), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    assert leaves(metrics) == leaves(counted)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ((0, 2), "window must be at least 1; got 0,2."),
        ((4, 2), "window must be one length or several that rise; got 4,2."),
        ((2, 2), "window must be one length or several that rise; got 2,2."),
        ((), "window must be one length or several that rise; got none."),
        ((2, 3), "window must divide the life's 8 iterations; got 3."),
    ],
)
def test_lengths_that_make_no_sense(window, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        windows(Task(probes.ObservationAction(), CONFIG), transform, window)
