"""Grids of meta-training's settings: what is asked for at each combination of values."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

import optim
from experiments.meta_training.architectures import option_names
from experiments.meta_training.evolution import STRATEGY_OPTIONS
from experiments.meta_training.imitation import ImitationOptions
from experiments.meta_training.methods import METHODS
from experiments.meta_training.pipeline import PipelineOptions
from experiments.meta_training.presets import with_preset
from experiments.meta_training.request import MetaRequest
from experiments.runs.grid import Axis, Place, Values, grid, places
from experiments.settings import Settings, unknown
from optim.spec import parse_options

# The learning rate of the meta-trainer, which is at another place in each method.
META_RATE = "meta_learning_rate"
_RATE = "learning_rate"
_RATES: dict[str, Place] = {
    "es": ("strategy", _RATE),
    "pipeline": ("pipeline", META_RATE),  # within the text of its optimizer
    "imitation": ("imitation", _RATE),
}


def requests(request: MetaRequest, axes: Sequence[Axis]) -> dict[Values, MetaRequest]:
    """What is asked for at each combination of values.

    Args:
        request: what all have.
        axes: of the grid. A key is one of `--pipeline`, `--strategy` or `--imitation`, whichever
            belongs to the method, an option of the learned optimizer or a setting of `--set`;
            `pipeline.KEY`, `optimizer.KEY`, `set.KEY` and so on say which. `meta_learning_rate` is
            the learning rate of the meta-trainer.

    Raises:
        ValueError: if a key is unknown, could be several, or is given a value elsewhere as well.
            Whether values are allowed, `experiments.meta_training.methods.meta_run` says.
    """
    if request.method not in METHODS:
        raise unknown("method", request.method, METHODS)
    filled = request if request.preset is None else with_preset(request)
    spec = optim.OptimizerSpec.parse(request.optimizer)
    trainer, _ = rate = _RATES[request.method]
    known = {
        trainer: {
            "strategy": STRATEGY_OPTIONS,
            "pipeline": list(typing.get_type_hints(PipelineOptions)),
            "imitation": list(typing.get_type_hints(ImitationOptions)),
        }[trainer],
        "optimizer": option_names(spec),
        "set": list(typing.get_type_hints(Settings)),
    }
    given = {
        "strategy": list(_strategy_options(request.strategy)),
        "pipeline": [*_keys(request.pipeline), *_rate_of(request.pipeline)],
        "imitation": _keys(request.imitation),
        "optimizer": [key for key, _ in spec.options],
        "set": _keys(request.set),
    }
    found = places(axes, known, given, {META_RATE: rate})
    if ("optimizer", _RATE) in found and request.learning_rates:
        raise ValueError(f"{_RATE!r} is given twice, by --over and by --learning-rates.")

    def at(values: Values) -> MetaRequest:
        changed = request
        for (place, name), value in zip(found, values, strict=True):
            if (place, name) != _RATES["pipeline"]:
                changed = _with(changed, place, name, value)
        if _RATES["pipeline"] in found:  # of the optimizer that the others leave
            own = changed.pipeline[len(request.pipeline) :]
            optimizer = _optimizer_of((*filled.pipeline, *own))
            value = values[found.index(_RATES["pipeline"])]
            optimizer = _with_option(optimizer, _RATE, value)
            changed = _with(changed, "pipeline", "optimizer", optimizer)
        return changed

    return {values: at(values) for values in grid(axes)}


def _with(request: MetaRequest, place: str, name: str, value: str) -> MetaRequest:
    """The request with a value for one more key; of several, the last one counts."""
    changes: dict[str, Any]
    if place == "optimizer" and name == _RATE:  # before that of a preset
        changes = {"learning_rates": (value,)}
    elif place == "optimizer":
        changes = {place: _with_option(request.optimizer, name, value)}
    elif place == "strategy":
        join = "," if ":" in request.strategy else ":"
        changes = {place: f"{request.strategy}{join}{name}={value}"}
    else:
        changes = {place: (*getattr(request, place), f"{name}={value}")}
    return dataclasses.replace(request, **changes)


def _with_option(optimizer: str, name: str, value: str) -> str:
    """An optimizer's text with a value for an option, in the place of the one that it has."""
    spec = optim.OptimizerSpec.parse(optimizer)
    ((_, read),) = parse_options(spec.name, f"{name}={value}")
    options = dict(spec.options) | {name: read}
    return str(dataclasses.replace(spec, options=tuple(options.items())))


def _strategy_options(strategy: str) -> dict[str, Any]:
    _, _, tail = strategy.partition(":")
    return dict(parse_options("strategy", tail)) if tail else {}


def _keys(assignments: Sequence[str]) -> list[str]:
    return [text.partition("=")[0] for text in assignments]


def _optimizer_of(pipeline: Sequence[str]) -> str:
    """The optimizer of the meta-parameters that `--pipeline` says, the last of several."""
    said = [text.partition("=")[2] for text in pipeline if text.startswith("optimizer=")]
    return said[-1] if said else PipelineOptions.optimizer


def _rate_of(pipeline: Sequence[str]) -> list[str]:
    """The key of the learning rate, if `--pipeline` gives it a value."""
    said = [text for text in pipeline if text.startswith("optimizer=")]
    options = dict(optim.OptimizerSpec.parse(_optimizer_of(said)).options) if said else {}
    return [META_RATE] if _RATE in options else []
