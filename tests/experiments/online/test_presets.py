"""Every preset can be run as it stands."""

import doctest
import math

import pytest

from experiments.command_line.compare import Compare
from experiments.online import presets
from experiments.online.presets import PRESETS, Arm


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(
    name: str, tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    preset = PRESETS[name]
    assert preset.description.endswith(".")
    made = Compare(preset=name).plan()
    assert (made.steps, len(made.seeds), made.settings) == (
        preset.steps,
        preset.seeds,
        preset.settings,
    )
    arms = [arm if isinstance(arm, Arm) else Arm(None, arm) for arm in preset.optimizers]
    assert list(made.runs.values()) == [(env, arm) for env in preset.envs for arm in arms]
    for path, run in made.configs().items():  # makes the environments and the optimizers
        assert path.parts[:2] == ("runs", name)
        assert run.config()["steps"] >= preset.steps
        assert len(run.seeds) == preset.seeds


def test_options_replace_what_the_preset_says() -> None:
    command = Compare(preset="quickstart", envs=("ant",), steps=7, seeds=(3, 5), set=("clip=0.1",))
    made = command.plan()
    assert list(dict.fromkeys(env for env, _ in made.runs.values())) == ["ant"]
    assert (made.steps, made.seeds) == (7, (3, 5))
    assert made.settings == (*PRESETS["quickstart"].settings, "clip=0.1")


def test_arms_of_one_optimizer_differ_in_their_settings() -> None:
    command = Compare(preset="clipping", set=("clip=0.1",))
    runs = {run.label: run for run in command.plan().configs().values()}
    assert {run.optimizer for run in runs.values()} == {"adam"}
    clips = {
        label: (run.settings.clip, run.settings.value_clip, run.settings.max_grad_norm)
        for label, run in runs.items()
    }
    # The arm's own settings count before those of the command line.
    assert clips == {
        "all clips": (0.1, None, 0.5),
        "no ratio clip": (math.inf, 0.2, 0.5),
        "no value clip": (0.1, math.inf, 0.5),
        "no gradient clip": (0.1, None, math.inf),
        "no clips": (math.inf, None, math.inf),
    }
    names = [path.name for path in command.plan().runs]
    assert names == [label.replace(" ", "-") for label in runs]


@pytest.mark.parametrize(
    ("text", "label", "optimizer"),
    [
        ("adam", None, "adam"),
        ("adam:b1=0.9", None, "adam:b1=0.9"),
        ("open@a=b.safetensors", None, "open@a=b.safetensors"),
        ("open@./x:y=1:", None, "open@./x:y=1:"),
        ("mine=open@./x:y=1:", "mine", "open@./x:y=1:"),
        ("equal betas = adam:b1=0.99,b2=0.99", "equal betas", "adam:b1=0.99,b2=0.99"),
        ("Adam (0.9)=adam", "Adam (0.9)", "adam"),
    ],
)
def test_labels_on_the_command_line(text: str, label: str | None, optimizer: str) -> None:
    assert Arm.parse(text) == Arm(label, optimizer)


@pytest.mark.parametrize("text", ["=adam", "mine=", " = "])
def test_empty_labels(text: str) -> None:
    with pytest.raises(ValueError, match="must have the form LABEL=OPTIMIZER; got"):
        Arm.parse(text)


def test_arms_that_share_a_name_are_refused() -> None:
    command = Compare(envs=("CartPole-v1",), optimizers=("adam", "adam=sgd"), preset="ant")
    with pytest.raises(ValueError, match="'adam' is given twice"):
        command.plan()


def test_doctests() -> None:
    results = doctest.testmod(presets)
    assert results.attempted > 0
    assert results.failed == 0
