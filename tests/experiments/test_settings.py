"""Settings: values as texts, and what is refused."""

import dataclasses
import doctest
import json
import math

import pytest

from agents.a2c import a2c_config
from agents.ppo import PPOConfig
from experiments import settings
from experiments.online.training import ppo_config
from experiments.settings import Settings, change_settings, describe, read_options, unknown


def test_texts_become_values() -> None:
    texts = ["num_envs=1e2", "num_steps=32", "minibatches=50", "anneal=False", "clip=3e-1"]
    texts += ["widths=256x128x8", "nonlinearity=tanh", "cached_resets=true"]
    assert change_settings(Settings(), texts) == Settings(
        num_envs=100,
        num_steps=32,
        minibatches=50,
        anneal=False,
        clip=0.3,
        widths=(256, 128, 8),
        nonlinearity="tanh",
        cached_resets=True,
    )


def test_the_last_of_a_key_counts_and_the_rest_stays() -> None:
    changed = change_settings(Settings(epochs=7), ["clip=0.1", "clip=0.3"])
    assert (changed.clip, changed.epochs) == (0.3, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_env=4", "unknown setting 'num_env'; the nearest is 'num_envs'."),
        ("lambda=0.9", "unknown setting 'lambda'; choose from anneal, "),
        ("clip", "a setting must have the form key=value; got 'clip'."),
        ("=1", "unknown setting ''; choose from anneal, "),
        ("epochs=1.5", "setting 'epochs' must be a whole number; got '1.5'."),
        ("epochs=", "setting 'epochs' must be a whole number; got ''."),
        ("epochs=inf", "setting 'epochs' must be a whole number; got 'inf'."),
        ("epochs=0", "setting 'epochs' must be in [1, 1048576]; got 0."),
        ("num_envs=1e12", "setting 'num_envs' must be in [1, 1048576]; got 1000000000000."),
        ("clip=low", "setting 'clip' must be a number; got 'low'."),
        ("clip=0", "setting 'clip' must be in (0, inf]; got 0.0."),
        ("clip=nan", "setting 'clip' must be in (0, inf]; got nan."),
        ("max_grad_norm=-inf", "setting 'max_grad_norm' must be in (0, inf]; got -inf."),
        ("value_clip=0", "setting 'value_clip' must be in (0, inf], or none; got 0.0."),
        ("value_clip=nan", "setting 'value_clip' must be in (0, inf], or none; got nan."),
        ("value_clip=off", "setting 'value_clip' must be a number or none; got 'off'."),
        ("reward_scale=0", "setting 'reward_scale' must be in (0, inf); got 0.0."),
        ("reward_scale=inf", "setting 'reward_scale' must be in (0, inf); got inf."),
        ("learner=dqn", "setting 'learner' must be ppo or a2c; got 'dqn'."),
        ("restart=1", "setting 'restart' must be true or false; got '1'."),
        ("discount=1.01", "setting 'discount' must be in [0, 1]; got 1.01."),
        ("trace_decay=nan", "setting 'trace_decay' must be in [0, 1]; got nan."),
        ("entropy_weight=-1", "setting 'entropy_weight' must be in [0, inf); got -1.0."),
        ("anneal=yes", "setting 'anneal' must be true or false; got 'yes'."),
        ("nonlinearity=gelu", "setting 'nonlinearity' must be relu or tanh; got 'gelu'."),
        ("widths=64,64", "setting 'widths' must be whole numbers joined by x, e.g. 64x64; got"),
        ("widths=64x0", "setting 'widths' must be in [1, 1048576]; got '64x0'."),
        ("minibatches=3", "setting 'minibatches' must be a divisor of num_envs * num_steps = 8192"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="setting") as caught:
        change_settings(Settings(), [text])
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["num_envs=65536", "num_steps=32768"],
         "setting 'num_steps' must be in [1, 32767] where num_envs is 65536; got 32768."),
        (["num_envs=1024", "num_steps=1024", "minibatches=1048576", "epochs=2048"],
         "setting 'epochs' must be in [1, 2047] where minibatches is 1048576; got 2048."),
    ],
)  # fmt: skip
def test_what_int32_cannot_count_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match="setting") as caught:
        change_settings(Settings(), texts)
    assert str(caught.value) == message
    assert change_settings(Settings(), [*texts[:-1], texts[-1].replace("8", "7")])


def test_every_setting_of_ppo_is_passed_on() -> None:
    config = ppo_config(Settings(epochs=9, widths=(3,), discount=0.5), iterations=17)
    assert config == PPOConfig(iterations=17, epochs=9, widths=(3,), discount=0.5)
    ours = {field.name for field in dataclasses.fields(Settings)}
    theirs = {field.name for field in dataclasses.fields(PPOConfig)}
    # These are a matter of meta-training.
    of_meta_training = {"normalize_advantages", "constant_rollouts", "rematerialise"}
    assert theirs - ours == {"iterations"} | of_meta_training
    assert ours - theirs == {"max_grad_norm", "anneal", "learner", "restart"}


def test_infinity_and_none_stand_for_no_clipping() -> None:
    changed = change_settings(Settings(), ["clip=inf", "max_grad_norm=INF", "value_clip=0.2"])
    assert (changed.clip, changed.max_grad_norm, changed.value_clip) == (math.inf, math.inf, 0.2)
    assert change_settings(changed, ["value_clip=None"]).value_clip is None
    written = json.loads(json.dumps(changed.config(), allow_nan=False))
    assert (written["clip"], written["max_grad_norm"], written["value_clip"]) == ("inf", "inf", 0.2)
    # What is written is said as it is given.
    assert describe("settings.clip", written["clip"]) == "inf"
    assert describe("settings.value_clip", Settings().config()["value_clip"]) == "none"


def test_a2c_takes_its_own_values() -> None:
    settings = change_settings(Settings(), ["learner=a2c", "num_envs=4", "reward_scale=100"])
    assert (settings.epochs, settings.minibatches, settings.clip) == (1, 1, math.inf)
    assert ppo_config(settings, 7) == a2c_config(
        PPOConfig(iterations=7, num_envs=4, reward_scale=100.0)
    )
    written = settings.config()
    assert (written["epochs"], written["minibatches"], written["clip"]) == (1, 1, None)
    assert "learner" not in written
    assert change_settings(Settings(), ["epochs=1", "learner=a2c"]).learner == "a2c"
    assert change_settings(Settings(), ["learner=a2c", "learner=ppo", "epochs=3"]).epochs == 3


@pytest.mark.parametrize("given", ["epochs=4", "minibatches=8", "clip=0.2", "value_clip=0.2"])
def test_a2c_refuses_what_it_would_ignore(given: str) -> None:
    for texts in ([given, "learner=a2c"], ["learner=a2c", given]):
        with pytest.raises(ValueError, match="a2c") as caught:
            change_settings(Settings(), texts)
        words = "a2c makes one epoch of one minibatch without clipping"
        assert str(caught.value) == f"{words}; got {given}."
    with pytest.raises(ValueError, match=r"got epochs=4\."):
        Settings(learner="a2c")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("seeds", [0, 1, 2, 3], "0-3"),
        ("seeds", [7], "7"),
        ("seeds", [0, 2, 3, 5, 6, 7], "0,2-3,5-7"),
        ("seeds", [], ""),
        ("seeds", "damaged", "damaged"),
        ("settings.widths", [64, 64], "64x64"),
        ("settings.clip", 0.2, "0.2"),
        ("annealed", False, "false"),
        ("backend", None, "none"),
    ],
)
def test_values_of_a_configuration_in_words(key: str, value: object, text: str) -> None:
    assert describe(key, value) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs=x", "setting 'epochs' of --ppo must be a whole number; got 'x'."),
        ("clip=x", "setting 'clip' of --ppo must be a number; got 'x'."),
        ("anneal=1", "setting 'anneal' of --ppo must be true or false; got '1'."),
        ("epoch=1", "unknown setting of --ppo 'epoch'; the nearest is 'epochs'."),
    ],
)
def test_errors_of_an_options_settings_name_the_option(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="--ppo") as caught:
        read_options("--ppo", Settings, [text])
    assert str(caught.value) == message


def test_unknown() -> None:
    assert str(unknown("pet", "Dgo", ["cat", "dog"])) == "unknown pet 'Dgo'; the nearest is 'dog'."


def test_doctests() -> None:
    results = doctest.testmod(settings)
    assert results.attempted > 0
    assert results.failed == 0
