"""Methods of meta-training by name."""

from __future__ import annotations

from experiments.meta_training.evolution import EvolutionRunConfig
from experiments.meta_training.imitation import ImitationRunConfig
from experiments.meta_training.pipeline import PipelineRunConfig
from experiments.meta_training.presets import with_preset
from experiments.meta_training.request import MetaRequest
from experiments.meta_training.training import MetaRun
from experiments.settings import unknown

METHODS: dict[str, type[MetaRun]] = {
    run.method: run for run in (EvolutionRunConfig, PipelineRunConfig, ImitationRunConfig)
}


def meta_run(request: MetaRequest) -> MetaRun:
    """The run that is asked for.

    Raises:
        ValueError: if anything in the request is unknown or not allowed.
    """
    if request.method not in METHODS:
        raise unknown("method", request.method, METHODS)
    if request.preset is not None:
        request = with_preset(request)
    for method, options in {
        "pipeline": ("pipeline",),
        "imitation": ("target", "imitation"),
    }.items():
        if request.method != method and any(getattr(request, name) for name in options):
            given = " and ".join(f"--{name}" for name in options)
            raise ValueError(f"{given} need{'s' * (len(options) == 1)} --method {method}.")
    return METHODS[request.method].from_request(request)
