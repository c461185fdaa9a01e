"""What `config.json` says suffices to make the run again."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import pytest
from run_directories import TINY, tiny_run

import optim
from experiments.online.rerun import run_again
from experiments.online.run import RunConfig
from experiments.runs.circumstances import numerics
from experiments.settings import Settings, change_settings


def recorded(run: RunConfig, path: Path, **changes: object) -> Path:
    """A directory whose `config.json` is that of a run."""
    path.mkdir(parents=True, exist_ok=True)
    config = run.config() | {"numerics": numerics()} | changes
    (path / "config.json").write_text(json.dumps(config))
    return path


A2C = change_settings(Settings(anneal=False), ["learner=a2c", "num_envs=3", "num_steps=5"])
RUNS = {
    "plain": tiny_run(),
    "options": tiny_run(environment="ant:backend=spring,max_episode_steps=50"),
    "spec": tiny_run("adam:learning_rate=3e-4,b2=0.9,l2=1e-4"),
    "label": dataclasses.replace(tiny_run(), label="mine", seeds=(3, 5)),
    "without clips": dataclasses.replace(
        tiny_run(),
        settings=dataclasses.replace(TINY, clip=math.inf, value_clip=0.3, max_grad_norm=math.inf),
    ),
    "a2c": RunConfig("Catch-bsuite", "sgd:learning_rate=0.1", 100, (0,), A2C),
    "evaluation": dataclasses.replace(
        tiny_run(environment="CartPole-v1:flip=true,phase=128"),
        evaluation_actions="greedy",
        evaluate_first=True,
        diagnostics_every=4,
    ),
    "prolonged": dataclasses.replace(tiny_run(iterations=300), prolonged_at=(64 * 120,)),
    "packaged": tiny_run("open@breakout"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_made_again(name: str, tmp_path: Path) -> None:
    run = RUNS[name]
    again = run_again(recorded(run, tmp_path / "run"))
    assert again.config() == run.config()
    assert (again.points, again.settings, again.name) == (run.points, run.settings, run.name)
    assert again.iterations_per_point == run.iterations_per_point


def test_weights_that_have_changed_are_read_from_the_runs_copy(tmp_path: Path) -> None:
    weights, path = tmp_path / "w.safetensors", tmp_path / "run"
    copy = path / "weights.safetensors"

    def save(seed: int) -> None:
        metadata = {"architecture": optim.Optim4RL(), "training_tasks": "none"}
        meta_params = optim.Optim4RL().init(jax.random.key(seed))
        optim.save_meta_params(weights, meta_params, metadata)

    save(0)
    run = tiny_run(f"optim4rl@{weights}:l2=0.001")
    recorded(run, path)
    copy.write_bytes(weights.read_bytes())
    assert run_again(path).optimizer == run.optimizer
    save(1)
    again = run_again(path)
    assert again.optimizer == f"optim4rl@{copy}:l2=0.001"
    assert again.weights == run.weights
    copy.write_bytes(weights.read_bytes())  # the other ones
    with pytest.raises(ValueError, match=r"are not those it was run with, and .* is no copy"):
        run_again(path)


def test_what_would_be_another_run_is_refused(tmp_path: Path) -> None:
    run = tiny_run()
    path = recorded(run, tmp_path / "a", normaliser=50.0)
    with pytest.raises(ValueError, match=r"again: it was run with normaliser 50\.0, and would be"):
        run_again(path)
    settings = Settings().config() | {"new_one": 1}
    path = recorded(run, tmp_path / "b", settings=settings)
    with pytest.raises(ValueError, match="unknown setting 'new_one'"):
        run_again(path)
    for content in ("{", "[]", "{}", '{"method": "es", "format": 2}', '{"collapse_line": 1}'):
        (path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=r"config\.json is not of a run of compare, train or"):
            run_again(path)
