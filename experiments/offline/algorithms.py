"""Offline learners by name, their settings as text, and what surrounds their optimizers."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optax
from numpy.typing import NDArray

import optim
from agents.offline.common import Normalizer, OfflineConfig, OfflineLearner
from agents.offline.iql import IQLConfig, iql
from agents.offline.pars import PARSConfig, pars
from agents.offline.rebrac import ReBRACConfig, rebrac
from agents.offline.sqog import SQOGConfig, sqog
from agents.offline.td3_bc import TD3BCConfig, td3_bc
from experiments.settings import parse_value, unknown

EPS = 1e-4
_SAME_EPS = frozenset(
    ("adam", "adam_rel", "adam_reset", "adamo", "adamw", "cautious_adamw", "nadam", "nadamw")
)
_NORMALIZE = "normalize_observations"
_COSINE = "cosine_actor"
_REWARDS = {"reward_scale": 1.0, "reward_shift": 0.0, "reward_normalisation": "none"}
_OWN = (_NORMALIZE, _COSINE, *_REWARDS)
_RETURN_RANGE = 1000.0  # of normalised rewards' episode returns, as IQL's authors have it
_MOST = 2**20  # of anything that is counted


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """An offline learner as it is published.

    Attributes:
        config: class of its settings.
        build: from sizes, settings, an optimizer for each network and a normalizer to the learner.
        networks: those that have an optimizer, in the order that `build` takes them.
        learning_rate: for optimizers that are given none.
        normalize: whether observations are normalised.
        cosine_actor: whether the actor's learning rate falls along a cosine to 0.
    """

    config: type[OfflineConfig]
    build: Callable[..., OfflineLearner]
    networks: tuple[str, ...] = ("actor", "critic")
    learning_rate: float = 3e-4
    normalize: bool = False
    cosine_actor: bool = False


ALGORITHMS: dict[str, Algorithm] = {
    "iql": Algorithm(
        IQLConfig, iql, ("actor", "critic", "value"), normalize=True, cosine_actor=True
    ),
    "pars": Algorithm(PARSConfig, pars),
    "rebrac": Algorithm(ReBRACConfig, rebrac, learning_rate=1e-3),
    "sqog": Algorithm(SQOGConfig, sqog),
    "td3_bc": Algorithm(TD3BCConfig, td3_bc, normalize=True),
}


def algorithm_named(name: str) -> Algorithm:
    """The algorithm of a name.

    Raises:
        ValueError: if there is none.
    """
    if name not in ALGORITHMS:
        raise unknown("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name]


def settings_of(name: str, assignments: Iterable[str] = ()) -> dict[str, Any]:
    """An algorithm's settings with some of them changed.

    Args:
        name: a key of `ALGORITHMS`.
        assignments: `key=value` texts. Beside the fields of the algorithm's config there are
            `normalize_observations`, `cosine_actor` and what `reward_change` reads.

    Returns:
        All settings but the counts that belong to a run.

    Raises:
        ValueError: if a key is unknown or a value does not fit.

    Examples:
        >>> settings = settings_of("td3_bc", ["alpha=10", "critic_widths=64x64"])
        >>> settings["alpha"], settings["critic_widths"], settings["polyak"]
        (10.0, (64, 64), 0.005)
    """
    algorithm = algorithm_named(name)
    defaults: dict[str, Any] = _REWARDS | {
        field.name: field.default
        for field in dataclasses.fields(algorithm.config)
        if field.name not in ("iterations", "critic_steps")
    }
    defaults |= {_NORMALIZE: algorithm.normalize, _COSINE: algorithm.cosine_actor}
    changes = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"a setting must have the form key=value; got {assignment!r}.")
        if key not in defaults:
            raise unknown(f"setting of {name}", key, defaults)
        changes[key] = parse_value(key, text, type(defaults[key]))
    settings = defaults | changes
    for key in ("batch_size", "actor_period", "actor_widths", "critic_widths"):
        counts = np.atleast_1d(settings.get(key, 1))
        if counts.size and (counts.min() < 1 or counts.max() > _MOST):
            given = "x".join(map(str, counts))
            raise ValueError(f"setting {key!r} must be in [1, {_MOST}]; got {given}.")
    rules: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "discount": ("in [0, 1)", lambda value: 0.0 <= value < 1.0),
        "reward_scale": ("in (0, inf)", lambda value: 0.0 < value < math.inf),
        "reward_shift": ("a finite number", math.isfinite),
        "reward_normalisation": ("none or returns", ("none", "returns").__contains__),
    }
    for key, (allowed, is_allowed) in rules.items():
        if not is_allowed(settings[key]):
            raise ValueError(f"setting {key!r} must be {allowed}; got {settings[key]}.")
    return settings


class RewardChange(NamedTuple):
    """What is made of a data set's rewards before anything is learned from them."""

    scale: float
    shift: float

    def __call__(self, reward: Any) -> Any:
        """The reward that the critic learns from."""
        return self.scale * reward + self.shift


def reward_change(
    settings: Mapping[str, Any], episode_returns: Sequence[float] | NDArray[np.floating[Any]]
) -> RewardChange:
    r"""The change of rewards that the settings ask for.

    .. math::
        r \mapsto c\, r + b, \qquad
        r \mapsto \frac{1000\, c}{\max R - \min R}\, r + b

    with c `reward_scale`, b `reward_shift` and R the returns of the data's episodes; the second
    where `reward_normalisation` is `returns`, which is IQL's for locomotion. IQL's for AntMaze is
    `reward_shift=-1`.

    Args:
        settings: as `settings_of` gives them.
        episode_returns: those that are known.

    Returns:
        The change.

    Raises:
        ValueError: if the returns are to be normalised, and there are no two different ones.

    Examples:
        >>> settings = settings_of("iql", ["reward_normalisation=returns", "reward_shift=1"])
        >>> reward_change(settings, [3.0, 5.0])(0.1)
        51.0
    """
    scale = settings["reward_scale"]
    if settings["reward_normalisation"] == "returns":
        spread = float(np.ptp(episode_returns)) if len(episode_returns) else 0.0
        if spread == 0.0:
            raise ValueError(
                "setting 'reward_normalisation' must be none unless the data hold whole episodes "
                "of different returns; got returns."
            )
        scale *= _RETURN_RANGE / spread
    return RewardChange(scale, settings["reward_shift"])


def resolve(text: str, learning_rate: float, critic: bool) -> optim.OptimizerSpec:
    """Fills up an optimizer's spec.

    Args:
        text: `NAME[@WEIGHTS][:key=value,...]`. Learned optimizers set their own steps, and are
            left as they are.
        learning_rate: where the text has none.
        critic: whether Adam and its kin get an epsilon of 1e-4 where the text has none. AdamO's
            authors use it for all of them, and a comparison between different ones says little.

    Returns:
        The spec.

    Examples:
        >>> str(resolve("adam", 3e-4, critic=True))
        'adam:learning_rate=0.0003,eps=0.0001'
        >>> str(resolve("parseval:base=adamw", 3e-4, critic=True))
        'parseval:learning_rate=0.0003,eps=0.0001,base=adamw'
    """
    spec = optim.OptimizerSpec.parse(text)
    if optim.sets_own_steps(spec):
        return spec
    options: dict[str, Any] = {"learning_rate": learning_rate}
    if critic and optim.base_name(spec) in _SAME_EPS:
        options["eps"] = EPS
    return dataclasses.replace(spec, options=tuple((options | dict(spec.options)).items()))


def make_learner(
    name: str,
    observation_size: int,
    action_size: int,
    settings: Mapping[str, Any],
    specs: Mapping[str, optim.OptimizerSpec],
    iterations: int,
    critic_steps: int,
    normalizer: Normalizer | None,
    transformations: Mapping[str, optax.GradientTransformation] | None = None,
    episode_returns: Sequence[float] | NDArray[np.floating[Any]] = (),
) -> OfflineLearner:
    """Builds a learner.

    Args:
        name: a key of `ALGORITHMS`.
        observation_size: length of an observation.
        action_size: length of an action.
        settings: as `settings_of` gives them.
        specs: of the optimizer of each network, as `resolve` gives them.
        iterations: calls of `iterate` in a lifetime.
        critic_steps: updates of the critic in each.
        normalizer: used if the settings say so.
        transformations: optimizers that take the place of those of the specs.
        episode_returns: of the data, for `reward_change`.

    Returns:
        The learner, for rewards that were changed by `reward_change`.

    Raises:
        ValueError: if anything in it is unknown or not allowed.
    """
    algorithm = algorithm_named(name)
    own = {key: value for key, value in settings.items() if key not in _OWN}
    if algorithm.config is PARSConfig:  # its own scaling has been done to the rewards
        change = reward_change(settings, episode_returns)
        own |= {"reward_scale": 1.0, "min_reward": change(own["min_reward"])}
    config = algorithm.config(iterations=iterations, critic_steps=critic_steps, **own)
    optimizers: dict[str, optax.GradientTransformation] = dict(transformations or {})
    for network, spec in specs.items():
        if network not in optimizers:
            optimizers[network] = optim.make(spec)
    actor = specs["actor"]
    if settings[_COSINE] and optim.accepts_schedule(actor):
        period = settings.get("actor_period", 1)
        updates = max(1, iterations * critic_steps // period)
        rate = optax.cosine_decay_schedule(actor.learning_rate or 0.0, updates)
        options = tuple((k, v) for k, v in actor.options if k != "learning_rate")
        optimizers["actor"] = optim.make(dataclasses.replace(actor, options=options), rate)
    return algorithm.build(
        observation_size,
        action_size,
        config,
        *(optimizers[network] for network in algorithm.networks),
        normalizer if settings[_NORMALIZE] else None,
    )


def adam_numbers(spec: optim.OptimizerSpec) -> dict[str, float]:
    """Decay rates and epsilon with which an optimizer of Adam's kind was made.

    Examples:
        >>> adam_numbers(optim.OptimizerSpec.parse("adam:b2=0.99"))
        {'b1': 0.9, 'b2': 0.99, 'eps': 1e-08}
        >>> adam_numbers(optim.OptimizerSpec.parse("weight_clipping:base=adam,b2=0.99"))
        {'b1': 0.9, 'b2': 0.99, 'eps': 1e-08}
    """
    name = optim.base_name(spec)
    details = optim.details(name)
    factory: Callable[..., Any] = details.factory if details else getattr(optax, name)
    parameters = inspect.signature(factory).parameters
    options = dict(spec.options)
    return {
        key: float(options.get(key, parameters[key].default))
        for key in ("b1", "b2", "eps")
        if key in parameters
    }
