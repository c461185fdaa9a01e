"""Trained policies, and files of them, which can be used without the environment or the data.

A file is in the safetensors format, which holds numbers and text only: nothing is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import struct
from jax.typing import ArrayLike

from agents.environment import Box, Discrete
from agents.networks import Actor
from agents.normalization import Normalizer, ObservationScaling
from agents.offline.networks import DeterministicActor, GaussianActor

POLICIES_FILE = "agents.safetensors"  # in a run directory

_FORMAT, _VERSION = "rl-optim policies", 1
_NETWORKS: dict[str, Any] = {
    kind.__name__: kind for kind in (Actor, DeterministicActor, GaussianActor)
}
_NORMALIZERS: dict[str, Any] = {kind.__name__: kind for kind in (Normalizer, ObservationScaling)}


@struct.dataclass
class NetworkPolicy:
    """A policy as a learner's `policy(state)` and `load_policy` give it.

    It is a pytree, whose arrays are the parameters and the statistics of observations. A compiled
    function may return it, and `jax.vmap(learner.policy)(states)` gives those of several seeds.

    Attributes:
        params: the network's parameters.
        normalizer: of observations; None leaves them as they are.
        network: static; from observations to actions, or a distribution over them, and activations.
        observation_shape: static; shape of one observation.
        low: static; lower bounds of actions, one for each dimension; None if they are discrete.
        high: static; likewise, upper bounds.
        greedy: static; whether `policy(key, observation)` takes the likeliest action, the mode of
            the distribution, instead of a sample.
    """

    params: Any
    normalizer: Any
    network: nn.Module = struct.field(pytree_node=False)
    observation_shape: tuple[int, ...] = struct.field(pytree_node=False)
    low: tuple[float, ...] | None = struct.field(pytree_node=False)
    high: tuple[float, ...] | None = struct.field(pytree_node=False)
    greedy: bool = struct.field(pytree_node=False)

    def __call__(self, key: jax.Array | None, observation: jax.Array) -> jax.Array:
        """Chooses actions as learners and `agents.evaluation` do, see `agents.learner.Policy`.

        Box actions are as the network gives them: in [-1, 1] from the offline learners, perhaps
        outside the bounds from PPO. Greedy and deterministic policies need no key.
        """
        if self.normalizer is not None:
            observation = self.normalizer(observation)
        output, _ = self.network.apply({"params": self.params}, observation)
        if isinstance(output, jax.Array):
            return output
        return output.mode() if self.greedy else output.sample(key)

    def act(self, observation: ArrayLike, key: jax.Array | None = None) -> jax.Array:
        """Chooses actions.

        Args:
            observation: raw observations of any leading shape.
            key: a key with which actions are sampled; None takes the likeliest. Deterministic
                policies ignore it.

        Returns:
            Actions of the same leading shape: int32 numbers from 0 on, or float32 vectors, scaled
            (from offline learners) or clipped (from PPO) to the bounds `low` and `high`.

        Raises:
            ValueError: if the observations are of another shape.
        """
        observation = jnp.asarray(observation, jnp.float32)
        own = observation.shape[observation.ndim - len(self.observation_shape) :]
        if own != self.observation_shape:
            raise ValueError(
                f"observation must have the shape {self.observation_shape}, or that after leading "
                f"axes; got {observation.shape}."
            )
        return _bounded_actions(dataclasses.replace(self, greedy=key is None), key, observation)

    def with_bounds(self, low: ArrayLike, high: ArrayLike) -> NetworkPolicy:
        """The policy with other bounds of its actions, numbers or one for each dimension."""
        if self.low is None:
            raise ValueError("bounds must be of box actions; this policy's are discrete.")
        size = len(self.low)
        return dataclasses.replace(self, low=_bounds(low, size), high=_bounds(high, size))


def _bounds(bound: ArrayLike, size: int) -> tuple[float, ...]:
    return tuple(float(x) for x in np.broadcast_to(np.asarray(bound, np.float64), (size,)))


@jax.jit
def _bounded_actions(
    policy: NetworkPolicy, key: jax.Array | None, observation: jax.Array
) -> jax.Array:
    action = policy(key, observation)
    if policy.low is None:
        return action
    low, high = (jnp.broadcast_to(jnp.float32(x), action.shape) for x in (policy.low, policy.high))
    if not isinstance(policy.network, Actor):  # the offline learners' actions are in [-1, 1]
        action = low + (action + 1.0) / 2.0 * (high - low)
    return jnp.clip(action, low, high)


def network_policy(
    network: Any,
    params: Any,
    normalizer: Any,
    observation_shape: tuple[int, ...],
    action_space: Discrete | Box,
    greedy: bool,
) -> NetworkPolicy:
    """A policy with the bounds of a space of actions; see `NetworkPolicy` for the arguments."""
    low = high = None
    if isinstance(action_space, Box):
        low = _bounds(action_space.low, action_space.size)
        high = _bounds(action_space.high, action_space.size)
    return NetworkPolicy(params, normalizer, network, observation_shape, low, high, greedy)


def policies_of_seeds(policies: NetworkPolicy, seeds: Sequence[int]) -> dict[int, NetworkPolicy]:
    """Takes apart policies that share their arrays, as `save_policies` takes them.

    Args:
        policies: what `jax.vmap(learner.policy)(states)` gives; on any devices.
        seeds: those of the first axis of its arrays, in order. What is beyond them is dropped.

    Returns:
        The policy of each seed, on the host.
    """
    on_host = jax.device_get(policies)
    take = lambda index: jax.tree.map(lambda x: x[index], on_host)  # noqa: E731
    return {seed: take(index) for index, seed in enumerate(seeds)}


def save_policies(path: str | Path, policies: Mapping[int, NetworkPolicy], algorithm: str) -> None:
    """Writes the policies of a run's seeds to one file, which is never there in part.

    The same policies give the same bytes.

    Args:
        path: the file; replaced if it exists. In a run directory it is called `POLICIES_FILE`.
        policies: the policy of each seed; they differ in their arrays alone. Set the bounds of an
            offline learner's actions first, see `NetworkPolicy.with_bounds`.
        algorithm: the learner's name, which is only recorded.

    Raises:
        ValueError: if there are no policies, or they differ in more than their arrays.
        OSError: if the file cannot be written.
    """
    if not policies:
        raise ValueError("policies must hold one for each seed; got none.")
    descriptions = {seed: _description(policy) for seed, policy in policies.items()}
    first = next(iter(descriptions.values()))
    tensors: dict[str, np.ndarray] = {}
    digests = {}
    for seed, policy in policies.items():
        if descriptions[seed] != first:
            raise ValueError(
                f"policies must differ in their arrays alone; got {first} and {descriptions[seed]}."
            )
        arrays = _arrays(policy)
        digests[str(seed)] = _digest(arrays)
        tensors |= {f"{seed}/{name}": array for name, array in arrays.items()}
    header = {"format": _FORMAT, "version": _VERSION, "algorithm": algorithm} | first
    # One entry: safetensors writes several in no order.
    metadata = {"header": json.dumps(header | {"seeds": digests})}
    data = safetensors.numpy.save(tensors, metadata)
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_policy(run: str | Path, seed: int) -> NetworkPolicy:
    """Reads the trained policy of one seed of a run.

    Args:
        run: a run directory, of PPO or of an offline learner; or a file that `save_policies` wrote.
        seed: one of the run's seeds.

    Returns:
        The policy; `policy.act(observation)` acts, greedily or, with a key, by samples.

    Raises:
        ValueError: if there is no such run or seed, or the file is damaged or another one.
        OSError: if it cannot be read.

    Examples:
        >>> import jax, optax, tempfile
        >>> from agents import environments
        >>> from agents.ppo import PPOConfig, ppo
        >>> config = PPOConfig(iterations=1, num_envs=2, num_steps=2, minibatches=1)
        >>> learner = ppo(environments.make("CartPole-v1"), config, optax.adam(1e-3))
        >>> state = learner.init(jax.random.key(0))
        >>> path = Path(tempfile.mkdtemp(), "agents.safetensors")
        >>> save_policies(path, {0: learner.policy(state)}, "ppo")
        >>> policy = load_policy(path, seed=0)
        >>> policy.act([0.0, 0.1, 0.0, -0.1]).shape
        ()
    """
    path = Path(run)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(f"{path} must be a run directory; it holds no config.json.")
        path = path / POLICIES_FILE
        if not path.is_file():
            raise ValueError(
                f"{run} holds no {POLICIES_FILE}: its training has not ended, or it is of a kind "
                "that keeps no policies."
            )
    elif not path.is_file():
        raise ValueError(f"{path} must be a run directory or a file of policies; there is none.")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header, digests = _header(path, file.metadata())
            if str(seed) not in digests:
                seeds = ", ".join(digests)
                raise ValueError(f"seed must be one of those in {path}, {seeds}; got {seed}.")
            prefix = f"{seed}/"
            arrays = {
                name.removeprefix(prefix): file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118
                if name.startswith(prefix)
            }
    except safetensors.SafetensorError:
        raise ValueError(
            f"{path} must be a safetensors file; got another one, or a damaged one."
        ) from None
    if _digest(arrays) != digests[str(seed)]:
        raise ValueError(f"{path} is damaged: its numbers are not those that were written.")
    return _policy(path, header, arrays)


def _header(
    path: Path, metadata: Mapping[str, str] | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """A file's header, and the digests of its seeds' arrays."""
    try:
        header = json.loads((metadata or {})["header"])
        written_by, version = header["format"], header["version"]
    except (KeyError, TypeError, ValueError):
        written_by = version = None
    if written_by != _FORMAT:
        raise ValueError(f"{path} must hold policies that rl-optim has saved; got another file.")
    if version != _VERSION:
        raise ValueError(f"{path} must be of version {_VERSION} of its format; got {version}.")
    if not isinstance(header.get("seeds"), dict):
        raise _not_understood(path)
    return header, header["seeds"]


def _not_understood(path: Path) -> ValueError:
    return ValueError(f"{path} must describe a policy; its header is not understood.")


def _description(policy: NetworkPolicy) -> dict[str, Any]:
    """What a header says of a policy, all but its arrays."""
    network: Any = policy.network
    discrete = policy.low is None
    return {
        "network": {
            "kind": type(network).__name__,
            "widths": list(network.widths),
            **(
                {"nonlinearity": network.nonlinearity}
                if isinstance(network, Actor)
                else {"layer_norm": network.layer_norm}
            ),
        },
        "observation_shape": list(policy.observation_shape),
        "actions": {"discrete": network.action_space.size}
        if discrete
        else {"low": policy.low, "high": policy.high},
        "normalizer": None if policy.normalizer is None else type(policy.normalizer).__name__,
    }


def _policy(path: Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    """The policy that a header and its arrays describe: what `_description` and `_arrays` gave."""
    try:
        options = dict(header["network"])
        kind = _NETWORKS[options.pop("kind")]
        options["widths"] = tuple(options["widths"])
        shape, actions = tuple(header["observation_shape"]), header["actions"]
        low = high = None
        if "discrete" in actions:
            space: Discrete | Box = Discrete(actions["discrete"])
        else:
            low, high = tuple(actions["low"]), tuple(actions["high"])
            space = Box(len(low), min(low), max(high))
        if kind is Actor:
            network = Actor(space, len(shape), **options)
        else:
            network = kind(outputs=space.size, **options)
        params: Any = {}
        statistics = {}
        for name, array in arrays.items():
            part, *keys = name.split("/")
            if part == "normalizer":
                statistics[keys[0]] = jnp.asarray(array)
            else:
                node = params
                for key in keys[:-1]:
                    node = node.setdefault(key, {})
                node[keys[-1]] = jnp.asarray(array)
        scaling = header["normalizer"]
        normalizer = None if scaling is None else _NORMALIZERS[scaling](**statistics)
        observation = jax.ShapeDtypeStruct(shape, jnp.float32)
        expected = jax.eval_shape(network.init, jax.random.key(0), observation)["params"]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise _not_understood(path) from None
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (params, expected)]
    if shapes[0] != shapes[1] or any(x.shape != shape for x in statistics.values()):
        raise _not_understood(path)
    return NetworkPolicy(params, normalizer, network, shape, low, high, greedy=True)


def _arrays(policy: NetworkPolicy) -> dict[str, np.ndarray]:
    """A policy's arrays, by the path of each in the file."""
    parts = {"params": policy.params}
    if policy.normalizer is not None:
        parts["normalizer"] = policy.normalizer._asdict()
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(parts))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf, order="C")
        for path, leaf in leaves
    }


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
