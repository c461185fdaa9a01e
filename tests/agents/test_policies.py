"""Trained policies: saved and loaded they act as before, and what is no such file is named."""

import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from quick import quick_jit

import agents
import optim
from agents import environments, policies
from agents.offline.common import Normalizer, Transitions
from agents.offline.iql import IQLConfig, iql
from agents.offline.pars import PARSConfig, pars
from agents.offline.td3_bc import TD3BCConfig, td3_bc
from agents.policies import POLICIES_FILE, load_policy, policies_of_seeds, save_policies
from agents.ppo import PPOConfig, ppo

SEEDS = (3, 0)
KEY = jax.random.key(0)
NORMALIZER = Normalizer(jnp.array([0.3, -0.2, 0.1]), jnp.array([1.5, 0.5, 2.0]))


@functools.cache
def online(name, nonlinearity="relu"):
    """A learner, and the states of two seeds after an iteration."""
    config = PPOConfig(
        iterations=1,
        num_envs=4,
        num_steps=8,
        minibatches=2,
        widths=(8, 4),
        nonlinearity=nonlinearity,
        normalize_observations=name != "CartPole-v1",
        normalize_rewards=name == "Pendulum-v1",
    )
    # Schedule-free, so that trained parameters are not those to use.
    learner = ppo(environments.make(name), config, optim.make("schedule_free_sgd", 0.3))
    run = lambda key: learner.iterate(learner.init(key))[0]  # noqa: E731
    return learner, quick_jit(jax.vmap(run))(jax.random.split(KEY, 2))


@functools.cache
def offline(name):
    draw = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(draw.normal(size=shape), jnp.float32)  # noqa: E731
    data = Transitions(
        *(normal(16, 3), jnp.tanh(normal(16, 2)), normal(16), normal(16, 3)),
        *(jnp.arange(16) % 4 == 0, jnp.tanh(normal(16, 2)), jnp.arange(16) % 4 > 0),
    )
    tiny = {
        "iterations": 1,
        "critic_steps": 4,
        "batch_size": 8,
        "actor_widths": (8, 4),
        "critic_widths": (4,),
    }
    optimizer = optim.make("schedule_free_sgd", 0.3)
    learner = {
        "td3_bc": lambda: td3_bc(3, 2, TD3BCConfig(**tiny), *[optimizer] * 2, NORMALIZER),
        "pars": lambda: pars(3, 2, PARSConfig(**tiny, actor_layer_norm=True), *[optimizer] * 2),
        "iql": lambda: iql(3, 2, IQLConfig(**tiny, actor_dropout=0.1), *[optimizer] * 3),
    }[name]()
    run = lambda key: learner.iterate(learner.init(key), data)[0]  # noqa: E731
    return learner, quick_jit(jax.vmap(run))(jax.random.split(KEY, 2))


LEARNERS = {
    "discrete": functools.partial(online, "CartPole-v1"),
    "images": functools.partial(online, "Catch-bsuite", "tanh"),
    "box": functools.partial(online, "Pendulum-v1"),
    **{name: functools.partial(offline, name) for name in ("td3_bc", "pars", "iql")},
}
OBSERVATION_SHAPES = {"discrete": (4,), "images": (10, 5)}


def saved(name, folder):
    """A run directory with the policies, as training leaves it."""
    learner, states = LEARNERS[name]()
    (folder / "config.json").write_text("{}")
    of_seeds = policies_of_seeds(jax.vmap(learner.policy)(states), SEEDS)
    save_policies(folder / POLICIES_FILE, of_seeds, name)
    return folder


def observations(name):
    return 2.0 * jax.random.normal(KEY, (6, *OBSERVATION_SHAPES.get(name, (3,))))


def taken_by_the_learner(name, index, key, greedy):
    """Actions of the learner's own policy, as the environment takes them."""
    learner, states = LEARNERS[name]()
    state = jax.tree.map(lambda x: x[index], states)
    if name in ("td3_bc", "pars", "iql"):
        return learner.policy(state)(key, observations(name))
    actions = learner.policy(state, greedy=greedy)(key, observations(name))
    return jnp.clip(actions, -2.0, 2.0) if name == "box" else actions


def assert_same_actions(found, expected):
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_loaded_policy_acts_as_the_learners(name, tmp_path):
    run = saved(name, tmp_path)
    for index, seed in enumerate(SEEDS):
        policy = load_policy(run, seed)
        greedy = policy.act(observations(name))
        assert_same_actions(greedy, taken_by_the_learner(name, index, KEY, greedy=True))
        # One at a time, from NumPy, and for any leading shape.
        one = policy.act(np.asarray(observations(name), np.float64)[2])
        assert_same_actions(one, greedy[2])
        shape = observations(name).shape
        pairs = policy.act(observations(name).reshape(2, 3, *shape[1:]))
        assert_same_actions(pairs.reshape(greedy.shape), greedy)
    assert load_policy(str(run / POLICIES_FILE), 0).act(observations(name)).shape == greedy.shape


@pytest.mark.parametrize("name", LEARNERS)
def test_with_a_key_actions_are_sampled(name, tmp_path):
    policy = load_policy(saved(name, tmp_path), SEEDS[1])
    sampled = policy.act(observations(name), KEY)
    if name in ("td3_bc", "pars"):  # which are deterministic
        assert_same_actions(sampled, policy.act(observations(name)))
    elif name == "iql":
        samples = jax.vmap(lambda key: policy.act(observations(name), key))(
            jax.random.split(KEY, 500)
        )
        assert (jnp.abs(samples) <= 1.0).all()
        assert (samples.std(axis=0) > 0.1).all()
    else:
        assert_same_actions(sampled, taken_by_the_learner(name, 1, KEY, greedy=False))


def test_actions_are_within_the_bounds():
    """Those of PPO are clipped to them; those of offline learners, in [-1, 1], are scaled."""
    learner, states = online("Pendulum-v1")
    policy = learner.policy(jax.tree.map(lambda x: x[0], states))
    assert (policy.low, policy.high) == ((-2.0,), (2.0,))
    policy.params["log_std"] = policy.params["log_std"] + 5.0
    actions = policy.act(observations("box"), KEY)
    assert jnp.abs(actions).max() == 2.0
    assert jnp.abs(policy(KEY, observations("box"))).max() > 2.0

    learner, states = offline("td3_bc")
    policy = learner.policy(jax.tree.map(lambda x: x[0], states))
    wide = policy.with_bounds([-3.0, 0.0], [3.0, 10.0])
    plain = policy.act(observations("td3_bc"))
    expected = plain * jnp.array([[3.0, 5.0]]) + jnp.array([[0.0, 5.0]])
    assert_same_actions(wide.act(observations("td3_bc")), expected)
    assert policy.with_bounds(-0.4, 0.4).low == (-0.4, -0.4)


def test_bounds_are_kept_in_the_file(tmp_path):
    learner, states = offline("td3_bc")
    policy = learner.policy(jax.tree.map(lambda x: x[0], states)).with_bounds([-3, 0], [3, 0.1])
    save_policies(tmp_path / "mine.safetensors", {7: policy}, "td3_bc")
    loaded = load_policy(tmp_path / "mine.safetensors", 7)
    assert (loaded.low, loaded.high) == ((-3.0, 0.0), (3.0, 0.1))
    assert_same_actions(loaded.act(jnp.ones(3)), policy.act(jnp.ones(3)))
    with pytest.raises(ValueError, match="bounds must be of box actions"):
        load_policy(saved("discrete", tmp_path), 0).with_bounds(0.0, 1.0)


def test_what_the_header_says(tmp_path):
    with safetensors.safe_open(saved("box", tmp_path) / POLICIES_FILE, framework="numpy") as file:
        header = json.loads(file.metadata()["header"])
        names = set(file.keys())
    assert header.pop("seeds").keys() == {"3", "0"}
    assert header == {
        "format": "rl-optim policies",
        "version": 1,
        "algorithm": "box",
        "network": {"kind": "Actor", "widths": [8, 4], "nonlinearity": "relu"},
        "observation_shape": [3],
        "actions": {"low": [-2.0], "high": [2.0]},
        "normalizer": "ObservationScaling",
    }
    assert {name.split("/")[0] for name in names} == {"3", "0"}
    assert {"0/normalizer/mean", "0/params/Dense_2/kernel", "0/params/log_std"} <= names
    assert not any("critic" in name for name in names)


USE = """
import sys
from agents import load_policy
policy = load_policy(sys.argv[1], 0)
print(policy.act([[0.1, -0.2, 0.3]]).tolist())
heavy = {"gymnax", "brax", "gymnasium", "h5py", "mujoco", "experiments", "meta"} & set(sys.modules)
assert not heavy, heavy
"""


def test_nothing_else_is_needed(tmp_path):
    """Neither environments nor data: a new process loads none of their libraries."""
    run = saved("box", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", USE, str(run)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = load_policy(run, 0).act([[0.1, -0.2, 0.3]])
    np.testing.assert_allclose(json.loads(done.stdout), expected, rtol=1e-5)


def test_importing_agents_loads_nothing():
    code = "import agents, sys; assert not {'jax', 'flax', 'optax'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert agents.load_policy is load_policy
    with pytest.raises(AttributeError, match="has no attribute 'load_polices'"):
        _ = agents.load_polices


def test_the_same_policies_give_the_same_bytes(tmp_path):
    run = saved("box", tmp_path)
    before = (run / POLICIES_FILE).read_bytes()
    assert (saved("box", tmp_path) / POLICIES_FILE).read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", POLICIES_FILE}
    loaded = {seed: load_policy(run, seed) for seed in SEEDS}
    save_policies(tmp_path / "again", loaded, "box")
    assert (tmp_path / "again").read_bytes() == before


def test_where_x64_is_on(tmp_path):
    run = saved("box", tmp_path)
    seen = np.asarray(observations("box"), np.float64)
    expected = load_policy(run, 0).act(seen)
    with jax.enable_x64(True):
        found = load_policy(run, 0).act(seen)
    assert_same_actions(found, expected)


def test_surplus_policies_are_dropped():
    """Where seeds are spread over devices, there may be more states than seeds."""
    learner, states = online("CartPole-v1")
    of_seeds = policies_of_seeds(quick_jit(jax.vmap(learner.policy))(states), [5])
    assert of_seeds.keys() == {5}
    first = learner.policy(jax.tree.map(lambda x: x[0], states))
    found, expected = of_seeds[5].params, first.params
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), found, expected)


# --- mistakes -----------------------------------------------------------------------------------


def test_missing_runs_and_seeds_are_named(tmp_path):
    run = saved("discrete", tmp_path)
    with pytest.raises(ValueError, match=r"seed must be one of those in .*, 3, 0; got 1\."):
        load_policy(run, 1)
    with pytest.raises(ValueError, match=r"nowhere must be a run directory or a file of policies"):
        load_policy(tmp_path / "nowhere", 0)
    (run / POLICIES_FILE).unlink()
    with pytest.raises(ValueError, match=r"holds no agents.safetensors: its training has not"):
        load_policy(run, 0)
    (run / "config.json").unlink()
    with pytest.raises(ValueError, match=r"must be a run directory; it holds no config\.json"):
        load_policy(run, 0)


def test_observations_of_another_shape_are_named(tmp_path):
    policy = load_policy(saved("images", tmp_path), 0)
    for shape in ((), (5,), (5, 10), (10, 5, 1)):
        with pytest.raises(ValueError, match=r"observation must have the shape \(10, 5\).*got"):
            policy.act(jnp.zeros(shape))


def test_damaged_files_are_named(tmp_path):
    path = saved("discrete", tmp_path) / POLICIES_FILE
    whole = path.read_bytes()
    for damaged in (b"", whole[:4], whole[:100], whole[:-1], b"\x80\x04" + whole[2:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="must be a safetensors file; got another one, or a d"):
            load_policy(path, 0)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # a bit of the last number
    assert load_policy(path, min(SEEDS)).observation_shape == (4,)
    with pytest.raises(ValueError, match="is damaged: its numbers are not those that were written"):
        load_policy(path, max(SEEDS))


def changed(path, change):
    """Writes a file of policies again, with another header."""
    with safetensors.safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["header"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header = change(header)
    path.write_bytes(safetensors.numpy.save(arrays, {"header": json.dumps(header)}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: [], "must hold policies that rl-optim has saved; got another file"),
        (lambda header: header | {"format": "x"}, "must hold policies that rl-optim has saved"),
        (lambda header: header | {"version": 2}, "must be of version 1 of its format; got 2"),
        (lambda header: header | {"seeds": [0, 3]}, "its header is not understood"),
        (
            lambda header: header | {"network": {"kind": "Recurrent"}},
            "its header is not understood",
        ),
        (lambda header: header | {"actions": {}}, "its header is not understood"),
        (lambda header: header | {"observation_shape": [7]}, "its header is not understood"),
        (
            lambda header: header | {"network": header["network"] | {"widths": [8, 8]}},
            "its header is not understood",
        ),
        (lambda header: header | {"normalizer": "Normalizer"}, "its header is not understood"),
    ],
)
def test_other_headers_are_named(change, message, tmp_path):
    path = saved("box", tmp_path) / POLICIES_FILE
    changed(path, change)
    with pytest.raises(ValueError, match=message):
        load_policy(path, 0)


def test_other_safetensors_files_are_named(tmp_path):
    path = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"x": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="must hold policies that rl-optim has saved"):
        load_policy(path, 0)


def test_policies_that_do_not_belong_together_are_refused(tmp_path):
    path = tmp_path / "mine.safetensors"
    learners = [LEARNERS[name]() for name in ("discrete", "box")]
    mixed = {
        i: learner.policy(jax.tree.map(lambda x: x[0], states))
        for i, (learner, states) in enumerate(learners)
    }
    with pytest.raises(ValueError, match="policies must differ in their arrays alone; got"):
        save_policies(path, mixed, "ppo")
    with pytest.raises(ValueError, match="policies must hold one for each seed; got none"):
        save_policies(path, {}, "ppo")
    assert not path.exists()


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    run = saved("discrete", tmp_path)
    before = (run / POLICIES_FILE).read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(policies.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        saved("discrete", tmp_path)
    assert (run / POLICIES_FILE).read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", POLICIES_FILE}
