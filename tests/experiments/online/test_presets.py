"""Every preset can be run as it stands."""

import pytest

from experiments.command_line.compare import Compare
from experiments.online.presets import PRESETS


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
    pairs = [(env, optimizer) for env in preset.envs for optimizer in preset.optimizers]
    assert list(made.runs.values()) == pairs
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
