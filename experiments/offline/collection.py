"""Makes data sets for offline learning with PPO agents that are trained for it.

An agent is trained once; snapshots of it are evaluated by their mean actions on the way.

- `random`: actions uniform within their bounds;
- `expert`: the snapshot with the highest return;
- `medium`: the first snapshot that is at least a third of the way from random to expert;
- `medium-replay`: all snapshots up to the medium one, in equal shares, acting as they did in
  training. (D4RL keeps the training's own transitions; this is an approximation of them.)
- `medium-expert`: half of each.

The reference returns of normalised scores are the means of 100 episodes of the random policy and of
the expert's mean actions.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

import optim
from agents import environments
from agents.environment import Box, Environment
from agents.evaluation import evaluate
from agents.learner import Learner, Policy
from agents.ppo import ppo
from agents.wrappers import AutoReset, Batch
from experiments.offline.datasets import environment_named
from experiments.offline.writing import datasets_root, write_dataset
from experiments.online.tasks import TASKS
from experiments.online.training import ppo_config
from experiments.settings import Settings, change_settings, describe, unknown
from rl_optim import require_extra

KINDS = ("random", "medium", "medium-replay", "expert", "medium-expert")
SNAPSHOTS = 20
MEDIUM_SHARE = 1 / 3
_SNAPSHOT_EPISODES = 20
_REFERENCE_EPISODES = 100
_STREAMS = 16  # environments that are played side by side
_ADAM = "adam:learning_rate=0.0003,eps=0.00001"
_MUJOCO = Settings(
    num_envs=16,
    epochs=10,
    minibatches=32,
    entropy_weight=0.0,
    nonlinearity="tanh",
    normalize_observations=True,
    normalize_rewards=True,
    anneal=False,
)


@dataclasses.dataclass(frozen=True)
class Collection:
    """What is collected.

    Attributes:
        env: environment, `NAME[:key=value,...]`, with continuous actions.
        kinds: of `KINDS`, each a data set.
        size: transitions of each.
        steps: environment steps of the agent's training, at least.
        seed: of everything.
        noise: standard deviation of the noise on the agent's mean actions, clipped to the bounds
            afterwards; None draws from the agent's own distribution.
        name: first part of the data sets' names; the second is the kind.
        assignments: changes to PPO's settings, `key=value`.

    Raises:
        ValueError: on construction, if anything in it is unknown or not allowed.
    """

    env: str
    kinds: tuple[str, ...]
    size: int
    steps: int
    seed: int
    noise: float | None
    name: str
    assignments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise unknown("kind of data set", kind, KINDS)
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"--datasets must name each kind once; got {' '.join(self.kinds)}.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed must be in [0, {2**32 - 1}]; got {self.seed}.")
        if self.noise is not None and not 0.0 <= self.noise < math.inf:
            raise ValueError(f"--noise must be at least 0; got {self.noise}.")
        if not isinstance(self.environment.action_space, Box):
            raise ValueError(f"{self.env} has discrete actions; data sets need continuous ones.")
        if len(self.environment.observation_shape) != 1:
            raise ValueError(f"{self.env} must have flat observations for a data set.")
        for name in ("learner", "restart"):  # data sets say that one agent of PPO's made them
            value, default = (getattr(one, name) for one in (self.settings, Settings))
            if value != default:
                raise ValueError(
                    f"setting {name!r} must be {describe(name, default)} where data are collected; "
                    f"got {describe(name, value)}."
                )

    @property
    def environment(self) -> Environment:
        """The environment.

        Raises:
            ValueError: if it cannot be made.
        """
        name = self.env.partition(":")[0]
        if name not in TASKS and name not in environments.GYMNASIUM:
            raise unknown("environment", name, [*TASKS, *environments.GYMNASIUM])
        try:
            return environment_named(self.env)
        except ImportError as error:
            raise ValueError(str(error)) from error

    @property
    def settings(self) -> Settings:
        """PPO's."""
        task = TASKS.get(self.env.partition(":")[0])
        settings = dataclasses.replace(task.settings, anneal=False) if task else _MUJOCO
        return change_settings(settings, self.assignments)

    def dataset_id(self, kind: str) -> str:
        """Minari's name of a data set."""
        return f"{self.name}/{kind}-v0"


class Collected(NamedTuple):
    """A data set that was written."""

    dataset_id: str
    transitions: int
    episodes: int  # that ended
    mean_return: float  # of those; NaN if there are none
    promised_return: float  # the least that the kind's name promises; -inf if nothing
    random_return: float  # of random actions, the mean over whole episodes


class _Snapshot(NamedTuple):
    state: Any  # PPOState, on the host
    episode_return: float


def collect(
    collection: Collection,
    root: Path | None = None,
    *,
    overwrite: bool = False,
    on_progress: Callable[[int, int, float], None] = lambda done, steps, episode_return: None,
) -> list[Collected]:
    """Trains the agent and writes the data sets.

    Args:
        collection: what to collect.
        root: Minari's folder of data sets; None is `$MINARI_DATASETS_PATH` or
            `~/.minari/datasets`.
        overwrite: replace data sets of the same name.
        on_progress: called with the environment steps done, those in all, and the last snapshot's
            return.

    Returns:
        What was written, in the order of the kinds. A data set is there whole or not at all.

    Raises:
        ValueError: if a data set is there already.
        ImportError: if Minari is missing.
    """
    root = datasets_root(root)
    for kind in collection.kinds:
        path = root / collection.dataset_id(kind)
        if path.exists() and not overwrite:
            raise ValueError(f"{path} exists already; use --overwrite to replace it.")
    require_extra("offline", "h5py", "minari", "PIL")
    environment = collection.environment
    key = jax.random.key(collection.seed)
    train_key, data_key, reference_key = jax.random.split(key, 3)
    space = environment.action_space
    assert isinstance(space, Box)
    learner = _learner(collection, environment)
    snapshots = _train(collection, environment, learner, train_key, on_progress)
    expert = max(snapshots, key=lambda snapshot: snapshot.episode_return)

    def uniform(key: jax.Array, observation: jax.Array) -> jax.Array:
        shape = (*observation.shape[:-1], space.size)
        return jax.random.uniform(key, shape, minval=space.low, maxval=space.high)

    def mean_policy(state: Any) -> Policy:
        return learner.policy(state, greedy=True)

    play = jax.jit(
        lambda key, state: evaluate(environment, mean_policy(state), key, _REFERENCE_EPISODES)[0]
    )
    play_uniform = jax.jit(lambda key: evaluate(environment, uniform, key, _REFERENCE_EPISODES)[0])
    references = (
        float(play_uniform(jax.random.fold_in(reference_key, 0)).mean()),
        float(play(jax.random.fold_in(reference_key, 1), expert.state).mean()),
    )
    position, level = _medium([s.episode_return for s in snapshots], references[0])
    medium = snapshots[position]
    promised = dict.fromkeys(("medium", "expert", "medium-expert"), level)
    roll = _roller(collection, environment, learner)
    written = []
    for number, kind in enumerate(KINDS):
        if kind not in collection.kinds:
            continue
        kind_key = jax.random.fold_in(data_key, number)
        sources: list[tuple[str, Any]] = {
            "random": [("random", None)],
            "medium": [("agent", medium.state)],
            "expert": [("agent", expert.state)],
            "medium-expert": [("agent", medium.state), ("agent", expert.state)],
            "medium-replay": [("sampled", s.state) for s in snapshots[: position + 1]],
        }[kind]
        episodes: list[dict[str, NDArray[Any]]] = []
        for i, (how, state) in enumerate(sources):
            share = collection.size * (i + 1) // len(sources) - collection.size * i // len(sources)
            if share:
                episodes += roll(jax.random.fold_in(kind_key, i), how, state, share)
        returns = [float(e["rewards"].sum()) for e in episodes if _has_ended(e)]
        facts = {
            "kind": kind,
            "seed": collection.seed,
            "agent_steps": collection.steps,
            "noise": collection.noise,
            "medium_snapshot_return": medium.episode_return,
            "expert_snapshot_return": expert.episode_return,
        }
        write_dataset(
            root,
            collection.dataset_id(kind),
            environment,
            collection.env,
            episodes,
            references=references,
            algorithm=f"RL-Optim's PPO, {kind}",
            description=(
                f"{collection.size} transitions of {collection.env}, kind {kind}; reference "
                f"returns are means of {_REFERENCE_EPISODES} episodes: random "
                f"{references[0]:.6g}, expert {references[1]:.6g}."
            ),
            facts=facts,
        )
        mean = float(np.mean(returns)) if returns else math.nan
        transitions = sum(len(e["rewards"]) for e in episodes)
        least = promised.get(kind, -math.inf)
        name = collection.dataset_id(kind)
        written.append(Collected(name, transitions, len(returns), mean, least, references[0]))
        if kind == "medium":
            promised["expert"] = max(least, mean) if returns else least
    return written


def _medium(returns: Sequence[float], random_return: float) -> tuple[int, float]:
    """Which snapshot is the medium one, and the return that its name promises."""
    best = max(returns)
    level = random_return + MEDIUM_SHARE * (best - random_return)
    # An agent may never get as far as random actions; its best snapshot is the medium one then.
    position = next((i for i, value in enumerate(returns) if value >= level), returns.index(best))
    return position, max(random_return, level)


def _learner(collection: Collection, environment: Environment) -> Learner:
    config = ppo_config(collection.settings, _iterations(collection))
    task = TASKS.get(collection.env.partition(":")[0])
    spec = f"adam:learning_rate={task.learning_rate},eps=0.00001" if task else _ADAM
    optimizer = optax.chain(
        optim.clip_by_network_norm(collection.settings.max_grad_norm), optim.make(spec)
    )
    return ppo(environment, config, optimizer)


def _iterations(collection: Collection) -> int:
    rollout = collection.settings.num_envs * collection.settings.num_steps
    return math.ceil(collection.steps / rollout)


def _train(
    collection: Collection,
    environment: Environment,
    learner: Learner,
    key: jax.Array,
    on_progress: Callable[[int, int, float], None],
) -> list[_Snapshot]:
    """Trains the agent; snapshots are taken evenly, the untrained agent being the first."""
    iterations = _iterations(collection)
    rollout = collection.settings.num_envs * collection.settings.num_steps
    init_key, judge_key = jax.random.split(key)
    iterate = jax.jit(learner.iterate)
    judge = jax.jit(
        lambda key, state: evaluate(
            environment, learner.policy(state, greedy=True), key, _SNAPSHOT_EPISODES
        )[0].mean()
    )
    state = jax.jit(learner.init)(init_key)
    due = {math.ceil(iterations * (i + 1) / SNAPSHOTS) for i in range(SNAPSHOTS)} | {0}
    snapshots = []
    for iteration in range(iterations + 1):
        if iteration in due:
            value = float(judge(jax.random.fold_in(judge_key, iteration), state))
            snapshots.append(_Snapshot(state, value if math.isfinite(value) else -math.inf))
            on_progress(iteration * rollout, iterations * rollout, value)
        if iteration < iterations:
            state, _ = iterate(state)
    return snapshots


def _roller(
    collection: Collection, environment: Environment, learner: Learner
) -> Callable[[jax.Array, str, Any, int], list[dict[str, NDArray[Any]]]]:
    """A function that plays one policy for a number of steps and gives the episodes."""
    space = environment.action_space
    assert isinstance(space, Box)

    def act(key: jax.Array, how: str, state: Any, observation: jax.Array) -> jax.Array:
        shape = (*observation.shape[:-1], space.size)
        if how == "random":
            return jax.random.uniform(key, shape, minval=space.low, maxval=space.high)
        if how == "sampled" or collection.noise is None:
            action = learner.policy(state)(key, observation)
        else:
            action = learner.policy(state, greedy=True)(key, observation)
            width = (space.high - space.low) / 2.0
            action = action + collection.noise * width * jax.random.normal(key, shape)
        return jnp.clip(action, space.low, space.high)

    def rollout(key: jax.Array, state: Any, how: str, streams: int, length: int) -> Any:
        batch = Batch(AutoReset(environment), streams)
        reset_key, step_key = jax.random.split(key)
        start = batch.reset(reset_key)

        def step(carry: Any, key: jax.Array) -> tuple[Any, Any]:
            observation, environment_state = carry
            act_key, next_key = jax.random.split(key)
            action = act(act_key, how, state, observation)
            following, environment_state, reward, terminated, truncated, info = batch.step(
                next_key, environment_state, action
            )
            row = (
                *(observation, action, reward, terminated, truncated),
                info["final_observation"],
            )
            return (following, environment_state), row

        return jax.lax.scan(step, start, jax.random.split(step_key, length))[1]

    compiled = jax.jit(rollout, static_argnames=("how", "streams", "length"))

    def roll(key: jax.Array, how: str, state: Any, size: int) -> list[dict[str, NDArray[Any]]]:
        # Streams long enough for whole episodes; the last of each just stops.
        streams = max(1, min(_STREAMS, size // environment.max_episode_steps))
        length = math.ceil(size / streams)
        rows = jax.device_get(compiled(key, state, how, streams, length))
        episodes: list[dict[str, NDArray[Any]]] = []
        left = size
        for stream in range(streams):
            taken = min(length, left)
            left -= taken
            episodes += _episodes([array[:taken, stream] for array in rows])
        return episodes

    return roll


def _episodes(rows: Sequence[NDArray[Any]]) -> list[dict[str, NDArray[Any]]]:
    """Cuts one environment's steps into episodes."""
    observation, action, reward, terminated, truncated, final = rows
    ends = np.flatnonzero(terminated | truncated) + 1
    cuts = [0, *ends.tolist()]
    if cuts[-1] < len(reward):
        cuts.append(len(reward))
    return [
        {
            "observations": np.concatenate([observation[a:b], final[b - 1 : b]]),
            "actions": action[a:b],
            "rewards": reward[a:b].astype(np.float64),
            "terminations": terminated[a:b],
            "truncations": truncated[a:b],
        }
        for a, b in itertools.pairwise(cuts)
    ]


def _has_ended(episode: Mapping[str, NDArray[Any]]) -> bool:
    return bool(episode["terminations"][-1] | episode["truncations"][-1])
