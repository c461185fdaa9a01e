"""Every architecture under every trainer, from the command line, with real learners."""

import csv
import math
import shlex
from pathlib import Path

import evosax.algorithms  # noqa: F401  (before jax.jit is replaced)
import jax
import numpy as np
import pytest
from probes import quick_jit
from safetensors.numpy import load_file

from experiments.command_line import main as cli

# This too, which the command line imports when it needs it.
from experiments.meta_training import methods  # noqa: F401
from experiments.online.tasks import make_environment

METHODS = {
    "es": "--population 4 --steps 32",
    "pipeline": "--method pipeline --pipeline agents=2 window=2 reset_interval=2",
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "architecture",
    ["l2lgd2", "learned_correction", "linear_optim", "open", "optim4rl", "star", "velo"],
)
def test_any_architecture_under_any_trainer(
    architecture: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_environment("Catch-bsuite")
    monkeypatch.setattr(jax, "jit", quick_jit)
    text = (
        f"meta-train --optimizer {architecture} --tasks Catch-bsuite {METHODS[method]} "
        "--generations 2 --evaluate-every 1 --evaluation-seeds 1 --no-cache "
        f"--set num_envs=2 num_steps=4 minibatches=1 epochs=2 widths=4 --out {tmp_path / 'run'}"
    )
    cli.main(shlex.split(text))
    with (tmp_path / "run" / "meta_metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    if method == "pipeline":
        assert [row["skipped"] for row in rows] == ["0", "0"]
        assert all(math.isfinite(float(row["meta_loss"])) for row in rows)
        assert all(float(row["gradient_norm"]) > 0.0 for row in rows)
    else:
        assert all(math.isfinite(float(row["fitness_mean"])) for row in rows)
    weights = load_file(tmp_path / "run" / "meta_params.safetensors")
    assert weights
    assert all(np.isfinite(x).all() for x in weights.values())
