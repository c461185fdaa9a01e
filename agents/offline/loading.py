"""Data sets from files: Minari's HDF5 and D4RL-style HDF5, through one function.

Needs the extra `offline` (h5py); Minari itself is not needed to read its files.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agents.offline.common import Transitions

Arrays = dict[str, NDArray[Any]]
ENVIRONMENT_KEY = "rl_optim_environment"  # in metadata.json, of environments Gymnasium lacks
_MINARI_FILE = "main_data.hdf5"
_MINARI_KEYS = ("observations", "actions", "rewards", "terminations", "truncations")
_D4RL_KEYS = ("observations", "actions", "rewards", "terminals")


class DatasetError(ValueError):
    """A file that is no data set, or one that cannot be learned from; one line says why."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What `load` gives."""

    name: str
    """Where it came from, as it was asked for."""

    transitions: Transitions
    """NumPy arrays in float32 (bool for flags), actions scaled to [-1, 1]. `jax.device_put` moves
    them to a device once."""

    action_low: NDArray[np.float32]
    """The environment's bounds of actions, shape (action_size,)."""

    action_high: NDArray[np.float32]

    episode_returns: NDArray[np.float64]
    """Undiscounted returns of the episodes that terminated or were cut off, in order."""

    environment: str | None
    """The environment's name, where the files have it: Gymnasium's, or, in data that `rl-optim
    collect` wrote, `NAME[:key=value,...]` as that command takes it."""

    reference_returns: tuple[float, float] | None = None
    """Mean returns of a random and of an expert policy, where the files have them."""

    title: str = ""
    """Minari's identifier of the data set; else its file's name."""

    def environment_action(self, action: ArrayLike) -> NDArray[np.float32]:
        """Takes actions in [-1, 1] of any leading shape back to the environment's bounds."""
        share = (np.asarray(action, np.float32) + 1.0) / 2.0
        return self.action_low + share * (self.action_high - self.action_low)


def load(
    path: str | os.PathLike[str],
    action_low: ArrayLike | None = None,
    action_high: ArrayLike | None = None,
) -> Dataset:
    """Reads a data set of continuous control.

    Two layouts are read. Minari's: a group for each episode, with one observation more than
    actions; episodes come in numeric order, and one that was cut off, or that just stops, has not
    terminated. D4RL's: flat arrays `observations`, `actions`, `rewards`, `terminals`, and
    `timeouts` or `next_observations` or both. Without next observations, the step at a timeout has
    none (the next row begins another episode) and is left out, as is the last row unless it is
    terminal.

    Args:
        path: an HDF5 file of either layout; the folder of a Minari data set; or a Minari name such
            as 'mujoco/hopper/medium-v0', looked up under `$MINARI_DATASETS_PATH` (default:
            `~/.minari/datasets`).
        action_low: the environment's lower bound of actions, a number or one for each dimension.
            None takes it from Minari's metadata, or else -1.
        action_high: likewise, the upper bound, or else 1.

    Returns:
        The data set.

    Raises:
        DatasetError: if there is nothing at the path; the file is not HDF5 or of neither layout;
            the observations are not flat arrays; an episode is empty, has lengths that do not fit,
            or goes on after it ended; a number is not finite; or an action is outside its bounds.
        ImportError: if h5py is missing.

    References:
        `Minari's documentation <https://minari.farama.org>`_; Fu et al., D4RL: Datasets for Deep
        Data-Driven Reinforcement Learning, 2020,
        `arXiv:2004.07219 <https://arxiv.org/abs/2004.07219>`_

    Examples:
        >>> import tempfile, h5py
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with h5py.File(f"{folder}/tiny.hdf5", "w") as file:
        ...         file["observations"] = np.zeros((3, 2))
        ...         file["actions"] = np.full((3, 1), 0.5)
        ...         file["rewards"] = np.ones(3)
        ...         file["terminals"] = np.array([False, False, True])
        ...         file["timeouts"] = np.zeros(3, bool)
        ...     data = load(f"{folder}/tiny.hdf5")
        >>> data.transitions.terminated.tolist(), data.episode_returns.tolist()
        ([False, False, True], [3.0])
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "Reading data sets needs h5py: pip install 'rl-optim[offline]'"
        ) from error

    name = os.fspath(path)
    file_path = _find(name)
    if not h5py.is_hdf5(file_path):
        raise DatasetError(f"{file_path} is not an HDF5 file.")
    metadata = _metadata(file_path)
    try:
        file = h5py.File(file_path, "r")
    except OSError as error:
        raise DatasetError(f"{file_path} cannot be read: {error}.") from None
    with file:
        numbered = [(re.fullmatch(r"episode_(\d+)", key), key) for key in file]
        episodes = sorted((int(match[1]), key) for match, key in numbered if match)
        if episodes:
            parts = [_minari_episode(file[key], f"{file_path}, {key}") for _, key in episodes]
        elif all(key in file for key in _D4RL_KEYS):
            parts = [_d4rl_part(file, str(file_path))]
        else:
            found = ", ".join(sorted(file)[:8]) or "nothing"
            raise DatasetError(
                f"{file_path} must hold groups episode_0, episode_1, ... (Minari) or arrays "
                f"{', '.join(_D4RL_KEYS)} (D4RL), got {found}."
            )
    sizes = {(part["observation"].shape[1], part["action"].shape[1]) for part in parts}
    if len(sizes) > 1:
        raise DatasetError(
            f"{file_path} must have one size of observations and actions, got {sorted(sizes)}."
        )
    joined = {key: np.concatenate([part[key] for part in parts]) for key in Transitions._fields}
    if not len(joined["reward"]):
        raise DatasetError(f"{file_path} holds no transition whose next observation is known.")
    low, high = _bounds(metadata, joined["action"].shape[1], action_low, action_high)
    return Dataset(
        name=name,
        transitions=_scaled(joined, low, high, file_path),
        action_low=low,
        action_high=high,
        episode_returns=np.concatenate([part["returns"] for part in parts]),
        environment=_environment(metadata),
        reference_returns=_reference_returns(metadata),
        title=str(metadata.get("dataset_id") or file_path.stem),
    )


def _find(name: str) -> Path:
    root = Path(os.environ.get("MINARI_DATASETS_PATH", "~/.minari/datasets")).expanduser()
    for folder in (Path(name).expanduser(), root / name):
        for candidate in (folder, folder / _MINARI_FILE, folder / "data" / _MINARI_FILE):
            if candidate.is_file():
                return candidate
        metadata = folder / "data" / "metadata.json"
        if metadata.is_file():
            kind = json.loads(metadata.read_text()).get("data_format")
            raise DatasetError(f"{name} must be in Minari's format 'hdf5', got {kind!r}.")
        if folder.exists():
            raise DatasetError(
                f"{folder} holds no data set: there is no data/main_data.hdf5 in it."
            )
    raise DatasetError(f"{name} is neither a file, nor a folder, nor a Minari data set in {root}.")


def _metadata(file_path: Path) -> Mapping[str, Any]:
    path = file_path.with_name("metadata.json")
    if file_path.name != _MINARI_FILE or not path.is_file():
        return {}
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path} is not JSON: {error}.") from None


def _decoded(metadata: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A part of Minari's metadata that is itself JSON in a string."""
    value = metadata.get(key) or {}
    return json.loads(value) if isinstance(value, str) else value


def _environment(metadata: Mapping[str, Any]) -> str | None:
    return metadata.get(ENVIRONMENT_KEY) or _decoded(metadata, "env_spec").get("id")


def _reference_returns(metadata: Mapping[str, Any]) -> tuple[float, float] | None:
    values = [metadata.get(key) for key in ("ref_min_score", "ref_max_score")]
    if not all(isinstance(value, int | float) and np.isfinite(value) for value in values):
        return None
    low, high = (float(value) for value in values)  # type: ignore[arg-type]
    return (low, high) if low < high else None


def _bounds(
    metadata: Mapping[str, Any], size: int, low: ArrayLike | None, high: ArrayLike | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    space = _decoded(metadata, "action_space")
    if space and space.get("type") != "Box":
        raise DatasetError(f"The action space must be a Box, got {space.get('type')}.")
    bounds = []
    for name, given, default in (("low", low, -1.0), ("high", high, 1.0)):
        value = np.asarray(space.get(name, default) if given is None else given, np.float32)
        if value.shape not in ((), (1,), (size,)):
            raise DatasetError(
                f"action_{name} must be a number or {size} of them, got shape {value.shape}."
            )
        bounds.append(np.broadcast_to(value, (size,)).copy())
    if not (np.isfinite(bounds).all() and (bounds[0] < bounds[1]).all()):
        raise DatasetError(
            f"The bounds of actions must be finite and low < high, got low {bounds[0].tolist()} "
            f"and high {bounds[1].tolist()}; give action_low and action_high."
        )
    return bounds[0], bounds[1]


def _scaled(
    joined: Arrays, low: NDArray[np.float32], high: NDArray[np.float32], file_path: Path
) -> Transitions:
    """Scales actions to [-1, 1], after checking that they are within their bounds."""
    slack = 1e-4 * (high - low)
    outside = (joined["action"] < low - slack) | (joined["action"] > high + slack)
    if outside.any():
        row, dimension = np.argwhere(outside)[0]
        raise DatasetError(
            f"{file_path}: actions must be in [{low[dimension]:g}, {high[dimension]:g}], got "
            f"{joined['action'][row, dimension]:g} in transition {row}, dimension {dimension}; "
            "give action_low and action_high if the bounds are others."
        )
    for key in ("action", "next_action"):
        scaled = 2.0 * (joined[key] - low) / (high - low) - 1.0
        joined[key] = np.clip(scaled, -1.0, 1.0)
    arrays: dict[str, Any] = {
        key: value.astype(bool if value.dtype == bool else np.float32)
        for key, value in joined.items()
    }
    return Transitions(**arrays)


def _array(group: Any, key: str, where: str, ndim: int) -> NDArray[Any]:
    """An array of a group, checked for its number of axes and for nan."""
    if key not in group:
        raise DatasetError(f"{where} must hold {key}, and does not.")
    if not hasattr(group[key], "shape"):
        parts = ", ".join(group[key])
        raise DatasetError(f"{where}: {key} must be one array, got a group of {parts}.")
    array = np.asarray(group[key][()])
    if ndim == 1 and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != ndim or array.dtype.kind not in "biuf":
        raise DatasetError(
            f"{where}: {key} must be numbers with {ndim} axes, got {array.dtype} of shape "
            f"{array.shape}."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][0])
        raise DatasetError(f"{where}: {key} must be finite, got nan or inf in row {row}.")
    return array


def _minari_episode(group: Any, name: str) -> Arrays:
    observations, actions, rewards, terminations, truncations = (
        _array(group, key, name, ndim)
        for key, ndim in zip(_MINARI_KEYS, (2, 2, 1, 1, 1), strict=True)
    )
    steps = len(rewards)
    if not steps:
        raise DatasetError(f"{name} is empty.")
    lengths = (len(observations) - 1, len(actions), len(terminations), len(truncations))
    if set(lengths) != {steps}:
        raise DatasetError(
            f"{name} must have as many actions, terminations and truncations as rewards "
            f"({steps}), and one observation more; got {len(actions)}, {len(terminations)}, "
            f"{len(truncations)} and {len(observations)}."
        )
    ends = (terminations | truncations).astype(bool)
    if ends[:-1].any():
        raise DatasetError(f"{name} goes on after its end in row {int(np.argmax(ends))}.")
    return {
        "observation": observations[:-1],
        "action": actions,
        "reward": rewards,
        "next_observation": observations[1:],
        "terminated": terminations.astype(bool),
        "next_action": np.concatenate([actions[1:], actions[-1:]]),
        "has_next_action": np.arange(steps) < steps - 1,
        "returns": np.asarray([rewards.sum()] if ends[-1] else [], np.float64),
    }


def _d4rl_part(file: Any, where: str) -> Arrays:
    observations, actions, rewards, terminals = (
        _array(file, key, where, ndim) for key, ndim in zip(_D4RL_KEYS, (2, 2, 1, 1), strict=True)
    )
    steps = len(rewards)
    optional = {
        key: _array(file, key, where, ndim) if key in file else None
        for key, ndim in (("timeouts", 1), ("next_observations", 2))
    }
    lengths = {"observations": len(observations), "actions": len(actions)}
    lengths |= {"terminals": len(terminals)}
    lengths |= {key: len(array) for key, array in optional.items() if array is not None}
    for key, length in lengths.items():
        if length != steps:
            raise DatasetError(f"{where}: {key} must have {steps} rows like rewards, got {length}.")
    if not steps:
        raise DatasetError(f"{where} is empty.")
    terminated = terminals.astype(bool)
    timeouts, following = optional["timeouts"], optional["next_observations"]
    cut_off = np.zeros(steps, bool) if timeouts is None else timeouts.astype(bool) & ~terminated
    ends = terminated | cut_off
    later = np.minimum(np.arange(steps) + 1, steps - 1)
    continues = ~ends & (np.arange(steps) < steps - 1)
    if following is None:
        if timeouts is None:
            raise DatasetError(
                f"{where} must hold timeouts or next_observations: without either, an episode that "
                "was cut off looks as if it went on."
            )
        known = terminated | continues
        # What follows an end counts nothing; the row itself is as good as the next episode's.
        following = np.where(continues[:, None], observations[later], observations)
    else:
        known = np.ones(steps, bool)
        continues &= (following == observations[later]).all(axis=1)
    part = {
        "observation": observations,
        "action": actions,
        "reward": rewards,
        "next_observation": following,
        "terminated": terminated,
        "next_action": actions[later],
        "has_next_action": continues,
    }
    part = {key: array[known] for key, array in part.items()}
    totals = np.concatenate([[0.0], np.cumsum(rewards, dtype=np.float64)])
    part["returns"] = np.diff(totals[np.concatenate([[0], np.flatnonzero(ends) + 1])])
    return part
