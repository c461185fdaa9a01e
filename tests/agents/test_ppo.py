"""PPO against environments of known value, a loss written in NumPy, and what an optimizer sees.

Everything runs in float32 on networks of a few units; lifetimes are scans under jit.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import probes
import pytest
from quick import quick_jit

import optim
from agents import environments
from agents.networks import Actor, Critic
from agents.ppo import PPOConfig, ppo

KEYS = jax.random.split(jax.random.key(0), 3)

SMALL = PPOConfig(
    iterations=100,
    num_envs=16,
    num_steps=10,
    epochs=4,
    minibatches=2,
    discount=0.8,
    trace_decay=0.95,
    entropy_weight=0.0,
    widths=(16,),
    nonlinearity="tanh",
)


def lifetime(environment, config, optimizer, key):
    """The last state, and the metrics of every iteration."""
    learner = ppo(environment, config, optimizer)
    return jax.lax.scan(
        lambda state, _: learner.iterate(state), learner.init(key), length=int(config.iterations)
    )


# What each probe is trained with: a trace decay of 1 fits the critic to whole returns.
PROBES = {
    probes.ConstantReward: 0.95,
    probes.ObservationReward: 0.95,
    probes.TwoSteps: 0.95,
    probes.ActionReward: 0.95,
    probes.ObservationAction: 0.95,
    probes.CutShort: 0.95,
    probes.Endless: 1.0,
    functools.partial(probes.Endless, terminates=True): 1.0,
}


@functools.cache
def all_trained(continuous):
    """The last states of training three seeds on each probe with Adam, in one program."""
    options = [probe(continuous) for probe in PROBES]

    def run(index, trace_decay, key):
        config = SMALL.replace(trace_decay=trace_decay)
        return lifetime(probes.OneOf(options, index), config, optax.adam(5e-3), key)[0]

    grid = jax.vmap(jax.vmap(run, (None, None, 0)), (0, 0, None))
    return quick_jit(grid)(jnp.arange(len(options)), jnp.array(list(PROBES.values())), KEYS)


def trained(probe, continuous=False):
    """The last states of three seeds."""
    index = list(PROBES).index(probe)
    return jax.tree.map(lambda x: x[index], all_trained(continuous))


def values_at(state, observations, config=SMALL):
    """Values of a batch of observations, shape (seeds, observations)."""
    critic = Critic(widths=config.widths, nonlinearity=config.nonlinearity)
    params = {"params": state.params["critic"]}
    return jax.vmap(critic.apply, in_axes=(0, None))(params, jnp.asarray(observations))[0]


def policy_at(environment, state, observations, config=SMALL):
    """The policy's distribution at a batch of observations, leading axes (seeds, observations)."""
    actor = Actor(environment.action_space, widths=config.widths, nonlinearity=config.nonlinearity)
    params = {"params": state.params["actor"]}
    return jax.vmap(actor.apply, in_axes=(0, None))(params, jnp.asarray(observations))[0]


def assert_leaves_equal(tree, other, convert=lambda x: x):
    def equal(x, y):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(convert(x), convert(y))

    jax.tree.map(equal, tree, other)


# --- what is learned ----------------------------------------------------------------------------

both_kinds = pytest.mark.parametrize("continuous", [False, True], ids=["discrete", "continuous"])


@both_kinds
def test_constant_reward(continuous):
    state = trained(probes.ConstantReward, continuous)
    np.testing.assert_allclose(values_at(state, [[0.0]]), 1.0, atol=0.05)


@both_kinds
def test_reward_that_depends_on_the_observation(continuous):
    state = trained(probes.ObservationReward, continuous)
    expected = np.broadcast_to([-1.0, 1.0], (3, 2))
    np.testing.assert_allclose(values_at(state, [[-1.0], [1.0]]), expected, atol=0.05)


@both_kinds
def test_reward_is_discounted(continuous):
    state = trained(probes.TwoSteps, continuous)
    expected = np.broadcast_to([0.8, 1.0], (3, 2))
    np.testing.assert_allclose(values_at(state, [[-1.0], [1.0]]), expected, atol=0.05)


@both_kinds
def test_better_action_is_chosen(continuous):
    environment = probes.ActionReward(continuous)
    state = trained(probes.ActionReward, continuous)
    policy = policy_at(environment, state, [[0.0]])
    value = values_at(state, [[0.0]])
    if continuous:
        np.testing.assert_allclose(policy.mean, 0.5, atol=0.1)
        assert (policy.log_std < -1.0).all()
        np.testing.assert_allclose(value, -jnp.exp(2.0 * policy.log_std[..., 0]), atol=0.05)
    else:
        assert (jax.nn.softmax(policy.logits)[..., 1] > 0.95).all()
        np.testing.assert_allclose(value, 1.0, atol=0.1)


@both_kinds
def test_better_action_depends_on_the_observation(continuous):
    environment = probes.ObservationAction(continuous)
    state = trained(probes.ObservationAction, continuous)
    policy = policy_at(environment, state, [[-1.0], [1.0]])
    if continuous:
        expected = np.broadcast_to([[-0.5], [0.5]], (3, 2, 1))
        np.testing.assert_allclose(policy.mean, expected, atol=0.1)
    else:
        probability = jax.nn.softmax(policy.logits)
        assert (probability[:, 0, 0] > 0.95).all()
        assert (probability[:, 1, 1] > 0.95).all()
        np.testing.assert_allclose(values_at(state, [[-1.0], [1.0]]), 1.0, atol=0.1)


@both_kinds
def test_truncation_is_no_end(continuous):
    state = trained(probes.Endless, continuous)
    np.testing.assert_allclose(values_at(state, [[0.0]]), 1.0 / (1.0 - 0.8), atol=0.1)


@both_kinds
def test_termination_is_an_end(continuous):
    state = trained(list(PROBES)[-1], continuous)
    finite = np.mean([(1.0 - 0.8**k) / (1.0 - 0.8) for k in range(1, 6)])  # 2.31
    np.testing.assert_allclose(values_at(state, [[0.0]]), finite, atol=0.1)


@both_kinds
def test_bootstraps_from_the_observation_it_was_cut_off_at(continuous):
    state = trained(probes.CutShort, continuous)
    expected = np.broadcast_to([0.8, 1.0], (3, 2))
    np.testing.assert_allclose(values_at(state, [[-1.0], [1.0]]), expected, atol=0.05)


def test_bootstraps_right_under_normalisation():
    """Rewards are divided by a constant here, so that the ratio of the two values stays."""
    config = SMALL.replace(normalize_observations=True, normalize_rewards=True)
    run = functools.partial(lifetime, probes.CutShort(), config, optax.adam(5e-3))
    state, _ = quick_jit(jax.vmap(run))(KEYS)
    moments = state.environment_state.inner.moments
    raw = np.array([-1.0, 1.0])[None, :, None]
    mean, variance = np.asarray(moments.mean)[:, None], np.asarray(moments.variance)[:, None]
    seen = jnp.asarray((raw - mean) / np.sqrt(variance), jnp.float32)
    critic = Critic(widths=config.widths, nonlinearity=config.nonlinearity)
    values = jax.vmap(critic.apply)({"params": state.params["critic"]}, seen)[0]
    np.testing.assert_allclose(values[:, 0] / values[:, 1], 0.8, atol=0.05)
    deviation = np.sqrt(state.environment_state.moments.variance)
    np.testing.assert_allclose(values[:, 1] * deviation, 1.0, atol=0.05)


def test_policy_acts_as_learned():
    environment, state = probes.ObservationAction(), trained(probes.ObservationAction)
    act = ppo(environment, SMALL, optax.adam(5e-3)).policy(jax.tree.map(lambda x: x[0], state))
    observations = jnp.where(jnp.arange(200) % 2 == 0, -1.0, 1.0)[:, None]
    actions = act(jax.random.key(1), observations)
    assert actions.shape == (200,)
    assert actions.dtype == jnp.int32
    assert np.mean(actions == jnp.arange(200) % 2) > 0.95
    assert act(jax.random.key(1), observations.reshape(20, 10, 1)).shape == (20, 10)
    assert act(jax.random.key(1), observations[0]).shape == ()


def test_policy_normalises_raw_observations():
    config = SMALL.replace(iterations=2, normalize_observations=True, normalize_rewards=True)
    environment = probes.Countdown()
    learner = ppo(environment, config, optax.adam(1e-3))
    state, _ = quick_jit(lambda key: learner.iterate(learner.init(key)))(KEYS[0])
    # A policy as sharp as can be, so that its samples show its input.
    state.params["actor"]["Dense_1"]["kernel"] *= 1e6
    moments = state.environment_state.inner.moments
    raw = jax.random.uniform(jax.random.key(1), (64, 2)) * jnp.array([[1.0, 40.0]])
    seen = (raw - moments.mean[None]) / jnp.sqrt(moments.variance[None])
    actor = Actor(environment.action_space, widths=(16,), nonlinearity="tanh")
    logits = actor.apply({"params": state.params["actor"]}, seen)[0].logits
    actions = learner.policy(state)(jax.random.key(2), raw)
    assert len(np.unique(actions)) == 2
    clear = jnp.abs(logits[:, 0] - logits[:, 1]) > 50.0
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(actions[clear], jnp.argmax(logits, axis=-1)[clear])


@both_kinds
def test_greedy_policy_takes_the_likeliest_action(continuous):
    environment, probe = probes.ObservationAction(continuous), probes.ObservationAction
    learner = ppo(environment, SMALL, optax.adam(5e-3))
    state = jax.tree.map(lambda x: x[0], trained(probe, continuous))
    observations = jnp.linspace(-1.0, 1.0, 40)[:, None]
    policy, _ = Actor(environment.action_space, 1, SMALL.widths, SMALL.nonlinearity).apply(
        {"params": state.params["actor"]}, observations
    )
    expected = policy.mean if continuous else jnp.argmax(policy.logits, axis=-1)
    greedy = learner.policy(state, greedy=True)
    for key in KEYS:
        np.testing.assert_array_equal(greedy(key, observations), expected)
    assert greedy(None, observations).dtype == (jnp.float32 if continuous else jnp.int32)
    # Samples by default, of the same distribution.
    samples = jax.vmap(learner.policy(state), (0, None))(
        jax.random.split(KEYS[0], 500), observations
    )
    assert not np.array_equal(samples[0], samples[1])
    if continuous:
        np.testing.assert_allclose(samples.mean(axis=0), expected, atol=0.1)


FREE = "schedule_free_sgd:b1=0.6"


@functools.cache
def trained_schedule_free():
    """The last states of three seeds."""
    run = functools.partial(lifetime, probes.ObservationAction(), SMALL.replace(iterations=5))
    return quick_jit(jax.vmap(lambda key: run(optim.make(FREE, 0.3), key)[0]))(KEYS)


def test_policy_uses_the_parameters_that_the_optimizer_means_to_be_used():
    """Schedule-free optimizers train y and are used at x; whether seeds are vmapped or not."""
    states = trained_schedule_free()
    learner = ppo(probes.ObservationAction(), SMALL, optim.make(FREE, 0.3))
    y, z = states.params["actor"], states.optimizer_state.z["actor"]
    expected = jax.tree.map(lambda y, z: (y - np.float32(0.4) * z) / np.float32(0.6), y, z)
    for policy in (learner.policy(states), quick_jit(jax.vmap(learner.policy))(states)):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            policy.params,
            expected,
        )
    distance = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), expected, y)
    assert max(jax.tree.leaves(distance)) > 0.01


def test_rollouts_act_with_the_trained_parameters():
    """The rule of schedule-free optimizers: gradients, and so experience, are taken at y."""
    state = jax.tree.map(lambda x: x[0], trained_schedule_free())
    environment = probes.ObservationAction()
    learner = ppo(environment, SMALL, optim.make(FREE, 0.3))
    _, samples = quick_jit(learner.play)(state)
    actor = Actor(environment.action_space, 1, SMALL.widths, SMALL.nonlinearity)

    def log_probability(params):
        distribution, _ = actor.apply({"params": params}, samples.observation)
        return distribution.log_probability(samples.action)

    found = log_probability(state.params["actor"])
    np.testing.assert_allclose(found, samples.log_probability, rtol=1e-4, atol=1e-5)
    average = log_probability(learner.policy(state).params)
    assert jnp.abs(average - samples.log_probability).max() > 0.01


@pytest.mark.parametrize("name", optim.optimizer_names())
def test_all_other_named_optimizers_are_used_at_what_they_train(name):
    learner = ppo(probes.ObservationAction(), SMALL, optim.make(name, 0.1))
    state = jax.eval_shape(learner.init, KEYS[0])
    if name not in ("schedule_free_adamw", "schedule_free_sgd"):
        assert learner.policy(state).params is state.params["actor"]


# --- what the optimizer sees --------------------------------------------------------------------


class Record(NamedTuple):
    """What `update` was called with, one row a call."""

    calls: jax.Array  # shape=(), dtype=int32
    gradients: dict
    params: dict
    value: jax.Array  # shape=(size,)
    activations: dict
    training_progress: jax.Array  # shape=(size,)
    batch_progress: jax.Array  # shape=(size,)
    reset: jax.Array  # shape=(size,), 1 where it was true
    recomputed: jax.Array  # shape=(size,), the loss by `value_fn` and `obj_fn`


def recorder(size):
    """A transformation that leaves updates alone and keeps all that it is called with.

    Its extra arguments have no defaults: it does not work without them.
    """

    def rows(tree):
        return jax.tree.map(lambda x: jnp.zeros((size, *jnp.shape(x))), tree)

    def activity(path, x):
        del path
        return jnp.zeros((size, 1 if x.ndim == 0 else x.shape[-1]))

    def init(params):
        activations = jax.tree_util.tree_map_with_path(activity, params)
        if "log_std" in params["actor"]:
            activations["actor"]["log_std"] = jnp.zeros((size, 1))
        scalars = jnp.zeros((size,))
        return Record(
            jnp.zeros((), jnp.int32), rows(params), rows(params), scalars, activations, scalars,
            scalars, scalars, scalars,
        )  # fmt: skip

    def update(
        updates, state, params, *, value, activations, training_progress, batch_progress, reset,
        grad, value_fn, obj_fn, num_updates, **extra,
    ):  # fmt: skip
        assert not extra
        assert num_updates == size  # all that there is room for
        assert grad is updates  # It is first in the chain.
        assert (reset.shape, reset.dtype) == ((), bool)
        recomputed = (value_fn(params) + obj_fn(params)) / 2
        new = (
            updates, params, value, activations, training_progress, batch_progress,
            reset.astype(jnp.float32), recomputed,
        )  # fmt: skip
        for x in (value, training_progress, batch_progress):
            assert (x.shape, x.dtype, x.weak_type) == ((), jnp.float32, False)

        def put(buffer, x):
            assert buffer.shape[1:] == x.shape
            return buffer.at[state.calls].set(x)

        return updates, Record(state.calls + 1, *jax.tree.map(put, tuple(state[1:]), new))

    return optax.GradientTransformationExtraArgs(init, update)


def recorded(environment, config, learning_rate=1e-2, key=KEYS[0]):
    """First state, metrics (one row an iteration) and record of a whole lifetime."""
    size = int(config.iterations) * config.updates_per_iteration
    optimizer = optax.chain(recorder(size), optax.sgd(learning_rate))

    def run(key):
        learner = ppo(environment, config, optimizer)
        first = learner.init(key)
        return first, *jax.lax.scan(
            lambda state, _: learner.iterate(state), first, length=int(config.iterations)
        )

    first, state, metrics = quick_jit(run)(key)
    record = state.optimizer_state[0]
    assert record.calls == size
    return first, state, metrics, record


@both_kinds
def test_every_update_gets_all_extra_arguments(continuous):
    config = SMALL.replace(iterations=5, epochs=3, minibatches=2)
    _, state, metrics, record = recorded(probes.ObservationAction(continuous), config)
    training = record.training_progress.reshape(5, 3, 2)
    batch = record.batch_progress.reshape(5, 3, 2)
    expected = np.linspace(0, 1, 5, dtype=np.float32)[:, None, None]
    np.testing.assert_array_equal(training, np.broadcast_to(expected, training.shape))
    expected = np.linspace(0, 1, 3, dtype=np.float32)[None, :, None]
    np.testing.assert_array_equal(batch, np.broadcast_to(expected, batch.shape))
    assert training[-1, 0, 0] == 1.0
    assert batch[0, -1, 0] == 1.0
    # A new rollout's first update is its first epoch's first minibatch.
    np.testing.assert_array_equal(np.flatnonzero(record.reset), 6 * np.arange(5))

    np.testing.assert_allclose(record.recomputed, record.value, rtol=1e-5, atol=1e-6)
    assert len(np.unique(record.value)) > 20
    np.testing.assert_allclose(
        record.value.reshape(5, 6).mean(axis=1), metrics["loss"], rtol=1e-5, atol=1e-6
    )
    norms = jax.vmap(optax.tree.norm)(record.gradients).reshape(5, 6).mean(axis=1)
    np.testing.assert_allclose(metrics["gradient_norm"], norms, rtol=1e-4)

    assert jax.tree.structure(record.activations) == jax.tree.structure(state.params)
    for network, layers in record.activations.items():
        for layer in ("Dense_0", "Dense_1"):
            units = state.params[network][layer]["bias"].shape
            for leaf in ("kernel", "bias"):
                assert layers[layer][leaf].shape[1:] == units
                assert (layers[layer][leaf] >= 0).all()
    if continuous:
        # The recorder asks for shape (1,), and it is exp(log_std) as it stood.
        np.testing.assert_allclose(
            record.activations["actor"]["log_std"],
            np.exp(record.params["actor"]["log_std"]),
            rtol=1e-5,
        )


def test_one_iteration_of_one_epoch_has_no_progress():
    config = SMALL.replace(iterations=1, epochs=1, minibatches=4)
    record = recorded(probes.ConstantReward(), config)[-1]
    np.testing.assert_array_equal(record.training_progress, np.zeros(4))
    np.testing.assert_array_equal(record.batch_progress, np.zeros(4))


def test_minibatches_are_shuffled_and_complete():
    """The critic is V = w x and never changes, so that its activity is w times the mean x.

    The observations are distinct powers of two, whose sum tells which ones are in a minibatch.
    """
    config = PPOConfig(iterations=3, num_envs=1, num_steps=12, epochs=4, minibatches=3, widths=())
    record = recorded(probes.PowersOfTwo(12), config, learning_rate=0.0)[-1]
    weight = record.params["critic"]["Dense_0"]["kernel"][:, 0, 0]
    activity = record.activations["critic"]["Dense_0"]["kernel"][:, 0]
    sums = np.rint(activity / np.abs(weight) * 4).astype(int)
    np.testing.assert_allclose(activity / np.abs(weight) * 4, sums, rtol=1e-5)
    members = [frozenset(i for i in range(12) if total >> i & 1) for total in sums]
    epochs = [tuple(members[i : i + 3]) for i in range(0, len(members), 3)]
    for parts in epochs:
        assert [len(part) for part in parts] == [4, 4, 4]
        assert frozenset.union(*parts) == set(range(12))
    assert len(set(epochs)) == len(epochs) == 12
    in_order = (frozenset(range(4)), frozenset(range(4, 8)), frozenset(range(8, 12)))
    assert in_order not in epochs


def test_optimizer_without_extra_arguments_works():
    """One written before extra arguments existed, with exactly three parameters."""
    plain = optax.GradientTransformation(
        lambda params: optax.EmptyState(),
        lambda updates, state, params=None: (jax.tree.map(lambda g: -0.1 * g, updates), state),
    )
    config = SMALL.replace(epochs=1, minibatches=1)
    learner = ppo(probes.ObservationReward(), config, plain)

    def run(key):
        before = learner.init(key)
        after, metrics = learner.iterate(before)
        return optax.tree.sub(after.params, before.params), metrics

    step, metrics = quick_jit(run)(KEYS[0])
    np.testing.assert_allclose(optax.tree.norm(step), 0.1 * metrics["gradient_norm"], rtol=1e-4)


def test_optimizer_that_promotes_dtypes_works():
    """Other people's transformations rely on implicit promotion; the tests forbid it elsewhere."""

    def update(updates, state, params=None, *, value, **extra_args):
        scale = -np.float64(0.1) / (1 + jnp.zeros((1,), jnp.int32))
        return jax.tree.map(lambda g: (g * scale).reshape(g.shape) + 0 * value, updates), state

    optimizer = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    learner = ppo(probes.ConstantReward(), SMALL, optimizer)
    state = learner.init(KEYS[0])
    assert avals(jax.eval_shape(learner.iterate, state)[0]) == avals(jax.eval_shape(lambda: state))


# --- the loss -----------------------------------------------------------------------------------


def forward(layers, x):
    names = sorted(name for name in layers if name.startswith("Dense"))
    for name in names:
        x = x @ layers[name]["kernel"] + layers[name]["bias"]
        x = np.tanh(x) if name != names[-1] else x
    return x


def log_probability_and_entropy(actor, observations, actions):
    output = forward(actor, observations)
    if "log_std" in actor:
        log_std = actor["log_std"]
        z = (actions - output) / np.exp(log_std)
        log_probability = (-0.5 * z**2 - log_std - 0.5 * np.log(2 * np.pi)).sum(axis=-1)
        entropy = np.broadcast_to((log_std + 0.5 * np.log(2 * np.pi * np.e)).sum(), z.shape[:-1])
        return log_probability, entropy
    log_p = output - np.log(np.exp(output).sum(axis=-1, keepdims=True))
    chosen = np.take_along_axis(log_p, actions[..., None], axis=-1)[..., 0]
    return chosen, -(np.exp(log_p) * log_p).sum(axis=-1)


def ppo_loss(params, start, tape, config):
    """The loss of `params` on one rollout that `start` made, in NumPy with float64."""
    observations, actions, rewards = tape
    before, _ = log_probability_and_entropy(start["actor"], observations[:-1], actions)
    old_values = forward(start["critic"], observations)[..., 0]
    old, following = old_values[:-1], old_values[1:]
    advantages, running = np.zeros_like(rewards), 0.0
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + config.discount * following[t] - old[t]
        running = delta + config.discount * config.trace_decay * running
        advantages[t] = running
    targets = advantages + old
    normal = (advantages - advantages.mean()) / advantages.std()

    log_p, entropy = log_probability_and_entropy(params["actor"], observations[:-1], actions)
    ratio = np.exp(log_p - before)
    clipped = np.clip(ratio, 1 - config.clip, 1 + config.clip)
    policy_loss = -np.minimum(ratio * normal, clipped * normal).mean()
    values = forward(params["critic"], observations[:-1])[..., 0]
    distance = config.clip if config.value_clip is None else config.value_clip
    near = np.clip(values, old - distance, old + distance)
    value_loss = 0.5 * np.maximum((values - targets) ** 2, (near - targets) ** 2).mean()
    parts = {
        "loss": policy_loss + config.value_weight * value_loss
        - config.entropy_weight * entropy.mean(),
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy.mean(),
        "kl": (ratio - 1 - np.log(ratio)).mean(),
        "ratio_clipped": np.mean(ratio != clipped),
        "value_clipped": np.mean(values != near),
    }  # fmt: skip
    return parts


def numerical_gradient(function, params):
    """Central differences, one number at a time."""
    leaves, treedef = jax.tree.flatten(params)
    gradients = [np.zeros_like(leaf) for leaf in leaves]
    for leaf, gradient in zip(leaves, gradients, strict=True):
        for index in np.ndindex(leaf.shape):
            middle = leaf[index]
            sides = []
            for shift in (1e-6, -1e-6):
                leaf[index] = middle + shift
                sides.append(function(jax.tree.unflatten(treedef, leaves)))
            leaf[index] = middle
            gradient[index] = (sides[0] - sides[1]) / 2e-6
    return jax.tree.unflatten(treedef, gradients)


@pytest.mark.parametrize(
    ("continuous", "clip", "value_clip"),
    [
        (False, 0.1, None),
        (True, 0.1, None),
        (False, np.inf, 0.1),
        (False, 0.1, np.inf),
        (False, 0.1, 0.03),
        (True, np.inf, None),
    ],
)
def test_loss_and_gradients_against_numpy(continuous, clip, value_clip):
    """Three updates on the same rollout: the first with ratio 1, the others with clipping."""
    config = PPOConfig(
        iterations=1, num_envs=3, num_steps=8, epochs=3, minibatches=1, discount=0.9,
        trace_decay=0.8, clip=clip, value_clip=value_clip, entropy_weight=0.03, value_weight=0.7,
        widths=(4,), nonlinearity="tanh",
    )  # fmt: skip
    first, state, metrics, record = recorded(probes.Tape(continuous), config, learning_rate=1.0)
    tape_state = state.environment_state.inner.inner  # EpisodeStatistics -> AutoReset -> Tape
    observations = np.asarray(tape_state.observations, np.float64).swapaxes(0, 1)
    actions = np.asarray(tape_state.actions).swapaxes(0, 1)
    amounts = actions.sum(axis=-1) if continuous else actions
    tape = (observations, actions, observations[:-1, :, 0] * (amounts + 1.0))

    double = functools.partial(jax.tree.map, lambda x: np.array(x, np.float64))
    start = double(first.params)
    parts = []
    for call in range(3):
        params = double(jax.tree.map(lambda x, call=call: x[call], record.params))
        parts.append(ppo_loss(params, start, tape, config))
        np.testing.assert_allclose(record.value[call], parts[-1]["loss"], rtol=1e-4, atol=1e-5)
        gradients = numerical_gradient(
            lambda params: ppo_loss(params, start, tape, config)["loss"], params
        )
        jax.tree.map(
            lambda x, y, call=call: np.testing.assert_allclose(x[call], y, rtol=2e-3, atol=2e-5),
            record.gradients,
            gradients,
        )
        activity = np.abs(np.tanh(
            observations[:-1] @ params["critic"]["Dense_0"]["kernel"]
            + params["critic"]["Dense_0"]["bias"]
        )).mean(axis=(0, 1))  # fmt: skip
        np.testing.assert_allclose(
            record.activations["critic"]["Dense_0"]["kernel"][call], activity, rtol=1e-4
        )
    jax.tree.map(
        lambda x, y: np.testing.assert_array_equal(x[0], y), record.params, first.params
    )  # fmt: skip
    assert parts[0]["ratio_clipped"] == parts[0]["value_clipped"] == 0
    assert (0.1 < parts[-1]["ratio_clipped"] < 1) == np.isfinite(clip)
    assert (parts[-1]["value_clipped"] > 0.1) == np.isfinite(value_clip or clip)
    for name in ("loss", "policy_loss", "value_loss", "entropy", "kl"):
        mean = np.mean([part[name] for part in parts])
        np.testing.assert_allclose(metrics[name][0], mean, rtol=1e-3, atol=1e-5, err_msg=name)


def test_episode_metrics():
    """Eight environments of five-step episodes, ten steps each: two episodes of return 5 each."""
    config = SMALL.replace(iterations=2, num_envs=8)
    learner = ppo(probes.Endless(), config, optax.sgd(0.0))
    _, metrics = quick_jit(lambda key: learner.iterate(learner.init(key)))(KEYS[0])
    assert metrics["episodes"] == 16
    assert metrics["episode_return_sum"] == 80.0
    assert metrics["episode_length_sum"] == 80
    assert all(metric.shape == () for metric in metrics.values())


def test_episode_metrics_count_rewards_before_normalisation():
    config = SMALL.replace(iterations=2, num_envs=8, normalize_rewards=True)
    learner = ppo(probes.Endless(), config, optax.sgd(0.0))
    _, metrics = quick_jit(lambda key: learner.iterate(learner.init(key)))(KEYS[0])
    assert metrics["episode_return_sum"] == 80.0


# --- transformations ----------------------------------------------------------------------------


def test_vmap_over_seeds_equals_single_runs():
    config = SMALL.replace(iterations=3)
    run = functools.partial(lifetime, probes.ObservationAction(), config, optax.adam(1e-3))
    together, single = quick_jit(jax.vmap(run))(KEYS), quick_jit(run)
    for i, key in enumerate(KEYS):
        state, metrics = single(key)
        jax.tree.map(
            lambda x, y, i=i: np.testing.assert_allclose(x[i], y, rtol=1e-3, atol=1e-5),
            (together[0].params, together[1]),
            (state.params, metrics),
        )
    different = jax.tree.map(lambda x: len(np.unique(x[:, 0, 0], axis=0)) == 3, [
        together[0].params["actor"]["Dense_0"]["kernel"],
        together[0].params["critic"]["Dense_0"]["kernel"],
    ])  # fmt: skip
    assert all(different)


@functools.cache
def grid_of_learning_rates():
    """A jitted program from a vector of learning rates to final params, and its trace count."""
    traces = []

    def run(learning_rate, key):
        traces.append(None)
        config = SMALL.replace(iterations=4)
        optimizer = optax.adam(learning_rate)
        return lifetime(probes.ObservationAction(), config, optimizer, key)

    return quick_jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None))), traces


def test_grid_of_learning_rates_and_seeds_is_one_program():
    program, traces = grid_of_learning_rates()
    rates = jnp.array([0.0, 1e-3, 1e-2])
    state, metrics = program(rates, KEYS)
    program(jnp.array([0.0, 1e-4, 1e-1]), KEYS)
    assert len(traces) == 1
    assert program._cache_size() == 1
    assert metrics["loss"].shape == (3, 3, 4)
    initial = jax.vmap(ppo(probes.ObservationAction(), SMALL, optax.adam(0.0)).init)(KEYS).params
    moved = jax.tree.map(
        lambda x, y: jnp.abs(x - y[None]).max(axis=tuple(range(1, x.ndim))), state.params, initial
    )
    for distance in jax.tree.leaves(moved):
        assert distance[0] < 1e-6 < distance[1] < distance[2]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_diverged_run_leaves_the_others_alone(bad):
    program, _ = grid_of_learning_rates()
    healthy = program(jnp.array([1e-3, 1e-3, 1e-2]), KEYS)
    mixed = program(jnp.array([1e-3, bad, 1e-2]), KEYS)
    for rate in (0, 2):
        assert_leaves_equal(healthy, mixed, convert=lambda x, rate=rate: x[rate])
    for leaf in jax.tree.leaves(mixed[0].params):
        assert not jnp.isfinite(leaf[1]).all()
        assert jnp.isfinite(leaf[0]).all()


def test_grid_of_discounts_is_one_program():
    discounts = jnp.array([0.3, 0.6, 0.9])
    traces = []

    def run(discount, key):
        traces.append(None)
        config = SMALL.replace(discount=discount)
        return lifetime(probes.TwoSteps(), config, optax.adam(5e-3), key)[0]

    program = quick_jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))
    state = program(discounts, KEYS)
    assert len(traces) == 1
    for i, discount in enumerate(discounts):
        values = values_at(jax.tree.map(lambda x, i=i: x[i], state), [[-1.0], [1.0]])
        expected = np.broadcast_to([discount, 1.0], (3, 2))
        np.testing.assert_allclose(values, expected, atol=0.05)


def test_every_numeric_setting_can_be_traced():
    config = SMALL.replace(normalize_rewards=True)
    numeric = jax.tree.leaves(config)
    assert len(numeric) == 7  # iterations, discount, trace decay, clip, two weights, reward scale

    def step(config, key):
        learner = ppo(probes.ObservationAction(), config, optax.adam(1e-3))
        return learner.iterate(learner.init(key))

    configs = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 2), config)
    traced = jax.eval_shape(jax.vmap(step, (0, None)), configs, KEYS[0])
    plain = jax.eval_shape(functools.partial(step, config), KEYS[0])
    assert jax.tree.map(lambda x: x.shape, traced) == jax.tree.map(
        lambda x: (2, *x.shape), plain
    )  # fmt: skip


# --- what is compiled ---------------------------------------------------------------------------


def avals(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


def assert_state_is_stable(name, **options):
    config = PPOConfig(iterations=2, num_envs=2, num_steps=2, minibatches=2, widths=(4,), **options)
    learner = ppo(environments.make(name), config, optax.adam(1e-3))
    state = jax.eval_shape(learner.init, jax.random.key(0))
    after, _ = jax.eval_shape(learner.iterate, state)
    assert avals(state) == avals(after)
    assert not any(x.weak_type for x in jax.tree.leaves(state))


ALL_WRAPPERS = {
    "normalize_observations": True,
    "normalize_rewards": True,
    "cached_resets": True,
}


@pytest.mark.parametrize("name", ["Pendulum-v1", "Catch-bsuite", "inverted_pendulum"])
def test_state_keeps_its_types_under_all_wrappers(name):
    assert_state_is_stable(name, **ALL_WRAPPERS)


@pytest.mark.parametrize("name", environments.GYMNAX)
def test_state_keeps_its_types_on_gymnax(name):
    assert_state_is_stable(name)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "inverted_pendulum" else pytest.mark.slow)
        for name in environments.BRAX
    ],
)
def test_state_keeps_its_types_on_brax(name):
    assert_state_is_stable(name)


ADAPTERS = {
    "CartPole-v1": {},
    "Pendulum-v1": {},
    "small_dense_short": {},
    "inverted_pendulum": {"backend": "spring"},
    "Hopper-v5": {},
}


@pytest.mark.parametrize("x64", [False, True], ids=["x32", "x64"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_an_iteration_on_every_adapter(name, x64):
    """Under all wrappers; the second call meets the state that the first one left."""
    if name in environments.GYMNASIUM:
        pytest.importorskip("gymnasium.envs.mujoco")
    config = PPOConfig(
        iterations=2, num_envs=2, num_steps=3, minibatches=2, widths=(4,), **ALL_WRAPPERS
    )
    with jax.enable_x64(x64):
        environment = environments.make(name, **ADAPTERS[name])
        learner = ppo(environment, config, optim.make("adam", 1e-3))
        run = lambda key: jax.lax.scan(  # noqa: E731
            lambda state, _: learner.iterate(state), learner.init(key), length=2
        )
        state, metrics = quick_jit(run)(jax.random.key(0))
        actions = learner.policy(state)(jax.random.key(1), jnp.zeros(environment.observation_shape))
    assert state.iteration == 2
    assert np.isfinite(metrics["loss"]).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.float32)}
    assert actions.dtype in (jnp.float32, jnp.int32)


def test_second_iteration_compiles_nothing():
    config = PPOConfig(iterations=3, num_envs=2, num_steps=4, minibatches=2, widths=(4,))
    learner = ppo(environments.make("CartPole-v1"), config, optax.adam(1e-3))
    init, iterate = quick_jit(learner.init), quick_jit(learner.iterate)
    state = init(jax.random.key(0))
    for expected in (1, 2, 3):
        state, _ = iterate(state)
        assert state.iteration == expected
    assert iterate._cache_size() == 1


def test_size_of_the_networks_on_breakout():
    config = PPOConfig(iterations=1)
    learner = ppo(environments.make("Breakout-MinAtar"), config, optax.adam(1e-3))
    params = jax.eval_shape(learner.init, jax.random.key(0)).params
    assert sum(x.size for x in jax.tree.leaves(params)) == 59_908


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"minibatches": 3}, "minibatches.*160.*got 3"),
        ({"minibatches": 0}, "minibatches must be at least 1; got 0"),
        ({"num_envs": 0}, "num_envs must be at least 1; got 0"),
        (
            {"num_envs": 2**20, "num_steps": 2**11},
            "num_envs \\* num_steps must be below 2147483648; got 2147483648",
        ),
        ({"nonlinearity": "gelu"}, "nonlinearity.*relu, tanh.*'gelu'"),
    ],
)
def test_wrong_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        ppo(probes.ConstantReward(), SMALL.replace(**setting), optax.adam(1e-3))


@pytest.mark.parametrize("name", ["adahessian", "adam_reset", "lbfgs", "mars:exact=true", "sophia"])
def test_optimizers_that_need_more_than_gradients(name):
    """They get it: every parameter moves, none leaves the neighbourhood."""
    config = SMALL.replace(iterations=3, epochs=2, minibatches=2)
    learner = ppo(probes.ObservationAction(False), config, optim.make(name, 1e-2))
    first = learner.init(KEYS[0])
    state, _ = quick_jit(
        lambda state: jax.lax.scan(lambda s, _: learner.iterate(s), state, length=3)
    )(first)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params, first.params)
    assert all(0 < distance < 10 for distance in jax.tree.leaves(moved))
