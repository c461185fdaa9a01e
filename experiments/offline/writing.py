"""Writes data sets in Minari's format, each whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.brax_environment import _without_warnings
from agents.environment import Box, Environment
from agents.offline.loading import ENVIRONMENT_KEY
from experiments.runs.circumstances import package_version


def datasets_root(root: Path | None) -> Path:
    """Minari's folder of data sets: the one that is given, or where Minari itself looks for it."""
    if root is not None:
        return root.absolute()
    return Path(os.environ.get("MINARI_DATASETS_PATH", "~/.minari/datasets")).expanduser()


def write_dataset(
    root: Path,
    dataset_id: str,
    environment: Environment,
    text: str,
    episodes: Sequence[Mapping[str, NDArray[Any]]],
    *,
    references: tuple[float, float],
    algorithm: str,
    description: str,
    facts: Mapping[str, Any],
) -> None:
    """Writes a data set with Minari next to its place, and moves it there when it is whole.

    Args:
        root: Minari's folder of data sets.
        dataset_id: Minari's name of it. A data set of that name is replaced.
        environment: in which the episodes were played.
        text: `NAME[:key=value,...]` of the environment, by which it is found again.
        episodes: of each, `observations` (one more than the others), `actions` within the
            environment's bounds, `rewards`, `terminations` and `truncations`.
        references: the returns that normalised scores are to take for 0 and 1.
        algorithm: name of what acted, for Minari's metadata.
        description: of the data set, likewise.
        facts: more for its metadata, where each name begins with `rl_optim_`.
    """
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer

    from agents.gymnasium_environment import GymnasiumEnvironment

    space = environment.action_space
    assert isinstance(space, Box)
    low, high = np.full(space.size, space.low), np.full(space.size, space.high)
    env_id: str | None = None
    dtype: type[np.floating[Any]] = np.float32
    if isinstance(environment, GymnasiumEnvironment):
        low, high, env_id = environment.action_low, environment.action_high, environment.name
        dtype = np.float64
    spread = (np.asarray(high) - low) / (space.high - space.low)
    buffers = [
        EpisodeBuffer(
            id=i,
            observations=episode["observations"].astype(dtype),
            actions=(low + (episode["actions"] - space.low) * spread).astype(np.float32),
            rewards=episode["rewards"].tolist(),
            terminations=episode["terminations"].tolist(),
            truncations=episode["truncations"].tolist(),
            infos={},
        )
        for i, episode in enumerate(episodes)
    ]
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".rl-optim-", dir=root) as temporary:
        # Minari makes the environment, and warns that the one to evaluate in is the same.
        with _minari_root(temporary), _without_warnings():
            dataset = minari.create_dataset_from_buffers(
                dataset_id,
                buffer=buffers,
                env=env_id,
                observation_space=gymnasium.spaces.Box(
                    -np.inf, np.inf, environment.observation_shape, dtype
                ),
                action_space=gymnasium.spaces.Box(
                    low.astype(np.float32), high.astype(np.float32), dtype=np.float32
                ),
                algorithm_name=algorithm,
                author="RL-Optim's rl-optim collect",
                author_email="none",
                code_permalink="none",
                description=description,
                data_format="hdf5",
            )
            extra: dict[str, Any] = {f"rl_optim_{key}": value for key, value in facts.items()}
            extra["ref_min_score"], extra["ref_max_score"] = references  # left out without an env
            extra["rl_optim_version"] = package_version("rl-optim")
            if env_id is None:
                extra[ENVIRONMENT_KEY] = text
            dataset.storage.update_metadata(extra)
        place = root / dataset_id
        place.parent.mkdir(parents=True, exist_ok=True)
        for folder in (*reversed(place.relative_to(root).parents[:-1]),):
            notes = Path(temporary) / folder / "namespace_metadata.json"
            if notes.is_file() and not (root / folder / notes.name).exists():
                shutil.copy(notes, root / folder)
        if place.exists():
            shutil.rmtree(place)
        os.replace(Path(temporary) / dataset_id, place)


@contextlib.contextmanager
def _minari_root(path: str) -> Iterator[None]:
    """Minari reads its folder from the environment each time."""
    name = "MINARI_DATASETS_PATH"
    before = os.environ.get(name)
    os.environ[name] = path
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
