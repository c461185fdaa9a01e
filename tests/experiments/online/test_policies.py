"""Trained policies are kept with their runs, and the evaluation acts as it is asked to."""

import csv
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from run_directories import results, tiny_run

import agents
from experiments.online.training import compiled, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policies") / "run"
    train(tiny_run(), path)
    return path


def test_policies_are_those_of_the_last_state(run: Path) -> None:
    program, numbers, keys = compiled(tiny_run())
    state = program.init(numbers, keys)
    state, _ = program.advance(numbers, state, np.int32(tiny_run().iterations))
    observations = jax.random.normal(jax.random.key(0), (16, 4))
    for i, seed in enumerate(tiny_run().seeds):
        policy = agents.load_policy(run, seed)
        mine = jax.tree.map(lambda x, i=i: x[i], jax.device_get(state.params["actor"]))
        jax.tree.map(np.testing.assert_array_equal, mine, policy.params)
        actions = policy.act(observations)
        assert set(np.unique(actions)) <= {0, 1}
    with pytest.raises(ValueError, match="seed must be one of those in"):
        agents.load_policy(run, 7)


def test_policies_are_replaced_and_removed_with_their_run(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    train(tiny_run(), path)
    before = (path / "agents.safetensors").read_bytes()
    assert before == (run / "agents.safetensors").read_bytes()

    def stop(point: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_run(), path, overwrite=True, on_point=stop)
    with pytest.raises(ValueError, match="its training has not ended"):
        agents.load_policy(path, 0)


def test_greedy_evaluation(run: Path, tmp_path: Path) -> None:
    """Training is the same; only the episodes after it are played otherwise."""
    greedy = dataclasses.replace(tiny_run(), evaluation_actions="greedy")
    train(greedy, tmp_path / "run")
    mine, sampled = results(tmp_path / "run"), results(run)
    assert mine["metrics.csv"] == sampled["metrics.csv"]
    assert mine["evaluation.csv"] != sampled["evaluation.csv"]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["evaluation_actions"] == "greedy"
    # Greedy actions are the same in every episode that begins alike; lengths say that it played.
    with (tmp_path / "run" / "evaluation.csv").open(newline="") as file:
        assert all(float(row["episode_length"]) > 1 for row in csv.DictReader(file))
    with pytest.raises(
        ValueError, match="it was run with evaluation_actions greedy, you asked for sampled"
    ):
        train(tiny_run(), tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match="unknown kind of evaluation 'gredy'; the nearest is"):
        dataclasses.replace(tiny_run(), evaluation_actions="gredy")
