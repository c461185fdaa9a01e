"""Tasks of meta-training: what A2C has no use for is refused, and what it uses is stated."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from agents.ppo import PPOConfig
from experiments.meta_training import training
from experiments.meta_training.methods import meta_run
from experiments.meta_training.request import MetaRequest
from experiments.meta_training.tasks import MetaTask, task_settings
from experiments.online.training import ppo_config
from experiments.runs.identity import check_same
from experiments.settings import Settings, change_settings

WORDS = "a2c makes one epoch of one minibatch without clipping; got "


@pytest.mark.parametrize("environment", ["Catch-bsuite", "small_dense_short", "ant"])
def test_unset_settings_take_the_values_of_a2c(environment: str) -> None:
    """Whatever is published for PPO on the task; what is written is what is used."""
    settings = task_settings(environment, ["num_envs=4", "discount=0.9"], "a2c")
    task = MetaTask(environment, 1000, 1.0, settings, learner="a2c")
    config = task.task(1).config
    written = json.loads(json.dumps(task.config(1), allow_nan=False))["settings"]
    assert (config.epochs, config.minibatches, config.discount) == (1, 1, 0.9)
    elsewhere = ("learner", "reward_scale", "restart")
    assert written | {"clip": config.clip} == {
        **{name: value for name, value in vars(settings).items() if name not in elsewhere},
        "widths": list(settings.widths),
        "clip": config.clip,
        "epochs": config.epochs,
        "minibatches": config.minibatches,
    }
    assert written["clip"] is None


@pytest.mark.parametrize("given", ["epochs=4", "minibatches=8", "clip=0.2", "clip=0.3"])
def test_set_ones_that_a2c_would_ignore_are_refused(given: str) -> None:
    """Also those that happen to be PPO's defaults."""
    with pytest.raises(ValueError, match="a2c") as caught:
        task_settings("Asterix-MinAtar", ["num_envs=8", given], "a2c")
    assert str(caught.value) == f"{WORDS}{given}."
    assert task_settings("Asterix-MinAtar", ["num_envs=8", given], "ppo").num_envs == 8


def test_set_ones_that_are_those_of_a2c_are_accepted() -> None:
    settings = task_settings("Catch-bsuite", ["epochs=1", "minibatches=1"], "a2c")
    assert settings == task_settings("Catch-bsuite", [], "a2c")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("learner=a2c", "setting 'learner' must be left out, --learner says it; got a2c."),
        ("reward_scale=2.0",
         "setting 'reward_scale' must be left out, --reward-scales says it; got 2.0."),
        ("restart=true", "setting 'restart' must be left out in meta-training; got true."),
    ],
)  # fmt: skip
def test_what_would_be_said_twice_is_refused(given: str, message: str) -> None:
    with pytest.raises(ValueError, match="setting") as caught:
        task_settings("Catch-bsuite", [given], "ppo")
    assert str(caught.value) == message
    settings = change_settings(Settings(anneal=False), [given])
    with pytest.raises(ValueError, match="setting") as caught:
        MetaTask("Catch-bsuite", 1000, 1.0, settings)
    assert str(caught.value) == message


def test_the_tasks_own_options_reach_the_learner() -> None:
    settings = task_settings("Catch-bsuite", ["value_clip=0.5", "max_grad_norm=inf"], "ppo")
    task = MetaTask("Catch-bsuite", 1000, 1.0, settings, reward_scale=100.0)
    assert (task.task(1).config.reward_scale, task.task(1).config.value_clip) == (100.0, 0.5)
    written = json.loads(json.dumps(task.config(1), allow_nan=False))
    assert (written["reward_scale"], written["settings"]["max_grad_norm"]) == (100.0, "inf")
    assert not {"learner", "reward_scale", "restart"} & written["settings"].keys()


def test_settings_made_in_python_are_held_to_the_same() -> None:
    settings = Settings(anneal=False)
    with pytest.raises(ValueError, match=r"got epochs=4\."):
        MetaTask("Catch-bsuite", 1000, 1.0, settings, learner="a2c")
    task = MetaTask("Catch-bsuite", 1000, 1.0, settings)
    assert task.config(1)["settings"]["clip"] == 0.2
    expected = PPOConfig(iterations=1)
    assert task.task(1).config == expected == ppo_config(settings, 1)


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ({"steps": ("64", "100")}, [4, 7]),
        ({"method": "pipeline", "pipeline": ("window=2", "reset_interval=3", "agents=1")}, [6, 6]),
    ],
)
@pytest.mark.parametrize(("steps", "evaluated"), [((), None), (("160",), [10, 10])])
def test_evaluations_may_have_lengths_of_their_own(
    method: dict[str, Any],
    own: list[int],
    steps: tuple[str, ...],
    evaluated: list[int] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the lifetimes are that are trained on."""
    request = MetaRequest(
        optimizer="optim4rl",
        tasks=("Catch-bsuite", "CartPole-v1"),
        normalisers=("1",),
        population=4,
        set=("num_envs=4", "num_steps=4", "minibatches=1", "widths=4"),
        evaluation_steps=steps,
        **method,
    )
    run = meta_run(request)
    monkeypatch.setattr(
        training, "lifetimes", lambda task, build, stretches=1, **how: task.config.iterations
    )
    assert run.lifetimes(1) == own
    played: list[Any] = []
    monkeypatch.setattr(training, "evaluation", lambda lives, seeds: played.append(lives))
    assert callable(run.evaluate)
    assert played == [own if evaluated is None else evaluated]


def test_runs_of_earlier_versions_were_evaluated_on_whole_lifetimes(tmp_path: Path) -> None:
    request = MetaRequest(optimizer="optim4rl", tasks=("Catch-bsuite",), population=4)
    known = json.loads(json.dumps(meta_run(request).config()))
    old = json.loads(json.dumps(known))
    assert old["tasks"]["0"].pop("evaluation_steps") is None
    check_same(tmp_path, known, old)
    other = meta_run(dataclasses.replace(request, evaluation_steps=("1e4",))).config()
    with pytest.raises(ValueError, match=r"tasks\.0\.evaluation_steps none, you asked for 10000\."):
        check_same(tmp_path, other, old)
