"""Data sets from files: Minari's HDF5 and D4RL-style HDF5, through one function.

Needs the extra `offline` (h5py); Minari itself is not needed to read its files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agents.offline.common import Transitions
from rl_optim import require_extra

Arrays = dict[str, NDArray[Any]]
ENVIRONMENT_KEY = "rl_optim_environment"  # in metadata.json, of environments Gymnasium lacks
_MINARI_FILE = "main_data.hdf5"
_MINARI_NAME = r"(\w[\w-]*/)*[\w-]+-v\d+"

# Arrays of each layout, with their number of axes.
_MINARI = {"observations": 2, "actions": 2, "rewards": 1, "terminations": 1, "truncations": 1}
_D4RL = {"observations": 2, "actions": 2, "rewards": 1, "terminals": 1}
_D4RL_OPTIONAL = {"timeouts": 1, "next_observations": 2}
_FLAGS = frozenset(("terminations", "truncations", "terminals", "timeouts"))

_ROUNDING = 1e-6  # of actions beyond their bounds, relative to the bounds' size


class DatasetError(ValueError):
    """A file that is no data set, or one that cannot be learned from; one line says why."""


class ActionError(DatasetError):
    """Actions outside their bounds, or bounds that cannot be used.

    Attributes:
        problem: what is wrong, without the advice that the message ends with.
        may_clip: whether clipping the actions would do.
    """

    def __init__(self, problem: str, may_clip: bool) -> None:
        advice = "give action_low and action_high"
        if may_clip:
            advice += " if the bounds are others, or clip_actions=True to clip"
        super().__init__(f"{problem}; {advice}.")
        self.problem = problem
        self.may_clip = may_clip


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What `load` gives."""

    name: str
    """Where it came from, as it was asked for."""

    transitions: Transitions
    """NumPy arrays in float32 (bool for flags), actions scaled to [-1, 1]. `jax.device_put` moves
    them to a device once."""

    action_low: NDArray[np.float32]
    """Bounds of actions, those that they were scaled with, shape (action_size,)."""

    action_high: NDArray[np.float32]

    episode_returns: NDArray[np.float64]
    """Undiscounted returns of the episodes whose end is known, by termination or by being cut off,
    in order."""

    environment: str | None
    """The environment's name, where the files have it: Gymnasium's, or, in data that `rl-optim
    collect` wrote, `NAME[:key=value,...]` as that command takes it."""

    reference_returns: tuple[float, float] | None = None
    """Mean returns of a random and of an expert policy, where the files have them."""

    title: str = ""
    """Minari's identifier of the data set; else its file's name."""

    def environment_action(self, action: ArrayLike) -> NDArray[np.float32]:
        """Takes actions in [-1, 1] of any leading shape back to the bounds."""
        share = (np.asarray(action, np.float32) + 1.0) / 2.0
        return self.action_low + share * (self.action_high - self.action_low)


def load(
    path: str | os.PathLike[str],
    action_low: ArrayLike | None = None,
    action_high: ArrayLike | None = None,
    *,
    clip_actions: bool = False,
) -> Dataset:
    """Reads a data set of continuous control.

    Two layouts are read. Minari's: a group for each episode, with one observation more than
    actions; episodes come in numeric order, and one that was cut off, or that just stops, has not
    terminated. D4RL's: flat arrays `observations`, `actions`, `rewards`, `terminals`, and
    `timeouts` or `next_observations` or both. Without next observations, the step at a timeout has
    none (the next row begins another episode) and is left out, as is the last row unless it is
    terminal. Without timeouts, an episode was cut off where the next observation is not that of
    the following row. Flags may be booleans or numbers that are 0 or 1.

    Args:
        path: an HDF5 file of either layout; the folder of a Minari data set; or a Minari name such
            as 'mujoco/hopper/medium-v0', looked up under `$MINARI_DATASETS_PATH` (default:
            `~/.minari/datasets`).
        action_low: the lower bound of actions, a number or one for each dimension. None takes it
            from Minari's metadata, or else -1.
        action_high: likewise, the upper bound, or else 1.
        clip_actions: whether actions outside the bounds are clipped to them. Without it they are
            refused, unless they are off by a rounding error (1e-6 of the bounds' size).

    Returns:
        The data set.

    Raises:
        DatasetError: if there is nothing at the path; the file is not HDF5, is damaged or is of
            neither layout; the metadata are not as Minari writes them; the observations are not
            flat arrays; an episode is empty, has lengths that do not fit, or goes on after it
            ended; a flag is neither 0 nor 1; or a number is not finite in float32.
        ActionError: a `DatasetError`, if an action is outside its bounds, or the bounds are not
            finite.
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
    require_extra("offline", "h5py")
    import h5py

    name = os.fspath(path)
    file_path = _find(name)
    if not h5py.is_hdf5(file_path):
        raise DatasetError(f"{file_path} is not an HDF5 file.")
    metadata = _metadata(file_path)
    with _reading(str(file_path)), h5py.File(file_path, "r") as file:
        found = _arrays_of(file, str(file_path))
    parts = [part_of(arrays, where) for part_of, arrays, where in found]
    sizes = {(part["observation"].shape[1], part["action"].shape[1]) for part in parts}
    if len(sizes) > 1:
        raise DatasetError(
            f"{file_path} must have one size of observations and actions, got {sorted(sizes)}."
        )
    joined = {key: np.concatenate([part[key] for part in parts]) for key in Transitions._fields}
    if not len(joined["reward"]):
        raise DatasetError(f"{file_path} holds no transition whose next observation is known.")
    low, high = _bounds(metadata, file_path, joined["action"].shape[1], action_low, action_high)
    return Dataset(
        name=name,
        transitions=_scaled(joined, low, high, clip_actions, file_path),
        action_low=low,
        action_high=high,
        episode_returns=np.concatenate([part["returns"] for part in parts]),
        environment=metadata.environment,
        reference_returns=metadata.reference_returns,
        title=metadata.text("dataset_id") or file_path.stem,
    )


@contextlib.contextmanager
def _reading(what: str) -> Iterator[None]:
    """Says in one line what cannot be read; h5py raises all kinds of errors at a damaged file."""
    try:
        yield
    except DatasetError:
        raise
    except Exception as error:
        reason = " ".join(str(error).strip("'\"").split()).rstrip(".")
        raise DatasetError(f"{what} cannot be read: {reason or type(error).__name__}.") from None


def _find(name: str) -> Path:
    root = _expanded(os.environ.get("MINARI_DATASETS_PATH", "~/.minari/datasets"))
    for folder in (_expanded(name), root / name):
        for candidate in (folder, folder / _MINARI_FILE, folder / "data" / _MINARI_FILE):
            if candidate.is_file():
                return candidate
        metadata = folder / "data" / "metadata.json"
        if metadata.is_file():
            kind = _Metadata.read(metadata).text("data_format")
            raise DatasetError(f"{name} must be in Minari's format 'hdf5', got {kind!r}.")
        if folder.exists():
            raise DatasetError(
                f"{folder} holds no data set: there is no data/main_data.hdf5 in it."
            )
    advice = f"; `minari download {name}` gets it if Minari publishes it"
    raise DatasetError(
        f"{name} is neither a file, nor a folder, nor a Minari data set in {root}"
        f"{advice if re.fullmatch(_MINARI_NAME, name) else ''}."
    )


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # ~name of somebody unknown
        return Path(name)


@dataclasses.dataclass(frozen=True)
class _Metadata:
    """What a metadata.json says, in which anything may stand."""

    path: Path
    values: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> _Metadata:
        with _reading(str(path)):
            content = path.read_bytes()
        return cls(path, _json_object(content, str(path)))

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if not isinstance(value, str | None):
            raise DatasetError(f"{self.path}: {key} must be text, got {reprlib.repr(value)}.")
        return value

    def number(self, key: str) -> float | None:
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise DatasetError(f"{self.path}: {key} must be a number, got {reprlib.repr(value)}.")
        try:
            return None if value is None else float(value)
        except OverflowError:
            return None

    def part(self, key: str) -> _Metadata:
        """A part that is itself JSON, in a string or not; empty if it is not there."""
        value = self.values.get(key)
        if isinstance(value, str):
            value = _json_object(value, f"{self.path}: {key}") if value else {}
        if not isinstance(value, dict | None):
            raise DatasetError(
                f"{self.path}: {key} must be a JSON object, got {reprlib.repr(value)}."
            )
        return _Metadata(self.path, value or {})

    @property
    def environment(self) -> str | None:
        return self.text(ENVIRONMENT_KEY) or self.part("env_spec").text("id")

    @property
    def reference_returns(self) -> tuple[float, float] | None:
        low, high = self.number("ref_min_score"), self.number("ref_max_score")
        if low is None or high is None or not -np.inf < low < high < np.inf:
            return None
        return low, high


def _json_object(text: str | bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where} is not JSON: {' '.join(str(error).split())}.") from None
    if not isinstance(value, dict):
        raise DatasetError(f"{where} must be a JSON object, got {reprlib.repr(value)}.")
    return value


def _metadata(file_path: Path) -> _Metadata:
    path = file_path.with_name("metadata.json")
    if file_path.name != _MINARI_FILE or not path.is_file():
        return _Metadata(path, {})
    return _Metadata.read(path)


def _bounds(
    metadata: _Metadata,
    file_path: Path,
    size: int,
    low: ArrayLike | None,
    high: ArrayLike | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    space = metadata.part("action_space")
    kind = space.text("type")
    if space.values and kind != "Box":
        raise DatasetError(f"{metadata.path}: the action space must be a Box, got {kind}.")
    bounds = []
    for key, given, default in (("low", low, -1.0), ("high", high, 1.0)):
        what = f"action_{key}"
        if given is None:
            given, what = space.values.get(key, default), f"{metadata.path}: {key} of action_space"
        try:
            value = np.asarray(given, np.float32)
        except (ValueError, TypeError, OverflowError):
            raise DatasetError(f"{what} must be numbers, got {reprlib.repr(given)}.") from None
        if value.shape not in ((), (1,), (size,)):
            raise DatasetError(
                f"{what} must be a number or {size} of them, got shape {value.shape}."
            )
        bounds.append(np.broadcast_to(value, (size,)).copy())
    if not (np.isfinite(bounds).all() and (bounds[0] < bounds[1]).all()):
        raise ActionError(
            f"{file_path}: the bounds of actions must be finite and low < high, got low "
            f"{bounds[0].tolist()} and high {bounds[1].tolist()}",
            may_clip=False,
        )
    return bounds[0], bounds[1]


def _scaled(
    joined: Arrays,
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    clip: bool,
    file_path: Path,
) -> Transitions:
    """Scales actions to [-1, 1], after checking that they are within their bounds."""
    slack = _ROUNDING * np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
    for key in ("action", "next_action"):
        outside = (joined[key] < low - slack) | (joined[key] > high + slack)
        if outside.any() and not clip:
            row, dimension = np.argwhere(outside)[0]
            raise ActionError(
                f"{file_path}: actions must be in [{low[dimension]:g}, {high[dimension]:g}], got "
                f"{joined[key][row, dimension]:.8g} in transition {row}, dimension {dimension}",
                may_clip=True,
            )
        scaled = 2.0 * (joined[key] - low) / (high - low) - 1.0
        joined[key] = np.clip(scaled, -1.0, 1.0)
    arrays: dict[str, Any] = {
        key: value.astype(bool if value.dtype == bool else np.float32)
        for key, value in joined.items()
    }
    return Transitions(**arrays)


def _arrays_of(file: Any, where: str) -> list[tuple[Callable[[Arrays, str], Arrays], Arrays, str]]:
    """What is in a file: its arrays, where they are, and what makes transitions of them."""
    numbered = [(re.fullmatch(r"episode_(\d+)", key), key) for key in file]
    episodes = sorted((int(match[1]), key) for match, key in numbered if match)
    if episodes:
        return [
            (_minari_episode, _episode_arrays(file, key, f"{where}, {key}"), f"{where}, {key}")
            for _, key in episodes
        ]
    if all(key in file for key in _D4RL):
        wanted = _D4RL | {key: axes for key, axes in _D4RL_OPTIONAL.items() if key in file}
        return [(_d4rl_part, {k: _array(file, k, where, n) for k, n in wanted.items()}, where)]
    found = ", ".join(sorted(file)[:8]) or "nothing"
    raise DatasetError(
        f"{where} must hold groups episode_0, episode_1, ... (Minari) or arrays "
        f"{', '.join(_D4RL)} (D4RL), got {found}."
    )


def _episode_arrays(file: Any, key: str, where: str) -> Arrays:
    with _reading(where):
        group = file[key]
        if not hasattr(group, "keys"):
            raise DatasetError(f"{where} must be a group, got an array.")
    return {name: _array(group, name, where, axes) for name, axes in _MINARI.items()}


def _array(group: Any, key: str, where: str, ndim: int) -> NDArray[Any]:
    """An array of a group, checked for its number of axes and its values; flags are booleans."""
    with _reading(f"{where}: {key}"):
        if key not in group:
            raise DatasetError(f"{where} must hold {key}, and does not.")
        item = group[key]
        if not hasattr(item, "shape"):
            parts = ", ".join(item) if hasattr(item, "keys") else "no arrays"
            raise DatasetError(f"{where}: {key} must be one array, got a group of {parts}.")
        array = np.asarray(item[()])
    if ndim == 1 and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != ndim or array.dtype.kind not in "biuf":
        raise DatasetError(
            f"{where}: {key} must be numbers with {ndim} axes, got {array.dtype} of shape "
            f"{array.shape}."
        )
    if key in _FLAGS:
        _refuse((array != 0) & (array != 1), array, f"{where}: {key} must be 0 or 1")
        return array.astype(bool)
    if array.dtype.kind == "f":
        most = np.finfo(np.float32).max
        _refuse(~(np.abs(array) <= most), array, f"{where}: {key} must be finite in float32")
    return array


def _refuse(is_wrong: NDArray[np.bool_], array: NDArray[Any], rule: str) -> None:
    if is_wrong.any():
        place = tuple(np.argwhere(is_wrong)[0])
        raise DatasetError(f"{rule}, got {array[place]:g} in row {place[0]}.")


def _minari_episode(arrays: Arrays, where: str) -> Arrays:
    observations, actions, rewards, terminations, truncations = arrays.values()
    steps = len(rewards)
    if not steps:
        raise DatasetError(f"{where} is empty.")
    lengths = (len(observations) - 1, len(actions), len(terminations), len(truncations))
    if set(lengths) != {steps}:
        raise DatasetError(
            f"{where} must have as many actions, terminations and truncations as rewards "
            f"({steps}), and one observation more; got {len(actions)}, {len(terminations)}, "
            f"{len(truncations)} and {len(observations)}."
        )
    ends = terminations | truncations
    if ends[:-1].any():
        raise DatasetError(f"{where} goes on after its end in row {int(np.argmax(ends))}.")
    return {
        "observation": observations[:-1],
        "action": actions,
        "reward": rewards,
        "next_observation": observations[1:],
        "terminated": terminations,
        "next_action": np.concatenate([actions[1:], actions[-1:]]),
        "has_next_action": np.arange(steps) < steps - 1,
        "returns": np.asarray([rewards.sum()] if ends[-1] else [], np.float64),
    }


def _d4rl_part(arrays: Arrays, where: str) -> Arrays:
    observations, actions, rewards = (arrays[key] for key in ("observations", "actions", "rewards"))
    terminated, timeouts = arrays["terminals"], arrays.get("timeouts")
    following = arrays.get("next_observations")
    steps = len(rewards)
    for key, array in arrays.items():
        if len(array) != steps:
            raise DatasetError(
                f"{where}: {key} must have {steps} rows like rewards, got {len(array)}."
            )
    if following is not None and following.shape != observations.shape:
        raise DatasetError(
            f"{where}: next_observations must have {observations.shape[1]} columns like "
            f"observations, got {following.shape[1]}."
        )
    if not steps:
        raise DatasetError(f"{where} is empty.")
    ends = terminated if timeouts is None else terminated | timeouts
    is_last = np.arange(steps) == steps - 1
    later = np.minimum(np.arange(steps) + 1, steps - 1)
    if following is None:
        if timeouts is None:
            raise DatasetError(
                f"{where} must hold timeouts or next_observations: without either, an episode that "
                "was cut off looks as if it went on."
            )
        continues = ~ends & ~is_last
        known = terminated | continues
        # What follows an end counts nothing; the row itself is as good as the next episode's.
        following = np.where(continues[:, None], observations[later], observations)
    else:
        is_next = following.astype(np.float32) == observations[later].astype(np.float32)
        continues = ~ends & ~is_last & is_next.all(axis=1)
        known = np.ones(steps, bool)
        if timeouts is None:
            ends = ends | (~continues & ~is_last)
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
    part["returns"] = _episode_returns(rewards, continues, ends)
    return part


def _episode_returns(
    rewards: NDArray[Any], continues: NDArray[np.bool_], ends: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Returns of the stretches that go from one end to the next with nothing missing between."""
    stops = np.flatnonzero(~continues)
    totals = np.concatenate([[0.0], np.cumsum(rewards, dtype=np.float64)])
    sums = np.diff(totals[np.concatenate([[0], stops + 1])])
    has_ended = ends[stops]
    has_begun = np.concatenate([[True], has_ended[:-1]])
    return sums[has_begun & has_ended]
