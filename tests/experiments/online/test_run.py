"""A run's configuration: what is allowed, when it is logged, and what `config.json` says of it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from run_directories import ITERATION, TINY, small_run, tiny_run

from experiments.online.run import RunConfig
from experiments.online.training import ppo_config
from experiments.runs.directory import RunDirectory
from experiments.settings import change_settings


@pytest.mark.parametrize("steps", [0, -1, 2**31 * 64])
def test_steps_out_of_range(steps: int) -> None:
    with pytest.raises(ValueError, match=r"steps must be in \[1, \d+\] with these settings; got"):
        dataclasses.replace(tiny_run(), steps=steps)


@pytest.mark.parametrize("seeds", [(), (1, 1), (2**32,), (-1,), (1.0,), (True,)])
def test_what_are_no_seeds(seeds: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"seeds must be different whole numbers in \[0, 42949"):
        dataclasses.replace(tiny_run(), seeds=seeds)


@pytest.mark.parametrize(
    ("steps", "iterations", "per_point", "points"),
    [(1, 1, 1, 1), (64, 1, 1, 1), (65, 2, 1, 2), (6400, 100, 1, 100), (6401, 101, 2, 51),
     (64 * 250, 250, 3, 84)],
)  # fmt: skip
def test_points(steps: int, iterations: int, per_point: int, points: int) -> None:
    run = dataclasses.replace(tiny_run(), steps=steps)
    assert (run.iterations, run.iterations_per_point, run.points) == (iterations, per_point, points)
    assert run.step(0) == 0
    assert run.step(1) == per_point * 64
    assert run.step(points) == iterations * 64 == run.config()["steps"]


def test_prolonged_run_keeps_its_stretches(tmp_path: Path) -> None:
    """The last of them may have been shorter than the others."""
    path, first = tmp_path / "run", small_run(101)
    RunDirectory.create(path, first.config(), resume=False, overwrite=False, on_note=pytest.fail)
    assert (first.iterations_per_point, first.points) == (2, 51)
    run = small_run(1001).as_begun(path)
    assert run.prolonged_at == (101 * ITERATION,)
    assert (run.iterations_per_point, run.points) == (2, 51 + 450)
    steps = [run.step(points) // ITERATION for points in (50, 51, 52, 500, 501)]
    assert steps == [100, 101, 103, 999, 1001]
    assert [run.step(points) for points in range(52)] == [
        first.step(points) for points in range(52)
    ]
    assert first.as_begun(path) is first
    assert small_run(1001).as_begun(tmp_path / "none").iterations_per_point == 11


@pytest.mark.parametrize(
    ("iterations", "every", "diagnosed_at"),
    [
        (12, 1, range(12)),
        (12, 12, [11]),
        (12, 7, [6]),
        (250, 50, [16, 33, 49, 66, 83]),  # points of three iterations: 51, 102, 150, 201 and 250
        (250, 2, range(84)),  # never twice at a point
    ],
)
def test_diagnoses_are_rounded_up_to_points(
    iterations: int, every: int, diagnosed_at: list[int]
) -> None:
    run = dataclasses.replace(tiny_run(iterations=iterations), diagnostics_every=every)
    assert [p for p in range(run.points) if run.is_diagnosed(p)] == list(diagnosed_at)
    assert not any(map(tiny_run(iterations=iterations).is_diagnosed, range(run.points)))


@pytest.mark.parametrize("every", [0, -1, 13, 10**9])
def test_spacing_of_diagnoses_out_of_range(every: int) -> None:
    message = rf"^diagnostics_every must be in \[1, 12\], the run's iterations; got {every}\.$"
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(tiny_run(), diagnostics_every=every)


def test_diagnostics_need_hidden_layers() -> None:
    settings = dataclasses.replace(TINY, widths=())
    with pytest.raises(ValueError, match=r"^diagnostics_every needs networks with a hidden layer"):
        dataclasses.replace(tiny_run(), settings=settings, diagnostics_every=5)


def test_restarts_need_phases() -> None:
    settings = change_settings(TINY, ["restart=true"])
    with pytest.raises(ValueError, match="restarts need an environment that changes in phases; 'C"):
        dataclasses.replace(tiny_run(), settings=settings)


def test_configuration() -> None:
    config = RunConfig("ant:backend=spring", "rprop", 100, (4, 2), TINY).config()
    assert json.loads(json.dumps(config)) == config
    assert config["environment"] == "ant"
    assert config["environment_options"] == {"backend": "spring"}
    assert (config["backend"], config["normaliser"]) == ("spring", None)
    assert config["learning_rate"] == 3e-4
    assert config["resolved_optimizer"] == "rprop:learning_rate=0.0003"
    assert config["annealed"] is False  # it takes no schedule
    assert config["seeds"] == [4, 2]
    config = RunConfig("Breakout-MinAtar", "adam:b1=0.8", 100, (0,), TINY).config()
    assert config["learning_rate"] == 1e-2
    assert "b2=0.99" in config["resolved_optimizer"]
    assert "b1=0.8" in config["resolved_optimizer"]
    assert (config["backend"], config["normaliser"]) == (None, 50.08)


def test_configuration_of_an_arm(tmp_path: Path) -> None:
    run = dataclasses.replace(tiny_run(), label="as usual")
    assert (run.name, tiny_run().name) == ("as usual", "adam")
    config = run.config()
    assert (config["label"], config["optimizer"]) == ("as usual", "adam")
    assert tiny_run().config() == config | {"label": None}
    with pytest.raises(ValueError, match="a label must be a text that is not empty; got ' '"):
        dataclasses.replace(run, label=" ")


def test_configuration_of_a2c() -> None:
    settings = change_settings(TINY, ["learner=a2c", "reward_scale=10", "max_grad_norm=inf"])
    run = dataclasses.replace(tiny_run(), settings=settings)
    config = json.loads(json.dumps(run.config(), allow_nan=False))
    assert config["algorithm"] == "a2c"
    assert config["settings"] == TINY.config() | {
        "epochs": 1,
        "minibatches": 1,
        "clip": None,
        "reward_scale": 10.0,
        "max_grad_norm": "inf",
    }
    # An update is one step on all of the rollout.
    used = ppo_config(settings, run.iterations)
    assert (used.updates_per_iteration, used.normalize_advantages) == (1, False)
