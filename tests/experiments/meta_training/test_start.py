"""A run is resumed with the weights that it started from, whatever their file is called."""

import json
import shlex
from pathlib import Path
from typing import Any

import jax
import pytest

import optim
from experiments.command_line import main as cli
from experiments.command_line.meta_train import MetaTrain
from experiments.meta_training.methods import meta_run
from experiments.meta_training.training import MetaRun
from experiments.runs.directory import RunDirectory

COMMON = (
    "--tasks CartPole-v1 --steps 64 --generations 2 --no-cache --out x "
    "--set num_envs=2 num_steps=8 minibatches=1 epochs=2 widths=4"
)
METHODS = {
    "es": "--population 4 --normalisers 10",
    "pipeline": "--method pipeline --pipeline agents=2 window=2",
    "imitation": "--method imitation --target adam:learning_rate=0.01 --imitation agents=2",
}


def parsed(text: str) -> MetaRun:
    command = cli._parse(shlex.split(f"meta-train {text} {COMMON}"))
    assert isinstance(command, MetaTrain)
    return meta_run(command)


def save(path: Path, change: Any = lambda meta_params: meta_params) -> Path:
    architecture = optim.LinearOptim()
    meta_params = change(architecture.init(jax.random.key(0)))
    metadata = {"architecture": architecture, "training_tasks": "none", "note": path.name}
    optim.save_meta_params(path, meta_params, metadata)
    return path


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_not_resumed_with_other_weights(method: str, tmp_path: Path) -> None:
    weights, run = save(tmp_path / "start.safetensors"), tmp_path / "run"
    text = f"{METHODS[method]} --optimizer linear_optim@{weights}"
    config = parsed(text).config()
    assert json.loads(json.dumps(config)) == config
    RunDirectory.create(run, config, resume=False, overwrite=False, on_note=print)
    RunDirectory.check(run, parsed(text).config(), resume=True, overwrite=False)
    save(weights, lambda meta_params: jax.tree.map(lambda x: x + 1.0, meta_params))
    with pytest.raises(ValueError, match=r"cannot resume .* with start_sha256 "):
        RunDirectory.check(run, parsed(text).config(), resume=True, overwrite=False)
    assert "start_sha256" not in parsed(text.replace(f"@{weights}", "")).config()


def test_a_run_is_not_resumed_with_another_target(tmp_path: Path) -> None:
    """Learned optimizers can be imitated too."""
    weights, run = save(tmp_path / "target.safetensors"), tmp_path / "run"
    text = (
        f"--method imitation --optimizer linear_optim --target linear_optim@{weights} "
        "--imitation agents=2 anneal=false"
    )
    config = parsed(text).config()
    RunDirectory.create(run, config, resume=False, overwrite=False, on_note=print)
    RunDirectory.check(run, parsed(text).config(), resume=True, overwrite=False)
    save(weights, lambda meta_params: jax.tree.map(lambda x: x + 1.0, meta_params))
    with pytest.raises(ValueError, match=r"cannot resume .* with target_sha256 "):
        RunDirectory.check(run, parsed(text).config(), resume=True, overwrite=False)
