"""Runs of PPO once more, from what their `config.json` says alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optim
from experiments.online.run import RunConfig
from experiments.runs import weights
from experiments.runs.circumstances import numerics
from experiments.runs.identity import difference
from experiments.runs.parsing import environment_text
from experiments.settings import LATER, Settings, unknown


def run_again(path: Path) -> RunConfig:
    """The run that a directory was made by.

    Weights of a learned optimizer are read from where they were, or, if these are not the same any
    more, from the directory's own copy.

    Args:
        path: a run directory of `compare`, `train` or `sweep`.

    Returns:
        The run, whose `config.json` would say the same but for the circumstances.

    Raises:
        ValueError: if the directory holds no such run, or something in it means another thing to
            this version; the sentence says what.
        OSError: if a file cannot be read.
    """
    file = path / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if "collapse_line" in found:  # from a data set
            raise KeyError("steps")
        run = RunConfig(
            environment_text(str(found["environment"]), found["environment_options"]),
            _optimizer(str(found["optimizer"]), found, path),
            found["steps"],
            tuple(found["seeds"]),
            _settings(found),
            found.get("evaluation_actions", "sampled"),
            "first" in found.get("evaluation_dynamics", ()),
            found.get("diagnostics_every"),
            tuple(found.get("prolonged_at", ())),
            found.get("label"),
        )
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError):
        raise ValueError(f"{file} is not of a run of compare, train or sweep.") from None
    if other := difference(run.config() | {"numerics": numerics()}, found, "and would be now with"):
        raise ValueError(f"cannot run {path} again: it was run with {other}.")
    return run


def _optimizer(text: str, found: Mapping[str, Any], path: Path) -> str:
    """The optimizer's text; with the directory's own weights, if others are not the same."""
    digest = found.get("weights_sha256")
    if digest is None:
        return text
    spec = optim.OptimizerSpec.parse(text)
    try:
        if weights.sha256(weights.read(spec) or b"") == digest:
            return text
    except (ValueError, OSError):
        pass  # they are gone
    copy = path / "weights.safetensors"
    if not copy.is_file() or hashlib.sha256(copy.read_bytes()).hexdigest() != digest:
        raise ValueError(
            f"cannot run {path} again: the weights of {text!r} are not those it was run with, and "
            f"{copy} is no copy of those."
        )
    return str(dataclasses.replace(spec, weights=str(copy)))


def _settings(found: Mapping[str, Any]) -> Settings:
    """The inverse of `Settings.config`."""
    values = LATER | found["settings"] | {"learner": found["algorithm"]}
    values = {key: math.inf if value == "inf" else value for key, value in values.items()}
    values["widths"] = tuple(values["widths"])
    if values["learner"] == "a2c":
        values["clip"] = math.inf
    names = [field.name for field in dataclasses.fields(Settings)]
    for key in values:
        if key not in names:
            raise unknown("setting", key, names)
    return Settings(**values)
