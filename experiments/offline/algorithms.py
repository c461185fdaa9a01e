"""Offline learners by name, their settings as text, and what surrounds their optimizers."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import optax

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
_OWN = (_NORMALIZE, _COSINE)
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
            `normalize_observations` and `cosine_actor`.

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
    defaults: dict[str, Any] = {
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
    if not 0.0 <= settings["discount"] < 1.0:
        raise ValueError(f"setting 'discount' must be in [0, 1); got {settings['discount']}.")
    return settings


def resolve(text: str, learning_rate: float, critic: bool) -> optim.OptimizerSpec:
    """Fills up an optimizer's spec.

    Args:
        text: `NAME[:key=value,...]`.
        learning_rate: where the text has none.
        critic: whether Adam and its kin get an epsilon of 1e-4 where the text has none. AdamO's
            authors use it for all of them, and a comparison between different ones says little.

    Returns:
        The spec.

    Examples:
        >>> str(resolve("adam", 3e-4, critic=True))
        'adam:learning_rate=0.0003,eps=0.0001'
    """
    spec = optim.OptimizerSpec.parse(text)
    options: dict[str, Any] = {"learning_rate": learning_rate}
    if critic and spec.name in _SAME_EPS:
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
) -> OfflineLearner:
    """Builds a learner.

    Args:
        name: a key of `ALGORITHMS`.
        observation_size: length of an observation.
        action_size: length of an action.
        settings: as `settings_of` gives them.
        specs: of the optimizer of each network, with learning rates.
        iterations: calls of `iterate` in a lifetime.
        critic_steps: updates of the critic in each.
        normalizer: used if the settings say so.
        transformations: optimizers that take the place of those of the specs.

    Returns:
        The learner.

    Raises:
        ValueError: if anything in it is unknown or not allowed.
    """
    algorithm = algorithm_named(name)
    own = {key: value for key, value in settings.items() if key not in _OWN}
    config = algorithm.config(iterations=iterations, critic_steps=critic_steps, **own)
    optimizers: dict[str, optax.GradientTransformation] = dict(transformations or {})
    for network, spec in specs.items():
        if network not in optimizers:
            optimizers[network] = optim.make(spec)
    actor = specs["actor"]
    if settings[_COSINE] and optim.accepts_schedule(actor.name):
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
    """
    details = optim.details(spec.name)
    factory: Callable[..., Any] = details.factory if details else getattr(optax, spec.name)
    parameters = inspect.signature(factory).parameters
    options = dict(spec.options)
    return {
        key: float(options.get(key, parameters[key].default))
        for key in ("b1", "b2", "eps")
        if key in parameters
    }
