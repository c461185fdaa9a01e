"""Whether a run that is asked for is the one in a directory.

Weights and data are told by their content, which is kept as checksums, not by how they are called.
The run that is asked for may be longer than the one that is there, if nothing in it depends on its
length.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.settings import LATER, describe

if TYPE_CHECKING:
    import optim

# No jax at import, see `experiments.runs.directory`.

CIRCUMSTANCES = ("versions", "git_revision", "machine")  # keys of config.json, see `circumstances`
_TOTALS = ("steps", "generations")  # how long a run is, by its kind
_ENDS = "prolonged_at"  # the totals that it had before it was prolonged
_NEW = ("numerics", "evaluation_actions", "phase_steps")
_META_LATER = {
    "fitness": "final",
    "evolution.shaping": "ranks",
}  # of meta-training, what `LATER` is of settings
_DATA_SHA256, _TITLES = "dataset_sha256", ("dataset", "environment")


def check_same(path: Path, given: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Makes sure that a run may go on as what is asked for.

    Args:
        path: its directory, for messages.
        given: the configuration that is asked for.
        found: what its `config.json` says.

    Raises:
        ValueError: if it is another run, or shorter than what is there, or longer and must not be.
    """
    try:
        other = difference(given, found, "you asked for")
    except (AttributeError, KeyError, TypeError, ValueError):
        raise damaged(path) from None
    if other:
        raise ValueError(f"cannot resume {path}: it was run with {other}.")


def difference(given: Mapping[str, Any], found: Mapping[str, Any], asked: str) -> str | None:
    """The first thing that is not the same, as `KEY OLD, ASKED NEW`; None if it is the same run.

    Args:
        given: the configuration that is asked for.
        found: what a `config.json` says.
        asked: what is said before what is given.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: if what was found is damaged.
    """
    return _difference(_flat(given), _flat(found), asked)


def is_longer(given: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether what is asked for is longer than what is there; both are otherwise the same."""
    return any(key in given and given[key] > found[key] for key in _TOTALS)


def prolonged(given: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """What `config.json` says of a run once it is longer."""
    total = next(key for key in _TOTALS if key in given)
    length = {key: given[key] for key in (total, "iterations") if key in given}
    return {**found, **length, _ENDS: [*found.get(_ENDS, ()), found[total]]}


def earlier_ends(path: Path, steps: int) -> tuple[int, ...]:
    """Steps at which the run in a directory was to end, before it is one of so many steps.

    Args:
        path: the directory.
        steps: what is asked for.
    """
    try:
        found = json.loads((path / "config.json").read_text())
        ends = [*found.get(_ENDS, ()), found["steps"]]
        return tuple(end for end in ends if 0 < end < steps)
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return ()  # `check_same` says what is wrong


def planned_steps(path: Path) -> int:
    """Steps at which the run in a directory is to end; 0 if there is none."""
    try:
        return int(json.loads((path / "config.json").read_text())["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # `check_same` says what is wrong


def why_not_longer(config: Mapping[str, Any]) -> str | None:
    """What in a run of agents depends on how long it is; None if nothing does.

    Args:
        config: what its `config.json` says or is to say.
    """
    return _why_not_longer(_flat(config), is_meta=False)


def damaged(path: Path) -> ValueError:
    """The error to raise where a directory's `config.json` cannot be read."""
    return ValueError(
        f"cannot resume {path}: its config.json is damaged; use --overwrite to start again."
    )


def _difference(given: Mapping[str, Any], found: Mapping[str, Any], asked: str) -> str | None:
    """See `difference`; the configurations are flat."""
    total = next((key for key in _TOTALS if key in given), None)
    same_length = total is None or given[total] == found.get(total)
    for key in dict.fromkeys([*given, *found]):
        top = key.split(".")[0]
        if top in (*CIRCUMSTANCES, _ENDS, total) or (key == "iterations" and not same_length):
            continue
        # Earlier versions say less.
        is_new = top in _NEW or key.endswith("_sha256")
        if is_new and not (key in given and key in found):
            continue
        if key in _TITLES and _DATA_SHA256 in given and _DATA_SHA256 in found:
            continue
        default = _default(key)
        new, old = given.get(key, default), found.get(key, default)
        if any(name in given and name in found for name in _digests(key)):
            new, old = _without_path(str(new)), _without_path(str(old))
        if new != old:
            return _words(key, found.get(key, default), given.get(key, default), asked)
    if total is None or same_length:
        return None
    words = _words(total, found[total], given[total], asked)
    if found[total] > given[total]:
        return words
    reason = _why_not_longer(found, is_meta=total == "generations")
    return reason and f"{words}, and it cannot be prolonged: {reason}"


def _default(key: str) -> Any:
    """What earlier versions did that do not say it; meta-training has settings for each task."""
    *above, name = key.split(".")
    return LATER.get(name) if "settings" in above else _META_LATER.get(key)


def _words(key: str, old: Any, new: Any, asked: str) -> str:
    return f"{key} {describe(key, old)}, {asked} {describe(key, new)}"


def _digests(key: str) -> tuple[str, ...]:
    """Where the digest of the weights may stand that an optimizer's text names."""
    if key in ("optimizer", "resolved_optimizer"):
        networks = ("actor_weights_sha256", "critic_weights_sha256")
        return "weights_sha256", *networks, "start_sha256"
    if key == "target":  # of imitation
        return ("target_sha256",)
    group, _, name = key.partition(".")
    return (f"{name}_weights_sha256",) if group == "other_optimizers" else ()


def _without_path(text: str) -> str:
    """An optimizer's text without the file of its weights."""
    import optim
    from optim.network_specs import parts_of

    parts = parts_of(optim.parse_spec(text)).items()
    return str([(name, str(dataclasses.replace(spec, weights=None))) for name, spec in parts])


def _why_not_longer(found: Mapping[str, Any], is_meta: bool) -> str | None:
    """What in a run depends on how long it is; None if nothing does. Meta-training never does."""
    if is_meta or found.get("settings.restart"):  # nothing then lasts longer than a phase
        return None
    if found.get("annealed"):
        return "its learning rate falls to 0 over the whole run"
    if found.get("settings.cosine_actor"):
        return "its actor's learning rate falls to 0 over the whole run"
    import optim
    from optim.network_specs import parts_of

    specs = [
        spec
        for key, text in found.items()
        if key == "resolved_optimizer" or key.startswith("other_optimizers.")
        for spec in parts_of(optim.parse_spec(text)).values()
    ]
    return next(filter(None, map(_progress_of, specs)), None)


def _progress_of(spec: optim.OptimizerSpec) -> str | None:
    """What an optimizer is told of a run's length, as a clause; None if nothing."""
    import optim
    from optim.importing import is_imported

    for taken in (spec.name, str(dict(spec.options).get("base"))):
        if is_imported(taken):
            return f"{taken} may be told how much of the run is over"
    details = optim.details(spec.name)
    inputs = details.inputs if details is not None else ""
    if "training_progress" in inputs or "num_updates" in inputs:
        return f"{spec.name} is told how much of the run is over"
    return None


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration with the keys of mappings within it joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        is_mapping = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if is_mapping else {f"{prefix}{key}": value}
    return flat
