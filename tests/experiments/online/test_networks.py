"""Separate optimizers of actor and critic in a run."""

import copy
from pathlib import Path

import jax
import numpy as np
import pytest
from run_directories import tiny_run

import optim
from experiments.online.presets import Arm
from experiments.online.training import compiled
from experiments.runs.identity import check_same, why_not_longer


def changes(optimizer: str, iterations: int = 2) -> dict[str, np.ndarray]:
    """How each network's parameters change in the run, as one vector."""
    program, numbers, keys = compiled(tiny_run(optimizer, iterations=iterations, seeds=1))
    first = jax.device_get(program.init(numbers, keys).params)
    state, _ = program.advance(numbers, program.init(numbers, keys), np.int32(iterations))
    moved = jax.tree.map(np.subtract, jax.device_get(state.params), first)
    return {
        name: np.concatenate([leaf[0].ravel() for leaf in jax.tree.leaves(moved[name])])
        for name in ("actor", "critic")
    }


def test_each_network_has_its_optimizer_and_rate() -> None:
    both = changes("adam:learning_rate=1e-3")
    same = changes("critic=adam:learning_rate=1e-3+actor=adam:learning_rate=1e-3")
    still = changes("actor=sgd:learning_rate=1e-9+critic=adam:learning_rate=1e-3")
    for network in ("actor", "critic"):
        assert np.abs(both[network]).max() > 1e-3
        np.testing.assert_allclose(same[network], both[network], atol=1e-5)
    assert np.abs(still["actor"]).max() < 1e-7
    assert np.abs(still["critic"]).max() > 1e-3
    # The same program at other rates.
    runs = [
        tiny_run(f"actor=sgd:learning_rate={rate}+critic=adam:learning_rate=1e-3", 2, 1)
        for rate in ("1e-9", "0.5")
    ]
    assert compiled(runs[0])[0] is compiled(runs[1])[0]
    assert float(compiled(runs[1])[1].learning_rate["actor"][0]) == 0.5


def test_what_the_task_has_tuned_is_for_each() -> None:
    run = tiny_run("actor=lion+critic=adam", environment="Breakout-MinAtar")
    expected = "actor=lion:learning_rate=0.01+critic=adam:learning_rate=0.01,b2=0.99,eps=1e-05"
    assert str(run.spec) == expected
    assert run.config()["resolved_optimizer"] == expected
    assert run.config()["learning_rate"] == 0.01
    assert run.config()["annealed"]
    other = tiny_run("actor=lion:learning_rate=0.5+critic=adam")
    assert other.config()["learning_rate"] is None


def test_weights_of_one_network(tmp_path: Path) -> None:
    """They are told by their content, and what is told of the run's length keeps it as it is."""
    run = tiny_run("actor=open@breakout:key=1+critic=adam")
    config = run.config()
    assert config["learning_rate"] is None
    assert set(run.weights) == {"actor"}
    assert "weights_sha256" not in config
    assert len(config["actor_weights_sha256"]) == 64
    assert str(why_not_longer(config | {"annealed": False})).startswith("open is told how much of")

    (tmp_path / "copy.safetensors").write_bytes(run.weights["actor"])
    text = f"actor=open@{tmp_path}/copy.safetensors:key=1+critic=adam"
    check_same(tmp_path, tiny_run(text).config(), config)
    with pytest.raises(ValueError, match=r"was run with optimizer actor=open@breakout:key=1\+crit"):
        check_same(tmp_path, tiny_run(text.replace("key=1", "key=2")).config(), config)
    with pytest.raises(ValueError, match=r"was run with optimizer actor=open@breakout:key=1\+crit"):
        check_same(tmp_path, tiny_run("open@breakout:key=1").config(), config)
    changed = copy.deepcopy(config) | {"actor_weights_sha256": "0" * 64}
    with pytest.raises(ValueError, match="was run with actor_weights_sha256"):
        check_same(tmp_path, config, changed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("actor=adam", "optimizers of networks must be given for both, actor=OPTIMIZER+critic="),
        ("actor=adam+value=adam", "unknown network 'value'; choose from actor, critic."),
        ("actor=adam+critic=adamo:matrix_mask=critics", "unknown network 'critics'; the nearest"),
        ("actor=adam+critic=adamo:kapa=1", "'adamo' has no option 'kapa'; the nearest is 'kappa'."),
        ("actor=adam+critic=open", "'open' is learned and needs weights: "),
    ],
)
def test_what_cannot_be_run(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        tiny_run(text)
    assert str(caught.value).startswith(message)


def test_networks_are_no_labels() -> None:
    text = "actor=adam+critic=adamo:kappa=1"
    assert Arm.parse(text) == Arm(None, text)
    assert Arm.parse(f"mine={text}") == Arm("mine", text)
    assert Arm.parse("clip:1|adam:b1=0.5").label is None
    assert Arm.parse("mine=clip:1|adam") == Arm("mine", "clip:1|adam")
    for alone in ("actor=adam", "critic=adamo:kappa=1"):  # as two words in place of one
        with pytest.raises(ValueError, match=r"optimizer must have the \w+'s in the same"):
            Arm.parse(alone)
    assert optim.parse_spec(text) == optim.parse_spec(str(optim.parse_spec(text)))
