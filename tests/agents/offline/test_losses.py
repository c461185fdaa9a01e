"""Losses and gradients of the offline learners, in float64.

Against the reference numbers where they are at hand, and always against losses written in NumPy and
their central differences.
"""

import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import numpy_offline as reference
import optax
import pytest
from quick import quick_jit

from agents.offline import iql, pars, rebrac, sqog, td3, td3_bc
from agents.offline.common import Transitions, td_target

HERE = pathlib.Path(__file__).parent
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


def golden_folder():
    if "RL_OPTIM_REFERENCE" in os.environ:
        return pathlib.Path(os.environ["RL_OPTIM_REFERENCE"]) / "golden"
    for parent in HERE.parents:
        if (parent / "shared" / "reference" / "golden").is_dir():
            return parent / "shared" / "reference" / "golden"
    return None


class Golden:
    """A file of reference numbers, as trees."""

    def __init__(self, name):
        folder = golden_folder()
        if folder is None:
            pytest.skip("the reference numbers are not beside this repository")
        self.data = np.load(folder / "offline" / f"{name}.npz")
        self.hyper = json.loads(str(self.data["hyper"]))

    def out(self, name):
        return self.data[f"out/{name}"]

    def tree(self, prefix):
        """Parameters in flax's names: w, b are a layer's, s, o its normalisation's."""
        places = {"w": ("Dense", "kernel"), "b": ("Dense", "bias")}
        places |= {"s": ("LayerNorm", "scale"), "o": ("LayerNorm", "bias")}
        tree = {}
        for key in self.data.files:
            if not key.startswith(f"{prefix}/"):
                continue
            *path, leaf = key.removeprefix(f"{prefix}/").split("/")
            node = tree
            for name in path:
                node = node.setdefault(name, {})
            if leaf == "logstd":
                node["log_std"] = jnp.asarray(self.data[key])
            else:
                module, entry = places[leaf[0]]
                node = node.setdefault(f"{module}_{leaf[1:]}", {})
                node[entry] = jnp.asarray(self.data[key])
        return tree

    def batch(self):
        entry = {key: jnp.asarray(self.data[f"batch/{key}"]) for key in ("obs", "action", "reward")}
        return Transitions(
            entry["obs"],
            entry["action"],
            entry["reward"],
            jnp.asarray(self.data["batch/next_obs"]),
            jnp.asarray(self.data["batch/done"] == 1.0),
            jnp.asarray(self.data["batch/next_action"]),
            jnp.ones(len(entry["reward"]), bool),
        )

    def noise(self):
        return jnp.asarray(self.data["batch/noise"])

    def targets(self):
        return {"critic": self.tree("params/qt"), "actor": self.tree("params/pit")}


def assert_trees_close(ours, theirs, **tolerance):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, **(tolerance or TOLERANCE)), ours, theirs
    )


def value_and_gradient(loss, params):
    (value, (activations, _)), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert value.dtype == jnp.float64
    assert jax.tree.structure(activations) == jax.tree.structure(params)
    return value, gradient


# --- the reference numbers ----------------------------------------------------------------------


def test_td3_bc_reference():
    file = Golden("td3bc_a")
    config = td3_bc.TD3BCConfig(
        iterations=1,
        discount=file.hyper["gamma"],
        policy_noise=file.hyper["policy_noise"],
        noise_clip=file.hyper["noise_clip"],
        alpha=file.hyper["alpha"],
        actor_widths=(7, 7),
        critic_widths=(7, 7),
    )
    networks, batch = td3.make_networks(config, 3), file.batch()
    loss, gradient = value_and_gradient(
        lambda p: td3.td_loss(networks, config, p, file.targets(), batch, file.noise()),
        file.tree("params/q"),
    )
    np.testing.assert_allclose(loss, file.out("critic_loss_sum"), **TOLERANCE)
    assert_trees_close(gradient, file.tree("out/critic_grad"))
    critic = file.tree("params/q")
    loss, gradient = value_and_gradient(
        lambda p: td3_bc.actor_loss(networks, config, p, critic, batch), file.tree("params/pi")
    )
    np.testing.assert_allclose(loss, file.out("actor_loss"), **TOLERANCE)
    assert_trees_close(gradient, file.tree("out/actor_grad"))


def test_rebrac_reference():
    file = Golden("rebrac_a")
    config = rebrac.ReBRACConfig(
        iterations=1,
        discount=file.hyper["gamma"],
        policy_noise=file.hyper["policy_noise"],
        noise_clip=file.hyper["noise_clip"],
        actor_penalty=file.hyper["actor_bc"],
        critic_penalty=file.hyper["critic_bc"],
        actor_widths=(7, 7, 7),
        critic_widths=(7, 7, 7),
    )
    networks, batch = td3.make_networks(config, 3), file.batch()
    loss, gradient = value_and_gradient(
        lambda p: rebrac.critic_loss(networks, config, p, file.targets(), batch, file.noise()),
        file.tree("params/q"),
    )
    np.testing.assert_allclose(loss, file.out("critic_loss_sum"), **TOLERANCE)
    assert_trees_close(gradient, file.tree("out/critic_grad"))
    critic = file.tree("params/q")
    loss, gradient = value_and_gradient(
        lambda p: rebrac.actor_loss(networks, config, p, critic, batch), file.tree("params/pi")
    )
    np.testing.assert_allclose(loss, file.out("actor_loss"), **TOLERANCE)
    assert_trees_close(gradient, file.tree("out/actor_grad"))


def test_iql_reference():
    """The reference's critic loss is the sum over critics, ours the mean: half of it."""
    file = Golden("iql_a")
    config = iql.IQLConfig(
        iterations=1,
        discount=file.hyper["gamma"],
        expectile=file.hyper["iql_tau"],
        inverse_temperature=file.hyper["beta"],
        max_weight=file.hyper["clip"],
        actor_widths=(7, 7),
        critic_widths=(7, 7),
    )
    networks, batch = iql.make_networks(config, 3), file.batch()
    value, target = file.tree("params/v"), {"critic": file.tree("params/qt")}
    loss, gradient = value_and_gradient(
        lambda p: iql.value_loss(networks, config, p, target, batch), value
    )
    np.testing.assert_allclose(loss, file.out("value_loss"), **TOLERANCE)
    assert_trees_close(gradient, file.tree("out/value_grad"))
    loss, gradient = value_and_gradient(
        lambda p: iql.critic_loss(networks, config, p, value, batch), file.tree("params/q")
    )
    np.testing.assert_allclose(2 * loss, file.out("critic_loss_sum"), **TOLERANCE)
    assert_trees_close(jax.tree.map(lambda g: 2 * g, gradient), file.tree("out/critic_grad"))
    loss, gradient = value_and_gradient(
        lambda p: iql.actor_loss(networks, config, p, value, target, batch), file.tree("params/pi")
    )
    np.testing.assert_allclose(loss, file.out("actor_loss"), **TOLERANCE)
    assert_trees_close(gradient, file.tree("out/actor_grad"))


# --- NumPy and central differences --------------------------------------------------------------

SIZE, OBSERVATION, ACTION = 6, 3, 2


def random_batch(seed=0):
    draw = np.random.default_rng(seed)
    return Transitions(
        draw.normal(size=(SIZE, OBSERVATION)),
        draw.uniform(-1, 1, size=(SIZE, ACTION)),
        draw.normal(size=SIZE),
        draw.normal(size=(SIZE, OBSERVATION)),
        np.arange(SIZE) == 1,
        draw.uniform(-1, 1, size=(SIZE, ACTION)),
        np.arange(SIZE) > 2,
    )


def random_params(config, learner, seed=0):
    """Parameters of a learner and of its targets, shifted so that no two networks agree."""
    state = learner(OBSERVATION, ACTION, config, *[optax.identity()] * optimizers(learner)).init(
        jax.random.key(seed)
    )
    draw = np.random.default_rng(seed)

    def shifted(tree):
        return jax.tree.map(
            lambda x: np.asarray(x, np.float64) + 0.1 * draw.normal(size=x.shape), tree
        )

    return shifted(state.params), shifted(state.target_params)


def optimizers(learner):
    return 3 if learner is iql.iql else 2


SMALL = {"iterations": 1, "actor_widths": (4,), "critic_widths": (4,), "discount": 0.9}
CONFIGS = {
    "td3_bc": (td3_bc.td3_bc, td3_bc.TD3BCConfig(**SMALL)),
    "rebrac": (rebrac.rebrac, rebrac.ReBRACConfig(**SMALL, critic_penalty=0.7, actor_penalty=0.3)),
    "sqog": (sqog.sqog, sqog.SQOGConfig(**SMALL, alpha=2.0, beta=0.8)),
    "pars": (
        pars.pars,
        pars.PARSConfig(
            **SMALL,
            reward_scale=3.0,
            min_reward=-0.5,
            infeasible_weight=0.2,
            infeasible_distance=5.0,
            behaviour_weight=0.4,
        ),
    ),
    "iql": (
        iql.iql,
        iql.IQLConfig(**SMALL, expectile=0.8, inverse_temperature=1.5, max_weight=1.5),
    ),
}


def check_gradient(ours, loss, params):
    """Our loss and gradient against a NumPy loss and its central differences."""
    value, gradient = value_and_gradient(ours, jax.tree.map(jnp.asarray, params))
    np.testing.assert_allclose(value, loss(params), rtol=1e-12)
    assert_trees_close(gradient, reference.central_differences(loss, params), rtol=2e-6, atol=2e-8)


def noises():
    draw = np.random.default_rng(5)
    return draw.normal(size=(SIZE, ACTION)), draw.uniform(-1, 1, size=(SIZE, ACTION))


@pytest.mark.parametrize("name", ["td3_bc", "rebrac", "sqog", "pars"])
def test_critic_loss_of_deterministic_learners(name):
    learner, config = CONFIGS[name]
    params, targets = random_params(config, learner)
    networks, batch = td3.make_networks(config, ACTION), random_batch()
    arrays = batch._asdict()
    noise, second = noises()
    smoothing = {"discount": 0.9, "scale": config.policy_noise, "clip": config.noise_clip}
    critic = params["critic"]
    if name == "td3_bc":
        target = reference.td3_target(targets, arrays, noise, **smoothing)
        ours = lambda p: td3.td_loss(networks, config, p, targets, batch, noise)  # noqa: E731
        theirs = lambda p: reference.td_loss(p, target, arrays)  # noqa: E731
    elif name == "rebrac":
        target = reference.td3_target(targets, arrays, noise, **smoothing, penalty=0.7)
        ours = lambda p: rebrac.critic_loss(networks, config, p, targets, batch, noise)  # noqa: E731
        theirs = lambda p: reference.td_loss(p, target, arrays)  # noqa: E731
    elif name == "sqog":
        target = reference.td3_target(targets, arrays, noise, **smoothing)
        neighbour = reference.smoothed(batch.action, second, 0.6, 0.5)
        fixed = reference.twin(critic, batch.observation, batch.action)
        draws = sqog.SQOGNoise(noise, second)
        ours = lambda p: sqog.critic_loss(networks, config, p, targets, batch, draws)  # noqa: E731
        theirs = lambda p: reference.sqog_loss(p, target, arrays, neighbour, fixed, 0.8)  # noqa: E731
    else:
        target = reference.td3_target(targets, arrays, noise, **smoothing, reward_scale=3.0)
        outside = 5.0 * (second + np.where(second < 0, -1.0, 1.0))
        draws = pars.PARSNoise(noise, second)
        ours = lambda p: pars.critic_loss(networks, config, p, targets, batch, draws)  # noqa: E731
        theirs = lambda p: reference.pars_loss(p, target, arrays, outside, -15.0, 0.2)  # noqa: E731
    check_gradient(ours, theirs, critic)


@pytest.mark.parametrize("name", ["td3_bc", "rebrac", "sqog", "pars"])
def test_actor_loss_of_deterministic_learners(name):
    learner, config = CONFIGS[name]
    params, _ = random_params(config, learner)
    networks, batch = td3.make_networks(config, ACTION), random_batch()
    arrays, critic = batch._asdict(), params["critic"]
    _, values = reference.actor_terms(params["actor"], critic, arrays)
    first, smaller = np.abs(values[0]).mean(), np.abs(values.min(0)).mean()
    module = {"td3_bc": td3_bc, "rebrac": rebrac, "sqog": sqog, "pars": pars}[name]
    weights = {"rebrac": (0.3, 1.0), "sqog": (1.0, 2.0), "pars": (0.4, 1.0)}

    def theirs(p):
        if name == "td3_bc":
            return reference.td3_bc_actor_loss(p, critic, arrays, 2.5 / first)
        behaviour, value = weights[name]
        return reference.summed_actor_loss(p, critic, arrays, behaviour, value / smaller)

    check_gradient(
        lambda p: module.actor_loss(networks, config, p, critic, batch), theirs, params["actor"]
    )


def test_losses_of_iql():
    learner, config = CONFIGS["iql"]
    params, targets = random_params(config, learner)
    networks, batch = iql.make_networks(config, ACTION), random_batch()
    arrays, value = batch._asdict(), params["value"]
    check_gradient(
        lambda p: iql.value_loss(networks, config, p, targets, batch),
        lambda p: reference.iql_value_loss(p, targets, arrays, 0.8),
        value,
    )
    next_value = reference.network(value, batch.next_observation)[:, 0]
    target = batch.reward + 0.9 * (1 - batch.terminated) * next_value
    check_gradient(
        lambda p: iql.critic_loss(networks, config, p, value, batch),
        lambda p: 0.5 * reference.td_loss(p, target, arrays),
        params["critic"],
    )
    weight = np.minimum(np.exp(1.5 * reference.iql_advantage(value, targets, arrays)), 1.5)
    assert (weight == 1.5).any()
    assert (weight < 1.5).any()
    check_gradient(
        lambda p: iql.actor_loss(networks, config, p, value, targets, batch),
        lambda p: reference.iql_actor_loss(p, weight, arrays),
        params["actor"],
    )


def test_infinite_values_after_an_end_do_not_matter():
    """0 times infinity is nan; an end has to choose, not multiply."""
    target = td_target(jnp.ones(2), jnp.asarray([True, False]), 0.9, jnp.asarray([jnp.inf, 2.0]))
    np.testing.assert_allclose(target, [1.0, 2.8])
