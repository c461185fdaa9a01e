"""Tasks of meta-training: what A2C has no use for is refused, and what it uses is stated."""

import json

import pytest

from agents.ppo import PPOConfig
from experiments.meta_training.tasks import MetaTask, task_settings
from experiments.online.training import ppo_config
from experiments.settings import Settings

WORDS = "a2c makes one epoch of one minibatch without clipping; got "


@pytest.mark.parametrize("environment", ["Catch-bsuite", "small_dense_short", "ant"])
def test_unset_settings_take_the_values_of_a2c(environment: str) -> None:
    """Whatever is published for PPO on the task; what is written is what is used."""
    settings = task_settings(environment, ["num_envs=4", "discount=0.9"], "a2c")
    task = MetaTask(environment, 1000, 1.0, settings, learner="a2c")
    config = task.task(1).config
    written = json.loads(json.dumps(task.config(1), allow_nan=False))["settings"]
    assert (config.epochs, config.minibatches, config.discount) == (1, 1, 0.9)
    assert written | {"clip": config.clip} == {
        **vars(settings),
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


def test_settings_made_in_python_are_held_to_the_same() -> None:
    settings = Settings(anneal=False)
    with pytest.raises(ValueError, match=r"got epochs=4\."):
        MetaTask("Catch-bsuite", 1000, 1.0, settings, learner="a2c")
    task = MetaTask("Catch-bsuite", 1000, 1.0, settings)
    assert task.config(1)["settings"]["clip"] == 0.2
    expected = PPOConfig(iterations=1)
    assert task.task(1).config == expected == ppo_config(settings, 1)
