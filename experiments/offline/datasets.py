"""Data sets for the offline learners: subsets, a checksum, and the environment to evaluate in."""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from agents import environments
from agents.environment import Box, Environment
from agents.learner import Policy
from agents.offline import loading
from agents.offline.common import Transitions
from experiments.online.tasks import TASKS, make_environment


@dataclasses.dataclass(frozen=True)
class Data:
    """What an offline run learns from.

    Attributes:
        text: file, folder or Minari name, as the user wrote it.
        subset: how many transitions are kept, drawn without replacement; None keeps all.
        subset_seed: of that draw.
        environment: what to evaluate in, `NAME[:key=value,...]`; None takes what the data name.
        action_bounds: lower and upper bound of actions in all dimensions; None takes those that
            the data name, or else -1 and 1.
        clip_actions: whether actions outside the bounds are clipped rather than refused.
        reference_returns: mean returns of a random and of an expert policy; None takes those that
            the data name.

    Raises:
        ValueError: on construction, if the data cannot be used.
    """

    text: str
    subset: int | None = None
    subset_seed: int = 0
    environment: str | None = None
    action_bounds: tuple[float, float] | None = None
    clip_actions: bool = False
    reference_returns: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.subset_seed < 0:
            raise ValueError(f"--subset-seed must be at least 0; got {self.subset_seed}.")
        _ = self.transitions

    @property
    def dataset(self) -> loading.Dataset:
        """The whole data set."""
        return _loaded(self.text, self.action_bounds, self.clip_actions)

    @property
    def references(self) -> tuple[float, float] | None:
        """Mean returns of a random and of an expert policy, if they are known."""
        return self.reference_returns or self.dataset.reference_returns

    @functools.cached_property
    def transitions(self) -> Transitions:
        """The transitions, in NumPy arrays.

        Raises:
            ValueError: if there are fewer than the subset asks for.
        """
        whole = self.dataset.transitions
        size = len(whole.reward)
        if self.subset is None:
            return whole
        if not 1 <= self.subset <= size:
            raise ValueError(
                f"--subset must be in [1, {size}], the transitions of {self.text}; "
                f"got {self.subset}."
            )
        rows = np.random.default_rng(self.subset_seed).choice(size, self.subset, replace=False)
        return jax.tree.map(lambda array: array[np.sort(rows)], whole)

    @property
    def sizes(self) -> tuple[int, int]:
        """Lengths of an observation and of an action."""
        return self.transitions.observation.shape[1], self.transitions.action.shape[1]

    @functools.cached_property
    def checksum(self) -> str:
        """Of the transitions' bytes."""
        digest = hashlib.sha256()
        for name, array in self.transitions._asdict().items():
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @functools.cached_property
    def evaluation(self) -> tuple[Environment | None, str]:
        """The environment to evaluate in, and its name; or None, and why there is none.

        Raises:
            ValueError: if the environment was asked for and cannot be made, or does not fit.
        """
        text = self.environment or self.dataset.environment
        if text is None:
            return None, f"{self.dataset.title} names no environment; give one with --env"
        name = text.partition(":")[0]
        if self.environment is None and name not in TASKS and name not in environments.GYMNASIUM:
            return None, f"there is no environment {text!r}"
        try:
            environment = environment_named(text)
        except ImportError as error:
            if self.environment is not None:
                raise ValueError(str(error)) from error
            return None, str(error)
        shapes = environment.observation_shape, environment.action_space
        fits = isinstance(shapes[1], Box) and (shapes[0], shapes[1].size) == (
            self.sizes[:1],
            self.sizes[1],
        )
        if not fits:
            reason = f"{text} has observations and actions of other sizes than {self.text}"
            if self.environment is not None:
                raise ValueError(f"{reason}.")
            return None, reason
        return environment, text

    def acting(self, policy: Policy) -> Policy:
        """Takes a learner's actions, in [-1, 1], to the environment's.

        The learner's bounds are those of the data, the environment may have others: actions are
        taken back by the first and clipped to the second.
        """
        environment, _ = self.evaluation
        assert environment is not None
        space = environment.action_space
        assert isinstance(space, Box)
        low, high = _native_bounds(environment)
        data = self.dataset
        data_low, data_high = (x.astype(np.float64) for x in (data.action_low, data.action_high))
        # Exactly 0 and 1 where the bounds are the same.
        start = ((data_low - low) / (high - low)).astype(np.float32)
        width = ((data_high - data_low) / (high - low)).astype(np.float32)

        def act(key: jax.Array, observation: jax.Array) -> jax.Array:
            share = (policy(key, observation) + 1.0) / 2.0
            shape = (1,) * (share.ndim - 1) + start.shape
            share = jnp.clip(start.reshape(shape) + share * width.reshape(shape), 0.0, 1.0)
            return space.low + share * (space.high - space.low)

        return act

    def normalised(self, episode_return: float) -> float:
        """A return as a score: 0 is a random policy's, 100 an expert's; NaN if they are unknown."""
        if self.references is None:
            return float("nan")
        low, high = self.references
        return 100.0 * (episode_return - low) / (high - low)


def _native_bounds(
    environment: Environment,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bounds of actions as data have them, which for Gymnasium's environments are Gymnasium's."""
    space = environment.action_space
    assert isinstance(space, Box)
    low, high = (
        np.full(space.size, getattr(environment, f"action_{side}", getattr(space, side)))
        .astype(np.float32)
        .astype(np.float64)
        for side in ("low", "high")
    )
    return low, high


def environment_named(text: str) -> Environment:
    """Builds an environment of `experiments.online.tasks` or of Gymnasium's MuJoCo tasks.

    Raises:
        ValueError: if the name or an option is unknown.
        ImportError: if Gymnasium's MuJoCo tasks are asked for and missing.
    """
    if text in environments.GYMNASIUM:
        return _gymnasium(text)
    return make_environment(text)


@functools.cache
def _gymnasium(name: str) -> Environment:
    return environments.make(name)


@functools.cache
def _loaded(text: str, bounds: tuple[float, float] | None, clip: bool) -> loading.Dataset:
    try:
        return loading.load(text, *(bounds or ()), clip_actions=clip)
    except loading.ActionError as error:
        advice = "give --action-bounds LOW HIGH"
        if error.may_clip:
            advice += " if the bounds are others, or --clip-actions to clip"
        raise ValueError(f"{error.problem}; {advice}.") from error
    except ImportError as error:
        raise ValueError(str(error)) from error
