"""Grids of agents' settings, and which of them go on in successive halving."""

import doctest
import math

import numpy as np
import pytest

import optim
from experiments.online import grid as module
from experiments.online.grid import arms, kept, lengths
from experiments.online.presets import Arm
from experiments.runs.grid import grid, parse_axes


def test_every_combination_becomes_an_arm() -> None:
    axes = parse_axes(["learning_rate=1e-3,3e-3", "num_envs=4,8", "eps=1e-5"])
    assert grid(axes) == [
        ("1e-3", "4", "1e-5"),
        ("1e-3", "8", "1e-5"),
        ("3e-3", "4", "1e-5"),
        ("3e-3", "8", "1e-5"),
    ]
    found = arms("adam:b1=0.5", axes, ["anneal=false"])
    assert list(found) == grid(axes)
    text = "adam:b1=0.5,learning_rate=0.003,eps=1e-05"
    assert found["3e-3", "8", "1e-5"] == Arm(f"{text} num_envs=8", text, ("num_envs=8",))


def test_options_of_learned_optimizers_and_decay() -> None:
    axes = parse_axes(["l2=0,1e-4", "learning_rate=1e-3,1e-2"])
    found = arms("optim4rl@a=b/c.safetensors:grad_clip=none", axes, [])
    spec = optim.OptimizerSpec.parse(found["1e-4", "1e-2"].optimizer)
    assert spec.weights == "a=b/c.safetensors"
    assert dict(spec.options) == {"grad_clip": None, "l2": 1e-4, "learning_rate": 1e-2}
    assert found["1e-4", "1e-2"].label is None


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        (["lerning_rate=1,2"], "unknown key of --over 'lerning_rate'; the nearest is "
         "'learning_rate'."),
        (["set.num_env=1,2"], "unknown key of --over 'set.num_env'; the nearest is "
         "'set.num_envs'."),
        (["optimizer.bb1=1,2"], "unknown key of --over 'optimizer.bb1'; the nearest is "
         "'optimizer.b1'."),
        (["b1=0.5,0.6"], "'b1' is given twice, by --over and by --optimizer."),
        (["anneal=true,false"], "'anneal' is given twice, by --over and by --set."),
        (["eps=1,2", "optimizer.eps=3"], "--over must name each key once; got 'eps' twice."),
    ],
)  # fmt: skip
def test_keys_that_no_setting_has(texts: list[str], line: str) -> None:
    with pytest.raises(ValueError, match="--over") as error:
        arms("adam:b1=0.9", parse_axes(texts), ["anneal=false"])
    assert str(error.value) == line


def test_a_key_that_is_both_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "option_names", lambda name: ["learning_rate", "clip"])
    with pytest.raises(ValueError, match=r"write optimizer\.clip or set\.clip\.$"):
        arms("adam", parse_axes(["clip=0.1,0.2"]), [])
    axes = parse_axes(["optimizer.clip=1,2", "set.clip=0.1"])
    assert arms("adam", axes, [])["2", "0.1"] == Arm(
        "adam:clip=2 clip=0.1", "adam:clip=2", ("clip=0.1",)
    )


@pytest.mark.parametrize("keep", [2, 3, 4])
def test_halving_keeps_the_best_as_numpy_has_it(keep: int) -> None:
    rng = np.random.default_rng(keep)
    for settings in range(keep + 1, 30):
        scores = rng.normal(size=settings)
        scores[rng.random(settings) < 0.2] = np.nan
        best_first = np.argsort(-np.nan_to_num(scores, nan=-1e9), kind="stable")
        expected = np.sort(best_first[: math.ceil(settings / keep)])
        assert kept(scores.tolist(), keep) == expected.tolist()


def test_of_equal_settings_the_first_go_on() -> None:
    assert kept([1.0, 2.0, 2.0, 2.0, math.nan], 3) == [1, 2]
    assert kept([math.nan, math.nan, math.nan, 0.0], 2) == [0, 3]


@pytest.mark.parametrize("keep", [2, 3, 4])
@pytest.mark.parametrize("settings", [5, 8, 9, 16, 17, 64, 81])
def test_rounds_end_at_full_length_with_at_most_one_in_k(settings: int, keep: int) -> None:
    found = lengths(1_000_000, settings, keep)
    rounds = math.ceil(round(math.log(settings, keep), 9))
    assert found == [math.ceil(1_000_000 / keep ** (rounds - i)) for i in range(1, rounds + 1)]
    left = settings
    for _ in found[1:]:
        left = len(kept([0.0] * left, keep))
    assert 1 < left <= keep


def test_doctests() -> None:
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
