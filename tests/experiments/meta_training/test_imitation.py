"""Imitation from the command line: it resumes, its weights are a start, refusals."""

import csv
import shlex

import jax
import numpy as np
import pytest

import optim
from experiments.command_line import main as cli
from experiments.command_line.meta_train import MetaTrain
from experiments.meta_training.architectures import LearnedOptimizer
from experiments.meta_training.methods import meta_run
from experiments.meta_training.training import Generation, meta_train
from experiments.reports.report import report

TASK = "--tasks CartPole-v1 --steps 64 --set num_envs=2 num_steps=8 minibatches=1 epochs=2 widths=4"
IMITATION = (
    f"meta-train --method imitation --target adam:learning_rate=0.01 {TASK} "
    "--optimizer linear_optim "
    "--imitation agents=2 learning_rate=1e-2 --generations 5 --evaluate-every 2 "
    "--evaluation-seeds 2 --no-cache"
)


def parsed(text):
    command = cli._parse(shlex.split(f"{text} --out x"))
    assert isinstance(command, MetaTrain)
    return meta_run(command)


@pytest.fixture(scope="module")
def run():
    return parsed(IMITATION)


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("imitation") / "run"
    meta_train(run, path)
    return path


def test_files(finished):
    with (finished / "meta_metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["generation"] for row in rows] == list("01234")
    assert [bool(row["evaluation"]) for row in rows] == [False, True, False, True, True]
    assert float(rows[0]["meta_loss"]) > 0
    metadata = optim.load_metadata(finished / "meta_params.safetensors")
    assert metadata["generations"] == "5"
    assert metadata["architecture"] == "linear_optim"


def test_report(finished, tmp_path):
    report([finished], tmp_path)
    with (tmp_path / "meta_training.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    with (finished / "meta_metrics.csv").open(newline="") as file:
        logged = list(csv.DictReader(file))
    assert (row["method"], row["generations"], row["tasks"]) == ("imitation", "5", "CartPole-v1")
    assert row["last_objective"] == logged[-1]["meta_loss"]
    assert row["last_evaluation"] == logged[-1]["evaluation"]


def test_interrupted_run_ends_with_the_same_bits(run, finished, tmp_path):
    def stop(generation: Generation) -> None:
        if generation.number == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        meta_train(run, tmp_path / "run", on_generation=stop, checkpoint_seconds=0.0)
    meta_train(run, tmp_path / "run", resume=True)
    ends = [tmp_path / "run", finished]
    first, second = ((end / "meta_metrics.csv").read_bytes() for end in ends)
    assert first == second
    weights = [optim.load_meta_params(end / "meta_params.safetensors") for end in ends]
    jax.tree.map(np.testing.assert_array_equal, *weights)


def test_weights_are_where_training_starts(finished):
    path = finished / "meta_params.safetensors"
    start = LearnedOptimizer.parse(f"linear_optim@{path}").init(jax.random.key(9))
    expected = optim.load_meta_params(path)
    assert jax.tree.structure(start) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, start, expected)
    drawn = LearnedOptimizer.parse("linear_optim").init(jax.random.key(9))
    assert any(
        np.any(a != b) for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(drawn), strict=True)
    )


def test_weights_of_another_architecture_are_no_start(finished):
    with pytest.raises(ValueError, match="must hold weights of 'star'"):
        LearnedOptimizer.parse(f"star@{finished / 'meta_params.safetensors'}")


@pytest.mark.parametrize(("anneal", "last"), [("true", 0.01 / 8), ("false", 0.01)])
def test_the_target_has_the_rate_that_was_asked_for(anneal, last):
    """In the first and in the last of a lifetime's updates, where all of Adam's have its size."""
    run = parsed(IMITATION.replace("agents=2", f"agents=2 anneal={anneal}"))
    target, params = run._target(run.tasks[0]), {"actor": np.full(3, 0.01, np.float32)}
    assert run.tasks[0].iterations(1) * 2 == 8  # updates
    state, sizes = target.init(params), []
    for _ in range(8):
        updates, state = target.update(params, state, params)
        sizes.append(-float(updates["actor"][0]))
    np.testing.assert_allclose([sizes[0], sizes[-1]], [0.01, last], rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--target adam:learning_rate=0.01 ", ""), "--method imitation needs --target"),
        (("adam:learning_rate", "adm:learning_rate"), "'adam'"),
        (("agents=2", "agents=0"), "agents must be a whole number, at least 1; got 0."),
        (
            ("agents=2", "agents=x"),
            "setting 'agents' of --imitation must be a whole number; got 'x'.",
        ),
        (("agents=2", "agent=2"), "unknown setting of --imitation 'agent'"),
        (
            ("agents=2", "anneal=1"),
            "setting 'anneal' of --imitation must be true or false; got '1'.",
        ),
        (("agents=2", "agents"), "must have the form key=value"),
        (("--method imitation", "--method es"), "need --method imitation"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        parsed(IMITATION.replace(*change))
